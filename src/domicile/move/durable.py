"""Moves as durable workflows on DBOS: steps that ended are not repeated after a crash, a step that was cut is
repeated whole.

A workflow is named ``<move>/<kind>/<attempt>``; its inputs and results are ids, numbers and outcomes, never a row. Who
carries a move on joins the attempt that its runner has left; an attempt that ended, or that another version began, is
followed by the next one, which finds what is done and skips it. How DBOS runs in this process: ``engine.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowStatus

from domicile.control.orders import Order, Orders
from domicile.model.phase import PHASES_OF, Phase, Status
from domicile.model.report import WaveStatus
from domicile.model.site import MoveId
from domicile.move import begin, due, evidence, purge, sweep
from domicile.move.carrier import Carrier
from domicile.move.engine import (
    APPLICATION_VERSION,
    aboard,
    carrier_of,
    outcome_of,
    own_queue,
    pause_point,
    queue_of,
    register_queue,
    step,
)
from domicile.move.run import Outcome, run_edge, run_phase, run_purge, run_purge_begin, run_rollback, take_leavers_out

ENQUEUED, PENDING = "ENQUEUED", "PENDING"
UNFINISHED = (PENDING, ENQUEUED, "DELAYED")
CLAIM_MS_MAX = 5_000  # from a worker's claim until it has the lease


async def carry(move_id: MoveId, kind: str) -> Outcome:
    """Join the attempt that its runner has left, or begin another, in this process, which holds the lease; returns how
    it ended."""
    moves = carrier_of(move_id).moves
    attempt = (await moves.get(move_id)).attempt
    while known := await DBOS.get_workflow_status_async(name := _name(move_id, kind, attempt)):
        if _can_go_on(known):
            queue = own_queue(move_id)
            await register_queue(queue)
            try:
                return await outcome_of(await DBOS.resume_workflow_async(name, queue_name=queue))
            finally:
                await DBOS.delete_queue_async(queue)
        attempt = await moves.next_attempt(move_id)
    with SetWorkflowID(name):
        handle = await DBOS.start_workflow_async(_workflow(kind), move_id)
    return await outcome_of(handle)


async def offer(order: Order, orders: Orders) -> bool:
    """Put an order that nobody carries out into the queue of its site; True when it was put there, False when it is
    there, or in the hands of a worker that is about to take the lease. Idempotent, and several workers may offer the
    same."""
    queue, attempt = queue_of(order.source), order.attempt
    known = await DBOS.get_workflow_status_async(_name(order.move_id, order.kind, attempt))
    if known is not None and _can_go_on(known):
        claimed = known.status == PENDING and order.seen_ms - (known.dequeued_at or 0) < CLAIM_MS_MAX
        if claimed or (known.status == ENQUEUED and known.queue_name == queue):
            return False
        await DBOS.resume_workflow_async(known.workflow_id, queue_name=queue)
        return True
    if known is not None:
        next_attempt = await orders.next_attempt(order)
        if next_attempt is None:
            return False
        attempt = next_attempt
    with SetWorkflowID(_name(order.move_id, order.kind, attempt)):
        await DBOS.enqueue_workflow_async(queue, _workflow(order.kind), order.move_id)
    return True


def _name(move_id: MoveId, kind: str, attempt: int) -> str:
    return f"{move_id}/{kind}/{attempt}"


def _workflow(kind: str) -> Callable[[str], Coroutine[Any, Any, str]]:
    return {"move": move_workflow, "purge": purge_workflow, "rollback": rollback_workflow}[kind]


def _can_go_on(known: WorkflowStatus) -> bool:
    """False for an attempt that is over, however it ended, or whose steps another version has ordered."""
    return known.status in UNFINISHED and known.app_version in (None, APPLICATION_VERSION)


@DBOS.workflow(name="domicile.move")
async def move_workflow(move_id: str) -> str:
    """Every wave in order; stops at the first that is not handed over."""
    async with aboard(move_id, "move"):
        return await _move(move_id)


async def _move(move_id: str) -> str:
    begun = await begin_step(move_id)
    if begun != Outcome.DONE:
        return await order_over_step(move_id, begun)
    carrier = carrier_of(move_id)
    async with carrier.pacing.held(carrier.move):
        outcome = await _waves(move_id)
    return await end_step(move_id, outcome)


async def _waves(move_id: str) -> str:
    for no in await waves_step(move_id):
        outcome = await _pass_gate(move_id, no)
        if outcome != Outcome.DONE:
            return outcome
    return await _sweep(move_id)


async def _sweep(move_id: str) -> str:
    """Waves of late joiners, until a sweep finds nobody."""
    for _ in range(sweep.SWEEPS_MAX):
        outcome, no = await sweep_step(move_id)
        if outcome == Outcome.DONE and not no:
            return outcome
        if outcome == Outcome.DONE:
            outcome = await _pass_gate(move_id, no)
        if outcome != Outcome.DONE:
            return outcome
    return await sweeps_over_step(move_id)


async def _pass_gate(move_id: str, no: int) -> str:
    """One wave, unless a pause or an abort is asked for; again when due, where it used a budget up.

    Whoever has left the cohort is taken out first. A wave that everybody has left has no phases, nor has one that was
    rolled back.
    """
    number = 1
    while number:
        outcome = await gate_step(move_id)
        if outcome != Outcome.DONE:
            return outcome
        outcome, anybody = await leavers_step(move_id, no)
        if outcome != Outcome.DONE or not anybody:
            return outcome
        outcome = await _phases(move_id, no)
        number = await due_step(move_id, no, number) if outcome == Outcome.FAILED else 0
    return outcome


async def _phases(move_id: str, no: int) -> str:
    """The phases of one wave, in order."""
    for phase in PHASES_OF[carrier_of(move_id).move.mode]:
        outcome = await phase_step(move_id, no, phase.value)
        if outcome != Outcome.DONE:
            return outcome
    return str(Outcome.DONE)


@DBOS.workflow(name="domicile.purge")
async def purge_workflow(move_id: str) -> str:
    """The source copies of all waves that live at the target, removed one wave after the other."""
    async with aboard(move_id, "purge"), AsyncExitStack() as stack:
        carrier = carrier_of(move_id)
        if await purge.is_long(carrier):
            await stack.enter_async_context(carrier.pacing.held(carrier.move, purging=True))
        return await _purge(move_id)


async def _purge(move_id: str) -> str:
    """First the way back is closed: no removal can travel along it."""
    closed = await close_way_back_step(move_id)
    if closed != Outcome.DONE:
        return await order_over_step(move_id, closed)
    for no in await soaking_step(move_id):
        outcome = await purge_step(move_id, no)
        if outcome != Outcome.DONE:
            return await order_over_step(move_id, outcome)
    return await purge_end_step(move_id)


@DBOS.workflow(name="domicile.rollback")
async def rollback_workflow(move_id: str) -> str:
    """Every wave that lives at the target is handed back, the last one first."""
    async with aboard(move_id, "rollback"):
        carrier = carrier_of(move_id)
        async with carrier.pacing.held(carrier.move):
            for no in reversed(await returning_step(move_id)):
                outcome = await gate_step(move_id)
                if outcome == Outcome.DONE:
                    outcome = await rollback_step(move_id, no)
                if outcome != Outcome.DONE:
                    return await order_over_step(move_id, outcome)
        return await end_step(move_id, Outcome.ABORTED)


@step
async def begin_step(move_id: str) -> str:
    return str(await run_edge(carrier_of(move_id), begin.run))


@step
async def waves_step(move_id: str) -> list[int]:
    return [w.no for w in await carrier_of(move_id).figures.waves(MoveId(move_id))]


@step
async def gate_step(move_id: str) -> str:
    """Between waves nobody is fenced: the place where a pause takes effect."""
    pause_point()
    record = await carrier_of(move_id).moves.get(MoveId(move_id))
    if record.abort_requested:
        return str(Outcome.ABORTED)
    return str(Outcome.PAUSED if record.pause_requested else Outcome.DONE)


@step
async def phase_step(move_id: str, no: int, phase: str) -> str:
    return str(await run_phase(carrier_of(move_id), no, Phase(phase)))


@step
async def due_step(move_id: str, no: int, number: int) -> int:
    return await due.wait(carrier_of(move_id), no, number, pause_point)


@step
async def leavers_step(move_id: str, no: int) -> tuple[str, int]:
    return await _run_edge(move_id, partial(take_leavers_out, no=no))


@step
async def sweep_step(move_id: str) -> tuple[str, int]:
    return await _run_edge(move_id, sweep.run)


@step
async def sweeps_over_step(move_id: str) -> str:
    return str(await run_edge(carrier_of(move_id), sweep.give_up))


@step
async def end_step(move_id: str, outcome: str) -> str:
    ended = await run_edge(carrier_of(move_id), partial(begin.end, outcome=Outcome(outcome)))
    await carrier_of(move_id).orders.withdraw(MoveId(move_id))
    return outcome if ended is Outcome.DONE else str(ended)


@step
async def soaking_step(move_id: str) -> list[int]:
    waves = await carrier_of(move_id).figures.waves(MoveId(move_id))
    return [w.no for w in waves if w.phase in (Phase.SOAK, Phase.PURGE)]


@step
async def returning_step(move_id: str) -> list[int]:
    waves = await carrier_of(move_id).figures.waves(MoveId(move_id))
    return [w.no for w in waves if w.phase in (Phase.SOAK, Phase.ROLLBACK)]


@step
async def rollback_step(move_id: str, no: int) -> str:
    pause_point()
    return str(await run_rollback(carrier_of(move_id), no))


@step
async def close_way_back_step(move_id: str) -> str:
    return str(await run_purge_begin(carrier_of(move_id)))


@step
async def purge_step(move_id: str, no: int) -> str:
    pause_point()
    return str(await run_purge(carrier_of(move_id), no))


@step
async def order_over_step(move_id: str, outcome: str) -> str:
    await carrier_of(move_id).orders.withdraw(MoveId(move_id))
    return outcome


@step
async def purge_end_step(move_id: str) -> str:
    ended = await run_edge(carrier_of(move_id), _end_purge)
    await carrier_of(move_id).orders.withdraw(MoveId(move_id))
    return str(ended)


async def _run_edge(move_id: str, work: Callable[[Carrier], Awaitable[int]]) -> tuple[str, int]:
    """`run_edge` for work that ends with a number; 0 when it fails."""
    found = 0

    async def keep(carrier: Carrier) -> None:
        nonlocal found
        found = await work(carrier)

    return str(await run_edge(carrier_of(move_id), keep)), found


def _never_left(wave: WaveStatus) -> bool:
    """The move was aborted before the wave had moved. One that was rolled back has a copy at the target still."""
    return wave.status is Status.ABORTED and not wave.rolled_back


async def _end_purge(carrier: Carrier) -> None:
    """Whoever writes there is let go first: reclaiming space and searching files may take hours, or fail."""
    move_id = carrier.move.move_id
    all_waves = await carrier.figures.waves(move_id)
    await begin.sweep_references(carrier)
    over = all(w.status is Status.DONE or not w.subjects for w in all_waves)
    await begin.release_guards(carrier)
    if over:
        await begin.release_sign_ups(carrier)
    if all(w.phase is Phase.DONE or not w.subjects or _never_left(w) for w in all_waves):
        await evidence.erased(carrier)  # before the space of what is deleted is written anew
    await purge.vacuum(carrier)
    if over:
        await carrier.moves.set_status(move_id, Status.DONE)
    await evidence.close(carrier)
    await carrier.move.failpoints.reach("purge.done")
