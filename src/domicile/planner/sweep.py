"""The sweep: whoever fits the plan's condition now and is in none of the move's waves forms one more.

They changed into the market, or signed up in a transaction from before sign-ups were refused (or where they are
accepted). A cohort that was given by a file has no late joiners.
"""

from __future__ import annotations

from psycopg import AsyncConnection, IsolationLevel

from domicile.model.datamap import DataMap
from domicile.model.plan import Plan
from domicile.model.site import MoveId
from domicile.planner import cohort, condition
from domicile.planner.freeze import ONE_AT_A_TIME, register
from domicile.postgres import conditions, waves
from domicile.postgres.lease import assert_lease


async def sweep(conn: AsyncConnection, plan: Plan, data_map: DataMap, move_id: MoveId, no: int, generation: int) -> int:
    """Register wave ``no`` of the late joiners there are, mark ``open``, members in key order; returns how many, 0 for
    nobody.

    One REPEATABLE READ transaction at the source, whose connection must be idle; one wave takes as many as the plan's
    limit allows, the next sweep the rest. Idempotent: a wave that is registered is left as it is. Raises lease-lost,
    and condition-invalid when the condition cannot be used any more. Subjects of another move are left to it.
    """
    await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    try:
        async with conn.transaction():
            await conn.execute(ONE_AT_A_TIME)
            await assert_lease(conn, move_id, generation)
            existing = await waves.find_wave(conn, move_id, no)
            if existing is not None:
                return await waves.count_members(conn, existing.id)
            where = await conditions.kept(conn, move_id)
            if not where:
                return 0
            await condition.vet(conn, data_map, where)
            await cohort.create_tables(conn, data_map, on_commit_drop=True)
            found = await cohort.select_late(conn, data_map, where, move_id, plan.limits.wave_subjects_max)
            return await register(conn, move_id, plan.source, [(no, 0, found)]) if found else 0
    finally:
        await conn.set_isolation_level(None)
