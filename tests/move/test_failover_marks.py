"""What `mend` makes of the marks that a failover has left, beside what test_failover.py promotes standbys for: several
waves at once, a source that knows nothing of a wave, writers in the middle. What a standby would lack is taken from the
server itself."""

from __future__ import annotations

import asyncio

import pytest
from tests.move.live_kit import ONE, marks, members, one_home, open_transaction, people, plan_of, until, write
from tests.move.places import SOURCE, TARGET, Place, execute, scalar
from tests.move.test_live_back import member, moved

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status

# As if the departure, and all that was committed behind it, had never reached the standby.
UNDEPARTED = f"update domicile.wave set mark = 'closing', home = '{SOURCE}', epoch = epoch - 1 where no = {{}}"
UNHEARD_OF = (
    "delete from domicile.member where wave in (select id from domicile.wave where no = {0})",
    ("delete from domicile.wave where no = {0}"),
)
UNARRIVED = "update domicile.wave set mark = 'arriving', arrival = '' where no = {}"
TOUCHES = "update store.user_account set locale = 'xx' where id = {}"


async def refused(place: Place, order: str, move: str) -> DomicileError:
    with pytest.raises(DomicileError) as caught:
        await getattr(commands, order)(place.workspace, move)
    return caught.value


async def test_a_source_that_never_heard_of_the_wave_is_told_who_is_in_it(place: Place) -> None:
    move = (await moved(place, await plan_of(place, limits=ONE))).move_id
    gone = await members(place, "departed")
    await execute(place.source, *(statement.format(1) for statement in UNHEARD_OF))
    assert await write(place.source, gone[0]) == "", "served twice"
    assert (await commands.resume(place.workspace, move)).status is Status.WAITING
    assert await members(place, "departed") == gone
    assert {await write(place.source, one) for one in (gone[0], gone[-1])} == {"DM001"}
    assert await write(place.source, (await people(place.source, "CN"))[0]) == "", "who stays is not refused"
    home = await commands.where(place.workspace, place.dataset, str(gone[0]))
    assert (home.home, home.epoch) == (TARGET, 1)
    assert await write(place.target, gone[0]) == ""


async def test_a_writer_in_the_middle_is_waited_for_before_the_copy_is_judged(place: Place) -> None:
    """He began when the source took the wave's writes again, and commits behind the closing: what he wrote is in the
    copy, so the copy is in doubt."""
    move = (await moved(place, await plan_of(place, limits=ONE))).move_id
    somebody = (await members(place, "departed"))[0]
    await execute(place.source, UNDEPARTED.format(1))
    async with open_transaction(place.source, TOUCHES.format(somebody)) as writer:
        resuming = asyncio.create_task(commands.resume(place.workspace, move))
        await until(lambda: scalar(place.source, "select true from domicile.wave where mark = 'departed'"))
        await asyncio.sleep(1.0)
        await writer.commit()
    assert (await resuming).status is Status.WAITING
    assert (await refused(place, "rollback", move)).code is ErrorCode.WAY_BACK_CLOSED
    assert await scalar(place.source, "select locale from store.user_account where id = %s", somebody) == "xx"


async def test_what_is_served_twice_is_closed_before_another_wave_is_refused(place: Place) -> None:
    """The first wave has no home left, which nobody can mend here; the third one must not wait for that."""
    move = (await moved(place)).move_id
    somebody = await member(place, 3)
    await execute(place.source, *(statement.format(1) for statement in UNHEARD_OF), UNDEPARTED.format(3))
    await execute(place.target, UNARRIVED.format(1))
    assert (await write(place.source, somebody), await write(place.target, somebody)) == ("", ""), "two homes"
    assert (await refused(place, "resume", move)).code is ErrorCode.DISCREPANCY
    assert (await write(place.source, somebody), await write(place.target, somebody)) == ("DM001", "")
    await one_home(place)
    assert (await marks(place))[0] == {2: "departed", 3: "departed"}
