"""Rows of two people of whom one has deleted himself where he lives, while the rows that name him were elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move import live_kit
from tests.move.chat_kit import INDIA, LIMITS, make_chat, numbers, owned, stubs, write
from tests.move.live_kit import CATCHUP, COPY, ONE, PREPARE, begun, through
from tests.move.places import SOURCE, TARGET, Place, execute, scalar

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question, WayBack
from domicile.model.report import MoveStatus
from domicile.model.site import DatasetName, SiteName
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.postgres.stubs import Site, drop_unused, rowless
from domicile.survey import datamap_file

RECIPIENT = "chat.message(recipient_id) -> chat.person(id)"
ACCOUNT = "select count(*) from chat.person where id = 1"
_BYTEA_MAP = """
version: 1
dataset: x
subject: {table: public.person, key: id, market: "'x'"}
tables: {public.person: {role: subject}}
"""
_HELLO = "insert into chat.message (sender_id, recipient_id, body) values (%s, %s, 'hello')"
_RULE = """
    alter table chat.message drop constraint message_recipient_id_fkey,
        add constraint message_recipient_id_fkey foreign key (recipient_id) references chat.person
            on delete set null"""


async def forget(conninfo: str, person: int) -> None:
    """Whatever names the person at the site, and what is the person's, goes; the account stays."""
    await execute(
        conninfo,
        f"delete from chat.friendship where {person} in (a_id, b_id)",
        f"update chat.part set seen_by = null where seen_by = {person}",
        f"delete from chat.message where {person} in (sender_id, recipient_id)",
        f"update chat.person set invited_by = null where invited_by = {person}",
    )


async def applied(place: Place, where: str, mode: Mode = Mode.LIVE) -> MoveStatus:
    question = Question("chat", SOURCE, TARGET, where=where, way_back=WayBack.STREAM)
    plan = await commands.plan(place.workspace, question, limits=LIMITS)
    assert not plan.refusals
    return await commands.apply(place.workspace, plan, mode=mode)


async def moved(place: Place, where: str) -> MoveStatus:
    done = await applied(place, where)
    assert done.status is Status.WAITING, [(w.no, w.error_message, w.live) for w in done.waves]
    return done


async def refused(place: Place, where: str, mode: Mode = Mode.LIVE) -> MoveStatus:
    """Because one row names somebody who lives nowhere."""
    done = await applied(place, where, mode)
    assert done.waves[0].error_code == ErrorCode.REFERENCE_MISSING, done.waves
    assert f"1 of {RECIPIENT}" in done.waves[0].error_message
    return done


async def named_and_deleted(
    pair: SitePair, folder: Path, control: str, where: str = "id = 3"
) -> tuple[Place, MoveStatus]:
    """3 lives at the target, and has written there to 1, who has a stub there; 1 has deleted himself at the source.
    Whatever the foreign key would have done to the message."""
    place = await make_chat(pair, folder, control)
    for site in (place.source, place.target):
        await execute(site, "alter table chat.message alter recipient_id drop not null", _RULE)
    await forget(place.source, 1)
    assert await write(place.source, _HELLO, 6, 1) == ""
    await moved(place, "id = 6")
    assert 1 in await stubs(place.target)
    async with await psycopg.AsyncConnection.connect(place.source) as conn:  # as a purge would
        await conn.execute("set session_replication_role = replica")
        await conn.execute("delete from chat.message where recipient_id = 1")
    second = await moved(place, where)
    assert await write(place.target, _HELLO, 3, 1) == ""
    assert await write(place.source, "delete from chat.person where id = 1") == ""
    return place, second


