"""kill -9 at every point of a live move and of its way back, for real, while users write; what is left, another process
continues. At each point also an error, and an abort."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.move.live_kit import (
    ONE,
    busy,
    marks,
    members,
    no_trace,
    one_home,
    plan_of,
    traces,
    until,
    write,
)
from tests.move.mover import Mover
from tests.move.places import Place, every_row

from domicile import commands
from domicile.model.errors import DomicileError
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode
from domicile.model.report import MoveStatus
from domicile.move.failpoints import POINTS

# In the order in which a wave meets them.
PREPARING = ("prepare.source_registered", "prepare.target_registered", "prepare.reserved")
COPYING = ("copy.before", "copy.chunk_committed", "copy.done")
CROSSING = ("live.catchup", "live.verify", "live.armed", "live.closing", "live.locked", "live.departed", "live.arrived")
THERE = (*PREPARING, *COPYING, *CROSSING, "live.published", "live.sealed")
BACK = ("rollback.prepared", *CROSSING, "live.published", "rollback.arrived")


async def only_move(place: Place) -> str:
    """The one that has not come to its end."""
    (move,) = [m for m in await commands.status(place.workspace) if m.status is not Status.ABORTED]
    return move.move_id


async def left_behind(place: Place, point: str) -> None:
    """What must be true while nobody carries the move that was killed at ``point`` on its way there."""
    await one_home(place)
    if point == "live.departed":
        somebody = (await members(place, "departed"))[-1]
        assert (await write(place.source, somebody), await write(place.target, somebody)) == ("DM001", "DM002")
    if point in ("live.closing", "live.locked"):
        somebody = (await members(place, "closing"))[0]

        async def served() -> bool:
            return await write(place.source, somebody) == ""

        await until(served, 5.0)  # the lock goes with its session


async def test_killed_at_every_point_there_and_back(place: Place, process: Mover, seed: int) -> None:
    """One move of three waves, carried by one process after the other, each killed a little further on."""
    assert {*THERE, *BACK, "rollback.cleared"} >= {p for p in POINTS if p.startswith(("live.", "rollback."))}
    plan = await plan_of(place)
    assert len(plan.waves) == 3
    before = await every_row(place.target)
    async with busy(place, seed, **{"give order": 0.0}) as writers:
        # The canary goes through, so that a wave that has moved is there, too.
        died = await process.do("apply", plan, mode=Mode.LIVE, failpoint=f"{THERE[0]}:kill:2")
        assert died.killed, died
        move = await only_move(place)
        for point in THERE[1:]:
            died = await process.do("resume", move, failpoint=f"{point}:kill")
            assert died.killed, (point, died)
            await left_behind(place, point)
        moved = (await process.do("resume", move)).result
        assert moved.status is Status.WAITING, moved
        assert {(w.phase, w.verdict) for w in moved.waves} == {(Phase.SOAK, "clean")}
        for point in BACK:
            died = await process.do("rollback", move, failpoint=f"{point}:kill")
            assert died.killed, (point, died)
            await one_home(place)
        home = await process.do("rollback", move)
        assert home.error == "", home
        assert home.result.status is Status.ABORTED
        died = await process.do("purge", move, failpoint="rollback.cleared:kill:2")
        assert died.killed, died
        assert (await process.do("purge", move)).error == ""
        assert (await process.do("evidence_bundle", move)).result.report.outcome == "proven"
        account = await writers.verdict()
    assert account.refused["DM001"] > 0
    assert set(await every_row(place.target)) == set(before)
    for site in (place.source, place.target):
        assert not {"slot", "publication", "armed guard"} & (await traces(site)).keys()


async def failing(place: Place, move: str, point: str) -> MoveStatus:
    """The move carried on, with an error at a point."""
    return await commands.resume(replace(place.workspace, failpoint=f"{point}:error"), move)


@pytest.mark.campaign
async def test_an_error_at_every_point_is_stepped_back_from(place: Place, seed: int) -> None:
    """Until the arrival the source serves and the wave is as if it had never begun; after it the target serves."""
    plan = await plan_of(place)
    async with busy(place, seed) as writers:
        workspace = replace(place.workspace, failpoint=f"{THERE[0]}:error:2")
        failed = await commands.apply(workspace, plan, mode=Mode.LIVE)
        for point in THERE[1:]:
            assert failed.status is Status.FAILED, (point, failed)
            assert "failpoint" in failed.waves[1].error_message
            source, target = await marks(place)
            if 2 not in target:
                assert (source[2], failed.waves[1].phase) == ("open", Phase.PLANNED), point
                assert await write(place.source, (await members(place, "open"))[0]) == ""
            else:
                assert (source[2], target[2]) == ("departed", "resident"), point
            assert not {"slot", "publication"} & (await traces(place.source)).keys(), "the log is let go"
            failed = await failing(place, failed.move_id, point)
        moved = await commands.resume(place.workspace, failed.move_id)
        assert moved.status is Status.WAITING, moved
        for point in BACK:
            with pytest.raises(DomicileError, match="failpoint"):
                await commands.rollback(replace(place.workspace, failpoint=f"{point}:error"), moved.move_id)
            await one_home(place)
            assert not {"arriving", "closing"} & {mark for site in await marks(place) for mark in site.values()}, point
        back = await commands.rollback(place.workspace, moved.move_id)
        assert back.status is Status.ABORTED
        await commands.purge(place.workspace, moved.move_id)
        await writers.verdict()


# Where the mover dies; then the move is aborted. From the departure on it is another's to say where the wave lives.
ABORTED = (
    "prepare.reserved",
    "copy.chunk_committed",
    "live.catchup",
    "live.verify",
    "live.closing",
    "live.locked",
    "live.departed",
)


async def test_aborted_in_every_phase_it_leaves_no_trace(place: Place, process: Mover, seed: int) -> None:
    async with busy(place, seed) as writers:
        for point in ABORTED:
            died = await process.do("apply", await plan_of(place), mode=Mode.LIVE, failpoint=f"{point}:kill")
            assert died.killed, (point, died)
            aborted = await commands.abort(place.workspace, await only_move(place))
            assert aborted.status is Status.ABORTED, (point, aborted)
            await no_trace(place)
        await writers.verdict()


async def test_an_abort_after_the_arrival_comes_too_late(place: Place, process: Mover) -> None:
    died = await process.do("apply", await plan_of(place, limits=ONE), mode=Mode.LIVE, failpoint="live.arrived:kill")
    assert died.killed, died
    aborted = await commands.abort(place.workspace, await only_move(place))
    assert (aborted.status, aborted.waves[0].phase) == (Status.ABORTED, Phase.SOAK)
    assert await marks(place) == ({1: "departed"}, {1: "resident"})
    await commands.purge(place.workspace, aborted.move_id)
    assert (
        not {"slot", "publication", "armed guard"}
        & ((await traces(place.source)) + (await traces(place.target))).keys()
    )
