"""New rows that are read as they are by now: what is read and what stays in the stream, on real streams. Whatever was
done since, rows and index are in the end what the database says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.stream.filtered import DDL, MAP, said
from tests.stream.wave import Wave, data_map, watched

from domicile.model.datamap import DataMap
from domicile.stream.anew import AnewFilter

KEYLESS = """
create table marks (order_id int, note text); alter table marks replica identity full;
insert into marks values (10, 'first')"""
MARKED = data_map(
    "public.users",
    {
        "public.orders": "user_id -> public.users(id)",
        "public.items": "order_id -> public.orders(id)",
        "public.marks": "order_id -> public.orders(id)",
    },
)
CODED = """
create table users (id bigint primary key, name text);
create table orders (id bigint primary key, user_id bigint, code text not null unique);
create table items (id bigint primary key, code text not null);
insert into users select i, 'u' || i from unnest('{1,2,8}'::int[]) i;
insert into orders select 10 * i, i, 'c' || i from unnest('{1,2,8}'::int[]) i;
insert into items select 100 * i, 'c' || i from unnest('{1,2,8}'::int[]) i"""
BY_CODE = data_map(
    "public.users",
    {"public.orders": "user_id -> public.users(id)", "public.items": "code -> public.orders(code)"},
)
GIVEN_ON = "update orders set user_id = 8 where id = 11"


@asynccontextmanager
async def behind(
    conninfo: str, ddl: str = DDL, mapped: DataMap = MAP, part_changes: int = 20_000
) -> AsyncIterator[Wave]:
    async with watched(conninfo, ddl, mapped, [1, 2]) as wave:
        wave.filter = AnewFilter(wave.layout, mapped, wave.index, wave.seam, 0, part_changes=part_changes)
        yield wave


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Wave]:
    async with behind(database) as wave:
        yield wave


async def test_new_rows_are_read_and_the_others_are_as_ever(shop: Wave) -> None:
    assert await said(
        shop,
        "begin; insert into orders values (11, 1), (81, 8); insert into items values (110, 11), (810, 81); commit",
        "begin; insert into orders values (12, 2); update orders set n = 1 where id in (10, 12); commit",
        "delete from items where id in (100, 110)",
    ) == [
        ["enter orders 11", "enter items 110"],
        ["update orders 10", "enter orders 12"],
        ["delete items 100"],
    ]  # fmt: skip


async def test_a_new_row_under_another_key_or_gone_by_the_end(shop: Wave) -> None:
    assert await said(
        shop,
        "begin; insert into orders values (11, 1); update orders set id = 12 where id = 11; commit",
        "begin; insert into orders values (13, 1); update orders set id = 14 where id = 13;"
        " delete from orders where id = 14; commit",
        "begin; delete from orders where id = 20; insert into orders values (20, 1); commit",
    ) == [["enter orders 12"], [], ["delete orders 20", "delete items 200", "insert orders 20"]]


async def test_what_went_on_to_another_owner_never_comes(shop: Wave) -> None:
    """The one for which it is done: the row may be in the way at the destination, and need not be there."""
    assert await said(
        shop, "begin; insert into orders values (11, 1); insert into items values (110, 11); commit", GIVEN_ON
    ) == [["enter orders 11", "enter items 110"]]


async def test_parts_of_a_large_transaction_stay_in_the_stream(database: str) -> None:
    """Reading commits what comes with it: half a transaction."""
    async with behind(database, part_changes=10) as shop:
        await shop.execute("insert into orders select i, 1 from generate_series(1001, 1025) i")
        parts = await shop.assert_equal()
        assert [(len(p.changes), p.last, len(p.enter)) for p in parts] == [
            (10, False, 0), (10, False, 0), (5, True, 0)
        ]  # fmt: skip
        assert await said(shop, "insert into orders values (11, 1)") == [["enter orders 11"]], "the next is read again"


async def test_what_hangs_from_a_new_row_goes_on_with_it(shop: Wave) -> None:
    """A row of the wave came to hang from a new one, with which it has left: it must not stay behind."""
    assert await said(
        shop,
        "begin; insert into orders values (11, 1); update items set order_id = 11 where id = 100; commit",
        GIVEN_ON,
    ) == [["insert orders 11", "update items 100"], ["leave orders 11"]]


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("delete from orders where id = 10", "delete orders 10"),
        ("update orders set id = 19 where id = 10", "update orders 10 -> orders 19"),
    ],
)  # fmt: skip
async def test_what_hung_from_a_key_that_a_new_row_takes_goes_on_with_it(database: str, gone: str, told: str) -> None:
    """No change says that the item hangs from the new order."""
    async with behind(database, DDL + "alter table items drop constraint items_order_id_fkey") as shop:
        assert await said(
            shop,
            f"begin; {gone}; insert into orders values (10, 1); commit",
            "update orders set user_id = 8 where id = 10",
        ) == [[told, "insert orders 10"], ["leave orders 10"]]


async def test_what_hung_from_a_value_that_a_new_row_takes_goes_on_with_it(database: str) -> None:
    """Not by the key: of the row that had it before, the stream says the key alone."""
    async with behind(database, CODED, BY_CODE) as shop:
        assert await said(
            shop,
            "begin; delete from orders where id = 10; insert into orders values (11, 1, 'c1'); commit",
            "update orders set user_id = 8 where id = 11",
        ) == [["delete orders 10", "insert orders 11"], ["leave orders 11"]]


async def test_a_row_from_which_nothing_hangs_is_read_under_the_key_that_it_had(shop: Wave) -> None:
    again = "begin; delete from items where id = 100; insert into items values (100, 10); commit"
    assert await said(shop, again) == [["delete items 100", "enter items 100"]]


async def test_rows_without_a_key_that_hang_from_a_new_one_go_on_with_it(database: str) -> None:
    async with behind(database, DDL + KEYLESS, MARKED) as shop:
        await shop.execute(
            "begin; insert into orders values (11, 1); insert into marks values (11, 'new'), (10, 'new'); commit",
            GIVEN_ON,
            "insert into marks values (20, 'new')",
        )
        told = [(len(t.changes), len(t.enter), len(t.leave)) for t in await shop.assert_equal()]
        assert told == [(3, 0, 0), (0, 0, 1), (1, 0, 0)]
