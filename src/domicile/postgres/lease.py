"""The fencing token of a mover, checked by both sites at every write.

A move is carried by one process at a time. Whoever takes it over raises the generation in the control
database and then here; a mover that was only believed dead finds its generation gone at its next write and
stops. Source of the idea: fencing tokens (Kleppmann, 2016).
"""

from __future__ import annotations

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId

DOUBT_SECONDS_MAX = 15
ASSERT_SQL = "select true from domicile.move where move_id = %s and generation = %s for share"
_SETTLE_SQL = "select true from domicile.move where move_id = %s and generation = %s for update"
_NEXT_TERM = "update domicile.wave set term = term + 1 where move_id = %s"


async def assert_lease(conn: AsyncConnection, move_id: MoveId, generation: int) -> None:
    """Hold the lease until the current transaction ends, or raise lease-lost. First statement of every write
    transaction."""
    row = await (await conn.execute(ASSERT_SQL, (move_id, generation))).fetchone()
    if row is None:
        raise lease_lost(move_id, generation)


def lease_lost(move_id: MoveId, generation: int) -> DomicileError:
    """The error of a mover that was taken over."""
    return DomicileError(
        ErrorCode.LEASE_LOST,
        f"another process carries move {move_id} now",
        facts={"move": move_id, "generation": generation},
        safe="This process stopped before writing anything more; the other one goes on from the last commit.",
        hint=f"Watch it with: domicile status {move_id} --watch",
    )


async def settle_doubt(conn: AsyncConnection, move_id: MoveId, generation: int) -> None:
    """Wait until no transaction of the mover is open at this site any more, so that what is read next is decided.

    A connection that broke may leave its transaction behind, its COMMIT on the way: it holds the lease's row, which
    this takes for itself alone. Raises when it is not free within `DOUBT_SECONDS_MAX`: then nothing may be concluded.

    It may also leave a whole transaction on the line, of which the site knows nothing yet. The waves' term is raised,
    so that it is refused when it comes: streams into this site that were opened before carry nothing out any more.
    """
    async with conn.transaction():
        await conn.execute("select pg_catalog.set_config('lock_timeout', %s, true)", (f"{DOUBT_SECONDS_MAX}s",))
        cursor = await conn.execute(_SETTLE_SQL, (move_id, generation))
        if await cursor.fetchone() is not None:  # of a mover that was taken over the lease refuses all
            await conn.execute(_NEXT_TERM, (move_id,))
