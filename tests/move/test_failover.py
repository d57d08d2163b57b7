"""A standby is promoted in place of a site, with everything that was acknowledged or without the last of it, while a
live move is on its way or its waves soak. Nothing that survives is lost, and every wave has one home again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from reliability.chaos.promotion import DATABASE, Site, golden, site
from tests.conftest import create_database, drop_database
from tests.evidence.both import judged
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    ONE,
    PREPARE,
    arrived_whole,
    begun,
    marks,
    members,
    one_home,
    owned,
    people,
    plan_of,
    rows_of,
    through,
    until,
    write,
)
from tests.move.mover import Mover, mover
from tests.move.places import SOURCE, STORE_MAP, TARGET, Place, execute, scalar, workspace_for

from domicile import commands
from domicile.commands.desk import carrier_for, open_desk
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Mode
from domicile.model.report import MoveStatus
from domicile.model.site import MoveId
from domicile.model.workspace import Workspace
from domicile.move import begin, streams
from domicile.sites.embedded import EmbeddedCluster

REVIEW = "insert into store.review (user_id, product_id, stars, body) values ({}, 1, 5, '{}')"
REVIEWS = "select count(*) from store.review where body = %s"
ACCEPT = "insert into domicile_control.event (move_id, wave_no, what) values (%s, 1, 'copy accepted')"


@pytest.fixture(scope="session")
async def golden_source(scratch: Path) -> EmbeddedCluster:
    return await golden(scratch, "golden-source", None, 0)


@pytest.fixture(scope="session")
async def golden_source_15(scratch: Path, pg15_bindir: Path) -> EmbeddedCluster:
    return await golden(scratch, "golden-source-15", pg15_bindir, 0)


@pytest.fixture(scope="session")
async def golden_target(scratch: Path) -> EmbeddedCluster:
    return await golden(scratch, "golden-target", None, 1)


@dataclass(slots=True)
class Stage:
    """Two sites of which one has a standby, a control database elsewhere, and a process that carries moves."""

    workspace: Workspace
    source: Site
    target: Site
    standing_by: Site
    process: Mover

    @property
    def place(self) -> Place:
        """As it is now: a site that failed over is somewhere else."""
        source, target = self.source.now.conninfo(DATABASE), self.target.now.conninfo(DATABASE)
        fresh = workspace_for(self.workspace.state_dir, "store", STORE_MAP, (source, target))
        return Place(replace(self.workspace, datasets=fresh.datasets), source, target, "store")

    async def do(self, order: str, *values: object, failpoint: str = "", **named: object) -> MoveStatus:
        """An order to the sites as they are now; with a failpoint, its process is killed there."""
        self.process.workspace = self.place.workspace
        ended = await self.process.do(order, *values, failpoint=f"{failpoint}:kill" if failpoint else "", **named)
        assert ended.killed if failpoint else not ended.error, ended
        result = ended.result
        return result if result is not None else await self.status()

    async def status(self) -> MoveStatus:
        (found,) = await commands.status(self.place.workspace)
        return found

    async def begin(self, failpoint: str = "") -> MoveStatus:
        """One wave of all Indians."""
        plan = await plan_of(self.place, limits=ONE)
        return await self.do("apply", plan, mode=Mode.LIVE, failpoint=failpoint)


@asynccontextmanager
async def _stage(
    directory: Path, pg18: EmbeddedCluster, copied: tuple[EmbeddedCluster, EmbeddedCluster], promoted: str
) -> AsyncIterator[Stage]:
    """The one of ``copied`` that is not to fail over runs without a standby."""
    directory.mkdir(mode=0o711)
    control = await create_database(pg18, "control")
    try:
        async with (
            site(copied[0], directory, "source", alone=promoted != SOURCE) as source,
            site(copied[1], directory, "target", alone=promoted != TARGET) as target,
        ):
            workspace = workspace_for(directory / "state", "store", STORE_MAP, ("", ""))
            workspace = replace(workspace, control=pg18.conninfo(control), limits=ONE)
            async with mover(workspace) as process:
                yield Stage(workspace, source, target, source if promoted == SOURCE else target, process)
    finally:
        await drop_database(pg18, control)


@pytest.fixture
async def source_fails(
    scratch: Path, tmp_path: Path, pg18: EmbeddedCluster, golden_source: EmbeddedCluster, golden_target: EmbeddedCluster
) -> AsyncIterator[Stage]:
    async with _stage(scratch / tmp_path.name, pg18, (golden_source, golden_target), SOURCE) as stage:
        yield stage


@pytest.fixture
async def source_15_fails(
    scratch: Path,
    tmp_path: Path,
    pg18: EmbeddedCluster,
    golden_source_15: EmbeddedCluster,
    golden_target: EmbeddedCluster,
) -> AsyncIterator[Stage]:
    async with _stage(scratch / tmp_path.name, pg18, (golden_source_15, golden_target), SOURCE) as stage:
        yield stage


@pytest.fixture
async def target_fails(
    scratch: Path, tmp_path: Path, pg18: EmbeddedCluster, golden_source: EmbeddedCluster, golden_target: EmbeddedCluster
) -> AsyncIterator[Stage]:
    async with _stage(scratch / tmp_path.name, pg18, (golden_source, golden_target), TARGET) as stage:
        yield stage


async def review(conninfo: str, subject: int, body: str) -> None:
    """A write that is acknowledged."""
    await execute(conninfo, REVIEW.format(subject, body))


async def refused(place: Place, order: str, move: str) -> DomicileError:
    with pytest.raises(DomicileError) as caught:
        await getattr(commands, order)(place.workspace, move)
    return caught.value


# On its way there

ON_ITS_WAY = [
    ("source_15_fails", "live.departed"),
    *(
        pytest.param(stage, point, marks=pytest.mark.campaign)
        for stage in ("source_fails", "source_15_fails")
        for point in ("prepare.reserved", "copy.chunk_committed", "live.verify", "live.closing", "live.locked")
    ),
    *(pytest.param("source_fails", f"live.{point}", marks=pytest.mark.campaign) for point in ("catchup", "departed")),
    pytest.param("source_15_fails", "live.catchup", marks=pytest.mark.campaign),
]


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Stage:
    """One of those above, by its name."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Stage)
    return found


