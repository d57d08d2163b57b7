"""The verifier itself is tested: every planted corruption is found and named by table, key and column."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.verify.kit import Sites, data_map

from domicile.model.schema import TableName
from domicile.model.verdict import Difference, Discrepancy

MAP = data_map(
    "app.users",
    {
        "app.thing": "user_id -> app.users(id)",
        "app.item": "thing_id -> app.thing(id)",
        "app.event": "user_id -> app.users(id)",
        "app.address": "id <- app.users(address_id)",
    },
)
USERS, THING, ITEM, EVENT = (TableName("app", name) for name in ("users", "thing", "item", "event"))
ADDRESS = TableName("app", "address")

# column -> (type, first value, another value)
COLUMNS: dict[str, tuple[str, str, str]] = {
    "bool": ("boolean", "true", "false"),
    "small": ("smallint", "7", "-7"),
    "whole": ("integer", "7", "8"),
    "big": ("bigint", "-1", "4294967295"),
    "big_null": ("bigint", "null", "0"),
    "exact_scale": ("numeric", "1.50", "1.5"),
    "exact_sign": ("numeric", "5", "-5"),
    "exact_nan": ("numeric", "'NaN'", "'Infinity'"),
    "exact_digit": ("numeric", "12345678901234567890.000001", "12345678901234567890.000002"),
    "single": ("real", "0", "'-0'"),
    "double": ("double precision", "0", "'-0'"),
    "double_null": ("double precision", "null", "0"),
    "text": ("text", "'a'", "'b'"),
    "text_empty": ("text", "''", "null"),
    "text_null": ("text", "null", "''"),
    "text_form": ("text", "U&'\\00e9'", "U&'e\\0301'"),
    "varchar": ("varchar(9)", "'ab'", "'ab '"),
    "padded": ("bpchar", "'ab'", "'ab '"),
    "one": ('"char"', "'x'", "'y'"),
    "name": ("name", "'x'", "'y'"),
    "bytes": ("bytea", r"'\x00ff01'", r"'\x00ff03'"),
    "day": ("date", "'2026-02-28'", "'2026-03-01'"),
    "clock": ("time", "'24:00'", "'00:00'"),
    "clock_zone": ("timetz", "'12:00+00'", "'13:00+01'"),
    "stamp": ("timestamp", "'2026-02-28 00:00'", "'2026-02-28 00:00:00.000001'"),
    "stamp_zone": ("timestamptz", "'2026-02-28 00:00+00'", "'2026-02-28 00:00:00.000001+00'"),
    "span": ("interval", "'24:00'", "'1 day'"),
    "uuid": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12'"),
    "host": ("inet", "'10.0.0.1/32'", "'10.0.0.1/31'"),
    "net": ("cidr", "'10.0.0.0/8'", "'10.0.0.0/9'"),
    "mac": ("macaddr", "'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    "json": ("json", """'{"a": 1}'""", """'{"a":1}'"""),
    "jsonb_sign": ("jsonb", """'{"vote": 1}'""", """'{"vote": -1}'"""),
    "jsonb_scale": ("jsonb", """'{"a": 1.0}'""", """'{"a": 1.00}'"""),
    "jsonb_nest": ("jsonb", "'[[1], 2]'", "'[[1, 2]]'"),
    "jsonb_key": ("jsonb", """'{"a": null}'""", "'{}'"),
    "jsonb_null": ("jsonb", "'null'", "null"),
    "bits": ("bit varying", "B'101'", "B'0101'"),
    "cash": ("money", "'1.00'", "'-1.00'"),
    "list": ("integer[]", "'{1,2,3}'", "'[0:2]={1,2,3}'"),
    "list_shape": ("integer[]", "'{{1,2},{3,4}}'", "'{1,2,3,4}'"),
    "list_null": ("text[]", "'{a,NULL}'", """'{a,"NULL"}'"""),
    "range": ("numrange", "'[1.0,2)'", "'[1.00,2)'"),
    "mood": ("app.mood", "'good'", "'bad'"),
    "moods": ("app.mood[]", "'{good,bad}'", "'{bad,good}'"),
    "pair": ("app.pair", "'(1,x)'", "'(1,y)'"),
    "price": ("app.price", "1.5", "1.50"),
    "words": ("tsvector", "'a:1 b:2'", "'a:1 b:3'"),
    "place": ("point", "'(0,1)'", "'(-0,1)'"),
    "position": ("pg_lsn", "'0/1'", "'1/0'"),
    "relation": ("regclass", "'pg_catalog.pg_class'", "'pg_catalog.pg_type'"),
    'Odd "%s"': ("text", "'a'", "'b'"),
}


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def schema(reverse: bool = False) -> str:
    """The tables; with columns in the reverse order, and enum labels with other ids, where asked."""
    columns = [f"{quoted(name)} {type_name}" for name, (type_name, _, _) in COLUMNS.items()]
    columns = columns[::-1] if reverse else columns
    labels = "create type app.other as enum ('x', 'y', 'z');" if reverse else ""
    return f"""
        create schema app; {labels}
        create type app.mood as enum ('good', 'bad');
        create type app.pair as (a integer, b text);
        create domain app.price as numeric check (value >= 0);
        create table app.address (id bigint primary key, street text);
        create table app.users (id bigint primary key, name text, email text, address_id bigint);
        create table app.thing (
            id bigint primary key, user_id bigint not null references app.users, {", ".join(columns)});
        create table app.item (thing_id bigint references app.thing, no integer, text text, primary key (thing_id, no));
        create table app.event (user_id bigint, at timestamptz, what text);"""


def rows() -> str:
    names = ", ".join(map(quoted, COLUMNS))
    values = ", ".join(first for _, first, _ in COLUMNS.values())
    return f"""
        insert into app.address select n, 'Street ' || n from generate_series(1, 20) n;
        insert into app.users select n, 'Name ' || n, 'n' || n || '@example.com', n from generate_series(1, 20) n;
        insert into app.thing (id, user_id, {names}) select n, 1 + n % 20, {values} from generate_series(1, 60) n;
        insert into app.item select n % 60 + 1, n, 'Text ' || n from generate_series(1, 300) n;
        insert into app.event select 1 + n % 20, timestamptz '2026-01-01 00:00+00' + n % 50 * interval '1 s', 'seen'
            from generate_series(1, 200) n;"""


async def fill(sites: Sites) -> None:
    """The same rows at both sites; users 1 to 10 are in the wave, 11 to 20 are not."""
    await sites.source.execute(schema().encode())
    await sites.target.execute(schema(reverse=True).encode())
    await sites.both(rows())
    await sites.register(range(1, 11))


async def test_equal_sites_are_clean(sites: Sites) -> None:
    await fill(sites)
    verdict = await sites.verify(MAP)
    assert verdict.clean, verdict
    assert verdict.subjects == 10
    assert {t.table: t.rows for t in verdict.tables} == {USERS: 10, THING: 30, ITEM: 150, EVENT: 100, ADDRESS: 10}
    assert verdict.rows == 300


async def test_rows_of_others_do_not_count(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.target.execute("update app.thing set text = 'changed' where user_id > 10")
    await sites18.target.execute("delete from app.event where user_id > 10")
    assert (await sites18.verify(MAP)).clean


async def test_every_column_of_every_type(sites: Sites) -> None:
    await fill(sites)
    spoilt, expected = [], []
    for row, (name, (_, _, other)) in enumerate(COLUMNS.items(), 1):
        user, key = 1 + row % 10, 1000 + row
        await sites.both(
            f"""insert into app.thing (id, user_id, {", ".join(map(quoted, COLUMNS))})
                values ({key}, {user}, {", ".join(first for _, first, _ in COLUMNS.values())})"""
        )
        spoilt.append(f"update app.thing set {quoted(name)} = {other} where id = {key}")
        expected.append(Discrepancy(THING, (str(key),), Difference.CHANGED, (name,)))
    assert (await sites.verify(MAP)).clean
    await sites.target.execute("; ".join(spoilt).encode())
    verdict = await sites.verify(MAP)
    assert verdict.discrepancies_total == len(expected)
    assert sorted(verdict.discrepancies, key=str) == sorted(expected, key=str)
    assert verdict.source_root != verdict.target_root


@dataclass(frozen=True)
class Mutation:
    name: str
    spoil: str
    expected: tuple[Discrepancy, ...]


def changed(table: TableName, key: str, *columns: str) -> Discrepancy:
    return Discrepancy(table, tuple(key.split(",")), Difference.CHANGED, columns)


def missing(table: TableName, key: str) -> Discrepancy:
    return Discrepancy(table, tuple(key.split(",")), Difference.MISSING)


def extra(table: TableName, key: str) -> Discrepancy:
    return Discrepancy(table, tuple(key.split(",")), Difference.EXTRA)


ITEMS_OF_21 = ("21,140", "21,20", "21,200", "21,260", "21,80")

MUTATIONS = (
    Mutation("dropped row", "delete from app.item where thing_id = 1 and no = 60", (missing(ITEM, "1,60"),)),
    Mutation("extra row", "insert into app.item values (1, 999, 'x')", (extra(ITEM, "1,999"),)),
    Mutation("stale row", "update app.item set text = 'old' where no = 60", (changed(ITEM, "1,60", "text"),)),
    Mutation("swapped columns", "update app.users set name = email, email = name where id = 3",
             (changed(USERS, "3", "email", "name"),)),
    Mutation("values swapped between two rows of a subject",
             "update app.item set text = case no when 60 then 'Text 120' else 'Text 60' end where no in (60, 120)",
             (changed(ITEM, "1,120", "text"), changed(ITEM, "1,60", "text"))),
    Mutation("values swapped between two subjects",
             "update app.users set name = case id when 3 then 'Name 4' else 'Name 3' end where id in (3, 4)",
             (changed(USERS, "3", "name"), changed(USERS, "4", "name"))),
    Mutation("owner in the wave", "update app.thing set user_id = 5 where id = 21",
             (changed(THING, "21", "user_id"), *(changed(ITEM, key, "(owner)") for key in ITEMS_OF_21))),
    Mutation("owner outside the wave", "update app.thing set user_id = 15 where id = 21",
             (missing(THING, "21"), *(missing(ITEM, key) for key in ITEMS_OF_21))),
    Mutation("owner from outside the wave", "update app.event set user_id = 1 where user_id = 20 and at = "
             "(select min(at) from app.event where user_id = 20)", ()),
    Mutation("owner lost", "update app.event set user_id = null where user_id = 3", ()),
    Mutation("path broken", "update app.users set address_id = null where id = 7",
             (missing(ADDRESS, "7"), changed(USERS, "7", "address_id"))),
    Mutation("address of another", "update app.users set address_id = 20 where id = 7",
             (extra(ADDRESS, "20"), missing(ADDRESS, "7"), changed(USERS, "7", "address_id"))),
    Mutation("subject row changed", "update app.users set email = '' where id = 10", (changed(USERS, "10", "email"),)),
    Mutation("subject row missing", "alter table app.thing drop constraint thing_user_id_fkey; "
             "delete from app.users where id = 10", (missing(ADDRESS, "10"), missing(USERS, "10"))),
    Mutation("key changed", "update app.item set no = 61 where no = 60", (extra(ITEM, "1,61"), missing(ITEM, "1,60"))),
)  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name.replace(" ", "-"))
async def test_mutation_is_found(sites18: Sites, mutation: Mutation) -> None:
    await fill(sites18)
    await sites18.target.execute(mutation.spoil.encode())
    verdict = await sites18.verify(MAP)
    assert not verdict.clean
    assert verdict.source_root != verdict.target_root
    if mutation.expected:
        assert sorted(verdict.discrepancies, key=str) == sorted(mutation.expected, key=str)
        assert verdict.discrepancies_total == len(mutation.expected)
    else:
        assert {d.table for d in verdict.discrepancies} == {EVENT}


async def test_doubled_row_without_a_key(sites: Sites) -> None:
    await fill(sites)
    await sites.both("insert into app.event values (3, '2026-05-05 00:00+00', 'twice')")
    await sites.target.execute("insert into app.event values (3, '2026-05-05 00:00+00', 'twice')")
    verdict = await sites.verify(MAP)
    assert [(d.table, d.difference) for d in verdict.discrepancies] == [(EVENT, Difference.EXTRA)]
    assert verdict.discrepancies[0].key[0].startswith("row hash ")


async def test_even_number_of_doubled_rows(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.target.execute(
        "insert into app.event select 3, '2026-05-05 00:00+00', 'x' from generate_series(1, 4)"
    )
    verdict = await sites18.verify(MAP)
    assert verdict.discrepancies_total == 4


async def test_two_equal_rows_for_two_others(sites18: Sites) -> None:
    """As many rows, and in an exclusive or each pair is nothing."""
    await fill(sites18)
    twice = "insert into app.event select 3, '2026-05-05 00:00+00', '{}' from generate_series(1, 2)"
    await sites18.source.execute(twice.format("x").encode())
    await sites18.target.execute(twice.format("y").encode())
    verdict = await sites18.verify(MAP)
    assert verdict.discrepancies_total == 4


async def test_rows_at_the_source_only_are_missing_whole_table(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.target.execute("truncate app.thing, app.item, app.event")
    verdict = await sites18.verify(MAP)
    assert verdict.discrepancies_total == 280
    assert len(verdict.discrepancies) == 100
    assert {d.difference for d in verdict.discrepancies} == {Difference.MISSING}
