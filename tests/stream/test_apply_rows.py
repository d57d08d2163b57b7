"""What the apply makes of many rows at once: rows that leave, transactions in parts, arrays cut, plans by index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor
import pytest
from tests.stream.destination import WAVE, Destination, destination

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.connect import connect
from domicile.stream.apply import SETTINGS
from domicile.stream.change import Key
from domicile.stream.dml import Dml, read_columns
from domicile.stream.params import Raw
from domicile.stream.pipeline import Statement
from domicile.stream.statements import TableStatements


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
