"""Whose values are searched for: those of the wave's rows, of every type that can be known again, and nobody else's."""

from __future__ import annotations

import struct
import uuid

import psycopg

from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.postgres import personal
from domicile.postgres.introspect import read_schema

PERSON, NOTE = TableName("public", "person"), TableName("public", "note")
MAP = DataMap(
    DatasetName("d"),
    SubjectRule(PERSON, "id"),
    {
        PERSON: TableRule(PERSON, Role.SUBJECT),
        NOTE: TableRule(NOTE, Role.OWNED, OwnerStep.parse("person_id -> public.person(id)")),
    },
)
_SCHEMA = """
create domain mail as varchar(60);
create table person (id bigint primary key, email mail, name varchar(40), code char(12), doc jsonb, raw json,
                     files bytea, tags text[], mails varchar[], uid uuid, phone bigint, town text, born date);
create table note (id bigint primary key, person_id bigint references person, body text);
create schema domicile;
create table domicile.member (wave int, ordinal int, subject bigint);
insert into person
select n, 'mail-' || n || '@x.org', 'name number ' || n, 'code-abc-' || n,
       jsonb_build_object('deep', jsonb_build_array('inside-' || n, 'sameforall')),
       json_build_object('j', 'json-' || n), convert_to('bytes-of-' || n, 'UTF8'),
       array['tag-word-' || n], array['alias-of-' || n],
       ('00112233-4455-6677-8899-aabbccddee0' || n)::uuid, 919812345670 + n, 'Somewhere', '2000-01-01'
from generate_series(1, 3) as n;
insert into note values (1, 1, 'a note of the first'), (2, 2, 'a note of the other'), (3, null, 'a note of nobody');
insert into domicile.member values (7, 1, 1), (7, 2, 3), (8, 1, 2)"""
_TEXTS = (
    *("mail-{}@x.org", "name number {}", "code-abc-{}", "inside-{}", '{{"j" : "json-{}"}}', "bytes-of-{}"),
    *("tag-word-{}", "alias-of-{}"),
)


async def test_every_kind_of_value_of_the_wave_and_of_nobody_else(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute(_SCHEMA.encode())
        schema = await read_schema(conn)
        found = {v.raw: v async for v in personal.values(conn, MAP, schema, 7, (7,))}
    mine = {raw for raw, value in found.items() if not value.shared}
    expected = {text.format(n).encode() for text in _TEXTS for n in (1, 3)} | {b"a note of the first"}
    expected |= {uuid.UUID(f"00112233-4455-6677-8899-aabbccddee0{n}").bytes for n in (1, 3)}
    expected |= {struct.pack("<q", 919812345670 + n) for n in (1, 3)}
    keys = {struct.pack("<q", n) for n in (1, 3)}  # too plain: they are not taken
    assert mine - keys == expected
    assert {raw for raw, value in found.items() if value.shared} == {b"Somewhere", b"sameforall"}
    assert found[b"mail-3@x.org"].ordinal == 2


async def test_what_only_people_who_leave_with_later_waves_have_too_is_searched_for(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute(_SCHEMA.encode())
        await conn.execute("update person set town = 'House 5, Elm Row' where id in (1, 2)")
        schema = await read_schema(conn)
        both = {v.raw: v.shared async for v in personal.values(conn, MAP, schema, 7, (7, 8))}
        alone = {v.raw: v.shared async for v in personal.values(conn, MAP, schema, 7, (7,))}
    assert not both[b"House 5, Elm Row"]
    assert alone[b"House 5, Elm Row"]
