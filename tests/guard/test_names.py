"""Subject keys of other types, and names that need care."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
import pytest
from tests.guard.kit import data_map, guarded

from domicile.model.errors import DomicileError, ErrorCode

LONG = "n" * 63


@dataclass(frozen=True)
class Case:
    """A schema of its own: ``member`` is fenced, ``outsider`` is not (SQL literals)."""

    ddl: str
    subject: str
    owned: Mapping[str, str]
    key: str
    members: Sequence[object]
    member: str
    outsider: str
    insert: Sequence[str] = field(default=())  # statements with {key}


CASES = {
    "text": Case(
        "create table u (k text primary key); create table o (id int, k text references u, primary key (id, k));"
        "insert into u values ('ann'), ('ben')",
        "public.u", {"public.o": "k -> public.u(k)"}, "k", ["ann"], "'ann'", "'ben'",
        ["insert into o values (1, {key})", "update u set k = k where k = {key}"],
    ),
    "text of several collations": Case(
        'create table u (k text collate "C" primary key); '
        'create table o (id int, k text collate "POSIX" unique references u);'
        'create table i (o varchar(9) collate "ucs_basic" references o (k), n int);'
        "insert into u values ('ann'), ('ben'); insert into o values (1, 'ann'), (1, 'ben')",
        "public.u", {"public.o": "k -> public.u(k)", "public.i": "o -> public.o(k)"},
        "k", ["ann"], "'ann'", "'ben'",
        ["update o set id = 2 where k = {key}", "insert into i values ({key}, 1)",
         "update u set k = k where k = {key}"],
    ),
    "uuid": Case(
        "create table u (k uuid primary key); create table o (k uuid references u);"
        "insert into u values ('00000000-0000-0000-0000-000000000001'), ('00000000-0000-0000-0000-000000000002')",
        "public.u", {"public.o": "k -> public.u(k)"}, "k", ["00000000-0000-0000-0000-000000000001"],
        "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'",
        ["insert into o values ({key})"],
    ),
    "enum": Case(
        "create type color as enum ('red', 'blue'); create table u (k color primary key);"
        "create table o (k color); insert into u values ('red'), ('blue')",
        "public.u", {"public.o": "k -> public.u(k)"}, "k", ["red"], "'red'", "'blue'",
        ["insert into o values ({key})", "update u set k = k where k = {key}"],
    ),
    "domain": Case(
        "create domain ids as bigint check (value > 0); create table u (k ids primary key);"
        "create table o (k int); insert into u values (1), (2)",
        "public.u", {"public.o": "k -> public.u(k)"}, "k", [1], "1", "2",
        ["insert into o values ({key})", "update u set k = k where k = {key}"],
    ),
    "numeric, narrower column": Case(
        "create table u (k numeric(9) primary key); create table o (k int); insert into u values (1), (2)",
        "public.u", {"public.o": "k -> public.u(k)"}, "k", [1], "1", "2", ["insert into o values ({key})"],
    ),
    "citext": Case(
        "create extension citext schema public;"
        "create table u (k citext primary key); create table o (k citext references u);"
        "insert into u values ('Ann'), ('Ben')",
        "public.u", {"public.o": "k -> public.u(k)"}, "k", ["ann"], "'ANN'", "'BEN'",
        ["insert into o values ({key})", "update u set k = k where k = {key}"],
    ),
    "two columns, quoted": Case(
        'create schema "S p{{ace"; create table "S p{{ace"."U.ser" ("Id %s" int primary key);'
        'create table "S p{{ace"."Or""der" (a int, "b c" text,'
        ' "ow ner" int references "S p{{ace"."U.ser", primary key (a, "b c"));'
        'create table "select" ("from" int, "where" text,'
        ' foreign key ("from", "where") references "S p{{ace"."Or""der");'
        'insert into "S p{{ace"."U.ser" values (1), (2);'
        ' insert into "S p{{ace"."Or""der" values (1, \'x\', 1), (2, \'x\', 2)',
        '"S p{ace"."U.ser"',
        {
            '"S p{ace"."Or""der"': '"ow ner" -> "S p{ace"."U.ser"("Id %s")',
            'public."select"': '"from", "where" -> "S p{ace"."Or""der"(a, "b c")',
        },
        "Id %s", [1], "1", "2",
        ["insert into \"select\" values ({key}, 'x')",
         'update "S p{{ace"."Or""der" set "ow ner" = {key}, a = a where a = {key}'],
    ),
    "longest name": Case(
        f"create table {LONG} (n int primary key); create table o (n int); insert into {LONG} values (1), (2)",
        f"public.{LONG}", {"public.o": f"n -> public.{LONG}(n)"}, "n", [1], "1", "2", ["insert into o values ({key})"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", CASES)
async def test_a_member_is_refused_and_an_outsider_passes(any_database: str, which: str) -> None:
    case = CASES[which]
    if which == "citext" and not await _has_citext(any_database):
        pytest.skip("this PostgreSQL has no citext")
    mapped = data_map(case.subject, case.owned, case.key)
    async with guarded(any_database, case.ddl.replace("{{", "{"), mapped, case.members) as found:
        await found.fence()
        for level in ("read committed", "serializable"):
            async with found.writer(level) as writer:
                for statement in case.insert:
                    error = await writer.refused(statement.format(key=case.member), "DM002")
                    assert case.member.strip("'") not in (error.diag.message_primary or "")
                    await writer.run(statement.format(key=case.outsider))
                    await writer.conn.rollback()


async def test_types_that_cannot_be_compared_are_found_at_the_installation(database: str) -> None:
    ddl = "create table u (k bigint primary key); create table o (k text)"
    with pytest.raises(DomicileError) as caught:
        async with guarded(database, ddl, data_map("public.u", {"public.o": "k -> public.u(k)"}, "k")):
            pass
    assert caught.value.code is ErrorCode.MAP_INVALID
    assert "public.o" in caught.value.message


async def _has_citext(conninfo: str) -> bool:
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        found = await conn.execute("select count(*) from pg_available_extensions where name = 'citext'")
        row = await found.fetchone()
    return bool(row and row[0])
