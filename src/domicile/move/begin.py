"""The edges of a move: what both sites are given before its first wave, and what is taken away after its
last.

``enlist`` and ``freeze`` need the plan file (its condition is kept nowhere else), so they run before the
durable part; ``run`` and ``end`` are its first and last step. All idempotent.
"""

from __future__ import annotations

import logging

from psycopg import AsyncConnection

from domicile.control.figures import Figures
from domicile.ledger.evidence import destroy_salts
from domicile.model.errors import DomicileError
from domicile.model.handover import TargetMark
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode
from domicile.model.report import WaveStatus
from domicile.move import clearing, evidence, failover, handover, live, rollback, stepback, streams
from domicile.move.carrier import Carrier
from domicile.postgres import guard, reclaim, sign_ups, site_schema, waves
from domicile.postgres.lease import assert_lease, settle_doubt
from domicile.postgres.takeover import unhindered

log = logging.getLogger(__name__)

_FINISH = {Mode.COLD: handover.run, Mode.LIVE: live.run}
_SWEPT = "select no from domicile.wave where move_id = %s and no > %s"
_OUTCOME_STATUS = {
    "paused": Status.PAUSED,
    "failed": Status.FAILED,
    "aborted": Status.ABORTED,
}


async def enlist(carrier: Carrier) -> None:
    """Both sites know the move and this process's lease, and no transaction of a former holder is open there any more.
    What a failover took from either site is put right. Waves that a process left on their way back live at one site
    again, whatever was ordered now. Runs in every process that carries the move."""
    move = carrier.move
    key = move.source_schema.tables[move.data_map.subject.table].column(move.data_map.subject.key)
    async with carrier.sites() as (source, target), carrier.sites() as (source_eye, target_eye):
        for conn, eye, here, role, peer in (
            (source, source_eye, move.source_site, "source", move.target_site),
            (target, target_eye, move.target_site, "target", move.source_site),
        ):
            await site_schema.install(conn, key.type_name, key.collation)
            record = waves.MoveAtSite(move.move_id, move.plan.dataset, here, role, peer, move.generation)
            await unhindered(waves.register_move(conn, record), conn, eye)
            await evidence.begin(carrier, conn, here)
    await failover.mend(carrier)
    await streams.after_failover(carrier)
    for wave in await carrier.figures.waves(move.move_id):
        if wave.phase is Phase.ROLLBACK:
            await rollback.settle(carrier, wave.no)


async def run(carrier: Carrier) -> None:
    """The guard stands at both sites, disarmed: it costs nothing until a wave nears its fence. The source refuses
    sign-ups from now on, where the plan says so."""
    move = carrier.move
    async with carrier.sites() as (source, target):
        await failover.require_cohort(carrier, source)
        seconds = move.plan.limits.fence_seconds_max
        for conn, schema, here in (
            (source, move.source_schema, move.source_site),
            (target, move.target_schema, move.target_site),
        ):
            await guard.install(conn, move.data_map, schema, here=here, seconds_max=seconds)
        await sign_ups.install(
            source, move.data_map, lock_timeout_ms=move.plan.limits.lock_timeout_ms, seconds_max=seconds
        )
    await streams.begin(carrier)


async def end(carrier: Carrier, outcome: str) -> None:
    """Write down how the attempt ended; an abort forgets every wave that has not moved, and a move that everybody has
    left is done."""
    move_id = carrier.move.move_id
    gone = False
    if outcome != "lost":
        await sweep_references(carrier)
    nobody = outcome == "done" and not any(w.subjects for w in await carrier.figures.waves(move_id))
    if outcome == "aborted":
        gone = await _forget_unmoved(carrier)
    if outcome == "aborted" or nobody:
        await release_sign_ups(carrier)
    if nobody:
        await evidence.erased(carrier)
    if outcome != "lost":
        status = Status.DONE if nobody else _OUTCOME_STATUS.get(outcome, Status.WAITING)
        if not (status is Status.FAILED and (await carrier.moves.get(move_id)).error_code):  # says why already
            await carrier.moves.set_status(move_id, status)
        await carrier.moves.request(move_id, pause=False, abort=False)
        if not gone:
            await streams.end(carrier)
    await release_guards(carrier)
    await evidence.close(carrier)


