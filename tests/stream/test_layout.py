"""The layout: what identifies rows, whom they name as owner, and what a live move refuses to carry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from psycopg import AsyncConnection
import pytest
from tests.stream.wave import data_map, layout_of

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Column, TableName
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.stream.layout import Identity, IdentityFacts, Owner, family, live_refusals, read_identities

USERS = "create table public.users (id bigint primary key, email text unique not null, code numeric unique);"
MAP = data_map("public.users", {"public.t": "user_id -> public.users(id)"})


@pytest.fixture
async def conn(any_database: str) -> AsyncIterator[AsyncConnection[Any]]:
    connection = await connect(any_database, settings=SESSION)
    yield connection
    await connection.close()


async def facts(conn: AsyncConnection[Any], ddl: str) -> IdentityFacts | None:
    await conn.execute((USERS + ddl).encode())
    found = await read_identities(conn, MAP.in_scope())
    return found.get(TableName("public", "t"))


async def refusals(conn: AsyncConnection[Any], ddl: str, owned: dict[str, str] | None = None) -> list[str]:
    mapped = MAP if owned is None else data_map("public.users", owned)
    await conn.execute((USERS + ddl).encode())
    schema = await read_schema(conn)
    found = live_refusals(mapped, schema, await read_identities(conn, mapped.in_scope()))
    return [f"{table}: {reason}" for table, reason in found]


@pytest.mark.parametrize(
    ("ddl", "expected"),
    [
        ("create table public.t (b int, a int, user_id bigint, primary key (b, a));", IdentityFacts("d", ("a", "b"))),
        ("create table public.t (a int, user_id bigint);", IdentityFacts("d")),
        ("create table public.t (a int primary key deferrable, user_id bigint);", IdentityFacts("d")),
        (
            """create table public.t (a int, b int not null, user_id bigint, primary key (a));
            create unique index u on public.t (b); alter table public.t replica identity using index u;""",
            IdentityFacts("i", ("b",)),
        ),
        (
            "create table public.t (a int primary key, user_id bigint); alter table public.t replica identity full;",
            IdentityFacts("f", ("a",)),
        ),
        (
            "create table public.t (a int, user_id bigint); alter table public.t replica identity full;",
            IdentityFacts("f"),
        ),
        (  # a key that may be null, or is partial, or of an expression, or deferred, tells nothing apart
            """create table public.t (a int unique, b int not null, c int not null unique deferrable, user_id bigint);
            create unique index on public.t (b) where b > 0; create unique index on public.t (abs(b));
            alter table public.t replica identity full;""",
            IdentityFacts("f"),
        ),
        (
            "create table public.t (a int unique not null, user_id int); alter table public.t replica identity full;",
            IdentityFacts("f", ("a",)),
        ),
        (
            "create table public.t (a int primary key); alter table public.t replica identity nothing;",
            IdentityFacts("n"),
        ),
    ],
)
async def test_identity(conn: AsyncConnection[Any], ddl: str, expected: IdentityFacts) -> None:
    assert await facts(conn, ddl) == expected


PARTITIONED = """
create table public.t (id int, at date not null, user_id bigint) partition by range (at);
create table public.t_1 partition of public.t for values from ('2024-01-01') to ('2025-01-01');
create table public.t_2 partition of public.t for values from ('2025-01-01') to ('2026-01-01')
    partition by list (user_id);
