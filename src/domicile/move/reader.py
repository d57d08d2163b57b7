"""One site as the verifier reads it: a few sessions that share one snapshot, and the shapes of the wave's tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection

from domicile.model.schema import TableName
from domicile.move.context import Move
from domicile.postgres import snapshots
from domicile.postgres.checksum import BEGIN, Shape
from domicile.postgres.connect import NO_SETTINGS, SESSION
from domicile.postgres.failures import told

_EXPORT = "select pg_catalog.pg_export_snapshot()"
# Compiling costs more than it saves for statements that run once, and Debian's servers have it on.
_SETTINGS = {**SESSION, "jit": "off"}

T = TypeVar("T")
Pace = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Sessions:
    """``side`` is ``source`` or ``target``. Whoever asks takes a free session, and asks within a ``pace``."""

    side: str
    free: asyncio.Queue[AsyncConnection]
    pace: Pace = nullcontext

    async def ask(self, what: str, question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``question`` on a free session. Raises DomicileError without a value of a row."""
        conn = await self.free.get()
        try:
            async with self.pace():
                with told(self.side, what):
                    return await question(conn)
        finally:
            self.free.put_nowait(conn)


@dataclass(frozen=True, slots=True)
class Reader:
    """A wave at one site: its sessions, its local id, and how each table is hashed."""

    sessions: Sessions
    wave_id: int
    shapes: Mapping[TableName, Shape]

    async def ask(self, table: TableName, question: Callable[[AsyncConnection, Shape, int], Awaitable[T]]) -> T:
        """Run ``question(connection, shape, wave id)`` for a table on a free session."""
        shape = self.shapes[table]
        return await self.sessions.ask(f"verify of {table}", lambda conn: question(conn, shape, self.wave_id))


@asynccontextmanager
async def open_sessions(
    side: str, move: Move, count: int, more: Mapping[str, str] = NO_SETTINGS, pace: Pace = nullcontext
) -> AsyncIterator[Sessions]:
    """``count`` sessions in read-only transactions with one snapshot, for this block alone."""
    async with AsyncExitStack() as stack:
        conninfo = move.source if side == "source" else move.target
        free: asyncio.Queue[AsyncConnection] = asyncio.Queue()
        snapshot: str | None = None
        for _ in range(count):
            conn = await stack.enter_async_context(move.pool.session(conninfo, settings={**_SETTINGS, **more}))
            with told(side, "open a snapshot"):
                await conn.execute(BEGIN)
                if snapshot is not None:
                    await snapshots.join(conn, snapshot, side)
                elif count > 1:
                    row = await (await conn.execute(_EXPORT)).fetchone()
                    assert row is not None
                    snapshot = str(row[0])
            free.put_nowait(conn)
        yield Sessions(side, free, pace)


@asynccontextmanager
async def one_snapshot(side: str, conn: AsyncConnection) -> AsyncIterator[Sessions]:
    """One snapshot on a session that is there already and stays: what it has planned before, it need not plan again."""
    free: asyncio.Queue[AsyncConnection] = asyncio.Queue()
    with told(side, "open a snapshot"):
        await conn.execute(BEGIN)
    try:
        free.put_nowait(conn)
        yield Sessions(side, free)
    finally:
        with suppress(psycopg.Error):  # it is broken: whoever asks next is told
            await conn.commit()  # after a rollback psycopg forgets what is prepared


async def together(questions: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """All answers in order; the first failure stops the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question) for question in questions]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
