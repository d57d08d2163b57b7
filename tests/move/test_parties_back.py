"""Rows of two people whose second person was cleared: what is written back where the wave stays, or comes home."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move import chat_kit
from tests.move.chat_kit import (
    HELLO,
    INDIA,
    INDIANS,
    NOTES,
    ONE,
    OWNERS,
    STAYING,
    cleared_now,
    make_cleared,
    names,
    nothing_dangles,
    owned,
    rows,
    without,
    write,
)
from tests.move.live_kit import COPY, PREPARE, begun, no_trace, through
from tests.move.mover import mover
from tests.move.places import Place, execute, scalar

from domicile import commands
from domicile.commands.desk import carrier_for, open_desk
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Mode
from domicile.move import begin, clearing, eject, stepback
from domicile.move.carrier import Carrier
from domicile.postgres import clearing as statements

plan_of, moved = partial(chat_kit.plan_of, limits=ONE), partial(chat_kit.moved, limits=ONE)


@pytest.fixture
async def chat(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    return await make_cleared(site_pair, scratch / tmp_path.name, control)


async def test_a_step_back_writes_back_what_was_cleared(chat: Place) -> None:
    before = await owned(chat.source), await owned(chat.target)
    failing = replace(chat.workspace, failpoint="live.armed:error")
    stopped = await commands.apply(failing, await plan_of(chat), mode=Mode.LIVE)
    assert stopped.status is not Status.DONE
    assert (await owned(chat.source), await owned(chat.target)) == before
    await commands.abort(chat.workspace, stopped.move_id)
    assert (await owned(chat.source), await owned(chat.target)) == before
    assert await scalar(chat.source, NOTES) == 0
    await no_trace(chat)


async def test_what_the_application_does_meanwhile_decides(chat: Place) -> None:
    await execute(
        chat.source,
        "insert into chat.person (id, handle, market, mood, badges, credit) values (700, 'x', 'CN', 'calm', '{}', 0)",
    )
    for no, to in ((2001, 1), (2002, 1), (2003, 700), (2004, 1), (2005, 1), (2007, 1)):
        assert await write(chat.source, HELLO, no, 3, to) == ""
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await cleared_now(carrier)
        assert await scalar(chat.source, "select count(recipient_id) from chat.message where id > 2000") == 0
        await execute(
            chat.source,
            "delete from chat.message where id = 2001",
            "update chat.message set recipient_id = 2 where id = 2002",
            "update chat.message set recipient_id = 700 where id = 2007",
        )
        await purged(carrier, 700)
        await execute(
            chat.source,
            "delete from chat.person where id = 700",
            "update chat.message set id = 2006 where id = 2004",
        )
        await stepback.run(carrier, 1)
    assert await rows(chat.source, "select id::text, coalesce(recipient_id, 0) from chat.message where id > 2000") == {
        "2002": 2,
        "2003": 0,
        "2005": 1,
        "2006": 0,
        "2007": 0,
    }
    assert await scalar(chat.source, NOTES) == 0
    await nothing_dangles(chat)


async def purged(carrier: Carrier, person: int) -> None:
    """As another move's purge does where the person's copy goes."""
    move = carrier.move
    async with carrier.source() as source, source.transaction():
        await source.execute("set local session_replication_role = replica")
        await statements.clear_gone(source, move.data_map, move.source_schema, 0, [str(person)])


async def test_a_rollback_writes_back_what_was_cleared_on_the_way_there(chat: Place) -> None:
    assert await write(chat.source, HELLO, 2001, 3, 1) == ""
    before, residents = await names(chat.source, {*INDIANS, *STAYING}), await owned(chat.target)
    first = await moved(chat)
    # To somebody who is not at the source, instead of whom it named before.
    assert await write(chat.target, "update chat.message set recipient_id = 502 where id = 2001") == ""
    before.pop("message 2001")
    hello = "insert into chat.message (id, sender_id, recipient_id, body) values (5001, 3, 502, 'to a resident')"
    await execute(chat.target, hello)
    await commands.rollback(chat.workspace, first.move_id)
    assert await names(chat.source, {*INDIANS, *STAYING}) == before, "what was written last decides"
    assert await scalar(chat.source, "select recipient_id from chat.message where id = 5001") is None
    assert await scalar(chat.source, NOTES) == 0
    await commands.purge(chat.workspace, first.move_id)
    assert await owned(chat.target) == residents
    assert await scalar(chat.target, NOTES) == 0
    await nothing_dangles(chat)


@pytest.mark.campaign
async def test_a_rollback_that_fails_leaves_the_target_as_it_was(chat: Place) -> None:
    first = await moved(chat)
    await execute(
        chat.target, "insert into chat.message (id, sender_id, recipient_id, body) values (5001, 3, 502, '!')"
    )
    there = await owned(chat.target)
    with pytest.raises(DomicileError):
        await commands.rollback(replace(chat.workspace, failpoint="live.armed:error"), first.move_id)
    assert await owned(chat.target) == there
    assert await scalar(chat.target, NOTES) == 0
    await commands.rollback(chat.workspace, first.move_id)
    await nothing_dangles(chat)


async def test_who_is_taken_out_of_the_wave_gets_the_references_back(chat: Place) -> None:
    before = await names(chat.source, INDIANS)
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await cleared_now(carrier)
        gone = await scalar(chat.source, "select ordinal from domicile.member where subject = 3")
        await eject.eject(carrier, 1, [int(str(gone))], "to be tested")
        assert await names(chat.source, {3}) == await before_of(chat, before, {3})
        others = INDIANS - {3}
        assert await names(chat.source, others) == without(await before_of(chat, before, others), STAYING)
        await stepback.run(carrier, 1)
    assert await names(chat.source, INDIANS) == before


async def before_of(place: Place, before: dict[str, int], owners: set[int]) -> dict[str, int]:
    whose = await rows(place.source, OWNERS)
    return {row: who for row, who in before.items() if whose[row] in owners}


async def test_a_locked_row_keeps_nothing_else_from_being_written_back(
    chat: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, there = await names(chat.source, INDIANS), await owned(chat.target)
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await cleared_now(carrier)
        monkeypatch.setattr(statements, "ROWS_PER_BATCH", 1)
        monkeypatch.setattr(clearing, "WRITE_BACK_SECONDS_MAX", 0.5)
        async with await psycopg.AsyncConnection.connect(chat.source) as slow:
            await slow.execute("select from chat.message where sender_id % 2 = 0 for update")
            with pytest.raises(DomicileError) as refused:
                await stepback.run(carrier, 1)
            assert refused.value.code is ErrorCode.FENCE_BUDGET
            whose = await rows(chat.source, OWNERS)
            free = {row for row in before if whose[row] % 2 or not row.startswith("message")}
            assert {row: who for row, who in before.items() if row in free} == {
                row: who for row, who in (await names(chat.source, INDIANS)).items() if row in free
            }
            assert await owned(chat.target) == there, "its second half is done"
        await stepback.run(carrier, 1)
    assert await names(chat.source, INDIANS) == before
    assert await scalar(chat.source, NOTES) == 0


async def test_where_the_arrival_was_lost_the_references_are_written_back(chat: Place) -> None:
    before = await names(chat.source, INDIANS)
    first = await moved(chat)
    await execute(chat.target, "update domicile.wave set mark = 'arriving', arrival = ''")  # as a standby without it
    async with open_desk(chat.workspace) as desk, carrier_for(desk, first.move_id) as carrier:
        await begin.enlist(carrier)
    assert await names(chat.source, INDIANS) == before
    assert await scalar(chat.source, NOTES) == 0


@pytest.mark.parametrize("way", ["forward", pytest.param("back", marks=pytest.mark.campaign)])
async def test_killed_between_a_clearing_and_what_follows(chat: Place, way: str) -> None:
    before, residents = await names(chat.source, INDIANS), await owned(chat.target)
    async with mover(chat.workspace) as process:
        died = await process.do("apply", await plan_of(chat), mode=Mode.LIVE, failpoint="parties.cleared:kill")
        assert died.killed
        (move,) = [m.move_id for m in await commands.status(chat.workspace)]
        if way == "back":
            died = await process.do("abort", move, failpoint="parties.written_back:kill")
            assert died.killed
            assert (await process.do("abort", move)).error == ""
            assert await names(chat.source, INDIANS) == before
            assert await owned(chat.target) == residents
            await no_trace(chat)
            return
        assert (await process.do("resume", move)).result.status is Status.WAITING
        assert await names(chat.target, INDIANS) == without(before, STAYING)
        assert (await process.do("rollback", move, failpoint="parties.written_back:kill")).killed
        assert (await process.do("rollback", move)).error == ""
    assert await names(chat.source, INDIANS) == before
    await nothing_dangles(chat)
