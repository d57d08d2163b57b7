"""The apply and what tables may look like: types, identities, partitions, names."""

from __future__ import annotations

import pytest
from tests.stream.destination import UNSENT, destination

from domicile.model.errors import DomicileError, ErrorCode
from domicile.stream.layout import Identity

BOTH = pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
USERS = "create table users (id bigint primary key, email text);"
ONE_STEP = {"public.thing": "user_id -> public.users(id)"}

TYPES = {
    "c_json": ("jsonb", """'{"a": [1, null, "\\u00e9"]}'"""),
    "c_plain_json": ("json", """'{"b":  1}'"""),
    "c_enum": ("public.mood", "'wild'"),
    "c_domain": ("public.mark", "'good'"),
    "c_bytes": ("bytea", r"'\x00ff'"),
    "c_numeric": ("numeric(12,3)", "'-1234.500'"),
    "c_free": ("numeric", "'NaN'"),
    "c_float": ("double precision", "'0.1'::float8 + 0.2"),
    "c_char": ("character(5)", "'ab'"),
    "c_varchar": ("character varying(4)", "'a%\"b'"),
    "c_one": ('"char"', "'x'"),
    "c_bit": ("bit(3)", "B'101'"),
    "c_bits": ("bit varying", "B'10'"),
    "c_uuid": ("uuid", "'00112233-4455-6677-8899-aabbccddeeff'"),
    "c_inet": ("inet", "'10.0.0.1/8'"),
    "c_range": ("int4range", "'[1,5)'"),
    "c_time": ("timestamp(3) with time zone", "'2026-03-29 02:30:00.123+02'"),
    "c_day": ("date", "'infinity'"),
    "c_span": ("interval", "'1 mon -2 days 3.5 s'"),
    "c_bool": ("boolean", "true"),
    "c_point": ("point", "'(1,2)'"),
    "c_words": ("tsvector", "'a fat cat'"),
}
ONLY_TEXT = {
    "c_array": ("integer[]", "'{{1,2},{3,null}}'"),
    "c_texts": ("text[]", """array['a,b', 'c"d', null, '']"""),
    "c_moods": ("public.mood[]", "'{calm,wild}'"),
    "c_row": ("public.pair", "row(1, 'x, \"y\"')"),
}


@BOTH
async def test_values_of_every_kind_of_type(any_database: str, *, binary: bool) -> None:
    """Inserted, updated, and written one by one: each time what PostgreSQL itself makes of the same expression."""
    types = TYPES if binary else TYPES | ONLY_TEXT
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in types.items())
    schema = f"""
        create type mood as enum ('calm', 'wild');
        create domain mark as text check (value <> 'bad');
        create type pair as (a integer, b text);
        {USERS}
        create table thing (id integer primary key, user_id bigint, {columns}, twin text unique)"""
    async with destination(any_database, schema, ONE_STEP, binary=binary) as here:
        values = {name: text for name, (_, text) in types.items()}
        row = {"user_id": "1", **values}
        blank = {"user_id": "1"}
        await here.carry_out(
            await here.insert("thing", id="1", **row), await here.insert("thing", id="2", twin="'p'", **blank)
        )
        await here.carry_out(await here.update("thing", id="2", twin="'p'", **row))
        apply = await here.carry_out(
            await here.insert("thing", id="3", twin="'q'", **row),
            await here.delete("thing", id="3"),
            await here.insert("thing", id="4", twin="'q'", **blank),
            await here.update("thing", id="4", twin="'t'", **row),
            await here.update("thing", id="2", twin="'q'", **row),
            await here.update("thing", id="4", twin="'p'", **row),
        )
        assert apply.repeated == 0, "inserted rows come after updates"
        apply = await here.carry_out(
            await here.insert("thing", id="5", twin="'z'", **row),
            await here.update("thing", id="2", twin="'t'", **row),
            await here.update("thing", id="4", twin="'q'", **blank),
            await here.update("thing", id="4", twin="'q'", **row),
            await here.update("thing", id="2", twin="'p'", **row),
        )
        assert apply.repeated == 1
        same = " and ".join(f"{name}::text = (({text})::{kind})::text" for name, (kind, text) in types.items())
        assert await here.rows(f"select count(*), count(*) filter (where {same}) from public.thing") == [(4, 4)]


@BOTH
async def test_null_is_not_empty(any_database: str, *, binary: bool) -> None:
    schema = USERS + "create table thing (id int primary key, user_id bigint, a text, b bytea)"
    async with destination(any_database, schema, ONE_STEP, binary=binary) as here:
        await here.carry_out(
            await here.insert("thing", id="1", user_id="1", a="''", b="null"),
            await here.insert("thing", id="2", user_id="1", a="null", b="''"),
        )
        assert await here.rows("select a, b from public.thing order by id") == [("", None), (None, b"")]


