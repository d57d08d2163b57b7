"""Writing a move's evidence: sealed leaves, each in the transaction of the act that it records.

A leaf names its predecessor, so it is sealed for one place in the move's chain. A move has one holder of its lease, who
writes its acts one after the other: the chain's head that he has read is still its head when he commits. Where it is
not, the insert violates a key, and act and leaf are rolled back together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
import hmac
import secrets

from psycopg import AsyncConnection

from domicile.evidence.commit import SALT
from domicile.evidence.ledger import Head, seal_leaf
from domicile.evidence.statement import Hex, Predicate, Subject
from domicile.ledger.keys import LogKeys, short
from domicile.model.site import MoveId, SiteName
from domicile.postgres import evidence_rows
from domicile.postgres.evidence_rows import Entry

_SALT = """
    insert into domicile.evidence_salt (move_id, wave, salt) values (%s, %s, %s)
    on conflict (move_id, wave) do update set salt = evidence_salt.salt returning salt"""
_DESTROY = "delete from domicile.evidence_salt where move_id = %s and (%s = 0 or wave = %s)"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What writes a move's leaves, at both of its sites. ``logs`` are their keys."""

    move_id: MoveId
    subject: Subject
    logs: Mapping[SiteName, LogKeys]

    async def begin(self, conn: AsyncConnection, site: SiteName) -> None:
        """The log of this site is there, and this machine has its key. Idempotent; raises config-invalid."""
        keys = self.logs[site]
        await evidence_rows.begin_log(conn, keys.origin, keys.log.key.text())

    async def add(self, conn: AsyncConnection, predicate: Predicate, act: str = "") -> None:
        """Write the next leaf of the move into the log of ``predicate.site``, in the caller's transaction.

        ``act`` names what may be recorded once only: a second time nothing is written. Two round trips.
        """
        if act and await evidence_rows.is_known(conn, self.move_id, act):
            return
        entry, _ = self.sealed(await self.head(conn), predicate, act)
        await evidence_rows.insert(conn, entry)

    async def head(self, conn: AsyncConnection) -> Head:
        """Where the move's chain stands in this site's log."""
        found = await evidence_rows.head(conn, self.move_id)
        return Head() if found is None else Head(found[0], Hex(found[1]))

    def sealed(self, head: Head, predicate: Predicate, act: str = "") -> tuple[Entry, Head]:
        """The leaf behind ``head``, ready to be written, and the head after it."""
        leaf, after = seal_leaf(self.subject, head, predicate, self.logs[SiteName(predicate.site)].log)
        return Entry(self.move_id, head.sequence, leaf, act), after

    async def commit_to(self, conn: AsyncConnection, what: str, wave: int = 0) -> Hex:
        """A commitment to a text under the salt of a wave, or of the move (0), at this site, which is made at its first
        use. Says nothing once that is destroyed. In the caller's transaction."""
        row = await (await conn.execute(_SALT, (self.move_id, wave, secrets.token_bytes(SALT)))).fetchone()
        assert row is not None
        return Hex(hmac.new(bytes(row[0]), what.encode(), sha256).hexdigest())


def subject_of(move_id: MoveId, plan_digest: str) -> Subject:
    """What a move's statements are about. ``plan_digest`` is the keyed one, as the control database has it."""
    return Subject(short(move_id), Hex(sha256(plan_digest.encode()).hexdigest()))


async def destroy_salts(conn: AsyncConnection, move_id: MoveId, wave: int = 0) -> None:
    """The commitments of a wave, or of the whole move (0), at this site say nothing any more. Idempotent; in the
    caller's transaction."""
    await conn.execute(_DESTROY, (move_id, wave, wave))