async def sweep_references(carrier: Carrier) -> None:
    """What has gone with the stream is named by nobody. Where a wave of the move is still away from the source, what is
    missing there may come home with it."""
    all_waves = await carrier.figures.waves(carrier.move.move_id)
    await clearing.sweep(carrier.move, source=False)
    if not any(wave.phase in (Phase.SOAK, Phase.ROLLBACK) for wave in all_waves):
        await clearing.sweep(carrier.move, source=True)


async def release_sign_ups(carrier: Carrier) -> None:
    """The move is over: the source takes new subjects of every kind again, and forgets the plan's condition.

    Where the table cannot be locked now a trigger stays behind that refuses nobody; the next move takes it off.
    """
    move = carrier.move
    limits = move.plan.limits
    try:
        async with carrier.source() as source:
            await sign_ups.release(
                source,
                move.data_map,
                move.move_id,
                lock_timeout_ms=limits.lock_timeout_ms,
                seconds_max=limits.fence_seconds_max,
            )
    except DomicileError as error:
        log.warning("the trigger for sign-ups stays, refusing nobody: %s", error.message)


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


async def _forget_unmoved(carrier: Carrier) -> bool:
    """After an abort nothing is left of the waves that did not move; of a move that moved nobody, nothing at
    all: then True."""
    move_id = carrier.move.move_id
    figures: Figures = carrier.figures
    all_waves = await figures.waves(move_id)
    unmoved: list[WaveStatus] = []
    for wave in all_waves:
        if wave.phase in (Phase.SOAK, Phase.ROLLBACK, Phase.PURGE, Phase.DONE):
            continue
        if wave.phase is Phase.HANDOVER and await _lives_at_target(carrier, wave.no):
            await carrier.moves.enter(move_id, wave.no, Phase.HANDOVER)
            await _FINISH[carrier.move.mode](carrier, wave.no)  # too late to take it back: finish it
            await carrier.moves.enter(move_id, wave.no, Phase.SOAK)
            continue
        unmoved.append(wave)
        if wave.phase is not Phase.PLANNED:
            await stepback.run(carrier, wave.no)
        await carrier.moves.back_to_planned(move_id, wave.no, Status.ABORTED)
    async with carrier.sites() as (source, target):
        async with source.transaction():
            await assert_lease(source, move_id, carrier.move.generation)
            forgotten = [await _forget(carrier, source, wave.no) for wave in unmoved]
            # A sweep that was cut has left a wave at the source alone.
            cursor = await source.execute(_SWEPT, (move_id, max(w.no for w in all_waves)))
            for (no,) in await cursor.fetchall():
                await _forget(carrier, source, no)
            await evidence.given_up(carrier, source, sum(forgotten))
        if all(forgotten) and len(unmoved) == len(all_waves):
            await evidence.erased(carrier)
            await streams.end(carrier)  # it needs the lease, which the sites are about to forget
            await waves.forget_move(source, move_id)
            await waves.forget_move(target, move_id)
            await _remove_guard_if_idle(carrier, source)
            await _remove_guard_if_idle(carrier, target)
            return True
        await reclaim.rewrite_salts(source)
    return False


async def _lives_at_target(carrier: Carrier, no: int) -> bool:
    move = carrier.move
    async with carrier.target() as target:
        await settle_doubt(target, move.move_id, move.generation)
        record = await waves.find_wave(target, move.move_id, no)
    return waves.target_mark(record) is TargetMark.RESIDENT


async def _forget(carrier: Carrier, source: AsyncConnection, no: int) -> bool:
    """False when the wave was rolled back: its record stays, because the source is its home under that epoch."""
    record = await waves.find_wave(source, carrier.move.move_id, no)
    if record is None:
        return True
    if record.mark == TargetMark.RESIDENT:
        return False
    await waves.forget_wave(source, record.id)
    await destroy_salts(source, carrier.move.move_id, no)
    return True


async def _remove_guard_if_idle(carrier: Carrier, conn: AsyncConnection) -> None:
    row = await (await conn.execute("select not exists (select 1 from domicile.move)")).fetchone()
    if row and row[0]:
        await guard.remove(conn, carrier.move.data_map.in_scope())
