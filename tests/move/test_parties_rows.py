"""Rows that name somebody else's row, an answer the message that it answers: cleared where the other row will not be,
and written back where the wave stays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
import random

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move import chat_kit
from tests.move.chat_kit import INDIA, INDIANS, NOTES, ONE, cleared_now, make_cleared, owned, rows, write
from tests.move.live_kit import COPY, PREPARE, begun, no_trace, through
from tests.move.places import SOURCE, TARGET, Place, execute, scalar

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question, WayBack
from domicile.model.schema import TableName
from domicile.move import clearing as move_clearing
from domicile.move import live_verify, stepback
from domicile.move.live_wave import LiveWave
from domicile.postgres import clearing, site_schema

plan_of, moved = partial(chat_kit.plan_of, limits=ONE), partial(chat_kit.moved, limits=ONE)
ANSWERS = "chat.message(reply_to) -> chat.message(id)"
ABOUT = "chat.message(topic_id) -> chat.topic(id)"
# The key of a topic is of another type than a person's; of what is answered, half is one's own.
_ROWS = """
    create table chat.topic (
        id uuid primary key default gen_random_uuid(), opener bigint not null references chat.person);
    alter table chat.message add reply_to bigint references chat.message, add topic_id uuid references chat.topic;
    create index on chat.message (reply_to);
    create index on chat.message (topic_id)"""
_FILLED = """
    insert into chat.topic (opener) select id from chat.person;
    update chat.message as m set reply_to = (
            select max(id) from chat.message as o where o.id < m.id and (o.sender_id = m.sender_id) = (m.id % 2 = 0)),
        topic_id = (select id from chat.topic where opener = 1 + m.id * 3 % 20)
    where id % 5 > 0"""
# What each message names, and whose that is.
_NAMED = """
    select m.id::text || ' answers ' || o.id, array[m.sender_id, o.sender_id]
    from chat.message as m join chat.message as o on o.id = m.reply_to
    union all select m.id::text || ' is about ' || t.id, array[m.sender_id, t.opener]
    from chat.message as m join chat.topic as t on t.id = m.topic_id"""
# One of an Indian's that somebody who stays has answered.
_ANSWERED = """
    select min(o.id) from chat.message as m join chat.message as o on o.id = m.reply_to
    where mod(o.sender_id, 3) = 0 and mod(m.sender_id, 3) > 0
        and not exists (select from chat.message as n where n.reply_to = o.id and mod(n.sender_id, 3) = 0)"""
_DANGLING = """
    select count(*) from chat.message as m
    where reply_to is not null and not exists (select from chat.message where id = m.reply_to)
        or topic_id is not null and not exists (select from chat.topic where id = m.topic_id)"""


@pytest.fixture
async def chat(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    place = await make_cleared(site_pair, scratch / tmp_path.name, control)
    for site in (place.source, place.target):
        await execute(site, *_ROWS.split(";"))
    await execute(place.source, *_FILLED.split(";"))
    data_map = Path(place.workspace.datasets["chat"].map_path)
    text = data_map.read_text().replace(
        "recipient_id -> chat.person(id): null",
        "recipient_id -> chat.person(id): null, reply_to -> chat.message(id): null, topic_id -> chat.topic(id): null",
    )
    data_map.write_text(text + "  chat.topic: {role: owned, owner: opener -> chat.person(id)}\n")
    return place


async def named(conninfo: str, *, by: bool, of: bool) -> set[str]:
    """What messages name: those by Indians, or by others, that are of Indians, or of others."""
    found = await rows(conninfo, _NAMED)
    return {what for what, (a, b) in found.items() if (a in INDIANS) == by and (b in INDIANS) == of}


async def nothing_dangles(chat: Place) -> None:
    assert await scalar(chat.source, _DANGLING) == 0
    assert await scalar(chat.target, _DANGLING) == 0
    await chat_kit.nothing_dangles(chat)


@pytest.mark.parametrize("mode", list(Mode))
async def test_rows_of_those_who_stay_are_no_longer_named_there_nor_behind_the_purge(chat: Place, mode: Mode) -> None:
    own, others = await named(chat.source, by=True, of=True), await named(chat.source, by=True, of=False)
    theirs, back = await named(chat.source, by=False, of=False), await named(chat.source, by=False, of=True)
    assert own
    assert others
    assert theirs
    assert back
    said = {c.name: c for c in (await plan_of(chat)).checks}
    counted = said["references that will be cleared"].detail
    for reference, word in ((ANSWERS, "answers"), (ABOUT, "is about")):
        assert f"{sum(word in what for what in others)} of {reference}" in counted, counted
        going = f"the purge clears {sum(word in what for what in back)} of {reference} at {SOURCE}"
        assert going in said["references from those who stay"].detail
    done = await moved(chat, mode=mode)
    assert await named(chat.target, by=True, of=True) == own
    assert await scalar(chat.target, "select count(*) from chat.message where reply_to is not null") > 10
    assert await named(chat.source, by=False, of=True) == back
    await nothing_dangles(chat)
    purged = await commands.purge(chat.workspace, done.move_id)
    assert purged.left_at_source == 0
    assert await named(chat.source, by=False, of=False) == theirs
    assert await named(chat.source, by=False, of=True) == set()
    assert await scalar(chat.source, NOTES) == 0
    await nothing_dangles(chat)


async def test_what_was_named_is_named_again_where_the_wave_stays_or_comes_back(chat: Place) -> None:
    before = await owned(chat.source), await owned(chat.target)
    failing = replace(chat.workspace, failpoint="live.armed:error")
    stopped = await commands.apply(failing, await plan_of(chat), mode=Mode.LIVE)
    assert stopped.status is not Status.DONE
    assert (await owned(chat.source), await owned(chat.target)) == before
    await commands.abort(chat.workspace, stopped.move_id)
    await no_trace(chat)
    done = await moved(chat)
    # A resident of the target is answered there.
    assert await write(chat.target, chat_kit.HELLO, 9001, 501, 502) == ""
    answer = "insert into chat.message (id, sender_id, recipient_id, body, reply_to) values (9002, 3, 3, '', 9001)"
    assert await write(chat.target, answer) == ""
    await commands.rollback(chat.workspace, done.move_id)
    after = await owned(chat.source)
    assert not before[0] - after
    assert sum((after - before[0]).values()) == 1, "the answer, without what it answers"
    assert await scalar(chat.source, "select reply_to is null from chat.message where id = 9002")
    assert await scalar(chat.source, NOTES) == 0
    await nothing_dangles(chat)


async def test_rows_that_are_named_anew_all_the_while_are_cleared_again(chat: Place, seed: int) -> None:
    dice, stop, wrote = random.Random(seed), asyncio.Event(), 0

    async def insisting() -> None:
        nonlocal wrote
        while not stop.is_set():
            for site in (chat.source, chat.target):
                one = dice.choice(sorted(INDIANS))
                state = await write(
                    site,
                    "update chat.message set reply_to = (select max(id) from chat.message where sender_id = %s) "
                    "where id = (select min(id) from chat.message where sender_id = %s)",
                    *(dice.choice((1, 2, 501)), one),
                )
                assert state in ("", "DM001", "DM002", "23503", "40001", "40P01"), state
                wrote += not state
            await asyncio.sleep(0.05)

    running = asyncio.create_task(insisting())
    done = await moved(chat)
    stop.set()
    await running
    assert wrote
    await nothing_dangles(chat)
    await commands.purge(chat.workspace, done.move_id)
    await nothing_dangles(chat)


async def test_who_answers_while_the_purge_comes_is_waited_for_and_nobody_answers_later(chat: Place) -> None:
    done = await moved(chat)
    answer = "insert into chat.message (id, sender_id, recipient_id, body, reply_to) values (%s, 1, 2, '', %s)"
    gone = await scalar(chat.source, "select max(id) from chat.message where sender_id = 3")
    async with await psycopg.AsyncConnection.connect(chat.source) as slow:
        await slow.execute(answer.encode(), (7001, gone))
        purging = asyncio.create_task(commands.purge(chat.workspace, done.move_id))
        await asyncio.sleep(1)
        assert not purging.done()
    await purging
    assert await scalar(chat.source, "select reply_to is null from chat.message where id = 7001")
    assert await write(chat.source, answer, 7002, gone) == "23503"
    await nothing_dangles(chat)


async def test_who_answers_at_the_last_moment_answers_nothing_that_goes(
    chat: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind all that is cleared ahead, and before the rows that go are locked; nobody looks afterwards."""
    done = await moved(chat)
    gone = await scalar(chat.source, "select max(id) from chat.message where sender_id = 3")
    answer = "insert into chat.message (sender_id, recipient_id, body, reply_to) values (1, 2, 'late', %s)"

    async def nothing_ahead(*_: object) -> None:
        assert await write(chat.source, answer, gone) in ("", "23503")

    async def no_sweep(*_: object, source: bool) -> None:
        assert source in (True, False)

    monkeypatch.setattr(move_clearing, "_clear_ahead", nothing_ahead)
    monkeypatch.setattr(move_clearing, "sweep", no_sweep)
    assert (await commands.purge(chat.workspace, done.move_id)).left_at_source == 0
    assert await scalar(chat.source, "select count(*) from chat.message where body = 'late' and reply_to is null") > 0
    await nothing_dangles(chat)


