"""A small write that the mover makes over and over: how long it takes is how an application's writes are served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
from psycopg import AsyncConnection

from domicile.model.site import MoveId
from domicile.postgres.connect import SESSION, connect

APPLICATION_NAME = "domicile probe"
END_SECONDS_MAX = 1  # to remove the row; one that stays behind harms nobody

_FORGET = "delete from domicile.probe where move_id = %s"
_PLACE = "insert into domicile.probe (move_id) values (%s) returning ctid::text"
# By its place: while a copy holds its snapshot every version of the row stays, and a search would walk through them.
_WRITE = """
    update domicile.probe set writes = writes + 1
    where ctid = %s::pg_catalog.tid and move_id = %s returning ctid::text"""


class ProbeWriter:
    """Writes the move's row of ``domicile.probe``; durable like any commit of the server."""

    def __init__(self, conn: AsyncConnection, move_id: MoveId) -> None:
        self._conn = conn
        self._move_id = move_id
        self._place = ""

    async def write(self) -> None:
        """One write, committed. Raises psycopg.Error."""
        found = None
        if self._place:
            found = await (await self._conn.execute(_WRITE, (self._place, self._move_id))).fetchone()
        if found is None:  # the first time, or somebody has moved or removed the row
            await self._conn.execute(_FORGET, (self._move_id,))
            found = await (await self._conn.execute(_PLACE, (self._move_id,))).fetchone()
        assert found is not None
        self._place = found[0]


@asynccontextmanager
async def probe_writer(conninfo: str, move_id: MoveId) -> AsyncIterator[ProbeWriter]:
    """A session of its own for the probe; the move must be registered at the site. Raises DomicileError where it cannot
    be reached.

    It does not assert the mover's lease: a mover that has lost it writes nobody's row but its own.
    """
    async with await connect(conninfo, application_name=APPLICATION_NAME, settings=SESSION) as conn:
        try:
            yield ProbeWriter(conn, move_id)
        finally:
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(END_SECONDS_MAX):
                    await conn.execute(_FORGET, (move_id,))
