"""Rows that come into a closing wave by another row of theirs: whoever wrote them had asked for another owner.

The writer of an item asks whose order it is. If the order is given to a member meanwhile, he holds no lock of the wave,
and the mover must drain once more before the departure. Above READ COMMITTED the old answer is given even later.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.guard.kit import OWNED, SHOP, Guarded, data_map, depart, guarded

from domicile.model.errors import DomicileError, ErrorCode

GIVE = "update orders set user_id = 2 where id = 110"
ITEM = "insert into item values (1, 1, 110)"
ITEMS = "select count(*) from public.item where order_id = 110"
OLD_SNAPSHOTS = ("repeatable read", "serializable")


async def one_has_entered(shop: Guarded, entered: int) -> None:
    """The lock is refused to who counted one less."""
    with pytest.raises(DomicileError) as caught:
        async with shop.locked(entered):
            pass
    assert caught.value.code is ErrorCode.FENCE_BUDGET
    assert caught.value.facts["entered"] == 1


@pytest.mark.parametrize("counted", [True, False])
async def test_the_mover_drains_again_when_an_order_was_given_to_a_member(any_shop: Guarded, counted: bool) -> None:
    """In the control nobody counts: the item is committed after its owner's departure."""
    shop = any_shop
    if not counted:
        await shop.rewrite("guard_ask", "perform pg_catalog.nextval('domicile.entered'::pg_catalog.regclass);", "null;")
    entered = await shop.close()
    async with shop.writer() as giver, shop.writer() as adder:
        await giver.run(GIVE)
        await adder.run(ITEM)  # sees the outsider's order
        await giver.commit()
        if not counted:
            async with shop.locked(entered) as lock:
                await depart(lock)
            await adder.commit()
            assert await shop.value(ITEMS) == 2
            return
        await one_has_entered(shop, entered)
        draining = asyncio.create_task(shop.drain())
        await asyncio.sleep(0.2)
        assert not draining.done()
        await adder.commit()
        async with shop.locked((await draining).entered) as lock:
            assert await shop.value(ITEMS) == 2
            await depart(lock)
        await adder.refused("insert into item values (2, 1, 110)", "DM001")


COUNTED = {
    "order given": (GIVE, 1),
    "address named": ("update users set address_id = 12 where id = 2", 1),
    "order's key": ("update orders set id = 21 where id = 20", 1),
    "within the wave": ("update orders set user_id = 3 where id = 20", 0),  # its items' writers hold the wave's lock
    "order taken away": ("update orders set user_id = 12 where id = 20", 0),
    "order made": ("insert into orders values (1, '', 2)", 0),  # a foreign key demands it before its items
    "event made": ("insert into event values (2, '2025-07-01', 'c')", 0),  # partitioned; nothing hangs from events
    "order changed": ("update orders set note = 'n' where id = 20", 0),
    "user changed": ("update users set name = 'n' where id = 2", 0),
    "item moved": ("update item set order_id = 20 where id = 1100", 0),  # nothing hangs from items
    "order deleted": ("delete from orders where id = 20", 0),
    "an outsider's order": ("update orders set user_id = 13 where id = 120", 0),
}


@pytest.mark.parametrize("case", COUNTED)
async def test_only_what_may_bring_other_rows_is_counted(shop: Guarded, case: str) -> None:
    statement, count = COUNTED[case]
    await shop.conn.execute("update public.users set address_id = null where id = 3")
    entered = await shop.close()
    async with shop.writer() as writer:
        await writer.run("update users set name = 'n' where id = 3")  # null stays null: no address comes
        await writer.run(statement)
        await writer.commit()
    assert (await shop.drain()).entered - entered == count


