"""The filter: from what the database says of everybody to what concerns the wave, on real streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from tests.stream.filtered import DDL, MAP, said
from tests.stream.wave import Wave, watched

from domicile.model.errors import DomicileError, ErrorCode
from domicile.stream.change import Marker, Transaction
from domicile.stream.filter import WaveFilter
from domicile.stream.index import load
from domicile.stream.seam import Seam


@pytest.fixture
async def shop(any_database: str, binary: bool) -> AsyncIterator[Wave]:
    async with watched(any_database, DDL, MAP, [1, 2], binary=binary) as wave:
        yield wave


async def test_insert_update_delete(shop: Wave) -> None:
    """Of the wave's rows each change, in the order of commits; of others nothing."""
    assert await said(
        shop,
        "insert into orders values (11, 1, 'a', 0), (81, 8, 'b', 0); insert into items values (110, 11), (810, 81)",
        "update orders set n = 1; update items set note = null",
        "delete from items where id in (110, 810)",
        "delete from users where id = 9",
    ) == [
        ["insert orders 11", "insert items 110"],
        ["update orders 10", "update orders 20", "update orders 11",
         "update items 100", "update items 200", "update items 110"],
        ["delete items 110"],
    ]  # fmt: skip


async def test_a_row_of_nobody_is_of_nobody(shop: Wave) -> None:
    """Without an owner a row is not the wave's, and one that loses it leaves."""
    assert await said(
        shop,
        "insert into orders values (11, null, 'a', 0); insert into items values (110, 11)",
        "update orders set user_id = null where id = 10",
        "update orders set user_id = 2 where id = 11",
    ) == [["leave orders 10"], ["enter orders 11"]]


async def test_update_of_a_primary_key(shop: Wave) -> None:
    """The old key comes with the new; what refers to it follows by its own cascade."""
    [transaction] = await replayed(shop, "update orders set id = id + 5 where id in (10, 80)")
    assert shop.shown([transaction]) == [["update orders 10 -> orders 15", "update items 100"]]
    assert shop.value(transaction.changes[1], "order_id") == "15"


async def test_a_row_that_comes_to_another_owner_leaves(shop: Wave) -> None:
    """With what hangs from it; and what happens to it from then on is not told."""
    assert await said(
        shop,
        "update orders set user_id = 8 where id = 10",
        "update orders set n = 5 where id = 10; update items set note = 'x' where id = 100",
        "insert into items values (101, 10)",
        "update items set order_id = 80 where id = 200",
    ) == [["leave orders 10"], ["delete items 200"]]
    assert shop.rows[2] == {}


async def test_a_row_of_another_owner_enters(shop: Wave) -> None:
    """With what hangs from it, and with its out-of-line value, which the stream did not send."""
    assert await said(
        shop,
        "insert into items values (801, 80)",
        "update orders set user_id = 1, n = 1 where id = 80",
        "update items set note = 'seen by the reading' where id = 800",
    ) == [["enter orders 80"]]
    assert await said(shop, "update items set note = 'later' where id = 801") == [["update items 801"]]
    assert len(shop.rows[2]) == 4


async def test_a_part_alone_enters(shop: Wave) -> None:
    """An item of another's order that is put into an order of the wave."""
    assert await said(shop, "update items set order_id = 10 where id in (800, 200)") == [
        ["update items 200", "enter items 800"]
    ]


async def test_what_enters_and_goes_again_in_one_transaction(shop: Wave) -> None:
    assert await said(
        shop,
        "begin; update orders set user_id = 1 where id = 80; update orders set user_id = 9 where id = 80; commit",
        "begin; update orders set user_id = 1 where id = 80; delete from orders where id = 80; commit",
        """begin; update orders set user_id = 1 where id = 90; update orders set id = 95 where id = 90;
           update orders set id = 96, n = 2 where id = 95; commit""",
    ) == [["enter orders 96"]]
    assert await said(shop, "update orders set user_id = 2, id = 97 where id = 96") == [
        ["update orders 96 -> orders 97", "update items 900"]
    ]
    assert await said(shop, "update items set order_id = 97, id = 101 where id = 100") == [
        ["update items 100 -> items 101"]
    ]


async def test_what_enters_under_a_new_key(shop: Wave) -> None:
    assert await said(shop, "update orders set user_id = 1, id = 85 where id = 80") == [["enter orders 85"]]


async def test_what_leaves_and_comes_back_in_one_transaction(shop: Wave) -> None:
    assert await said(
        shop, "begin; update orders set user_id = 8 where id = 10; update orders set user_id = 2 where id = 10; commit"
    ) == [["leave orders 10", "enter orders 10"]]


