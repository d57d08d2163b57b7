"""The departure: behind whatever was acknowledged, on disk, by the wave's mover alone; or it has not taken place."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from decimal import Decimal

import psycopg
import pytest
from tests.guard.kit import MARK, THERE, Guarded, depart, reopen, value

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId
from domicile.postgres import wave_lock
from domicile.postgres.connect import SESSION, connect

WRITERS = 20
CLOSINGS = 30
CONTROL_CLOSINGS = 12
STATE = "select sum(qty) from public.item where id between 2001 and 2100"


async def test_the_departure_is_one_commit_behind_all_writes_of_the_wave(any_shop: Guarded) -> None:
    conn = any_shop.conn
    if await any_shop.value("show wal_level") != "logical":
        pytest.skip("the servers do not decode their log")
    await conn.execute("create publication p for all tables")
    await conn.execute("select pg_create_logical_replication_slot('s' || pg_backend_pid(), 'pgoutput')")
    async with any_shop.writer() as writer:
        await writer.run("set synchronous_commit = off")
        entered = await any_shop.close()
        await writer.run("update orders set note = 'n' where id = 20")
        await writer.commit()
        async with any_shop.locked(entered) as lock:
            position = await depart(lock)
    cursor = await conn.execute(
        "select (lsn - '0/0')::bigint, data from pg_logical_slot_get_binary_changes('s' || pg_backend_pid(), null,"
        " null, 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')"
    )
    rows = [(at, bytes(data)) for at, data in await cursor.fetchall()]
    kinds = [data[:1] for _, data in rows]
    [message] = [n for n, kind in enumerate(kinds) if kind == b"M"]
    assert rows[message][1].endswith(b"domicile\0" + (8).to_bytes(4, "big") + b"departed")
    # Log position of the commit record's end, in the third field of 'C'.
    commits = [int.from_bytes(data[10:18], "big") for _, data in rows if data[:1] == b"C"]
    assert all(at < position for at in commits[:-1])
    assert commits[-1] > position
    assert b"U" in kinds[:message]
    assert kinds[message + 1 :].count(b"C") == 1


async def test_a_mover_who_was_taken_over_departs_nothing(any_shop: Guarded) -> None:
    entered = await any_shop.close()
    await any_shop.conn.execute("update domicile.move set generation = 1")
    async with any_shop.locked(entered) as lock:
        with pytest.raises(DomicileError) as caught:
            await depart(lock)
        assert caught.value.code is ErrorCode.LEASE_LOST
        with pytest.raises(DomicileError, match="another process"):
            await reopen(lock)
        assert await any_shop.value(MARK) == "closing"
        await lock.depart(MoveId("m1"), 1, THERE, 4, b"")
    assert await any_shop.value(MARK) == "departed"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_who_has_seen_a_departure_that_is_undone_must_look_again(shop: Guarded, level: str) -> None:
    """His snapshot would send him to a home that it never became."""
    entered = await shop.close()
    async with shop.locked(entered) as lock:
        await depart(lock)
        async with shop.writer(level) as writer:
            await reopen(lock)
            await writer.refused("update orders set note = 'n' where id = 20", "40001")
            await writer.run("update orders set note = 'n' where id = 20")
            await writer.commit()


async def test_the_departure_is_on_disk_where_commits_are_not(shop: Guarded) -> None:
    """Other commits of the session are not: the first is the control."""
    entered = await shop.close()
    unflushed = "select pg_catalog.pg_current_wal_insert_lsn() > pg_catalog.pg_current_wal_flush_lsn()"
    async with shop.locked(entered) as lock:
        await lock.conn.execute("set synchronous_commit = off")
        behind = []
        for _ in range(20):
            await lock.conn.execute("update public.outside set id = id where id = 1")
            behind.append(await value(lock.conn, unflushed))
        assert any(behind)
        for _ in range(5):
            position = await depart(lock)
            flushed = await value(lock.conn, "select pg_catalog.pg_current_wal_flush_lsn() - '0/0'::pg_lsn")
            assert isinstance(flushed, Decimal)
            assert flushed > position
            await lock.conn.execute("update domicile.wave set mark = 'closing'")


async def test_only_a_closing_wave_departs(shop: Guarded) -> None:
    entered = await shop.close()
    async with shop.locked(entered) as lock:
        await reopen(lock)
        await reopen(lock)
        with pytest.raises(psycopg.errors.RaiseException, match="is open, and not"):
            await depart(lock)
        assert lock.conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert await shop.value(MARK) == "open"


async def test_a_resident_wave_is_closed_and_reopened_too(shop: Guarded) -> None:
    await shop.arm()
    await shop.mark("resident")
    async with shop.locked(await shop.close()) as lock:
        await depart(lock)
        await reopen(lock, "resident")
    async with shop.writer() as writer:
        await writer.run("update orders set note = 'n' where id = 20")
        await writer.commit()


async def test_the_departure_waits_for_no_work_on_the_guard(shop: Guarded) -> None:
    """Another move's installing and arming hold the guard's lock for as long as they take."""
    entered = await shop.close()
    async with await connect(shop.conninfo, settings=SESSION) as other, other.transaction():
        await other.execute("select pg_catalog.pg_advisory_xact_lock(7237123425614523493)")
        async with shop.locked(entered) as lock:
            await asyncio.wait_for(depart(lock), 1)
            await asyncio.wait_for(reopen(lock), 1)


async def test_a_departure_that_cannot_be_written_in_time_is_given_up(shop: Guarded) -> None:
    entered = await shop.close()
    async with await connect(shop.conninfo, settings=SESSION) as other:
        async with shop.locked(entered, 100) as lock:
            async with other.transaction():
                await other.execute("select from domicile.move for update")
                with pytest.raises(DomicileError) as caught:
                    await depart(lock)
            assert caught.value.code is ErrorCode.FENCE_BUDGET
            assert await shop.value(MARK) == "closing"
            await depart(lock)


async def test_a_departure_that_fails_at_its_commit_is_not_taken_for_done(any_shop: Guarded) -> None:
    """The fence is written by a trigger at the commit, behind the statement's own answer."""
    async with any_shop.locked(await any_shop.close()) as lock:
        await lock.conn.execute("set default_transaction_isolation = 'repeatable read'")
        with pytest.raises(psycopg.errors.RaiseException, match="READ COMMITTED only"):
            await depart(lock)
        assert await any_shop.value(MARK) == "closing"


