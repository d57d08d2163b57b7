"""Rows that pass from one member of a wave to another: what hangs from them has another owner then, and the stream says
nothing of it."""

from __future__ import annotations

import pytest
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    PREPARE,
    arrived_whole,
    begun,
    given_after_the_snapshot,
    members,
    owned,
    people,
    through,
    write,
)
from tests.move.places import Place, execute, scalar

from domicile.model.errors import DomicileError, ErrorCode
from domicile.move import live_verify
from domicile.move.live_wave import open_live

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
