"""After the drain nothing for the wave can commit; while it waits, nobody else waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
import time

import psycopg
import pytest
from tests.guard.kit import Guarded

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres import guard

HAMMERS = 6
ROUNDS = 6
STATE = "select sum(qty) from public.item where id <= 500"


async def test_it_waits_for_a_writer_from_before_and_for_nobody_else(shop: Guarded) -> None:
    await shop.arm()
    async with shop.writer() as before, shop.writer() as reader, shop.writer() as outsider:
        await before.run("update orders set note = 'before' where id = 20")
        await reader.run("select * from orders where id = 30 for update")
        await shop.mark("fenced")
        draining = asyncio.create_task(shop.drain())
        await asyncio.sleep(0.2)
        assert not draining.done()
        started = time.monotonic()
        for n in range(20):  # each takes its lock after the drain has looked
            await outsider.run(f"update orders set note = '{n}' where id = 120")
            await outsider.commit()
        assert time.monotonic() - started < 1.5
        await before.commit()
        report = await draining
        assert report.transactions >= 1
        assert report.seconds >= 0.2
    assert await shop.value("select note from public.orders where id = 20") == "before"


async def test_past_its_budget_it_names_the_blocker_and_nothing_is_lost(any_shop: Guarded) -> None:
    await any_shop.arm()
    async with any_shop.writer() as before:
        await before.run("update orders set note = 'secret' where id = 20")
        [blocker] = await guard.blockers(any_shop.conn, any_shop.tables)
        assert blocker.pid == before.conn.info.backend_pid
        assert blocker.application == "shop"
        await any_shop.mark("fenced")
        with pytest.raises(DomicileError) as caught:
            async with asyncio.timeout(5):
                await any_shop.drain(0.3)
        assert caught.value.code is ErrorCode.FENCE_BUDGET
        [named] = caught.value.facts["blockers"]  # type: ignore[misc]  # facts are plain JSON
        assert named["pid"] == before.conn.info.backend_pid
        assert named["application_name"] == "shop"
        assert named["transaction_age_s"] > 0
        assert "secret" not in str(caught.value.as_dict())
        await any_shop.mark("open")  # the step back
        await before.commit()
    assert await any_shop.value("select note from public.orders where id = 20") == "secret"


async def test_a_lock_taken_in_a_savepoint_counts_while_it_stands(shop: Guarded) -> None:
    await shop.arm()
    async with shop.writer() as before:
        await before.run("savepoint s; update orders set note = 'n' where id = 20; rollback to s")
        await shop.mark("fenced")
        assert (await shop.drain(1)).transactions == 0
        await before.refused("update orders set note = 'n' where id = 20", "DM002")


async def test_a_lock_on_a_partition_alone_counts(shop: Guarded) -> None:
    await shop.arm()
    async with shop.writer() as before:
        await before.run("insert into event_1 (user_id, at) values (2, '2025-02-02')")
        await shop.mark("fenced")
        with pytest.raises(DomicileError):
            await shop.drain(0.2)


async def test_a_prepared_transaction_is_refused_and_counted_not_waited_for(any_shop: Guarded) -> None:
    await any_shop.arm()
    async with any_shop.writer() as before:
        await before.run("update orders set note = 'n' where id = 20")
        await before.run("prepare transaction 'two-phase of mine'")
    await any_shop.mark("fenced")
    started = time.monotonic()
    with pytest.raises(DomicileError, match="1 of them prepared") as caught:
        await any_shop.drain(20)
    assert time.monotonic() - started < 5
    assert caught.value.facts["prepared"] == 1
    await any_shop.conn.execute("commit prepared 'two-phase of mine'")
    await any_shop.drain()


async def test_a_transaction_prepared_while_the_drain_waits_is_not_taken_for_ended(any_shop: Guarded) -> None:
    await any_shop.arm()
    await any_shop.conn.execute("update domicile.guarded set joins = 0")  # a second round would see it anew
    async with any_shop.writer() as before:
        await before.run("update orders set note = 'n' where id = 20")
        await any_shop.mark("fenced")
        draining = asyncio.create_task(any_shop.drain())
        await asyncio.sleep(0.1)
        await before.run("prepare transaction 'late'")
        with pytest.raises(DomicileError, match="prepared"):
            await draining
        await any_shop.conn.execute("rollback prepared 'late'")


@pytest.mark.parametrize("rounds", [1, 2])
async def test_an_owner_that_changes_under_a_lookup_takes_a_second_round(shop: Guarded, rounds: int) -> None:
    """The order goes to a member in a transaction from before the fence; meanwhile an item is added to the order, which
    the guard still sees as the outsider's. With one round only (the control) the item's writer outlives the drain."""
    if rounds == 1:
        await shop.conn.execute("update domicile.guarded set joins = 0")
    await shop.arm()
    async with shop.writer() as giver, shop.writer() as adder:
        await giver.run("update orders set user_id = 2 where id = 110")
        await shop.mark("fenced")
        draining = asyncio.create_task(shop.drain())
        await asyncio.sleep(0.2)
        await adder.run("insert into item values (1, 1, 110)")
        await giver.commit()
        await asyncio.sleep(0.4)
        assert draining.done() == (rounds == 1)
        await adder.commit()
        assert (await draining).rounds == rounds


@pytest.mark.parametrize("drained", [False, True])
async def test_nothing_commits_after_the_drain(any_shop: Guarded, drained: bool) -> None:
    """Negative control: without the drain, writers in flight do commit after the mark, and this test sees them."""
    await any_shop.arm()
    stop = asyncio.Event()
    done = [0] * HAMMERS
    hammers = [asyncio.create_task(_hammer(any_shop, n, stop, done)) for n in range(HAMMERS)]
    late = 0
    try:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.15)
            await any_shop.mark("fenced")
            if drained:
                await any_shop.drain()
            before = await any_shop.value(STATE)
            await asyncio.sleep(0.15)
            late += await any_shop.value(STATE) != before
            await any_shop.mark("open")
    finally:
        stop.set()
        await asyncio.gather(*hammers)
    assert sum(done) > ROUNDS
    assert (late == 0) == drained


async def _hammer(shop: Guarded, n: int, stop: asyncio.Event, done: list[int]) -> None:
    """Write for one member again and again, at a level of isolation of its own."""
    level = ("read committed", "repeatable read", "serializable")[n % 3]
    async with shop.writer(level) as writer:
        await writer.conn.rollback()
        while not stop.is_set():
            with suppress(psycopg.Error):
                await writer.run(f"update item set qty = qty + 1 where id = {100 * (n % 5 + 1)}")
                await asyncio.sleep(0.02)
                await writer.commit()
                done[n] += 1
                continue
            await writer.conn.rollback()
            await asyncio.sleep(0.005)