async def test_a_note_goes_with_the_row_that_it_names_and_no_other_does(chat: Place) -> None:
    """A key of a person and one of a message may be the same number."""
    stayed = await scalar(chat.source, "select min(id) from chat.message where sender_id = 1")
    await execute(chat.source, f"update chat.message set reply_to = {stayed} where sender_id = 3")
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await cleared_now(carrier)
        answers = f"{NOTES} where column_name = 'reply_to' and person = '{stayed}'"
        noted = await scalar(chat.source, answers)
        assert noted
        move = carrier.move
        subjects, messages = move.data_map.subject.table, TableName("chat", "message")
        async with carrier.sites() as (source, target):
            wave = (await carrier.wave_at_sites(source, target, 1)).source_id
            await source.execute("set session_replication_role = replica")
            for table, left in ((subjects, noted), (messages, noted)):
                await source.execute("insert into domicile.member values (%s, 99, %s)", (wave, stayed))
                async with source.transaction():
                    await clearing.clear_leaving(source, move.data_map, move.source_schema, table, wave, (98, 99))
                await source.execute("delete from domicile.member where ordinal = 99")
                assert await scalar(chat.source, answers) == left
            await source.execute("insert into domicile.member values (%s, 99, 1)", (wave,))
            async with source.transaction():
                await clearing.clear_leaving(source, move.data_map, move.source_schema, messages, wave, (98, 99))
            await source.execute("delete from domicile.member where ordinal = 99")
        assert await scalar(chat.source, answers) == 0
        await stepback.run(carrier, 1)


