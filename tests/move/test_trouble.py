"""What goes wrong half-way: the wave steps back, the source serves, status says so, and there is a way on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest
from tests.move.live_kit import open_transaction, until
from tests.move.places import SOURCE, TARGET, Place, Rows, apply_cold, every_row, execute, scalar
from tests.move.test_cold_move import ABROAD, plan_of

from domicile import commands
from domicile.commands.desk import carrier_for, open_desk
from domicile.commands.moves import create, freeze_cohort
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode, Question
from domicile.model.report import MoveStatus
from domicile.model.site import DatasetName
from domicile.move import begin
from domicile.move.run import Outcome, run_phase

# A user of the target who has the address of one that moves: it is unique there.
_OCCUPY = """
    insert into store.user_account (email, phone, full_name, market, locale, created_at)
    values (%s, '+65 0000 0000', 'namesake', 'SG', 'en-SG', now()) returning id"""
_LEAVE = "delete from store.user_account where full_name = 'namesake'"
_HELD_UP = "select count(*) from pg_stat_activity where wait_event = 'transactionid' and query ~ 'domicile.wave'"
_LAST_INDIAN = "select email from store.user_account where market = 'IN' order by id desc limit 1"


async def both(place: Place) -> tuple[Rows, Rows]:
    return await every_row(place.source), await every_row(place.target)


async def stuck(place: Place) -> tuple[MoveStatus, tuple[Rows, Rows]]:
    """A move whose canary went through and whose last wave cannot; and the rows of both sites just before it began."""
    plan = await plan_of(place, "market = 'IN'")
    assert len(plan.waves) > 1
    taken = await scalar(place.source, _LAST_INDIAN)
    await scalar(place.target, _OCCUPY, taken)
    before = await both(place)
    return await apply_cold(place.workspace, plan), before


async def guards(conninfo: str) -> object:
    """How many triggers of the guard there are."""
    return await scalar(conninfo, "select count(*) from pg_trigger where starts_with(tgname, 'zz_domicile')")


async def test_a_collision_fails_the_wave_and_changes_nothing(store: Place) -> None:
    failed, before = await stuck(store)
    assert failed.status is Status.FAILED
    wave = failed.waves[-1]
    assert (wave.phase, wave.status, wave.error_code) == (Phase.PLANNED, Status.FAILED, ErrorCode.KEYS_COLLIDE)
    assert "rows of the wave collide with rows at" in (wave.error_message or ""), "found before anything is copied"
    assert "resume" in failed.next
    source, _ = await both(store)
    assert source == before[0]
    victim = await scalar(store.source, "select max(id) from store.user_account where market = 'IN'")
    touched = "update store.user_account set locale = locale where id = %s returning id"
    assert await scalar(store.source, touched, victim) == victim, "the source serves the failed wave"
    assert await scalar(store.target, "select count(*) from store.user_account where id = %s", victim) == 0

    await execute(store.target, _LEAVE)
    done = await commands.resume(store.workspace, failed.move_id)
    assert done.status is Status.WAITING
    assert {w.verdict for w in done.waves} == {"clean"}


async def test_abort_after_a_failure_forgets_what_did_not_move(store: Place) -> None:
    failed, _ = await stuck(store)
    aborted = await commands.abort(store.workspace, failed.move_id)
    assert aborted.status is Status.ABORTED
    assert aborted.waves[-1].status is Status.ABORTED
    assert {w.phase for w in aborted.waves} == {Phase.SOAK, Phase.PLANNED}
    assert await scalar(store.source, "select count(*) from domicile.wave where mark = 'open'") == 0
    purged = await commands.purge(store.workspace, failed.move_id)
    assert purged.waves == len(aborted.waves) - 1
    (after,) = await commands.status(store.workspace, failed.move_id)
    assert after.status is Status.ABORTED
    assert await scalar(store.source, "select count(*) from domicile.evidence_salt") == 0, "nobody is to be told now"
    await execute(store.target, _LEAVE)
    rest = await apply_cold(store.workspace, await plan_of(store, "market = 'IN'"))
    assert rest.status is Status.WAITING, "those who did not move can be planned again"


async def test_abort_of_a_move_that_moved_nobody_leaves_no_trace(store: Place) -> None:
    taken = await scalar(store.source, "select email from store.user_account where market = 'IN' order by id limit 1")
    plan = await plan_of(store, "market = 'IN'")
    await scalar(store.target, _OCCUPY, taken)
    before = await both(store)
    failed = await apply_cold(store.workspace, plan)
    assert failed.status is Status.FAILED
    await commands.abort(store.workspace, failed.move_id)
    assert await both(store) == before
    for site in (store.source, store.target):
        assert await guards(site) == 0
        for table in ("move", "wave", "member", "progress"):
            assert await scalar(site, f"select count(*) from domicile.{table}") == 0, table
    async with open_desk(store.workspace) as desk:
        row = await (await desk.conn.execute("select count(*) from domicile_directory.reservation")).fetchone()
        assert row == (0,)


async def test_a_table_that_is_dropped_half_way(store: Place) -> None:
    stop = asyncio.Event()
    stop.set()
    paused = await apply_cold(store.workspace, await plan_of(store), stop=stop)
    assert paused.status is Status.PAUSED
    await execute(store.target, "drop table store.review cascade")
    with pytest.raises(DomicileError) as refused:
        await commands.resume(store.workspace, paused.move_id)
    assert refused.value.code is ErrorCode.SCHEMA_CHANGED
    assert refused.value.facts["missing"] == ["store.review"]
    assert (await commands.abort(store.workspace, paused.move_id)).status is Status.ABORTED


async def test_an_unreachable_target_is_named_and_nothing_changes(store: Place) -> None:
    before = await every_row(store.source)
    plan = await plan_of(store)
    dataset = store.workspace.dataset("store")
    nowhere = replace(dataset, at={**dataset.at, TARGET: "host=127.0.0.1 port=1 dbname=x user=x"})
    broken = replace(store.workspace, datasets={DatasetName("store"): nowhere})
    with pytest.raises(DomicileError) as refused:
        await apply_cold(broken, plan)
    assert refused.value.code is ErrorCode.SITE_UNREACHABLE
    assert await every_row(store.source) == before
    assert (await apply_cold(store.workspace, plan)).status is Status.WAITING, "the same plan goes on afterwards"


async def test_the_fence_waits_for_a_writer_who_began_just_before_its_mark(store: Place) -> None:
    """The mark's transaction is held up; meanwhile somebody begins to write for the wave."""
    plan = await plan_of(store, "market = 'IN'")
    first = "select subject from domicile.member order by wave, ordinal limit 1"
    async with open_desk(store.workspace) as desk:
        record = await create(desk, plan, Mode.COLD)
        async with carrier_for(desk, record.move_id) as carrier:
            await freeze_cohort(desk, carrier, plan)
            await begin.run(carrier)
            assert await run_phase(carrier, 1, Phase.PREPARE) is Outcome.DONE
            one = await scalar(store.source, first)
            async with open_transaction(store.source, "select from domicile.wave for update") as holder:
                fencing = asyncio.create_task(run_phase(carrier, 1, Phase.FENCE))
                await until(lambda: scalar(store.source, _HELD_UP))
                late = f"update store.user_account set full_name = 'late' where id = {one}"
                async with open_transaction(store.source, late) as writer:
                    await holder.rollback()
                    await until(lambda: scalar(store.source, "select true from domicile.wave where mark = 'fenced'"))
                    await asyncio.wait([fencing], timeout=1.0)
                    assert not fencing.done()
                    await writer.commit()
                    assert await fencing is Outcome.DONE


