"""Rows of two people whose second person is cleared where the row lives: what is null when, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
import random

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move import chat_kit
from tests.move.chat_kit import INDIA, INDIANS, LIMITS, MAP, STAYING, make_chat, owned, write
from tests.move.live_kit import CATCHUP, COPY, PREPARE, begun, no_trace, through, until
from tests.move.mover import mover
from tests.move.places import SOURCE, Place, execute, scalar

from domicile import commands
from domicile.commands.desk import carrier_for, open_desk
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Mode
from domicile.move import begin, clearing, eject, stepback
from domicile.move.carrier import Carrier
from domicile.move.failpoints import Failpoints
from domicile.postgres import clearing as statements

ONE = replace(LIMITS, wave_subjects_max=500, canary_subjects_max=0)
plan_of, moved = partial(chat_kit.plan_of, limits=ONE), partial(chat_kit.moved, limits=ONE)
TO = "chat.message(recipient_id) -> chat.person(id)"
_MAP = MAP.replace(": stub}", ": null}").replace(", parties: {b_id -> chat.person(id): null}", "")
_NULLABLE = "alter table chat.message alter recipient_id drop not null"
_NO_FRIENDS = "delete from chat.friendship; alter table chat.friendship drop constraint friendship_b_id_fkey"
# Whom each row of a message or a part names, by the row's key; invitations are made, the kit has none.
_INVITED = "update chat.person set invited_by = 1 + (id % 20) where id <= 20"
_NAMES = """
    select 'message ' || id, recipient_id from chat.message where recipient_id is not null
    union all select 'part ' || message_id || ' ' || no, seen_by from chat.part where seen_by is not null
    union all select 'person ' || id, invited_by from chat.person where invited_by is not null"""
_OWNERS = """
    select 'message ' || id, sender_id from chat.message
    union all select 'part ' || message_id || ' ' || no, sender_id from chat.part join chat.message on id = message_id
    union all select 'person ' || id, id from chat.person"""
_NOTES = "select count(*) from domicile.cleared"
_DANGLING = """
    select count(*) from (
        select recipient_id as who from chat.message union all select seen_by from chat.part
        union all select invited_by from chat.person) as named
    where who is not null and not exists (select from chat.person where id = who)"""
_HELD_UP = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
_HELLO = "insert into chat.message (id, sender_id, recipient_id, body) values (%s, %s, %s, '!')"


@pytest.fixture
async def chat(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    place = await make_chat(site_pair, scratch / tmp_path.name, control)
    for site in (place.source, place.target):
        await execute(site, _NULLABLE, _NO_FRIENDS)
    await execute(place.source, _INVITED)
    Path(place.workspace.datasets["chat"].map_path).write_text(_MAP)
    return replace(place, workspace=replace(place.workspace, limits=ONE))


async def rows(conninfo: str, query: str) -> dict[str, int]:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        return dict(await (await conn.execute(query.encode())).fetchall())


async def names(conninfo: str, owners: set[int]) -> dict[str, int]:
    """Whom the rows of some people name."""
    owner = await rows(conninfo, _OWNERS)
    return {row: who for row, who in (await rows(conninfo, _NAMES)).items() if owner[row] in owners}


def without(named: dict[str, int], gone: set[int]) -> dict[str, int]:
    return {row: who for row, who in named.items() if who not in gone}


async def held_up(conninfo: str) -> None:
    """Until a session waits for a lock."""

    async def waiting() -> bool:
        return bool(await scalar(conninfo, _HELD_UP))

    await until(waiting)


async def nothing_dangles(place: Place) -> None:
    assert await scalar(place.target, _DANGLING) == 0
    assert await scalar(place.source, _DANGLING) == 0


async def cleared_now(carrier: Carrier) -> None:
    """What the comparison begins with."""
    async with carrier.sites() as (source, target):
        wave = await carrier.wave_at_sites(source, target, 1)
    await clearing.run(carrier.move, wave)


@asynccontextmanager
async def insisting(place: Place, seed: int) -> AsyncIterator[None]:
    """An application that writes references to those who stay again and again, wherever the writers live."""
    stop, dice = asyncio.Event(), random.Random(seed)

    async def run() -> None:
        while not stop.is_set():
            for site in (place.source, place.target):
                sender, to = dice.choice(sorted(INDIANS)), dice.choice(sorted(STAYING))
                state = await write(site, "update chat.message set recipient_id = %s where sender_id = %s", to, sender)
                assert state in ("", "DM001", "DM002", "23503", "40001", "40P01"), state
            await asyncio.sleep(0.05)

    running = asyncio.create_task(run())
    try:
        yield
    finally:
        stop.set()
        await running


async def test_a_plan_counts_what_will_be_cleared(chat: Place) -> None:
    said = {c.name: c for c in (await plan_of(chat)).checks}
    named = without(await names(chat.source, INDIANS), INDIANS)
    messages = sum(row.startswith("message") for row in named)
    assert said["references to clear"].passed
    assert f"{messages} of {TO}" in said["references that will be cleared"].detail
    others = without(await names(chat.source, STAYING), STAYING)
    going = sum(row.startswith("message") for row in others)
    assert f"the purge clears {going} of {TO} at {SOURCE}" in said["references from those who stay"].detail


@pytest.mark.parametrize("mode", list(Mode))
async def test_references_are_cleared_there_and_behind_the_purge(chat: Place, mode: Mode) -> None:
    everything = {**await owned(chat.source)}
    before, stayed = await names(chat.source, INDIANS), await names(chat.source, STAYING)
    first = await moved(chat, mode=mode)
    expected = without(before, STAYING)
    assert before != expected
    assert await names(chat.target, INDIANS) == expected
    assert await names(chat.source, INDIANS) == expected, "the copy that stays behind is as it was proven"
    assert await names(chat.source, STAYING) == stayed
    assert await scalar(chat.source, _NOTES) == len(before) - len(expected)
    assert await scalar(chat.target, _NOTES) == 0
    done = await commands.purge(chat.workspace, first.move_id)
    assert done.left_at_source == 0
    assert await names(chat.source, STAYING) == without(stayed, INDIANS)
    assert await scalar(chat.source, "select pg_relation_size('domicile.cleared')") == 0, "they are keys of people"
    await nothing_dangles(chat)
    # Who moves later is there when those who came before are asked.
    second = await moved(chat, "market = 'CN'", mode)
    assert await names(chat.target, STAYING) == without(stayed, INDIANS)
    await commands.purge(chat.workspace, second.move_id)
    assert sum({**await owned(chat.target)}.values()) == sum(everything.values()) + 5
    await nothing_dangles(chat)


async def test_a_step_back_writes_back_what_was_cleared(chat: Place) -> None:
    before = await owned(chat.source), await owned(chat.target)
    failing = replace(chat.workspace, failpoint="live.armed:error")
    stopped = await commands.apply(failing, await plan_of(chat), mode=Mode.LIVE)
    assert stopped.status is not Status.DONE
    assert (await owned(chat.source), await owned(chat.target)) == before
    await commands.abort(chat.workspace, stopped.move_id)
    assert (await owned(chat.source), await owned(chat.target)) == before
    assert await scalar(chat.source, _NOTES) == 0
    await no_trace(chat)


async def test_what_the_application_does_meanwhile_decides(chat: Place) -> None:
    await execute(
        chat.source,
        "insert into chat.person (id, handle, market, mood, badges, credit) values (700, 'x', 'CN', 'calm', '{}', 0)",
    )
    for no, to in ((2001, 1), (2002, 1), (2003, 700), (2004, 1), (2005, 1), (2007, 1)):
        assert await write(chat.source, _HELLO, no, 3, to) == ""
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
    assert await scalar(chat.source, _NOTES) == 0
    await nothing_dangles(chat)


async def purged(carrier: Carrier, person: int) -> None:
    """As another move's purge does where the person's copy goes."""
    move = carrier.move
    async with carrier.source() as source, source.transaction():
        await source.execute("set local session_replication_role = replica")
        await statements.clear_gone(source, move.data_map, move.source_schema, 0, [str(person)])


async def test_a_rollback_writes_back_what_was_cleared_on_the_way_there(chat: Place) -> None:
    assert await write(chat.source, _HELLO, 2001, 3, 1) == ""
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
    assert await scalar(chat.source, _NOTES) == 0
    await commands.purge(chat.workspace, first.move_id)
    assert await owned(chat.target) == residents
    assert await scalar(chat.target, _NOTES) == 0
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
    assert await scalar(chat.target, _NOTES) == 0
    await commands.rollback(chat.workspace, first.move_id)
    await nothing_dangles(chat)


async def test_who_writes_the_reference_anew_is_cleared_again(chat: Place, seed: int) -> None:
    async with insisting(chat, seed):
        first = await moved(chat)
    await nothing_dangles(chat)
    assert not without(await names(chat.target, INDIANS), INDIANS)
    await commands.purge(chat.workspace, first.move_id)
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
    whose = await rows(place.source, _OWNERS)
    return {row: who for row, who in before.items() if whose[row] in owners}


async def test_whom_an_open_message_names_is_cleared_behind_it(chat: Place) -> None:
    """A purge judges behind the transactions that name whoever goes, and nothing comes later."""
    first = await moved(chat)
    async with await psycopg.AsyncConnection.connect(chat.source) as slow:
        await slow.execute(_HELLO.encode(), (5001, 1, 3))
        purging = asyncio.create_task(commands.purge(chat.workspace, first.move_id))
        await held_up(chat.source)
    await purging
    assert await scalar(chat.source, "select count(*) from chat.message where id = 5001 and recipient_id is null") == 1
    assert await write(chat.source, _HELLO, 5002, 1, 3) == "23503"


async def test_who_names_somebody_while_a_purge_waits_is_not_kept_waiting(chat: Place) -> None:
    first = await moved(chat)
    async with await psycopg.AsyncConnection.connect(chat.source) as slow:
        await slow.execute("select from chat.message where recipient_id = 3 and sender_id = 7 for update")
        purging = asyncio.create_task(commands.purge(chat.workspace, first.move_id))
        await held_up(chat.source)
        async with asyncio.timeout(10):
            assert await write(chat.source, _HELLO, 5001, 1, 3) == ""
        assert not purging.done()
    await purging
    assert await scalar(chat.source, "select count(*) from chat.message where id = 5001 and recipient_id is null") == 1
    await nothing_dangles(chat)


@pytest.mark.parametrize("mark", ["fenced", pytest.param("arriving", marks=pytest.mark.campaign)])
async def test_a_purge_waits_for_rows_that_are_between_two_sites(chat: Place, mark: str) -> None:
    """Another move's wave: what names whoever goes must not be proven, or stay, with that reference."""
    first = await moved(chat)
    await execute(
        chat.source,
        "insert into domicile.move values ('other', 'chat', 'beijing', 'source', 'tokyo')",
        f"insert into domicile.wave (move_id, no, mark, home, epoch) values ('other', 1, '{mark}', 'beijing', 9)",
        "insert into domicile.member select id, 1, 2 from domicile.wave where move_id = 'other'",
    )
    assert await scalar(chat.source, "select invited_by from chat.person where id = 2") in INDIANS
    with pytest.raises(DomicileError) as refused:
        await commands.purge(chat.workspace, first.move_id)
    assert refused.value.code is ErrorCode.REFERENCE_MISSING
    await execute(chat.source, "delete from domicile.move where move_id = 'other'")
    await commands.purge(chat.workspace, first.move_id)
    await nothing_dangles(chat)


