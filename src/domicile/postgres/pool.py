"""Sessions that are kept open for a moment, for a move's next question to the same site.

A new session costs round trips, and the server about 15 ms of processor until it knows the catalog, which its users
feel. Only what ended well is kept: whoever fails closes his session, and with it everything that was open in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
import time

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from domicile.postgres.connect import APPLICATION_NAME, SESSION, connect, set_all

# A site has better uses for its sessions; and what was silent for long may have been forgotten by the line.
IDLE_SECONDS_MAX = 10.0
# A session that does not answer at once is not waited for: a new one is.
ANSWER_SECONDS_MAX = 2.0
# What the user before may have left behind. The answer is also the proof that the session is alive.
_AS_NEW = "reset all; discard temp; select pg_catalog.pg_advisory_unlock_all()"


class SessionPool:
    """Used by one event loop. Outside of `keeping` every session is new, and closed at the end of its block.

    Where one session to a server has failed, none that was kept to it is used again: the address may lead to another
    server now, and who is in doubt about a site must not wait for dead sessions one by one.
    """

    def __init__(self) -> None:
        self._idle: dict[str, list[tuple[float, AsyncConnection]]] = {}  # by conninfo: since when, the latest last
        self._keepers = 0

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Sessions are kept until the (outermost) block ends."""
        self._keepers += 1
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            self._keepers -= 1
            sweeper.cancel()
            await asyncio.wait([sweeper])
            if not self._keepers:
                await self._close_idle(time.monotonic())

    @asynccontextmanager
    async def session(
        self, conninfo: str, *, settings: Mapping[str, str] = SESSION, application_name: str = APPLICATION_NAME
    ) -> AsyncIterator[AsyncConnection]:
        """A session in autocommit, for this block alone. What it leaves uncommitted is rolled back. Raises what
        `connect` does."""
        conn = await self._take(conninfo, {**settings, "application_name": application_name})
        if conn is None:
            conn = await connect(conninfo, application_name=application_name, settings=settings)
        try:
            yield conn
        except asyncio.CancelledError:
            await conn.close()  # it may be in the middle of something; of the server this says nothing
            raise
        except BaseException:
            await conn.close()
            await self._distrust(conninfo)
            raise
        if not await self._keep(conninfo, conn):
            await conn.close()

    async def _take(self, conninfo: str, settings: Mapping[str, str]) -> AsyncConnection | None:
        """A kept session that answers, as if it were new; None where there is none."""
        await self._close_idle(time.monotonic() - IDLE_SECONDS_MAX)
        idle = self._idle.get(conninfo)
        if not idle:
            return None
        _, conn = idle.pop()
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await set_all(conn, settings, _AS_NEW)
        except (TimeoutError, psycopg.Error):
            await conn.close()
            await self._distrust(conninfo)
            return None
        except BaseException:
            await conn.close()
            raise
        return conn

    async def _keep(self, conninfo: str, conn: AsyncConnection) -> bool:
        """False when it is not worth keeping: nothing in it is wanted any more, whatever became of it."""
        plain = (conn.autocommit, conn.isolation_level, conn.read_only) == (True, None, None)
        if not self._keepers or conn.closed or not plain:
            return False
        if conn.info.transaction_status is not TransactionStatus.IDLE:
            try:
                async with asyncio.timeout(ANSWER_SECONDS_MAX):
                    await conn.rollback()
            except (TimeoutError, psycopg.Error):
                return False
            except BaseException:
                await conn.close()
                raise
        if self._keepers:  # still
            self._idle.setdefault(conninfo, []).append((time.monotonic(), conn))
        return bool(self._keepers)

    async def _distrust(self, conninfo: str) -> None:
        for _, conn in self._idle.pop(conninfo, ()):
            await conn.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS_MAX / 2)
            await self._close_idle(time.monotonic() - IDLE_SECONDS_MAX)

    async def _close_idle(self, before: float) -> None:
        """Close what nobody has wanted since then."""
        for idle in self._idle.values():
            while idle and idle[0][0] <= before:
                await idle.pop(0)[1].close()
