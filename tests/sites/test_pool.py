"""Kept sessions: as good as new, never shared, closed when they failed, went away, or have been idle."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
import os
import signal

import psycopg
import pytest

from domicile.postgres import pool as module
from domicile.postgres.connect import SESSION
from domicile.postgres.pool import SessionPool

_PIDS = "select array_agg(pid order by pid) from pg_stat_activity where datname = current_database()"


async def _pid(pool: SessionPool, conninfo: str) -> int:
    async with pool.session(conninfo) as conn:
        return conn.info.backend_pid


async def _others(conninfo: str) -> int:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        row = await (await conn.execute(_PIDS)).fetchone()
        assert row is not None
        return len(row[0]) - 1


async def test_a_session_is_used_again_while_somebody_keeps_them_and_only_then(database: str) -> None:
    pool = SessionPool()
    assert await _pid(pool, database) != await _pid(pool, database)
    async with pool.keeping():
        first = await _pid(pool, database)
        async with pool.keeping():
            assert await _pid(pool, database) == first
        assert await _pid(pool, database) == first
    assert await _others(database) == 0
    assert await _pid(pool, database) != first


async def test_two_at_once_have_a_session_each(database: str) -> None:
    pool = SessionPool()
    async with pool.keeping():
        await _pid(pool, database)
        async with pool.session(database) as one, pool.session(database) as two:
            assert one.info.backend_pid != two.info.backend_pid


async def test_nothing_of_the_user_before_is_left(database: str) -> None:
    pool = SessionPool()
    asked = "select current_setting('statement_timeout'), current_setting('application_name')"
    async with pool.keeping():
        async with pool.session(database, settings={"statement_timeout": "7s"}, application_name="before") as conn:
            first = conn.info.backend_pid
            assert await (await conn.execute(asked)).fetchone() == ("7s", "before")
            await conn.execute("create temp table left_behind ()")
            await conn.execute("select pg_advisory_lock(1)")
            await conn.execute("begin")
            await conn.execute("create table uncommitted ()")
        async with pool.session(database, settings=SESSION) as conn:
            assert conn.info.backend_pid == first
            assert await (await conn.execute(asked)).fetchone() == ("0", "domicile")
            left = "select to_regclass('pg_temp.left_behind'), to_regclass('public.uncommitted')"
            assert await (await conn.execute(left)).fetchone() == (None, None)
            locks = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
            assert await (await conn.execute(locks)).fetchone() == (0,)


@pytest.mark.parametrize("trouble", [ValueError(), asyncio.CancelledError()])
async def test_whoever_fails_closes_his_session(database: str, trouble: BaseException) -> None:
    pool = SessionPool()

    async def fail() -> None:
        async with pool.session(database) as conn:
            await conn.execute("select pg_advisory_lock(1)")
            raise trouble

    async with pool.keeping():
        with pytest.raises(type(trouble)):
            await fail()
        assert await _others(database) == 0


async def _two(pool: SessionPool, conninfo: str) -> list[int]:
    """The processes of two sessions that are kept now, the one to be taken next last."""
    async with pool.session(conninfo) as one, pool.session(conninfo) as two:
        return [two.info.backend_pid, one.info.backend_pid]


async def _end(conninfo: str, pid: int) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await conn.execute("select pg_terminate_backend(%s, 5000)", (pid,))


async def test_where_one_went_away_none_is_trusted(database: str) -> None:
    pool = SessionPool()
    async with pool.keeping():
        before = await _two(pool, database)
        await _end(database, before[-1])
        assert await _pid(pool, database) not in before
        assert await _others(database) == 1


async def test_where_one_failed_none_is_trusted(database: str) -> None:
    pool = SessionPool()

    async def fail() -> None:
        async with pool.session(database):
            raise ValueError("trouble")

    async with pool.keeping():
        before = await _two(pool, database)
        with pytest.raises(ValueError, match="trouble"):
            await fail()
        assert await _pid(pool, database) not in before


async def test_who_is_cancelled_takes_nobody_else_s_session_along(database: str) -> None:
    """As every task is that is beside another one which is done: the server has done no wrong."""
    pool = SessionPool()

    async def wait() -> None:
        async with pool.session(database):
            await asyncio.sleep(60)

    async with pool.keeping():
        before = await _two(pool, database)
        waiting = asyncio.create_task(wait())
        while await _others(database) < 2 or len(pool._idle[database]) == 2:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await _pid(pool, database) == before[0]
        assert await _others(database) == 1


async def test_nobody_waits_for_sessions_that_are_silent(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS_MAX", 0.2)
    pool = SessionPool()
    async with pool.keeping():
        before = await _two(pool, database)
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                assert await _pid(pool, database) not in before
        finally:
            for pid in before:
                os.kill(pid, signal.SIGCONT)


async def test_what_became_of_a_session_without_use_is_nobody_s_business(database: str) -> None:
    pool = SessionPool()
    async with pool.keeping():
        async with pool.session(database) as conn:
            await conn.execute("begin")
            await _end(database, conn.info.backend_pid)
        assert await _pid(pool, database) != conn.info.backend_pid


async def test_what_nobody_wants_is_closed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS_MAX", 0.2)
    pool = SessionPool()
    async with pool.keeping():
        await _two(pool, database)
        assert await _others(database) == 2
        async with asyncio.timeout(10):
            while await _others(database):
                await asyncio.sleep(0.05)


async def test_a_session_that_outlives_the_keeping_is_closed(database: str) -> None:
    pool = SessionPool()
    async with AsyncExitStack() as stack:
        async with pool.keeping():
            conn = await stack.enter_async_context(pool.session(database))
        assert not conn.closed
    assert conn.closed
