"""Every value arrives as it was: each built-in type, user types, odd names, other column orders, partitions."""

from __future__ import annotations

import psycopg
from tests.copy.kit import Rig, data_map

from domicile.model.plan import Format

# type -> values as SQL; each is also carried as null and inside an array.
VALUES: dict[str, tuple[str, ...]] = {
    "boolean": ("true", "false"),
    "bytea": (r"'\x00ff5c0a0d'", "''"),
    '"char"': ("'x'", "''"),
    "name": ("'Name'",),
    "bigint": ("9223372036854775807", "'-9223372036854775808'"),
    "smallint": ("32767", "'-32768'"),
    "integer": ("2147483647", "'-2147483648'"),
    "text": (r"E'tab\there\nline \\N \\. \\\\ \'quoted\' \"'", "''", "'\\N'", "'香港特別行政區 🌏 Ñandú'"),
    "oid": ("4294967295",),
    "tid": ("'(42,7)'",),
    "xid": ("'42'",),
    "cid": ("'42'",),
    "json": ("""'{"b": 1, "a":  [1, null],"b":2}'""",),
    "jsonb": ("""'{"b": 1.10, "a": [1, null, "\\u00e9"]}'""", "'1e400'"),
    "jsonpath": ("'$.a[*] ? (@ > 1)'",),
    "xml": ("'<a>x</a>'",),
    "point": ("'(1.5,-2)'",),
    "lseg": ("'[(1,2),(3,4)]'",),
    "path": ("'((1,2),(3,4))'", "'[(1,2),(3,4)]'"),
    "box": ("'(3,4),(1,2)'",),
    "polygon": ("'((1,2),(3,4),(5,6))'",),
    "line": ("'{1,-1,0}'",),
    "circle": ("'<(1,2),3>'",),
    "real": ("'NaN'", "'-Infinity'", "'-0'", "1e-45", "3.4028235e38"),
    "double precision": ("'NaN'", "'Infinity'", "'-0'", "4.9406564584124654e-324", "0.1"),
    "money": ("'-92233720368547758.08'",),
    "macaddr": ("'08:00:2b:01:02:03'",),
    "macaddr8": ("'08:00:2b:01:02:03:04:05'",),
    "inet": ("'192.168.1.5/24'", "'2001:db8::1'"),
    "cidr": ("'10.0.0.0/8'",),
    "character(5)": ("'ab'",),
    "character varying(9)": ("'ab  '",),
    "date": ("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'"),
    "time": ("'24:00'", "'00:00:00.000001'"),
    "time with time zone": ("'23:59:59.999999-15:59'",),
    "timestamp": ("'infinity'", "'4713-01-01 00:00 BC'", "'294276-12-31 23:59:59.999999'"),
    "timestamp with time zone": ("'-infinity'", "'2024-02-29 12:00:00.000001+05:30'"),
    "interval": ("'1 year -2 mons 3 days -04:05:06.789'", "'24:00'", "'1 day'"),
    "bit(3)": ("B'101'",),
    "bit varying": ("B'10101'", "B''"),
    "numeric": ("'NaN'", "'Infinity'", "'-Infinity'", "1.00", "1e-1000", "123456789012345678901234567890.10"),
    "numeric(7,3)": ("1234.500",),
    "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",),
    "pg_lsn": ("'16/B374D848'",),
    "txid_snapshot": ("'10:20:10,14,15'",),
    "pg_snapshot": ("'10:20:10,14,15'",),
    "xid8": ("'18446744073709551615'",),
    "tsvector": ("""'a:1A fat:2 ''it''''s'':3'""",),
    "tsquery": ("'fat & (rat | !cat:*B)'", "''"),
    "int2vector": ("'1 2 3'", "''"),
    "oidvector": ("'1 2 3'", "''"),
    "refcursor": ("'cursor'",),
    "int4range": ("'[1,5)'", "'empty'", "'(,)'"),
    "int8range": ("'[1,5)'",),
    "numrange": ("'[1.0,2.50]'",),
    "tsrange": ("'[2024-01-01,infinity)'",),
    "tstzrange": ("'[2024-01-01 00:00+00,)'",),
    "daterange": ("'[2024-01-01,2024-02-01)'",),
    "int4multirange": ("'{[1,3),[5,9)}'", "'{}'"),
    "int8multirange": ("'{[1,3)}'",),
    "nummultirange": ("'{[1.0,2.50]}'",),
    "tsmultirange": ("'{[2024-01-01,2024-02-01)}'",),
    "tstzmultirange": ("'{[2024-01-01 00:00+00,)}'",),
    "datemultirange": ("'{[2024-01-01,2024-02-01)}'",),
    # Text, because these hold object ids or have no binary form; and those above, for their empty values.
    "regclass": ("'pg_catalog.pg_class'", "'-'", "'4294967295'"),
    "regtype": ("'integer'",),
    "regproc": ("'pg_catalog.now'",),
    "regnamespace": ("'pg_catalog'",),
    "aclitem": ("'postgres=r/postgres'",),
}
TEXT_ONLY = {"tsquery", "int2vector", "oidvector", "regclass", "regtype", "regproc", "regnamespace", "aclitem"}
WIDENED = {"aclitem"}  # in PostgreSQL 16