@pytest.mark.parametrize(("stage", "point"), ON_ITS_WAY, indirect=["stage"])
async def test_a_wave_on_its_way_steps_back_and_is_copied_anew(stage: Stage, point: str) -> None:
    residents = await owned(stage.place.target)
    await stage.begin(point)
    somebody = (await people(stage.place.source))[0]
    if point != "live.departed":

        async def served() -> bool:
            return await write(stage.place.source, somebody) == ""

        await until(served, 5.0)  # the lock goes with its session
        await review(stage.place.source, somebody, "acknowledged")
    before = await owned(stage.place.source)
    await stage.standing_by.fail_over()
    move = (await stage.status()).move_id
    stopped = await stage.do("resume", move)
    if stopped.status is Status.FAILED:
        assert stopped.waves[0].error_code == ErrorCode.STREAM_LOST, stopped
        assert await owned(stage.place.target) == residents, "what was copied is removed"
        assert (await marks(stage.place))[0] == {1: "open"}
        stopped = await stage.do("resume", move)
    else:
        assert point == "prepare.reserved", "nothing was read from the stream yet"
    assert stopped.status is Status.WAITING, stopped
    assert await owned(stage.place.source) == before, "the closed copy"
    await arrived_whole(stage.place, residents)
    await one_home(stage.place)


@pytest.mark.campaign
async def test_what_the_standby_lacks_does_not_stay_at_the_target(source_fails: Stage) -> None:
    """The target is ahead of the promoted source: rows of a future that did not come."""
    stage = source_fails
    residents = await owned(stage.place.target)
    await stage.begin("live.catchup")
    move = (await stage.status()).move_id
    await stage.standing_by.cut()
    await review(stage.place.source, (await people(stage.place.source))[0], "only at the old one")
    await stage.do("resume", move, failpoint="live.closing")
    assert await scalar(stage.place.target, REVIEWS, "only at the old one") == 1, "the stream has carried it"
    await stage.standing_by.fail_over()
    assert (await stage.do("resume", move)).waves[0].error_code == ErrorCode.STREAM_LOST
    assert await owned(stage.place.target) == residents
    assert (await stage.do("resume", move)).status is Status.WAITING
    assert await scalar(stage.place.target, REVIEWS, "only at the old one") == 0
    await arrived_whole(stage.place, residents)


