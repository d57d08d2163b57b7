"""What one transaction at the destination consists of: the lease and the position it follows, the changes, the position
it reaches. And what a refusal of it means."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId
from domicile.postgres.failures import SAFE, explain
from domicile.stream.change import Change, Transaction
from domicile.stream.dml import Dml
from domicile.stream.fold import Fold, Folded
from domicile.stream.params import position_text
from domicile.stream.pipeline import REFUSED, Refused, Statement
from domicile.stream.rowwise import folded, one_by_one
from domicile.stream.statements import TableStatements

FOLD_SLICE = 1_000  # changes folded before others may run

_LEASE = b"""
    select case when not exists (
        select from domicile.move where move_id = $1::text and generation = $2::bigint for share)
    then domicile.refuse('lease') end"""
# Behind the lease, which it shares with nobody who raises the term: what is read here holds until the commit.
_AT = b"""
    select case when not exists (
        select from domicile.wave
        where id = $1::integer and term = $2::bigint and position is not distinct from $3::pg_lsn)
    then domicile.refuse('position') end"""
_MOVE_ON = b"""
    with done as (
        update domicile.wave set position = $2::pg_lsn, seen = coalesce($3::pg_lsn, seen)
        where id = $1::integer returning 1)
    select case when pg_catalog.count(*) <> 1 then domicile.refuse('position') end from done"""
_BEGIN, _COMMIT = Statement(b"begin"), Statement(b"commit")


class Rounds:
    """One wave's, under one lease and in one term. ``seen``: up to where every snapshot at the origin sees what was
    read, to be written down with the next commit; 0 when that is not known."""

    def __init__(self, dmls: Sequence[Dml], move_id: MoveId, generation: int, term: int) -> None:
        self.dmls = dmls
        self.tables = [TableStatements(dml) for dml in dmls]
        self.parents = frozenset(dml.table.owner.parent for dml in dmls if dml.table.owner.parent is not None)
        self._keyless = frozenset(no for no, table in enumerate(self.tables) if table.keyless)
        self._lease = Statement(_LEASE, (move_id.encode(), b"%d" % generation), keep=True)
        self._facts = {"move": move_id, "generation": generation}
        self._wave, self.term = b"%d" % dmls[0].wave_id, term
        self.seen = 0

    async def fold(self, changes: Iterable[Sequence[Change]]) -> Folded:
        """Fold lists of changes, and let others run meanwhile."""
        work = Fold(self._keyless)
        for listed in changes:
            for at in range(0, len(listed), FOLD_SLICE):
                work.add(listed[at : at + FOLD_SLICE])
                if len(listed) > FOLD_SLICE:
                    await asyncio.sleep(0)
        return work.result()

    def opening(self, before: int) -> tuple[Statement, ...]:
        """Begin, as the holder of the lease, in the term, where the position is ``before`` (0: none yet)."""
        at = position_text(before) if before else None
        return _BEGIN, self._lease, Statement(_AT, (self._wave, b"%d" % self.term, at), keep=True)

    def closing(self, after: int | None) -> tuple[Statement, ...]:
        """Commit, with the position behind what was carried out."""
        if after is None:
            return (_COMMIT,)
        seen = position_text(self.seen) if self.seen else None
        return Statement(_MOVE_ON, (self._wave, position_text(after), seen), keep=True), _COMMIT

    def whole(self, transactions: Sequence[Transaction], before: int, work: Folded | None) -> Iterator[Statement]:
        """All of one round: folded, or one by one without ``work``."""
        body = one_by_one(changes_of(transactions), self.tables) if work is None else folded(work, self.tables)
        return chain(self.opening(before), body, self.closing(transactions[-1].position))

    def error(self, refused: Refused, transactions: Sequence[Transaction]) -> DomicileError:
        """What a refusal means that nothing more can be done about."""
        if refused.refusal.sqlstate == REFUSED and refused.reason != "rows":
            return DomicileError(
                ErrorCode.LEASE_LOST,
                f"another process carries move {self._facts['move']} now",
                facts={**self._facts, "reason": refused.reason},
                safe="This process stopped before writing anything more; the other one goes on from the last commit.",
                hint=f"Watch it with: domicile status {self._facts['move']} --watch",
            )
        if may_be_order(refused):
            return _collision(refused, transactions)
        return explain(refused.refusal, "target", "applying changes")


def may_be_order(refused: Refused) -> bool:
    """The refusal may be due to the order of the changes, or to chance: the batch is carried out once more."""
    state = refused.refusal.sqlstate
    return state.startswith(("23", "40")) or (state == REFUSED and refused.reason == "rows")


def changes_of(transactions: Iterable[Transaction]) -> list[Change]:
    """All of them, in order."""
    return list(chain.from_iterable(t.changes for t in transactions))


def _collision(refused: Refused, transactions: Sequence[Transaction]) -> DomicileError:
    refusal = refused.refusal
    where = refused.about or "a table"
    why = "a row that is to be changed is not there, or is somebody else's"
    if refusal.sqlstate != REFUSED:
        why = "a row that arrives has a key that is there already"
        if not refusal.sqlstate.startswith(("23505", "23P01")):
            why = "a row that arrives is refused"
    named = f" ({refusal.constraint})" if refusal.constraint else ""
    facts: dict[str, object] = {
        "table": refused.about,
        "constraint": refusal.constraint,
        "sqlstate": refusal.sqlstate,
        "transactions": len(transactions),
        "changes": sum(len(t.changes) for t in transactions),
    }
    return DomicileError(
        ErrorCode.KEYS_COLLIDE,
        f"applying changes to {where}: {why}{named}",
        facts={name: fact for name, fact in facts.items() if fact},
        safe=SAFE,
        hint="Compare the rows of that table at both sites; the wave can step back and begin again.",
    )
