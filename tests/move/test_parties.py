"""Rows of two people: who stays is a stub where the other one lives, and a row again where he comes to live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move.chat_kit import (
    INDIA,
    INDIANS,
    STAYING,
    Writers,
    befriended,
    make_chat,
    moved,
    of,
    owned,
    plan_of,
    stubs,
    write,
)
from tests.move.live_kit import CATCHUP, COPY, ONE, PREPARE, begun, no_trace, through, until
from tests.move.places import SOURCE, Place, execute, scalar

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode
from domicile.model.site import SiteName
from domicile.move import parties, stepback
from domicile.postgres import guard_filter
from domicile.postgres.stubs import enroll_missing

TO = {
    "message": "chat.message(recipient_id) -> chat.person(id)",
    "part": "chat.part(seen_by) -> chat.person(id)",
    "friendship": "chat.friendship(b_id) -> chat.person(id)",
}


_REGISTRY = "select count(*) from domicile.move where move_id = 'stubs'"
_HELD_UP = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
_HELLO = "insert into chat.message (sender_id, recipient_id, body) values (1, 3, '!')"
_PERSON = """
    insert into chat.person (id, handle, market, mood, badges, credit) values ({}, '{}', 'SG', 'calm', '{{}}', 0)"""
_FORGET = """
    delete from chat.person where starts_with(handle, 'stub-');
    delete from domicile.member where wave in (select id from domicile.wave where move_id = 'stubs')"""


@pytest.fixture
async def chat(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    return await make_chat(site_pair, scratch / tmp_path.name, control)


@pytest.fixture
async def strict_chat(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    return await make_chat(site_pair, scratch / tmp_path.name, control, refused=True)


@asynccontextmanager
async def writing(place: Place, seed: int) -> AsyncIterator[Writers]:
    writers = Writers(place, [*range(1, 21)], seed)
    running = asyncio.create_task(writers.run())
    try:
        yield writers
    finally:
        writers.stop.set()
        await running


async def test_a_plan_counts_the_stubs(chat: Place) -> None:
    plan = await plan_of(chat)
    said = {c.name: c for c in plan.checks}
    assert said["stubs"].passed
    present, others = said["references present at the target"], said["references from those who stay"]
    assert present.passed
    assert others.passed
    staying = await scalar(
        chat.source,
        """select count(distinct recipient_id) from chat.message as m join chat.person as s on s.id = m.sender_id
           join chat.person as r on r.id = m.recipient_id where s.market = 'IN' and r.market <> 'IN'""",
    )
    assert f"{staying} stubs will be made for {TO['message']}" in present.detail
    assert f"of {TO['friendship']}" in others.detail


async def test_without_a_policy_the_plan_is_refused_by_name_both_ways(strict_chat: Place) -> None:
    plan = await plan_of(strict_chat)
    failed = {c.name: c for c in plan.refusals}
    assert failed.pop("references between waves").code is ErrorCode.REFERENCE_MISSING
    assert set(failed) == {"references present at the target", "references from those who stay"}
    assert {c.code for c in failed.values()} == {ErrorCode.REFERENCE_MISSING}
    for check in failed.values():
        assert all(reference in check.detail for reference in TO.values()), check.detail


@pytest.mark.parametrize("mode", list(Mode))
async def test_everybody_moves_in_small_waves_and_stubs_become_people(chat: Place, mode: Mode) -> None:
    before = await owned(chat.source)
    residents = await owned(chat.target)
    first = await moved(chat, mode=mode)
    assert set(await stubs(chat.target)) <= STAYING
    assert await stubs(chat.source) == []
    await commands.purge(chat.workspace, first.move_id)
    assert set(await stubs(chat.source)) <= INDIANS
    assert of(await owned(chat.source), STAYING) == of(before, STAYING)
    second = await moved(chat, "market = 'CN' or starts_with(handle, 'stub-')", mode)  # a stub is in no cohort
    assert await stubs(chat.target) == []
    assert await scalar(chat.target, _REGISTRY) == 0, "or the guard stays armed"
    await commands.purge(chat.workspace, second.move_id)
    assert await stubs(chat.source) == []
    assert not await owned(chat.source)
    assert await owned(chat.target) == before + residents
    assert await scalar(chat.source, _REGISTRY) == 0


async def test_writers_lose_nothing_while_those_they_write_to_stay(chat: Place, seed: int) -> None:
    async with writing(chat, seed) as writers:
        first = await moved(chat)
        await asyncio.sleep(0.5)
    await writers.kept()
    assert set(await stubs(chat.target)) <= STAYING
    stayed = (await stubs(chat.target))[0]
    # A stub answers like somebody who lives elsewhere, and can be written to.
    assert await write(chat.target, "update chat.person set credit = 1 where id = %s", stayed) == "DM001"
    assert await write(chat.target, "delete from chat.person where id = %s", stayed) == "DM001"
    hello = "insert into chat.message (sender_id, recipient_id, body) values (%s, %s, '!')"
    assert await write(chat.target, hello, stayed, 501) == "DM001"
    assert await write(chat.target, hello, 501, stayed) == ""
    assert await write(chat.source, hello, stayed, 3) == ""
    await commands.purge(chat.workspace, first.move_id)
    assert 3 in await stubs(chat.source)
    assert await write(chat.source, hello, stayed, 3) == ""
    assert await write(chat.source, "update chat.person set credit = 1 where id = 3") == "DM001"
    await writers.kept()
    assert {owner for _, owner, _ in await owned(chat.source)} - set(await stubs(chat.source)) <= STAYING


async def test_a_rollback_brings_new_messages_back_to_people_the_source_has_not(chat: Place, seed: int) -> None:
    residents = await owned(chat.target)
    async with writing(chat, seed) as writers:
        first = await moved(chat)
        # Somebody who lives at the target only; and one who was unknown there until now.
        await execute(chat.target, "insert into chat.message (sender_id, recipient_id, body) values (3, 502, 'hello')")
        await commands.rollback(chat.workspace, first.move_id)
        await asyncio.sleep(0.3)
    assert await stubs(chat.source) == [502]
    await writers.kept()
    assert await stubs(chat.target)
    await commands.purge(chat.workspace, first.move_id)
    assert await stubs(chat.target) == []
    assert await owned(chat.target) == residents
    await writers.kept()
    assert await write(chat.source, "update chat.person set credit = 1 where id = 3") == ""


@pytest.mark.campaign
async def test_a_resident_s_message_keeps_a_stub_of_who_has_gone_back(chat: Place) -> None:
    first = await moved(chat)
    await execute(chat.target, "insert into chat.message (sender_id, recipient_id, body) values (501, 3, 'stay')")
    await commands.rollback(chat.workspace, first.move_id)
    await commands.purge(chat.workspace, first.move_id)
    assert await stubs(chat.target) == [3]
    assert await write(chat.target, "update chat.person set credit = 1 where id = 3") == "DM001"
    again = await moved(chat)
    assert 3 not in await stubs(chat.target)
    await commands.purge(chat.workspace, again.move_id)


async def test_an_abort_before_the_handover_leaves_no_trace(chat: Place) -> None:
    before = await owned(chat.source), await owned(chat.target)
    plan = await plan_of(chat)
    failing = replace(chat.workspace, failpoint="live.armed:error")
    stopped = await commands.apply(failing, plan, mode=Mode.LIVE)
    assert stopped.status is not Status.DONE
    await commands.abort(chat.workspace, stopped.move_id)
    assert (await owned(chat.source), await owned(chat.target)) == before
    await no_trace(chat)


async def test_people_can_always_be_written_to_while_their_stubs_become_rows_and_stubs_again(
    chat: Place, seed: int
) -> None:
    """The first to move write to those who stay, who then are copied, step back, and move."""
    async with writing(chat, seed) as writers:
        await moved(chat)
        writers.known = await befriended(chat.target)
        async with begun(chat, "market = 'CN'", ONE) as carrier:
            await through(carrier, PREPARE, COPY)
            assert not writers.known & set(await stubs(chat.target))
            await stepback.run(carrier, 1)
            await carrier.moves.back_to_planned(carrier.move.move_id, 1, Status.ABORTED)
            assert writers.known & STAYING <= set(await stubs(chat.target))
            await through(carrier, PREPARE, COPY, CATCHUP)
        await asyncio.sleep(0.2)
    assert await stubs(chat.target) == []
    await writers.kept()
    assert writers.homes.keys() >= STAYING, "they write at their new home"


async def test_the_purge_is_refused_while_others_refer_to_who_has_left(strict_chat: Place) -> None:
    place = strict_chat
    for site in (place.source, place.target):
        await execute(site, "delete from chat.friendship", "delete from chat.message")
    first = await moved(place)
    hello = "insert into chat.message (sender_id, recipient_id, body) values (1, 3, '!')"
    assert await write(place.source, hello) == "", "the copy is there still"
    with pytest.raises(DomicileError) as refused:
        await commands.purge(place.workspace, first.move_id)
    assert refused.value.code is ErrorCode.REFERENCE_MISSING
    assert f"1 of {TO['message']}" in refused.value.message
    assert await scalar(place.source, "select count(*) from chat.person where market = 'IN'") == 6
    now = (await commands.status(place.workspace, first.move_id))[0]
    assert {w.phase for w in now.waves} == {Phase.SOAK}, "nothing was begun: the way back is open"
    await execute(place.source, "delete from chat.message where sender_id = 1")
    assert (await commands.purge(place.workspace, first.move_id)).left_at_source == 0


async def held_up(conninfo: str, sessions: int = 1) -> None:
    """Until so many sessions wait for locks."""

    async def waiting() -> bool:
        return int(str(await scalar(conninfo, _HELD_UP))) >= sessions

    await until(waiting)


async def test_whom_an_open_message_names_stays_as_a_stub(chat: Place) -> None:
    """A purge judges who is needed behind the transactions that name them, not before."""
    for site in (chat.source, chat.target):
        await execute(site, "delete from chat.friendship", "delete from chat.message")
    first = await moved(chat)
    async with await psycopg.AsyncConnection.connect(chat.source) as slow:
        await slow.execute(_HELLO.encode())
        purging = asyncio.create_task(commands.purge(chat.workspace, first.move_id))
        await held_up(chat.source)
    await purging
    assert await stubs(chat.source) == [3]


async def test_a_purge_is_refused_where_an_open_message_names_who_has_left(strict_chat: Place) -> None:
    place = strict_chat
    for site in (place.source, place.target):
        await execute(site, "delete from chat.friendship", "delete from chat.message")
    first = await moved(place)
    async with await psycopg.AsyncConnection.connect(place.source) as slow:
        await slow.execute(_HELLO.encode())
        purging = asyncio.create_task(commands.purge(place.workspace, first.move_id))
        await held_up(place.source)
    with pytest.raises(DomicileError) as refused:
        await purging
    assert refused.value.code is ErrorCode.REFERENCE_MISSING
    assert await stubs(place.source) == []  # nothing dangles
    await execute(place.source, "delete from chat.message where sender_id = 1")
    assert (await commands.purge(place.workspace, first.move_id)).left_at_source == 0


async def test_who_is_arriving_with_another_move_gets_no_stub(chat: Place) -> None:
    """Their rows are written and not committed when the other move looks for whom it has not."""
    same = _PERSON.format(900, "handle 1")
    async with begun(chat, "market = 'CN'", ONE) as those, begun(chat, INDIA, ONE) as indians:
        await through(those, PREPARE)
        await through(indians, PREPARE)
        async with await psycopg.AsyncConnection.connect(chat.target) as slow:
            await slow.execute(same.encode())
            copies = [asyncio.create_task(through(those, COPY))]
            await held_up(chat.target)
            copies.append(asyncio.create_task(through(indians, COPY)))
            await held_up(chat.target, 2)
            await slow.rollback()
        await asyncio.gather(*copies)
        assert await stubs(chat.target) == []
        assert await scalar(chat.target, "select count(*) from chat.person where id <= 20") == 20


async def test_the_guard_knows_whom_a_mover_registered_that_died(chat: Place) -> None:
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        staying = await stubs(chat.target)
        async with carrier.sites() as (source, target):
            wave = await carrier.wave_at_sites(source, target, 1)
        async with await psycopg.AsyncConnection.connect(chat.target, autocommit=True) as conn:
            await conn.execute("set session_replication_role = replica")
            await conn.execute(_FORGET.encode())
            await guard_filter.refresh(conn)
            async with conn.transaction():
                homes = {SiteName(SOURCE): [str(key) for key in staying]}
                assert await enroll_missing(conn, parties.site_of(carrier.move), homes, [], 0)
        await parties.make(carrier.move, wave)
        assert await stubs(chat.target) == staying
        for one in staying:
            assert await write(chat.target, "update chat.person set credit = 1 where id = %s", one) == "DM001"


async def test_a_row_of_somebody_at_home_is_no_stub_whatever_the_registry_says(chat: Place) -> None:
    await moved(chat)
    await execute(
        chat.target,
        "delete from chat.friendship where 3 in (a_id, b_id)",
        "delete from chat.part where seen_by = 3",
        "delete from chat.message where 3 in (sender_id, recipient_id)",
        "insert into domicile.member (wave, ordinal, subject) "
        "select id, 1000, 3 from domicile.wave where move_id = 'stubs'",
    )
    async with begun(chat, "market = 'CN'", ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await stepback.run(carrier, 1)
    assert await scalar(chat.target, "select handle from chat.person where id = 3") == "handle 3"


async def test_stubs_differ_under_an_index_on_an_expression(chat: Place) -> None:
    for site in (chat.source, chat.target):
        await execute(
            site,
            "alter table chat.person add mail text",
            "update chat.person set mail = 'Mail ' || id",
            "alter table chat.person alter mail set not null",
            "create unique index on chat.person (lower(mail))",
        )
    await moved(chat)
    assert len(await stubs(chat.target)) > 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["add secret point not null default '(0,0)'", "alter secret drop default"], "person.secret"),
        (["add pin char(4)", "UPDATE", "alter pin set not null, add unique (pin)"], "person.pin"),
        (["add constraint rich check (credit > 0) not valid"], "check rich"),
        (["add boss bigint references chat.person", "UPDATE", "alter boss set not null"], "person.boss"),
        (["add no int", "UPDATE", "alter no set not null, add constraint key unique (no)"], "equal under key.no"),
        (["add no int", "UPDATE", "alter no set not null, add constraint key exclude (no with =)"], "under key.no"),
    ],
)
async def test_what_no_stub_can_be_made_of_is_named_by_the_plan(chat: Place, changes: list[str], named: str) -> None:
    column = named.rpartition(".")[2]
    for site in (chat.source, chat.target):
        for change in changes:
            filled = f"update chat.person set {column} = id"
            await execute(site, filled if change == "UPDATE" else f"alter table chat.person {change}")
    failed = [c for c in (await plan_of(chat)).refusals if c.name == "stubs"]
    assert failed
    assert named.removesuffix(".no") in failed[0].detail, failed[0].detail


@pytest.mark.parametrize(
    ("again", "why", "hint"),
    [
        (
            "",
            "no foreign key of the whole table declares it",
            "add foreign key (recipient_id) references chat.person (id)",
        ),
        (
            ", add foreign key (recipient_id) references chat.person not valid",
            "its foreign key is not validated",
            "alter table chat.message validate constraint message_recipient_id_fkey;",
        ),
    ],
)
async def test_a_stub_needs_a_foreign_key(chat: Place, again: str, why: str, hint: str) -> None:
    for site in (chat.source, chat.target):
        await execute(site, f"alter table chat.message drop constraint message_recipient_id_fkey{again}")
    failed = [c for c in (await plan_of(chat)).refusals if c.name == "stubs"]
    assert f"chat.message(recipient_id): {why}" in failed[0].detail
    assert hint in failed[0].hint
    assert failed[0].hint.count("alter table") == 1, "once for both sites"
