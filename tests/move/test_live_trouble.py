"""What goes wrong while a live wave is on its way: the source serves, nothing is lost, and there is a way on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
import time

import psycopg
import pytest
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    ONE,
    PREPARE,
    TOUCH,
    arrived_whole,
    begun,
    busy,
    closing,
    ended,
    held,
    open_transaction,
    owned,
    people,
    plan_of,
    refused,
    through,
    traces,
    until,
    write,
)
from tests.move.places import TARGET, Place, execute, scalar

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode

WALSENDERS = """
    select count(pg_terminate_backend(active_pid)) from pg_replication_slots
    where database = current_database() and active_pid is not null"""
SESSIONS = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where datname = current_database() and starts_with(application_name, 'domicile') and pid <> pg_backend_pid()"""


SLOTS = "select count(*) from pg_replication_slots where database = current_database()"
DROP_SLOTS = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()"
HUGE = """
    insert into store.review (user_id, product_id, stars, body)
    select u.id, 1, 1 + n % 5, 'huge' from store.user_account as u, generate_series(1, 600) as n
    where u.market in ('IN', 'MY')"""


async def served(place: Place) -> None:
    """Every Indian can be written at the source, and none is at the target."""
    for user in await people(place.source):
        assert await write(place.source, user) == ""
    assert await scalar(place.target, "select count(*) from store.user_account where market = 'IN'") == 0
    assert not {"slot", "publication", "armed guard"} & (await traces(place.source)).keys()


# Tables that change


@pytest.mark.parametrize("touched", [True, False], ids=["with a change to a row", "without"])
async def test_a_column_that_is_added_ends_the_wave(place: Place, touched: bool) -> None:
    """Its values would be missing at the target, also where no message of the stream speaks of them."""
    somebody = (await people(place.source))[0]
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.source, "alter table store.user_account add column token uuid default gen_random_uuid()")
        if touched:
            await execute(place.source, TOUCH.format(somebody))
        wave = await refused(carrier)
        await ended(carrier)
    assert wave.error_code == ErrorCode.SCHEMA_CHANGED
    await served(place)
    with pytest.raises(DomicileError) as stale:
        await commands.resume(place.workspace, carrier.move.move_id)
    assert stale.value.code is ErrorCode.SCHEMA_CHANGED
    assert "plan again" in stale.value.hint
    await execute(place.target, "alter table store.user_account add column token uuid default gen_random_uuid()")
    await commands.abort(place.workspace, carrier.move.move_id)
    moved = await commands.apply(place.workspace, await plan_of(place), mode=Mode.LIVE)
    assert moved.status is Status.WAITING, moved


async def test_a_column_that_is_dropped_at_the_target_ends_the_wave(place: Place) -> None:
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.target, "alter table store.device drop column model")
        wave = await refused(carrier)
        await ended(carrier)
    assert wave.error_code == ErrorCode.SCHEMA_CHANGED
    assert await write(place.source, (await people(place.source))[0]) == ""


async def test_an_index_that_is_added_is_nobody_s_business(place: Place) -> None:
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.source, "create index on store.review (created_at)")
        await through(carrier, CATCHUP)
    await arrived_whole(place, residents)


async def test_a_truncated_table_ends_the_wave_and_is_copied_anew(place: Place) -> None:
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.source, "truncate store.device")
        wave = await refused(carrier)
        await ended(carrier)
    assert wave.error_code == ErrorCode.STREAM_TRUNCATED
    await served(place)
    moved = await commands.resume(place.workspace, carrier.move.move_id)
    assert moved.status is Status.WAITING, moved
    await arrived_whole(place, residents)
    assert await scalar(place.target, "select count(*) from store.device where user_id < 1000000000000") == 0


async def test_a_table_cannot_be_truncated_while_the_fence_closes(place: Place) -> None:
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
            group.create_task(through(carrier, CATCHUP))
            await closing(place)
            with pytest.raises(psycopg.Error, match="truncate"):
                await execute(place.source, "truncate store.device")
            await outsider.rollback()
    await arrived_whole(place, residents)


# Connections and slots that go


async def no_slot(conninfo: str) -> bool:
    """Drop the slot that a stream reads, whoever holds it; False when it was taken again in between."""
    await scalar(conninfo, WALSENDERS)
    with suppress(psycopg.errors.ObjectInUse):
        await execute(conninfo, DROP_SLOTS)
    return not await scalar(conninfo, SLOTS)


async def test_the_slot_is_dropped_under_the_stream(place: Place) -> None:
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
            moving = group.create_task(refused(carrier))
            await closing(place)
            await until(lambda: no_slot(place.source))
            wave = await moving
            await outsider.rollback()
        await ended(carrier)
    assert wave.error_code == ErrorCode.STREAM_LOST
    await served(place)
    moved = await commands.resume(place.workspace, carrier.move.move_id)
    assert moved.status is Status.WAITING, moved
    await arrived_whole(place, residents)


