"""Prepare a wave: the target knows who comes, the directory has reserved their next epoch, nothing is in the
way.

Precondition: the cohort is frozen at the source. Postcondition: the wave is registered at both sites (source
``open``, target ``arriving``), the guard is armed at the target, no key of the wave collides with a row
there, and no other move can take its subjects. Reversible: yes, without a trace. Idempotent: what is there
already is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import TargetMark
from domicile.model.schema import TableName
from domicile.move.carrier import Carrier
from domicile.postgres import collisions, guard, waves
from domicile.postgres.lease import assert_lease
from domicile.postgres.ownership import ident

COLLISIONS_NAMED_MAX = 5


async def run(carrier: Carrier, no: int) -> None:
    """Carry out the phase for wave ``no``."""
    move = carrier.move
    async with carrier.sites() as (source, target):
        at_source = await waves.find_wave(source, move.move_id, no)
        assert at_source is not None, "the cohort is frozen before the first wave"
        await move.failpoints.reach("prepare.source_registered")
        target_id = await _register_at_target(carrier, source, target, at_source.id, no)
        await move.failpoints.reach("prepare.target_registered")
        async with source.transaction():
            await carrier.directory.reserve(move.plan.dataset, move.move_id, no, waves.members(source, at_source.id))
        await move.failpoints.reach("prepare.reserved")
        tables = move.data_map.in_scope()
        await _refresh_statistics(target, tables)
        await guard.arm(
            target,
            tables,
            lock_timeout_ms=move.plan.limits.lock_timeout_ms,
            seconds_max=move.plan.limits.fence_seconds_max,
        )
        # Where an earlier wave had armed the guard, a writer from before this wave's mark may still be under way.
        await guard.drain(target, tables, seconds_max=move.plan.limits.fence_seconds_max)
        await _refuse_collisions(carrier, source, target, at_source.id, target_id)


async def _refresh_statistics(target: AsyncConnection, tables: Sequence[TableName]) -> None:
    """Let the target's planner know of the waves that came before: autovacuum looks once a minute, and at a partitioned
    table's root never. Without this the checks under the fence run as nested loops (the demo: twice the CPU there).

    Outside the fence. A table that somebody holds locked is skipped, and so is one that we may not analyze.
    """
    names = sql.SQL(", ").join(map(ident, tables))
    await target.execute(sql.SQL("analyze (skip_locked) {}").format(names))


async def _register_at_target(
    carrier: Carrier, source: AsyncConnection, target: AsyncConnection, source_id: int, no: int
) -> int:
    move = carrier.move
    existing = await waves.find_wave(target, move.move_id, no)
    if existing is not None:
        return existing.id
    epoch = await waves.next_epoch(source, source_id)
    record = waves.WaveRecord(0, TargetMark.ARRIVING, move.source_site, epoch)
    async with source.transaction(), target.transaction():
        await assert_lease(target, move.move_id, move.generation)
        target_id = await waves.insert_wave(target, move.move_id, no, record)
        await waves.write_members(target, target_id, waves.members(source, source_id))
    await target.execute("analyze domicile.member")
    return target_id


async def _refuse_collisions(
    carrier: Carrier, source: AsyncConnection, target: AsyncConnection, source_id: int, target_id: int
) -> None:
    found = await collisions.find_for_wave(
        source, target, carrier.move.data_map, carrier.move.target_schema, source_id, target_id
    )
    if not found:
        return
    raise DomicileError(
        ErrorCode.KEYS_COLLIDE,
        f"{sum(c.count for c in found)} rows of the wave collide with rows at {carrier.move.target_site}",
        facts={"collisions": [c.as_dict() for c in found[:COLLISIONS_NAMED_MAX]]},
        safe="Nothing was copied; the source serves.",
        hint="Give the colliding rows other keys at one of the sites, then: domicile resume " + carrier.move.move_id,
    )
