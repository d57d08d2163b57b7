"""Kept sessions: as good as new, never shared, closed when they failed, went away, or have been idle."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.conftest import EmbeddedCluster

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


async def test_a_session_that_went_away_meanwhile_is_replaced(database: str, pg18: EmbeddedCluster) -> None:
    pool = SessionPool()
    async with pool.keeping():
        first = await _pid(pool, database)
        async with await psycopg.AsyncConnection.connect(pg18.conninfo(), autocommit=True) as conn:
            await conn.execute("select pg_terminate_backend(%s, 5000)", (first,))
        assert await _pid(pool, database) != first


async def test_a_session_that_nobody_wanted_for_long_is_not_trusted(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SessionPool()
    async with pool.keeping():
        first = await _pid(pool, database)
        monkeypatch.setattr(module, "IDLE_SECONDS_MAX", 0.0)
        assert await _pid(pool, database) != first
        assert await _others(database) == 1
