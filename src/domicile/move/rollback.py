"""Roll a wave back: a handover in the other direction, which keeps every write made at the target.

Precondition: the wave lives at the target, its source copy is as it was at the departure, the slot of the way back
holds every write since. Postcondition: the source is the one home, under the next epoch; the target keeps its copy,
closed, so that stale writers are told, until it is purged (`clear`). Until the source has taken over, every failure
ends with the target serving. Idempotent: continued where it was cut.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
import logging

import psycopg
from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import Phase, Status
from domicile.move import clearing, evidence, live, live_handover, stepback, streams
from domicile.move.carrier import Carrier
from domicile.postgres import guard, waves
from domicile.postgres.lease import assert_lease, settle_doubt
from domicile.stream.seam import Seam

WAY_OUT = (
    "Order it again in a quiet hour. If it ends so again: domicile purge {move}, then a move from {target} to {source}."
)

log = logging.getLogger(__name__)


async def run(carrier: Carrier, no: int) -> None:
    """Carry out the rollback of wave ``no``; raises way-back-closed, and whatever keeps a handover from succeeding."""
    back = carrier.reversed()
    if not await is_home_again(back, no):
        await streams.require_way_back(carrier)
        async with back.sites() as (losing, gaining):
            await _prepare(back, losing, gaining, no)
    await live.run(back, no)  # of a wave that is home again: what is left to be published
    await _write_back(carrier, no, at_target=False)
    await carrier.move.failpoints.reach("rollback.arrived")


async def clear(carrier: Carrier) -> Counter[str]:
    """Remove the copies that rolled back waves have left at the target, where the guard kept them for stale writers;
    returns the rows removed by table. Idempotent."""
    back = carrier.reversed()
    removed: Counter[str] = Counter()
    await streams.require_no_doubt(carrier)
    for wave in await carrier.figures.waves(carrier.move.move_id):
        async with back.sites() as (losing, gaining):
            left = await waves.find_wave(losing, carrier.move.move_id, wave.no)
            home = await waves.find_wave(gaining, carrier.move.move_id, wave.no)
            if left is None or left.mark != SourceMark.DEPARTED or waves.target_mark(home) is not TargetMark.RESIDENT:
                continue
            # The clean-up asks for the site that is being cleaned as the target.
            arrived = bool((await waves.stream_record(losing, left.id)).arrival)
            record = partial(evidence.purged if arrived else _never_arrived, back, no=wave.no)
            removed += await stepback.clean(carrier, losing, left.id, record=record)
        await carrier.move.failpoints.reach("rollback.cleared")
    return removed


async def _never_arrived(back: Carrier, losing: AsyncConnection, _rows: int, *, no: int) -> None:
    """A failover took the arrival from the site, with its leaf: its log does not know that the wave was ever there."""
    await evidence.stepped_back(back, losing, back.move.source_site, no)


async def begin_stream(back: Carrier, losing: AsyncConnection, gaining: AsyncConnection, no: int) -> waves.WaveRecord:
    """The stream back to the copy begins at the wave's arrival, unless it has begun; returns the copy's record.

    The copy changes from now on, so its seal is broken before: nobody is to take what the mover writes for a write past
    the guard. A process that dies leaves it so, and a purge seals it first.
    """
    move = back.move
    await back.moves.seal(move.move_id, no, "")
    at_losing = await waves.find_wave(losing, move.move_id, no)
    at_gaining = await waves.find_wave(gaining, move.move_id, no)
    assert at_losing is not None
    assert at_gaining is not None
    async with gaining.transaction():
        await assert_lease(gaining, move.move_id, move.generation)
        if not (await waves.stream_record(gaining, at_gaining.id)).seam:
            arrival = (await waves.stream_record(losing, at_losing.id)).arrival
            snapshot, own, position = arrival.split()
            seam = Seam.parse(snapshot).with_seen(int(own))
            await waves.set_seam(gaining, at_gaining.id, str(seam), int(position))
    return at_gaining


async def settle(carrier: Carrier, no: int) -> None:
    """After a rollback that failed or died: the wave lives at one site again, and its phase says where. Idempotent.

    Raises site-unreachable when a site cannot be asked.
    """
    move_id = carrier.move.move_id
    lives_at_target = await undo(carrier, no)
    await _write_back(carrier, no, at_target=lives_at_target)
    if not lives_at_target:
        await carrier.moves.back_to_planned(move_id, no, Status.ABORTED)
        return
    await carrier.moves.enter(move_id, no, Phase.SOAK)
    try:
        await live.seal(carrier, no)
    except (DomicileError, psycopg.Error) as trouble:
        log.warning("wave %s: its copy at %s is sealed later: %s", no, carrier.move.source_site, type(trouble).__name__)


async def _write_back(carrier: Carrier, no: int, *, at_target: bool) -> None:
    """What was cleared where the wave lives is as it was: at the source on the way there, at the target on a way back
    that has failed."""
    async with carrier.sites() as (source, target):
        record = await waves.find_wave(target if at_target else source, carrier.move.move_id, no)
    assert record is not None
    await clearing.write_back(carrier.move, record.id, back=at_target)


async def undo(carrier: Carrier, no: int) -> bool:
    """After a failure: the target serves on, the source copy is closed as before. False when the wave is home at the
    source already: then only forward is right."""
    back = carrier.reversed()
    if await live_handover.recover(back, no):
        return False
    move = back.move
    async with back.target() as gaining:
        await settle_doubt(gaining, move.move_id, move.generation)
        record = await waves.find_wave(gaining, move.move_id, no)
        assert record is not None
        if record.mark == TargetMark.ARRIVING:
            async with gaining.transaction():
                await assert_lease(gaining, move.move_id, move.generation)
                await guard.set_fence(gaining, record.id, SourceMark.DEPARTED, move.source_site, record.epoch - 1)
    await carrier.directory.release(move.move_id, no)
    return True


async def is_home_again(back: Carrier, no: int) -> bool:
    """Whether the wave lives at the source again, though perhaps nobody has been told; ``back`` has the sites
    exchanged. Raises site-unreachable."""
    async with back.target() as gaining:
        await settle_doubt(gaining, back.move.move_id, back.move.generation)
        record = await waves.find_wave(gaining, back.move.move_id, no)
    return waves.target_mark(record) is TargetMark.RESIDENT


def blocked(carrier: Carrier, no: int, why: DomicileError) -> DomicileError:
    """What a collision means that no turn resolves."""
    move = carrier.move
    return DomicileError(
        ErrorCode.WAY_BACK_BLOCKED,
        f"wave {no} cannot be brought back to {move.source_site} as it is written down: {why.message}",
        facts=why.facts,
        safe=f"{move.target_site} serves the waves that are not home again; nothing is lost.",
        hint=WAY_OUT.format(source=move.source_site, target=move.target_site, move=move.move_id),
    )


async def _prepare(back: Carrier, losing: AsyncConnection, gaining: AsyncConnection, no: int) -> None:
    """The stream back begins at the wave's arrival at the target. The copy stays departed until its handover is tried:
    writers who come to it are sent to the target meanwhile."""
    move = back.move
    at_losing = await waves.find_wave(losing, move.move_id, no)
    at_gaining = await waves.find_wave(gaining, move.move_id, no)
    assert at_losing is not None
    assert at_gaining is not None
    if at_gaining.mark == TargetMark.ARRIVING:
        return
    if at_gaining.mark != SourceMark.DEPARTED:
        raise DomicileError(
            ErrorCode.PHASE_FORBIDS,
            f"wave {no} does not live at {move.source_site} by a live handover",
            facts={"mark": at_gaining.mark},
            safe=f"{move.source_site} serves the wave.",
            hint=f"See where it stands with: domicile status {move.move_id}",
        )
    async with losing.transaction():
        await back.directory.reserve(move.plan.dataset, move.move_id, no, waves.members(losing, at_losing.id))
    await begin_stream(back, losing, gaining, no)
    await move.failpoints.reach("rollback.prepared")
