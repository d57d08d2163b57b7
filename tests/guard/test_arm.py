"""Arming: bounded waits, every partition, nothing left behind, no right needed by the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
import itertools
import os
import time

import psycopg
import pytest
from tests.guard.kit import HERE, OWNED, SHOP, Guarded, data_map, guarded, register

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.postgres import guard, site_schema
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema, schema_digest
from domicile.sites.embedded import EmbeddedCluster

TRIGGERS = """
    select count(*) from pg_catalog.pg_trigger where not tgisinternal and tgname like 'zz_domicile%' and tgenabled"""
EVENT = TableName("public", "event")
_numbers = itertools.count(1)


@pytest.fixture
async def role(pg18: EmbeddedCluster, database: str) -> AsyncIterator[str]:
    """A role of the application's, gone after the test."""
    name = f"shop_{os.getpid()}_{next(_numbers)}"
    async with await connect(pg18.conninfo()) as conn:
        await conn.execute(f"create role {name}")
        yield name
        async with await connect(database) as there:
            await there.execute(f"drop owned by {name}")
        await conn.execute(f"drop role {name}")


async def test_disarmed_it_neither_refuses_nor_counts_as_a_change_of_schema(shop: Guarded) -> None:
    before = await read_schema(shop.conn)
    await shop.mark("fenced")
    async with shop.writer("repeatable read") as writer:
        await writer.run("update orders set note = 'n' where id = 20; truncate event")
    await shop.arm()
    now = await read_schema(shop.conn)
    assert schema_digest(now, shop.tables) == schema_digest(before, shop.tables)


async def test_armed_is_armed_everywhere_and_twice_takes_no_lock(any_shop: Guarded) -> None:
    shop = any_shop
    assert await shop.value(f"{TRIGGERS} <> 'D'") == 0
    await shop.arm()
    off = await shop.value(f"{TRIGGERS} = 'D'")
    on = await shop.value(f"{TRIGGERS} = 'O'")
    assert (off, on) == (0, 2 * (len(shop.tables) + 2))  # the two leaves beside their root
    async with shop.writer() as busy:
        await busy.run("update orders set note = 'n' where id = 120")
        started = time.monotonic()
        await shop.arm()
        assert time.monotonic() - started < 1
        await guard.install(shop.conn, shop.data_map, await read_schema(shop.conn), here=HERE)
    assert await shop.value(f"{TRIGGERS} = 'O'") == on
    await guard.disarm(shop.conn, shop.tables)
    await guard.disarm(shop.conn, shop.tables)
    assert await shop.value(f"{TRIGGERS} <> 'D'") == 0
    await guard.remove(shop.conn, shop.tables)
    await guard.remove(shop.conn, shop.tables)
    assert await shop.value(f"{TRIGGERS} is not null") == 0
    assert await shop.value("select count(*) from pg_proc where proname ~ '^guard_[0-9]'") == 0
    assert await shop.value("select count(*) from domicile.guarded") == 0


async def test_a_partition_made_later_is_guarded_as_its_root_is(any_shop: Guarded) -> None:
    shop = any_shop

    async def add(year: int) -> None:
        await shop.conn.execute(
            f"create table public.event_{year} partition of public.event"
            f" for values from ('{year}-01-01') to ('{year + 1}-01-01')"
        )
        await shop.conn.execute(f"insert into public.event select g, '{year}-02-02' from generate_series(1, 20) g")

    await add(2030)  # disarmed, after the installation
    assert await shop.value(f"{TRIGGERS} <> 'D'") == 0
    await shop.arm()
    await add(2031)
    await shop.conn.execute(
        "create table public.event_2032 (user_id bigint not null, what text, at date not null);"
        "insert into public.event_2032 values (2, '', '2032-02-02'), (12, '', '2032-02-02');"
        "alter table public.event attach partition public.event_2032 for values from ('2032-01-01') to ('2033-01-01')"
    )
    await shop.fence()
    async with shop.writer() as writer:
        for year in (2030, 2031, 2032):
            await writer.refused(f"delete from event_{year} where user_id = 2", "DM002")
            await writer.refused(f"delete from event where user_id = 2 and at >= '{year}-01-01'", "DM002")
            await writer.refused(f"truncate event_{year}", "DM002")
            await writer.run(f"delete from event_{year} where user_id = 12")
            await writer.commit()


async def test_a_long_writer_stops_the_arming_and_holds_up_nobody(shop: Guarded) -> None:
    async with shop.writer() as long, shop.writer() as other:
        await long.run("update orders set note = 'n' where id = 120")
        await asyncio.sleep(0.2)
        arming = asyncio.create_task(guard.arm(shop.conn, shop.tables, lock_timeout_ms=100, seconds_max=1.5))
        slowest = 0.0
        while not arming.done():
            started = time.monotonic()
            await other.run("update orders set note = 'n' where id = 130")
            await other.commit()
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.01)
        with pytest.raises(DomicileError) as caught:
            await arming
        assert caught.value.code is ErrorCode.FENCE_BUDGET
        assert "public.orders" in caught.value.message
        facts = caught.value.facts["blockers"]
        assert long.conn.info.backend_pid in [b["pid"] for b in facts]  # type: ignore[attr-defined]  # plain JSON
        assert slowest < 1
        await long.commit()
    await shop.arm()