async def test_a_writer_who_saw_the_owner_before_is_waited_for_when_both_are_of_the_wave(any_shop: Guarded) -> None:
    shop = any_shop
    entered = await shop.close()
    async with shop.writer() as giver, shop.writer() as adder:
        await giver.run("update orders set user_id = 3 where id = 20")
        await adder.run("insert into item values (1, 1, 20)")  # sees whose it was
        await giver.commit()
        with pytest.raises(DomicileError) as caught:
            async with shop.locked(entered, timeout_ms=100):
                pass
        assert caught.value.code is ErrorCode.FENCE_BUDGET
        assert "entered" not in caught.value.facts
        await adder.commit()
        async with shop.locked(entered) as lock:
            await depart(lock)


NESTED = """
create table users (id bigint primary key);
create table box (id bigint primary key, user_id bigint not null references users);
create table part (id bigint primary key, box_id bigint not null references box);
create table piece (id bigint primary key, part_id bigint not null references part);
insert into users select generate_series(1, 20);
insert into box select g * 10, g from generate_series(1, 20) as g;
insert into part select g * 10, g * 10 from generate_series(1, 20) as g"""
NESTED_OWNED = {
    "public.box": "user_id -> public.users(id)",
    "public.part": "box_id -> public.box(id)",
    "public.piece": "part_id -> public.part(id)",
}


@pytest.mark.parametrize("level", ["read committed", *OLD_SNAPSHOTS])
async def test_an_owner_found_through_another_row_may_be_another_s_by_now(database: str, level: str) -> None:
    """The part passes from one member's box to another's, but the first box has been given away meanwhile: who adds a
    piece finds the outsider, and holds no lock of the wave."""
    async with guarded(database, NESTED, data_map("public.users", NESTED_OWNED)) as shop:
        entered = await shop.close()
        async with shop.writer(level) as mover, shop.writer() as giver, shop.writer() as adder:
            if level == "read committed":
                await mover.run("update part set box_id = 20 where id = 10")
            await giver.run("update box set user_id = 12 where id = 10")
            await giver.commit()
            if level != "read committed":  # it sees the box as it was
                await mover.run("update part set box_id = 20 where id = 10")
            await adder.run("insert into piece values (1, 10)")
            await mover.commit()
            await one_has_entered(shop, entered)
            await adder.commit()
            async with shop.locked((await shop.drain()).entered) as lock:
                assert await shop.value("select count(*) from public.piece") == 1
                await depart(lock)


async def test_an_order_made_counts_where_its_items_may_be_there_before_it(database: str) -> None:
    ddl = SHOP.replace(
        "order_id bigint references orders on delete cascade on update cascade",
        "order_id bigint references orders deferrable initially deferred",
    )
    async with guarded(database, ddl, data_map("public.users", OWNED)) as shop:
        entered = await shop.close()
        async with shop.writer() as adder, shop.writer() as maker:
            await adder.run("insert into item values (1, 1, 5)")
            await maker.run("insert into orders values (5, '', 2)")
            await maker.commit()
            await one_has_entered(shop, entered)  # only the order: such items may come by the dozen
            await adder.commit()
            async with shop.locked((await shop.drain()).entered) as lock:
                await depart(lock)


async def test_an_order_made_counts_where_items_may_be_left_of_one_that_is_gone(database: str) -> None:
    """A foreign key that nobody has validated asks of new items only: an old one waits for the order with its number,
    and whoever makes it brings the item along."""
    ddl = SHOP.replace(
        " references orders on delete cascade on update cascade);\ncreate table event", ");\ncreate table event"
    )
    assert ddl != SHOP
    ddl += """
insert into item values (1, 1, 5);
alter table item add foreign key (order_id) references orders not valid;"""
    async with guarded(database, ddl, data_map("public.users", OWNED)) as shop:
        entered = await shop.close()
        async with shop.writer() as maker:
            await maker.run("insert into orders values (5, '', 2)")
            await maker.commit()
            await one_has_entered(shop, entered)
            async with shop.locked((await shop.drain()).entered) as lock:
                await depart(lock)


