"""Who signs up, joins, is deleted or is merged during a move: nobody is lost, nobody has two homes."""

from __future__ import annotations

import json

import psycopg
import pytest
from tests.move.cold_kit import (
    COPY,
    DELETE,
    FENCE,
    HANDOVER,
    MERGE,
    ONE_WAVE,
    ORDERS,
    PREPARE,
    PRESENT,
    SIGN_UP,
    VERIFY,
    carried,
    finished,
    paused,
    people,
    through,
)
from tests.move.places import TARGET, Place, every_row, execute, scalar, together
from tests.move.test_cold_move import in_scope

from domicile import commands
from domicile.commands.desk import open_desk
from domicile.model.phase import Phase, Status
from domicile.model.plan import SignUps
from domicile.move import begin, sweep
from domicile.move.run import Outcome

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
