"""A salt that was destroyed is not in the pages of its table, whoever looks on."""

from __future__ import annotations

import asyncio
import logging
import secrets

import psycopg
import pytest
from tests.move.live_kit import until
from tests.move.places import execute, scalar

from domicile.ledger.evidence import destroy_salts
from domicile.model.site import MoveId
from domicile.postgres import reclaim

MOVE = MoveId("m")
TABLE = """
    create table domicile.evidence_salt (
        move_id text not null, wave integer not null default 0, salt bytea not null, primary key (move_id, wave))"""
PAGES = "select pg_read_binary_file(pg_relation_filepath('domicile.evidence_salt'))"


async def test_a_salt_that_was_destroyed_is_gone_whoever_has_an_older_snapshot(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    going, staying = secrets.token_bytes(32), secrets.token_bytes(32)
    await execute(database, "create schema domicile", TABLE)
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as conn,
        await psycopg.AsyncConnection.connect(database) as reader,
    ):
        add = "insert into domicile.evidence_salt values ('m', %s, %s)"
        for wave, salt in enumerate((staying, going)):
            await conn.execute(add, (wave, salt))
        await reader.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await reader.execute("select from pg_catalog.pg_class")
        await destroy_salts(conn, MOVE, 1)
        assert (await reclaim.rewrite_salts(conn)).refused == ""
        await conn.execute("checkpoint")
        pages = await scalar(database, PAGES)
        assert isinstance(pages, bytes)
        assert staying in pages
        assert going not in pages
        assert await scalar(database, "select array_agg(salt) from domicile.evidence_salt") == [staying]
        await reader.commit()
        await reader.execute("select from domicile.evidence_salt")
        with caplog.at_level(logging.WARNING):
            assert "55P03" in (await reclaim.rewrite_salts(conn)).refused
        assert "evidence_salt" in caplog.text
        await reader.commit()
        await destroy_salts(conn, MOVE)
        assert (await reclaim.rewrite_salts(conn)).refused == ""
    assert await scalar(database, "select count(*) from domicile.evidence_salt") == 0


async def test_a_salt_that_another_move_makes_meanwhile_stays(database: str) -> None:
    """It is committed while the rewriting waits: the table must not be read before nobody writes to it."""
    await execute(database, "create schema domicile", TABLE)
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as conn,
        await psycopg.AsyncConnection.connect(database) as other,
    ):
        await conn.execute("insert into domicile.evidence_salt values ('m', 1, 'goes'), ('m', 2, 'stays')")
        await destroy_salts(conn, MOVE, 1)
        await other.execute("insert into domicile.evidence_salt values ('another', 1, 'new')")
        rewriting = asyncio.create_task(reclaim.rewrite_salts(conn))
        await until(lambda: scalar(database, waits))
        await other.commit()
        assert (await rewriting).refused == ""
    assert await scalar(database, "select array_agg(move_id || wave order by move_id) from domicile.evidence_salt") == [
        "another1",
        "m2",
    ]