async def test_a_member_who_deletes_himself_is_named_by_nobody_where_the_others_arrive(chat: Place) -> None:
    await execute(
        chat.source,
        "update chat.person set invited_by = null",
        "delete from chat.message where 3 in (sender_id, recipient_id)",
        "update chat.part set seen_by = null",
    )
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        assert await write(chat.target, _HELLO, 5001, 501, 3) == ""
        await execute(chat.source, "delete from chat.person where id = 3")
        # As the stream does; before the comparison, and behind the question who has left the wave.
        await execute(chat.target, "set session_replication_role = replica; delete from chat.person where id = 3")
        await cleared_now(carrier)
        named = "select count(*) from chat.message where id = 5001 and recipient_id is null"
        assert await scalar(chat.target, named) == 1
        await through(carrier, CATCHUP)
    assert await scalar(chat.target, named) == 1
    await nothing_dangles(chat)


async def test_a_row_that_is_locked_is_waited_for_and_the_application_is_not(chat: Place) -> None:
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        async with await psycopg.AsyncConnection.connect(chat.source) as slow:
            await slow.execute("select from chat.message where sender_id % 3 = 0 for update")
            running = asyncio.create_task(cleared_now(carrier))
            await asyncio.sleep(0.5)
            assert not running.done()
            assert await write(chat.source, _HELLO, 5001, 6, 9) == ""
        await running
        assert not without(await names(chat.source, INDIANS), INDIANS)
        await stepback.run(carrier, 1)


