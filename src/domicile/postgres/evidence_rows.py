"""The tables of a site's log of evidence, in schema ``domicile`` of the dataset's database: rows in, rows out.

An act writes its leaf in its own transaction, by one plain insert: no row is locked that another move wants. Where the
leaf stands in the tree is settled by the next checkpoint, and signed then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId

# $1 move, $2 sequence, $3 leaf, $4 what it is about. A leaf that another writer has put there is a unique violation.
INSERT_SQL = "insert into domicile.evidence_leaf (move_id, sequence, leaf, act) values (%s, %s, %s, %s)"
INSERT_NUMBERED = (
    b"insert into domicile.evidence_leaf (move_id, sequence, leaf, act) values ($1, $2, $3, nullif($4, ''))"
)
_BEGIN = "insert into domicile.evidence_log (origin, key) values (%s, %s) on conflict do nothing"
_LOG = "select origin, key from domicile.evidence_log"
_HEAD = """
    select sequence + 1, pg_catalog.encode(hash, 'hex') from domicile.evidence_leaf
    where move_id = %s order by sequence desc limit 1"""
_KNOWN = "select exists (select from domicile.evidence_leaf where move_id = %s and act = %s)"
_INSTALLED = "select pg_catalog.to_regclass('domicile.evidence_log') is not null"
# A mover that was stopped or cut off in the middle keeps nobody waiting for long; and what is signed, or cosigned, is
# on disk before the other site hears of it, with the leaves before it.
_LIMITS = """
    select pg_catalog.set_config('lock_timeout', '5s', true),
        pg_catalog.set_config('idle_in_transaction_session_timeout', '60s', true),
        case when pg_catalog.current_setting('synchronous_commit') <> 'remote_apply'
            then pg_catalog.set_config('synchronous_commit', 'on', true) end"""
# One at a time for each log, at the site that cosigns it: of two checkpoints the earlier one is cosigned first.
_ONE_AT_A_TIME = "select pg_catalog.pg_advisory_xact_lock(1684302179, pg_catalog.hashtext(%s))"
_LATEST = """
    select size, note, coalesce(roots, '{}') from domicile.evidence_checkpoint
    where origin = %s order by size desc limit 1"""
_AT_SIZE = """
    select size, note, coalesce(roots, '{}') from domicile.evidence_checkpoint where origin = %s and size = %s"""
_LOCK_LOG = "select from domicile.evidence_log for update"
# A move's leaves have rising ids in the order of their sequence: each is committed before the next one is written.
_PLACE = """
    with waiting as (
        select id, row_number() over (order by id) - 1 as further from domicile.evidence_leaf where place is null),
    placed as (
        update domicile.evidence_leaf as l set place = %(size)s + w.further from waiting as w where w.id = l.id
        returning l.place, l.hash)
    select hash from placed order by place"""
_HASHES = "select hash from domicile.evidence_leaf where place >= %s and place < %s order by place"
_KEEP = """
    insert into domicile.evidence_checkpoint (origin, size, note, roots) values (%s, %s, %s, %s)
    on conflict (origin, size) do update set note = excluded.note"""
_ALL = "select leaf from domicile.evidence_leaf where move_id = %s order by sequence"
_LEAVES = """
    select place, leaf from domicile.evidence_leaf where move_id = %s and place is not null order by sequence"""
_NOTES = "select note from domicile.evidence_checkpoint where origin = %s and size > %s order by size"


@dataclass(frozen=True, slots=True)
class Entry:
    """A sealed leaf on its way into a site's log: the move's leaf number ``sequence`` there. ``act`` is what it is
    about, where that may be recorded once only; else empty."""

    move_id: MoveId
    sequence: int
    leaf: bytes
    act: str = ""

    @property
    def row(self) -> tuple[object, ...]:
        """The values of `INSERT_SQL`."""
        return self.move_id, self.sequence, self.leaf, self.act or None

    @property
    def texts(self) -> tuple[bytes, ...]:
        """The values of `INSERT_NUMBERED`, as PostgreSQL reads them from text."""
        leaf = b"\\x" + self.leaf.hex().encode()
        return self.move_id.encode(), b"%d" % self.sequence, leaf, self.act.encode()


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint as a site has it. ``roots`` are those of the perfect subtrees, in the log's own database."""

    size: int
    note: bytes
    roots: tuple[bytes, ...]


