"""A live wave from the end of its copy to its arrival: caught up, verified and handed over while its users write.

    catchup   the stream brings what was committed since the copy's snapshot
    verify    both sites in full, then touched rows again and again
    handover  tried until it succeeds or its tries are used up (``live_handover.py``)

Precondition: the wave's rows are at the target as one snapshot of the source had them, whose seam is kept there.
Entered in any of its phases, after a crash or anew: it finds out where the wave stands and goes on from there.
Reversible until the arrival. It also carries a wave back: then "source" is the site that loses it (`Move.reversed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
import logging
import time

import psycopg
from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark
from domicile.model.phase import ORDER, Phase
from domicile.model.report import LEFT, InTheWay
from domicile.move import eject, evidence, live_verify, slices, verify
from domicile.move.carrier import Carrier
from domicile.move.live_handover import Drains, attempt, recover, rehearse
from domicile.move.live_wave import LiveWave, open_live, session
from domicile.move.monitor import Monitor, monitored
from domicile.move.reader import together
from domicile.postgres import drain, guard, sequences, waves
from domicile.postgres.failures import explain, refusal_of
from domicile.postgres.introspect import read_schema, schema_digest
from domicile.postgres.lease import assert_lease
from domicile.stream import slot

log = logging.getLogger(__name__)

_CARRYING = "carrying the wave"
LOOK_SECONDS = 0.1
REST_SHARE = 0.25  # of settle_seconds, until the application is back at its own pace
UNREACHABLE_SECONDS_MAX = 60.0
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.05, 5.0  # between two tries of a handover
# Why a handover steps back and is tried again; everything else ends the wave's attempt.
TRIED_AGAIN = (ErrorCode.FENCE_BUDGET, ErrorCode.PAUSE_BUDGET, ErrorCode.DISCREPANCY)


async def run(carrier: Carrier, no: int) -> None:
    """Carry the wave to its arrival; raises why it could not be, with the source serving. A wave whose last members
    leave on the way does not arrive: it has no subjects then, and the conductor steps it back.

    A connection that breaks, to either site, costs nothing but the time to open the stream again: what is committed at
    the target says where it goes on. It is given up after a while without success.
    """
    lost_since, pause = 0.0, PAUSE_SECONDS_MIN
    gone: list[int] = []
    while True:
        begun = time.monotonic()
        try:
            if await recover(carrier, no):
                break
            await slices.refuse_abort(carrier)
            # With what a crash left of an ejection. The index is read anew from the target, which has forgotten them.
            if not carrier.move.back and await eject.eject(carrier, no, gone, LEFT) == 0:
                return
            gone = await _carry_over(carrier, no)
        except (DomicileError, psycopg.OperationalError) as trouble:
            why = trouble if isinstance(trouble, DomicileError) else explain(refusal_of(trouble), "site", _CARRYING)
            now = time.monotonic()
            if not lost_since or now - begun > UNREACHABLE_SECONDS_MAX:  # it had worked until now
                lost_since, pause = now, PAUSE_SECONDS_MIN
            if why.code is not ErrorCode.SITE_UNREACHABLE or now - lost_since > UNREACHABLE_SECONDS_MAX:
                raise why from None
            log.warning("wave %s: %s; the stream is opened again", no, why.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)
    if not carrier.move.back:
        await seal(carrier, no)


async def _carry_over(carrier: Carrier, no: int) -> list[int]:
    """Carry the wave to its arrival, unless members have left the cohort since it began: then return who."""
    async with open_live(carrier, no, soaking=carrier.move.back) as live:
        async with monitored(live) as monitor, live_verify.explained(live):
            await _enter(carrier, no, Phase.CATCHUP)
            await carrier.move.failpoints.reach("live.catchup")
            await live_verify.mark(live)
            await _enter(carrier, no, Phase.VERIFY)
            await _verify(live)
            await _enter(carrier, no, Phase.HANDOVER)
            if not carrier.move.back:
                gone = await eject.leavers(live.source, live.move.move_id, live.wave.source_id, live.move.data_map)
                if gone:
                    return gone
            await _hand_over(live, monitor)
            await monitor.note(pause_ms=round(live.waited_ms, 2), blockers=())
        await recover(carrier, no)  # publishes it
        await evidence.paused(carrier, no, live.wave.epoch, live.waited_ms)
        await asyncio.sleep(carrier.move.plan.limits.settle_seconds * REST_SHARE)
    return []


async def _enter(carrier: Carrier, no: int, phase: Phase) -> None:
    """Forward only: after a crash a wave that was further repeats what came before in the phase it is in."""
    if carrier.move.back:
        return  # a rollback is one phase
    now = (await carrier.figures.wave(carrier.move.move_id, no)).phase
    if ORDER.index(now) < ORDER.index(phase):
        await carrier.moves.enter(carrier.move.move_id, no, phase)


async def _verify(live: LiveWave) -> None:
    carrier, no = live.carrier, live.wave.no
    await carrier.move.failpoints.reach("live.verify")
    verdict = await live_verify.whole(live)
    live.root = verdict.source_root
    await slices.settle_verdict(carrier, no, live.wave, verdict)


async def _hand_over(live: LiveWave, monitor: Monitor) -> None:
    """Try until it succeeds. Raises the last reason when the tries or the time are used up."""
    move = live.move
    limits = move.plan.limits
    pause = PAUSE_SECONDS_MIN
    await monitor.note(round_trip_ms=round(await _round_trip(live), 2))
    async with session(move, move.source) as asking, session(move, move.source) as locking:
        for number in range(1, limits.handover_tries + 1):
            await _until_ready(live, monitor)
            try:
                if await live.beside(_arm(live, asking)):
                    await _until_ready(live, monitor)
                with live.carrier.pacing.free():
                    drained = await live.beside(_close(live, asking))
                    await live_verify.require_same_leaves(live)
                    leaves = await rehearse(live, locking)
                    await live_verify.until_few(live)
                    async with live.quiet():
                        equal = await live.beside(live_verify.equal_rows(live))
                    drains = Drains(drained, partial(drain.entered, asking), partial(_drain, live, asking))
                    return await attempt(live, drains, locking, equal, leaves)
            except DomicileError as why:
                await monitor.note(tries=number, last_try=why.message)
                again = why.code in TRIED_AGAIN or isinstance(why, live_verify.Replaced)
                if not again or number == limits.handover_tries:
                    raise
                if live.closed:
                    raise _lost(live) from why
                live.raise_failure()
                if isinstance(why, live_verify.Replaced):
                    await _verify(live)
                if why.code is ErrorCode.DISCREPANCY:
                    await live_verify.touched_rows(live)  # raises when it is one
            await live.beside(asyncio.sleep(pause))
            pause = min(pause * 2, PAUSE_SECONDS_MAX)
    raise AssertionError("there is at least one try")


async def _round_trip(live: LiveWave) -> float:
    """Milliseconds of the shortest of three questions to the target."""
    taken = []
    for _ in range(3):
        begun = time.monotonic()
        await live.target.execute("select")
        taken.append((time.monotonic() - begun) * 1000)
    return min(taken)


async def _arm(live: LiveWave, asking: AsyncConnection) -> bool:
    """The guard runs at the site that loses the wave, and knows its members; True when that is new, and the application
    has had its time to settle. Once only: what is armed already takes no lock."""
    move, limits = live.move, live.move.plan.limits
    changed = await guard.arm(
        asking,
        move.data_map.in_scope(),
        wave_id=live.wave.source_id,
        lock_timeout_ms=limits.lock_timeout_ms,
        seconds_max=limits.fence_seconds_max,
    )
    await move.failpoints.reach("live.armed")
    if changed:
        await asyncio.sleep(limits.settle_seconds)
    return changed


def _lost(live: LiveWave) -> DomicileError:
    """The try has cost the session of the stream at the target, in order to find out how it ended."""
    return DomicileError(
        ErrorCode.SITE_UNREACHABLE,
        f"{live.move.target_site} did not answer within the handover's budget",
        safe=f"{live.move.source_site} serves and nothing has changed.",
        hint="It is tried again.",
    )


async def _close(live: LiveWave, asking: AsyncConnection) -> int:
    """The wave is closing, and its writers from before have ended. Nobody waits; idempotent."""
    move, wave = live.move, live.wave
    tables = move.data_map.in_scope()
    await sequences.advance(live.source, live.target, move.source_schema, move.target_schema, tables)
    record = await waves.find_wave(asking, move.move_id, wave.no)
    assert record is not None
    if record.mark != SourceMark.CLOSING:
        async with asking.transaction():
            await assert_lease(asking, move.move_id, move.generation)
            await guard.set_fence(asking, wave.source_id, SourceMark.CLOSING, move.source_site, wave.epoch)
    await move.failpoints.reach("live.closing")
    return await _drain(live, asking)


async def _drain(live: LiveWave, asking: AsyncConnection) -> int:
    """Everybody who wrote before the wave was closing has ended; what `drain.entered` was when that began."""
    limits = live.move.plan.limits
    report = await guard.drain(asking, live.move.data_map.in_scope(), seconds_max=limits.fence_seconds_max)
    return report.entered


async def _until_ready(live: LiveWave, monitor: Monitor) -> None:
    """Little is missing at the target, few rows wait to be compared, and no writer is older than a fence may wait.

    Raises lag-budget when it does not come to that in time.
    """
    limits = live.move.plan.limits
    deadline = time.monotonic() + limits.catch_up_seconds_max
    while True:
        await live_verify.mark(live)
        await live_verify.until_few(live)
        figures = monitor.figures
        old = [b for b in figures.blockers if (b.age_s or 0.0) > limits.fence_seconds_max]
        if (figures.lag_bytes or 0) <= limits.lag_bytes_max and not old:
            return await _require_unchanged(live)
        if time.monotonic() > deadline:
            raise _not_ready(live, figures.lag_bytes or 0, old)
        await live.beside(asyncio.sleep(LOOK_SECONDS))


def _not_ready(live: LiveWave, lag: int, old: Sequence[InTheWay]) -> DomicileError:
    limits = live.move.plan.limits
    named = ", ".join(f"{b.pid or 'prepared'} {b.application}".rstrip() for b in old)
    behind = f"it is {lag} bytes behind" if lag > limits.lag_bytes_max else ""
    writing = f"transactions older than {limits.fence_seconds_max:g} s write: {named}" if old else ""
    return DomicileError(
        ErrorCode.LAG_BUDGET,
        f"the wave was not ready to be handed over within {limits.catch_up_seconds_max:g} s: "
        + "; ".join(filter(None, (behind, writing))),
        facts={"lag_bytes": lag, "blockers": [b.pid for b in old]},
        safe=f"The wave steps back; {live.move.source_site} serves and nothing has changed.",
        hint=f"When they have ended, go on with: domicile resume {live.move.move_id}",
    )


async def _require_unchanged(live: LiveWave) -> None:
    """Tables and publication are what they were. Of a column that was added the stream says nothing until a row
    changes, and nothing at all of a table that left the publication."""
    move, tables = live.move, live.move.data_map.written()
    async with live.carrier.sites() as (source, target):
        now = await together([read_schema(source), read_schema(target)])
    sites = (move.source_site, move.target_site)
    for site, found, planned in zip(sites, now, (move.source_schema, move.target_schema), strict=True):
        if schema_digest(found, tables) != schema_digest(planned, tables):
            raise DomicileError(
                ErrorCode.SCHEMA_CHANGED,
                f"the tables at {site} changed while a wave was on its way",
                facts={"site": site},
                safe=f"The wave steps back; {move.source_site} serves and nothing has changed.",
                hint="Bring both sites to one schema and plan again.",
            )
    if await slot.seal(live.source, live.move.stream_name) != live.seal:
        raise DomicileError(
            ErrorCode.STREAM_LOST,
            f"the publication of the change stream at {live.move.source_site} was altered",
            safe=f"The wave steps back; {live.move.source_site} serves and nothing has changed.",
            hint=f"Begin the wave again with: domicile resume {live.move.move_id}",
        )


async def seal(carrier: Carrier, no: int) -> None:
    """Write down what the copy that stays behind holds: nobody can write it any more, and a purge removes that only."""
    move = carrier.move
    async with carrier.source() as source:
        record = await waves.find_wave(source, move.move_id, no)
        assert record is not None
        tables = move.data_map.in_scope()
        sealed = (await carrier.figures.wave(move.move_id, no)).source_root
        root = await verify.root_of(source, move.data_map, move.source_schema, tables, record.id, sealed)
    await carrier.moves.seal(move.move_id, no, root)
    await move.failpoints.reach("live.sealed")
