"""Past the open transaction of a mover that is believed dead: its session ends, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.postgres import site_schema, waves
from domicile.postgres.connect import connect
from domicile.postgres.lease import assert_lease
from domicile.postgres.takeover import unhindered

MOVE = MoveId("store-a-b-1")


def registered(generation: int) -> waves.MoveAtSite:
    return waves.MoveAtSite(MOVE, DatasetName("store"), SiteName("a"), "source", SiteName("b"), generation)


@asynccontextmanager
async def holding(conninfo: str, application: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A session in a transaction that holds the lease of generation 1, as every write transaction of a mover does."""
    async with await connect(conninfo, autocommit=False, application_name=application) as conn:
        await assert_lease(conn, MOVE, 1)
        yield conn


async def test_an_open_transaction_of_the_former_mover_is_ended(database: str) -> None:
    async with await connect(database) as conn, await connect(database) as eye:
        await site_schema.install(conn, "bigint")
        await waves.register_move(conn, registered(1))
        async with holding(database, "domicile mover") as former:
            await asyncio.wait_for(unhindered(waves.register_move(conn, registered(2)), conn, eye), 20)
            with pytest.raises(psycopg.OperationalError):
                await former.execute("select 1")
        with pytest.raises(DomicileError) as lost:
            await assert_lease(conn, MOVE, 1)
        assert lost.value.code is ErrorCode.LEASE_LOST


async def test_a_transaction_that_is_just_ending_is_waited_for(database: str) -> None:
    async with await connect(database) as conn, await connect(database) as eye:
        await site_schema.install(conn, "bigint")
        await waves.register_move(conn, registered(1))
        async with holding(database, "domicile mover") as former:
            raising = asyncio.create_task(unhindered(waves.register_move(conn, registered(2)), conn, eye))
            await asyncio.sleep(0.5)
            await former.commit()
            await raising


async def test_who_comes_late_does_not_lower_the_generation(database: str) -> None:
    async with await connect(database) as conn:
        await site_schema.install(conn, "bigint")
        for generation in (1, 3, 2):
            await waves.register_move(conn, registered(generation))
        await assert_lease(conn, MOVE, 3)
        with pytest.raises(DomicileError) as lost:
            await assert_lease(conn, MOVE, 2)
        assert lost.value.code is ErrorCode.LEASE_LOST


async def test_sessions_of_others_are_never_ended(database: str) -> None:
    async with await connect(database) as conn, await connect(database) as eye:
        await site_schema.install(conn, "bigint")
        await waves.register_move(conn, registered(1))
        async with holding(database, "shop") as other:
            raising = asyncio.create_task(unhindered(waves.register_move(conn, registered(2)), conn, eye))
            await asyncio.sleep(4)
            assert not raising.done()
            await other.commit()
            await asyncio.wait_for(raising, 20)