async def test_a_blocked_fence_names_the_blocker_and_steps_back(store: Place) -> None:
    """Somebody holds a write open on a table of the move for longer than the budget."""
    limits = replace(store.workspace.limits, fence_seconds_max=1.0)
    question = Question(store.dataset, SOURCE, TARGET, where=ABROAD)
    plan = await commands.plan(store.workspace, question, limits=limits)
    async with await psycopg.AsyncConnection.connect(store.source, application_name="slow-job") as holder:
        await holder.execute("update store.user_account set locale = locale where market = 'CN'")
        failed = await apply_cold(store.workspace, plan)
        assert failed.status is Status.FAILED
        assert failed.error_code == ErrorCode.FENCE_BUDGET
        assert "user_account" in failed.error_message
        assert {w.phase for w in failed.waves} == {Phase.PLANNED}
        await holder.commit()
    assert (await commands.resume(store.workspace, failed.move_id)).status is Status.WAITING


async def test_a_person_at_the_target_with_the_same_key_survives_the_step_back(store: Place) -> None:
    """The target gave the id of one who moves to a user of its own, after the plan: that user's rows are not ours."""
    plan = await plan_of(store, "market = 'IN'")
    taken = await scalar(store.source, "select max(id) from store.user_account where market = 'IN'")
    await execute(
        store.target,
        f"""insert into store.user_account (id, email, phone, full_name, market, locale, created_at)
            values ({taken}, 'innocent@example.org', '+65 0000 0000', 'Innocent', 'SG', 'en-SG', now())""",
        f"""insert into store.cart (user_id, updated_at) values ({taken}, now())""",
    )
    before = await every_row(store.target)
    failed = await apply_cold(store.workspace, plan)
    assert failed.waves[-1].error_code == ErrorCode.KEYS_COLLIDE
    await commands.abort(store.workspace, failed.move_id)
    moved = {f"wave {w.no}" for w in failed.waves if w.phase is Phase.SOAK}
    assert moved, "the canary went through"
    name = await scalar(store.target, "select full_name from store.user_account where id = %s", taken)
    assert name == "Innocent"
    after = await every_row(store.target)
    for table, rows in before.items():
        assert rows <= after[table], table


