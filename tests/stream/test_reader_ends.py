"""How a stream ends: what was dropped, ended or killed is told apart, and whoever leaves it leaves nothing running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg import sql
import pytest
from tests.stream.test_reader import MARK, MOVE, Origin, kinds, origin_at, refusal, until_commit, wait_for

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites.embedded import EmbeddedCluster
from domicile.stream import slot
from domicile.stream.reader import open_reader


@pytest.fixture
async def origin(any_database: str) -> AsyncIterator[Origin]:
    async with origin_at(any_database) as found:
        yield found


@asynccontextmanager
async def own_cluster(any_cluster: EmbeddedCluster, scratch: Path, name: str) -> AsyncIterator[EmbeddedCluster]:
    """A server of the same version that a test may stop."""
    cluster = await EmbeddedCluster.create(scratch, name, bindir=any_cluster.binaries.bindir)
    async with cluster:
        yield cluster
    await cluster.destroy()


async def test_a_slot_that_is_dropped_is_lost_and_says_so(origin: Origin) -> None:
    async with origin.reader() as reader:
        await slot.drop(origin.conn, MOVE, seconds_max=0.1)
        error = await refusal(reader)
        assert error.code is ErrorCode.STREAM_LOST
        assert error.facts["slot"] == origin.name
    with pytest.raises(DomicileError) as caught:
        async with origin.reader():
            pass
    assert caught.value.code is ErrorCode.STREAM_LOST


async def test_a_publication_that_is_dropped_is_lost_and_not_passed_over(origin: Origin) -> None:
    """Since 18 the server only warns, and goes on without the changes."""
    async with origin.reader() as reader:
        await origin.run("insert into orders values (1)")
        assert kinds(await until_commit(reader)) == "BIC"
        await origin.conn.execute(sql.SQL("drop publication {}").format(sql.Identifier(origin.name)))
        await origin.run("insert into orders values (2)")
        await origin.conn.execute(MARK, ("end",))
        assert (await refusal(reader)).code is ErrorCode.STREAM_LOST


async def test_a_session_that_is_ended_is_unreachable_and_the_stream_goes_on(origin: Origin) -> None:
    async with origin.reader() as reader:
        await origin.conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_replication where application_name = %s", (origin.name,)
        )
        error = await refusal(reader)
        assert error.code is ErrorCode.SITE_UNREACHABLE
        assert error.facts["sqlstate"] in ("57P01", "")
    await origin.run("insert into orders values (1)")
    async with origin.reader() as reader:
        assert kinds(await until_commit(reader)) == "BIC"


async def test_a_second_reader_is_turned_away(origin: Origin) -> None:
    async with origin.reader() as reader:
        with pytest.raises(DomicileError) as caught:
            async with origin.reader():
                pass
        assert caught.value.code is ErrorCode.STREAM_BLOCKED
        await origin.run("insert into orders values (1)")
        assert kinds(await until_commit(reader)) == "BIC"


async def test_a_server_that_goes_is_unreachable(any_cluster: EmbeddedCluster, scratch: Path) -> None:
    """18 is killed, 15 is shut down, which ends the stream without an error."""
    async with own_cluster(any_cluster, scratch, f"goes-{any_cluster.name}") as cluster:
        async with origin_at(cluster.conninfo()) as origin, origin.reader() as reader:
            reading = asyncio.create_task(refusal(reader))
            await asyncio.sleep(0.1)
            await (cluster.stop() if cluster.binaries.major == 15 else cluster.kill())
            assert (await reading).code is ErrorCode.SITE_UNREACHABLE
        with pytest.raises(DomicileError) as caught:
            async with origin.reader():
                pass
        assert caught.value.code is ErrorCode.SITE_UNREACHABLE
        await cluster.start()  # the port is another one
        async with open_reader(cluster.conninfo(), origin.name, origin.name, 0, binary=True) as reader:
            assert await reader.read(wait_s=0.2) == []


async def test_cancelled_it_leaves_no_process_behind(origin: Origin) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async with origin.reader() as reader:
            begun.set()
            while True:
                await reader.read()

    reading = asyncio.create_task(read())
    await begun.wait()
    await asyncio.sleep(0.1)
    assert await origin.walsenders() == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await wait_for(lambda: gone(origin))
    assert (await origin.facts()).active_pid is None


async def test_left_in_the_middle_of_much_data_it_leaves_no_process_behind(origin: Origin) -> None:
    async with origin.reader() as reader:
        await origin.run("insert into orders select i, null, repeat('x', 2000) from generate_series(1, 20000) i")
        await reader.read(1, 10)
    await wait_for(lambda: gone(origin))


async def gone(origin: Origin) -> bool:
    return await origin.walsenders() == 0
