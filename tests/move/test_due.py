"""A wave that used a budget up is tried again when due, and may be paused or given up meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.move.cold_kit import FENCE, carried
from tests.move.live_kit import (
    COPY,
    ONE,
    PREPARE,
    arrived_whole,
    begun,
    no_trace,
    open_transaction,
    owned,
    plan_of,
    refused,
    through,
    traces,
    until,
)
from tests.move.places import Place, scalar

from domicile import commands
from domicile.commands.desk import open_desk
from domicile.model.errors import ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Limits, Mode
from domicile.model.report import MoveStatus
from domicile.move import due
from domicile.move.run import Outcome, run_phase

SLOTS = "select count(*) from pg_replication_slots where database = current_database()"
# A write lock, and no transaction id: it is in the way of a handover, and not of a slot.
IN_THE_WAY = "lock table store.review in row exclusive mode"
SHORT = replace(
    ONE, fence_seconds_max=0.5, catch_up_seconds_max=1.0, handover_tries=1, wave_tries=3, wave_retry_seconds=1.0
)


async def waiting(place: Place) -> str:
    """Wait until a wave waits to be tried again; returns what status says of it."""
    said = ""

    async def waits() -> bool:
        nonlocal said
        for status in await commands.status(place.workspace):
            said = next((w.error_hint for w in status.waves if "tried again at" in w.error_hint), said)
        return bool(said)

    await until(waits)
    return said


@asynccontextmanager
async def in_the_way(place: Place, limits: Limits) -> AsyncIterator[asyncio.Task[MoveStatus]]:
    """The move is being carried, and somebody is in the way of its only wave as long as the block runs."""
    plan = await plan_of(place, limits=limits)
    moving = asyncio.create_task(commands.apply(place.workspace, plan, mode=Mode.LIVE))
    await until(lambda: scalar(place.source, SLOTS))
    async with open_transaction(place.source, IN_THE_WAY):
        yield moving


async def test_it_moves_when_what_was_in_the_way_has_ended(place: Place) -> None:
    residents = await owned(place.target)
    async with in_the_way(place, SHORT) as moving:
        assert (await waiting(place)).endswith("try 2 of 3.")
        assert "slot" not in await traces(place.source), "nobody reads it, so it would keep the log"
    moved = await moving
    assert moved.status is Status.WAITING, moved
    await arrived_whole(place, residents)


async def test_its_tries_are_counted(place: Place) -> None:
    limits = replace(ONE, wal_bytes_max=1, wave_tries=2, wave_retry_seconds=0.5)
    failed = await commands.apply(place.workspace, await plan_of(place, limits=limits), mode=Mode.LIVE)
    assert failed.status is Status.FAILED
    (wave,) = failed.waves
    assert (wave.phase, wave.status) == (Phase.PLANNED, Status.FAILED)
    assert wave.error_code == ErrorCode.WAL_BUDGET
    assert "tried again" not in wave.error_hint, "nobody will"
    async with open_desk(place.workspace) as desk:
        events = "select count(*) from domicile_control.event where what = 'failed'"
        assert await (await desk.conn.execute(events)).fetchone() == (2,)


FAILED = "select count(*) from domicile_control.event where what = 'failed'"


async def test_what_does_not_pass_by_itself_waits_for_somebody(place: Place) -> None:
    """It would be carried at the second try. But nobody has looked at what such an error may have left."""
    plan = await plan_of(place, limits=replace(ONE, wave_tries=3, wave_retry_seconds=0.2))
    workspace = replace(place.workspace, failpoint="copy.before:error")
    failed = await commands.apply(workspace, plan, mode=Mode.LIVE)
    assert failed.status is Status.FAILED
    async with open_desk(place.workspace) as desk:
        assert await (await desk.conn.execute(FAILED)).fetchone() == (1,)


async def test_a_cold_wave_is_not_fenced_again_by_itself(place: Place) -> None:
    limits = replace(ONE, fence_seconds_max=0.5, wave_tries=3, wave_retry_seconds=0.2)
    async with carried(place, limits=limits) as carrier:
        assert await run_phase(carrier, 1, PREPARE) is Outcome.DONE
        async with open_transaction(place.source, IN_THE_WAY):
            assert await run_phase(carrier, 1, FENCE) is Outcome.FAILED
        wave = await carrier.figures.wave(carrier.move.move_id, 1)
        assert (wave.phase, wave.error_code) == (Phase.PLANNED, ErrorCode.FENCE_BUDGET)
        assert await asyncio.wait_for(due.wait(carrier, 1, 1, lambda: None), 15.0) == 0


class _Leaves(Exception):
    """What whoever waits raises when the move is another process's."""


async def test_who_is_to_leave_a_move_does_not_wait_on_with_it(place: Place) -> None:
    async with begun(place, limits=replace(ONE, wal_bytes_max=1, wave_retry_seconds=600.0)) as carrier:
        await through(carrier, PREPARE, COPY)
        await refused(carrier)

        def leave() -> None:
            raise _Leaves

        with pytest.raises(_Leaves):
            await asyncio.wait_for(due.wait(carrier, 1, 1, leave), 15.0)


@pytest.mark.parametrize("order", ["abort", pytest.param("pause", marks=pytest.mark.campaign)])
async def test_an_order_is_heeded_while_it_waits(place: Place, order: str) -> None:
    async with in_the_way(place, replace(SHORT, wave_retry_seconds=600.0)) as moving:
        await waiting(place)
        (status,) = await commands.status(place.workspace)
        give = commands.pause if order == "pause" else commands.abort
        given = asyncio.create_task(give(place.workspace, status.move_id))
        await asyncio.sleep(0.2)
    ended = await asyncio.wait_for(moving, 30.0)
    await given
    if order == "pause":
        assert ended.status is Status.PAUSED
        assert (await commands.resume(place.workspace, ended.move_id)).status is Status.WAITING
    else:
        assert ended.status is Status.ABORTED
        await no_trace(place)
