"""Above READ COMMITTED a writer does not see marks younger than its snapshot: it must fail instead of passing."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.guard.kit import HERE, OWNED, SHOP, THERE, Guarded, data_map, guarded, register

from domicile.postgres import guard
from domicile.postgres.connect import SESSION, connect

SNAPSHOT_LEVELS = ("repeatable read", "serializable")
WRITES = (
    "insert into orders values (1, '', 2)",
    "update orders set note = 'n' where id = 20",
    "update orders set user_id = 2 where id = 110",
    "delete from orders where id = 20",
    "update item set qty = 2 where id = 200",
    "update address set street = 's' where id = 2",
    "update event set what = 'n' where user_id = 2",
    """insert into profile values (30, '{"user": 2}')""",
    "truncate outside, item",
)


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
async def test_a_snapshot_older_than_the_fence_fails_with_40001(any_shop: Guarded, level: str) -> None:
    for statement in WRITES:
        async with any_shop.writer(level) as writer:
            await any_shop.fence()
            error = await writer.refused(statement, "40001")
            assert "fenced after this transaction took its snapshot" in str(error)
            await writer.refused(statement, "DM002")  # tried again, as 40001 asks for: the true answer
        await any_shop.mark("open")


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
async def test_a_snapshot_older_than_the_guard_itself_fails_too(any_database: str, level: str) -> None:
    """No table of domicile's was there when these transactions began."""
    async with await connect(any_database, settings={**SESSION, "search_path": "public"}) as conn:
        await conn.execute(SHOP.encode())
    old = [await psycopg.AsyncConnection.connect(any_database) for _ in WRITES]
    for conn in old:
        await conn.set_isolation_level(psycopg.IsolationLevel[level.upper().replace(" ", "_")])
        await conn.execute("select 1 from pg_catalog.pg_class limit 1")
    async with guarded(any_database, "", data_map("public.users", OWNED)) as shop:
        await shop.fence()
        for conn, statement in zip(old, WRITES, strict=True):
            with pytest.raises(psycopg.errors.SerializationFailure):
                await conn.execute(statement.encode())
            await conn.close()


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
async def test_without_the_comparison_such_a_writer_would_pass(shop: Guarded, level: str) -> None:
    """Negative control: the tests above can see the hole."""
    await shop.conn.execute(
        "create or replace function domicile.guard_snapshot() returns void language plpgsql as 'begin end'"
    )
    async with shop.writer(level) as writer:
        await shop.fence()
        await writer.run("update orders set note = 'late' where id = 20")
        await writer.commit()
    assert await shop.value("select note from public.orders where id = 20") == "late"


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
async def test_a_savepoint_does_not_get_past_it(shop: Guarded, level: str) -> None:
    async with shop.writer(level) as writer:
        await shop.fence()
        for _ in range(2):
            with pytest.raises(psycopg.errors.SerializationFailure):
                async with writer.conn.transaction():
                    await writer.run("update orders set note = 'n' where id = 20")
        await writer.commit()
    assert await shop.value("select note from public.orders where id = 20") == ""


@pytest.mark.parametrize("level", ["read committed", *SNAPSHOT_LEVELS])
async def test_an_outsider_writes_on_after_the_fence(shop: Guarded, level: str) -> None:
    await shop.fence()
    for mark in ("departed", "open"):
        async with shop.writer(level) as writer:
            await writer.run("update orders set note = 'n' where id = 120")
            # Neither a departure nor a step back is a new fence: transactions begun under the fence go on.
            await shop.mark(mark)
            await writer.run("update orders set note = 'n' where id = 130")
            await writer.commit()


async def test_an_outsider_with_an_older_snapshot(shop: Guarded) -> None:
    """Where the row itself names its owner, it passes. Where a snapshot older than the fence would have to say whose
    the row is, the transaction must be repeated; READ COMMITTED never."""
    async with shop.writer("repeatable read") as old, shop.writer("read committed") as plain:
        await shop.fence()
        await plain.run("update item set qty = 2 where id = 1300")
        await plain.commit()
        await old.run("update orders set note = 'n' where id = 120")
        await old.refused("update item set qty = 2 where id = 1200", "40001")
        await old.run("update item set qty = 2 where id = 1200")
        await old.commit()


async def test_a_fence_that_was_rolled_back_needs_no_repair(shop: Guarded) -> None:
    await shop.arm()
    async with shop.writer("repeatable read") as writer:
        async with shop.conn.transaction(force_rollback=True):
            await shop.mark("fenced")
        await writer.run("update orders set note = 'n' where id = 20")
        await writer.commit()
        async with shop.conn.transaction(force_rollback=True):
            await shop.mark("fenced")
            # fence_xid is written at the commit, so only a crash within it can leave it behind; as here.
            await shop.conn.execute("set constraints all immediate")
        await writer.run("update orders set note = 'n' where id = 20")
        await writer.commit()


async def test_two_fences_at_once_are_written_one_after_the_other(shop: Guarded) -> None:
    """The later fence may have the lower xid; a snapshot between the two must still be found old."""
    await shop.arm()
    other = await register(shop.conn, [12], move="m2")
    async with (
        await connect(shop.conninfo, settings=SESSION) as first,
        await connect(shop.conninfo, settings=SESSION) as second,
    ):
        async with first.transaction():
            await first.execute("select pg_current_xact_id()")  # the lower one
            await guard.set_fence(second, other, "fenced", HERE, 4)
            async with shop.writer("repeatable read") as between:
                await guard.set_fence(first, shop.wave, "fenced", HERE, 4)
                await first.execute("commit")
                await first.execute("begin")  # what the block will end
                await between.refused("update orders set note = 'n' where id = 20", "40001")


async def test_the_second_of_two_fences_waits_for_the_first(shop: Guarded) -> None:
    other = await register(shop.conn, [12], move="m2")
    async with (
        await connect(shop.conninfo, settings=SESSION) as first,
        await connect(shop.conninfo, settings=SESSION) as second,
    ):
        await first.execute("begin")
        await guard.set_fence(first, shop.wave, "fenced", HERE, 3)
        await first.execute("set constraints all immediate")  # as at its commit
        later = asyncio.create_task(guard.set_fence(second, other, "fenced", HERE, 4))
        await asyncio.sleep(0.2)
        assert not later.done()
        await first.execute("commit")
        await later


async def test_departures_wait_for_each_other_too(shop: Guarded) -> None:
    """Their members are known to the guard's filter: they do not meet at its lock."""
    other = await register(shop.conn, [12], move="m2")
    await shop.arm()
    for wave in (shop.wave, other):
        await guard.set_fence(shop.conn, wave, "closing", HERE, 3)
    async with (
        await connect(shop.conninfo, settings=SESSION) as first,
        await connect(shop.conninfo, settings=SESSION) as second,
    ):
        await first.execute("begin")
        await guard.set_fence(first, shop.wave, "departed", THERE, 4)
        await first.execute("set constraints all immediate")  # as at its commit
        later = asyncio.create_task(guard.set_fence(second, other, "departed", THERE, 4))
        await asyncio.sleep(0.2)
        assert not later.done()
        await first.execute("commit")
        await later


async def test_a_wave_that_arrives_with_its_members_is_a_fence(shop: Guarded) -> None:
    """At the target the mark is written with the members, by an INSERT, in a session in the replica role."""
    await shop.arm()
    async with shop.writer("repeatable read") as old:
        await shop.conn.execute("set session_replication_role = replica")
        await register(shop.conn, [15], mark="arriving", move="m2")
        await old.refused("update orders set note = 'n' where id = 150", "40001")
        await old.refused("update orders set note = 'n' where id = 150", "DM002")
