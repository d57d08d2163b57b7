"""Orders for workers: apply, resume and purge as far as an operator's own process must do them; workers do the rest."""

from __future__ import annotations

import getpass

from domicile.commands.approvals import require_past_no_return
from domicile.commands.desk import Desk, carrier_for, open_desk, require_shared_control
from domicile.commands.moves import (
    create,
    forbidden,
    freeze_cohort,
    not_begun,
    require_fit,
    require_none_on_the_way_back,
)
from domicile.control.lease import living_runner
from domicile.control.moves import MoveRecord
from domicile.control.orders import MOVE, PURGE
from domicile.model.erasure import ErasureWish
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status, ended
from domicile.model.plan import Mode, Plan
from domicile.model.report import MoveStatus
from domicile.model.site import MoveId
from domicile.model.workspace import Workspace
from domicile.postgres import erasure_record
from domicile.postgres.connect import SESSION, connect


async def apply_detached(workspace: Workspace, plan: Plan, *, mode: Mode = Mode.LIVE) -> MoveStatus:
    """Begin the plan's move, freeze its cohort, which needs the plan file, and leave the waves to the workers of its
    source site. Raises what ``apply`` raises before its first wave, and config-invalid without a shared control
    database."""
    require_shared_control(workspace)
    require_fit(workspace, plan, mode)
    async with open_desk(workspace) as desk:
        record = await create(desk, plan, mode)
        async with carrier_for(desk, record.move_id) as carrier:
            await freeze_cohort(desk, carrier, plan)
            await desk.orders.give(record.move_id, MOVE)
        return await desk.status(record.move_id)


async def resume_detached(workspace: Workspace, move_id: str) -> MoveStatus:
    """Leave the rest of a move to the workers of its source site. Idempotent. Raises move-busy while somebody else
    carries it, phase-forbids before its cohort is frozen."""
    require_shared_control(workspace)
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        if ended(record.status) or record.status is Status.WAITING or record.ordered == MOVE:
            return await desk.status(record.move_id)
        if not record.frozen:
            raise not_begun(record)
        await _give(desk, record, MOVE)
        return await desk.status(record.move_id)


async def purge_detached(workspace: Workspace, move_id: str, wish: ErasureWish | None = None) -> MoveStatus:
    """Leave the purge to the workers of the source site. Idempotent. Raises phase-forbids when nothing is to purge,
    move-busy while somebody else carries the move; what the purge itself raises stands in the status later."""
    require_shared_control(workspace)
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        all_waves = await desk.figures.waves(record.move_id)
        require_none_on_the_way_back(record, all_waves)
        if not any(w.phase in (Phase.SOAK, Phase.PURGE) for w in all_waves):
            raise forbidden(record, "purge")
        await require_past_no_return(desk, record.move_id, all_waves)
        await desk.journal.approve(record.move_id, "purge", getpass.getuser())
        if wish is not None:
            async with await connect(workspace.conninfo(record.dataset, record.source), settings=SESSION) as source:
                await erasure_record.order(source, record.move_id, wish)
        if record.ordered != PURGE:
            await _give(desk, record, PURGE)
        return await desk.status(record.move_id)


async def _give(desk: Desk, record: MoveRecord, kind: str) -> None:
    runner = await living_runner(desk.conn, record.move_id)
    if runner:
        raise DomicileError(
            ErrorCode.MOVE_BUSY,
            f"move {record.move_id} is being carried by another process ({runner})",
            facts={"move": record.move_id, "runner": runner},
            safe="That process goes on undisturbed.",
            hint=f"Pause it first: domicile pause {record.move_id}",
        )
    await desk.orders.give(record.move_id, kind)