async def test_a_way_back_to_who_is_not_there_any_more_is_refused_by_name(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    place, move = await named_and_deleted(site_pair, scratch / tmp_path.name, control)
    with pytest.raises(DomicileError) as told:
        await commands.rollback(place.workspace, move.move_id)
    assert told.value.code is ErrorCode.REFERENCE_MISSING
    assert f"1 of {RECIPIENT}" in told.value.message
    assert "set recipient_id = null where recipient_id = ..." in told.value.hint
    assert await scalar(place.source, ACCOUNT) == 0
    hello = "select count(*) from chat.message where (sender_id, recipient_id) = (3, 1)"
    assert await scalar(place.target, hello) == 1, "nothing has changed"
    assert await write(place.target, "update chat.person set credit = 1 where id = 3") == ""
    # As the error says.
    await execute(place.target, "update chat.message set recipient_id = null where recipient_id = 1 and sender_id = 3")
    await commands.rollback(place.workspace, move.move_id)
    assert await write(place.source, "update chat.person set credit = 2 where id = 3") == ""
    assert await scalar(place.source, ACCOUNT) == 0


@pytest.mark.parametrize("mode", list(Mode))
async def test_who_deleted_himself_where_he_moved_to_gets_no_stub_there(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, mode: Mode
) -> None:
    """Though his copy, which is not purged yet, stands beside what names him."""
    place = await make_chat(site_pair, scratch / tmp_path.name, control)
    await forget(place.source, 3)
    assert await write(place.source, _HELLO, 1, 3) == ""
    await moved(place, "id = 3")
    assert await write(place.target, "delete from chat.person where id = 3") == ""
    move = await refused(place, "id = 1", mode)
    assert await scalar(place.target, "select count(*) from chat.person where id = 3") == 0
    assert await write(place.source, "delete from chat.message where recipient_id = 3") == "", "as the error says"
    done = await commands.resume(place.workspace, move.move_id)
    assert done.status is Status.WAITING


async def test_a_soak_asks_nothing_of_second_persons(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    place, move = await named_and_deleted(site_pair, scratch / tmp_path.name, control, where="id in (3, 9)")
    await forget(place.target, 9)
    assert await write(place.target, _HELLO, 3, 1) == ""
    assert await write(place.target, "delete from chat.person where id = 9") == ""
    before = await owned(place.target)
    stop = asyncio.Event()
    stop.set()
    await commands.soak(place.workspace, move.move_id, stop=stop)
    assert await owned(place.target) == before
    hello = "select count(*) from chat.message where sender_id = 3 and body = 'hello'"
    assert await scalar(place.source, hello) == await scalar(place.target, hello), "it has come"
    assert await numbers(place.source, "select coalesce(array_agg(id), '{}') from chat.person where id in (1, 9)") == []
    with pytest.raises(DomicileError) as told:
        await commands.rollback(place.workspace, move.move_id)
    assert told.value.code is ErrorCode.REFERENCE_MISSING


async def test_who_deletes_himself_while_away_stays_as_a_stub_where_others_name_him(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    place = await make_chat(site_pair, scratch / tmp_path.name, control)
    move = await moved(place, INDIA)
    assert await scalar(place.source, "select count(*) from chat.friendship where a_id < 3 and b_id = 3") == 1
    await forget(place.target, 3)
    assert await write(place.target, "delete from chat.person where id = 3") == ""
    await commands.rollback(place.workspace, move.move_id)
    assert await stubs(place.source) == [3]
    assert await write(place.source, "update chat.person set credit = 2 where id = 3") == "DM001"
    assert await write(place.source, _HELLO, 1, 3) == "", "as to anybody who has left"
    assert await write(place.source, "update chat.person set credit = 2 where id = 6") == ""
    # Each site's marks say that he is at the other one.
    await refused(place, "id = 1")
    assert await scalar(place.target, "select count(*) from chat.person where id = 3") == 0
    # It goes as any stub, though his wave lives there.
    async with await connect(place.source, settings={**SESSION, "session_replication_role": "replica"}) as conn:
        at_source = Site(
            datamap_file.load(Path(place.workspace.datasets[DatasetName("chat")].map_path)),
            await read_schema(conn),
            DatasetName("chat"),
            SiteName(SOURCE),
            SiteName(TARGET),
        )
        async with conn.transaction():
            assert await drop_unused(conn, at_source) == 0
        await forget(place.source, 3)
        async with conn.transaction():
            assert await drop_unused(conn, at_source) == 1
    assert await stubs(place.source) == []


async def test_who_deletes_himself_before_he_is_copied_stays_the_stub_that_he_was(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    """And the guard refuses him still when his wave has arrived."""
    place = await make_chat(site_pair, scratch / tmp_path.name, control)
    await forget(place.source, 3)
    assert await write(place.source, _HELLO, 6, 3) == ""
    await moved(place, "id = 6")
    assert 3 in await stubs(place.target)
    async with begun(place, "id in (3, 9)", ONE) as carrier:
        await through(carrier, PREPARE)
        async with await psycopg.AsyncConnection.connect(place.source) as conn:  # as a purge would
            await conn.execute("set session_replication_role = replica")
            await conn.execute("delete from chat.message where recipient_id = 3")
        assert await write(place.source, "delete from chat.person where id = 3") == ""
        await through(carrier, COPY, CATCHUP)
    assert await write(place.target, "update chat.person set credit = 2 where id = 9") == ""
    assert await write(place.target, "update chat.person set credit = 2 where id = 3") == "DM001"
    assert 3 in await stubs(place.target)


async def test_a_reference_to_who_is_at_neither_site_is_no_stub_s_to_hide(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    place = await make_chat(site_pair, scratch / tmp_path.name, control)
    async with begun(place, "id = 3", ONE) as carrier:
        await through(carrier, PREPARE)
        async with await psycopg.AsyncConnection.connect(place.source) as conn:
            await conn.execute("set session_replication_role = replica")
            await conn.execute("delete from chat.person where id = 5")
        await through(carrier, COPY)
        wave = await live_kit.refused(carrier)
        assert wave.error_code == ErrorCode.DISCREPANCY
        assert "chat.friendship(b_id)" in wave.error_message, wave.error_message


async def test_keys_of_any_type_are_told_as_text(site_pair: SitePair, tmp_path: Path) -> None:
    await execute(site_pair.source, "create table person (id bytea primary key)", "insert into person values ('a')")
    (tmp_path / "map").write_text(_BYTEA_MAP)
    async with await connect(site_pair.source) as conn:
        place = Site(
            datamap_file.load(tmp_path / "map"),
            await read_schema(conn),
            DatasetName("x"),
            SiteName(SOURCE),
            SiteName(TARGET),
        )
        assert await rowless(conn, place, [r"\x61", r"\x62"]) == [r"\x62"]
