"""The slots of a live move: one at the source for the way there, one at the target for the way back.

The first exists while an attempt runs, because a slot that nobody reads keeps the server's log; the second from the
beginning, so that it holds every write since the first handover, until the purge or a rollback closes the way back.

Neither is made or dropped by a process that was taken over. Neither outlives the server that it was made at: where a
standby was promoted in its place, a wave on its way is copied anew, and a way back is closed.
"""

from __future__ import annotations

from functools import partial
import logging

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase
from domicile.model.plan import Mode, WayBack
from domicile.move.carrier import Carrier
from domicile.move.context import Move
from domicile.postgres.lease import assert_lease
from domicile.stream import fitness, slot

log = logging.getLogger(__name__)

IN_USE = (Phase.HANDOVER, Phase.SOAK, Phase.ROLLBACK)
# How far a stream has come into a site, by the site's own record: of waves on their way there, or on their way back.
_APPLIED = """
    select coalesce(max(position) - '0/0', 0)::bigint from domicile.wave where move_id = %s and mark = any(%s)"""
_ON_THEIR_WAY, _AND_BACK = ["arriving"], ["departed", "arriving"]


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


async def after_failover(carrier: Carrier) -> None:
    """What a failover did to the streams of a move that has begun. Idempotent; nothing to do where there was none.

    The stream of a server whose log ends before what the other site has of it is dropped: that server has gone back in
    time, and what it writes now stands where something else stood. A standby that was promoted shows its new timeline;
    this finds a server that was restored from a snapshot of its disks, as long as its log is shorter. A way back that
    ended with the target's server is said to be closed; while nobody has moved, `begin` makes another.
    """
    if carrier.move.mode is Mode.COLD:
        return
    for one, marks in ((carrier, _ON_THEIR_WAY), (carrier.reversed(), _AND_BACK)):
        async with one.sites() as (losing, gaining):
            row = await (await gaining.execute(_APPLIED, (one.move.move_id, marks))).fetchone()
            assert row is not None
            if row[0] > await slot.log_end(losing):
                log.warning("%s has gone back in time: its stream is given up", one.move.source_site)
                await slot.drop(losing, one.move.stream_name, lease=_lease(losing, one.move))
    back = carrier.reversed()
    async with back.source() as target:
        ended = await slot.replaced(target, back.move.stream_name)
    if ended and await _anybody_moved(carrier):
        log.warning("move %s goes on without a way back: %s", carrier.move.move_id, await _why_closed(carrier))


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
        await slot.drop(target, back.move.stream_name, lease=_lease(target, back.move))
        assert await slot.inspect(target, back.move.stream_name) is None


async def require_no_doubt(carrier: Carrier) -> None:
    """Raise verdict-missing when a copy that is to go may hold what its wave's home has not."""
    if doubtful := await carrier.moves.doubts.waves(carrier.move.move_id):
        raise _in_doubt(doubtful)


async def require_way_back(carrier: Carrier) -> None:
    """Raise way-back-closed unless the move can be rolled back now. One of which nothing is left at the target can be:
    there is nothing to bring back."""
    move = carrier.move
    if not await _anybody_moved(carrier):
        return
    if why := await _why_closed(carrier):
        raise DomicileError(
            ErrorCode.WAY_BACK_CLOSED,
            f"move {move.move_id} cannot be rolled back: {why}",
            facts={"move": move.move_id},
            safe=f"{move.target_site} serves the moved subjects.",
            hint=f"The way back is a move of its own: domicile plan from {move.target_site} to {move.source_site}",
        )


async def _anybody_moved(carrier: Carrier) -> bool:
    return any(w.phase in IN_USE for w in await carrier.figures.waves(carrier.move.move_id))


async def _why_closed(carrier: Carrier) -> str:
    """Empty while the way back is open."""
    move = carrier.move
    if move.mode is Mode.COLD:
        return "a cold move keeps no stream of what is written at the target"
    if move.plan.way_back is WayBack.NONE:
        return "the plan allows nothing to cross back"
    if doubtful := await carrier.moves.doubts.waves(move.move_id):
        return f"after a failover the copies of waves {doubtful} at {move.source_site} are not what their waves left"
    back = carrier.reversed()
    async with back.source() as target:
        facts = await slot.inspect(target, back.move.stream_name)
        if await slot.replaced(target, back.move.stream_name):
            return (
                f"{move.target_site} was replaced by a standby, and the stream of what was written there since the"
                " handover ended with the server before it"
            )
    if facts is None:
        return "its purge was begun, or its stream was dropped"
    return f"{move.target_site} no longer has the log of what was written there ({facts.reason})" if facts.lost else ""


def _in_doubt(waves: list[int]) -> DomicileError:
    return DomicileError(
        ErrorCode.VERDICT_MISSING,
        f"the departure of waves {waves} was lost in a failover: what was written to the copies that they had left is"
        " nowhere else",
        facts={"waves": waves},
        safe="Nothing was deleted; the waves are served where they live, and their copies are closed.",
        hint="Compare the copies with what their home has, carry over what is missing, then say so: see"
        " docs/how-to/fail-over.md",
    )


def _lease(conn: AsyncConnection, move: Move) -> slot.Asserted:
    return partial(assert_lease, conn, move.move_id, move.generation)


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
            await slot.drop(source, move.stream_name, lease=_lease(source, move))
        await slot.create(
            source,
            move.stream_name,
            tables,
            seconds_max=move.plan.limits.fence_seconds_max,
            lease=_lease(source, move),
        )


async def _drop(carrier: Carrier) -> None:
    """An end must come to its end: what cannot be dropped now is named, and dropped by the next attempt. Raises
    lease-lost all the same: who was taken over ends nothing."""
    try:
        async with carrier.source() as source:
            await slot.drop(source, carrier.move.stream_name, lease=_lease(source, carrier.move))
    except DomicileError as error:
        if error.code is ErrorCode.LEASE_LOST:
            raise
        log.warning("the stream at %s stays for now and keeps its log: %s", carrier.move.source_site, error.message)
