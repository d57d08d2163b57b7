"""Statements sent ahead, answers read behind: libpq's pipeline mode on the event loop.

One `send` is one *round*: however many statements, one round trip. Further rounds may be sent before the first is
answered. Within a round everything after an error is skipped by the server; a round that opened a transaction and
failed leaves the session in it, so that later rounds fail too, until `reset`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from domicile.postgres.failures import Refusal

REFUSED = "DM004"  # domicile.refuse
ABORTED = "25P02"  # the transaction failed before: in a round behind the one that failed
CANCEL_SECONDS_MAX = 3.0
KEPT_MAX = 1_000  # statements parsed once a session: one for each combination of columns that updates write
_SLICE = 200  # statements sent before others may run
_FINE = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY})


class Statement(NamedTuple):
    """One statement with ``$1``, ``$2``, ... ``binary`` is the form of its values, ``binary_answer`` that of its rows.
    One that is kept is parsed once a session."""

    text: bytes
    values: Sequence[bytes | None] = ()
    binary: bool = False
    keep: bool = False
    binary_answer: bool = False


ROLLBACK = Statement(b"rollback")
_FORGET = Statement(b"deallocate all")


class Refused(Exception):
    """The server refused a statement, or the connection was lost (then ``refusal.sqlstate`` is empty).

    ``reason`` is what was given to ``domicile.refuse``, and ``about`` the table it named.
    """

    def __init__(self, refusal: Refusal, reason: str = "") -> None:
        super().__init__(refusal.sqlstate or "the connection was lost")
        self.refusal = refusal
        self.reason = reason

    @property
    def about(self) -> str:
        return self.refusal.table


@dataclass(slots=True)
class _Round:
    answer: asyncio.Future[list[PGresult]]
    collect: bool
    results: list[PGresult] = field(default_factory=list)
    error: Refused | None = None


class Pipeline:
    """Takes an idle connection over until `close`; nobody else may use it meanwhile."""

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self._conn = conn
        self._pq = conn.pgconn
        self._rounds: deque[_Round] = deque()
        self._names: dict[bytes, bytes] = {}
        self._sending = asyncio.Lock()
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._lost: Refused | None = None
        self._loop = asyncio.get_running_loop()
        self._pq.nonblocking = 1
        self._pq.enter_pipeline_mode()
        self._socket = self._pq.socket  # libpq forgets it when the connection is lost
        self._loop.add_reader(self._socket, self._readable)

    async def send(self, statements: Iterable[Statement], *, collect: bool = False) -> asyncio.Future[list[PGresult]]:
        """Send one round; returns when it is handed to the system, with a future of its answer.

        The future has the statements' results in order (with ``collect``, else none), or raises `Refused` with the
        first error.
        """
        async with self._sending:
            if self._lost is not None:
                raise self._lost
            answer: asyncio.Future[list[PGresult]] = self._loop.create_future()
            answer.add_done_callback(_seen)
            self._rounds.append(_Round(answer, collect))
            try:
                queue = iter(statements)
                while part := list(islice(queue, _SLICE)):
                    for statement in part:
                        self._queue(statement)
                    await self._pass_on()
                self._pq.pipeline_sync()
                await self._pass_on()
            except psycopg.Error:
                self._fail()
            except BaseException:
                self._fail()  # half a round is on its way: nothing can follow it
                raise
            return answer

    async def run(self, statements: Iterable[Statement]) -> list[PGresult]:
        """Send one round and wait for its results."""
        return await (await self.send(statements, collect=True))

    async def reset(self, back: Statement = ROLLBACK) -> None:
        """After an error, when every round is answered: go ``back``, and forget kept statements, of which nobody knows
        which the server has."""
        assert not self._rounds, "rounds are under way"
        self._names.clear()
        await self.run([back, _FORGET])

    async def close(self) -> None:
        """Cancel what runs and close the connection: an open transaction is rolled back. Idempotent."""
        busy = bool(self._rounds)
        self._fail()
        if busy and not self._conn.closed:
            # A server that waits for a lock would not notice a closed socket.
            with suppress(psycopg.Error):
                await self._conn.cancel_safe(timeout=CANCEL_SECONDS_MAX)
        await self._conn.close()

    def _queue(self, statement: Statement) -> None:
        text, values = statement.text, statement.values
        forms = (1 if statement.binary else 0,) * len(values)
        answer_form = 1 if statement.binary_answer else 0
        name = self._names.get(text)
        if not statement.keep or (name is None and len(self._names) >= KEPT_MAX):
            self._pq.send_query_params(text, values, None, forms, answer_form)
            return
        if name is None:
            name = self._names[text] = b"domicile_%d" % len(self._names)
            self._pq.send_prepare(name, text)
        self._pq.send_query_prepared(name, values, forms, answer_form)

    async def _pass_on(self) -> None:
        """Others run; and no more is queued than the server takes."""
        if self._pq.flush():
            self._flushed.clear()
            self._loop.add_writer(self._socket, self._writable)
            await self._flushed.wait()
        else:
            await asyncio.sleep(0)

    def _writable(self) -> None:
        try:
            if self._pq.flush():
                return
        except psycopg.Error:
            self._fail()
            return
        self._loop.remove_writer(self._socket)
        self._flushed.set()

    def _readable(self) -> None:
        try:
            self._pq.consume_input()
            within = False
            while self._rounds and not self._pq.is_busy():
                result = self._pq.get_result()
                if result is None:
                    if not within:
                        break
                    within = False
                else:
                    within = self._take(result)
        except psycopg.Error:
            self._fail()

    def _take(self, result: PGresult) -> bool:
        """True when more of the same statement may follow."""
        now = self._rounds[0]
        match result.status:
            case ExecStatus.PIPELINE_SYNC:
                self._rounds.popleft()
                if not now.answer.done():
                    if now.error is not None:
                        now.answer.set_exception(now.error)
                    else:
                        now.answer.set_result(now.results)
                return False
            case ExecStatus.FATAL_ERROR:
                now.error = now.error or _refused(result)
            case ExecStatus.PIPELINE_ABORTED:
                pass
            case status:
                assert status in _FINE, status
                if now.collect and result.command_status:  # a parsed statement is answered, too, without one
                    now.results.append(result)
        return True

    def _fail(self) -> None:
        """The connection is lost: nobody waits any longer."""
        if self._lost is None:
            self._lost = Refused(Refusal())
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._flushed.set()
        while self._rounds:
            now = self._rounds.popleft()
            if not now.answer.done():
                now.answer.set_exception(now.error or self._lost)


def _refused(result: PGresult) -> Refused:
    said = {
        name: (result.error_field(field) or b"").decode(errors="replace")
        for name, field in (
            ("sqlstate", DiagnosticField.SQLSTATE),
            ("table", DiagnosticField.TABLE_NAME),
            ("column", DiagnosticField.COLUMN_NAME),
            ("constraint", DiagnosticField.CONSTRAINT_NAME),
        )
    }
    # Only a message of our own may be read: others quote values.
    ours = said["sqlstate"] == REFUSED
    reason = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode() if ours else ""
    return Refused(Refusal(**said), reason)


def _seen(answer: asyncio.Future[list[PGresult]]) -> None:
    """An error that nobody asks for any more is no warning."""
    if not answer.cancelled():
        answer.exception()