@pytest.mark.parametrize("level", OLD_SNAPSHOTS)
async def test_an_order_made_counts_where_its_key_is_asked_with_a_newer_snapshot(database: str, level: str) -> None:
    """A partitioned table's: an old transaction does not see the order, so the guard finds nobody, and yet the foreign
    key lets the item pass."""
    ddl = SHOP.replace(
        "user_id bigint references users on delete cascade on update cascade);\ncreate table item",
        "user_id bigint references users on delete cascade on update cascade) partition by range (id);\n"
        "create table orders_1 partition of orders for values from (0) to (1000);\ncreate table item",
    )
    assert "orders_1" in ddl
    async with guarded(database, ddl, data_map("public.users", OWNED)) as shop:
        entered = await shop.close()
        async with shop.writer() as maker, shop.writer(level) as adder:
            await maker.run("insert into orders (id, user_id) values (21, 2)")
            await maker.commit()
            await one_has_entered(shop, entered)
            async with shop.locked((await shop.drain()).entered) as lock:
                await adder.refused("insert into item (id, order_id) values (555, 21)", "40001")
                await depart(lock)
        assert await shop.value("select count(*) from public.item where order_id = 21") == 0


UNSEEN = {
    "item made": "insert into item (id, order_id) values (555, 21)",
    "item moved": "update item set id = 555, order_id = 21 where id = 1100",
}


@pytest.mark.parametrize("how", UNSEEN)
@pytest.mark.parametrize("counted", [True, False])
async def test_a_row_below_one_that_nobody_sees_yet_is_counted(any_shop: Guarded, how: str, counted: bool) -> None:
    """Its writer finds no owner, waits for a key of its own, and passes the foreign key once the order is committed.
    In the control nobody counts: the item is committed after its owner's departure."""
    shop = any_shop
    if not counted:
        item = await shop.value("select 'guard_' || 'public.item'::regclass::oid")
        text = "perform pg_catalog.nextval('domicile.entered'::pg_catalog.regclass);"
        await shop.rewrite(item, text, "null;", times=2)
    entered = await shop.close()
    async with shop.writer() as maker, shop.writer() as other, shop.writer() as adder:
        await maker.run("insert into orders (id, user_id) values (21, 2)")  # holds the wave's lock
        await other.run("insert into item (id, order_id) values (555, 190)")
        adding = asyncio.create_task(adder.run(UNSEEN[how]))
        await asyncio.sleep(0.2)
        assert not adding.done()
        await maker.commit()
        await other.conn.rollback()
        await adding
        if not counted:
            async with shop.locked(entered) as lock:
                await depart(lock)
            await adder.commit()
            assert await shop.value("select count(*) from public.item where order_id = 21") == 1
            return
        await one_has_entered(shop, entered)
        draining = asyncio.create_task(shop.drain())
        await asyncio.sleep(0.2)
        assert not draining.done()
        await adder.commit()
        async with shop.locked((await draining).entered) as lock:
            await depart(lock)


@pytest.mark.parametrize("mark", ["fenced", "closing"])
@pytest.mark.parametrize("level", OLD_SNAPSHOTS)
@pytest.mark.parametrize("raised", [True, False])
async def test_a_snapshot_from_before_the_gift_is_too_old_after_the_drain(
    any_shop: Guarded, mark: str, level: str, raised: bool
) -> None:
    """Its snapshot has seen the mark, and the order still the outsider's. In the control the drain puts up no fence
    before its second round: the item comes after it."""
    shop = any_shop
    await shop.arm()
    async with shop.writer() as giver, shop.writer(level) as adder:
        await giver.run(GIVE)
        await shop.mark(mark)
        await adder.conn.rollback()
        await adder.run("select 1 from pg_catalog.pg_class limit 1")
        await giver.commit()
        if not raised:
            await shop.conn.execute(
                "create or replace function domicile.raise_fence() returns void language plpgsql as 'begin end'"
            )
        await shop.drain()
        if raised:
            await adder.refused(ITEM, "40001")
        else:
            await adder.run(ITEM)
            await adder.commit()
            assert await shop.holders() == []
    assert await shop.value(ITEMS) == (1 if raised else 2)
