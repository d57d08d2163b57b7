"""How a wave is carried: this file is the table of contents of the product.

    prepare   the target knows who comes, nothing is in the way          reversible without a trace
    fence     cold: no write for the wave can commit at the source       reversible without a trace
    copy      its rows travel                                            reversible without a trace
    catchup   live: what users write meanwhile follows                   reversible without a trace
    verify    both sites hold the same rows, proven a second way         reversible without a trace
    handover  the target becomes the one home                            point of no return: the target's commit
    (soak)    the source copy is kept, closed to writes                  until an operator orders rollback or purge
    rollback  live: a handover back, with what was written at the target
    purge     the source copy is removed                                 irreversible

``durable.py`` runs these as durable workflows. Pause, abort and failure are handled here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
import logging
import time
from types import MappingProxyType

import psycopg

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import ORDER, Phase, Status
from domicile.model.plan import Mode
from domicile.move import (
    approval,
    eject,
    evidence,
    fence,
    handover,
    live,
    prepare,
    purge,
    rollback,
    slices,
    soak,
    stepback,
    streams,
)
from domicile.move.carrier import Carrier
from domicile.postgres.failures import explain, refusal_of

Work = Callable[[Carrier, int], Awaitable[None]]


# A live wave is caught up, verified and handed over in one go, by whichever of its phases it is entered.
WORK: Mapping[Mode, Mapping[Phase, Work]] = MappingProxyType(
    {
        Mode.COLD: {
            Phase.PREPARE: prepare.run,
            Phase.FENCE: fence.run,
            Phase.COPY: slices.copy_rows,
            Phase.VERIFY: slices.verify_rows,
            Phase.HANDOVER: handover.run,
        },
        Mode.LIVE: {
            Phase.PREPARE: prepare.run,
            Phase.COPY: slices.copy_rows,
            Phase.CATCHUP: live.run,
            Phase.VERIFY: live.run,
            Phase.HANDOVER: live.run,
        },
    }
)

log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """How a slice of work ended; also what durable workflows return."""

    DONE = "done"
    PAUSED = "paused"
    FAILED = "failed"
    ABORTED = "aborted"
    LOST = "lost"  # another process carries the move


async def take_leavers_out(carrier: Carrier, no: int) -> bool:
    """False when the wave has nobody who is to be carried: everybody has left it, or it was rolled back."""
    return not (await carrier.figures.wave(carrier.move.move_id, no)).rolled_back and await eject.eject_leavers(
        carrier, no
    )


async def run_phase(carrier: Carrier, no: int, phase: Phase) -> Outcome:
    """Carry one phase of one wave out. Safe to repeat after a crash: what is done is seen and skipped."""
    move_id = carrier.move.move_id
    await settle(carrier, no)
    wave = await carrier.figures.wave(move_id, no)
    if ORDER.index(wave.phase) > ORDER.index(phase):
        return Outcome.DONE
    if wave.phase is Phase.PLANNED and phase is not Phase.PREPARE:
        # Everybody has left it on the way; or settle stepped it back, because a crash had cut the step back itself.
        return Outcome.FAILED if wave.subjects else Outcome.DONE
    try:
        await slices.refuse_abort(carrier, no if phase is Phase.HANDOVER else None)
        await carrier.moves.enter(move_id, no, phase)
        work = WORK[carrier.move.mode][phase]
        await work(carrier, no)
        if work in (handover.run, live.run):
            await _over(carrier, no)
    except Exception as trouble:
        return await _failed(carrier, no, _as_error(trouble))
    if work in (handover.run, live.run):
        await evidence.close(carrier)
    return Outcome.DONE


async def _over(carrier: Carrier, no: int) -> None:
    """The wave has arrived; or everybody has left it on the way, and it is as if they had before it began."""
    move_id = carrier.move.move_id
    if (await carrier.figures.wave(move_id, no)).subjects:
        await carrier.moves.enter(move_id, no, Phase.SOAK)
    else:
        await stepback.run(carrier, no)
        await carrier.moves.back_to_planned(move_id, no, Status.PENDING)


async def run_purge_begin(carrier: Carrier) -> Outcome:
    """Before the first wave is purged: the copies are what they were sealed as, and the way back is closed. A failure
    is the move's, which is as far as it was."""
    move_id = carrier.move.move_id
    status = (await carrier.moves.get(move_id)).status
    try:
        await streams.require_no_doubt(carrier)
        await purge.require_ready(carrier)
        await approval.pass_point(carrier)
        await streams.close_way_back(carrier)
    except Exception as trouble:
        return await _as_far_as_before(carrier, status, trouble)
    if status is not Status.FAILED:  # what failed before the purge is still to be mended
        await carrier.moves.set_status(move_id, status)
    return Outcome.DONE


async def _as_far_as_before(carrier: Carrier, status: Status, trouble: Exception) -> Outcome:
    """A purge was refused: the move's error, and no wave's."""
    error = _as_error(trouble)
    if error.code is ErrorCode.LEASE_LOST:
        return Outcome.LOST
    await carrier.moves.set_status(carrier.move.move_id, status, error)
    return Outcome.FAILED


async def run_purge(carrier: Carrier, no: int) -> Outcome:
    """Purge one wave. A failure leaves it in its phase, to be continued: what is removed is removed. The point of no
    return is asked for again: since the way back was closed days may have passed, and a refusal is the move's."""
    move_id = carrier.move.move_id
    if (await carrier.figures.wave(move_id, no)).phase is Phase.DONE:
        return Outcome.DONE
    status = (await carrier.moves.get(move_id)).status
    try:
        await approval.pass_point(carrier)
    except Exception as trouble:
        return await _as_far_as_before(carrier, status, trouble)
    try:
        await carrier.moves.enter(move_id, no, Phase.PURGE)
        await purge.run(carrier, no)
    except Exception as trouble:
        error = _as_error(trouble)
        if error.code is ErrorCode.LEASE_LOST:
            return Outcome.LOST
        await carrier.moves.fail(move_id, no, error)
        return Outcome.FAILED
    await carrier.moves.enter(move_id, no, Phase.DONE)
    await evidence.close(carrier)
    return Outcome.DONE


