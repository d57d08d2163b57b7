"""Approvals of what cannot be undone."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pwd

from domicile.commands.desk import Desk, open_desk
from domicile.commands.moves import forbidden
from domicile.control import approvals
from domicile.model.phase import Phase
from domicile.model.report import MoveStatus, WaveStatus
from domicile.model.site import MoveId
from domicile.model.workspace import Workspace
from domicile.move import approval

PURGE = approvals.PURGE


async def approve(workspace: Workspace, move_id: str, *, person: str = "") -> MoveStatus:
    """Approve the purge of what lives at the target of a move now. ``person``: an account; this process's own when left
    out. The same person twice counts once, from the later time on.

    Raises phase-forbids where nothing is there to be purged.
    """
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        if not any(w.phase in (Phase.SOAK, Phase.PURGE) for w in await desk.figures.waves(record.move_id)):
            raise forbidden(record, "purge")
        await approvals.approve(desk.conn, record.move_id, person or account())
        return await desk.status(record.move_id)


async def require_past_no_return(desk: Desk, move_id: MoveId, waves: Sequence[WaveStatus]) -> None:
    """Before a purge is ordered; the mover asks again. Raises undo-window, approval-missing."""
    record = await desk.moves.get(move_id)
    way_back = approval.keeps_way_back(record.mode, record.plan["way_back"])
    approval.require(move_id, (await desk.status(move_id)).no_return, waves, way_back=way_back)


def account() -> str:
    """Who runs this process, as the system has it: not what the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