async def test_builtin_types(sites: Rig) -> None:
    """One table per type; all in one move."""
    # The target's object ids must differ, or a binary form that holds them would pass by luck.
    await sites.target.execute("create type public.shift as enum ('a')")
    await sites.both("create table public.users (id bigint primary key)")
    await sites.source.execute("insert into public.users values (1), (2)")
    types = {f"v_{n}": t for n, t in enumerate(VALUES, 1) if t != "xml" or await has_xml(sites)}
    for table, type_name in types.items():
        await sites.both(f"create table public.{table} (id int, user_id bigint, v {type_name}, many {type_name}[])")
        await sites.source.execute(
            f"insert into public.{table} values (98, 1, null, null), (99, 1, null, '{{}}')".encode()
        )
        for number, value in enumerate(VALUES[type_name], 1):
            one = f"{value}::{type_name}"
            many = f"array[[{one}, null], [null, {one}]]"
            rows = f"({number}, 1, {one}, {many}), ({number + 100}, 2, {one}, null)"
            await sites.source.execute(f"insert into public.{table} values {rows}".encode())
    await sites.register(data_map("public.users", {f"public.{t}": "user_id -> public.users(id)" for t in types}), [1])
    for plan in sites.move.plan.tables[1:]:
        assert (plan.format is Format.TEXT) == (types[plan.table.name] in TEXT_ONLY), types[plan.table.name]
        assert bool(plan.why) == (plan.format is Format.TEXT)

    await sites.copy()

    for table, type_name in types.items():
        # Text with every digit, and the size: equal values of unequal form (1.0, 1.00) are told apart.
        size = "0" if type_name in WIDENED else "pg_column_size(v)"
        query = f"select id, v::text, many::text, {size} from public.{table} where user_id = 1 order by id"
        assert len(await sites.same(query)) == len(VALUES[type_name]) + 2, type_name
        assert await sites.texts(sites.target, f"select count(*) from public.{table} where user_id <> 1") == [(0,)]


