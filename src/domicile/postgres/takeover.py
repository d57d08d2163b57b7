"""Past a mover that was stopped or cut off: its session at a site may stand in a transaction for ever, and every write
transaction of a mover holds the row of its move (``postgres/lease.py``), which whoever takes the move over must raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from psycopg import AsyncConnection

GRACE_SECONDS = 2.0  # for a transaction that is just ending
LOOK_SECONDS = 0.5

# Only a mover of the same move locks that row, and whoever holds its lease may end it; sessions of applications never.
_END_BLOCKERS = """
    select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
    where pid = any(pg_catalog.pg_blocking_pids(%s)) and application_name like 'domicile%%'"""


async def unhindered(work: Coroutine[None, None, None], conn: AsyncConnection, eye: AsyncConnection) -> None:
    """Do ``work``, one statement over ``conn`` that needs the row of a move; sessions of domicile that keep it waiting
    are ended over ``eye``, another session at the same site. For the holder of the move's lease only."""
    pid = conn.info.backend_pid
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=GRACE_SECONDS)
        while not task.done():
            await eye.execute(_END_BLOCKERS, (pid,))
            await asyncio.wait([task], timeout=LOOK_SECONDS)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    await task