async def test_short_writers_do_not_stop_the_arming(shop: Guarded) -> None:
    stop = asyncio.Event()

    async def write(row: int) -> None:
        async with shop.writer() as writer:
            while not stop.is_set():
                await writer.run(f"update orders set note = 'n' where id = {row}")
                await asyncio.sleep(0.01)
                await writer.commit()

    writers = [asyncio.create_task(write(row)) for row in (110, 120, 130, 140)]
    try:
        await asyncio.sleep(0.2)
        await shop.fence()
    finally:
        stop.set()
        await asyncio.gather(*writers)
    async with shop.writer() as writer:
        await writer.refused("update orders set note = 'n' where id = 20", "DM002")


async def test_autovacuum_gives_way(pg18: EmbeddedCluster, shop: Guarded) -> None:
    """An autovacuum may take hours; it conflicts, and yields only to who waits for deadlock_timeout."""
    await shop.conn.execute("insert into public.orders select g, 'filler', 12 from generate_series(1000, 40000) g")
    await shop.conn.execute("delete from public.orders where id >= 1000")
    await shop.conn.execute(
        "alter table public.orders set (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)"
    )
    async with await connect(pg18.conninfo()) as conn:
        await conn.execute("alter system set autovacuum_naptime = '1s'")
        await conn.execute("select pg_reload_conf()")
        working = "select count(*) from pg_stat_progress_vacuum where relid = 'public.orders'::regclass"
        try:
            for _ in range(200):
                if await shop.value(working):
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.skip("autovacuum did not come within 20 s")
            await guard.arm(shop.conn, shop.tables, lock_timeout_ms=100, seconds_max=5)
        finally:
            await conn.execute("alter system reset autovacuum_naptime")
            await conn.execute("select pg_reload_conf()")


async def test_a_table_without_its_trigger_is_not_taken_for_armed(shop: Guarded) -> None:
    await shop.conn.execute("drop trigger zz_domicile_guard on public.event")
    with pytest.raises(DomicileError) as caught:
        await shop.arm()
    assert caught.value.code is ErrorCode.SCHEMA_CHANGED
    assert "public.event" in caught.value.message
    await guard.install(shop.conn, shop.data_map, await read_schema(shop.conn), here=HERE)
    await shop.arm()


async def test_a_trigger_that_runs_after_the_guard_is_refused(shop: Guarded) -> None:
    await shop.conn.execute(
        "create function public.f() returns trigger language plpgsql as 'begin new.user_id := 2; return new; end';"
        "create trigger zzz before insert on public.orders for each row execute function public.f()"
    )
    with pytest.raises(DomicileError) as caught:
        await guard.install(shop.conn, shop.data_map, await read_schema(shop.conn), here=HERE)
    assert caught.value.code is ErrorCode.SETTING_WRONG
    assert caught.value.facts["triggers"] == ["public.orders: zzz"]


async def test_an_application_without_any_right_is_refused_and_cannot_fool_the_guard(shop: Guarded, role: str) -> None:
    await shop.conn.execute(
        f"grant all on all tables in schema public to {role};"
        f"create schema evil authorization {role}; set role {role};"
        "create function evil.never(bigint, bigint) returns boolean language sql immutable as 'select false';"
        "create function evil.never(int, int) returns boolean language sql immutable as 'select false';"
        "create function evil.never(text, text) returns boolean language sql immutable as 'select false';"
        "create function evil.never(oid, oid) returns boolean language sql immutable as 'select false';"
        "create operator evil.= (leftarg = bigint, rightarg = bigint, function = evil.never);"
        "create operator evil.= (leftarg = int, rightarg = int, function = evil.never);"
        "create operator evil.= (leftarg = text, rightarg = text, function = evil.never);"
        "create operator evil.= (leftarg = oid, rightarg = oid, function = evil.never);"
        "create operator evil.<> (leftarg = text, rightarg = text, function = evil.never);"
        "create operator evil.~~ (leftarg = text, rightarg = text, function = evil.never);"
        "create function evil.current_setting(text) returns text language sql as $$select 'read committed'$$;"
        "create view evil.member as select 0 as wave, 0 as ordinal, 0::bigint as subject;"
        "create domain evil.int4 as text; create domain evil.text as int; reset role"
    )
    await shop.fence()
    async with shop.writer(role=role) as writer, shop.writer("repeatable read", role=role) as other:
        for one in (writer, other):
            for statement in (
                "select * from domicile.member",
                "select domicile.guard_ask(1, 1, 0, false, null)",
                "select domicile.guard_snapshot()",
            ):
                await one.refused(statement, "42501")
            for path in ("public", "evil, public, pg_catalog", "evil, pg_catalog, domicile, public"):
                await one.run(f"set search_path = {path}")
                await one.commit()
                await one.refused("insert into public.orders values (1, '', 2)", "DM002")
                await one.refused("update public.item set qty = 2 where true", "DM002")
                await one.refused("delete from public.address where true", "DM002")
                await one.refused("truncate public.event", "DM002")
                await one.run("insert into public.orders values (1, '', 12)")
                await one.conn.rollback()
    async with shop.writer("repeatable read", role=role) as old:
        await old.run("set search_path = evil, pg_catalog, public")
        await shop.mark("open")
        await shop.mark("fenced")
        await old.refused("update public.item set qty = 2 where true", "40001")


