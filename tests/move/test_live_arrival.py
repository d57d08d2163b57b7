"""The arrival of a live wave: what it refuses, and what becomes of it when nobody hears how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.move.line import Deed, doing, over_a_line
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    ONE,
    PREPARE,
    TOUCH,
    arrived_whole,
    begun,
    marks,
    one_home,
    open_transaction,
    owned,
    people,
    refused,
    through,
    until,
    write,
)
from tests.move.places import TARGET, Place, execute, scalar

from domicile import commands
from domicile.model.errors import ErrorCode
from domicile.model.phase import Status
from domicile.model.report import LiveFigures
from domicile.move import live, live_handover, live_verify, stepback
from domicile.move.carrier import Carrier
from domicile.move.live_wave import LiveWave
from domicile.move.monitor import Monitor
from domicile.stream import compare

SHORT = replace(ONE, pause_ms_max=400)
REST = "set session_replication_role = replica"
ORDER = """
    insert into store.orders (user_id, address_id, currency, total)
    select {0}, min(id), 'INR', 7 from store.address where user_id = {0}"""
NO_ADDRESS = "delete from store.address where id = (select max(address_id) from store.orders where user_id = {0})"
FIRST_ADDRESS = "delete from store.address where id = (select min(id) from store.address where user_id = {0})"

WAITS_FOR_LOCK = "select count(*) from pg_locks where locktype = 'advisory' and not granted"


async def live_figures(carrier: Carrier) -> LiveFigures:
    """What is known of the only wave."""
    found = (await carrier.figures.wave(carrier.move.move_id, 1)).live
    assert found is not None
    return found


# What it refuses


async def test_a_row_that_went_wrong_after_the_last_comparison_is_seen_by_the_arrival(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = (await people(place.source))[0]
    wrong = f"update store.user_account set full_name = 'wrong' where id = {one}"
    before_the_lock(monkeypatch, lambda: execute(place.target, REST, wrong))
    deeds: dict[tuple[str, int], Deed] = {
        ("live.closing", 1): lambda: execute(place.source, TOUCH.format(one)),
    }
    async with begun(place, limits=replace(ONE, handover_tries=1)) as carrier:
        await through(carrier, PREPARE, COPY)
        wave = await refused(doing(carrier, deeds))
    assert wave.error_code == ErrorCode.DISCREPANCY
    assert "refused the wave: touched rows differ (store.user_account)" in wave.error_message
    assert await write(place.source, one) == ""
    assert await scalar(place.target, "select count(*) from store.user_account where market = 'IN'") == 0


async def test_a_parent_that_went_after_the_last_comparison_is_missed_by_the_arrival(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that were touched are equal at both sites; what one of them refers to is not there."""
    one = (await people(place.source))[0]
    before_the_lock(monkeypatch, lambda: execute(place.target, REST, NO_ADDRESS.format(one)))
    deeds: dict[tuple[str, int], Deed] = {
        ("live.closing", 1): lambda: execute(place.source, ORDER.format(one)),
    }
    async with begun(place, limits=replace(ONE, handover_tries=1)) as carrier:
        await through(carrier, PREPARE, COPY)
        wave = await refused(doing(carrier, deeds))
    assert wave.error_code == ErrorCode.DISCREPANCY
    assert "refused the wave: rows without what they refer to (store.orders)" in wave.error_message
    assert await write(place.source, one) == ""


def before_the_lock(monkeypatch: pytest.MonkeyPatch, deed: Deed) -> None:
    """Do it when everything is closed and drained, and what was committed until now is at the target."""
    original = live_verify.equal_rows

    async def equal_rows(wave: LiveWave) -> compare.Touched:
        await live_verify.mark(wave)
        await deed()
        return await original(wave)

    monkeypatch.setattr(live_verify, "equal_rows", equal_rows)


def in_flight(monkeypatch: pytest.MonkeyPatch, place: Place, statement: str) -> None:
    """A writer commits it while the mover waits for the lock."""
    original = live_handover.attempt

    async def attempt(wave: LiveWave, *rest: Any) -> None:
        async with open_transaction(place.source, statement) as writer:
            arriving = asyncio.create_task(original(wave, *rest))
            await until(lambda: scalar(place.source, WAITS_FOR_LOCK))
            await writer.commit()
            await arriving

    monkeypatch.setattr(live, "attempt", attempt)