@pytest.mark.campaign
async def test_a_target_that_lost_rows_of_the_copy_is_cleaned(target_fails: Stage) -> None:
    """What the stream would bring now stands beside rows that are missing, where no step back looks for it."""
    stage = target_fails
    residents = await owned(stage.place.target)
    await stage.begin("copy.chunk_committed")
    move = (await stage.status()).move_id
    await stage.standing_by.cut()
    for somebody in await people(stage.place.source):
        await review(stage.place.source, somebody, "written behind the copy")
    await stage.do("resume", move, failpoint="live.closing")
    await stage.standing_by.fail_over()
    assert await owned(stage.place.target) != residents, "a part of the copy is there"
    stopped = await stage.do("resume", move)
    assert stopped.waves[0].error_code == ErrorCode.STREAM_LOST, stopped
    assert await owned(stage.place.target) == residents
    assert (await stage.do("resume", move)).status is Status.WAITING
    await arrived_whole(stage.place, residents)


@pytest.mark.campaign
async def test_a_source_that_lost_the_cohort_is_left_alone(source_fails: Stage) -> None:
    stage = source_fails
    residents = await owned(stage.place.target)
    await stage.standing_by.cut()
    await stage.begin("copy.done")
    await stage.standing_by.fail_over()
    move = (await stage.status()).move_id
    for _ in range(2):
        assert (await stage.do("resume", move)).status is Status.FAILED
    assert (await stage.status()).error_code == ErrorCode.PLAN_STALE
    assert (await stage.do("abort", move)).status is Status.ABORTED
    assert await owned(stage.place.target) == residents
    assert await write(stage.place.source, (await people(stage.place.source))[0]) == ""


# After the handover, at the source


@pytest.mark.parametrize("died_at", ["", pytest.param("live.arrived", marks=pytest.mark.campaign)])
async def test_a_source_that_forgot_the_departure_is_closed_again(source_fails: Stage, died_at: str) -> None:
    """The one failover that makes two homes: the commit on which the target took over never reached the standby."""
    stage = source_fails
    await stage.begin("live.closing")
    move = (await stage.status()).move_id
    await stage.standing_by.cut()
    await stage.do("resume", move, failpoint=died_at)
    somebody = (await members(stage.place, "departed"))[0]
    await stage.standing_by.fail_over()
    place = stage.place
    assert (await write(place.source, somebody), await write(place.target, somebody)) == ("", ""), "two homes"
    await review(place.source, somebody, "at the wrong home")
    assert (await stage.do("resume", move)).status is Status.WAITING
    assert await write(place.source, somebody) == "DM001"
    assert await write(place.target, somebody) == ""
    await one_home(place)
    assert (await refused(place, "rollback", move)).code is ErrorCode.WAY_BACK_CLOSED
    assert (await refused(place, "purge", move)).code is ErrorCode.VERDICT_MISSING
    assert await scalar(place.source, REVIEWS, "at the wrong home") == 1, "it is kept for whoever compares"
    async with await psycopg.AsyncConnection.connect(place.workspace.control, autocommit=True) as control:
        await control.execute(ACCEPT, (move,))
    assert (await commands.purge(place.workspace, move)).left_at_source == 0
    if died_at:  # else the lost leaves were cosigned, and no bundle can be made without them
        found = await commands.evidence_bundle(place.workspace, move)
        assert judged(found.raw, found.keys) == ("proven", "")
        assert found.report.figures["rows_purged"]


@pytest.mark.campaign
async def test_a_source_that_has_the_departure_keeps_its_way_back(source_15_fails: Stage) -> None:
    """It has what was committed before, too: the copy is what it was, and the stream back begins at the target."""
    stage = source_15_fails
    move = (await stage.begin()).move_id
    somebody = (await members(stage.place, "departed"))[0]
    await stage.standing_by.fail_over()
    await review(stage.place.target, somebody, "written at the new home")
    assert (await stage.do("rollback", move)).status is Status.ABORTED
    assert await scalar(stage.place.source, REVIEWS, "written at the new home") == 1
    await one_home(stage.place)
    assert await write(stage.place.source, somebody) == ""
    assert await write(stage.place.target, somebody) == "DM001"


