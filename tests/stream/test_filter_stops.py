"""The filter stops the wave where it would have to guess, and not where a table only looks odd."""

from __future__ import annotations

import pytest
from tests.stream.filtered import DDL, MAP, said
from tests.stream.wave import Wave, data_map, watched

from domicile.model.errors import DomicileError, ErrorCode
from domicile.stream.filter import WaveFilter
from domicile.stream.index import load
from domicile.stream.seam import Seam

_BY_INDEX = """create unique index i on orders (n, id); alter table orders alter n set not null;
    alter table orders replica identity using index i"""
_OTHER_KEY = """alter table items drop constraint items_order_id_fkey; alter table orders drop constraint orders_pkey;
    alter table orders add primary key (id, n)"""
_RENAMED = "alter table orders rename to purchases; create view orders as table purchases"
_ELSEWHERE = "create schema s; alter table orders set schema s; create view orders as table s.orders"
STOPS = {
    "a column added": ("alter table orders add extra int", ErrorCode.SCHEMA_CHANGED),
    "a column dropped": ("alter table orders drop big", ErrorCode.SCHEMA_CHANGED),
    "a column renamed": ("alter table orders rename big to large", ErrorCode.SCHEMA_CHANGED),
    "another name": (_RENAMED, ErrorCode.SCHEMA_CHANGED),
    "another schema": (_ELSEWHERE, ErrorCode.SCHEMA_CHANGED),
    "replica identity full": ("alter table orders replica identity full", ErrorCode.SCHEMA_CHANGED),
    "replica identity by another index": (_BY_INDEX, ErrorCode.SCHEMA_CHANGED),
    "another primary key": (_OTHER_KEY, ErrorCode.SCHEMA_CHANGED),
    "truncate": ("truncate orders cascade", ErrorCode.STREAM_TRUNCATED),
    "truncate of all": ("truncate users, orders, items", ErrorCode.STREAM_TRUNCATED),
}


@pytest.mark.parametrize("described_before", [True, False])
@pytest.mark.parametrize("what", STOPS)
async def test_stops(database: str, what: str, described_before: bool) -> None:
    """Nothing is guessed, whether the stream had described the table before or not."""
    ddl, code = STOPS[what]
    async with watched(database, DDL, MAP, [1, 2]) as shop:
        if described_before:
            await shop.execute("insert into orders values (11, 1, 'x', 1)")
            assert len(await shop.items()) == 1
        await shop.execute(ddl, "insert into orders (id, user_id, n) select 81, 8, 3")
        with pytest.raises(DomicileError) as caught:
            await shop.items()
        assert caught.value.code is code


async def test_another_type_of_a_column_stops(shop18: Wave) -> None:
    await shop18.execute("insert into orders values (11, 1, 'x', 1)")
    assert len(await shop18.items()) == 1
    await shop18.execute("alter table orders alter n type bigint", "insert into orders values (81, 8)")
    with pytest.raises(DomicileError, match=r"public\.orders changed under the stream") as caught:
        await shop18.items()
    assert caught.value.code is ErrorCode.SCHEMA_CHANGED


async def test_truncated_before_the_snapshot_is_nothing(shop18: Wave) -> None:
    await shop18.execute("truncate items")
    [(seam,)] = await (await shop18.conn.execute("select pg_current_snapshot()::text")).fetchall()
    shop18.index = await load(shop18.conn, shop18.layout, MAP, 1)
    shop18.filter = WaveFilter(shop18.layout, MAP, shop18.index, Seam.parse(seam), 0)
    assert await shop18.items() == []


async def test_dropped_and_added_columns_before_the_plan(any_database: str, binary: bool) -> None:
    """Columns that are gone leave no gap; those that are computed are not told."""
    ddl = """
        create table users (gone int, id bigint primary key, twice bigint generated always as (id * 2) stored, n int);
        alter table users drop gone; alter table users add name text; insert into users (id) values (1), (8)"""
    async with watched(any_database, ddl, data_map("public.users", {}), [1, 2], binary=binary) as wave:
        assert wave.layout.tables[0].columns == ("id", "n", "name")
        assert await said(wave, "update users set name = 'x'", "insert into users (id, name) values (2, 'z')") == [
            ["update users 1"], ["insert users 2"]
        ]  # fmt: skip


async def test_another_order_of_columns(any_database: str, binary: bool) -> None:
    """A plan made at the other site, whose columns stand in another order."""
    order = {"public.users": ["name", "id"], "public.orders": ["n", "big", "user_id", "id"]}
    async with watched(any_database, DDL, MAP, [1, 2], binary=binary, order=order) as shop:
        assert await said(
            shop,
            "insert into orders values (11, 1, 'a', 3), (81, 8, 'a', 3)",
            "update orders set n = 4, id = 12 where id = 11",
            "delete from orders where id in (12, 81)",
        ) == [["insert orders 11"], ["update orders 11 -> orders 12"], ["delete orders 12"]]
