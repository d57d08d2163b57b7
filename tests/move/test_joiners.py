"""Who signs up, joins, leaves, is deleted or is merged during a move: nobody is lost, nobody has two homes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
import json

import psycopg
import pytest
from tests.move.places import SOURCE, TARGET, Place, apply_cold, every_row, execute, scalar, together
from tests.move.test_cold_move import in_scope

from domicile import commands
from domicile.commands.desk import carrier_for, open_desk
from domicile.commands.moves import create, freeze_cohort
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import PHASES_OF, Phase, Status
from domicile.model.plan import Limits, Mode, Question, SignUps
from domicile.model.report import LEFT, MoveStatus
from domicile.move import begin, sweep
from domicile.move.carrier import Carrier
from domicile.move.eject import eject, eject_leavers, leavers
from domicile.move.failpoints import Failpoints
from domicile.move.run import Outcome, run_phase
from domicile.postgres import waves

INDIA = "market = 'IN'"
INDIANS = "select array_agg(id order by id) from store.user_account where market = 'IN'"
SIGN_UP = """
    insert into store.user_account (email, phone, full_name, market, locale, created_at)
    values ('new@example.org', '+91 0000', 'New', 'IN', 'en_IN', now()) returning id"""
# What an application does to a user, in the order of its foreign keys.
DELETE = """
    delete from store.payment where order_id in (select id from store.orders where user_id = {0});
    delete from store.order_item where order_id in (select id from store.orders where user_id = {0});
    delete from store.orders where user_id = {0};
    delete from store.address where user_id = {0};
    delete from store.device where user_id = {0};
    delete from store.review where user_id = {0};
    delete from store.cart_item where cart_id in (select id from store.cart where user_id = {0});
    delete from store.cart where user_id = {0};
    delete from store."Wishlist" where user_id = {0};
    delete from store.photo where user_id = {0};
    delete from store.referral where inviter_id = {0};
    delete from store.user_account where id = {0}"""
MERGE = """
    update store.orders set user_id = {1} where user_id = {0};
    update store.address set user_id = {1} where user_id = {0};
    update store.device set user_id = {1} where user_id = {0};
    update store.review set user_id = {1} where user_id = {0};
    update store.photo set user_id = {1} where user_id = {0};
    update store.referral set inviter_id = {1} where inviter_id = {0}"""
PRESENT = "select count(*) from store.user_account where id = %s"
ORDERS = "select count(*) from store.orders where user_id = %s"


async def paused(place: Place, where: str = INDIA, sign_ups: SignUps = SignUps.REFUSE) -> MoveStatus:
    """A move that has begun, stopped between two waves: sign-ups are refused, the last wave has not begun."""
    plan = await commands.plan(place.workspace, Question(place.dataset, SOURCE, TARGET, where, sign_ups=sign_ups))
    stop = asyncio.Event()
    stop.set()
    now = await apply_cold(place.workspace, plan, stop=stop)
    assert now.status is Status.PAUSED, now
    return now


async def people(place: Place) -> list[int]:
    """The Indians of the source, in key order."""
    found = await scalar(place.source, INDIANS)
    assert isinstance(found, list)
    return found


@asynccontextmanager
async def carried(place: Place, where: str = INDIA, limits: Limits | None = None) -> AsyncIterator[Carrier]:
    """A move that has begun, whose phases the test carries out by itself."""
    question = Question(place.dataset, SOURCE, TARGET, where)
    plan = await commands.plan(place.workspace, question, limits=limits)
    async with open_desk(place.workspace) as desk:
        record = await create(desk, plan, Mode.COLD)
        async with carrier_for(desk, record.move_id) as carrier:
            await freeze_cohort(desk, carrier, plan)
            await begin.run(carrier)
            yield carrier


ONE_WAVE = Limits(wave_subjects_max=500, canary_subjects_max=0, chunk_rows=50, purge_chunk_rows=50, settle_seconds=0)


async def through(carrier: Carrier, no: int, *phases: Phase) -> None:
    for phase in phases:
        outcome = await run_phase(carrier, no, phase)
        wave = await carrier.figures.wave(carrier.move.move_id, no)
        assert outcome is Outcome.DONE, wave.error_message


PREPARE, FENCE, COPY, VERIFY, HANDOVER = PHASES_OF[Mode.COLD]


async def wave_at(carrier: Carrier, no: int = 1) -> tuple[int, int]:
    """The wave's ids at source and target."""
    async with carrier.sites() as (source, target):
        here = await waves.find_wave(source, carrier.move.move_id, no)
        there = await waves.find_wave(target, carrier.move.move_id, no)
    assert here is not None
    return here.id, there.id if there else 0


