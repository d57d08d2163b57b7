"""Rows of two people whose second person is cleared where the row lives: what is null, and from when on."""

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
from tests.move.chat_kit import (
    HELLO,
    INDIA,
    INDIANS,
    LIMITS,
    NOTES,
    ONE,
    STAYING,
    cleared_now,
    make_cleared,
    names,
    nothing_dangles,
    owned,
    without,
    write,
)
from tests.move.live_kit import CATCHUP, COPY, PREPARE, begun, through, until
from tests.move.places import SOURCE, Place, execute, scalar

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Mode
from domicile.move import stepback
from domicile.move.failpoints import Failpoints

plan_of, moved = partial(chat_kit.plan_of, limits=ONE), partial(chat_kit.moved, limits=ONE)
TO = "chat.message(recipient_id) -> chat.person(id)"
_HELD_UP = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


@pytest.fixture
async def chat(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    return await make_cleared(site_pair, scratch / tmp_path.name, control)


async def held_up(conninfo: str) -> None:
    """Until a session waits for a lock."""

    async def waiting() -> bool:
        return bool(await scalar(conninfo, _HELD_UP))

    await until(waiting)


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
    assert await scalar(chat.source, NOTES) == len(before) - len(expected)
    assert await scalar(chat.target, NOTES) == 0
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


async def test_who_writes_the_reference_anew_is_cleared_again(chat: Place, seed: int) -> None:
    async with insisting(chat, seed):
        first = await moved(chat)
    await nothing_dangles(chat)
    assert not without(await names(chat.target, INDIANS), INDIANS)
    await commands.purge(chat.workspace, first.move_id)
    await nothing_dangles(chat)


async def test_whom_an_open_message_names_is_cleared_behind_it(chat: Place) -> None:
    """A purge judges behind the transactions that name whoever goes, and nothing comes later."""
    first = await moved(chat)
    async with await psycopg.AsyncConnection.connect(chat.source) as slow:
        await slow.execute(HELLO.encode(), (5001, 1, 3))
        purging = asyncio.create_task(commands.purge(chat.workspace, first.move_id))
        await held_up(chat.source)
    await purging
    assert await scalar(chat.source, "select count(*) from chat.message where id = 5001 and recipient_id is null") == 1
    assert await write(chat.source, HELLO, 5002, 1, 3) == "23503"


async def test_who_names_somebody_while_a_purge_waits_is_not_kept_waiting(chat: Place) -> None:
    first = await moved(chat)
    async with await psycopg.AsyncConnection.connect(chat.source) as slow:
        await slow.execute("select from chat.message where recipient_id = 3 and sender_id = 7 for update")
        purging = asyncio.create_task(commands.purge(chat.workspace, first.move_id))
        await held_up(chat.source)
        async with asyncio.timeout(10):
            assert await write(chat.source, HELLO, 5001, 1, 3) == ""
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
        assert await write(chat.target, HELLO, 5001, 501, 3) == ""
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
            assert await write(chat.source, HELLO, 5001, 6, 9) == ""
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
    assert await write(chat.source, HELLO, 2001, 3, 1) == ""
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        writing = Writing(site=chat.source)
        async with asyncio.timeout(20):
            await cleared_now(replace(carrier, move=replace(carrier.move, failpoints=writing)))
        assert 1 < writing.times < 9
        await stepback.run(carrier, 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("alter table chat.message alter recipient_id set not null", "it is never null"),
        pytest.param(
            "alter table chat.message drop constraint message_recipient_id_fkey",
            "no foreign key of the whole table declares it",
            marks=pytest.mark.campaign,
        ),
        (
            (
                "alter table chat.message drop constraint message_recipient_id_fkey, "
                "add foreign key (recipient_id) references chat.person not valid"
            ),
            "its foreign key is not validated",
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
    validate = "alter table chat.message validate constraint message_recipient_id_fkey;"
    assert (failed[0].hint == validate) == ("not valid" in change)


async def test_references_to_who_moves_in_a_later_wave_are_refused_by_name(chat: Place) -> None:
    failed = {c.name: c for c in (await plan_of(chat, limits=LIMITS)).refusals}
    assert set(failed) == {"references between waves"}
    assert TO in failed["references between waves"].detail