create table public.t_2a partition of public.t_2 default;
"""


@pytest.mark.parametrize(
    ("ddl", "expected"),
    [
        (
            """alter table public.t_1 add primary key (at, id);
            alter table public.t_2a add primary key (id, at, user_id);""",
            IdentityFacts("x"),
        ),
        (
            """alter table public.t_1 add primary key (at, id, user_id);
            alter table public.t_2a add primary key (id, at, user_id);""",
            IdentityFacts("d", ("at", "id", "user_id")),
        ),
        (  # the leaf of a leaf is chosen by user_id too
            "alter table public.t_1 add primary key (at, id); alter table public.t_2a add primary key (at, id);",
            IdentityFacts("x"),
        ),
        ("alter table public.t add primary key (at, user_id);", IdentityFacts("d", ("at", "user_id"))),
        ("", IdentityFacts("d")),
        (
            "alter table public.t_1 replica identity full; alter table public.t_2a replica identity full;",
            IdentityFacts("f"),
        ),
    ],
)
async def test_identity_of_partitions_is_that_of_all_their_leaves(
    conn: AsyncConnection[Any], ddl: str, expected: IdentityFacts
) -> None:
    assert await facts(conn, PARTITIONED + ddl) == expected


async def test_a_key_that_holds_in_each_partition_only_is_refused(conn: AsyncConnection[Any]) -> None:
    ddl = """create table public.t (id int not null, at date, user_id bigint) partition by range (at);
        create table public.t_1 partition of public.t for values from ('2024-01-01') to ('2025-01-01');
        alter table public.t_1 add primary key (id);"""
    assert await refusals(conn, ddl) == ["public.t: its key (id) holds in each partition only"]


async def test_columns_owners_and_positions(conn: AsyncConnection[Any]) -> None:
    await conn.execute(
        (
            USERS
            + """
        create table public."Order s" (note text, dropped int, "user" varchar(9) references public.users (email),
            twice int generated always as (no * 2) stored, no int, at date, primary key (at, no));
        alter table public."Order s" drop column dropped;
        create table public.items (id uuid primary key, n smallint, d date, tags int[],
            foreign key (n, d) references public."Order s" (no, at));"""
        ).encode()
    )
    mapped = data_map(
        "public.users",
        {'public."Order s"': '"user" -> public.users(email)', "public.items": 'n, d -> public."Order s"(no, at)'},
    )
    layout = await layout_of(conn, mapped, order={"public.users": ["email", "code", "id"]})
    users, orders, items = layout.tables
    assert [t.no for t in layout.tables] == [0, 1, 2]
    assert not layout.binary  # an array: its binary form is not relied on
    assert (users.columns, users.key, users.key_at, users.owner) == (
        ("email", "code", "id"),
        ("id",),
        (2,),
        Owner((2,)),
    )
    assert orders.columns == ("note", "user", "no", "at")
    assert orders.type_names == ("text", "character varying(9)", "integer", "date")
    assert orders.families == ("text", "text", "int", "date")
    assert (orders.key, orders.key_at) == (("no", "at"), (2, 3))  # in the order of the columns
    assert orders.owner == Owner((1,), 0, (0,))
    assert items.owner == Owner((1, 2), 1, (2, 3))
    assert items.identity is Identity.KEY
    assert layout.by_name()[TableName("public", "items")] is items


async def test_text_where_one_table_is_text(conn: AsyncConnection[Any]) -> None:
    await conn.execute((USERS + "create table public.t (id int primary key, user_id bigint);").encode())
    assert (await layout_of(conn, MAP)).binary
    assert not (await layout_of(conn, MAP, binary=False)).binary


@pytest.mark.parametrize("column", ["numeric", "double precision", "jsonb", "timestamp with time zone[]"])
async def test_keys_whose_equality_is_not_that_of_bytes_are_refused(conn: AsyncConnection[Any], column: str) -> None:
    ddl = f"create table public.t (id {column} primary key, user_id bigint);"
    reason = f"its key has column id of type {column}, of which equal values may differ in bytes"
    assert await refusals(conn, ddl) == [f"public.t: {reason}"]


def test_a_collation_under_which_different_texts_are_equal_is_refused() -> None:
    assert family(Column("c", "text", "text")) == "text"
    assert family(Column("c", "text", "text", collation="loose", collation_deterministic=False)) == ""
    assert family(Column("c", "public.citext", "citext", base_schema="public")) == ""


@pytest.mark.parametrize(
    "column", ["smallint", "varchar(3)", "char(3)", "uuid", "bytea", "date", "timestamp", "timestamptz", "boolean",
               "public.mood", "public.number"],
)  # fmt: skip
async def test_keys_of_these_types_are_carried(conn: AsyncConnection[Any], column: str) -> None:
    ddl = f"""create type public.mood as enum ('a'); create domain public.number as bigint;
        create table public.t (id {column} primary key, user_id int);"""
    assert await refusals(conn, ddl) == []


async def test_owners_that_cannot_be_followed_are_refused(conn: AsyncConnection[Any]) -> None:
    ddl = """
        create table public.a (id int primary key, code numeric);
        create table public.b (id int primary key, user_id text);
        create table public.c (id int primary key, user_id bigint generated always as (id) stored);
        create table public.d (id int, user_id bigint); alter table public.d replica identity full;
        create table public.e (id int primary key, d_id int);
        create table public.f (id int primary key);
        alter table public.users add f_id int references public.f;
        create table public.g (id int primary key, user_id bigint); alter table public.g replica identity nothing;"""
    owned = {
        "public.a": "code -> public.users(code)",
        "public.b": "user_id -> public.users(id)",
        "public.c": "user_id -> public.users(id)",
        "public.d": "user_id -> public.users(id)",
        "public.e": "d_id -> public.d(id)",
        "public.f": "id <- public.users(f_id)",
        "public.g": "user_id -> public.users(id)",
    }
    numeric = "column code of type numeric, of which equal values may differ in bytes"
    assert await refusals(conn, ddl, owned) == [
        f"public.a: its owner is in {numeric}",
        f"public.a: its owner is named by public.users's {numeric}",
        "public.b: column user_id and public.users's column id are of different types",
        "public.c: its owner is in column user_id, which is generated",
        "public.f: its owner is found against the arrow (id <- public.users(f_id))",
        "public.g: its replica identity is NOTHING",
        "public.e: its rows hang from public.d, which has no key",
    ]


async def test_no_layout_of_what_is_refused(conn: AsyncConnection[Any]) -> None:
    await conn.execute((USERS + "create table public.t (id int, user_id bigint);").encode())
    with pytest.raises(DomicileError, match="no primary key") as caught:
        await layout_of(conn, MAP)
    assert caught.value.code is ErrorCode.PLAN_REFUSED