async def seen(conninfo: str, mark: str) -> None:
    """Wait until a wave has the mark."""
    while not await scalar(conninfo, "select to_regclass('domicile.wave') is not null"):
        await asyncio.sleep(0.01)
    while not await scalar(conninfo, "select count(*) from domicile.wave where mark = %s", mark):
        await asyncio.sleep(0.01)


async def test_an_arrival_in_doubt_is_waited_for(store: Place) -> None:
    """The connection broke while COMMIT was under way: the step back may conclude nothing until that is decided."""
    workspace = replace(store.workspace, failpoint="handover.departed:error")
    plan = await plan_of(store, "market = 'IN'")
    marks: list[object] = []
    async with await psycopg.AsyncConnection.connect(store.target) as lost:

        async def arrive_late() -> None:
            """What the lost transaction does: it holds the lease's row, then makes the wave resident, late."""
            await seen(store.target, "arriving")
            await lost.execute("select from domicile.move for share")
            await seen(store.source, "departed")
            await lost.execute("update domicile.wave set mark = 'resident', home = 'singapore' where no = 1")
            await asyncio.sleep(1.0)
            marks.append(await scalar(store.source, "select mark from domicile.wave where no = 1"))
            await lost.commit()

        late = asyncio.create_task(arrive_late())
        failed = await apply_cold(workspace, plan)
        await late
    assert marks == ["departed"], "the source stays shut while the arrival is in doubt"
    assert failed.status is Status.FAILED
    assert await scalar(store.source, "select mark from domicile.wave where no = 1") == "departed", "never two homes"
    done = await commands.resume(store.workspace, failed.move_id)
    assert done.status is Status.WAITING


async def test_abort_after_the_arrival_finishes_the_wave_that_lives_at_the_target(store: Place) -> None:
    workspace = replace(store.workspace, failpoint="handover.arrived:error")
    failed = await apply_cold(workspace, await plan_of(store, "market = 'IN'"))
    assert failed.status is Status.FAILED
    assert failed.waves[0].phase is Phase.HANDOVER
    aborted = await commands.abort(store.workspace, failed.move_id)
    assert aborted.status is Status.ABORTED
    assert aborted.waves[0].phase is Phase.SOAK
    traveller = str(await scalar(store.source, "select min(id) from store.user_account where market = 'IN'"))
    assert (await commands.where(store.workspace, "store", traveller)).home == TARGET
    assert (await commands.purge(store.workspace, failed.move_id)).left_at_source == 0
