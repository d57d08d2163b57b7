"""The edges of a move: what both sites are given before its first wave, and what is taken away after its
last.

``enlist`` and ``freeze`` need the plan file (its condition is kept nowhere else), so they run before the
durable part; ``run`` and ``end`` are its first and last step. All idempotent.
"""

from __future__ import annotations

import logging

from psycopg import AsyncConnection

from domicile.control.figures import Figures
from domicile.model.errors import DomicileError
from domicile.model.handover import TargetMark
from domicile.model.phase import Phase, Status
from domicile.model.report import WaveStatus
from domicile.move import handover, stepback
from domicile.move.carrier import Carrier
from domicile.postgres import guard, site_schema, waves
from domicile.postgres.lease import settle_doubt

log = logging.getLogger(__name__)

_OUTCOME_STATUS = {
    "paused": Status.PAUSED,
    "failed": Status.FAILED,
    "aborted": Status.ABORTED,
}


async def enlist(carrier: Carrier) -> None:
    """Both sites know the move and this process's lease. Runs in every process that carries the move."""
    move = carrier.move
    key = move.source_schema.tables[move.data_map.subject.table].column(move.data_map.subject.key)
    async with carrier.sites() as (source, target):
        for conn, here, role, peer in (
            (source, move.source_site, "source", move.target_site),
            (target, move.target_site, "target", move.source_site),
        ):
            await site_schema.install(conn, key.type_name, key.collation)
            await waves.register_move(
                conn,
                waves.MoveAtSite(move.move_id, move.plan.dataset, here, role, peer, move.generation),
            )


async def run(carrier: Carrier) -> None:
    """The guard stands at both sites, disarmed: it costs nothing until a wave nears its fence."""
    move = carrier.move
    async with carrier.sites() as (source, target):
        seconds = move.plan.limits.fence_seconds_max
        for conn, schema, here in (
            (source, move.source_schema, move.source_site),
            (target, move.target_schema, move.target_site),
        ):
            await guard.install(conn, move.data_map, schema, here=here, seconds_max=seconds)


async def end(carrier: Carrier, outcome: str) -> None:
    """Write down how the attempt ended; an abort forgets every wave that has not moved."""
    move_id = carrier.move.move_id
    if outcome == "aborted":
        await _forget_unmoved(carrier)
    if outcome != "lost":
        await carrier.moves.set_status(move_id, _OUTCOME_STATUS.get(outcome, Status.WAITING))
        await carrier.moves.request(move_id, pause=False, abort=False)
    await release_guards(carrier)


async def release_guards(carrier: Carrier) -> None:
    """Disarm the guard where no wave needs it any more.

    Where a table cannot be locked now the guard stays armed, at the cost of a little time per write; it refuses nobody
    there, and the next move or purge disarms it.
    """
    limits = carrier.move.plan.limits
    for site in (carrier.source, carrier.target):
        try:
            async with site() as conn:
                if not await waves.waves_that_need_the_guard(conn):
                    await guard.disarm(
                        conn,
                        carrier.move.data_map.in_scope(),
                        lock_timeout_ms=limits.lock_timeout_ms,
                        seconds_max=limits.fence_seconds_max,
                    )
        except DomicileError as error:
            log.warning("the guard stays armed for now: %s", error.message)


async def _forget_unmoved(carrier: Carrier) -> None:
    """After an abort nothing is left of the waves that did not move; of a move that moved nobody, nothing at
    all."""
    move_id = carrier.move.move_id
    figures: Figures = carrier.figures
    all_waves = await figures.waves(move_id)
    unmoved: list[WaveStatus] = []
    for wave in all_waves:
        if wave.phase in (Phase.SOAK, Phase.PURGE, Phase.DONE):
            continue
        if wave.phase is Phase.HANDOVER and await _lives_at_target(carrier, wave.no):
            await carrier.moves.enter(move_id, wave.no, Phase.HANDOVER)
            await handover.run(carrier, wave.no)  # too late to take it back: finish it
            await carrier.moves.enter(move_id, wave.no, Phase.SOAK)
            continue
        unmoved.append(wave)
        if wave.phase is not Phase.PLANNED:
            await stepback.run(carrier, wave.no)
        await carrier.moves.back_to_planned(move_id, wave.no, Status.ABORTED)
    async with carrier.sites() as (source, target):
        for wave in unmoved:
            await _forget(carrier, source, wave.no)
        if len(unmoved) == len(all_waves):
            await waves.forget_move(source, move_id)
            await waves.forget_move(target, move_id)
            await _remove_guard_if_idle(carrier, source)
            await _remove_guard_if_idle(carrier, target)


async def _lives_at_target(carrier: Carrier, no: int) -> bool:
    move = carrier.move
    async with carrier.target() as target:
        await settle_doubt(target, move.move_id, move.generation)
        record = await waves.find_wave(target, move.move_id, no)
    return waves.target_mark(record) is TargetMark.RESIDENT


async def _forget(carrier: Carrier, source: AsyncConnection, no: int) -> None:
    record = await waves.find_wave(source, carrier.move.move_id, no)
    if record is not None:
        async with source.transaction():
            await waves.forget_wave(source, record.id)


async def _remove_guard_if_idle(carrier: Carrier, conn: AsyncConnection) -> None:
    row = await (await conn.execute("select not exists (select 1 from domicile.move)")).fetchone()
    if row and row[0]:
        await guard.remove(conn, carrier.move.data_map.in_scope())