@pytest.mark.parametrize("way", ["rollback", "purge"])
async def test_what_its_owner_deletes_where_he_has_moved_is_named_by_nobody_at_last(chat: Place, way: str) -> None:
    """The stream deletes it at the source, and asks no foreign key of those who stay."""
    question = Question("chat", SOURCE, TARGET, where=INDIA, way_back=WayBack.STREAM)
    done = await commands.apply(
        chat.workspace, await commands.plan(chat.workspace, question, limits=ONE), mode=Mode.LIVE
    )
    gone = await scalar(chat.source, _ANSWERED)
    for statement in ("delete from chat.part where message_id = %s", "delete from chat.message where id = %s"):
        assert await write(chat.target, statement, gone) == ""
    stop = asyncio.Event()
    stop.set()
    await commands.soak(chat.workspace, done.move_id, stop=stop)
    if way == "rollback":
        await commands.rollback(chat.workspace, done.move_id)
    else:
        await commands.purge(chat.workspace, done.move_id)
    assert await scalar(chat.source, f"select count(*) from chat.message where id = {gone}") == 0
    await nothing_dangles(chat)


async def test_a_row_that_passes_to_somebody_who_stays_is_named_by_nobody_who_has_moved(
    chat: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the comparison of the whole wave: nobody touches the row that names it."""
    own = await scalar(
        chat.source,
        "select min(o.id) from chat.message as m join chat.message as o on o.id = m.reply_to "
        "where mod(o.sender_id, 3) = 0 and m.sender_id = o.sender_id",
    )
    until_few, states = live_verify.until_few, list[str]()

    async def passing(live: LiveWave) -> None:
        if not states:
            states.append(await write(chat.source, "update chat.message set sender_id = 1 where id = %s", own))
        await until_few(live)

    monkeypatch.setattr(live_verify, "until_few", passing)
    await moved(chat)
    assert states == [""]
    await nothing_dangles(chat)


async def test_a_step_back_that_removes_nothing_clears_nothing(chat: Place) -> None:
    """Who has signed up at the target under a member's key is somebody else."""
    plan = await plan_of(chat)
    await execute(
        chat.target,
        "insert into chat.person (id, handle, market, badges, credit, mood) values (3, '3rd', 'SG', '{}', 0, 'calm')",
        "insert into chat.message (id, sender_id, recipient_id, body) values (7003, 3, 501, ''), (7004, 501, 3, '')",
        "update chat.message set reply_to = 7003 where id = 7004",
    )
    before = await owned(chat.target)
    done = await commands.apply(chat.workspace, plan, mode=Mode.LIVE)
    assert [w.error_code for w in done.waves] == ["keys-collide"]
    await commands.abort(chat.workspace, done.move_id)
    assert await owned(chat.target) == before


async def test_what_was_written_is_written_back_in_its_own_form(chat: Place) -> None:
    for site in (chat.source, chat.target):
        await execute(
            site,
            "create table chat.room (id int primary key, no numeric unique, opener bigint references chat.person)",
            "alter table chat.message add room numeric references chat.room (no)",
        )
    data_map = Path(chat.workspace.datasets["chat"].map_path)
    text = data_map.read_text().replace("topic_id ->", "room -> chat.room(no): null, topic_id ->")
    data_map.write_text(text + "  chat.room: {role: owned, owner: opener -> chat.person(id)}\n")
    await execute(
        chat.source,
        "insert into chat.room values (1, 1.50, 1)",
        "update chat.message set room = 1.5 where sender_id = 3",
    )
    written = "select id::text, room::text from chat.message where room is not null"
    before = await rows(chat.source, written)
    async with begun(chat, INDIA, ONE) as carrier:
        await through(carrier, PREPARE, COPY)
        await cleared_now(carrier)
        assert await rows(chat.source, written) == {}
        await stepback.run(carrier, 1)
    assert await rows(chat.source, written) == before != {}


async def test_notes_of_an_older_version_are_kept(chat: Place) -> None:
    async with await psycopg.AsyncConnection.connect(chat.source, autocommit=True) as conn:
        await site_schema.install(conn, "bigint")
        await conn.execute("alter table domicile.cleared alter column person type bigint using person::bigint")
        await conn.execute("insert into domicile.cleared values (7, 'chat.message', 'recipient_id', '{1}', 2)")
        for _ in range(2):
            await site_schema.install(conn, "bigint")
    assert await rows(chat.source, "select person || pg_typeof(person), wave from domicile.cleared") == {"2text": 7}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("topic_id -> chat.topic(id): null", "leads to a table whose rows are not owned"),
        ("reply_to -> chat.message(id): stub", "have stubs"),
    ],
)
async def test_what_no_policy_carries_is_named_by_the_plan(chat: Place, change: str, why: str) -> None:
    data_map = Path(chat.workspace.datasets["chat"].map_path)
    text = data_map.read_text()
    if "topic" in change:
        text = text.replace("{role: owned, owner: opener -> chat.person(id)}", "{role: shared, policy: present}")
    else:
        text = text.replace(change.replace("stub", "null"), change)
    data_map.write_text(text)
    failed = [c for c in (await plan_of(chat)).refusals if why in c.detail]
    assert failed, (await plan_of(chat)).refusals