@dataclass(slots=True)
class Writing(Failpoints):
    """An application that gives a row its reference again each time that it was cleared."""

    site: str = ""
    times: int = 0

    async def reach(self, point: str) -> None:
        if point == "parties.cleared":
            assert await write(self.site, "update chat.message set recipient_id = 1 where id = 2001") == ""
            self.times += 1


async def test_who_writes_the_reference_again_and_again_is_not_waited_for(chat: Place) -> None:
    assert await write(chat.source, _HELLO, 2001, 3, 1) == ""
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        writing = Writing(site=chat.source)
        async with asyncio.timeout(20):
            await cleared_now(replace(carrier, move=replace(carrier.move, failpoints=writing)))
        assert 1 < writing.times < 9
        await stepback.run(carrier, 1)


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
            whose = await rows(chat.source, _OWNERS)
            free = {row for row in before if whose[row] % 2 or not row.startswith("message")}
            assert {row: who for row, who in before.items() if row in free} == {
                row: who for row, who in (await names(chat.source, INDIANS)).items() if row in free
            }
            assert await owned(chat.target) == there, "its second half is done"
        await stepback.run(carrier, 1)
    assert await names(chat.source, INDIANS) == before
    assert await scalar(chat.source, _NOTES) == 0


async def test_where_the_arrival_was_lost_the_references_are_written_back(chat: Place) -> None:
    before = await names(chat.source, INDIANS)
    first = await moved(chat)
    await execute(chat.target, "update domicile.wave set mark = 'arriving', arrival = ''")  # as a standby without it
    async with open_desk(chat.workspace) as desk, carrier_for(desk, first.move_id) as carrier:
        await begin.enlist(carrier)
    assert await names(chat.source, INDIANS) == before
    assert await scalar(chat.source, _NOTES) == 0


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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("alter table chat.message alter recipient_id set not null", "it is never null"),
        pytest.param(
            "alter table chat.message drop constraint message_recipient_id_fkey",
            "it is no foreign key",
            marks=pytest.mark.campaign,
        ),
        ("create unique index apart on chat.message (id) where recipient_id is null", "a part of apart"),
        ("alter table chat.message add check (num_nonnulls(recipient_id) = 1)", "a check of the table takes no null"),
        pytest.param(
            "alter table chat.part drop constraint part_pkey",
            "no key that tells its rows apart",
            marks=pytest.mark.campaign,
        ),
        pytest.param(
            "alter table chat.part add unique (message_id, no, seen_by)",
            "it is a part of a key",
            marks=pytest.mark.campaign,
        ),
    ],
)
async def test_what_cannot_be_null_is_named_by_the_plan(chat: Place, change: str, why: str) -> None:
    for site in (chat.source, chat.target):
        await execute(site, change)
    failed = [c for c in (await plan_of(chat)).refusals if c.name == "references to clear"]
    assert failed
    assert why in failed[0].detail, failed[0].detail


async def test_references_to_who_moves_in_a_later_wave_are_refused_by_name(chat: Place) -> None:
    failed = {c.name: c for c in (await plan_of(chat, limits=LIMITS)).refusals}
    assert set(failed) == {"references between waves"}
    assert TO in failed["references between waves"].detail
