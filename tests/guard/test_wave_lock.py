"""The wave's lock: taken in time or not at all, never left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
import os
import signal
import statistics
import sys
import time

import psycopg
import pytest
from tests.guard.kit import HERE, MARK, THERE, Guarded, depart, value

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId
from domicile.postgres import wave_lock
from domicile.postgres.connect import SESSION, connect

WAITS = "select true from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and not granted"
SETTINGS = "select string_agg(current_setting(s), ' ') from unnest('{lock_timeout,idle_session_timeout}'::text[]) s"
HOLDER = """
import asyncio, sys
from domicile.postgres import connect, wave_lock

async def main():
    async with await connect.connect(sys.argv[1], settings=connect.SESSION) as conn:
        hold = wave_lock.hold(conn, int(sys.argv[2]), entered=0, timeout_ms=1000, dead_man_ms=500)
        async with hold as lock:
            print("held", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            try:
                await lock.depart("m1", 0, "singapore", 4, b"late")
                print("departed", flush=True)
            except Exception as error:
                print(type(error).__name__, flush=True)

asyncio.run(main())
"""


async def test_past_its_timeout_it_names_the_blocker_and_is_withdrawn(any_shop: Guarded) -> None:
    entered = await any_shop.close()
    async with any_shop.writer() as long, any_shop.writer() as other:
        await long.run("update orders set note = 'secret' where id = 20")
        async with await connect(any_shop.conninfo, settings=SESSION) as conn:
            started = time.monotonic()
            with pytest.raises(DomicileError) as caught:
                async with wave_lock.hold(conn, any_shop.wave, entered=entered, timeout_ms=150, dead_man_ms=9_000):
                    pass
            assert 0.1 < time.monotonic() - started < 2
            assert caught.value.code is ErrorCode.FENCE_BUDGET
            [named] = caught.value.facts["blockers"]  # type: ignore[misc]  # facts are plain JSON
            assert named["pid"] == long.conn.info.backend_pid
            assert named["application_name"] == "shop"
            assert named["transaction_age_s"] > 0
            assert "secret" not in str(caught.value.as_dict())
            assert await value(conn, SETTINGS) == "0 0"
            await other.run("update orders set note = 'n' where id = 30")  # nobody is queued in front of him
            await other.commit()
            await long.commit()
            async with wave_lock.hold(conn, any_shop.wave, entered=entered, timeout_ms=150, dead_man_ms=9_000):
                assert await value(conn, SETTINGS) == "150ms 9s"
                assert await any_shop.holders() == [conn.info.backend_pid]
            assert await value(conn, SETTINGS) == "0 0"
        assert await any_shop.holders() == []


@pytest.mark.parametrize("timeout_ms", [400, 20_000])
async def test_a_deadlock_with_the_mover_in_the_middle_costs_nobody_his_transaction(
    any_shop: Guarded, timeout_ms: int
) -> None:
    """One writer has the lock and wants a row of the other's, who queues behind the mover. The mover withdraws, or the
    server puts the second writer in front of him (it looks after a second, ``deadlock_timeout``)."""
    entered = await any_shop.close()
    async with (
        any_shop.writer() as first,
        any_shop.writer() as second,
        await connect(any_shop.conninfo, settings=SESSION) as conn,
    ):
        await first.run("update orders set note = 'first' where id = 20")
        await second.run("select from outside where id = 1 for update")
        taking = asyncio.create_task(_take(conn, any_shop.wave, entered, timeout_ms))
        while not taking.done() and not await any_shop.value(WAITS):
            await asyncio.sleep(0.005)
        behind = asyncio.create_task(second.run("update orders set note = 'second' where id = 30"))
        await asyncio.sleep(0.05)
        wants = asyncio.create_task(first.run("update outside set id = 99 where id = 1"))
        await asyncio.wait_for(behind, 15)
        await second.commit()
        await asyncio.wait_for(wants, 15)
        if timeout_ms < 1000:
            assert not await taking
        await first.commit()
        assert await taking == (timeout_ms > 1000)
    notes = await any_shop.value("select array_agg(note order by id) from public.orders where id in (20, 30)")
    assert notes == ["first", "second"]


async def _take(conn: psycopg.AsyncConnection, wave: int, entered: int, timeout_ms: int) -> bool:
    try:
        async with wave_lock.hold(conn, wave, entered=entered, timeout_ms=timeout_ms, dead_man_ms=60_000):
            return True
    except DomicileError as error:
        return error.code is not ErrorCode.FENCE_BUDGET


async def test_the_rehearsal_writes_nothing_and_waits_for_nobody(shop: Guarded) -> None:
    entered = await shop.close()
    async with await connect(shop.conninfo, settings=SESSION) as other:
        for statement in ("select from domicile.wave for update", "select from domicile.move for update"):
            async with other.transaction():
                await other.execute(statement.encode())
                started = time.monotonic()
                async with shop.locked(entered, 100):
                    assert time.monotonic() - started < 2
            assert await shop.value(MARK) == "closing"


async def test_a_session_that_was_ended_has_left_no_lock(shop: Guarded) -> None:
    entered = await shop.close()
    async with shop.writer() as writer:
        async with shop.locked(entered) as lock:
            await shop.conn.execute("select pg_terminate_backend(%s)", (lock.conn.info.backend_pid,))
            await asyncio.sleep(0.1)
            with pytest.raises(psycopg.OperationalError):
                await depart(lock)
        await asyncio.wait_for(writer.run("update orders set note = 'n' where id = 20"), 2)
        await writer.commit()
    async with shop.locked(entered) as lock:
        await shop.conn.execute("select pg_terminate_backend(%s)", (lock.conn.info.backend_pid,))


@pytest.mark.parametrize("after", [0.0, 0.05])
async def test_a_mover_who_is_called_off_leaves_no_lock(shop: Guarded, after: float) -> None:
    entered = await shop.close()
    async with shop.writer() as writer:
        await writer.run("update orders set note = 'n' where id = 20")
        async with await connect(shop.conninfo, settings=SESSION) as conn:
            taking = asyncio.create_task(_hold_for_ever(conn, shop.wave, entered))
            await asyncio.sleep(after)
            taking.cancel()
            with suppress(asyncio.CancelledError):
                await taking
            await writer.commit()
            await asyncio.sleep(0.1)
            assert await shop.holders() == []


async def test_a_mover_who_is_called_off_under_the_lock_gives_it_back(shop: Guarded) -> None:
    entered = await shop.close()
    async with await connect(shop.conninfo, settings=SESSION) as conn:
        taking = asyncio.create_task(_hold_for_ever(conn, shop.wave, entered))
        while not await shop.holders():
            await asyncio.sleep(0.01)
        taking.cancel()
        with suppress(asyncio.CancelledError):
            await taking
        assert await shop.holders() == []
        assert await value(conn, SETTINGS) == "0 0"


async def _hold_for_ever(conn: psycopg.AsyncConnection, wave: int, entered: int) -> None:
    async with wave_lock.hold(conn, wave, entered=entered, timeout_ms=60_000, dead_man_ms=60_000):
        await asyncio.sleep(3600)


async def test_a_mover_who_froze_loses_the_lock_by_the_server_s_hand(any_shop: Guarded) -> None:
    await any_shop.close()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, any_shop.conninfo, str(any_shop.wave),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        async with any_shop.writer() as writer:
            with _frozen(process.pid):
                started = time.monotonic()
                await asyncio.wait_for(writer.run("update orders set note = 'n' where id = 20"), 5)
                assert time.monotonic() - started < 2
                await writer.commit()
            process.stdin.write(b"\n")
            said = await asyncio.wait_for(process.stdout.readline(), 10)
            assert said in (b"OperationalError\n", b"IdleSessionTimeout\n")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert await any_shop.value(MARK) == "closing"


@contextmanager
def _frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_lock_and_departure_are_short(any_shop: Guarded) -> None:
    took = []
    entered = await any_shop.close()
    async with await connect(any_shop.conninfo, settings=SESSION) as conn:
        for _ in range(20):
            held = wave_lock.hold(conn, any_shop.wave, entered=entered, timeout_ms=100, dead_man_ms=5_000)
            async with held as lock:
                started = time.monotonic()
                await lock.depart(MoveId("m1"), 0, THERE, 4, b"x" * 32)
                took.append((time.monotonic() - started) * 1000)
                await lock.reopen(MoveId("m1"), 0, "closing", HERE, 3)
    assert statistics.median(took) < 50  # on a machine shared with others; alone it is below 2
