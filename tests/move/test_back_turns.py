"""Rows and unique values that passed from wave to wave at the target: their copies at the source are brought up in
turns, and a wave that waits for another gets as far as it can before."""

from __future__ import annotations

import pytest
from tests.move.live_kit import FEW, INDIA, one_home
from tests.move.places import SOURCE, TARGET, Place, execute, scalar
from tests.move.test_live_back import member, moved
from tests.move.test_live_owners import NEW_ORDER, PAYMENT, PAYS

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode, Question
from domicile.move import rollback, soak
from domicile.move.carrier import Carrier

EMAIL = "select email from store.user_account where id = %s"
GIVES = """
    update store.orders set user_id = {0}, address_id = (select min(id) from store.address where user_id = {0})
    where id = {1}"""
TURNS_MAX = 30
LET_GO = "select (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots where active_pid is null"
TAKES = "update store.user_account set email = '{}' where id = {}"


async def test_waves_get_as_far_as_they_can(place: Place) -> None:
    """Two give up what the other takes, and take what the other gives up later: all that was written since stands in
    one batch of each. And an order came to one wave, and went on to another, which goes home before it."""
    move = (await moved(place)).move_id
    one, two, three = [await member(place, no) for no in (1, 2, 3)]
    first, second = [await scalar(place.target, EMAIL, subject) for subject in (one, two)]
    for email, subject in (("free", one), (first, two), (second, one)):
        await execute(place.target, TAKES.format(email, subject))
    await execute(place.target, NEW_ORDER.format(one))
    await execute(place.target, GIVES.format(three, 7000001))
    assert (await commands.rollback(place.workspace, move)).status is Status.ABORTED
    assert [await scalar(place.source, EMAIL, subject) for subject in (one, two)] == [second, first]
    assert await scalar(place.source, "select user_id from store.orders where id = 7000001") == three
    await one_home(place)


async def test_what_came_to_hang_from_a_row_that_went_on_goes_with_it(place: Place) -> None:
    """Two orders came to one wave and went on to another, which has the first one and waits for the second one's
    payment; that is still the first wave's, which waits for the first order."""
    move = (await moved(place)).move_id
    one, three = [await member(place, no) for no in (1, 3)]
    payment = await scalar(place.target, PAYMENT.format(one))
    await execute(place.target, NEW_ORDER.format(one), GIVES.format(three, 7000001))
    second = NEW_ORDER.format(one).replace("7000001", "7000002")
    await execute(place.target, f"begin; {second}; {PAYS.format(7000002, payment)}; commit")
    await execute(place.target, GIVES.format(three, 7000002))
    assert (await commands.rollback(place.workspace, move)).status is Status.ABORTED
    pays = "select o.user_id from store.payment as p join store.orders as o on o.id = p.order_id where p.id = %s"
    assert await scalar(place.source, pays, payment) == three
    await one_home(place)


async def test_waves_that_block_each_other_come_home_by_a_move_of_their_own(place: Place) -> None:
    """Two unique values are exchanged in one transaction."""
    move = (await moved(place)).move_id
    one, two = await member(place, 1), await member(place, 2)
    first, second = [await scalar(place.target, EMAIL, subject) for subject in (one, two)]
    pairs = (("free", one), (first, two), (second, one))
    await execute(place.target, "begin;" + ";".join(TAKES.format(*pair) for pair in pairs) + ";commit")
    with pytest.raises(DomicileError) as refused:
        await commands.rollback(place.workspace, move)
    assert refused.value.code is ErrorCode.WAY_BACK_BLOCKED
    assert f"domicile purge {move}" in refused.value.hint
    now = (await commands.status(place.workspace, move))[0]
    assert {w.phase for w in now.waves} == {Phase.SOAK}, "none is home before all copies are brought up"
    assert (await commands.purge(place.workspace, move)).left_at_source == 0
    home = await commands.plan(place.workspace, Question(place.dataset, TARGET, SOURCE, where=INDIA), limits=FEW)
    assert (await commands.apply(place.workspace, home, mode=Mode.LIVE)).status is Status.WAITING
    assert [await scalar(place.source, EMAIL, subject) for subject in (one, two)] == [second, first]


async def test_what_passes_from_wave_to_wave_meanwhile_is_not_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each turn an order that has stood in this wave's copy goes on to the wave whose turn is next, so that
    somebody is always behind."""
    move = (await moved(place)).move_id
    subjects = [await member(place, no) for no in (1, 2, 3)]
    for number in range(TURNS_MAX):
        await execute(place.target, NEW_ORDER.replace("7000001", str(7000001 + number)).format(subjects[number % 3]))
    follow, go_home = soak._follow, rollback.run
    turns: list[int] = []
    let_go = [await scalar(place.target, LET_GO)]

    async def follow_and_give(carrier: Carrier, no: int, *, anew: bool) -> None:
        assert len(turns) < TURNS_MAX, "no end"
        turns.append(no)
        try:
            await follow(carrier, no, anew=anew)
        finally:
            given = 7000001 + no - 1 + 3 * turns.count(no)
            await execute(place.target, GIVES.format(subjects[no % 3], given))

    async def nobody_gives_any_more(carrier: Carrier, no: int) -> None:
        monkeypatch.setattr(soak, "_follow", follow)
        let_go.append(await scalar(place.target, LET_GO))
        await go_home(carrier, no)

    monkeypatch.setattr(soak, "_follow", follow_and_give)
    monkeypatch.setattr(rollback, "run", nobody_gives_any_more)
    assert (await commands.rollback(place.workspace, move)).status is Status.ABORTED
    assert len(turns) > 3, "somebody had to wait"
    assert let_go[1] > let_go[0]
    await one_home(place)
