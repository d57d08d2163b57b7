"""While a wave is closing its users write on, under its lock; after the departure nobody does, in any isolation level.

Each protection has a negative control: with it taken out, the test sees a write that came too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import time

import psycopg
import pytest
from tests.guard.kit import HERE, Guarded, Writer, depart, detail, register, reopen
from tests.guard.test_verbs import LEVELS, PASSED, REFUSED

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres import guard, waves

SNAPSHOT_LEVELS = LEVELS[1:]
LATE = "update orders set note = 'late' where id = 20"
NOTE = "select note from public.orders where id = 20"
TRUNCATES = frozenset(s for which, s in REFUSED.items() if which.startswith("truncate"))
FILTER = "select xmin::text || prosrc from pg_proc where proname = 'guard_filter'"


@asynccontextmanager
async def waiting(shop: Guarded, writer: Writer, statement: str) -> AsyncIterator[asyncio.Task[None]]:
    """The statement under way, and queued behind the mover's lock."""
    task = asyncio.create_task(writer.run(statement))
    await queued(shop, writer)
    try:
        yield task
    finally:
        await asyncio.gather(task, return_exceptions=True)


async def queued(shop: Guarded, writer: Writer) -> None:
    pid = writer.conn.info.backend_pid
    for _ in range(500):
        if await shop.value(f"select true from pg_locks where pid = {pid} and locktype = 'advisory' and not granted"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits for the wave's lock")


async def refused(task: asyncio.Task[None], writer: Writer) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        await task
    await writer.conn.rollback()
    return caught.value


@pytest.mark.parametrize("level", LEVELS)
async def test_every_verb_passes_under_the_lock_and_outsiders_without_it(any_shop: Guarded, level: str) -> None:
    await any_shop.close()
    async with any_shop.writer(level) as writer:
        for statement in REFUSED.values():
            if statement in TRUNCATES:
                await writer.refused(statement, "DM002")
                continue
            try:
                await writer.run(statement)
                assert await any_shop.holders() == [writer.conn.info.backend_pid], statement
            except psycopg.errors.UniqueViolation:
                assert "users values (2)" in statement  # its row is there
            await writer.conn.rollback()
            assert await any_shop.holders() == []
        for statement in PASSED.values():
            await writer.run(statement)
            assert await any_shop.holders() == [], statement
            await writer.conn.rollback()


@pytest.mark.parametrize("level", LEVELS)
async def test_after_the_departure_every_verb_is_refused(any_shop: Guarded, level: str) -> None:
    async with any_shop.locked(await any_shop.close()) as lock:
        await depart(lock)
    async with any_shop.writer(level) as writer:
        for statement in REFUSED.values():
            error = await writer.refused(statement, "DM002" if statement in TRUNCATES else "DM001")
            assert detail(error) == {"home": "singapore", "epoch": 4, "dataset": "shop"}
        for statement in PASSED.values():
            await writer.run(statement)
            await writer.conn.rollback()


async def test_copy_and_cascades_from_outside_the_scope_hold_the_lock(any_shop: Guarded) -> None:
    await any_shop.conn.execute(
        "alter table public.orders add column outside_id bigint references public.outside on delete cascade"
    )
    await any_shop.conn.execute("update public.orders set outside_id = user_id")
    await any_shop.close()
    async with any_shop.writer() as writer:
        pid = writer.conn.info.backend_pid
        async with writer.conn.cursor().copy("copy orders (id, user_id) from stdin") as rows:
            await rows.write("1\t12\n2\t2\n")
        assert await any_shop.holders() == [pid]
        await writer.conn.rollback()
        await writer.run("delete from outside where id = 2")
        assert await any_shop.holders() == [pid]
        await writer.conn.rollback()
        await writer.run("delete from outside where id = 12")
        assert await any_shop.holders() == []


async def test_the_mover_waits_for_writers_in_flight_and_nobody_outside_waits_for_the_mover(any_shop: Guarded) -> None:
    entered = await any_shop.close()
    async with any_shop.writer() as before, any_shop.writer() as outsider:
        await before.run(LATE)
        taking = asyncio.create_task(_depart(any_shop, entered))
        await asyncio.sleep(0.2)
        assert not taking.done()
        started = time.monotonic()
        for n in range(20):
            await outsider.run(
                f"update orders set note = '{n}' where id = 120; update item set qty = 2 where id = 1200"
            )
            await outsider.commit()
        assert time.monotonic() - started < 1.5
        assert not taking.done()
        await before.commit()
        await taking
        assert await any_shop.value(NOTE) == "late"
        await before.refused(LATE, "DM001")


async def _depart(shop: Guarded, entered: int) -> None:
    async with shop.locked(entered, timeout_ms=5000) as lock:
        await depart(lock)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("undone", [False, True])
async def test_who_waited_gets_the_final_answer(any_shop: Guarded, level: str, undone: bool) -> None:
    """A departure that is undone was told to nobody, whether he came before it or after."""
    entered = await any_shop.close()
    async with any_shop.writer(level) as early, any_shop.writer(level) as late:
        await late.conn.rollback()
        async with any_shop.locked(entered) as lock:
            async with waiting(any_shop, early, LATE) as first:
                await depart(lock)
                assert not first.done()
                second = asyncio.create_task(late.run("update orders set note = 'n' where id = 30"))
                await queued(any_shop, late)
                if undone:
                    await reopen(lock)
                await lock.conn.execute("select pg_advisory_unlock_all()")
                if level == "read committed" and undone:
                    await first
                    await second
                    await early.commit()
                    return
                if level == "read committed":
                    assert (await refused(first, early)).sqlstate == "DM001"
                    assert (await refused(second, late)).sqlstate == "DM001"
                    return
                assert (await refused(first, early)).sqlstate == "40001"
                # This one has seen the departure: the right answer, but only while it stands.
                assert (await refused(second, late)).sqlstate == ("40001" if undone else "DM001")
        if undone:
            await early.run(LATE)
            await early.commit()
        else:
            await early.refused(LATE, "DM001")


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
async def test_a_snapshot_from_before_the_closing_fails_with_40001(any_shop: Guarded, level: str) -> None:
    async with any_shop.writer(level) as under, any_shop.writer(level) as after:
        entered = await any_shop.close()
        await under.refused(LATE, "40001")
        await under.run(LATE)
        await under.commit()
        async with any_shop.locked(entered) as lock:
            await depart(lock)
        await after.refused(LATE, "40001")
        await after.refused(LATE, "DM001")


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
async def test_control_without_the_fence_number_such_a_writer_passes(shop: Guarded, level: str) -> None:
    await shop.conn.execute(
        "create or replace function domicile.raise_fence() returns void language plpgsql as 'begin end'"
    )
    async with shop.writer(level) as old:
        async with shop.locked(await shop.close()) as lock:
            await depart(lock)
        await old.run(LATE)
        await old.commit()
    assert await shop.value(NOTE) == "late"


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
@pytest.mark.parametrize("asked_again", [True, False])
async def test_a_snapshot_from_before_the_departure_fails_after_the_wait(
    any_shop: Guarded, level: str, asked_again: bool
) -> None:
    """The control does not look at the number again behind the lock: its writer passes."""
    if not asked_again:
        await any_shop.rewrite("guard_ask", "perform domicile.guard_snapshot();", "")
    entered = await any_shop.close()
    async with any_shop.writer(level) as writer, any_shop.locked(entered) as lock:
        async with waiting(any_shop, writer, LATE) as task:
            await depart(lock)
            await lock.conn.execute("select pg_advisory_unlock_all()")
            if asked_again:
                assert (await refused(task, writer)).sqlstate == "40001"
            else:
                await task
                await writer.commit()
    assert (await any_shop.value(NOTE) == "late") == (not asked_again)


async def test_the_drain_waits_for_a_writer_from_before_the_closing(any_shop: Guarded) -> None:
    await any_shop.arm()
    async with any_shop.writer() as before:
        await before.run(LATE)
        await any_shop.mark("closing")
        assert await any_shop.holders() == []  # the lock would not have to wait for this one: the drain has to
        with pytest.raises(DomicileError) as caught:
            await any_shop.drain(0.2)
        assert caught.value.code is ErrorCode.FENCE_BUDGET
        assert caught.value.facts["blockers"][0]["pid"] == before.conn.info.backend_pid  # type: ignore[index]  # JSON
        await before.commit()
    await any_shop.drain()


SAVEPOINTS = {
    "rolled back": (f"savepoint s; {LATE}; rollback to s", False),
    "released": (f"savepoint s; {LATE}; release s", True),
    "written before it": (f"{LATE}; savepoint s; {LATE}; rollback to s", True),
    "caught": (
        "do $$begin update orders set note = 'n' where id = 20; raise 'x'; exception when others then null; end$$",
        False,
    ),
    "rolled back, then written": (f"savepoint s; {LATE}; rollback to s; {LATE}", True),
}


@pytest.mark.parametrize("case", SAVEPOINTS)
async def test_the_lock_is_held_while_a_write_stands(any_shop: Guarded, case: str) -> None:
    script, held = SAVEPOINTS[case]
    entered = await any_shop.close()
    async with any_shop.writer() as writer:
        await writer.run(script)
        assert await any_shop.holders() == ([writer.conn.info.backend_pid] if held else [])
        if not held:
            async with any_shop.locked(entered) as lock:
                await depart(lock)
            await writer.refused(LATE, "DM001")


async def test_a_prepared_transaction_keeps_the_lock(any_shop: Guarded) -> None:
    entered = await any_shop.close()
    async with any_shop.writer() as writer:
        await writer.run(LATE)
        await writer.run("prepare transaction 'of a closing wave'")
    with pytest.raises(DomicileError, match="1 of them prepared") as caught:
        async with any_shop.locked(entered):
            pass
    assert caught.value.code is ErrorCode.FENCE_BUDGET
    assert caught.value.facts["prepared"] == 1
    await any_shop.conn.execute("commit prepared 'of a closing wave'")
    async with any_shop.locked(entered) as lock:
        await depart(lock)
    assert await any_shop.value(NOTE) == "late"


async def test_of_several_waves_the_lock_of_the_latest_is_taken(shop: Guarded) -> None:
    """Each of the subject's waves names it; only the one with the highest epoch is closing."""
    await shop.arm()
    await shop.mark("resident")  # epoch 3
    later = await register(shop.conn, [2], move="m2")
    await guard.set_fence(shop.conn, later, "closing", HERE, 4)
    await shop.drain()
    async with shop.writer() as writer:
        await writer.run(LATE)
        objects = await shop.value("select array_agg(objid::int) from pg_locks where locktype = 'advisory'")
        assert objects == [later]


async def test_the_guard_is_needed_while_a_wave_is_closing(shop: Guarded) -> None:
    await shop.arm()
    await shop.mark("closing")
    assert await waves.waves_that_need_the_guard(shop.conn) == 1
    await guard.disarm(shop.conn, shop.tables)
    async with shop.writer() as writer:
        await writer.run(LATE)
        assert await shop.holders() == [writer.conn.info.backend_pid]
    await shop.mark("open")
    assert await waves.waves_that_need_the_guard(shop.conn) == 0


async def test_the_departure_defines_nothing_anew_and_is_a_new_fence(shop: Guarded) -> None:
    await shop.arm()
    await shop.mark("closing")
    assert (await shop.value(FILTER)).endswith("select true")  # at once, without a drain
    entered = (await shop.drain()).entered
    narrow, number = await shop.value(FILTER), await shop.value("select last_value from domicile.fence_xid")
    assert "get_bit" in narrow
    async with shop.locked(entered) as lock:
        await depart(lock)
        departed = await shop.value("select last_value from domicile.fence_xid")
        assert departed > number
        await reopen(lock)
        assert await shop.value("select last_value from domicile.fence_xid") > departed
    for mark in ("closing", "closing", "departed"):
        await shop.mark(mark)
    assert await shop.value(FILTER) == narrow