@pytest.mark.parametrize("drained", [True, False])
async def test_the_lock_alone_does_not_wait_for_a_writer_from_before_the_closing(
    any_shop: Guarded, drained: bool
) -> None:
    """The control leaves the drain out: the writer commits after the departure."""
    await any_shop.arm()
    async with any_shop.writer() as before:
        await before.run("update item set qty = 7 where id = 200")
        await any_shop.mark("closing")
        if drained:
            with pytest.raises(DomicileError):
                await any_shop.drain(0.1)
            return
        async with any_shop.locked(0) as lock:
            await depart(lock)
        assert await any_shop.value("select qty from public.item where id = 200") == 1
        await before.commit()
    assert await any_shop.value("select qty from public.item where id = 200") == 7


@pytest.mark.parametrize("locked", [True, False])
async def test_every_acknowledged_commit_is_before_the_departure(any_shop: Guarded, locked: bool) -> None:
    """Twenty writers of all levels, closing after closing. In the control they take no lock: late commits are seen."""
    shop = any_shop
    await shop.conn.execute(
        "insert into public.item select 2001 + n, 0, 10 * (1 + n %% 5) from generate_series(0, %s) n", (WRITERS - 1,)
    )
    await shop.arm()
    if not locked:
        await shop.rewrite("guard_ask", "perform pg_catalog.pg_advisory_xact_lock_shared(", "perform concat(")
    stop = asyncio.Event()
    done = [0] * WRITERS
    writers = [asyncio.create_task(_write(shop, n, stop, done)) for n in range(WRITERS)]
    closed = late = 0
    conn = await connect(shop.conninfo, settings=SESSION)
    try:
        for _ in range(CLOSINGS if locked else CONTROL_CLOSINGS):
            await asyncio.sleep(0.05)
            await shop.mark("closing")
            entered = (await shop.drain(20)).entered
            with suppress(DomicileError):  # a writer who was not done in time
                late += await _close_once(shop, conn, entered)
                closed += 1
            await shop.mark("open")
    finally:
        stop.set()
        await asyncio.gather(*writers)
        await conn.close()
    assert closed > CONTROL_CLOSINGS // 2
    assert sum(done) > 100
    assert (late == 0) == locked
    assert await shop.value(STATE) == sum(done)  # what was acknowledged is there, what was refused is not


async def _close_once(shop: Guarded, conn: psycopg.AsyncConnection, entered: int) -> int:
    """Depart, and look whether anything of the wave changes: under the lock, and after it."""
    held = wave_lock.hold(conn, shop.wave, entered=entered, timeout_ms=2000, dead_man_ms=60_000)
    async with held as lock:
        await depart(lock)
        before = await shop.value(STATE)
        await asyncio.sleep(0.05)
        late = int(await shop.value(STATE) != before)
    await asyncio.sleep(0.03)
    return late + int(await shop.value(STATE) != before)


async def _write(shop: Guarded, n: int, stop: asyncio.Event, done: list[int]) -> None:
    """Write for one member again and again, at a level of isolation of its own."""
    level = ("read committed", "repeatable read", "serializable")[n % 3]
    async with shop.writer(level) as writer:
        await writer.conn.rollback()
        while not stop.is_set():
            try:
                await writer.run(f"update item set qty = qty + 1 where id = {2001 + n}")
                await asyncio.sleep(0.03 * (n % 4))
                await writer.commit()
                done[n] += 1
            except psycopg.Error as error:
                if error.sqlstate not in ("DM001", "40001", "40P01"):
                    raise
                await writer.conn.rollback()
            await asyncio.sleep(0.005)
