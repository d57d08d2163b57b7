"""Apply: the wave's transactions are carried out at the destination, whole, in order, each exactly once.

A batch is one round trip: begin, the lease, the position that must be there, the changes, the new position, commit. The
next batch may be on its way before the answer comes; it cannot overtake, because it follows in the same session, and a
batch that fails makes those behind it fail. Changes to one row are folded first; when a unique value or a missing row
objects to the folded order, the batch is rolled back and carried out change by change in the source's order.

Promises: rows and position commit together; a row is changed or deleted only if it is the wave's, and inserted only if
its keys are free; triggers and foreign keys of the destination rest (`session_replication_role`); a value that was not
sent is not written; no value of a row is in an error. After an error of `submit` nothing more is taken: what was
committed is told by `position`, and a new `Apply` goes on from there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from psycopg.pq.abc import PGresult

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId
from domicile.postgres.connect import SESSION, connect
from domicile.stream.change import Key, Transaction
from domicile.stream.dml import Dml, read_columns
from domicile.stream.fold import Folded
from domicile.stream.layout import Layout
from domicile.stream.leave import gone, leave
from domicile.stream.params import position_of
from domicile.stream.parts import Parts
from domicile.stream.pipeline import Pipeline, Refused, Statement
from domicile.stream.rounds import Rounds, changes_of, may_be_order
from domicile.stream.rowwise import one_by_one

APPLICATION_NAME = "domicile apply"
DEPTH = 2  # batches on their way at once

# Application triggers, foreign keys and the guard rest. What is acknowledged to the origin must be on disk here. Rows
# are found by their keys, one by one, whatever the statistics say of a table that is only being filled.
SETTINGS = {
    **SESSION,
    "session_replication_role": "replica",
    "synchronous_commit": "on",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "random_page_cost": "0.01",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",  # a plan by keys is the same for all, and is made once a session
}

_POSITION = "select position::text from domicile.wave where id = %s"


@dataclass(slots=True, eq=False)
class _Batch:
    """Whole transactions that are committed together. ``work`` is None where they go one by one from the start."""

    transactions: Sequence[Transaction]
    before: int
    work: Folded | None
    done: asyncio.Future[None]
    answer: asyncio.Future[list[PGresult]] = field(init=False)


class Apply:
    """One wave's stream at its destination, for one caller. ``dirty`` has, by the table's number, every key that was
    touched (before and after) with the 32-bit xid of the last transaction that did; its entries are the caller's to
    remove. ``repeated`` counts the batches whose folded order was refused."""

    def __init__(self, pipe: Pipeline, rounds: Rounds, position: int) -> None:
        self._pipe = pipe
        self._rounds = rounds
        self._parts = Parts(pipe, rounds)
        self._sent = self._position = position
        self._flight: deque[_Batch] = deque()
        self._sending = asyncio.Lock()
        self._landing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.dirty: dict[int, dict[Key, int]] = {}
        self.repeated = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, conninfo: str, layout: Layout, data_map: DataMap, move_id: MoveId, generation: int, wave_id: int
    ) -> AsyncIterator[Apply]:
        """A session of its own at the destination, where the wave is registered as ``wave_id``. An open transaction is
        rolled back at the end."""
        conn = await connect(conninfo, application_name=APPLICATION_NAME, settings=SETTINGS)
        try:
            columns = await read_columns(conn, layout)
            row = await (await conn.execute(_POSITION, (wave_id,))).fetchone()
            assert row is not None, "the wave is registered at the destination"
            pipe = Pipeline(conn)
        except BaseException:
            await conn.close()
            raise
        dmls = [
            Dml(table, found, data_map, wave_id, layout.binary)
            for table, found in zip(layout.tables, columns, strict=True)
        ]
        apply = cls(pipe, Rounds(dmls, move_id, generation), position_of(row[0]) if row[0] else 0)
        try:
            yield apply
        finally:
            await apply.close()

    @property
    def position(self) -> int:
        """Behind the last transaction that is committed at the destination; 0 when there is none."""
        return self._position

    async def submit(self, transactions: Sequence[Transaction]) -> asyncio.Future[None]:
        """Send the next transactions; returns as soon as there is room for more behind them.

        The future is done when they are committed (``position`` has grown by then), and fails with DomicileError:
        keys-collide when a row is not what the stream says even one by one, lease-lost, site-unreachable, and what
        failures.py knows. A part of a transaction (``last`` is False) is carried out before this returns, and committed
        with its last part. A transaction without changes moves the position on.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        whole: list[Transaction] = []
        for transaction in transactions:
            if transaction.last and not self._parts.under_way:
                whole.append(transaction)
                continue
            if whole:
                await self._launch(whole)
                whole = []
            await self._part(transaction)
        return await self._launch(whole) if whole else done

    async def finish(self, transactions: Sequence[Transaction]) -> None:
        """`submit`, and wait until they are committed; of a transaction in parts, until the part is carried out."""
        await (await self.submit(transactions))

    def compose(self, transactions: Iterable[Transaction]) -> list[Statement]:
        """The changes of whole transactions as statements, one by one in the source's order, for `send`.

        Raises pause-budget while a transaction in parts is under way: it cannot be cut there.
        """
        if self._parts.under_way:
            raise DomicileError(
                ErrorCode.PAUSE_BUDGET,
                "a large transaction is still being applied",
                safe="Nothing of this step has changed.",
                hint="It is tried again.",
            )
        return list(one_by_one(changes_of(transactions), self._rounds.tables))

    async def leave(self, table: int, keys: Sequence[Key]) -> dict[int, list[Key]]:
        """Delete rows that came to an owner outside the wave, with all that hangs from them; returns the keys of what
        went, by table. Inside a transaction that comes in parts it is a step of that; else it commits by itself.

        Rows that are not there or not the wave's are passed over: idempotent.
        """
        await self._idle()
        async with self._sending:
            deletions = list(leave(self._rounds.dmls, table, keys))
            statements: list[Statement] = [statement for _, statement in deletions]
            if not self._parts.under_way:
                statements = [*self._rounds.opening(self._sent), *statements, *self._rounds.closing(None)]
            answers = await self._run(statements)
        if not self._parts.under_way:
            answers = answers[-1 - len(deletions) : -1]
        return {no: keys for (no, _), answer in zip(deletions, answers, strict=True) if (keys := gone(answer))}

    async def send(
        self, statements: Sequence[Statement], transactions: Sequence[Transaction] = ()
    ) -> asyncio.Task[list[PGresult]]:
        """One transaction of one round trip: the lease, the position, ``statements``, the position behind
        ``transactions`` (whose changes they carry out), commit. Starts when everything before is committed.

        The task has the statements' answers in order, or raises `Refused`: then nothing of it is committed and the
        caller may go on; an empty SQLSTATE means that the connection was lost, and nobody knows.
        """
        await self._idle()
        assert not self._parts.under_way, "a transaction in parts"
        after = self._note(transactions)
        return asyncio.create_task(self._exchange(statements, after))

    async def close(self) -> None:
        """Cancel what is under way and close the session. Idempotent."""
        self._fail(_closed())
        await self._pipe.close()
        if self._landing is not None:
            await asyncio.wait([self._landing])

    # Batches

    async def _launch(self, transactions: Sequence[Transaction]) -> asyncio.Future[None]:
        while len(self._flight) >= DEPTH:
            await asyncio.wait([self._flight[0].done])
        async with self._sending:
            self._raise_failure()
            before, after = self._sent, self._note(transactions)
            work = await self._rounds.fold(t.changes for t in transactions)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.add_done_callback(_seen)
            batch = _Batch(transactions, before, work if work.plain else None, done)
            batch.answer = await self._try(batch.transactions, before, batch.work)
            self._flight.append(batch)
            self._sent = after
            if self._landing is None or self._landing.done():
                self._landing = asyncio.create_task(self._land())
        return done

    async def _try(
        self, transactions: Sequence[Transaction], before: int, work: Folded | None
    ) -> asyncio.Future[list[PGresult]]:
        try:
            return await self._pipe.send(self._rounds.whole(transactions, before, work))
        except Refused as lost:
            raise self._fail(self._rounds.error(lost, transactions)) from None

    async def _land(self) -> None:
        """Take answers as long as there are batches under way."""
        while self._flight:
            try:
                await self._flight[0].answer
                self._landed()
            except Refused as refused:
                async with self._sending:
                    await self._recover(refused)

    async def _recover(self, refused: Refused) -> None:
        """The first batch under way was refused, and so were all behind it: carry them out again, one at a time."""
        for answer in [batch.answer for batch in self._flight]:
            await asyncio.wait([answer])
        while self._flight:
            batch = self._flight[0]
            try:
                if batch.work is None or not may_be_order(refused):
                    raise refused
                await self._pipe.reset()
                self.repeated += 1
                batch.work = None
                await self._pipe.run(self._rounds.whole(batch.transactions, batch.before, None))
            except Refused as final:
                self._fail(self._rounds.error(final, batch.transactions))
                return
            self._landed()
            try:
                while self._flight:
                    batch = self._flight[0]
                    await self._pipe.run(self._rounds.whole(batch.transactions, batch.before, batch.work))
                    self._landed()
            except Refused as following:
                refused = following

    def _landed(self) -> None:
        if not self._flight:
            return  # closed meanwhile
        batch = self._flight.popleft()
        self._position = batch.transactions[-1].position
        if not batch.done.done():
            batch.done.set_result(None)

    # Single transactions

    async def _part(self, part: Transaction) -> None:
        await self._idle()
        async with self._sending:
            before = self._sent
            after = self._note([part])
            try:
                self.repeated += await self._parts.take(part, before)
            except Refused as refused:
                raise self._fail(self._rounds.error(refused, [part])) from None
            except asyncio.CancelledError:
                self._fail(_closed())
                raise
            if part.last:
                self._sent = self._position = after

    async def _exchange(self, statements: Sequence[Statement], after: int) -> list[PGresult]:
        async with self._sending:
            opening = self._rounds.opening(self._sent)
            closing = self._rounds.closing(after if after != self._sent else None)
            try:
                answers = await self._pipe.run((*opening, *statements, *closing))
            except Refused as refused:
                if refused.refusal.sqlstate:
                    await self._pipe.reset()
                else:
                    self._fail(self._rounds.error(refused, ()))
                raise
            except asyncio.CancelledError:
                self._fail(_closed())  # nobody knows whether it was committed
                raise
            self._sent = self._position = after
            return answers[len(opening) : -len(closing)]

    async def _run(self, statements: Sequence[Statement]) -> list[PGresult]:
        try:
            return await self._pipe.run(statements)
        except Refused as refused:
            raise self._fail(self._rounds.error(refused, ())) from None

    async def _idle(self) -> None:
        while self._flight:
            await asyncio.wait([self._flight[-1].done])
        self._raise_failure()

    def _note(self, transactions: Sequence[Transaction]) -> int:
        """Remember what they touch; returns the position behind them."""
        after = self._sent
        for transaction in transactions:
            assert transaction.position > self._sent, "applied already"
            assert transaction.position >= after, "out of order"
            after = transaction.position
            for change in transaction.changes:
                touched = self.dirty.setdefault(change.table, {})
                touched[change.key] = transaction.xid
                if change.old_key is not None:
                    touched[change.old_key] = transaction.xid
        return after

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, why: BaseException) -> BaseException:
        """From now on nothing is taken; whoever waits is told the first reason."""
        self._failure = self._failure or why
        while self._flight:
            done = self._flight.popleft().done
            if not done.done():
                done.set_exception(self._failure)
        return self._failure


def _closed() -> DomicileError:
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