@pytest.mark.parametrize("which", ["walsender", "sessions at the target", "sessions at the source"])
async def test_connections_that_break_cost_nothing_but_time(place: Place, seed: int, which: str) -> None:
    async with busy(place, seed) as writers:
        async with begun(place) as carrier:
            await through(carrier, PREPARE, COPY)
            site = place.target if which == "sessions at the target" else place.source
            ended = 0
            async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
                moving = group.create_task(through(carrier, CATCHUP))
                for _ in range(4):
                    await asyncio.sleep(0.5)
                    ended += int(str(await scalar(site, WALSENDERS if which == "walsender" else SESSIONS)))
                    assert not moving.done()
                await outsider.rollback()
            assert ended > 0
        assert (await commands.status(place.workspace, carrier.move.move_id))[0].waves[0].phase is Phase.SOAK
        await commands.purge(place.workspace, carrier.move.move_id)
        await writers.verdict(visited=(TARGET,))


# Budgets


async def slowest(conninfo: str, user: int, stop: asyncio.Event) -> float:
    """Write for a user over and over; the seconds that the slowest write took."""
    worst = 0.0
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        while not stop.is_set():
            started = time.monotonic()
            await conn.execute(TOUCH.format(user).encode())
            worst = max(worst, time.monotonic() - started)
            await asyncio.sleep(0.005)
    return worst


async def test_a_writer_of_the_wave_who_does_not_end_is_named_and_nobody_else_waits(place: Place) -> None:
    """He holds the wave's lock for longer than its other writers may be kept waiting: tried again until he ends."""
    residents = await owned(place.target)
    one, other, *_ = await people(place.source)
    stranger = (await people(place.source, "CN"))[0]
    stop = asyncio.Event()
    limits = replace(ONE, pause_ms_max=100, fence_seconds_max=1.0)
    async with begun(place, limits=limits) as carrier:
        await through(carrier, PREPARE, COPY)
        async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
            group.create_task(through(carrier, CATCHUP))
            await closing(place)
            async with open_transaction(place.source, TOUCH.format(one)) as writer:
                await outsider.rollback()
                times = [group.create_task(slowest(place.source, user, stop)) for user in (stranger, other)]
                await asyncio.sleep(3.0)
                stop.set()
                (status,) = await commands.status(place.workspace, carrier.move.move_id)
                await writer.commit()
                pid = writer.info.backend_pid
    figures = status.waves[0].live
    assert figures is not None
    assert figures.tries > 0
    assert "transactions were in the way" in figures.last_try
    assert pid in [b.pid for b in figures.blockers]
    outside, inside = [task.result() for task in times]
    assert outside < 0.5
    assert inside < 1.0, "the lock is not asked for longer than the pause may be"
    await arrived_whole(place, residents)
    assert str(await scalar(place.target, "select full_name from store.user_account where id = %s", one)).endswith("!")


async def test_the_log_that_the_stream_keeps_has_a_budget(place: Place) -> None:
    async with begun(place, limits=replace(ONE, wal_bytes_max=100_000)) as carrier:
        await through(carrier, PREPARE, COPY)
        async with held(place, carrier) as outsider, asyncio.TaskGroup() as group:
            moving = group.create_task(refused(carrier))
            await execute(place.source, "select pg_logical_emit_message(false, 'other', repeat('x', 1000000))")
            wave = await moving
            await outsider.rollback()
        await ended(carrier)
    assert wave.error_code == ErrorCode.WAL_BUDGET
    await served(place)


async def test_an_old_transaction_uses_up_the_time_to_catch_up_and_is_named(place: Place) -> None:
    limits = replace(ONE, catch_up_seconds_max=1.0, fence_seconds_max=0.5)
    async with begun(place, limits=limits) as carrier:
        await through(carrier, PREPARE, COPY)
        async with held(place, carrier) as outsider:
            await asyncio.sleep(0.6)
            wave = await refused(carrier)
            assert f"write: {outsider.info.backend_pid}" in wave.error_message
        await ended(carrier)
    assert wave.error_code == ErrorCode.LAG_BUDGET
    await served(place)


@pytest.mark.parametrize("ending", ["commit prepared 'somebody'", "rollback prepared 'somebody'"])
async def test_a_prepared_transaction_is_named_until_somebody_ends_it(place: Place, ending: str) -> None:
    residents = await owned(place.target)
    one = (await people(place.source))[0]
    async with begun(place, limits=replace(ONE, handover_tries=2, fence_seconds_max=1.0)) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_transaction(place.source, TOUCH.format(one)) as writer:
            await writer.execute("prepare transaction 'somebody'")
            await writer.rollback()
        wave = await refused(carrier)
        await ended(carrier)
    assert wave.error_code == ErrorCode.FENCE_BUDGET
    assert "1 of them prepared" in wave.error_message
    await execute(place.source, ending)
    moved = await commands.resume(place.workspace, carrier.move.move_id)
    assert moved.status is Status.WAITING, moved
    await arrived_whole(place, residents)


async def test_a_huge_transaction(place: Place) -> None:
    """More changes than are kept in memory at once, with rows of outsiders between them and a row that is changed
    twice; and another that is rolled back."""
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(
            place.source,
            f"begin; {HUGE}; update store.review set body = body || '?' where body = 'huge' and id %% 5 = 0;"
            " delete from store.review where body = 'huge' and id %% 7 = 0; commit".replace("%%", "%"),
            f"begin; {HUGE}; rollback",
        )
        await through(carrier, CATCHUP)
    await arrived_whole(place, residents)
    assert (
        int(str(await scalar(place.target, "select count(*) from store.review where body in ('huge', 'huge?')")))
        > 18_000
    )
