"""The slots of a live move: one at the source for the way there, one at the target for the way back.

The first exists while an attempt runs, because a slot that nobody reads keeps the server's log; the second from the
beginning, so that it holds every write since the first handover, until the purge or a rollback closes the way back.
"""

from __future__ import annotations

import logging

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase
from domicile.model.plan import Mode, WayBack
from domicile.move.carrier import Carrier
from domicile.move.context import Move
from domicile.stream import fitness, slot

log = logging.getLogger(__name__)

IN_USE = (Phase.HANDOVER, Phase.SOAK, Phase.ROLLBACK)


async def begin(carrier: Carrier) -> None:
    """Make the slots that the plan wants. Idempotent. Raises stream-blocked, setting-wrong.

    A slot that was lost (its log removed) is made anew, except for the way back of a wave that lives at the target:
    that way is closed then.
    """
    if carrier.move.mode is Mode.COLD:
        return
    await _make(carrier)
    moved = any(w.phase in IN_USE for w in await carrier.figures.waves(carrier.move.move_id))
    if carrier.move.plan.way_back is not WayBack.NONE and not moved:
        await _make(carrier.reversed())


async def end(carrier: Carrier) -> None:
    """Drop the slot of the way there, and that of the way back where no wave needs it. Idempotent."""
    if carrier.move.mode is Mode.COLD:
        return
    await _drop(carrier)
    if not any(w.phase in IN_USE for w in await carrier.figures.waves(carrier.move.move_id)):
        await _drop(carrier.reversed())


async def position(source: AsyncConnection, move: Move) -> int:
    """Up to where the slot at the source has given its log away: what a snapshot taken from now on sees. Raises
    stream-lost."""
    facts = await slot.inspect(source, move.stream_name)
    if facts is None or facts.lost:
        raise DomicileError(
            ErrorCode.STREAM_LOST,
            f"the change stream at {move.source_site} is gone",
            facts={"reason": facts.reason if facts else ""},
            safe="The wave steps back; the source serves and nothing has changed.",
            hint=f"It is made anew by: domicile resume {move.move_id}",
        )
    return facts.confirmed


async def close_way_back(carrier: Carrier) -> None:
    """Before anything is purged: the way back is closed, provably, so that no removal can travel along it.

    Idempotent. Raises stream-blocked when the slot cannot be dropped.
    """
    if carrier.move.mode is Mode.COLD:
        return
    back = carrier.reversed()
    async with back.source() as target:
        await slot.drop(target, back.move.stream_name)
        assert await slot.inspect(target, back.move.stream_name) is None


async def require_way_back(carrier: Carrier) -> None:
    """Raise way-back-closed unless the move can be rolled back now."""
    move = carrier.move
    why = ""
    if move.mode is Mode.COLD:
        why = "a cold move keeps no stream of what is written at the target"
    elif move.plan.way_back is WayBack.NONE:
        why = "the plan allows nothing to cross back"
    else:
        back = carrier.reversed()
        async with back.source() as target:
            facts = await slot.inspect(target, back.move.stream_name)
        if facts is None:
            why = "its purge was begun, or its stream was dropped"
        elif facts.lost:
            why = f"{move.target_site} no longer has the log of what was written there ({facts.reason})"
    if why:
        raise DomicileError(
            ErrorCode.WAY_BACK_CLOSED,
            f"move {move.move_id} cannot be rolled back: {why}",
            facts={"move": move.move_id},
            safe=f"{move.target_site} serves the moved subjects.",
            hint=f"The way back is a move of its own: domicile plan from {move.target_site} to {move.source_site}",
        )


async def _make(carrier: Carrier) -> None:
    move = carrier.move
    tables = move.data_map.in_scope()
    async with carrier.source() as source:
        if unfit := await fitness.unfit(source, tables):
            table, reason = unfit[0]
            raise DomicileError(
                ErrorCode.SETTING_WRONG,
                f"{table} at {move.source_site} cannot be streamed: {reason}",
                facts={"tables": [str(name) for name, _ in unfit]},
                safe="Nothing was changed.",
                hint="Mend the tables, or carry the move out with: domicile apply --cold",
            )
        facts = await slot.inspect(source, move.stream_name)
        if facts is not None and facts.lost:
            await slot.drop(source, move.stream_name)
        await slot.create(source, move.stream_name, tables, seconds_max=move.plan.limits.fence_seconds_max)


async def _drop(carrier: Carrier) -> None:
    """An end must come to its end: what cannot be dropped now is named, and dropped by the next attempt."""
    try:
        async with carrier.source() as source:
            await slot.drop(source, carrier.move.stream_name)
    except DomicileError as error:
        log.warning("the stream at %s stays for now and keeps its log: %s", carrier.move.source_site, error.message)
