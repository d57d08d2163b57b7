"""One process carries a move. The right to do so is a session lock in the control database plus a generation
that the sites check.

The lock says who lives (it goes with its session, also at kill -9); the generation protects against one who
was only believed dead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import hashlib

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId

_TRY_LOCK = "select pg_catalog.pg_try_advisory_lock(%s)"
_TAKE = """
    update domicile_control.move set generation = generation + 1, runner = %s
    where move_id = %s returning generation"""


@asynccontextmanager
async def hold_lease(conn: AsyncConnection, move_id: MoveId, runner: str) -> AsyncIterator[int]:
    """Carry the move while the block runs; yields the generation. ``conn`` must live as long as the block.
    Raises move-busy."""
    row = await (await conn.execute(_TRY_LOCK, (_lock_number(move_id),))).fetchone()
    if not (row and row[0]):
        raise await _busy(conn, move_id)
    taken = await (await conn.execute(_TAKE, (runner, move_id))).fetchone()
    assert taken is not None
    try:
        yield int(taken[0])
    finally:
        if not conn.closed and not conn.broken:
            await conn.execute("update domicile_control.move set runner = '' where move_id = %s", (move_id,))
            await conn.execute("select pg_catalog.pg_advisory_unlock(%s)", (_lock_number(move_id),))


async def living_runner(conn: AsyncConnection, move_id: MoveId) -> str:
    """Who carries the move now, or empty: the runner's name counts only while its session holds the lock."""
    number = _lock_number(move_id)
    row = await (
        await conn.execute(
            """select m.runner from domicile_control.move as m where m.move_id = %s and exists (
                 select 1 from pg_catalog.pg_locks as l where l.locktype = 'advisory' and l.granted and l.objsubid = 1
                 and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
                 and (l.classid::bigint << 32 | l.objid::bigint) = %s)""",
            (move_id, number),
        )
    ).fetchone()
    return str(row[0]) if row else ""


def _lock_number(move_id: MoveId) -> int:
    """A positive 63-bit number of the move, so that it reads back from pg_locks as it was given."""
    return int.from_bytes(hashlib.sha256(move_id.encode()).digest()[:8], "big") >> 1


async def _busy(conn: AsyncConnection, move_id: MoveId) -> DomicileError:
    runner = await living_runner(conn, move_id)
    return DomicileError(
        ErrorCode.MOVE_BUSY,
        f"move {move_id} is being carried by another process ({runner or 'unknown'})",
        facts={"move": move_id, "runner": runner},
        safe="That process goes on undisturbed.",
        hint=f"Watch it with: domicile status {move_id} --watch; stop it with: domicile pause {move_id}",
    )
