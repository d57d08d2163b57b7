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
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain

from psycopg.pq.abc import PGresult

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId
from domicile.postgres.connect import SESSION, connect
from domicile.stream.change import Key, Transaction
from domicile.stream.dml import Dml, read_columns
from domicile.stream.flight import Flight, closed
from domicile.stream.layout import Layout
from domicile.stream.leave import gone, leave
from domicile.stream.params import position_of
from domicile.stream.parts import Parts
from domicile.stream.pipeline import REFUSED, ROLLBACK, Pipeline, Refused, Statement
from domicile.stream.rounds import Rounds, changes_of
from domicile.stream.rowwise import one_by_one

APPLICATION_NAME = "domicile apply"

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

_REHEARSAL, _REHEARSED = Statement(b"savepoint rehearsal"), Statement(b"rollback to savepoint rehearsal")
_POSITION = "select position::text, term from domicile.wave where id = %s"


class Apply:
    """One wave's stream at its destination, for one caller. ``dirty`` has, by the table's number, every key that was
    touched (before and after) with the 32-bit xid of the last transaction that did; its entries are the caller's to
    remove."""

    def __init__(self, pipe: Pipeline, rounds: Rounds, position: int) -> None:
        self._pipe = pipe
        self.rounds = rounds
        self._parts = Parts(pipe, rounds)
        self._flight = Flight(pipe, rounds, position)
        self.dirty: dict[int, dict[Key, int]] = {}
        self.wave_id = rounds.dmls[0].wave_id  # at the destination

    @classmethod
    @asynccontextmanager
    async def open(
        cls, conninfo: str, layout: Layout, data_map: DataMap, move_id: MoveId, generation: int, wave_id: int
    ) -> AsyncIterator[Apply]:
        """A session of its own at the destination, where the wave is registered as ``wave_id``, in the wave's term:
        until a doubt is settled there (`lease.settle_doubt`). An open transaction is rolled back at the end."""
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
        rounds = Rounds(dmls, move_id, generation, row[1])
        apply = cls(pipe, rounds, position_of(row[0]) if row[0] else 0)
        try:
            yield apply
        finally:
            await apply.close()

    @property
    def position(self) -> int:
        """Behind the last transaction that is committed at the destination; 0 when there is none."""
        return self._flight.position

    @property
    def repeated(self) -> int:
        """How many batches, or parts of a transaction, were refused in their folded order and went one by one."""
        return self._flight.repeated

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
        self._parts.require_whole()
        return list(one_by_one(changes_of(transactions), self.rounds.tables))

    async def leave(self, table: int, keys: Sequence[Key]) -> dict[int, list[Key]]:
        """Delete rows that came to an owner outside the wave, with all that hangs from them; returns the keys of what
        went, by table. Inside a transaction that comes in parts it is a step of that; else it commits by itself.

        Rows that are not there or not the wave's are passed over: idempotent.
        """
        await self._flight.idle()
        async with self._flight.sending:
            deletions = list(leave(self.rounds.dmls, table, keys))
            statements: list[Statement] = [statement for _, statement in deletions]
            if not self._parts.under_way:
                statements = [*self.rounds.opening(self._flight.sent), *statements, *self.rounds.closing(None)]
            answers = await self._run(statements)
        if not self._parts.under_way:
            answers = answers[-1 - len(deletions) : -1]
        left = {no: keys for (no, _), answer in zip(deletions, answers, strict=True) if (keys := gone(answer))}
        for no, keys in left.items():
            self._parts.forget(no, keys)
        return left

    async def step(self, statements: Sequence[Statement]) -> None:
        """Statements of their own, as a step of the transaction in parts that is under way: they commit with it."""
        await self._flight.idle()
        async with self._flight.sending:
            assert self._parts.under_way
            await self._run(statements)

    async def send(
        self, statements: Sequence[Statement], transactions: Sequence[Transaction] = ()
    ) -> asyncio.Task[list[PGresult]]:
        """One transaction of one round trip: the lease, the position, ``statements``, the position behind
        ``transactions`` (whose changes they carry out), commit. Starts when everything before is committed.

        The task has the statements' answers in order, or raises `Refused`: then nothing of it is committed and the
        caller may go on; an empty SQLSTATE means that the connection was lost, and nobody knows.
        """
        await self._flight.idle()
        assert not self._parts.under_way, "a transaction in parts"
        after = _note(self.dirty, self._flight.sent, transactions)
        return asyncio.create_task(self._exchange(statements, after))

    async def rehearse(self, statements: Iterable[Statement]) -> None:
        """Have this session plan ``statements`` and what `compose` makes, in a transaction that is rolled back: a
        session's first such statement takes ten times as long as the next. What they answer is of no interest.

        Nothing may be submitted meanwhile. Raises pause-budget as `compose` does, and DomicileError when the session
        is lost with it.
        """
        self._parts.require_whole()
        await self._flight.idle()
        async with self._flight.sending:
            try:
                opening = self.rounds.opening(self._flight.sent)
                single = (table.rehearsal() for table in self.rounds.tables)
                await _rehearse(self._pipe, opening, chain(statements, *single))
            except Refused as refused:
                raise self._flight.fail(self.rounds.error(refused, ())) from None
            except asyncio.CancelledError:
                self._flight.fail(closed())  # nothing may follow in its transaction
                raise

    async def close(self) -> None:
        """Cancel what is under way and close the session. Idempotent."""
        await self._flight.close()

    async def _launch(self, transactions: Sequence[Transaction]) -> asyncio.Future[None]:
        _note(self.dirty, self._flight.sent, transactions)
        return await self._flight.launch(transactions)

    async def _part(self, part: Transaction) -> None:
        await self._flight.idle()
        async with self._flight.sending:
            before = self._flight.sent
            after = _note(self.dirty, before, [part])
            try:
                self._flight.repeated += await self._parts.take(part, before)
            except Refused as refused:
                raise self._flight.fail(self.rounds.error(refused, [part])) from None
            except asyncio.CancelledError:
                self._flight.fail(closed())
                raise
            if part.last:
                self._flight.sent = self._flight.position = after

    async def _exchange(self, statements: Sequence[Statement], after: int) -> list[PGresult]:
        async with self._flight.sending:
            opening = self.rounds.opening(self._flight.sent)
            closing = self.rounds.closing(after if after != self._flight.sent else None)
            try:
                answers = await self._pipe.run((*opening, *statements, *closing))
            except Refused as refused:
                if refused.refusal.sqlstate:
                    await self._pipe.reset()
                else:
                    self._flight.fail(self.rounds.error(refused, ()))
                raise
            except asyncio.CancelledError:
                self._flight.fail(closed())  # nobody knows whether it was committed
                raise
            self._flight.sent = self._flight.position = after
            return answers[len(opening) : -len(closing)]

    async def _run(self, statements: Sequence[Statement]) -> list[PGresult]:
        try:
            return await self._pipe.run(statements)
        except Refused as refused:
            raise self._flight.fail(self.rounds.error(refused, ())) from None


