"""After a deletion: so that the space of the removed rows is written anew, in tables, indexes, statistics and the log.

Every step may be repeated. A step that the role may not take, or that cannot have its lock, is told and passed over:
what it leaves is found by the scan.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
import logging
import time
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.erasure import Step
from domicile.model.schema import TableName
from domicile.postgres.ownership import ident

log = logging.getLogger(__name__)

SWITCHES_MAX = 80  # files of the log that are filled to overwrite the recycled ones
LOCK_TIMEOUT = "5s"
SALTS_LOCK_TIMEOUT = "1s"  # other moves' copies wait behind it
COST_DELAY = "2ms"  # of VACUUM and ANALYZE, as autovacuum has it
# REINDEX CONCURRENTLY waits for older transactions while nobody waits for it. One that is older than this already is
# not waited for at all: who is cut off while waiting leaves an index that is of no use, and costs every write.
REINDEX_LOCK_TIMEOUT = "60s"
OLD_S = 60
FORGET_STATISTICS = "clear the statistics of emptied tables"
REPLAY_S_MAX = 30.0
STATISTICS = (TableName("pg_catalog", "pg_statistic"), TableName("pg_catalog", "pg_statistic_ext_data"))

Rest = Callable[[float], Awaitable[None]]

_SALTS = """
select pg_catalog.array_agg(move_id), pg_catalog.array_agg(wave), pg_catalog.array_agg(salt)
from domicile.evidence_salt"""
_SALTS_AGAIN = """
insert into domicile.evidence_salt (move_id, wave, salt)
select * from rows from (
    pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::integer[]), pg_catalog.unnest(%s::bytea[]))"""
_POSITION = "select pg_catalog.pg_current_wal_insert_lsn()::text"
_RECYCLED = """
select pg_catalog.count(*), pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))
from pg_catalog.pg_ls_waldir() as f
where f.name ~ '^[0-9A-F]{24}$' and f.name > pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"""
_SMALL_RECORD = "select pg_catalog.pg_logical_emit_message(true, 'domicile', '')"
_SWITCH = "select pg_catalog.pg_switch_wal()"
_LEAVES = """
select c.oid, n.nspname, c.relname from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.oid = %(table)s::regclass or c.oid in (select relid from pg_catalog.pg_partition_tree(%(table)s::regclass))"""
_OLDER = """
select pg_catalog.count(*) from pg_catalog.pg_stat_activity
where pid <> pg_catalog.pg_backend_pid() and datid = (select oid from pg_catalog.pg_database
                                                      where datname = pg_catalog.current_database())