async def gone_from(carrier: Carrier, no: int = 1) -> list[int]:
    at_source, _ = await wave_at(carrier, no)
    async with carrier.source() as source:
        return await leavers(source, carrier.move.move_id, at_source, carrier.move.data_map)


async def finished(place: Place, move_id: str) -> None:
    """Purged, and done."""
    assert (await commands.purge(place.workspace, move_id)).left_at_source == 0
    (now,) = await commands.status(place.workspace, move_id)
    assert now.status is Status.DONE, now


# Sign-ups


async def test_a_sign_up_is_refused_and_follows_to_the_target(store: Place) -> None:
    now = await paused(store)
    with pytest.raises(psycopg.Error) as refused:
        await scalar(store.source, SIGN_UP)
    assert refused.value.sqlstate == "DM001"
    home = json.loads(refused.value.diag.message_detail or "")["home"]
    assert home == TARGET
    new = await scalar(store.workspace.conninfo("store", home), SIGN_UP)
    assert await scalar(store.source, SIGN_UP.replace("'IN'", "'CN'")), "others sign up as ever"

    done = await commands.resume(store.workspace, now.move_id)
    assert (done.status, len(done.waves)) == (Status.WAITING, len(now.waves)), "nobody was left to be swept"
    assert await scalar(store.target, PRESENT, new) == 1
    with pytest.raises(psycopg.Error) as refused:
        await scalar(store.source, SIGN_UP.replace("new@", "newer@"))
    assert refused.value.sqlstate == "DM001", "until the move is over"
    await finished(store, now.move_id)
    assert await scalar(store.source, SIGN_UP.replace("new@", "newest@")), "the move is over"
    assert await scalar(store.source, "select condition from domicile.move") == "", "and its condition forgotten"


async def test_an_aborted_move_refuses_nobody(store: Place) -> None:
    now = await paused(store)
    with pytest.raises(psycopg.Error, match="moved"):
        await scalar(store.source, SIGN_UP)
    await commands.abort(store.workspace, now.move_id)
    assert await scalar(store.source, SIGN_UP)
    assert not await scalar(store.source, "select condition from domicile.move")
    assert not await scalar(store.source, "select count(*) from pg_trigger where tgname = 'zy_domicile_sign_up'")


async def test_accepted_sign_ups_are_swept(store: Place) -> None:
    now = await paused(store, sign_ups=SignUps.ACCEPT)
    new = await scalar(store.source, SIGN_UP)
    done = await commands.resume(store.workspace, now.move_id)
    assert done.status is Status.WAITING
    assert [(w.no, w.subjects, w.rows_planned, w.verdict) for w in done.waves[len(now.waves) :]] == [
        (len(now.waves) + 1, 1, 1, "clean")
    ]
    assert (await commands.where(store.workspace, "store", str(new))).home == TARGET
    await finished(store, now.move_id)


async def test_the_control_database_never_learns_the_condition(store: Place) -> None:
    secret = "market = 'IN' and full_name <> 'A very personal value'"
    now = await paused(store, secret)
    assert await scalar(store.source, "select condition from domicile.move") == secret
    assert await scalar(store.target, "select condition from domicile.move") == ""
    async with open_desk(store.workspace) as desk:
        cursor = await desk.conn.execute(
            """select table_schema, table_name from information_schema.tables
               where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'"""
        )
        for schema, name in await cursor.fetchall():
            rows = await desk.conn.execute(f'select t::text from "{schema}"."{name}" as t'.encode())
            assert not [r for (r,) in await rows.fetchall() if "very personal" in r], f"{schema}.{name}"
    await commands.abort(store.workspace, now.move_id)


# Late joiners


async def test_who_changes_into_the_market_is_swept_with_every_row(either_store: Place) -> None:
    place = either_store
    before = together(await every_row(place.source), await every_row(place.target), in_scope() - {"store.user_account"})
    now = await paused(place)
    joiners = await scalar(
        place.source, "select array_agg(distinct user_id) from store.orders where mod(user_id, 7) = 0 and user_id in"
        " (select id from store.user_account where market = 'CN')"
    )  # fmt: skip
    assert isinstance(joiners, list)
    assert joiners
    await scalar(place.source, "update store.user_account set market = 'IN' where id = any(%s) returning 1", joiners)
    done = await commands.resume(place.workspace, now.move_id)
    assert done.status is Status.WAITING
    (swept,) = done.waves[len(now.waves) :]
    assert (swept.subjects, swept.phase, swept.verdict) == (len(joiners), Phase.SOAK, "clean")
    assert swept.rows_copied == swept.rows_planned > len(joiners)
    await finished(place, now.move_id)
    at_target = await scalar(place.target, "select count(*) from store.user_account where id = any(%s)", joiners)
    assert at_target == len(joiners)
    assert await scalar(place.source, "select count(*) from store.user_account where market = 'IN'") == 0
    after = together(await every_row(place.source), await every_row(place.target), in_scope() - {"store.user_account"})
    assert after == before


