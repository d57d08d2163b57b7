"""Rows that pass from one member of a wave to another: what hangs from them has another owner then, and the stream says
nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    ONE,
    PREPARE,
    arrived_whole,
    begun,
    given_after_the_snapshot,
    members,
    owned,
    people,
    plan_of,
    through,
    traces,
    write,
)
from tests.move.places import Place, execute, scalar

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import PHASES_OF, Phase, Status
from domicile.model.plan import Mode
from domicile.model.report import LEFT
from domicile.move import live_verify, stepback
from domicile.move.carrier import Carrier
from domicile.move.eject import eject
from domicile.move.failpoints import Failpoints
from domicile.move.live_wave import open_live
from domicile.move.run import take_leavers_out

ORDER = """
    select o.id from store.orders as o where exists (select from store.order_item as i where i.order_id = o.id)
    and exists (select from store.payment as p where p.order_id = o.id) and o.user_id = %s order by 1 limit 1"""
GIVE = """
    update store.orders set user_id = {1}, address_id = (select min(id) from store.address where user_id = {1})
    where id = {0}"""


async def gift(place: Place) -> tuple[int, str]:
    """An order of a member with what hangs from it, and the statement that gives it to another."""
    indians = await people(place.source)
    for one in indians:
        order = await scalar(place.source, f"select ({ORDER})", one)
        if order is not None:
            return int(str(order)), GIVE.format(order, indians[-1] if one != indians[-1] else indians[0])
    raise AssertionError("nobody has ordered anything")


async def test_an_order_changes_hands_behind_the_snapshot_of_the_full_comparison(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    residents = await owned(place.target)
    _, give = await gift(place)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            await live_verify.mark(live)
            given_after_the_snapshot(monkeypatch, place, give)
            verdict = await live_verify.whole(live)
            assert verdict.clean, verdict.discrepancies
            await live_verify.touched_rows(live)
            assert live.dirty_rows() == 0
        await through(carrier, CATCHUP)
    await arrived_whole(place, residents)


async def test_an_order_changes_hands_while_what_hangs_from_it_is_compared_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    residents = await owned(place.target)
    order, give = await gift(place)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            await live_verify.mark(live)
            assert (await live_verify.whole(live)).clean
            await execute(place.source, f"update store.order_item set quantity = quantity + 1 where order_id = {order}")
            await live_verify.mark(live)
            given_after_the_snapshot(monkeypatch, place, give)
            await live_verify.touched_rows(live)
            await live_verify.touched_rows(live)
            assert live.dirty_rows() == 0
        await through(carrier, CATCHUP)
    await arrived_whole(place, residents)


async def test_a_row_below_it_that_differs_is_found_all_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out of the comparison in which its owner is unclear, and of no other."""
    order, give = await gift(place)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            await live_verify.mark(live)
            wrong = f"update store.order_item set quantity = quantity + 1 where order_id = {order}"
            await execute(place.target, "set session_replication_role = replica", wrong)
            given_after_the_snapshot(monkeypatch, place, give)
            assert (await live_verify.whole(live)).clean
            with pytest.raises(DomicileError) as found:
                await live_verify.touched_rows(live)
            assert found.value.code is ErrorCode.DISCREPANCY


WRONG = "update store.user_account set full_name = 'wrong' where id = {}"
TOUCH = "update store.user_account set full_name = full_name || '!' where id = {}"
REST = "set session_replication_role = replica"


async def test_a_row_that_differs_is_found_though_it_was_touched_before_the_snapshot(place: Place) -> None:
    """Touched rows are excused where the snapshot does not see their change, and there alone."""
    one = (await people(place.source))[0]
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            await execute(place.source, TOUCH.format(one))
            await live_verify.mark(live)
            assert live.dirty_rows() == 1
            await execute(place.target, REST, WRONG.format(one))
            assert not (await live_verify.whole(live)).clean


async def test_a_touched_row_that_lacks_its_parent_at_the_target_is_found(place: Place) -> None:
    """Itself it is equal at both sites, and its parent was compared before."""
    one = (await people(place.source))[0]
    new = f"""
        insert into store.orders (user_id, address_id, currency, total)
        select {one}, min(id), 'INR', 7 from store.address where user_id = {one}"""
    parent = f"delete from store.address where id = (select min(id) from store.address where user_id = {one})"
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            await live_verify.mark(live)
            assert (await live_verify.whole(live)).clean
            await execute(place.source, new)
            await live_verify.mark(live)
            await execute(place.target, REST, parent)
            with pytest.raises(DomicileError, match="refer to a row that is not there"):
                await live_verify.touched_rows(live)