and backend_type = 'client backend' and pg_catalog.clock_timestamp() - xact_start > %s * interval '1 second'"""
_UNFINISHED = """
select n.nspname, c.relname from pg_catalog.pg_index as i join pg_catalog.pg_class as c on c.oid = i.indexrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where not i.indisvalid and c.relkind = 'i' and c.relname ~ '_cc(new|old)[0-9]*$'
and i.indrelid in (select t.oid from pg_catalog.pg_class as t
                   where t.oid = any (%(leaves)s::oid[])
                   union all select t.reltoastrelid from pg_catalog.pg_class as t
                   where t.oid = any (%(leaves)s::oid[]))"""
_FORGET: tuple[LiteralString, ...] = (
    "delete from pg_catalog.pg_statistic where starelid = any (%s::oid[])",
    """delete from pg_catalog.pg_statistic_ext_data
       where stxoid in (select oid from pg_catalog.pg_statistic_ext where stxrelid = any (%s::oid[]))""",
)
_BEHIND = """
select pg_catalog.count(*) from pg_catalog.pg_stat_replication
where application_name <> 'domicile mover' and replay_lsn < %s::pg_lsn"""


async def reclaim(conn: AsyncConnection, tables: Sequence[TableName], *, rewrite: bool) -> AsyncIterator[Step]:
    """Free what the tables' removed rows leave: VACUUM with ANALYZE, or with ``rewrite`` VACUUM FULL, which locks each
    table while it is written anew; then REINDEX, without a lock that would stop writers."""
    how = "vacuum (full, analyze) {}" if rewrite else "vacuum (analyze) {}"
    again = "vacuum (full) {}" if rewrite else "vacuum {}"
    await conn.execute("select pg_catalog.set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
    await conn.execute("select pg_catalog.set_config('vacuum_cost_delay', %s, false)", (COST_DELAY,))
    try:
        for table in tables:
            yield await _step(conn, f"{how[: how.index(' {')]} {table}", sql.SQL(how).format(ident(table)))
            if not rewrite:  # a table written anew has new indexes
                yield await _reindex(conn, table)
        yield await _forget_emptied(conn, tables)
        for table in STATISTICS:
            yield await _step(conn, f"{again[: again.index(' {')]} {table}", sql.SQL(again).format(ident(table)))
    finally:
        await conn.execute("select pg_catalog.set_config('lock_timeout', '0', false)")


async def rewrite_salts(conn: AsyncConnection) -> Step:
    """Write the table of the log's salts anew, which is small: one that was destroyed must not stand in its pages.

    Not by VACUUM FULL: it copies what was deleted, too, as long as anybody's snapshot is older than the deletion. What
    could not be done now is told in this process's log, and done with the next salt that is destroyed. Outside of any
    transaction.
    """
    begun, refused = time.monotonic(), ""
    try:
        async with conn.transaction():
            await conn.execute("select pg_catalog.set_config('lock_timeout', %s, true)", (SALTS_LOCK_TIMEOUT,))
            await conn.execute("lock table domicile.evidence_salt in access exclusive mode")
            row = await (await conn.execute(_SALTS)).fetchone()
            assert row is not None
            await conn.execute("truncate domicile.evidence_salt")
            await conn.execute(_SALTS_AGAIN, row)
    except psycopg.Error as error:
        if conn.broken:
            raise
        refused = _refused(error)
        log.warning("salts that were destroyed may stand in the pages of domicile.evidence_salt: %s", refused)
    return Step("rewrite the salts", time.monotonic() - begun, refused)


async def position(conn: AsyncConnection) -> str:
    """Where the log is written now: what was removed stands before it."""
    row = await (await conn.execute(_POSITION)).fetchone()
    assert row is not None
    return str(row[0])


async def checkpoint(conn: AsyncConnection) -> Step:
    """So that files are what the server knows."""
    return await _step(conn, "checkpoint", sql.SQL("checkpoint"))


async def advance(conn: AsyncConnection) -> AsyncIterator[Step]:
    """CHECKPOINT; the log moves on into another file, and old files are removed or recycled."""
    yield await checkpoint(conn)
    yield await _step(conn, "switch the log", sql.SQL(_SMALL_RECORD), sql.SQL(_SWITCH))
    yield await checkpoint(conn)


async def overwrite_recycled(conn: AsyncConnection, mb_per_s_max: float = 0.0, rest: Rest | None = None) -> Step:
    """Fill every recycled file of the log once; each costs one file of log, whose writing the others' commits wait for:
    no faster than ``mb_per_s_max``, where that is not 0; ``rest`` is awaited behind each, with the seconds that it
    took."""
    begun = time.monotonic()
    try:
        row = await (await conn.execute(_RECYCLED)).fetchone()
        assert row is not None
        waiting, pause_s = int(row[0]), row[1] / 1e6 / mb_per_s_max if mb_per_s_max else 0.0
        for _ in range(min(waiting + 1, SWITCHES_MAX)):
            filled = time.monotonic()
            await conn.execute(_SMALL_RECORD)
            await conn.execute(_SWITCH)
            await asyncio.sleep(pause_s)
            if rest is not None:
                await rest(time.monotonic() - filled)
        await conn.execute("checkpoint")
    except psycopg.Error as error:
        return Step("overwrite recycled log", time.monotonic() - begun, _refused(error))
    refused = f"{waiting - SWITCHES_MAX} files were left" if waiting > SWITCHES_MAX else ""
    return Step("overwrite recycled log", time.monotonic() - begun, refused)


async def wait_replayed(conn: AsyncConnection, lsn: str) -> Step:
    """Wait until every standby has replayed the log up to ``lsn``."""
    begun = time.monotonic()
    behind = 0
    while time.monotonic() < begun + REPLAY_S_MAX:
        row = await (await conn.execute(_BEHIND, (lsn,))).fetchone()
        behind = int(row[0]) if row else 0
        if not behind:
            break
        await asyncio.sleep(0.1)
    return Step("wait for standbys", time.monotonic() - begun, f"{behind} have not replayed it" if behind else "")


async def _reindex(conn: AsyncConnection, table: TableName) -> Step:
    """REINDEX CONCURRENTLY. What it leaves unfinished when it is cut off is dropped again; what cannot be, named."""
    name, begun = f"reindex {table}", time.monotonic()
    try:
        row = await (await conn.execute(_OLDER, (OLD_S,))).fetchone()
        if row is None or row[0]:
            return Step(name, 0.0, f"not begun: a transaction of the database is older than {OLD_S} s")
        before = await _unfinished(conn, table)
        await conn.execute("select pg_catalog.set_config('lock_timeout', %s, false)", (REINDEX_LOCK_TIMEOUT,))
        step = await _step(conn, name, sql.SQL("reindex table concurrently {}").format(ident(table)))
        for index in sorted(await _unfinished(conn, table) - before) if step.refused else ():
            dropped = await _step(conn, name, sql.SQL("drop index concurrently {}").format(sql.Identifier(*index)))
            if dropped.refused:
                left = f"{step.refused}; index {'.'.join(index)} is left of it and of no use: drop it"
                step = Step(name, time.monotonic() - begun, left)
        await conn.execute("select pg_catalog.set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
    except psycopg.Error as error:
        if conn.broken:
            raise
        return Step(name, time.monotonic() - begun, _refused(error))
    return step


async def _unfinished(conn: AsyncConnection, table: TableName) -> set[tuple[str, str]]:
    """Indexes of the table, of its partitions and of their TOAST that a REINDEX CONCURRENTLY has left behind."""
    found = await (await conn.execute(_LEAVES, {"table": ident(table).as_string(conn)})).fetchall()
    indexes = await conn.execute(_UNFINISHED, {"leaves": [oid for oid, _, _ in found]})
    return {(schema, index) for schema, index in await indexes.fetchall()}


async def _forget_emptied(conn: AsyncConnection, tables: Sequence[TableName]) -> Step:
    """ANALYZE of a table without rows leaves the statistics that it had, values and all."""
    begun, emptied = time.monotonic(), []
    try:
        for table in tables:
            name = sql.Identifier(table.schema, table.name).as_string(conn)
            for oid, schema, leaf in await (await conn.execute(_LEAVES, {"table": name})).fetchall():
                filled = sql.SQL("select exists (select from {})").format(sql.Identifier(schema, leaf))
                if await (await conn.execute(filled)).fetchone() == (False,):
                    emptied.append(oid)
        for statement in _FORGET if emptied else ():
            await conn.execute(statement, (emptied,))
    except psycopg.Error as error:
        return Step(FORGET_STATISTICS, time.monotonic() - begun, _refused(error))
    return Step(FORGET_STATISTICS, time.monotonic() - begun)


async def _step(conn: AsyncConnection, name: str, *statements: sql.SQL | sql.Composed) -> Step:
    begun = time.monotonic()
    try:
        for statement in statements:
            await conn.execute(statement)
    except psycopg.OperationalError as error:
        if conn.broken:
            raise
        return Step(name, time.monotonic() - begun, _refused(error))
    except psycopg.Error as error:
        return Step(name, time.monotonic() - begun, _refused(error))
    return Step(name, time.monotonic() - begun)


def _refused(error: psycopg.Error) -> str:
    """The SQLSTATE alone: a message may quote a value."""
    return f"refused with SQLSTATE {error.sqlstate or 'unknown'}"
