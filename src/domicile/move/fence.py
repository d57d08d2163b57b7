"""Fence a wave: from here on no write for its subjects can commit at the source.

Precondition: prepared. Postcondition: the guard is armed at the source, the wave is marked ``fenced``, every
transaction that could have written for it before has ended, and the target's id generators are past every id
the wave brings. Writers outside the wave neither wait nor fail; in-flight transactions finish. Reversible:
yes. Idempotent.

When the writers do not end within the budget, fence-budget names them and the wave steps back: nothing has
changed. Source of the drain: Citus waits for the shard's lock; the difference here is that nobody queues
behind the wait.
"""

from __future__ import annotations

from domicile.model.handover import SourceMark
from domicile.move.carrier import Carrier
from domicile.postgres import guard, sequences, waves
from domicile.postgres.lease import assert_lease


async def run(carrier: Carrier, no: int) -> None:
    """Carry out the phase for wave ``no``."""
    move = carrier.move
    limits = move.plan.limits
    tables = move.data_map.in_scope()
    async with carrier.sites() as (source, target):
        at_source = await waves.find_wave(source, move.move_id, no)
        at_target = await waves.find_wave(target, move.move_id, no)
        assert at_source is not None, "frozen when the move began"
        assert at_target is not None, "registered by prepare"
        await guard.arm(
            source,
            tables,
            wave_id=at_source.id,
            lock_timeout_ms=limits.lock_timeout_ms,
            seconds_max=limits.fence_seconds_max,
        )
        await move.failpoints.reach("fence.armed")
        await carrier.figures.fenced(move.move_id, no)
        async with source.transaction():
            await assert_lease(source, move.move_id, move.generation)
            await guard.set_fence(source, at_source.id, SourceMark.FENCED, move.source_site, at_target.epoch)
        await move.failpoints.reach("fence.marked")
        await guard.drain(source, tables, seconds_max=limits.fence_seconds_max)
        await move.failpoints.reach("fence.drained")
        await sequences.advance(source, target, move.source_schema, move.target_schema, tables)
