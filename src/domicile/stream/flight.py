"""Batches on their way to the destination, in order, and what is known of those that have arrived.

A batch may be sent before the one before it is answered: it cannot overtake, because it follows in the same session,
and a batch that fails makes those behind it fail. Then they are carried out again, in order: the one that failed change
by change, in the order of the source; and if that is refused as well, transaction by transaction, up to the one that is
to blame.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.pq.abc import PGresult

from domicile.model.errors import DomicileError, ErrorCode
from domicile.stream.change import Transaction
from domicile.stream.fold import Folded
from domicile.stream.pipeline import Pipeline, Refused
from domicile.stream.rounds import Rounds, may_be_order

DEPTH = 4  # batches on their way at once: what a long line holds, and one that is being carried out


@dataclass(slots=True, eq=False)
class _Batch:
    """Whole transactions that are committed together. ``work`` is None where they go one by one from the start."""

    transactions: Sequence[Transaction]
    before: int
    work: Folded | None
    done: asyncio.Future[None]
    answer: asyncio.Future[list[PGresult]]


class Flight:
    """``sent``: the position behind what has been sent; ``position``: behind what is committed. ``repeated`` counts
    what was refused in its folded order. Whoever sends something else in the same session holds ``sending``."""

    def __init__(self, pipe: Pipeline, rounds: Rounds, position: int) -> None:
        self._pipe = pipe
        self._rounds = rounds
        self._batches: deque[_Batch] = deque()
        self._landing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.sending = asyncio.Lock()
        self.sent = self.position = position
        self.repeated = 0

    async def launch(self, transactions: Sequence[Transaction]) -> asyncio.Future[None]:
        """Send a batch as soon as there is room; the future is done when it is committed, or fails. Who gives it up
        gives up waiting, and nothing else."""
        while len(self._batches) >= DEPTH:
            await asyncio.wait([self._batches[0].done])
        async with self.sending:
            self.check()
            before = self.sent
            folded = await self._rounds.fold(t.changes for t in transactions)
            work = folded if folded.plain else None
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            try:
                answer = await self._pipe.send(self._rounds.whole(transactions, before, work))
            except Refused as lost:
                raise self.fail(self._rounds.error(lost, transactions)) from None
            self._batches.append(_Batch(transactions, before, work, done, answer))
            self.sent = transactions[-1].position
            if self._landing is None or self._landing.done():
                self._landing = asyncio.create_task(self._land())
        asked = asyncio.shield(done)
        asked.add_done_callback(_seen)
        return asked

    async def idle(self) -> None:
        """Wait until all that was sent is committed; raises the failure, if there is one."""
        while self._batches:
            await asyncio.wait([self._batches[-1].done])
        self.check()

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self._failure is not None:
            raise self._failure

    def fail(self, why: BaseException) -> BaseException:
        """From now on nothing is taken; whoever waits is told the first reason. Returns that."""
        self._failure = self._failure or why
        while self._batches:
            done = self._batches.popleft().done
            if not done.done():
                done.set_exception(self._failure)
        return self._failure

    async def close(self) -> None:
        """Cancel what is under way and close the session. Idempotent."""
        self.fail(closed())
        await self._pipe.close()
        if self._landing is not None:
            await asyncio.wait([self._landing])

    async def _land(self) -> None:
        """Take answers as long as there are batches under way."""
        while self._batches:
            try:
                await self._batches[0].answer
                self._landed()
            except Refused as refused:
                async with self.sending:
                    await self._recover(refused)

    async def _recover(self, refused: Refused) -> None:
        """The first batch under way was refused, and so were all behind it: carry them out again, one at a time."""
        for answer in [batch.answer for batch in self._batches]:
            await asyncio.wait([answer])
        while self._batches:
            batch = self._batches[0]
            try:
                if batch.work is None or not may_be_order(refused):
                    raise refused
                await self._pipe.reset()
                self.repeated += 1
                batch.work = None
                await self._pipe.run(self._rounds.whole(batch.transactions, batch.before, None))
            except Refused as final:
                if not await self._as_far_as_it_goes(batch, final):
                    return
            self._landed()
            try:
                while self._batches:
                    batch = self._batches[0]
                    await self._pipe.run(self._rounds.whole(batch.transactions, batch.before, batch.work))
                    self._landed()
            except Refused as following:
                refused = following

    async def _as_far_as_it_goes(self, batch: _Batch, refused: Refused) -> bool:
        """What comes before the transaction that is to blame is committed: another wave's stream may wait for it. False
        when there is such a transaction; then the flight has failed."""
        transactions: Sequence[Transaction] = batch.transactions
        try:
            if len(transactions) < 2 or not may_be_order(refused):
                raise refused
            before = batch.before
            for one in batch.transactions:
                transactions = [one]
                await self._pipe.reset()
                await self._pipe.run(self._rounds.whole(transactions, before, None))
                self.position = before = one.position
        except Refused as final:
            self.fail(self._rounds.error(final, transactions))
            return False
        return True

    def _landed(self) -> None:
        if not self._batches:
            return  # closed meanwhile
        batch = self._batches.popleft()
        self.position = batch.transactions[-1].position
        if not batch.done.done():
            batch.done.set_result(None)


def closed() -> DomicileError:
    """Why nothing is taken any more once it was stopped."""
    return DomicileError(
        ErrorCode.INTERRUPTED,
        "the apply was stopped",
        safe="What was committed is told by the wave's position; nothing else was changed.",
        hint="Go on with: domicile resume",
    )


def _seen(done: asyncio.Future[None]) -> None:
    """A failure that nobody asks for any more is no warning."""
    if not done.cancelled():
        done.exception()