async def run_rollback(carrier: Carrier, no: int) -> Outcome:
    """Carry one wave back. A failure leaves it at the target, in soak, unless it is home at the source already; the
    move is as far as it was."""
    move_id = carrier.move.move_id
    if (await carrier.figures.wave(move_id, no)).rolled_back:
        return Outcome.DONE
    status = (await carrier.moves.get(move_id)).status
    try:
        await carrier.moves.enter(move_id, no, Phase.ROLLBACK)
        await _roll_back(carrier, no)
    except Exception as trouble:
        error = _as_error(trouble)
        if error.code is ErrorCode.LEASE_LOST:
            return Outcome.LOST
        await carrier.moves.fail(move_id, no, error)
        try:
            await rollback.settle(carrier, no)
        except (DomicileError, psycopg.Error) as second:
            log.warning("wave %s could not step back yet: %s", no, _as_error(second).message)
        await carrier.moves.set_status(move_id, status, error)
        return Outcome.FAILED
    await carrier.moves.back_to_planned(move_id, no, Status.ABORTED)
    await evidence.close(carrier)
    return Outcome.DONE


async def _roll_back(carrier: Carrier, no: int) -> None:
    """Before the first wave goes home, all copies are brought up: what passed through one wave to another at the target
    would be in the one's way, once the other is home. What stands in the way later may be in the copy of another wave,
    which is behind: then that one is brought up first. Rows may pass from wave to wave meanwhile, too: until the budget
    for catching up is spent."""
    all_waves = await carrier.figures.waves(carrier.move.move_id)
    others = [wave.no for wave in all_waves if wave.phase is Phase.SOAK]
    began = any(wave.rolled_back for wave in all_waves) or await rollback.is_home_again(carrier.reversed(), no)
    turns = bool(others) and not began
    deadline = time.monotonic() + carrier.move.plan.limits.catch_up_seconds_max
    while True:
        try:
            if turns:
                await _take_turns(carrier, no, others)
            await rollback.run(carrier, no)
            return
        except DomicileError as why:
            # A shared row that is not let in is in nobody's copy.
            if why.code is not ErrorCode.KEYS_COLLIDE or "reference" in why.facts or len(all_waves) == 1:
                raise
            if time.monotonic() > deadline:
                raise rollback.blocked(carrier, no, why) from None
            turns = True


async def _take_turns(carrier: Carrier, no: int, others: Sequence[int]) -> None:
    await streams.require_way_back(carrier)
    try:
        await soak.take_turns(carrier, [no, *others])
    except DomicileError as why:
        raise rollback.blocked(carrier, no, why) if why.code is ErrorCode.KEYS_COLLIDE else why from None
    finally:
        for other in others:
            await live.seal(carrier, other)


async def run_edge(carrier: Carrier, work: Callable[[Carrier], Awaitable[None]]) -> Outcome:
    """Carry out what lies before the first wave or after the last purge; a failure fails the move, no wave."""
    try:
        await work(carrier)
    except Exception as trouble:
        error = _as_error(trouble)
        if error.code is ErrorCode.LEASE_LOST:
            return Outcome.LOST
        await carrier.moves.set_status(carrier.move.move_id, Status.FAILED, error)
        return Outcome.FAILED
    return Outcome.DONE


async def settle(carrier: Carrier, no: int) -> None:
    """A wave that failed half-way is stepped back first, unless it has departed: then only forward is
    right."""
    wave = await carrier.figures.wave(carrier.move.move_id, no)
    if wave.status is not Status.FAILED or wave.phase in (Phase.PLANNED, Phase.ROLLBACK, Phase.PURGE):
        return
    if wave.phase is Phase.HANDOVER and await slices.has_departed(carrier, no):
        await carrier.moves.enter(carrier.move.move_id, no, Phase.HANDOVER)
        return
    await stepback.run(carrier, no)
    await carrier.moves.back_to_planned(carrier.move.move_id, no, Status.PENDING)


async def _failed(carrier: Carrier, no: int, error: DomicileError) -> Outcome:
    """The one place where failure is handled: record it, step back, say how it ended."""
    if error.code is ErrorCode.LEASE_LOST:
        return Outcome.LOST
    move_id = carrier.move.move_id
    aborting = error.code is ErrorCode.INTERRUPTED
    await carrier.moves.fail(move_id, no, error)
    try:
        await stepback.run(carrier, no)
    except (DomicileError, psycopg.Error) as second:
        log.warning("wave %s could not step back yet: %s", no, _as_error(second).message)
        await slices.open_source_if_safe(carrier, no)
        return Outcome.FAILED
    await carrier.moves.back_to_planned(move_id, no, Status.ABORTED if aborting else Status.FAILED)
    await evidence.close(carrier)
    return Outcome.ABORTED if aborting else Outcome.FAILED


def _as_error(trouble: Exception) -> DomicileError:
    match trouble:
        case DomicileError():
            return trouble
        case psycopg.Error():
            return explain(refusal_of(trouble), "site", "carrying the wave")
        case ExceptionGroup():
            return _as_error(trouble.exceptions[0])
        case _:
            # Not its message: it may hold a value. The traceback goes to the debug log of this machine only.
            log.debug("unexpected error", exc_info=trouble)
            return DomicileError(ErrorCode.INTERNAL, f"unexpected {type(trouble).__name__} in the mover")