async def has_xml(sites: Rig) -> bool:
    """The bundled build has no XML, not even to read a value."""
    try:
        await sites.both("select '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


USER_TYPES = """
create schema other;
create type other.mood as enum ('sad', 'ok', 'very "happy"');
create domain other.email as text check (value like '%@%');
create domain other.moods as other.mood[];
create type other.pair as (a int, "B b" text, m other.mood);
create domain other.nice_pair as other.pair check ((value).a > 0);
create type other.floats as range (subtype = float8, multirange_type_name = other.floats_many);
"""


async def test_user_types(sites: Rig) -> None:
    # The target's object ids must differ, or a binary array would pass by luck.
    await sites.target.execute("create type public.x1 as enum ('a'); create type public.x2 as (a int)")
    await sites.both(
        USER_TYPES
        + """
create table public.users (id bigint primary key, mood other.mood, mail other.email);
create table public.arrays (user_id bigint, v other.mood[]);
create table public.domains (user_id bigint, v other.moods);
create table public.composites (user_id bigint, v other.pair, w other.nice_pair, x other.pair[]);
create table public.ranges (user_id bigint, v other.floats, w other.floats_many);
create table public.emails (user_id bigint, v other.email[]);
"""
    )
    await sites.source.execute(
        b"""
insert into public.users values (1, 'ok', 'a@b'), (2, 'sad', 'c@d');
insert into public.arrays values (1, '{sad,"very \\"happy\\""}'), (1, null), (2, '{ok}');
insert into public.domains values (1, '{sad,ok}');
insert into public.composites values
    (1, row(1, '', 'ok'), row(2, null, null), array[row(3, ',"\\', 'sad')]::other.pair[]);
insert into public.ranges values (1, '[1.5,2.5)', '{[1,2],[4,5)}');
insert into public.emails values (1, '{a@b,"c d@e"}');
"""
    )
    owned = {
        f"public.{t}": "user_id -> public.users(id)" for t in ("arrays", "domains", "composites", "ranges", "emails")
    }
    await sites.register(data_map("public.users", owned), [1])
    formats = {t.table.name: t.format for t in sites.move.plan.tables}
    assert formats.pop("users") is Format.BINARY, "an enum's binary form is its label"
    assert set(formats.values()) == {Format.TEXT}

    await sites.copy()

    for table in ("arrays", "domains", "composites", "ranges", "emails"):
        assert await sites.texts(sites.target, f"select t::text from public.{table} t order by 1") == (
            await sites.texts(sites.source, f"select t::text from public.{table} t where user_id = 1 order by 1")
        )
    assert await sites.texts(sites.target, "select u::text from public.users u") == [("(1,ok,a@b)",)]


async def test_shape_of_tables(sites: Rig) -> None:
    """Odd names, dropped and generated columns, GENERATED ALWAYS, and another order of columns at the target."""
    await sites.source.execute(
        b"""
create schema "Sch ema";
create table "Sch ema"."Us""er%s" ("Ke y" text primary key, gone int, "select" text);
alter table "Sch ema"."Us""er%s" drop column gone;
create table "Sch ema".items (
    id bigint generated always as identity primary key,
    "wem{}" text, gone int, a int, double int generated always as (a * 2) stored, b text);
alter table "Sch ema".items drop column gone;
insert into "Sch ema"."Us""er%s" values ('x''y', 'v'), ('"', ''), ('other', null);
insert into "Sch ema".items ("wem{}", a, b) values ('x''y', 1, 'one'), ('"', 2, ''), ('other', 3, null), ('"', 4, null);
"""
    )
    await sites.target.execute(
        b"""
create schema "Sch ema";
create table "Sch ema"."Us""er%s" ("select" text, "Ke y" text primary key);
create table "Sch ema".items (
    b text, a int, "wem{}" text, double int generated always as (a * 2) stored,
    id bigint generated always as identity primary key);
"""
    )
    mapped = data_map('"Sch ema"."Us""er%s"', {'"Sch ema".items': '"wem{}" -> "Sch ema"."Us""er%s"("Ke y")'}, "Ke y")
    await sites.register(mapped, ['"', "x'y"])
    await sites.copy()
    assert await sites.texts(
        sites.target, 'select id, "wem{}", a, double, b from "Sch ema".items order by id'.replace("%", "%%")
    ) == [(1, "x'y", 1, 2, "one"), (2, '"', 2, 4, ""), (4, '"', 4, 8, None)]
    rows = await sites.texts(sites.target, 'select "Ke y", "select" from "Sch ema"."Us""er%s" order by 1')
    assert sorted(rows) == [('"', ""), ("x'y", "v")]


async def test_partitions_and_paths(sites: Rig) -> None:
    """Rows of partitions travel through their root; long and inverse paths carry each row once."""
    await sites.both(
        """
create table public.users (id int primary key);
create table public.orders (id int primary key, user_id int);
create table public.lines (order_id int, at date not null, n int) partition by range (at);
create table public.lines_1 partition of public.lines for values from ('2024-01-01') to ('2024-07-01');
create table public.lines_rest partition of public.lines default;
create table public.attachments (id int primary key, user_id int, file_id int);
create table public.files (id int primary key, body text)"""
    )
    await sites.source.execute(
        """
insert into public.users select generate_series(1, 9);
insert into public.orders select n, 1 + n % 9 from generate_series(1, 90) n;
insert into public.lines select 1 + n % 90, date '2024-01-01' + n % 400, n from generate_series(1, 900) n;
insert into public.files select n, repeat('x', n) from generate_series(1, 9) n;
insert into public.attachments select n, 1 + n % 9, 1 + n % 9 from generate_series(1, 36) n"""
    )
    mapped = data_map(
        "public.users",
        {
            "public.orders": "user_id -> public.users(id)",
            "public.lines": "order_id -> public.orders(id)",
            "public.attachments": "user_id -> public.users(id)",
            "public.files": "id <- public.attachments(file_id)",
        },
    )
    await sites.register(mapped, [2, 3, 5, 8], chunk_rows=50)
    await sites.copy()
    assert await sites.texts(sites.target, "select id from public.files order by 1") == [(2,), (3,), (5,), (8,)]
    lines = """select l.*, l.tableoid::regclass::text from public.lines l join public.orders o on o.id = l.order_id
        where o.user_id in (2, 3, 5, 8) order by n"""
    assert len(await sites.same(lines)) == 400
    assert await sites.texts(sites.target, "select count(*) from public.lines") == [(400,)]
    assert sum(rows for rows, _ in sites.reported) == 4 + 40 + 400 + 16 + 4