@BOTH
async def test_identity_always_and_generated_columns(any_database: str, *, binary: bool) -> None:
    """Ids are kept; an UPDATE does not name them; ``set seq = default`` at the origin arrives, too."""
    schema = (
        USERS
        + """create table thing (id bigint generated always as identity primary key, user_id bigint,
                 seq bigint generated always as identity, a int,
                 twice int generated always as (a * 2) stored, u int unique)"""
    )
    async with destination(any_database, schema, ONE_STEP, binary=binary) as here:
        assert here.table("thing").columns == ("id", "user_id", "seq", "a", "u")
        await here.carry_out(
            await here.insert("thing", id="70", user_id="1", seq="500", a="3", u="1"),
            await here.insert("thing", id="71", user_id="1", seq="501", a="4", u="2"),
        )
        await here.carry_out(await here.update("thing", id="70", user_id="1", seq="500", a="5", u="1"))
        assert await here.rows("select * from public.thing where id = 70") == [(70, 1, 500, 5, 10, 1)]
        apply = await here.carry_out(await here.update("thing", id="70", user_id="1", seq="777", a="5", u="1"))
        assert apply.repeated == 1
        await here.carry_out(
            await here.update("thing", {"id": "70"}, id="80", user_id="1", seq="777", a="5", u="9"),
            await here.update("thing", id="71", user_id="1", seq="501", a="4", u="1"),
            await here.update("thing", {"id": "80"}, id="81", user_id="1", seq="777", a="6", u="2"),
        )
        assert await here.rows("select * from public.thing order by id") == [
            (71, 1, 501, 4, 8, 1), (81, 1, 777, 6, 12, 2),
        ]  # fmt: skip


@BOTH
async def test_no_key_and_doubled_rows_exactly_one_goes(any_database: str, *, binary: bool) -> None:
    schema = (
        USERS
        + """create table thing (user_id bigint, what text, doc json, n numeric);
             create index on thing (user_id);
             alter table thing replica identity full"""
    )
    async with destination(any_database, schema, ONE_STEP, binary=binary) as here:
        assert here.table("thing").identity is Identity.FULL
        twin = {"user_id": "1", "what": "null", "doc": "'{}'", "n": "'1.0'"}
        other = {"user_id": "1", "what": "null", "doc": "'{}'", "n": "'1.00'"}
        await here.carry_out(*[await here.insert("thing", **v) for v in (twin, twin, twin, other)])
        await here.carry_out(await here.delete("thing", **twin))
        await here.carry_out(await here.update("thing", twin, **{**twin, "what": "'new'"}))
        found = await here.rows("select user_id, what, n::text from public.thing order by 2, 3")
        assert found == [(1, "new", "1.0"), (1, None, "1.0"), (1, None, "1.00")]
        await here.conn.execute(b"insert into public.thing values (101, 'theirs', null, 5)")
        with pytest.raises(DomicileError) as caught:
            await here.carry_out(await here.delete("thing", user_id="101", what="'theirs'", doc="null", n="5"))
        assert caught.value.code is ErrorCode.KEYS_COLLIDE


@BOTH
async def test_partitions_with_keys_on_the_leaves_only(any_database: str, *, binary: bool) -> None:
    schema = (
        USERS
        + """create table thing (user_id bigint, at date not null, no int not null, note text) partition by range (at);
             create table thing_1 partition of thing for values from ('2025-01-01') to ('2026-01-01');
             create table thing_2 (note text, gone int, no int not null, at date not null, user_id bigint);
             alter table thing_2 drop column gone;
             alter table thing attach partition thing_2 for values from ('2026-01-01') to ('2027-01-01');
             alter table thing_1 add primary key (at, no);
             alter table thing_2 add primary key (at, no)"""
    )
    async with destination(any_database, schema, ONE_STEP, binary=binary) as here:
        one = {"user_id": "1", "at": "'2025-05-05'", "no": "1", "note": "'x'"}
        two = {"user_id": "1", "at": "'2026-05-05'", "no": "1", "note": "'x'"}
        await here.carry_out(await here.insert("thing", **one), await here.insert("thing", **two))
        await here.carry_out(
            await here.update("thing", **{**one, "note": "'y'"}),
            await here.update("thing", {"at": "'2026-05-05'"}, **{**two, "at": "'2025-06-06'"}),
        )
        assert await here.rows("select tableoid::regclass::text, note from public.thing order by at") == [
            ("public.thing_1", "y"), ("public.thing_1", "x"),
        ]  # fmt: skip
        await here.carry_out(  # a value that was not sent: one by one, across leaves
            await here.update("thing", {"at": "'2025-06-06'"}, **{**two, "note": UNSENT}),
            await here.delete("thing", at="'2025-05-05'", no="1"),
        )
        assert await here.rows("select tableoid::regclass::text, note from public.thing") == [("public.thing_2", "x")]


@BOTH
async def test_names_that_need_quotes(any_database: str, *, binary: bool) -> None:
    schema = """
        create schema "Sch%s";
        create type "Sch%s"."Mood ""%d" as enum ('50%', '$1');
        create table "Sch%s"."us""er" (id bigint primary key, email text);
        create table "Sch%s"."order" ("select" int, "%s" bigint, "a.b" "Sch%s"."Mood ""%d", "größe" text unique,
            primary key ("select", "%s"))"""
    owned = {'"Sch%s"."order"': '"%s" -> "Sch%s"."us""er"(id)'}
    async with destination(any_database, schema, owned, binary=binary, subject='"Sch%s"."us""er"') as here:
        values = {"select": "1", "%s": "1", "a.b": "'50%'", "größe": "'a'"}
        await here.carry_out(
            await here.insert("order", **values),
            await here.insert("order", **{"select": "2", "%s": "1", "größe": "'b'"}),
        )
        apply = await here.carry_out(
            await here.update("order", **{**values, "größe": "'c'"}),
            await here.update("order", **{"select": "2", "%s": "1", "a.b": "'$1'", "größe": "'a'"}),
            await here.update("order", {"select": "1"}, **{**values, "select": "3", "größe": UNSENT}),
        )
        assert apply.repeated == 0, "what cannot be folded is not tried"
        assert await here.rows("""select "select", "a.b"::text, "größe" from "Sch%s"."order" order by 1""") == [
            (2, "$1", "a"), (3, "50%", "c"),
        ]  # fmt: skip
        await here.carry_out(await here.delete("order", **{"select": "2", "%s": "1"}))
