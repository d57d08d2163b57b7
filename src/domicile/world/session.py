"""A session of the store's application: prepared statements, a transaction in two round trips, little processor time.

psycopg's own cursors cost about as much processor time per statement as the server does; with them the writers of a
benchmark would measure themselves. Here libpq's pipeline mode is used directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import resources
import re
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from domicile.postgres.connect import connect

APPLICATION_NAME = "store application"
Call = tuple[bytes, tuple[bytes, ...]]  # a statement of traffic.sql by its name, and its values as text


class Lost(Exception):
    """The connection is gone; what was under way may have been done or not."""


class Session:
    """One connection. Not to be shared: one round at a time."""

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self._conn = conn
        self._pq = conn.pgconn
        self._loop = asyncio.get_running_loop()
        self._results: list[PGresult] = []
        self._answer: asyncio.Future[list[PGresult]] | None = None
        self._within = False
        self._pq.nonblocking = 1
        self._pq.enter_pipeline_mode()
        self._socket = self._pq.socket  # libpq forgets it when the connection is lost
        self._loop.add_reader(self._socket, self._readable)

    @classmethod
    async def open(cls, conninfo: str) -> Session:
        """Connect and prepare every statement. Raises DomicileError, and Lost when the store is not of our schema."""
        session = cls(await connect(conninfo, application_name=APPLICATION_NAME))
        for name, text in statements().items():
            session._pq.send_prepare(name, text)
        if any(sqlstate(result) for result in await session._sent()):
            await session.close()
            raise Lost
        return session

    async def round(self, calls: Sequence[Call]) -> list[PGresult]:
        """Send the statements, wait for all results: one round trip. After a failed one the rest is ABORTED; outside
        a transaction the round is one. Raises Lost."""
        try:
            for name, values in calls:
                self._pq.send_query_prepared(name, values)
        except psycopg.Error:
            self._fail()
            raise Lost from None
        return await self._sent()

    async def close(self) -> None:
        """An open transaction is rolled back by the server. Idempotent."""
        self._fail()
        await self._conn.close()

    async def _sent(self) -> list[PGresult]:
        self._results, self._within = [], False
        self._answer = answer = self._loop.create_future()
        try:
            self._pq.pipeline_sync()
            self._flush()
        except psycopg.Error:
            self._fail()
        results: list[PGresult] = await answer
        return results

    def _flush(self) -> None:
        if self._pq.flush():
            self._loop.add_writer(self._socket, self._flush)
        else:
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            self._pq.consume_input()
            while self._answer is not None and not self._pq.is_busy():
                result = self._pq.get_result()
                if result is None:
                    if not self._within:
                        break
                    self._within = False
                elif self._pq.status == ConnStatus.BAD:
                    break  # libpq makes up results for what was under way
                elif result.status == ExecStatus.PIPELINE_SYNC:
                    answer, self._answer = self._answer, None
                    if not answer.done():
                        answer.set_result(self._results)
                else:
                    self._within = True
                    self._results.append(result)
        except psycopg.Error:
            self._fail()
        if self._pq.status == ConnStatus.BAD:
            self._fail()

    def _fail(self) -> None:
        with suppress(ValueError, OSError):
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(Lost())


def sqlstate(result: PGresult) -> str:
    """The SQLSTATE of a result that is an error; empty otherwise."""
    if result.status != ExecStatus.FATAL_ERROR:
        return ""
    return (result.error_field(DiagnosticField.SQLSTATE) or b"XX000").decode()


def detail(result: PGresult) -> bytes:
    """The DETAIL of an error; of an internal one its message, which holds no value and is all there is to go by."""
    if sqlstate(result).startswith("XX"):
        return result.error_message.strip()
    return result.error_field(DiagnosticField.MESSAGE_DETAIL) or b""


def named(file: str) -> Mapping[str, bytes]:
    """The blocks of a ``.sql`` file of the world, by the names in its ``-- name:`` lines."""
    text = (resources.files(__package__) / "sql" / file).read_bytes()
    parts = re.split(rb"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return {name.decode(): body for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def statements() -> Mapping[bytes, bytes]:
    """The application's statements by name."""
    return {name.encode(): body for name, body in named("traffic.sql").items()}
