"""The record of a purge's erasure at its site: table ``domicile.erasure``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from domicile.model.erasure import ErasureWish

_TABLE = resources.files(__package__).joinpath("sql/erasure.sql").read_text(encoding="utf-8")
_LOCK = "select pg_catalog.pg_advisory_xact_lock(7237123425614523493)"
_BEGIN = "insert into domicile.erasure (move_id) values (%s) on conflict do nothing"
_THERE = "select pg_catalog.to_regclass('domicile.erasure') is not null"
_READ = """
select move_id, rewrite, kept, mb_per_s_max, waves, prints, canaries, plain, passed_over, shared, begun_at, deleted_at,
       deleted_lsn::text, first, report
from domicile.erasure where move_id = %s"""
_KEPT = "select kept from domicile.erasure where move_id = %s for update"
_ORDER = "update domicile.erasure set rewrite = %s, kept = %s, mb_per_s_max = %s where move_id = %s"
_GATHERED = """
update domicile.erasure set prints = %s, waves = waves || %s, plain = plain + %s, passed_over = passed_over + %s,
       shared = shared + %s
where move_id = %s and not waves @> array[%s::int]"""
_TRIED = "update domicile.erasure set first = %s, canaries = %s where move_id = %s"
_DELETED = """
update domicile.erasure set deleted_at = now(), deleted_lsn = pg_catalog.pg_current_wal_insert_lsn()
where move_id = %s"""
_ANEW = """
update domicile.erasure set prints = null, canaries = null, first = null, waves = '{}', plain = 0, passed_over = 0,
       shared = 0
where move_id = %s"""
_REPORTED = "update domicile.erasure set report = %s where move_id = %s"
_FORGET = "update domicile.erasure set prints = null, canaries = null where move_id = %s"


@dataclass(frozen=True, slots=True)
class ErasureRecord:
    """One row. ``kept``: pairs of a path and a date, which may be empty. Fingerprints are sealed."""

    move_id: str
    rewrite: bool
    kept: list[list[str]]
    mb_per_s_max: int
    waves: list[int]
    prints: bytes | None
    canaries: bytes | None
    plain: int
    passed_over: int
    shared: int
    begun_at: datetime
    deleted_at: datetime | None
    deleted_lsn: str | None
    first: Any
    report: Any


async def read(conn: AsyncConnection, move_id: str) -> ErasureRecord | None:
    """The move's record, or None where no purge has begun one."""
    there = await (await conn.execute(_THERE)).fetchone()
    if there is None or not there[0]:
        return None
    row = await (await conn.execute(_READ, (move_id,))).fetchone()
    return None if row is None else ErasureRecord(*row)


async def order(conn: AsyncConnection, move_id: str, wish: ErasureWish) -> None:
    """Begin the move's record, or change what is wanted: the last order's wish holds. Archives and backups that were
    named before stay named; of one named again the new date holds. Idempotent."""
    async with conn.transaction():
        await conn.execute(_LOCK)
        await conn.execute(_TABLE.encode())
        await conn.execute(_BEGIN, (move_id,))
        row = await (await conn.execute(_KEPT, (move_id,))).fetchone()
        kept = dict([*(row[0] if row else ()), *wish.kept])
        listed = Jsonb([list(pair) for pair in kept.items()])
        await conn.execute(_ORDER, (wish.rewrite, listed, wish.mb_per_s_max, move_id))


async def gathered(conn: AsyncConnection, move_id: str, no: int, prints: bytes, counts: tuple[int, int, int]) -> None:
    """The fingerprints of all waves so far, ``no`` among them now; of it the values (too plain, passed over, shared).
    Idempotent."""
    await conn.execute(_GATHERED, (prints, no, *counts, move_id, no))


async def begin_anew(conn: AsyncConnection, move_id: str) -> None:
    """Forget fingerprints that nobody can open, and whose they were."""
    await conn.execute(_ANEW, (move_id,))


async def tried(conn: AsyncConnection, move_id: str, first: object, canaries: bytes) -> None:
    """The first scan, and the fingerprints of the canaries."""
    await conn.execute(_TRIED, (Jsonb(first), canaries, move_id))


async def deleted(conn: AsyncConnection, move_id: str) -> None:
    """The wave's rows are gone, as of this transaction. Does nothing where no record was begun."""
    if await read(conn, move_id) is not None:
        await conn.execute(_DELETED, (move_id,))


async def reported(conn: AsyncConnection, move_id: str, report: object, *, closed: bool) -> None:
    """The last scan's report; with ``closed`` the fingerprints go. One transaction."""
    async with conn.transaction():
        await conn.execute(_REPORTED, (Jsonb(report), move_id))
        if closed:
            await conn.execute(_FORGET, (move_id,))
