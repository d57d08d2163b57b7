"""Pitfalls that have bitten others: a slot made anew, a unique value taken meanwhile, another encoding, few rights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg.conninfo import make_conninfo
import pytest
from tests.conftest import drop_database
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    PREPARE,
    arrived_whole,
    begun,
    ended,
    owned,
    people,
    refused,
    through,
)
from tests.move.places import SOURCE, TARGET, Place, every_row, execute, scalar, together, workspace_for

from domicile import commands
from domicile.model.errors import ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question
from domicile.sites.embedded import EmbeddedCluster

TOUCH = "update store.user_account set full_name = full_name || '!' where id = {}"
MADE_ANEW = """
    select pg_drop_replication_slot(slot_name), pg_create_logical_replication_slot(slot_name, 'pgoutput')
    from pg_replication_slots where database = current_database()"""

SMALL_SCHEMA = """
    create table person (id bigint primary key, market text not null, name text not null, note text);
    create table note (person_id bigint not null references person on delete cascade, no integer, text text,
                       primary key (person_id, no))"""
SMALL_ROWS = """
    insert into person select n, case when n % 2 = 0 then 'DE' else 'CN' end, 'Zoë Größer ' || n, repeat('ß', 3000)
    from generate_series(1, 60) as n;
    insert into note select n, k, 'façade ' || k from generate_series(1, 60) as n, generate_series(1, 3) as k"""
SMALL_MAP = """
version: 1
dataset: small
subject: {table: public.person, key: id, market: subject.market}
tables:
  public.person: {role: subject}
  public.note: {role: owned, owner: 'person_id -> public.person(id)'}
"""
IN_SCOPE = {"public.person", "public.note"}


async def test_a_slot_that_was_made_anew_is_lost(place: Place) -> None:
    """It has the same name and begins later: what lies between would be missing."""
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.source, TOUCH.format((await people(place.source))[0]), MADE_ANEW)
        wave = await refused(carrier)
        await ended(carrier)
    assert wave.error_code == ErrorCode.STREAM_LOST
    moved = await commands.resume(place.workspace, carrier.move.move_id)
    assert moved.status is Status.WAITING, moved
    await arrived_whole(place, residents)


async def test_a_unique_value_that_somebody_at_the_target_took_meanwhile(place: Place) -> None:
    """Named, without the value; the source serves, and the wave goes on when one of the two has another."""
    one = (await people(place.source))[0]
    take = "update store.user_account set email = 'wanted@example.com' where id = {}"
    resident = await scalar(place.target, "select min(id) from store.user_account where market <> 'IN'")
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(place.target, take.format(resident))
        await execute(place.source, take.format(one))
        wave = await refused(carrier)
        await ended(carrier)
    assert wave.error_code == ErrorCode.KEYS_COLLIDE
    assert "user_account" in wave.error_message
    assert "wanted" not in wave.error_message + wave.error_hint
    assert await scalar(place.target, "select email from store.user_account where id = %s", resident) == (
        "wanted@example.com"
    )
    await execute(place.target, "update store.user_account set email = 'other@example.com' where email like 'wanted%'")
    residents = await owned(place.target)
    moved = await commands.resume(place.workspace, carrier.move.move_id)
    assert moved.status is Status.WAITING, moved
    await arrived_whole(place, residents)


@asynccontextmanager
async def small(cluster: EmbeddedCluster, state: Path, encoding: str) -> AsyncIterator[Place]:
    """A small dataset, at two sites whose databases have that encoding."""
    names = [f"{site}_{state.name[-30:]}" for site in ("here", "there")]
    for name in names:
        create = f"create database \"{name}\" encoding '{encoding}' locale 'C' template template0"
        await execute(cluster.conninfo(), create)
    source, target = map(cluster.conninfo, names)
    try:
        ours = [make_conninfo(site, client_encoding="utf8") for site in (source, target)]  # the engine has its own
        await execute(ours[0], SMALL_SCHEMA, SMALL_ROWS)
        await execute(ours[1], SMALL_SCHEMA)
        state.mkdir(parents=True, exist_ok=True)
        (state / "small.map.yaml").write_text(SMALL_MAP)
        yield Place(workspace_for(state, "small", state / "small.map.yaml", (source, target)), *ours, "small")
    finally:
        for name in names:
            await drop_database(cluster, name)


@pytest.mark.campaign
async def test_sites_of_another_encoding(pg18: EmbeddedCluster, scratch: Path, tmp_path: Path) -> None:
    async with small(pg18, scratch / tmp_path.name, "LATIN1") as place:
        async with begun(place, "market = 'DE'") as carrier:
            await through(carrier, PREPARE, COPY)
            await execute(
                place.source,
                "update person set name = 'Renée ' || id where id % 4 = 0",  # the long note stays out of the message
                "insert into note values (2, 99, 'naïve'), (3, 99, 'naïve')",
                "delete from note where no = 1",
            )
            await through(carrier, CATCHUP)
        names = await scalar(place.target, "select string_agg(name, ',' order by id) from person where mod(id, 4) = 0")
        assert str(names).startswith("Renée 4,Renée 8,")
        assert await scalar(place.target, "select count(*) from person where note = repeat('ß', 3000)") == 30
        assert await scalar(place.target, "select string_agg(text, ',' order by no) from note where person_id = 2") == (
            "façade 2,façade 3,naïve"
        )


async def test_a_role_with_the_grants_that_sites_prints_and_no_more(
    pg18: EmbeddedCluster, scratch: Path, tmp_path: Path
) -> None:
    role = f"mover_{tmp_path.name[-30:].replace('-', '_')}"
    async with small(pg18, scratch / tmp_path.name, "UTF8") as place:
        await execute(pg18.conninfo(), f"create role {role} login replication password 'secret'")
        for site in (place.source, place.target):
            name = str(await scalar(site, "select current_database()"))
            await execute(
                site,
                f'grant create on database "{name}" to {role}',
                f"grant set on parameter session_replication_role to {role}",
                f"alter table person owner to {role}",
                f"alter table note owner to {role}",
            )
        few = Place(
            workspace_for(
                scratch / tmp_path.name,
                "small",
                scratch / tmp_path.name / "small.map.yaml",
                (
                    make_conninfo(place.source, user=role, password="secret"),
                    make_conninfo(place.target, user=role, password="secret"),
                ),
            ),
            place.source,
            place.target,
            "small",
        )
        plan = await commands.plan(few.workspace, Question("small", SOURCE, TARGET, where="market = 'DE'"))
        assert not plan.refusals_of(Mode.LIVE), plan.refusals_of(Mode.LIVE)
        before = together(await every_row(place.source), await every_row(place.target), IN_SCOPE)
        moved = await commands.apply(few.workspace, plan, mode=Mode.LIVE)
        assert moved.status is Status.WAITING, [(w.error_code, w.error_message) for w in moved.waves]
        back = await commands.rollback(few.workspace, moved.move_id)
        assert back.status is Status.ABORTED, [(w.error_code, w.error_message) for w in back.waves]
        await commands.purge(few.workspace, moved.move_id)
        assert together(await every_row(place.source), await every_row(place.target), IN_SCOPE) == before
