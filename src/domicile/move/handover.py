"""Hand a verified wave over: depart at the source, arrive at the target, publish.

Precondition: fenced at the source, arriving at the target, verdict clean. Postcondition: the target is the
one home, at the wave's epoch, and the directory says so. Point of no return: the target's commit in
``arrive``. Before it every failure ends with the source serving; after it, with the target serving; in
between both refuse until the marks have been read again.

The decisions are in ``model/handover.py``; this module reads the marks, asks it, and does what it says, first
run and recovery alike.
"""

from __future__ import annotations

from psycopg import AsyncConnection

from domicile.directory.directory import Home
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import Action, Facts, SourceMark, TargetMark, next_action
from domicile.move import evidence
from domicile.move.carrier import Carrier
from domicile.postgres import guard, waves
from domicile.postgres.lease import assert_lease

# Whatever the role's setting: the other site acts upon a mark, so no crash may take it back.
_DURABLE = "select pg_catalog.set_config('synchronous_commit', 'on', true)"
ACTIONS_MAX = 12  # depart, arrive, publish and as many repetitions as recovery can need


async def run(carrier: Carrier, no: int) -> None:
    """Carry out the phase for wave ``no``; raises phase-forbids when the wave is not fit and must step
    back."""
    async with carrier.sites() as (source, target):
        for _ in range(ACTIONS_MAX):
            facts = await carrier.facts(source, target, no)
            assert not facts.two_homes()
            action = next_action(facts)
            if action is Action.FINISHED:
                break
            await _act(carrier, source, target, no, action, facts)
        else:
            raise AssertionError("the handover does not end")
        epoch = await _epoch(carrier, target, no)
    await carrier.figures.released(carrier.move.move_id, no)
    waited = (await carrier.figures.wave(carrier.move.move_id, no)).fence_seconds
    if waited is not None:
        await evidence.paused(carrier, no, epoch, waited * 1000)


async def _act(
    carrier: Carrier, source: AsyncConnection, target: AsyncConnection, no: int, action: Action, facts: Facts
) -> None:
    move = carrier.move
    match action:
        case Action.DEPART:
            await _mark(carrier, source, no, SourceMark.DEPARTED, await _epoch(carrier, target, no))
            await move.failpoints.reach("handover.departed")
        case Action.ARRIVE:
            await _mark(carrier, target, no, TargetMark.RESIDENT, await _epoch(carrier, target, no))
            await move.failpoints.reach("handover.arrived")
        case Action.PUBLISH:
            home = Home(move.target_site, await _epoch(carrier, target, no))
            await carrier.directory.publish(move.plan.dataset, move.move_id, no, home)
            await move.failpoints.reach("handover.published")
        case Action.RETURN:
            await _mark(carrier, source, no, SourceMark.FENCED, await _epoch(carrier, target, no))
        case _:
            raise DomicileError(
                ErrorCode.PHASE_FORBIDS,
                f"wave {no} cannot be handed over: source {facts.source}, target {facts.target}",
                facts={"source": str(facts.source), "target": str(facts.target), "fit": facts.fit},
                safe="The wave steps back; the source serves and nothing has changed.",
                hint=f"Begin the wave again with: domicile resume {move.move_id}",
            )


async def _epoch(carrier: Carrier, target: AsyncConnection, no: int) -> int:
    record = await waves.find_wave(target, carrier.move.move_id, no)
    assert record is not None
    return record.epoch


async def _mark(carrier: Carrier, conn: AsyncConnection, no: int, mark: SourceMark | TargetMark, epoch: int) -> None:
    """One commit at one site: the mark, the home it means, the epoch."""
    move = carrier.move
    record = await waves.find_wave(conn, move.move_id, no)
    assert record is not None
    home = move.source_site if mark is SourceMark.FENCED else move.target_site
    root = (await carrier.figures.wave(move.move_id, no)).source_root
    async with conn.transaction():
        await assert_lease(conn, move.move_id, move.generation)
        await conn.execute(_DURABLE)
        await guard.set_fence(conn, record.id, mark, home, epoch)
        if mark is SourceMark.FENCED:
            await evidence.stepped_back(carrier, conn, move.source_site, no, epoch)
        else:
            site = move.target_site if mark is TargetMark.RESIDENT else move.source_site
            await evidence.add(carrier, conn, evidence.handover(carrier, site, no, epoch, root))
