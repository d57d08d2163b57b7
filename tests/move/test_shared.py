"""Rows of shared tables that moving rows refer to are copied where they are missing, and only those."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move.live_kit import COPY, ONE, PREPARE, begun, through
from tests.move.mover import mover
from tests.move.places import SOURCE, TARGET, Place, execute, scalar
from tests.move.talk_kit import INDIA, LIMITS, make_talk, nothing_dangles, rooms, topics, writing

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Mode, Plan, Question, WayBack
from domicile.model.report import MoveStatus
from domicile.move import shared
from domicile.move.context import WaveAtSites
from domicile.postgres import shared_rows, waves

THEIRS = set(range(1, 11)) - {5}  # the rooms that the Indians need and the target has not
ROOM = "talk.post(room_id) -> talk.room(id)"
TOPIC = "talk.room(topic_id) -> talk.topic(id)"
ONE_PAIR = pytest.mark.parametrize("site_clusters", ["18-18"], indirect=True)
PARENT = "talk.topic(parent_id) -> talk.topic(id)"


@pytest.fixture
async def talk(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    return await make_talk(site_pair, scratch / tmp_path.name, control)


async def plan_of(place: Place) -> Plan:
    return await commands.plan(place.workspace, Question("talk", SOURCE, TARGET, where=INDIA), limits=LIMITS)


async def moved(place: Place, mode: Mode = Mode.LIVE) -> MoveStatus:
    plan = await plan_of(place)
    assert not plan.refusals_of(mode), plan.refusals_of(mode)
    done = await commands.apply(place.workspace, plan, mode=mode)
    assert done.status is Status.WAITING, [(w.no, w.error_message, w.live) for w in done.waves]
    return done


@ONE_PAIR
async def test_a_plan_counts_what_will_be_copied(talk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await plan_of(talk)
    said = {c.name: c for c in plan.checks}
    counted = said["shared rows to copy"]
    assert counted.passed
    assert f"9 rows of talk.room will be copied to singapore for {ROOM}" in counted.detail
    # Rooms 2, 4, 6, 8, 10 are about topics 3, 5, 1, 3, 5; those below are under 4, 2.
    assert f"3 rows of talk.topic will be copied to singapore for {TOPIC}" in counted.detail
    assert f"2 rows of talk.topic will be copied to singapore for {PARENT}" in counted.detail
    assert said["references present at the target"].passed
    assert said["shared tables to copy"].passed
    # A room, its topic, that one's topic: three levels.
    for most, refused in ((3, False), (2, True)):
        monkeypatch.setattr(shared_rows, "LEVELS_MAX", most)
        with pytest.raises(DomicileError, match="more than 2 in a row") if refused else nullcontext():
            await plan_of(talk)


@pytest.mark.parametrize("mode", list(Mode))
async def test_only_what_is_needed_is_copied_and_what_is_there_is_left_as_it_is(talk: Place, mode: Mode) -> None:
    await execute(talk.target, "select setval(pg_get_serial_sequence('talk.room', 'id'), 3)")
    here, there = await rooms(talk.source), await rooms(talk.target)
    first = await moved(talk, mode)
    arrived = await rooms(talk.target)
    assert arrived == there | {no: here[no] for no in THEIRS}
    assert await topics(talk.target) == {n: row for n, row in (await topics(talk.source)).items() if n <= 5}
    assert await nothing_dangles(talk.target)
    await execute(talk.target, "update talk.room set title = 'anew' where id = 4")
    checks = (await commands.verify(talk.workspace, first.move_id)).waves
    assert all(check.equal for check in checks)
    assert any("2 shared rows of talk.room" in check.note for check in checks), [check.note for check in checks]
    arrived = await rooms(talk.target)
    assert (await commands.purge(talk.workspace, first.move_id)).left_at_source == 0
    assert await rooms(talk.source) == here, "rows that are copied stay at both sites"
    assert await rooms(talk.target) == arrived
    room = "insert into talk.room (title, moods, kind) values ('new', '{}', 'open') returning id"
    assert int(str(await scalar(talk.target, room))) > 30, "an id that came is not given again"


async def test_rooms_that_open_meanwhile_are_copied_there_and_back(talk: Place, seed: int) -> None:
    async with writing(talk, seed) as writers:
        first = await moved(talk)
        await asyncio.sleep(0.5)
        await writers.kept()
        assert TARGET in writers.homes.values()
        await commands.rollback(talk.workspace, first.move_id)
        await asyncio.sleep(0.2)
    await writers.kept()
    writers.homes.clear()
    kept = await rooms(talk.target)
    await commands.purge(talk.workspace, first.move_id)
    assert await rooms(talk.target) == kept
    assert await scalar(talk.target, "select count(*) from talk.post where author_id < 500") == 0
    await writers.kept()


@ONE_PAIR
async def test_a_step_back_leaves_them_and_they_are_not_copied_twice(talk: Place) -> None:
    plan = await plan_of(talk)
    stopped = await commands.apply(replace(talk.workspace, failpoint="copy.done:error"), plan, mode=Mode.LIVE)
    assert stopped.status is not Status.WAITING
    left = await rooms(talk.target)
    assert set(left) - {5, 900} <= THEIRS
    assert len(left) > 2, "nobody's, so they stay"
    assert await scalar(talk.target, "select count(*) from talk.post") == 0
    changed = min(set(left) - {5, 900})
    await execute(talk.target, f"update talk.room set title = 'ours by now' where id = {changed}")
    done = await commands.resume(talk.workspace, stopped.move_id)
    assert done.status is Status.WAITING, [(w.no, w.error_message) for w in done.waves]
    assert set(await rooms(talk.target)) == THEIRS | {5, 900}
    assert await scalar(talk.target, f"select title from talk.room where id = {changed}") == "ours by now"


@ONE_PAIR
async def test_who_is_killed_behind_the_copy_is_carried_on(talk: Place) -> None:
    plan = await plan_of(talk)
    async with mover(talk.workspace) as process:
        assert (await process.do("apply", plan, mode=Mode.LIVE, failpoint="copy.done:kill")).killed
    [move] = await commands.status(talk.workspace)
    done = await commands.resume(talk.workspace, move.move_id)
    assert done.status is Status.WAITING, [(w.no, w.error_message) for w in done.waves]
    assert set(await rooms(talk.target)) == THEIRS | {5, 900}
    assert await nothing_dangles(talk.target)


@ONE_PAIR
async def test_a_unique_value_that_is_taken_is_refused_by_name(talk: Place) -> None:
    plan = await plan_of(talk)
    await execute(talk.target, "insert into talk.topic (name) values ('topic 3')")
    stopped = await commands.apply(talk.workspace, plan, mode=Mode.LIVE)
    [why] = {(w.error_code, w.error_message) for w in stopped.waves if w.error_code}
    assert why[0] == ErrorCode.KEYS_COLLIDE
    assert "1 shared rows of talk.topic have a unique value" in why[1]
    assert "topic 3" not in why[1], "no value in an error"
    assert set(await rooms(talk.target)) == {5, 900}, "nothing of the chunk is there"
    assert await scalar(talk.target, "select count(*) from talk.post") == 0


@ONE_PAIR
async def test_what_copied_rows_refer_to_must_be_there(talk: Place) -> None:
    plan = await plan_of(talk)
    await execute(
        talk.target, "update talk.room set kind = 'closed' where id = 900", "delete from talk.kind where code = 'open'"
    )
    refused = {c.name: c for c in (await plan_of(talk)).refusals}
    assert set(refused) == {"shared rows to copy"}
    assert refused["shared rows to copy"].code == ErrorCode.REFERENCE_MISSING
    assert "talk.room(kind) -> talk.kind(code)" in refused["shared rows to copy"].detail
    stopped = await commands.apply(talk.workspace, plan, mode=Mode.COLD)
    [why] = {(w.error_code, w.error_message) for w in stopped.waves if w.error_code}
    assert why[0] == ErrorCode.REFERENCE_MISSING
    assert "talk.room(kind) -> talk.kind(code)" in why[1]


@ONE_PAIR
async def test_a_copy_that_is_kept_current_gets_new_rooms_with_the_rollback(talk: Place) -> None:
    question = Question("talk", SOURCE, TARGET, where=INDIA, way_back=WayBack.STREAM)
    plan = await commands.plan(talk.workspace, question, limits=ONE)
    move = (await commands.apply(talk.workspace, plan, mode=Mode.LIVE)).move_id
    await execute(
        talk.target,
        "insert into talk.room (id, title, moods, kind) values (2000000, 'new', '{}', 'open')",
        "insert into talk.post (author_id, room_id, body) values (3, 2000000, 'here')",
    )
    stop = asyncio.Event()
    stop.set()
    await commands.soak(talk.workspace, move, stop=stop)
    assert await scalar(talk.source, "select count(*) from talk.post where room_id = 2000000") == 1
    assert 2000000 not in await rooms(talk.source), "a soak changes nothing beside its copy"
    await commands.rollback(talk.workspace, move)
    assert 2000000 in await rooms(talk.source)
    assert await nothing_dangles(talk.source)


@ONE_PAIR
async def test_who_was_taken_over_copies_nothing(talk: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor who must wait for others' locks for longer than he may."""
    monkeypatch.setattr(shared, "LOCK_TIMEOUT", "50ms")
    async with begun(talk, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        move = carrier.move
        async with carrier.sites() as (source, target):
            here, there = await waves.find_wave(source, move.move_id, 1), await waves.find_wave(target, move.move_id, 1)
            assert here is not None
            assert there is not None
            wave = WaveAtSites(1, here.id, there.id, 6, there.epoch)
            await target.execute("set session_replication_role = replica")
            await target.execute("delete from talk.room where id = 1")
        with pytest.raises(DomicileError) as lost:
            await shared.make(replace(move, generation=move.generation - 1), wave)
        assert lost.value.code is ErrorCode.LEASE_LOST
        assert 1 not in await rooms(talk.target)
        async with await psycopg.AsyncConnection.connect(talk.target) as resident:
            await resident.execute("insert into talk.room (id, title, moods, kind) values (1, '', '{}', 'open')")
            for mode, code in ((Mode.LIVE, ErrorCode.LAG_BUDGET), (Mode.COLD, ErrorCode.FENCE_BUDGET)):
                limits = replace(move.plan.limits, catch_up_seconds_max=0.2, fence_seconds_max=0.2)
                hurried = replace(move, mode=mode, plan=replace(move.plan, limits=limits))
                with pytest.raises(DomicileError, match=r"shared rows of talk\.room.* within 0\.2 s") as late:
                    await shared.make(hurried, wave)
                assert late.value.code is code
            waiting = asyncio.create_task(shared.make(move, wave))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await resident.rollback()
        assert await waiting == set()
        assert await shared.make(move, wave) == set()
        assert 1 in await rooms(talk.target)
        stray = "update talk.post set room_id = 99 where room_id = 1 and author_id < 500"
        async with carrier.target() as target:
            await target.execute("set session_replication_role = replica")
            await target.execute(stray)
        assert {key for _, key in await shared.make(move, wave)} == {("99",)}, "what nobody has is told, not made"
