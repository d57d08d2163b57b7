"""Rows and unique values that passed from wave to wave at the target: their copies at the source are brought up in
turns, and a wave that waits for another gets as far as it can before."""

from __future__ import annotations

import pytest
from tests.move.live_kit import FEW, INDIA, one_home
from tests.move.places import SOURCE, TARGET, Place, execute, scalar
from tests.move.test_live_back import member, moved
from tests.move.test_live_owners import NEW_ORDER

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode, Question

EMAIL = "select email from store.user_account where id = %s"
GIVES = """
    update store.orders set user_id = {0}, address_id = (select min(id) from store.address where user_id = {0})
    where id = {1}"""
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
