"""A transaction too large for memory, carried out part by part in one transaction of the destination."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from domicile.model.errors import DomicileError, ErrorCode
from domicile.stream.change import Key, Transaction
from domicile.stream.pipeline import Pipeline, Refused, Statement
from domicile.stream.rounds import Rounds, may_be_order
from domicile.stream.rowwise import folded, hold_back, let_go, one_by_one

_PART, _PART_DONE = Statement(b"savepoint part"), Statement(b"release savepoint part")
_BACK = Statement(b"rollback to savepoint part")


class Parts:
    """``under_way`` from a first part until its last is committed.

    Each part has a savepoint, so that it can be done again one by one while the parts before it stay. Deletions of
    parents wait for the end (see `hold_back`), unless a part is refused: one of its unique values may be theirs.

    Ends in keys-collide, though the source could do it: a parent's key changes, or one of its unique values is taken
    over, while rows that hang from it come in later parts.
    """

    def __init__(self, pipe: Pipeline, rounds: Rounds) -> None:
        self._pipe = pipe
        self._rounds = rounds
        self._held: dict[tuple[int, Key], None] = {}
        self.under_way = False

    def require_whole(self) -> None:
        """Raise pause-budget while a transaction in parts is under way: it cannot be cut there."""
        if self.under_way:
            raise DomicileError(
                ErrorCode.PAUSE_BUDGET,
                "a large transaction is still being applied",
                safe="Nothing of this step has changed.",
                hint="It is tried again.",
            )

    def forget(self, no: int, keys: Iterable[Key]) -> None:
        """These rows of a table have left with others: their deletion need not wait any more."""
        for key in keys:
            self._held.pop((no, key), None)

    async def take(self, part: Transaction, before: int) -> bool:
        """Carry out one part; with the last one the transaction is committed, and its position. True when the part
        went one by one.

        Raises Refused; then the transaction is lost, and the session with it.
        """
        opening = () if self.under_way else self._rounds.opening(before)
        self.under_way = True
        tables, held_before = self._rounds.tables, dict(self._held)
        changes = list(hold_back(part.changes, self._held, self._rounds.parents))
        work = await self._rounds.fold([changes])
        closing = self._rounds.closing(part.position) if part.last else ()
        if opening:
            await self._pipe.run(opening)
        again = not work.plain
        if work.plain:
            ending = let_go(self._held, tables) if part.last else ()
            try:
                await self._pipe.run(chain((_PART,), folded(work, tables), ending, (_PART_DONE,), closing))
            except Refused as refused:
                if not may_be_order(refused):
                    raise
                await self._pipe.reset(_BACK)
                again = True
        if again:
            self._held.clear()
            await self._pipe.run(chain(one_by_one(part.changes, tables, let_go(held_before, tables)), closing))
        if part.last:
            self._held.clear()
            self.under_way = False
        return again