@pytest.mark.campaign
async def test_a_purge_that_the_standby_lacks_is_repeated(source_fails: Stage) -> None:
    stage = source_fails
    move = (await stage.begin()).move_id
    gone = await members(stage.place, "departed")
    await stage.standing_by.cut()
    assert (await commands.purge(stage.place.workspace, move)).left_at_source == 0
    await stage.standing_by.fail_over()
    assert rows_of(await owned(stage.place.source), gone), "they are back"
    assert (await commands.purge(stage.place.workspace, move)).left_at_source == 0
    assert not rows_of(await owned(stage.place.source), gone)


# After the handover, at the target


@pytest.mark.campaign
async def test_a_promoted_target_has_no_way_back_and_says_so(target_fails: Stage) -> None:
    stage = target_fails
    move = (await stage.begin()).move_id
    somebody = (await members(stage.place, "departed"))[0]
    await review(stage.place.target, somebody, "written at the new home")
    await stage.standing_by.fail_over()
    closed = await refused(stage.place, "rollback", move)
    assert closed.code is ErrorCode.WAY_BACK_CLOSED
    assert "standby" in closed.message
    assert TARGET in closed.safe
    assert await write(stage.place.target, somebody) == ""
    assert await scalar(stage.place.target, REVIEWS, "written at the new home") == 1
    assert (await commands.purge(stage.place.workspace, move)).left_at_source == 0


async def test_who_arrived_nowhere_goes_home(target_fails: Stage) -> None:
    """The promoted target never heard of the arrival, nor of anything written after it."""
    stage = target_fails
    await stage.begin("live.closing")
    move = (await stage.status()).move_id
    before = await owned(stage.place.source)
    await stage.standing_by.cut()
    assert (await stage.do("resume", move)).status is Status.WAITING
    somebody = (await members(stage.place, "departed"))[0]
    await stage.standing_by.fail_over()
    place = stage.place
    assert (await write(place.source, somebody), await write(place.target, somebody)) == ("DM001", "DM002"), "nobody's"
    assert (await stage.do("rollback", move)).status is Status.ABORTED
    assert (await write(place.source, somebody), await write(place.target, somebody)) == ("", "DM001")
    answer = await commands.where(place.workspace, "store", str(somebody))
    assert (answer.home, answer.epoch) == (SOURCE, 2)
    assert await owned(place.source) == before
    await commands.purge(place.workspace, move)
    assert not rows_of(await owned(place.target), await people(place.source))


# Taken over


async def test_who_was_taken_over_touches_no_stream(place: Place) -> None:
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY, CATCHUP)
        slots = "select count(*) from pg_replication_slots where database = current_database()"
        zombie = replace(carrier, move=replace(carrier.move, generation=carrier.move.generation - 1))
        for order in (streams.end, streams.close_way_back):
            with pytest.raises(DomicileError) as caught:
                await order(zombie)
            assert caught.value.code is ErrorCode.LEASE_LOST
            assert [await scalar(s, slots) for s in (place.source, place.target)] == [1, 1]
        await streams.end(carrier)
        await streams.close_way_back(carrier)
        assert [await scalar(s, slots) for s in (place.source, place.target)] == [0, 0]
        with pytest.raises(DomicileError) as caught:
            await streams.begin(zombie)
        assert caught.value.code is ErrorCode.LEASE_LOST
        assert [await scalar(s, slots) for s in (place.source, place.target)] == [0, 0]


async def test_a_server_that_has_gone_back_in_time_gives_its_stream_up(place: Place) -> None:
    """Without a new timeline: its disks were restored. Here the target claims to have more than the log holds."""
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        slots = "select count(*) from pg_replication_slots where database = current_database()"
        await streams.after_failover(carrier)
        assert await scalar(place.source, slots) == 1
        await execute(place.target, "update domicile.wave set position = pg_current_wal_lsn() + 1000000000000::numeric")
        await streams.after_failover(carrier)
        assert await scalar(place.source, slots) == 0
    async with open_desk(place.workspace) as desk, carrier_for(desk, MoveId(carrier.move.move_id)) as anew:
        await begin.enlist(anew)
