"""The apply and what tables may look like: types, identities, partitions, names; rows that leave; parts; plans."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor
import pytest
from tests.stream.destination import UNSENT, WAVE, Destination, destination

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.connect import connect
from domicile.stream.apply import SETTINGS
from domicile.stream.change import Key
from domicile.stream.dml import Dml, read_columns
from domicile.stream.layout import Identity
from domicile.stream.params import Raw
from domicile.stream.pipeline import Statement
from domicile.stream.statements import TableStatements

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


@pytest.fixture(params=["binary", "text"])
async def shop(any_database: str, request: pytest.FixtureRequest) -> AsyncIterator[Destination]:
    """Orders 10 and 20 of user 1, order 900 of a stranger, with lines."""
    async with destination(any_database, binary=request.param == "binary") as made:
        await made.conn.execute(
            b"""insert into public.users values (1, 'a'), (2, 'b'), (101, 'z');
                insert into public.orders values (10, 1, 'A'), (20, 1, 'B'), (900, 101, 'Z');
                insert into public.item values (10, 1, 'pen'), (10, 2, 'ink'), (20, 1, 'cup'), (900, 1, 'theirs')"""
        )
        yield made


async def test_rows_that_leave_take_along_what_hangs_from_them(shop: Destination) -> None:
    keys = [(await shop.delete("orders", id=n)).key for n in ("10", "900", "77")]
    lines = [(await shop.delete("item", order_id="10", line=n)).key for n in ("1", "2")]
    async with shop.apply() as apply:
        gone = await apply.leave(1, keys)
        assert {no: sorted(found) for no, found in gone.items()} == {1: keys[:1], 2: lines}
        assert await apply.leave(1, keys) == {}
        assert apply.position == 0
    assert await shop.rows("select order_id from public.item order by 1") == [(20,), (900,)]
    assert await shop.rows("select id from public.orders order by 1") == [(20,), (900,)]


async def test_transaction_in_parts_is_one_commit(shop: Destination) -> None:
    """With rows that leave in the middle; before the last part nobody sees anything of it."""
    before = shop.transaction(await shop.insert("users", id="3"))
    parts = shop.parts(
        [await shop.insert("users", id="4"), await shop.update("orders", id="20", user_id="2", no="'B'")], [],
        [await shop.insert("orders", id="30", user_id="1", no="'C'")],
    )  # fmt: skip
    behind = shop.transaction(await shop.update("orders", id="30", user_id="2", no="'D'"))
    async with shop.apply() as apply:
        await apply.finish([before, parts[0]])
        assert apply.position == before.position
        gone = await apply.leave(1, [(await shop.delete("orders", id="10")).key])
        assert [len(keys) for keys in gone.values()] == [2, 1]
        with pytest.raises(DomicileError) as caught:
            apply.compose([])
        assert caught.value.code is ErrorCode.PAUSE_BUDGET
        assert await shop.rows("select id from public.users where id < 100 order by 1") == [(1,), (2,), (3,)]
        assert await shop.stored_position() == before.position
        await apply.finish([*parts[1:], behind])
        assert apply.position == behind.position == await shop.stored_position()
    assert await shop.rows("select id, user_id, no from public.orders order by 1") == [
        (20, 2, "B"), (30, 2, "D"), (900, 101, "Z"),
    ]  # fmt: skip
    assert await shop.rows("select id from public.users where id < 100 order by 1") == [(1,), (2,), (3,), (4,)]


DEEP = """
create table users (id bigint primary key);
create table folder (id bigint primary key, user_id bigint not null references users, name text unique);
create table page (id bigint primary key, folder_id bigint not null references folder);
create table line (page_id bigint references page, no int, primary key (page_id, no));
create index on folder (user_id); create index on page (folder_id);
"""
DEEP_OWNED = {
    "public.folder": "user_id -> public.users(id)",
    "public.page": "folder_id -> public.folder(id)",
    "public.line": "page_id -> public.page(id)",
}
DEEP_ROWS = """insert into public.users values (1), (101);
    insert into public.folder values (10, 1, 'A'), (900, 101, 'Z');
    insert into public.page values (1, 10), (2, 10), (9, 900); insert into public.line values (1, 1), (2, 1), (9, 1)"""


@pytest.mark.parametrize("one_by_one", [True, False])
async def test_rows_leave_whose_parent_goes_in_the_same_transaction(database: str, one_by_one: bool) -> None:
    """Deletions of parents wait for the end, but not where another row takes one of their unique values."""
    name = "'A'" if one_by_one else "'B'"
    async with destination(database, DEEP, DEEP_OWNED) as deep:
        await deep.conn.execute(DEEP_ROWS.encode())
        parts = deep.parts(
            [
                await deep.insert("folder", id="11", user_id="1", name=name),
                await deep.update("page", id="2", folder_id="11"),
                await deep.delete("folder", id="10"),
            ],
            [],
        )
        if one_by_one:
            parts[0].changes.insert(0, parts[0].changes.pop())
        async with deep.apply() as apply:
            await apply.finish(parts[:1])
            gone = await apply.leave(2, [(await deep.delete("page", id=n)).key for n in ("1", "9")])
            assert {no: len(keys) for no, keys in gone.items()} == {2: 1, 3: 1}
            await apply.finish(parts[1:])
            assert apply.repeated == one_by_one
        assert await deep.rows("select id from public.folder order by 1") == [(11,), (900,)]
        assert await deep.rows("select id from public.page order by 1") == [(2,), (9,)]
        assert await deep.rows("select page_id from public.line order by 1") == [(2,), (9,)]


async def test_cascade_in_parts_parents_come_first(shop: Destination) -> None:
    parts = shop.parts(
        [await shop.delete("users", id="1"), *[await shop.delete("orders", id=n) for n in ("10", "20")]],
        [await shop.delete("item", order_id="10", line="1"), await shop.delete("item", order_id="20", line="1")],
        [await shop.delete("item", order_id="10", line="2"), await shop.insert("users", id="5")],
    )  # fmt: skip
    async with shop.apply() as apply:
        await apply.finish(parts)
        assert apply.repeated == 0
    assert await shop.rows("select id from public.users order by 1") == [(2,), (5,), (101,)]
    assert await shop.rows("select order_id from public.item") == [(900,)]


async def test_key_of_a_deleted_parent_comes_again_in_a_later_part(shop: Destination) -> None:
    parts = shop.parts(
        [await shop.delete("orders", id="10"), await shop.delete("item", order_id="10", line="1")],
        [await shop.delete("item", order_id="10", line="2")],
        [await shop.insert("orders", id="10", user_id="2", no="'A'", note="'again'")],
    )
    async with shop.apply() as apply:
        await apply.finish(parts)
    assert await shop.rows("select user_id, note from public.orders where id = 10") == [(2, "again")]


async def test_part_that_must_go_one_by_one(shop: Destination) -> None:
    parts = shop.parts(
        [await shop.insert("users", id="6")],
        [
            await shop.update("orders", id="10", user_id="1", no="'t'"),
            await shop.update("orders", id="20", user_id="1", no="'A'"),
            await shop.update("orders", id="10", user_id="1", no="'B'"),
        ],
        [await shop.insert("users", id="7")],
    )
    async with shop.apply() as apply:
        await apply.finish(parts)
        assert apply.repeated == 1
    assert await shop.rows("select id, no from public.orders where user_id = 1 order by 1") == [(10, "B"), (20, "A")]
    assert await shop.rows("select count(*) from public.users where id in (6, 7)") == [(2,)]


async def test_part_that_fails_takes_all_with_it(shop: Destination) -> None:
    parts = shop.parts([await shop.insert("users", id="6")], [await shop.delete("orders", id="900")])
    async with shop.apply() as apply:
        await apply.finish(parts[:1])
        with pytest.raises(DomicileError) as caught:
            await apply.finish(parts[1:])
        assert caught.value.code is ErrorCode.KEYS_COLLIDE
        with pytest.raises(DomicileError, match="row that is to be changed"):
            await apply.submit([shop.transaction()])
    assert await shop.rows("select count(*) from public.users where id = 6") == [(0,)]
    assert await shop.stored_position() is None


async def test_lease_is_held_from_the_first_part(shop: Destination) -> None:
    await shop.conn.execute(b"update domicile.move set generation = generation + 1")
    async with shop.apply() as apply:
        with pytest.raises(DomicileError) as caught:
            await apply.finish(shop.parts([await shop.insert("users", id="6")], []))
    assert caught.value.code is ErrorCode.LEASE_LOST


async def test_arrays_too_large_are_cut(shop: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domicile.stream.statements.ARRAY_BYTES_MAX", 300)
    await shop.carry_out(*[await shop.insert("users", id=str(1000 + n), email=f"'e{n}'") for n in range(50)])
    assert await shop.rows("select count(*), count(distinct email) from public.users where id >= 1000") == [(50, 50)]


@pytest.mark.parametrize("rows", [0, 300, 30_000])
async def test_rows_are_found_by_index_in_tables_never_analyzed(any_database: str, rows: int) -> None:
    """Otherwise each batch reads the table: hours instead of minutes."""
    async with destination(any_database) as here:
        await here.conn.execute(
            b"""alter table public.users set (autovacuum_enabled = off);
                alter table public.orders set (autovacuum_enabled = off);
                alter table public.item set (autovacuum_enabled = off);
                alter table domicile.member set (autovacuum_enabled = off)"""
        )
        await here.conn.execute(b"set session_replication_role = replica")
        await here.conn.execute("insert into public.orders select n, 1 + n %% 5 from generate_series(1, %s) n", (rows,))
        await here.conn.execute("insert into public.item select n, 1 from generate_series(1, %s) n", (rows,))
        await here.conn.execute(
            "insert into domicile.member select %s, n, 1000 + n from generate_series(10, %s) n", (WAVE, max(rows, 10))
        )
        item = await here.delete("item", order_id="1", line="1")
        keys: list[Key] = [item.key[:4] + n.to_bytes(8, "big") + item.key[12:] for n in range(1, 2001)]
        change = await here.update("item", order_id="1", line="1", what="'x'")
        async with await connect(here.conninfo, settings=SETTINGS) as conn:
            columns = await read_columns(conn, here.layout)
            table = TableStatements(Dml(here.layout.tables[2], columns[2], here.data_map, WAVE, True))
            for statement in (
                *table.delete_many(keys), *table.claim(keys),
                *table.update_many(None, [(k, change.fields) for k in keys]),
                table.delete(keys[0]), *table.update(keys[0], change.fields),
            ):  # fmt: skip
                for node in await plan(conn, statement):
                    assert node["Node Type"] not in ("Seq Scan", "Hash Join", "Merge Join"), statement.text
                    if node.get("Index Name") == "item_pkey" and rows:
                        assert "Index Cond" in node, "the whole index is read"
                    if node.get("Relation Name") == "member":
                        assert node["Index Name"] == "member_subject"
                        assert "Index Cond" in node


async def plan(conn: AsyncConnection[Any], statement: Statement) -> list[dict[str, Any]]:
    """The nodes of its plan."""
    cursor = AsyncRawCursor(conn)
    values = [None if v is None else Raw(v) for v in statement.values]
    await cursor.execute(b"explain (format json) " + statement.text, values)
    row = await cursor.fetchone()
    assert row is not None
    found: list[dict[str, Any]] = []
    left = [row[0][0]["Plan"]]
    while left:
        node = left.pop()
        found.append(node)
        left += node.get("Plans", [])
    return found