def _note(dirty: dict[int, dict[Key, int]], sent: int, transactions: Sequence[Transaction]) -> int:
    """Remember what the transactions behind ``sent`` touch; returns the position behind them."""
    after = sent
    for transaction in transactions:
        # A part that is not the last stands where its commit record begins, which is where that before it may end.
        begun = transaction.position if transaction.last else transaction.position + 1
        if begun <= sent or transaction.position < after:
            raise _not_next()
        after = transaction.position
        for change in transaction.changes:
            touched = dirty.setdefault(change.table, {})
            touched[change.key] = transaction.xid
            if change.old_key is not None:
                touched[change.old_key] = transaction.xid
    return after


async def _rehearse(pipe: Pipeline, opening: Sequence[Statement], statements: Iterable[Statement]) -> None:
    await pipe.run(opening)
    answers = []
    for statement in statements:
        answers.append(await pipe.send([_REHEARSAL, statement]))
        # In a round of its own: a refusal makes the server skip the rest of one.
        answers.append(await pipe.send([_REHEARSED]))
    said = await asyncio.gather(*answers, return_exceptions=True)
    if all(map(_was_planned, said)):
        await pipe.run([ROLLBACK])
    else:
        await pipe.reset()


def _was_planned(answer: object) -> bool:
    """The server has the statement: it carried it out, or refused what it was about, a row that cannot be."""
    if not isinstance(answer, Refused):
        return not isinstance(answer, BaseException)
    return answer.refusal.sqlstate == REFUSED or answer.refusal.sqlstate.startswith("23")


def _not_next() -> DomicileError:
    return DomicileError(
        ErrorCode.INTERNAL,
        "the stream brought a transaction a second time, or out of order",
        safe="It was not applied; what was committed is told by the wave's position.",
        hint="Please report it. Go on with: domicile resume",
    )