async def test_a_mover_without_ownership_is_told_so(shop: Guarded, role: str) -> None:
    await shop.conn.execute(
        f"grant usage, create on schema domicile to {role}; grant all on all tables in schema domicile to {role}"
    )
    async with await connect(shop.conninfo, settings=SESSION) as conn:
        await conn.execute(
            f"alter table domicile.member owner to {role}; alter table domicile.wave owner to {role}; set role {role}"
        )
        with pytest.raises(DomicileError) as caught:
            await guard.arm(conn, shop.tables, lock_timeout_ms=100, seconds_max=1)
        assert caught.value.code is ErrorCode.RIGHT_MISSING
        assert "public." in caught.value.message


async def test_the_site_schema_is_installed_once_for_one_type_of_key(database: str, role: str) -> None:
    async with await connect(database, settings=SESSION) as one, await connect(database, settings=SESSION) as two:
        await asyncio.gather(*(site_schema.install(conn, "bigint") for conn in (one, two)))
        await register(one, [7])
        await site_schema.install(one, "bigint")
        with pytest.raises(DomicileError) as caught:
            await site_schema.install(one, "uuid")
        assert caught.value.code is ErrorCode.SCHEMA_CHANGED
        await one.execute("drop schema domicile cascade")
        await one.execute(f"set role {role}")
        with pytest.raises(DomicileError) as caught:
            await site_schema.install(one, "bigint")
        assert caught.value.code is ErrorCode.RIGHT_MISSING


async def test_a_mark_needs_its_wave(shop: Guarded) -> None:
    with pytest.raises(AssertionError):
        await guard.set_fence(shop.conn, 999, "fenced", HERE, 1)


async def test_no_guard_function_outlives_its_table(database: str) -> None:
    async with guarded(database, SHOP, data_map("public.users", OWNED)) as shop:
        await shop.conn.execute("drop table public.event")
        await guard.remove(shop.conn, shop.tables)
        assert await shop.value("select count(*) from pg_proc where proname ~ '^guard_[0-9]'") == 0
        with pytest.raises(psycopg.errors.UndefinedTable):
            await shop.conn.execute("select * from public.event")


async def test_nobody_disarms_what_a_wave_needs(shop: Guarded) -> None:
    await shop.fence()
    for mark in ("fenced", "arriving", "departed"):
        await shop.mark(mark)
        await guard.disarm(shop.conn, shop.tables)
        assert await shop.value(f"{TRIGGERS} = 'D'") == 0
    async with shop.writer() as writer:
        await writer.refused("truncate event", "DM002")
        await shop.conn.execute("update domicile.wave set purged_at = now()")
        await writer.run("truncate event")
        await writer.conn.rollback()
        await writer.refused("update orders set note = 'n' where id = 20", "DM001")  # as long as another wave needs it
    await guard.disarm(shop.conn, shop.tables)
    assert await shop.value(f"{TRIGGERS} = 'O'") == 0


async def test_a_guard_disarmed_between_arming_and_fence_is_noticed(shop: Guarded) -> None:
    """Two moves at one site: the one that ends disarms just before the other's mark."""
    await shop.arm()
    await guard.disarm(shop.conn, shop.tables)
    await shop.mark("fenced")
    with pytest.raises(DomicileError, match="disarmed while the fence closed") as caught:
        await shop.drain()
    assert caught.value.code is ErrorCode.FENCE_BUDGET


async def test_a_disarming_under_way_is_waited_for_by_the_drain_and_noticed(shop: Guarded) -> None:
    await shop.arm()
    async with await connect(shop.conninfo, settings=SESSION) as other:
        await other.execute("begin; alter table public.orders disable trigger zz_domicile_guard")
        await shop.mark("fenced")
        draining = asyncio.create_task(shop.drain())
        await asyncio.sleep(0.2)
        assert not draining.done()
        await other.execute("commit")
        with pytest.raises(DomicileError, match="disarmed while the fence closed"):
            await draining