async def test_sweeping_ends_some_day_and_says_so(store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SWEEPS_MAX", 1)
    now = await paused(store, sign_ups=SignUps.ACCEPT)
    await scalar(store.source, SIGN_UP)
    done = await commands.resume(store.workspace, now.move_id)
    assert (done.status, len(done.waves)) == (Status.WAITING, len(now.waves) + 1)
    async with open_desk(store.workspace) as desk:
        cursor = await desk.conn.execute("select detail from domicile_control.event where what like '%no more sweeps'")
        assert await cursor.fetchall() == [({"sweeps": 1},)]


async def test_a_sweep_that_was_cut_is_found_again_and_forgotten_by_an_abort(store: Place) -> None:
    late = "select count(*) from domicile.wave where mark = 'open'"
    async with carried(store, limits=ONE_WAVE) as carrier:
        move = carrier.move
        await execute(store.source, "update store.user_account set market = 'IN' where id = (select min(id) from"
                      " store.user_account where market = 'CN')")  # fmt: skip
        async with carrier.source() as source:  # as far as a crash let it come
            assert await carrier.sweep(source, move.plan, move.data_map, move.move_id, 2, move.generation) == 1
        assert await scalar(store.source, late) == 2
        assert await sweep.run(carrier) == 2
        assert (await carrier.figures.wave(move.move_id, 2)).subjects == 1
        async with carrier.source() as source:
            await execute(store.source, "update store.user_account set market = 'IN' where id = (select max(id) from"
                          " store.user_account where market = 'CN')")  # fmt: skip
            assert await carrier.sweep(source, move.plan, move.data_map, move.move_id, 3, move.generation) == 1
    await commands.abort(store.workspace, move.move_id)
    assert await scalar(store.source, "select count(*) from domicile.member") == 0
    assert await scalar(store.source, "select count(*) from domicile.move") == 0


# Leavers


async def test_who_leaves_the_cohort_before_their_wave_stays_home(store: Place) -> None:
    now = await paused(store)
    everybody = await people(store)
    moves_away, deleted = everybody[-1], everybody[-2]
    orders = await scalar(store.source, ORDERS, moves_away)
    await execute(
        store.source,
        f"update store.user_account set market = 'CN' where id = {moves_away}",
        DELETE.format(deleted),
    )
    done = await commands.resume(store.workspace, now.move_id)
    assert done.status is Status.WAITING
    assert sum(w.subjects for w in done.waves) == len(everybody) - 2
    account = await commands.report(store.workspace, now.move_id)
    assert [(e.reason, e.subjects) for e in account.ejected] == [(LEFT, 2)]
    named = await scalar(store.source, "select array_agg(subject order by subject) from domicile.ejected")
    assert named == sorted([moves_away, deleted]), "names are at the source"
    assert await scalar(store.target, "select count(*) from domicile.ejected") == 0

    touched = "update store.user_account set locale = 'zh_CN' where id = %s returning id"
    assert await scalar(store.source, touched, moves_away) == moves_away, "the source serves them"
    assert (await commands.where(store.workspace, "store", str(moves_away))).home == SOURCE
    await finished(store, now.move_id)
    assert await scalar(store.source, ORDERS, moves_away) == orders
    assert await scalar(store.target, PRESENT, moves_away) == 0
    assert (
        await scalar(store.target, "select count(*) from store.user_account where market = 'IN'") == len(everybody) - 2
    )


async def test_who_left_and_came_back_is_swept(store: Place) -> None:
    async with carried(store, limits=ONE_WAVE) as carrier:
        one = (await people(store))[0]
        change = "update store.user_account set market = '{}' where id = {}"
        await execute(store.source, change.format("CN", one))
        before = (await carrier.figures.wave(carrier.move.move_id, 1)).subjects
        assert await eject_leavers(carrier, 1)
        assert (await carrier.figures.wave(carrier.move.move_id, 1)).subjects == before - 1
        assert await sweep.run(carrier) == 0
        await execute(store.source, change.format("IN", one))
        assert await sweep.run(carrier) == 2


async def test_a_wave_that_everybody_has_left_has_nothing_to_do(store: Place) -> None:
    now = await paused(store)
    last = now.waves[-1].no
    await execute(
        store.source,
        f"""update store.user_account set market = 'CN' where id in (select m.subject from domicile.member as m
            join domicile.wave as w on w.id = m.wave where w.no = {last})""",
    )
    done = await commands.resume(store.workspace, now.move_id)
    assert done.status is Status.WAITING
    assert (done.waves[-1].phase, done.waves[-1].subjects) == (Phase.PLANNED, 0)
    await finished(store, now.move_id)


async def test_nobody_is_taken_out_of_a_wave_whose_members_all_belong(store: Place) -> None:
    async with carried(store, "market = 'IN' and email like '%@%' -- 100%", ONE_WAVE) as carrier:
        assert await gone_from(carrier) == []
        others = await scalar(store.source, "select count(*) from store.user_account where market = 'CN'")
        await execute(store.source, "update store.user_account set full_name = 'x' where market = 'CN'")
        assert await gone_from(carrier) == []
        await execute(store.source, "update store.user_account set market = 'CN' where market = 'IN'")
        assert len(await gone_from(carrier)) == (await carrier.figures.wave(carrier.move.move_id, 1)).subjects
        assert others


# Deleted and merged after their wave has been prepared: their rows are nobody's, or another's


async def test_a_deleted_user_breaks_neither_verify_nor_purge(store: Place) -> None:
    async with carried(store, limits=ONE_WAVE) as carrier:
        everybody = await people(store)
        await through(carrier, 1, PREPARE)
        await execute(store.source, DELETE.format(everybody[3]))
        await through(carrier, 1, FENCE, COPY, VERIFY, HANDOVER)
        await begin.end(carrier, Outcome.DONE)
    await finished(store, carrier.move.move_id)
    at_target = await scalar(store.target, "select count(*) from store.user_account where market = 'IN'")
    assert at_target == len(everybody) - 1


async def test_one_who_was_merged_into_another_of_the_wave(store: Place) -> None:
    async with carried(store, limits=ONE_WAVE) as carrier:
        gone, stays, *_ = await people(store)
        orders = sum([int(str(await scalar(store.source, ORDERS, one))) for one in (gone, stays)])
        await through(carrier, 1, PREPARE)
        await execute(store.source, MERGE.format(gone, stays), DELETE.format(gone))
        await through(carrier, 1, FENCE, COPY, VERIFY, HANDOVER)
        await begin.end(carrier, Outcome.DONE)
    await finished(store, carrier.move.move_id)
    assert await scalar(store.target, ORDERS, stays) == orders
    assert await scalar(store.target, PRESENT, gone) == 0
    assert await scalar(store.source, "select count(*) from store.orders where user_id = any(%s)", [gone, stays]) == 0


async def test_one_who_was_merged_into_somebody_who_stays(store: Place) -> None:
    async with carried(store, limits=ONE_WAVE) as carrier:
        gone = (await people(store))[0]
        stays = await scalar(store.source, "select min(id) from store.user_account where market = 'CN'")
        orders = sum([int(str(await scalar(store.source, ORDERS, one))) for one in (gone, stays)])
        await through(carrier, 1, PREPARE)
        await execute(store.source, MERGE.format(gone, stays), DELETE.format(gone))
        await through(carrier, 1, FENCE, COPY, VERIFY, HANDOVER)
        await begin.end(carrier, Outcome.DONE)
    await finished(store, carrier.move.move_id)
    assert await scalar(store.source, ORDERS, stays) == orders
    assert await scalar(store.target, "select count(*) from store.orders where user_id = any(%s)", [gone, stays]) == 0


async def test_one_who_was_merged_before_their_wave_is_taken_out(store: Place) -> None:
    """Into one of the same wave: only the one who is gone is taken out."""
    now = await paused(store)
    *_, stays, gone = await people(store)
    orders = sum([int(str(await scalar(store.source, ORDERS, one))) for one in (gone, stays)])
    await execute(store.source, MERGE.format(gone, stays), DELETE.format(gone))
    done = await commands.resume(store.workspace, now.move_id)
    assert done.status is Status.WAITING
    await finished(store, now.move_id)
    assert await scalar(store.target, ORDERS, stays) == orders


# Ejection


async def _rows_of(conninfo: str, subjects: Sequence[int]) -> int:
    found = await scalar(
        conninfo,
        """select (select count(*) from store.user_account where id = any(%(s)s)) + (select count(*) from store.orders
           where user_id = any(%(s)s)) + (select count(*) from store.order_item where order_id in
           (select id from store.orders where user_id = any(%(s)s)))""".replace("%(s)s", f"array{list(subjects)}"),
    )
    assert isinstance(found, int)
    return found


async def test_members_are_taken_out_of_a_wave_that_is_copied(store: Place) -> None:
    """The first, some neighbours and the last: the ordinals have gaps from now on, and nobody is passed over."""
    async with carried(store, limits=ONE_WAVE) as carrier:
        everybody = await people(store)
        taken = [1, 4, 5, 6, len(everybody)]
        who = [everybody[n - 1] for n in taken]
        rest = [p for p in everybody if p not in who]
        rows = await _rows_of(store.source, rest)
        outsiders = await scalar(store.target, "select count(*) from store.user_account")
        await through(carrier, 1, PREPARE, FENCE, COPY)
        assert await _rows_of(store.target, who) > len(who)
        assert await eject(carrier, 1, taken, "a discrepancy that stayed") == len(rest)
        assert await _rows_of(store.target, who) == 0
        assert await _rows_of(store.target, rest) == rows
        assert await carrier.directory.reserved(carrier.move.move_id, 1) == len(rest)
        assert (await carrier.figures.wave(carrier.move.move_id, 1)).subjects == len(rest)
        touched = "update store.user_account set locale = locale where id = %s returning id"
        assert await scalar(store.source, touched, who[0]) == who[0], "under the fence of the others"
        with pytest.raises(psycopg.Error, match="between two sites"):
            await scalar(store.source, touched, rest[0])
        await through(carrier, 1, VERIFY, HANDOVER)
        with pytest.raises(DomicileError) as refused:
            await eject(carrier, 1, [2], "too late")
        assert refused.value.code is ErrorCode.PHASE_FORBIDS
        assert await sweep.run(carrier) == 0, "they fit the condition, and are not taken again"
        await begin.end(carrier, Outcome.DONE)
    assert (await commands.verify(store.workspace, carrier.move.move_id)).clean
    await finished(store, carrier.move.move_id)
    assert await _rows_of(store.source, rest) == 0
    assert await _rows_of(store.target, rest) == rows
    assert await scalar(store.source, "select count(*) from store.user_account where id = any(%s)", who) == len(who)
    assert await scalar(store.target, "select count(*) from store.user_account") == outsiders + len(rest)  # type: ignore[operator]


async def test_a_wave_with_gaps_steps_back_and_goes_again(store: Place) -> None:
    """Copied, cleaned and copied again by ranges of ordinals: the last member is past the number of members."""
    async with carried(store, limits=ONE_WAVE) as carrier:
        everybody = await people(store)
        assert await eject(carrier, 1, [1, 2, 3], "for the test") == len(everybody) - 3
        before = await every_row(store.target)
        await through(carrier, 1, PREPARE, FENCE, COPY)
        assert await _rows_of(store.target, everybody[-1:]) > 0, "the last member is there"
        await begin.end(carrier, Outcome.ABORTED)
        assert await every_row(store.target) == before


@pytest.mark.parametrize("point", ["eject.target_cleaned", "eject.source_forgot"])
async def test_an_ejection_that_was_cut_is_found_and_finished(store: Place, point: str) -> None:
    async with carried(store, limits=ONE_WAVE) as carrier:
        who = (await people(store))[1]
        await through(carrier, 1, PREPARE, FENCE, COPY)
        broken = replace(carrier, move=replace(carrier.move, failpoints=Failpoints(f"{point}:error")))
        with pytest.raises(DomicileError, match="failpoint"):
            await eject(broken, 1, [2], "for the test")
        assert await gone_from(carrier) == ([2] if point == "eject.target_cleaned" else []), "though they fit"
        left = (await carrier.figures.wave(carrier.move.move_id, 1)).subjects - 1
        for _ in range(2):
            assert await eject(carrier, 1, await gone_from(carrier), LEFT) == left
            assert await gone_from(carrier) == []
            assert (await carrier.figures.wave(carrier.move.move_id, 1)).subjects == left
        assert await carrier.directory.reserved(carrier.move.move_id, 1) == left
        assert await scalar(store.source, "select array_agg(reason) from domicile.ejected") == ["for the test"]
        await through(carrier, 1, VERIFY, HANDOVER)
        assert await scalar(store.source, PRESENT, who) == 1
        assert await scalar(store.target, PRESENT, who) == 0


async def test_another_process_that_took_over_ejects_alone(store: Place) -> None:
    async with carried(store, limits=ONE_WAVE) as carrier:
        zombie = replace(carrier, move=replace(carrier.move, generation=carrier.move.generation - 1))
        with pytest.raises(DomicileError) as caught:
            await eject(zombie, 1, [1], "for the test")
        assert caught.value.code is ErrorCode.LEASE_LOST
        assert await scalar(store.source, "select count(*) from domicile.ejected") == 0
