"""A live move, end to end: users write all the while, at whichever site is their home."""

from __future__ import annotations

import asyncio

import pytest
from tests.move.places import SOURCE, TARGET, Place, every_row, scalar
from tests.move.test_cold_move import ABROAD, plan_of
from tests.move.test_writers import Application, written

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode, Question, WayBack


async def test_a_quiet_live_move_moves_exactly_the_cohort(either_store: Place) -> None:
    place = either_store
    plan = await plan_of(place)
    moved = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
    assert moved.status is Status.WAITING, [(w.no, w.error_message, w.live) for w in moved.waves]
    assert {(w.phase, w.verdict) for w in moved.waves} == {(Phase.SOAK, "clean")}
    assert all(w.live is not None and w.live.pause_ms is not None for w in moved.waves)


async def test_writers_of_every_isolation_level_lose_nothing(either_store: Place, seed: int) -> None:
    place = either_store
    plan = await plan_of(place)
    subjects = await scalar(place.source, "select array_agg(id order by id) from store.user_account")
    assert isinstance(subjects, list)
    application = Application(place, subjects, seed)
    running = asyncio.create_task(application.run())
    moved = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
    await asyncio.sleep(0.5)  # some more writes, at the new homes
    application.stop.set()
    await running
    assert moved.status is Status.WAITING, [(w.no, w.error_message, w.live) for w in moved.waves]
    await commands.purge(place.workspace, moved.move_id)

    at_source, at_target = await written(place.source), await written(place.target)
    assert not set(at_source) & set(at_target), "one home each"
    found = {**at_source, **at_target}
    for subject, marks in application.acknowledged.items():
        assert found[subject] == marks, subject
    assert sum(map(len, application.acknowledged.values())) > 100
    assert application.refused["DM001"] > 0, "somebody was told the new home"
    assert set(application.refused) <= {"DM001", "DM002", "40001"}


async def test_a_rollback_keeps_what_was_written_at_the_target(either_store: Place, seed: int) -> None:
    place = either_store
    before = await every_row(place.target)
    subjects = await scalar(place.source, "select array_agg(id order by id) from store.user_account")
    assert isinstance(subjects, list)
    moved = await commands.apply(place.workspace, await plan_of(place), mode=Mode.LIVE)
    assert moved.status is Status.WAITING, [(w.no, w.error_message, w.live) for w in moved.waves]
    application = Application(place, subjects, seed)
    running = asyncio.create_task(application.run())
    await asyncio.sleep(1.0)
    assert application.refused["DM001"] > 0, "they write at the target"
    back = await commands.rollback(place.workspace, moved.move_id)
    await asyncio.sleep(0.5)
    application.stop.set()
    await running
    assert back.status is Status.ABORTED, back
    closed = await every_row(place.target)
    await commands.purge(place.workspace, moved.move_id)
    assert closed != before, "stale writers were told, as long as the copy was there"
    assert await every_row(place.target) == before, "nothing of the cohort is left at the target"
    found = await written(place.source)
    for subject, marks in application.acknowledged.items():
        assert found[subject] == marks, subject
    traveller = str(await scalar(place.source, "select min(id) from store.user_account where market = 'IN'"))
    answer = await commands.where(place.workspace, place.dataset, traveller)
    assert (answer.home, answer.epoch) == (SOURCE, 2)
    slots = await scalar(place.source, "select count(*) from pg_replication_slots where database = current_database()")
    assert slots == 0


async def test_soaking_keeps_the_source_copy_current(store: Place, seed: int) -> None:
    place = store
    question = Question(place.dataset, SOURCE, TARGET, where=ABROAD, way_back=WayBack.STREAM)
    abroad = "select array_agg(id order by id) from store.user_account where market <> 'CN'"
    subjects = await scalar(place.source, abroad)
    assert isinstance(subjects, list)
    moved = await commands.apply(place.workspace, await commands.plan(place.workspace, question), mode=Mode.LIVE)
    assert moved.status is Status.WAITING, [(w.no, w.error_message, w.live) for w in moved.waves]
    application = Application(place, subjects, seed)
    stop = asyncio.Event()
    soaking = asyncio.create_task(commands.soak(place.workspace, moved.move_id, stop=stop))
    running = asyncio.create_task(application.run())
    await asyncio.sleep(2.0)
    application.stop.set()
    await running
    await _until_equal(place, application)
    stop.set()
    await soaking
    assert (await commands.verify(place.workspace, moved.move_id)).clean
    await commands.purge(place.workspace, moved.move_id)  # the copies were sealed anew


async def _until_equal(place: Place, application: Application) -> None:
    for _ in range(60):
        found = await written(place.source)
        if all(found[subject] == marks for subject, marks in application.acknowledged.items()):
            return
        await asyncio.sleep(0.5)
    raise AssertionError("the copy at the source did not follow")


async def test_a_plan_may_close_the_way_back(store: Place) -> None:
    question = Question(store.dataset, SOURCE, TARGET, where=ABROAD, way_back=WayBack.NONE)
    moved = await commands.apply(store.workspace, await commands.plan(store.workspace, question), mode=Mode.LIVE)
    with pytest.raises(DomicileError) as refused:
        await commands.rollback(store.workspace, moved.move_id)
    assert refused.value.code is ErrorCode.WAY_BACK_CLOSED
    slots = await scalar(store.target, "select count(*) from pg_replication_slots where database = current_database()")
    assert slots == 0, "nothing of what is written at the target is kept for a way back"