async def test_a_parent_that_is_missed_by_a_row_of_the_tail_alone_is_seen_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is committed by a writer who was in flight when the mover asked for the lock."""
    one = (await people(place.source))[0]
    in_flight(monkeypatch, place, ORDER.format(one))
    deeds: dict[tuple[str, int], Deed] = {
        ("live.departed", 1): lambda: execute(place.target, REST, FIRST_ADDRESS.format(one)),
    }
    async with begun(place, limits=replace(ONE, handover_tries=1, lock_timeout_ms=900)) as carrier:
        await through(carrier, PREPARE, COPY)
        wave = await refused(doing(carrier, deeds))
    assert wave.error_code == ErrorCode.DISCREPANCY
    assert "refused the wave: rows without what they refer to (store.orders)" in wave.error_message
    assert await write(place.source, one) == ""


# The budget of the pause


async def test_a_pause_that_would_be_too_long_is_ended_and_tried_again(place: Place) -> None:
    residents = await owned(place.target)
    one = (await people(place.source))[0]
    between: list[object] = []

    async def look() -> None:
        home = (await commands.where(place.workspace, place.dataset, str(one))).home
        between.extend([await marks(place), await write(place.source, one), home == TARGET])

    deeds: dict[tuple[str, int], Deed] = {
        ("live.closing", 1): lambda: execute(place.source, TOUCH.format(one)),
        ("live.departed", 1): lambda: asyncio.sleep(0.6),
        ("live.armed", 2): look,
    }
    async with begun(place, limits=SHORT) as carrier:
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, deeds), CATCHUP)
        figures = await live_figures(carrier)
    assert between == [({1: "open"}, {1: "arriving"}), "", False]
    assert figures.tries == 1
    assert "longer than 400 ms" in figures.last_try
    assert figures.pause_ms is not None
    assert figures.pause_ms > 400, "the pause of the try that stepped back counts"
    await arrived_whole(place, residents)


# Nobody hears how it ended


async def test_an_arrival_that_comes_late_is_refused(place: Place) -> None:
    """All of it is still on the line when the pause has used up its budget, and the source serves again."""
    residents = await owned(place.target)
    one = (await people(place.source))[0]
    late: list[object] = []
    async with over_a_line(place) as (far, line), begun(far, limits=SHORT) as carrier:

        async def deliver() -> None:
            await line.deliver()
            late.extend([await marks(place), await write(place.source, one), await write(place.target, one)])

        deeds: dict[tuple[str, int], Deed] = {("live.departed", 1): line.keep, ("live.catchup", 2): deliver}
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, deeds), CATCHUP)
    assert late == [({1: "open"}, {1: "arriving"}), "", "DM002"]
    await arrived_whole(place, residents)


async def test_an_arrival_that_comes_during_a_step_back_is_refused(place: Place) -> None:
    residents = await owned(place.target)
    one = (await people(place.source))[0]
    late: list[object] = []
    async with over_a_line(place) as (far, line), begun(far) as carrier:

        async def deliver() -> None:
            await line.deliver()
            late.extend([await marks(place), await write(place.source, one), await write(place.target, one)])

        await through(carrier, PREPARE, COPY)
        moving = asyncio.create_task(through(doing(carrier, {("live.departed", 1): line.keep}), CATCHUP))
        await line.full.wait()
        moving.cancel()
        await asyncio.wait([moving])
        assert await marks(place) == ({1: "departed"}, {1: "arriving"})
        await stepback.run(doing(carrier, {("stepback.source_open", 1): deliver}), 1)
    assert late == [({1: "open"}, {1: "arriving"}), "", "DM002"]
    assert await owned(place.target) == residents


async def test_an_arrival_that_comes_after_a_recovery_is_refused(place: Place) -> None:
    """The mover died while it was on the line; who comes then opens the source again."""
    one = (await people(place.source))[0]
    async with over_a_line(place) as (far, line), begun(far) as carrier:
        await through(carrier, PREPARE, COPY)
        moving = asyncio.create_task(through(doing(carrier, {("live.departed", 1): line.keep}), CATCHUP))
        await line.full.wait()
        moving.cancel()
        await asyncio.wait([moving])
        assert await marks(place) == ({1: "departed"}, {1: "arriving"})
        assert not await live_handover.recover(carrier, 1)
        await line.deliver()
        assert await marks(place) == ({1: "open"}, {1: "arriving"})
        assert (await write(place.source, one), await write(place.target, one)) == ("", "DM002")


@pytest.mark.parametrize(
    "share", [pytest.param(0.0, id="all of it"), pytest.param(0.5, id="half of it", marks=pytest.mark.campaign)]
)
async def test_an_arrival_that_is_lost_on_the_line_is_tried_again(place: Place, share: float) -> None:
    residents = await owned(place.target)
    async with over_a_line(place) as (far, line), begun(far, limits=SHORT) as carrier:
        line.share, line.loses = share, True
        await through(carrier, PREPARE, COPY)
        async with asyncio.TaskGroup() as group:
            group.create_task(through(doing(carrier, {("live.departed", 1): line.keep}), CATCHUP))
            await line.gone.wait()
            await one_home(place)
            await line.deliver()
    await arrived_whole(place, residents)


async def test_a_stream_that_ends_with_a_late_arrival_is_opened_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds its session given up before the try is over; that is no order to stop."""
    residents = await owned(place.target)
    in_flight(monkeypatch, place, TOUCH.format((await people(place.source))[0]))
    note = Monitor.note

    async def slow(monitor: Monitor, **changes: object) -> None:
        await note(monitor, **changes)
        if "last_try" in changes:
            await asyncio.sleep(1.0)

    monkeypatch.setattr(Monitor, "note", slow)
    async with over_a_line(place) as (far, line), begun(far, limits=SHORT) as carrier:
        line.loses = True
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, {("live.departed", 1): line.keep}), CATCHUP)
    await arrived_whole(place, residents)


