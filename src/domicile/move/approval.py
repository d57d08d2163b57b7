"""The point of no return of a purge: asked for before anything is removed, and told in the log with the removal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from psycopg import AsyncConnection

from domicile.control.approvals import PURGE
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase
from domicile.model.plan import Mode, WayBack
from domicile.model.report import NoReturn, WaveStatus
from domicile.model.site import MoveId
from domicile.move import evidence
from domicile.move.carrier import Carrier


def keeps_way_back(mode: Mode, way_back: str) -> bool:
    """Whether a move in this mode, whose plan has this way back, can be rolled back."""
    return mode is Mode.LIVE and way_back != WayBack.NONE


def require(move_id: MoveId, found: NoReturn | None, waves: Sequence[WaveStatus], *, way_back: bool) -> None:
    """Raise undo-window before the point of no return, approval-missing without the approvals that the plan asks for. A
    purge that was begun is not asked again, until another wave arrives. ``way_back``: whether a rollback is possible
    until then."""
    if Phase.SOAK not in {w.phase for w in waves}:
        return
    if found is None:
        raise _unknown(move_id)
    if found.begun:
        return
    if found.seconds_left:
        opens = datetime.fromtimestamp(found.opens_at, UTC)
        raise DomicileError(
            ErrorCode.UNDO_WINDOW,
            f"move {move_id} can be purged from {opens:%Y-%m-%d %H:%M} UTC on, and not before",
            facts={"move": move_id, "opens_at": opens.isoformat(), "seconds_left": found.seconds_left},
            safe="Nothing was deleted.",
            hint=f"Wait; or bring everybody back with: domicile rollback {move_id}" if way_back else "Wait until then.",
        )
    _require_people(move_id, found)


def _unknown(move_id: MoveId) -> DomicileError:
    return DomicileError(
        ErrorCode.UNDO_WINDOW,
        f"the control database does not say when the waves of move {move_id} arrived: nothing tells when it may be"
        " purged",
        facts={"move": move_id},
        safe="Nothing was deleted.",
        hint="Restore the control database's table domicile_control.event; the copies at both sites stay as they are.",
    )


def _require_people(move_id: MoveId, found: NoReturn) -> None:
    have, needed = len(found.standing), found.approvals_needed
    if have < needed:
        people = f"{needed} different people" if needed > 1 else "one person"
        raise DomicileError(
            ErrorCode.APPROVAL_MISSING,
            f"the purge of move {move_id} needs the approval of {people}, and has {have}",
            facts={"move": move_id, "needed": needed, "by": [a.person for a in found.standing]},
            safe="Nothing was deleted.",
            hint=f"Let another person run: domicile approve {move_id} --act {PURGE}",
        )


async def pass_point(carrier: Carrier) -> None:
    """The same, before a wave is purged; nothing once the purge was begun."""
    move, figures = carrier.move, carrier.figures
    waves = await figures.waves(move.move_id)
    found = await figures.no_return(move.move_id, move.plan.limits)
    require(move.move_id, found, waves, way_back=keeps_way_back(move.mode, move.plan.way_back))


async def require_people(carrier: Carrier) -> None:
    """Raise approval-missing where fewer people approve than the log of evidence says are asked: its verifiers would
    refuse the purge."""
    found = await carrier.figures.no_return(carrier.move.move_id, carrier.move.plan.limits)
    if found is None:
        raise _unknown(carrier.move.move_id)
    _require_people(carrier.move.move_id, found)


async def tell(carrier: Carrier, source: AsyncConnection) -> None:
    """The approvals on which the purge rests, once each; in the caller's transaction, which says that rows are gone."""
    found = await carrier.figures.no_return(carrier.move.move_id, carrier.move.plan.limits)
    if found is not None:
        await evidence.approved(carrier, source, PURGE, found.standing)