async def test_what_is_inserted_and_leaves_in_one_transaction(shop: Wave) -> None:
    assert await said(
        shop,
        """begin; insert into orders values (11, 1); insert into items values (110, 11);
           update orders set user_id = 8 where id = 11; insert into items values (111, 11); commit""",
    ) == [["insert orders 11", "insert items 110", "leave orders 11"]]


async def test_merged_users(shop: Wave) -> None:
    """Two of the wave; then one of the wave into another user, and the other way round."""
    assert await said(
        shop,
        "begin; update orders set user_id = 1 where user_id = 2; delete from users where id = 2; commit",
        "begin; update orders set user_id = 8 where user_id = 1; delete from users where id = 1; commit",
    ) == [["update orders 20", "delete users 2"], ["delete users 1", "leave orders 10", "leave orders 20"]]
    assert await said(shop, "insert into users values (1); update orders set user_id = 1 where id = 90") == [
        ["insert users 1", "enter orders 90"]
    ]


async def test_unchanged_out_of_line_values_are_left_out(shop: Wave) -> None:
    [transaction] = await replayed(shop, "update orders set n = 7 where id in (10, 80)")
    [change] = transaction.changes
    assert (shop.value(change, "big"), shop.value(change, "n")) == (None, "7")
    [transaction] = await replayed(shop, "update orders set big = repeat('y', 4000) where id in (10, 80)")
    assert shop.value(transaction.changes[0], "big") == "y" * 4000


async def test_cascades(shop: Wave) -> None:
    assert await said(shop, "delete from orders where id in (10, 80)") == [["delete orders 10", "delete items 100"]]


async def test_savepoints(shop: Wave) -> None:
    """What was rolled back is not told; all the rest is one transaction, with the number of the top one."""
    await shop.execute(
        """begin; savepoint a; insert into orders values (11, 1);
           savepoint b; insert into orders values (12, 1); rollback to b; insert into orders values (13, 1); commit"""
    )
    [transaction] = await shop.assert_equal()
    assert shop.shown([transaction]) == [["insert orders 11", "insert orders 13"]]
    async with shop.app.transaction():
        async with shop.app.transaction():
            await shop.execute("insert into orders values (14, 1)")
        [(xid, clock)] = await (
            await shop.app.execute("select pg_current_xact_id()::text::bigint, clock_timestamp()")
        ).fetchall()
    [transaction] = await shop.assert_equal()
    assert transaction.xid == xid % (1 << 32)
    assert abs(transaction.committed_at / 1e6 + 946_684_800 - clock.timestamp()) < 60


async def test_a_part_that_comes_before_the_whole(shop: Wave) -> None:
    """Constraints may be deferred: an item is inserted, or changed, before its order is; or the order takes another
    key, or is deleted and inserted anew, while its items stay."""
    assert await said(
        shop,
        """begin; set constraints all deferred; insert into items values (110, 11), (810, 81);
           insert into orders values (11, 1), (81, 8); commit""",
    ) == [["enter orders 11"]]
    assert await said(
        shop,
        """begin; set constraints all deferred; update items set order_id = 12 where id in (100, 800);
           insert into orders values (12, 1); commit""",
    ) == [["delete items 100", "enter orders 12"]]
    assert await said(
        shop,
        """begin; set constraints all deferred; update items set order_id = 29 where id in (200, 900);
           update orders set id = 29 where id = 20; commit""",
    ) == [["delete items 200", "leave orders 20", "enter orders 29"]]


UNDECLARED = DDL.replace("references orders on delete cascade on update cascade\n    deferrable", "")


async def test_a_key_that_passes_to_another_owner(any_database: str, binary: bool) -> None:
    """Deleted and inserted anew for another user, while its parts stay: into the wave and out of it."""
    async with watched(any_database, UNDECLARED, MAP, [1, 2], binary=binary) as shop:
        assert await said(
            shop, "begin; delete from orders where id = 80; insert into orders values (80, 1); commit"
        ) == [["enter orders 80"]]
        assert await said(
            shop, "begin; delete from orders where id = 10; insert into orders values (10, 8); commit"
        ) == [["leave orders 10"]]
        assert await said(
            shop, "begin; delete from orders where id = 20; insert into orders values (20, 1); commit"
        ) == [["delete orders 20", "insert orders 20"]]


