"""Who leaves the cohort before their wave, or while it is on its way: nobody is lost, nobody is carried along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from tests.move.cold_kit import (
    COPY,
    DELETE,
    FENCE,
    HANDOVER,
    ONE_WAVE,
    ORDERS,
    PREPARE,
    PRESENT,
    VERIFY,
    carried,
    finished,
    gone_from,
    paused,
    people,
    through,
)
from tests.move.places import SOURCE, Place, every_row, execute, scalar

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.report import LEFT
from domicile.move import begin, sweep
from domicile.move.eject import eject, eject_leavers
from domicile.move.failpoints import Failpoints
from domicile.move.run import Outcome


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
