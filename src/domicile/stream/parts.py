"""A transaction too large for memory, carried out part by part in one transaction of the destination."""

from __future__ import annotations

from itertools import chain

from domicile.stream.change import Key, Transaction
from domicile.stream.pipeline import Pipeline, Refused, Statement
from domicile.stream.rounds import Rounds, may_be_order
from domicile.stream.rowwise import folded, hold_back, let_go, one_by_one

_PART, _PART_DONE = Statement(b"savepoint part"), Statement(b"release savepoint part")
_BACK = Statement(b"rollback to savepoint part")


class Parts:
    """``under_way`` from a first part until its last is committed.

    Each part has a savepoint, so that it can be done again one by one while the parts before it stay. Deletions of
    parents wait for the end (see `hold_back`); a parent whose *key* changes while its children come in a later part is
    not supported and ends in keys-collide.
    """

    def __init__(self, pipe: Pipeline, rounds: Rounds) -> None:
        self._pipe = pipe
        self._rounds = rounds
        self._held: dict[tuple[int, Key], None] = {}
        self.under_way = False

    async def take(self, part: Transaction, before: int) -> bool:
        """Carry out one part; with the last one the transaction is committed, and its position. True when the part had
        to be done one by one.

        Raises Refused; then the transaction is lost, and the session with it.
        """
        opening = () if self.under_way else self._rounds.opening(before)
        self.under_way = True
        changes = list(hold_back(part.changes, self._held, self._rounds.parents))
        ending: list[Statement] = []
        if part.last:
            ending += let_go(self._held, self._rounds.tables)
        closing = self._rounds.closing(part.position) if part.last else ()
        work = await self._rounds.fold([changes])
        if opening:
            await self._pipe.run(opening)
        if work.plain:
            try:
                await self._pipe.run(chain((_PART,), folded(work, self._rounds.tables), ending, (_PART_DONE,), closing))
            except Refused as refused:
                if not may_be_order(refused):
                    raise
                await self._pipe.reset(_BACK)
                work.plain = False
        if not work.plain:
            body = one_by_one(changes, self._rounds.tables)
            await self._pipe.run(chain(body, ending, closing))
        if part.last:
            self._held.clear()
            self.under_way = False
        return not work.plain