async def installed(conn: AsyncConnection) -> bool:
    """True when this database can have a log."""
    row = await (await conn.execute(_INSTALLED)).fetchone()
    return bool(row and row[0])


async def begin_log(conn: AsyncConnection, origin: str, key: str) -> None:
    """The log of this database has a name and a key, for good. Idempotent.

    Raises config-invalid when it was begun under others: on another machine, or with a state directory that is gone.
    """
    await conn.execute(_BEGIN, (origin, key))
    row = await (await conn.execute(_LOG)).fetchone()
    if row != (origin, key):
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            f"this machine's evidence key of {origin} is not the one that the log was begun with",
            facts={"log": origin},
            hint="Copy the folder evidence from the state directory of the first machine into this machine's.",
        )


async def head(conn: AsyncConnection, move_id: MoveId) -> tuple[int, str] | None:
    """The sequence of the move's next leaf here, and the hash of its latest one, in hex; None when it has none."""
    row = await (await conn.execute(_HEAD, (move_id,))).fetchone()
    return None if row is None else (int(row[0]), str(row[1]))


async def is_known(conn: AsyncConnection, move_id: MoveId, act: str) -> bool:
    """Whether the act was recorded here."""
    row = await (await conn.execute(_KNOWN, (move_id, act))).fetchone()
    return bool(row and row[0])


async def insert(conn: AsyncConnection, entry: Entry) -> None:
    """Write a leaf, in the caller's transaction."""
    await conn.execute(INSERT_SQL, entry.row)


async def leaves(conn: AsyncConnection, move_id: MoveId) -> list[bytes]:
    """Every leaf of the move here, in order, whether it has its place in the tree or not."""
    return [bytes(leaf) for (leaf,) in await (await conn.execute(_ALL, (move_id,))).fetchall()]


async def one_at_a_time(conn: AsyncConnection, origin: str) -> None:
    """Until the end of the transaction nobody else has checkpoints of this log cosigned here. Raises LockNotAvailable
    after five seconds."""
    await conn.execute(_LIMITS)
    await conn.execute(_ONE_AT_A_TIME, (origin,))


async def latest(conn: AsyncConnection, origin: str) -> Kept | None:
    """The largest checkpoint of a log that this site has."""
    return _kept(await (await conn.execute(_LATEST, (origin,))).fetchone())


async def at_size(conn: AsyncConnection, origin: str, size: int) -> Kept | None:
    """The checkpoint of that size."""
    return _kept(await (await conn.execute(_AT_SIZE, (origin, size))).fetchone())


async def place(conn: AsyncConnection, size: int) -> list[bytes]:
    """Give every leaf that has none its place in the tree, behind the first ``size``; their hashes, in order. In the
    caller's transaction, which has locked the log."""
    return [bytes(h) for (h,) in await (await conn.execute(_PLACE, {"size": size})).fetchall()]


async def lock_log(conn: AsyncConnection) -> None:
    """Until the end of the transaction nobody else gives leaves their places. Raises as `one_at_a_time`."""
    await conn.execute(_LIMITS)
    await conn.execute(_LOCK_LOG)


async def hashes(conn: AsyncConnection, low: int, high: int) -> list[bytes]:
    """The hashes of the leaves at these places, the last one not among them."""
    return [bytes(h) for (h,) in await (await conn.execute(_HASHES, (low, high))).fetchall()]


async def keep_checkpoint(
    conn: AsyncConnection, origin: str, size: int, note: bytes, roots: Sequence[bytes] | None = None
) -> None:
    """Write a checkpoint down, or the same one with more cosignatures."""
    listed = None if roots is None else list(roots)
    await conn.execute(_KEEP, (origin, size, note.decode(), listed))


async def placed_leaves(conn: AsyncConnection, move_id: MoveId) -> dict[int, bytes]:
    """The move's leaves that stand in the tree, by their place, which rises."""
    return {int(at): bytes(leaf) for at, leaf in await (await conn.execute(_LEAVES, (move_id,))).fetchall()}


async def notes(conn: AsyncConnection, origin: str, above: int) -> list[bytes]:
    """The log's checkpoints of more than so many leaves, the smallest first."""
    return [note.encode() for (note,) in await (await conn.execute(_NOTES, (origin, above))).fetchall()]


def _kept(row: tuple[object, ...] | None) -> Kept | None:
    match row:
        case (int(size), str(note), list(roots)):
            return Kept(size, note.encode(), tuple(bytes(root) for root in roots))
    return None