async def test_an_arrival_of_which_half_is_late_is_waited_for(place: Place) -> None:
    """It has begun at the target, and holds the lease there: nothing is concluded until it has ended."""
    residents = await owned(place.target)
    one = (await people(place.source))[0]
    async with over_a_line(place) as (far, line), begun(far, limits=SHORT) as carrier:
        line.share = 0.5
        await through(carrier, PREPARE, COPY)
        async with asyncio.TaskGroup() as group:
            group.create_task(through(doing(carrier, {("live.departed", 1): line.keep}), CATCHUP))
            await line.full.wait()
            waiting = group.create_task(write(place.source, one))
            await asyncio.sleep(0.3)
            assert not waiting.done(), "nobody can tell him yet where to go"
            await line.gone.wait()
            await asyncio.sleep(1.0)
            assert await marks(place) == ({1: "departed"}, {1: "arriving"})
            await line.deliver()
        figures = await live_figures(carrier)
    assert waiting.result() == "DM001"
    assert figures.tries == 0
    assert (await write(place.source, one), await write(place.target, one)) == ("DM001", "")
    await arrived_whole(place, residents)


async def test_an_arrival_whose_answer_is_lost_has_arrived(place: Place) -> None:
    residents = await owned(place.target)
    async with over_a_line(place) as (far, line), begun(far) as carrier:
        line.share, line.cut = 1.0, True
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, {("live.departed", 1): line.keep}), CATCHUP)
        figures = await live_figures(carrier)
    assert line.gone.is_set()
    assert figures.tries == 0
    await arrived_whole(place, residents)


# After it


async def test_the_tail_is_not_applied_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the target's users write from the arrival on is newer than the tail that the arrival brought."""
    one = (await people(place.source))[0]
    newer = f"update store.user_account set full_name = 'newer' where id = {one}"
    original = live_handover.attempt

    async def attempt(wave: LiveWave, *rest: Any) -> None:
        async with open_transaction(place.source, TOUCH.format(one)) as writer, asyncio.TaskGroup() as group:
            group.create_task(original(wave, *rest))
            await until(lambda: scalar(place.source, WAITS_FOR_LOCK))
            await writer.commit()
        await execute(place.target, newer)
        await asyncio.sleep(3.0)
        wave.raise_failure()

    monkeypatch.setattr(live, "attempt", attempt)
    async with begun(place, limits=replace(ONE, lock_timeout_ms=900)) as carrier:
        await through(carrier, PREPARE, COPY, CATCHUP)
    assert await scalar(place.target, "select full_name from store.user_account where id = %s", one) == "newer"


async def test_the_tail_is_not_carried_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that came with the arrival are in the copy already when the wave goes home."""
    one = (await people(place.source))[0]
    orders = f"select count(*) from store.orders where user_id = {one}"
    before = await scalar(place.source, orders)
    original = live_handover.attempt

    async def attempt(wave: LiveWave, *rest: Any) -> None:
        async with open_transaction(place.source, ORDER.format(one)) as writer, asyncio.TaskGroup() as group:
            group.create_task(original(wave, *rest))
            await until(lambda: scalar(place.source, WAITS_FOR_LOCK))
            await writer.commit()

    monkeypatch.setattr(live, "attempt", attempt)
    async with begun(place, limits=replace(ONE, lock_timeout_ms=900)) as carrier:
        await through(carrier, PREPARE, COPY, CATCHUP)
    monkeypatch.undo()
    assert (await commands.rollback(place.workspace, carrier.move.move_id)).status is Status.ABORTED
    assert await scalar(place.source, orders) == int(str(before)) + 1


async def test_the_arrival_ends_the_term_of_its_stream(place: Place) -> None:
    """Whatever that stream sends is refused from then on, and not only from the next question on."""
    terms: list[object] = []

    async def look() -> None:
        terms.append(await scalar(place.target, "select term from domicile.wave"))

    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, {("live.departed", 1): look, ("live.arrived", 1): look}), CATCHUP)
    before, behind = terms
    assert int(str(behind)) > int(str(before))
