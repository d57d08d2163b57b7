"""Write down at the source who is in which wave, when a move starts, and by which condition: for the trigger that
refuses sign-ups, the sweep of late joiners, and whoever looks for members who have left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from psycopg import AsyncConnection, IsolationLevel

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Plan, SignUps
from domicile.model.site import MoveId, SiteName
from domicile.planner import cohort, condition

# LOCK comes before the snapshot, so whoever waited here sees the cohort the other one froze. The mode lets running
# moves read and share-lock their rows; only beginning or taking over a move waits.
ONE_AT_A_TIME = "lock table domicile.move in share row exclusive mode"
_REGISTERED = """
    select count(distinct w.id), count(m.ordinal) from domicile.wave as w
    left join domicile.member as m on m.wave = w.id where w.move_id = %s"""
_WAVES = """
    insert into domicile.wave (move_id, no, mark, home, epoch)
    select %(move_id)s, no, 'open', %(home)s, 0 from unnest(%(numbers)s::integer[]) as planned (no)"""
_MEMBERS = """
    insert into domicile.member (wave, ordinal, subject)
    select w.id, c.ordinal - planned.first, c.subject
    from unnest(%(numbers)s::integer[], %(firsts)s::integer[], %(lasts)s::integer[])
            as planned (no, first, last)
        join domicile.wave as w on w.move_id = %(move_id)s and w.no = planned.no
        join pg_temp.domicile_cohort as c on c.ordinal > planned.first and c.ordinal <= planned.last"""
Record = Callable[[AsyncConnection], Awaitable[None]]
_KEEP = "update domicile.move set condition = %s, sign_ups = %s where move_id = %s"


async def freeze(
    conn: AsyncConnection,
    plan: Plan,
    data_map: DataMap,
    move_id: MoveId,
    *,
    subjects: Sequence[str] | None = None,
    record: Record | None = None,
) -> int:
    """Register every wave of the plan, mark ``open``, with its members in key order, ordinals from 1; returns the
    number of members.

    One REPEATABLE READ transaction at the source, whose connection must be idle. The site schema and the move's row
    must be there. ``subjects`` are the lines of the plan's file of subjects, read again. ``record`` writes the evidence
    of it, in the same transaction. Idempotent: a move whose waves are registered is left as it is.

    Raises plan-stale when the cohort is no longer the one that was planned; condition-invalid, cohort-empty,
    cohort-departed and cohort-reserved as planning does. Nothing is registered then.
    """
    await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    try:
        async with conn.transaction():
            await conn.execute(ONE_AT_A_TIME)
            return await _freeze(conn, plan, data_map, move_id, subjects, record)
    finally:
        await conn.set_isolation_level(None)


async def _freeze(
    conn: AsyncConnection,
    plan: Plan,
    data_map: DataMap,
    move_id: MoveId,
    subjects: Sequence[str] | None,
    record: Record | None,
) -> int:
    row = await (await conn.execute(_REGISTERED, (move_id,))).fetchone()
    if row is not None and row[0]:
        return int(row[1])
    if not plan.cohort.subjects_file:
        await condition.vet(conn, data_map, plan.cohort.where)
    await cohort.create_tables(conn, data_map, on_commit_drop=True)
    size = await cohort.select(conn, data_map, plan.cohort.where, subjects)
    await cohort.refuse_elsewhere(conn, move_id)
    if (digest := await cohort.digest(conn)) != plan.cohort.digest or size != plan.cohort.size:
        raise DomicileError(
            ErrorCode.PLAN_STALE,
            f"the cohort is not the planned one: {size} subjects now, {plan.cohort.size} in the plan",
            facts={
                "planned": plan.cohort.size,
                "now": size,
                "digest_planned": plan.cohort.digest,
                "digest_now": digest,
            },
            safe="No wave was registered; the source serves everybody.",
            hint="Make a new plan with: domicile plan",
        )
    members = await register(conn, move_id, plan.source, [(w.no, w.first, w.last) for w in plan.waves])
    refused = plan.sign_ups if plan.cohort.where else SignUps.ACCEPT  # without a condition there is nobody to refuse
    await conn.execute(_KEEP, (plan.cohort.where, refused, move_id))
    if record is not None:
        await record(conn)
    return members


async def register(conn: AsyncConnection, move_id: MoveId, home: SiteName, cuts: Sequence[tuple[int, int, int]]) -> int:
    """Write down waves of the cohort table, mark ``open``: each its number, and the positions in (first, last] of its
    members; returns how many those are."""
    numbers, firsts, lasts = (list(column) for column in zip(*cuts, strict=True))
    waves = {"move_id": move_id, "home": home, "numbers": numbers, "firsts": firsts, "lasts": lasts}
    await conn.execute(_WAVES, waves)
    members = (await conn.execute(_MEMBERS, waves)).rowcount
    await conn.execute("analyze domicile.member")  # the first wave begins before autovacuum would look
    return members
