"""Apply, resume, pause, abort, purge: the orders that change something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
import getpass
import secrets
import time

from domicile.commands.desk import (
    Desk,
    carrier_for,
    load_map,
    open_desk,
    read_subjects,
    require_same_map,
    runner_name,
    second_desk,
    stale,
)
from domicile.control.lease import living_runner
from domicile.control.moves import MoveRecord, already_applied
from domicile.control.orders import MOVE
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status, ended
from domicile.model.plan import Mode, Plan
from domicile.model.report import MoveStatus, WaveStatus
from domicile.model.site import MoveId
from domicile.model.workspace import Workspace
from domicile.move import begin, evidence
from domicile.move.carrier import Carrier
from domicile.move.run import Outcome
from domicile.planner import plan_file
from domicile.planner.freeze import freeze
from domicile.postgres import waves

Watch = Callable[[MoveStatus], None]
PROGRESS_SECONDS = 0.25
ABORT_WAIT_SECONDS = 60.0  # for the process that carries the move to step back


def quiet(_: MoveStatus) -> None:
    """For callers that do not watch."""


async def apply(
    workspace: Workspace,
    plan: Plan,
    *,
    mode: Mode = Mode.LIVE,
    on_progress: Watch = quiet,
    stop: asyncio.Event | None = None,
) -> MoveStatus:
    """Carry a plan out until every wave lives at the target, or a pause, an abort or a failure ends the
    attempt.

    Raises plan-refused, plan-stale, plan-applied and whatever keeps the move from beginning; a wave that
    fails is not raised but stands in the status. Killed at any point, it is continued with ``resume``.
    """
    require_fit(workspace, plan, mode)
    async with open_desk(workspace) as desk:
        record = await create(desk, plan, mode)
        async with carrier_for(desk, record.move_id) as carrier:
            await freeze_cohort(desk, carrier, plan)
            await carry_out(desk, carrier, "move", on_progress, stop)
        return await told(desk, record.move_id, on_progress)


async def resume(
    workspace: Workspace, move_id: str, *, on_progress: Watch = quiet, stop: asyncio.Event | None = None
) -> MoveStatus:
    """Continue a move after a pause, a failure or a crash. Of a move whose waves all live at the target, only what a
    failover took is put right. Idempotent."""
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        soaking = record.status is Status.WAITING
        if ended(record.status) or (soaking and await living_runner(desk.conn, record.move_id)):
            return await desk.status(record.move_id)
        if not record.frozen:
            raise not_begun(record)
        async with carrier_for(desk, record.move_id) as carrier:
            if ended((await desk.moves.get(record.move_id)).status):  # by another process, before the lease was free
                return await desk.status(record.move_id)
            await begin.enlist(carrier)
            if not soaking:
                await desk.moves.request(record.move_id, pause=False)
                await carry_out(desk, carrier, "move", on_progress, stop)
        return await told(desk, record.move_id, on_progress)


async def pause(workspace: Workspace, move_id: str) -> MoveStatus:
    """Ask the move to stop after the wave at work: nobody is left between homes. Idempotent."""
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        if ended(record.status) or record.status is Status.WAITING:
            raise forbidden(record, "pause")
        await desk.moves.request(record.move_id, pause=True)
        at_work = record.status is Status.RUNNING or record.ordered == MOVE
        if at_work and not await living_runner(desk.conn, record.move_id):
            await desk.moves.set_status(record.move_id, Status.PAUSED)
            await desk.orders.withdraw(record.move_id)
        return await desk.status(record.move_id)


async def abort(workspace: Workspace, move_id: str) -> MoveStatus:
    """Give the rest of the move up: the wave at work steps back, waves that live at the target stay there.
    Idempotent."""
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        if record.status is Status.ABORTED:
            return await desk.status(record.move_id)
        if record.status in (Status.DONE, Status.WAITING):
            raise forbidden(record, "abort")
        await desk.journal.approve(record.move_id, "abort", getpass.getuser())
        await desk.moves.request(record.move_id, abort=True)
        deadline = time.monotonic() + ABORT_WAIT_SECONDS
        while await living_runner(desk.conn, record.move_id):
            if time.monotonic() > deadline:
                return await desk.status(record.move_id)
            await asyncio.sleep(PROGRESS_SECONDS)
        if (await desk.moves.get(record.move_id)).status is not Status.ABORTED:
            async with carrier_for(desk, record.move_id, any_schema=True) as carrier:
                await begin.enlist(carrier)
                await begin.end(carrier, Outcome.ABORTED)
                await desk.orders.withdraw(record.move_id)
        return await desk.status(record.move_id)


def require_fit(workspace: Workspace, plan: Plan, mode: Mode) -> None:
    if refusals := plan.refusals_of(mode):
        first = refusals[0]
        raise DomicileError(
            ErrorCode(first.code),
            f"the plan has {len(refusals)} failed checks; the first: {first.detail}",
            facts={"checks": [c.name for c in refusals]},
            hint=first.hint or "Mend what the checks name, then plan again.",
        )
    if plan.config_digest != workspace.config_digest:
        raise stale("it was made with another configuration", "configuration")
    require_same_map(plan, load_map(workspace, plan.dataset))


async def create(desk: Desk, plan: Plan, mode: Mode) -> MoveRecord:
    """The move of this plan: new, or one whose beginning was cut before its cohort was frozen."""
    existing = await desk.moves.of_plan(desk.keyed_digest(plan))
    if existing is not None:
        if existing.frozen:
            raise already_applied(existing)
        return existing
    kept = desk.to_store(plan)
    return await desk.moves.create(_new_id(plan), kept, plan_file.dump(kept), mode, getpass.getuser())


def _new_id(plan: Plan) -> MoveId:
    return MoveId(f"{plan.dataset}-{plan.source}-{plan.target}-{secrets.token_hex(3)}".lower().replace(" ", "-"))


async def freeze_cohort(desk: Desk, carrier: Carrier, plan: Plan) -> None:
    """Write the cohort down at the source; a cohort that is not the planned one ends the move before it
    began."""
    move_id = carrier.move.move_id
    subjects = read_subjects(plan.cohort.subjects_file) if plan.cohort.subjects_file else None
    await begin.enlist(carrier)
    try:
        async with carrier.source() as source:
            record = evidence.planned(carrier, plan.cohort.digest)
            await freeze(source, plan, carrier.move.data_map, move_id, subjects=subjects, record=record)
    except DomicileError as error:
        if error.code is ErrorCode.LEASE_LOST:
            raise
        async with carrier.sites() as (source, target):
            await waves.forget_move(source, move_id)
            await waves.forget_move(target, move_id)
        await desk.moves.set_status(move_id, Status.ABORTED)
        raise
    await desk.moves.set_frozen(move_id)


async def carry_out(desk: Desk, carrier: Carrier, kind: str, on_progress: Watch, stop: asyncio.Event | None) -> Outcome:
    """Run the durable workflow of this attempt while watching it; a crash's unfinished workflow is joined,
    not begun anew. Returns how it ended."""
    # Importing DBOS takes half of a command's start; only orders that carry a move need it.
    from domicile.move.durable import carry
    from domicile.move.engine import carried, launched, own_queue

    move_id = carrier.move.move_id
    if kind == "move":  # a purge leaves the status of a paused or aborted move as it is
        await desk.moves.set_status(move_id, Status.RUNNING)
    await desk.orders.withdraw(move_id)  # we do it ourselves
    async with launched(desk.conninfo, runner_name(), [own_queue(move_id)]), carried(carrier):
        async with watched(desk, move_id, on_progress, stop):
            outcome = await carry(move_id, kind)
    if outcome is Outcome.LOST:
        raise DomicileError(
            ErrorCode.LEASE_LOST,
            f"another process carries move {move_id} now",
            safe="The other process goes on from the last commit.",
            hint=f"Watch it with: domicile status {move_id} --watch",
        )
    return outcome


def require_none_on_the_way_back(record: MoveRecord, now: Sequence[WaveStatus]) -> None:
    """Raise phase-forbids before a purge that would meet a wave which an interrupted rollback left half-way."""
    if half_way := [w.no for w in now if w.phase is Phase.ROLLBACK]:
        raise DomicileError(
            ErrorCode.PHASE_FORBIDS,
            f"move {record.move_id} cannot take the order purge: a rollback was begun and has not come to its end",
            facts={"move": record.move_id, "waves": half_way},
            safe="Nothing was deleted.",
            hint=f"Let it come to its end first: domicile rollback {record.move_id}",
        )


async def told(desk: Desk, move_id: MoveId, on_progress: Watch) -> MoveStatus:
    """The status when nobody carries the move any more, also to whoever watches."""
    status = await desk.status(move_id)
    on_progress(status)
    return status


@asynccontextmanager
async def watched(desk: Desk, move_id: MoveId, on_progress: Watch, stop: asyncio.Event | None) -> AsyncIterator[None]:
    """While the block runs: report progress, and turn ``stop`` into a request to pause."""

    async def watch(eye: Desk) -> None:
        asked = False
        while True:
            on_progress(await eye.status(move_id))
            if stop is not None and stop.is_set() and not asked:
                await eye.moves.request(move_id, pause=True)
                asked = True
            await asyncio.sleep(PROGRESS_SECONDS)

    async with second_desk(desk) as eye:
        task = asyncio.create_task(watch(eye))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


def not_begun(record: MoveRecord) -> DomicileError:
    return DomicileError(
        ErrorCode.PHASE_FORBIDS,
        f"move {record.move_id} has not begun: its cohort is not frozen yet",
        hint="Run domicile apply with the same plan file again, or domicile abort " + record.move_id,
    )


def forbidden(record: MoveRecord, order: str) -> DomicileError:
    why = {
        "pause": "no wave of it is left to move",
        "abort": "every wave lives at the target already",
        "soak": "no wave of it lives at the target with a copy at the source",
        "rollback": "no wave of it lives at the target with a way back",
        "purge": "no wave of it has a source copy that may be removed",
    }[order]
    return DomicileError(
        ErrorCode.PHASE_FORBIDS,
        f"move {record.move_id} cannot take the order {order}: {why}",
        facts={"move": record.move_id, "status": str(record.status)},
        hint=f"See where it stands with: domicile status {record.move_id}",
    )
