"""A whole cold move through the commands, judged by an oracle that has seen every row before."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest
from tests.move.places import SOURCE, STORE_MAP, TARGET, Place, apply_cold, every_row, execute, scalar, together

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Plan, Question
from domicile.survey import datamap_file

ABROAD = "market <> 'CN'"
MAINLAND_USERS = "select count(*) from store.user_account where market = 'CN'"
ABROAD_USERS = "select count(*) from store.user_account where market <> 'CN'"


def in_scope() -> set[str]:
    return {f"{t.schema}.{t.name}" for t in datamap_file.load(STORE_MAP).in_scope()}


async def plan_of(place: Place, where: str = ABROAD) -> Plan:
    return await commands.plan(place.workspace, Question(place.dataset, SOURCE, TARGET, where=where))


async def test_everybody_abroad_moves_and_nobody_else(either_store: Place) -> None:
    place = either_store
    tables = in_scope()
    before_source, before_target = await every_row(place.source), await every_row(place.target)
    abroad = await scalar(place.source, ABROAD_USERS)
    mainland = await scalar(place.source, MAINLAND_USERS)

    plan = await plan_of(place)
    assert not plan.refusals, plan.refusals
    assert plan.cohort.size == abroad
    assert await every_row(place.source) == before_source, "a plan changes nothing"
    assert await every_row(place.target) == before_target

    moved = await apply_cold(place.workspace, plan)
    assert moved.status is Status.WAITING, moved
    assert {w.phase for w in moved.waves} == {Phase.SOAK}
    assert {w.verdict for w in moved.waves} == {"clean"}
    assert moved.rows_copied == plan.rows
    assert await every_row(place.source) == before_source, "the source copy is kept through soak"

    verified = await commands.verify(place.workspace, moved.move_id)
    assert verified.clean
    assert all(c.equal for c in verified.waves)

    purged = await commands.purge(place.workspace, moved.move_id)
    assert purged.left_at_source == 0
    assert purged.rows == plan.rows

    after_source, after_target = await every_row(place.source), await every_row(place.target)
    assert together(after_source, after_target, tables) == together(before_source, before_target, tables)
    assert await scalar(place.source, ABROAD_USERS) == 0
    assert await scalar(place.source, MAINLAND_USERS) == mainland
    assert await scalar(place.target, MAINLAND_USERS) == 0
    others = set(before_source) - tables
    assert {t: after_source[t] for t in others} == {t: before_source[t] for t in others}, "no trigger fired"
    assert {t: after_target[t] for t in others} == {t: before_target[t] for t in others}, "no trigger fired"

    (final,) = await commands.status(place.workspace, moved.move_id)
    assert final.status is Status.DONE
    account = await commands.report(place.workspace, moved.move_id)
    assert account.rows == plan.rows
    assert account.verdict.startswith("clean")


async def test_where_follows_the_subject(store: Place) -> None:
    traveller = str(await scalar(store.source, "select min(id) from store.user_account where market = 'IN'"))
    stays = str(await scalar(store.source, "select min(id) from store.user_account where market = 'CN'"))
    assert (await commands.where(store.workspace, "store", traveller)).home == SOURCE
    plan = await plan_of(store)
    moved = await apply_cold(store.workspace, plan)
    answer = await commands.where(store.workspace, "store", traveller)
    assert (answer.home, answer.epoch, answer.basis) == (TARGET, 1, "directory")
    assert {p.site: p.mark for p in answer.sites} == {SOURCE: "departed", TARGET: "resident"}
    await commands.purge(store.workspace, moved.move_id)
    assert (await commands.where(store.workspace, "store", traveller)).home == TARGET
    assert (await commands.where(store.workspace, "store", stays)).home == SOURCE
    assert (await commands.where(store.workspace, "store", "99999999")).basis == "nowhere"


async def test_the_guard_answers_with_the_home_during_soak(store: Place) -> None:
    traveller = await scalar(store.source, "select min(id) from store.user_account where market = 'IN'")
    stays = await scalar(store.source, "select min(id) from store.user_account where market = 'CN'")
    await apply_cold(store.workspace, await plan_of(store))
    rename = "update store.user_account set full_name = 'x' where id = %s"
    with pytest.raises(psycopg.Error) as refused:
        await scalar(store.source, rename + " returning id", traveller)
    assert refused.value.sqlstate == "DM001"
    assert refused.value.diag.message_detail is not None
    assert '"singapore"' in refused.value.diag.message_detail
    assert await scalar(store.source, rename + " returning id", stays) == stays
    assert await scalar(store.target, rename + " returning id", traveller) == traveller


async def test_a_write_at_the_target_does_not_spoil_the_proof_nor_the_purge(store: Place) -> None:
    traveller = await scalar(store.source, "select min(id) from store.user_account where market = 'IN'")
    moved = await apply_cold(store.workspace, await plan_of(store))
    await scalar(store.target, "update store.user_account set full_name = 'x' where id = %s returning id", traveller)
    verified = await commands.verify(store.workspace, moved.move_id)
    assert verified.clean, "the source copy is what the verdict sealed"
    assert sum(c.rows_differing for c in verified.waves) == 1
    assert (await commands.purge(store.workspace, moved.move_id)).left_at_source == 0
    assert await scalar(store.target, "select full_name from store.user_account where id = %s", traveller) == "x"


async def test_purge_refuses_a_source_copy_that_changed(store: Place) -> None:
    """A write that slipped past the guard (a session in replica role) must not be purged away."""
    traveller = await scalar(store.source, "select min(id) from store.user_account where market = 'IN'")
    moved = await apply_cold(store.workspace, await plan_of(store))
    await execute(
        store.source,
        "set session_replication_role = replica;"
        f"update store.user_account set full_name = 'slipped' where id = {traveller}",
    )
    assert not (await commands.verify(store.workspace, moved.move_id)).clean
    with pytest.raises(DomicileError) as refused:
        await commands.purge(store.workspace, moved.move_id)
    assert refused.value.code is ErrorCode.VERDICT_MISSING
    assert await scalar(store.source, "select count(*) from store.user_account where id = %s", traveller) == 1


async def test_nothing_is_removed_without_its_line_in_the_journal(store: Place) -> None:
    moved = await apply_cold(store.workspace, await plan_of(store, "market = 'IN'"))
    before = await every_row(store.source)
    await execute(store.source, "alter table domicile.purge_journal add constraint never check (false)")
    with pytest.raises((DomicileError, psycopg.Error)):
        await commands.purge(store.workspace, moved.move_id)
    assert await every_row(store.source) == before
    await execute(store.source, "alter table domicile.purge_journal drop constraint never")
    assert (await commands.purge(store.workspace, moved.move_id)).left_at_source == 0


async def test_a_purge_looks_back_at_what_it_has_removed(store: Place) -> None:
    """A purge that was interrupted behind its first chunk; then somebody writes past the guard for one of its users."""
    moved = await apply_cold(store.workspace, await plan_of(store, "market = 'IN'"))
    with pytest.raises(DomicileError, match="failpoint"):
        await commands.purge(replace(store.workspace, failpoint="purge.chunk_committed:error"), moved.move_id)
    slipped = """
        insert into store.user_account (id, email, phone, full_name, market, locale, created_at) overriding system value
        select m.subject, 'slipped@example.com', '', 'slipped', 'IN', 'en-IN', now()
        from domicile.member as m join domicile.wave as w on w.id = m.wave where w.no = 1 and m.ordinal = 1"""
    await execute(store.source, f"set session_replication_role = replica; {slipped}")
    with pytest.raises(DomicileError, match="1 rows of the wave are still at beijing"):
        await commands.purge(store.workspace, moved.move_id)
    await execute(
        store.source,
        "set session_replication_role = replica; delete from store.user_account where full_name = 'slipped'",
    )
    assert (await commands.purge(store.workspace, moved.move_id)).left_at_source == 0


async def test_pause_stops_between_waves_and_resume_goes_on(store: Place) -> None:
    before = together(await every_row(store.source), await every_row(store.target), in_scope())
    stop = asyncio.Event()
    stop.set()
    paused = await apply_cold(store.workspace, await plan_of(store), stop=stop)
    assert paused.status in (Status.PAUSED, Status.WAITING)
    assert all(w.phase in (Phase.PLANNED, Phase.SOAK) for w in paused.waves), "nobody is left between homes"
    done = await commands.resume(store.workspace, paused.move_id)
    assert done.status is Status.WAITING
    await commands.purge(store.workspace, done.move_id)
    assert together(await every_row(store.source), await every_row(store.target), in_scope()) == before


async def test_a_plan_is_applied_once(store: Place) -> None:
    plan = await plan_of(store)
    first = await apply_cold(store.workspace, plan)
    with pytest.raises(DomicileError) as refused:
        await apply_cold(store.workspace, plan)
    assert refused.value.code is ErrorCode.PLAN_APPLIED
    assert first.move_id in refused.value.message


async def test_a_cohort_that_changed_makes_the_plan_stale_and_leaves_no_trace(store: Place) -> None:
    plan = await plan_of(store)
    await execute(store.source, "update store.user_account set market = 'IN' where id = (select min(id) from "
                  "store.user_account where market = 'CN')")  # fmt: skip
    before = await every_row(store.source), await every_row(store.target)
    with pytest.raises(DomicileError) as refused:
        await apply_cold(store.workspace, plan)
    assert refused.value.code is ErrorCode.PLAN_STALE
    assert (await every_row(store.source), await every_row(store.target)) == before
    assert await scalar(store.source, "select count(*) from domicile.move") == 0
    assert (await apply_cold(store.workspace, await plan_of(store))).status is Status.WAITING


async def test_another_configuration_or_map_makes_the_plan_stale(store: Place) -> None:
    plan = await plan_of(store)
    with pytest.raises(DomicileError) as refused:
        await apply_cold(replace(store.workspace, config_digest="other"), plan)
    assert refused.value.code is ErrorCode.PLAN_STALE


async def test_those_who_left_cannot_be_planned_again(store: Place) -> None:
    await apply_cold(store.workspace, await plan_of(store, "market = 'IN'"))
    with pytest.raises(DomicileError) as refused:
        await plan_of(store, "market in ('IN', 'ID')")
    assert refused.value.code is ErrorCode.COHORT_DEPARTED
    moved = await apply_cold(store.workspace, await plan_of(store, "market = 'ID'"))
    assert moved.status is Status.WAITING


async def test_abort_between_waves_keeps_what_moved(store: Place) -> None:
    stop = asyncio.Event()
    stop.set()
    paused = await apply_cold(store.workspace, await plan_of(store), stop=stop)
    if paused.status is not Status.PAUSED:
        pytest.skip("the move was faster than the pause")
    aborted = await commands.abort(store.workspace, paused.move_id)
    assert aborted.status is Status.ABORTED
    moved = {w.no for w in aborted.waves if w.phase is Phase.SOAK}
    assert moved == {w.no for w in paused.waves if w.phase is Phase.SOAK}
    left = await scalar(
        store.source, "select count(*) from domicile.wave where move_id = %s and mark = 'open'", paused.move_id
    )
    assert left == 0


async def test_the_control_database_holds_no_subject(store: Place) -> None:
    """Scan every column of every control table for the keys, mails and names of those who moved."""
    rows = await scalar(
        store.source,
        "select string_agg(concat_ws('|', email, full_name, phone), '|') from store.user_account where market <> 'CN'",
    )
    moved = await apply_cold(store.workspace, await plan_of(store))
    needles = {n for n in str(rows).split("|") if len(n) > 5}
    assert len(needles) > 100
    from domicile.commands.desk import open_desk

    async with open_desk(store.workspace) as desk:
        tables = await (
            await desk.conn.execute(
                """select table_schema, table_name from information_schema.tables
                   where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'"""
            )
        ).fetchall()
        assert len(tables) > 10, "DBOS's tables too"
        for schema, name in tables:
            cursor = await desk.conn.execute(f'select t::text from "{schema}"."{name}" as t'.encode())
            text = "\n".join(r[0] for r in await cursor.fetchall())
            assert not [n for n in needles if n in text], f"{schema}.{name}"
    assert moved.status is Status.WAITING