async def test_a_row_that_differs_is_found_when_it_was_touched_behind_the_snapshot(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison that excused it has not compared it."""
    one = (await people(place.source))[0]
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            await live_verify.mark(live)
            given_after_the_snapshot(monkeypatch, place, TOUCH.format(one))
            assert (await live_verify.whole(live)).clean
            assert live.dirty_rows() == 1
            await execute(place.target, REST, WRONG.format(one))
            with pytest.raises(DomicileError) as found:
                await live_verify.touched_rows(live)
            assert found.value.code is ErrorCode.DISCREPANCY


async def test_who_changes_market_while_the_wave_is_on_its_way_stays_home(place: Place) -> None:
    """He is copied already: his rows at the target go, he is served by the source, and the others arrive."""
    residents = await owned(place.target)
    *others, emigrant = await people(place.source)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        copied = "select count(*) from store.user_account where id = %s"
        assert await scalar(place.target, copied, emigrant) == 1
        await execute(place.source, f"update store.user_account set market = 'CN' where id = {emigrant}")
        await through(carrier, CATCHUP)
    await arrived_whole(place, residents)
    assert await members(place, "departed") == others
    assert await write(place.source, emigrant) == ""
    assert await scalar(place.target, copied, emigrant) == 0


EMIGRATE = "update store.user_account set market = 'CN' where market = 'IN'"


MARK_OF_HOME = "update store.user_account set full_name = 'at home' where market = 'IN'"


async def nobody_left(place: Place, carrier: Carrier) -> None:
    """The wave is as one that everybody left before it began: nothing of it is at the target or reserved."""
    wave = await carrier.figures.wave(carrier.move.move_id, 1)
    assert (wave.phase, wave.status, wave.subjects, wave.error_code) == (Phase.PLANNED, Status.PENDING, 0, "")
    assert await carrier.directory.reserved(carrier.move.move_id, 1) == 0
    left = await traces(place.target)
    assert not left["wave"] + left["member"] + left["progress"], left
    assert not await take_leavers_out(carrier, 1), "an order that is given again has nothing to carry either"


async def test_a_move_that_everybody_leaves_on_the_way_has_nothing_to_carry(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = await people(place.source)
    await execute(place.source, MARK_OF_HOME)
    at_home, residents = await owned(place.source), await owned(place.target)
    plan = await plan_of(place, "full_name = 'at home'", ONE)
    given_after_the_snapshot(monkeypatch, place, "update store.user_account set full_name = 'left' where market = 'IN'")
    now = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
    (wave,) = now.waves
    assert (now.status, wave.phase, wave.subjects) == (Status.DONE, Phase.PLANNED, 0), "there is nothing to order"
    assert await write(place.source, everybody[0]) == ""
    left = (await traces(place.source)).keys() | (await traces(place.target)).keys()
    assert not left & {"slot", "publication", "armed guard", "member", "progress"}
    assert await scalar(place.source, "select condition from domicile.move") == "", "whoever signs up is taken again"
    account = await commands.report(place.workspace, now.move_id)
    assert [(e.reason, e.subjects) for e in account.ejected] == [(LEFT, len(everybody))]
    figures = (await commands.evidence_bundle(place.workspace, now.move_id)).report.figures
    assert (figures["handovers"], figures["steps_back"]) == (0, 1)
    await execute(place.source, MARK_OF_HOME)
    assert (await owned(place.source), await owned(place.target)) == (at_home, residents)


async def emptied(carrier: Carrier, ordinals: Sequence[int]) -> None:
    """What the mover does with a wave that they all have left."""
    await eject(carrier, 1, ordinals, LEFT)
    await stepback.run(carrier, 1)


@pytest.mark.parametrize("point", ["eject.source_forgot", "stepback.target_cleaned"])
async def test_the_end_of_a_wave_of_nobody_that_was_cut_is_found_and_finished(place: Place, point: str) -> None:
    """A process that dies leaves the wave in its phase."""
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        everybody = range(1, 1 + (await carrier.figures.wave(carrier.move.move_id, 1)).subjects)
        await execute(place.source, EMIGRATE)
        await carrier.moves.enter(carrier.move.move_id, 1, CATCHUP)
        broken = replace(carrier, move=replace(carrier.move, failpoints=Failpoints(f"{point}:error")))
        with pytest.raises(DomicileError, match="failpoint"):
            await emptied(broken, everybody)
        await through(carrier, *PHASES_OF[Mode.LIVE][2:])
        await nobody_left(place, carrier)
    assert await owned(place.target) == residents