async def test_keys_exchanged_between_owners(database: str) -> None:
    """Their parts stay where they are: so they have other owners now."""
    exchange = """begin; update orders set id = -1 where id = 80; update orders set id = 80 where id = 10;
                  update orders set id = 10 where id = -1; commit"""
    async with watched(database, UNDECLARED, MAP, [1, 2]) as shop:
        assert await said(shop, exchange) == [["leave orders 10", "enter orders 80"]]


async def test_a_key_given_to_another_owner_stops_the_wave(database: str) -> None:
    """What hangs from it at the destination could not be told apart any more."""
    async with watched(database, UNDECLARED, MAP, [1, 2]) as shop:
        await shop.execute(
            "begin; update orders set id = 15 where id = 10; update orders set id = 10 where id = 80; commit"
        )
        with pytest.raises(DomicileError) as caught:
            await shop.items()
        assert caught.value.code is ErrorCode.STREAM_UNCLEAR


async def test_a_key_taken_from_others_brings_what_hangs_from_it(database: str) -> None:
    async with watched(database, UNDECLARED, MAP, [1, 2]) as shop:
        assert await said(
            shop, "begin; update orders set id = -1 where id = 80; update orders set id = 80 where id = 10; commit"
        ) == [["leave orders 10", "enter orders 80"]]


async def test_a_key_changed_while_others_leave_stops_the_wave(database: str) -> None:
    async with watched(database, UNDECLARED, MAP, [1, 2]) as shop:
        await shop.execute(
            "begin; update orders set id = 15 where id = 10; update orders set user_id = 8 where id = 20; commit"
        )
        with pytest.raises(DomicileError) as caught:
            await shop.items()
        assert caught.value.code is ErrorCode.STREAM_UNCLEAR


async def replayed(wave: Wave, *statements: str) -> list[Transaction]:
    await wave.execute(*statements)
    return await wave.assert_equal()


# Rows read ahead of the stream: the transactions behind the one that brought them were over by then


COMES_IN = "update orders set user_id = 1 where id = 80"
BEHIND = {
    "comes": "insert into items values (1, 80, 'new')",
    "comes and changes": "insert into items values (1, 80, 'new'); update items set note = 'x' where id = 1",
    "comes and goes": "insert into items values (1, 80, 'new'); delete from items where id = 1",
    "goes": "delete from items where id = 800",
    "comes again": "delete from items where id = 800; insert into items values (800, 80, 'again')",
    "comes from the wave": "update items set order_id = 80 where id = 100",
    "comes again from the wave": "delete from items where id = 100; insert into items values (100, 80, 'again')",
    "comes again and changes": """delete from items where id = 100; insert into items values (100, 80, 'again');
        update items set note = 'x' where id = 100; delete from items where id = 100;
        insert into items values (100, 80, 'once more')""",
    "comes again from outside": """update items set order_id = 90 where id = 100;
        update items set order_id = 80 where id = 100""",
    "takes a key of the wave": """delete from items where id = 100; update items set id = 100 where id = 800;
        insert into items values (800, 80, 'after')""",
    "changes keys with one of the wave": """insert into items values (7, 10, 'ours');
        begin; set constraints all deferred; update items set id = 3 where id = 800;
        update items set id = 800, order_id = 80 where id = 100; update items set id = 100 where id = 3; commit""",
    "gives its key to one of the wave": """update items set id = 3 where id = 800;
        update items set id = 800, order_id = 80 where id = 100; insert into items values (100, 10, 'ours')""",
    "goes with its order": "delete from orders where id = 80; insert into orders values (80, 2)",
}


@pytest.mark.parametrize("opened_anew", [False, True])
@pytest.mark.parametrize("what", BEHIND)
async def test_what_happened_between_a_row_that_comes_in_and_its_reading(
    shop18: Wave, what: str, opened_anew: bool
) -> None:
    shop18.opened_anew = opened_anew
    script = BEHIND[what]
    apart = [script] if "begin" in script else script.split(";")
    await replayed(shop18, COMES_IN, *apart)
    await replayed(shop18, "update items set note = 'later'", "delete from orders where id in (10, 80)")


# Positions, the seam, markers


async def test_what_the_snapshot_sees_is_skipped(shop: Wave) -> None:
    """Before it, after it, and in progress while it is taken: visibility decides, not the order in the log."""
    dsn = shop.conn.info.dsn + f" password={shop.conn.info.password}"
    async with (
        await psycopg.AsyncConnection.connect(dsn) as early,
        await psycopg.AsyncConnection.connect(dsn) as late,
    ):
        await late.execute("insert into orders values (13, 1)")  # has a lower number than the next
        await early.execute("insert into orders values (11, 1)")
        await early.commit()
        [(seam,)] = await (await shop.conn.execute("select pg_current_snapshot()::text")).fetchall()
        shop.index = await load(shop.conn, shop.layout, MAP, 1)
        shop.filter = WaveFilter(shop.layout, MAP, shop.index, Seam.parse(seam), 0)
        shop.rows = await shop.of_wave()
        await late.commit()
        await shop.execute("insert into orders values (14, 1)")
    assert shop.shown(await shop.assert_equal()) == [["insert orders 13"], ["insert orders 14"]]


async def test_what_was_applied_before_is_skipped(shop: Wave) -> None:
    """After a crash: the slot says it all again, the index is read anew, and only what is missing is told."""
    await shop.execute(*(f"insert into orders values ({n}, 1)" for n in range(11, 16)))
    payloads = await shop.payloads()
    told = [item for item in shop.filter.feed(payloads) if isinstance(item, Transaction)]
    assert len(told) == 5
    assert [t.position for t in told] == sorted({t.position for t in told})
    assert shop.filter.position == told[-1].position
    for done in range(5):
        again = WaveFilter(shop.layout, MAP, shop.index, Seam(0, 0, frozenset()), told[done].position)
        left = [item.position for item in again.feed(payloads) if isinstance(item, Transaction)]
        assert left == [t.position for t in told[done + 1 :]]


async def test_position_and_pending_follow_everybodys_commits(shop18: Wave) -> None:
    await shop18.execute("insert into orders values (81, 8)", "insert into orders values (11, 1)")
    before = shop18.filter.position
    payloads = await shop18.payloads()
    seen = []
    for payload in payloads:
        items = list(shop18.filter.feed([payload]))
        seen.append((chr(payload[0]), shop18.filter.pending, shop18.filter.position > before, len(items)))
        before = shop18.filter.position
    assert seen == [
        ("B", True, False, 0), ("R", True, False, 0), ("I", True, False, 0), ("C", False, True, 0),
        ("B", True, False, 0), ("I", True, False, 0), ("C", False, True, 1),
    ]  # fmt: skip


async def test_markers(shop18: Wave) -> None:
    """One of ours comes behind everything committed before it, at its commit; others' are nothing."""
    await shop18.execute(
        "insert into orders values (11, 1)",
        "select pg_logical_emit_message(true, 'other', 'x'), pg_logical_emit_message(false, 'other', 'x')",
        "begin; select pg_logical_emit_message(true, 'domicile', 'a'); insert into orders values (12, 1); commit",
        "select pg_logical_emit_message(false, 'domicile', 'b')",
        "begin; select pg_logical_emit_message(true, 'domicile', 'c'); rollback",
        "insert into orders values (13, 1)",
    )
    items = await shop18.items()
    told = [item.content if isinstance(item, Marker) else shop18.shown([item])[0] for item in items]
    assert told == [["insert orders 11"], ["insert orders 12"], b"a", b"b", ["insert orders 13"]]
    assert items[2].position == items[1].position
    assert items[2].position <= items[3].position < items[4].position


async def test_a_large_transaction_comes_in_parts(database: str) -> None:
    async with watched(database, DDL, MAP, [1, 2], part_changes=10) as shop:
        await shop.execute(
            """begin; insert into orders select i, i % 2 * 7 + 1 from generate_series(1001, 1040) i;
               update orders set user_id = 1 where id = 80; update orders set user_id = 8 where id = 10; commit"""
        )
        parts = await shop.assert_equal()
        assert [(len(p.changes), p.last, len(p.enter), len(p.leave)) for p in parts] == [
            (10, False, 0, 0), (10, False, 0, 0), (0, True, 1, 1)
        ]  # fmt: skip
        assert len({p.xid for p in parts}) == 1
        assert parts[0].position < parts[-1].position == shop.filter.position


async def test_while_others_write(shop18: Wave) -> None:
    """A transaction of the wave between those of many others is found, whole."""
    dsn = shop18.conn.info.dsn + f" password={shop18.conn.info.password}"

    async def write(user: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            for n in range(20):
                await conn.execute("insert into orders values (%s, %s)", (1000 * user + n, user))
                await conn.execute("insert into items values (%s, %s)", (1000 * user + n, 1000 * user + n))
                await conn.commit()

    await asyncio.gather(*map(write, (1, 2, 8, 9, 8000, 9000)))
    transactions = await shop18.assert_equal()
    assert len(transactions) == 40
    assert all(len(t.changes) == 2 for t in transactions)
