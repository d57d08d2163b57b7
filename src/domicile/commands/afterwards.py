"""Orders about waves that live at the target: rollback, soak, purge."""

from __future__ import annotations

import asyncio
import getpass
import time

from domicile.commands.approvals import require_past_no_return
from domicile.commands.desk import Desk, carrier_for, open_desk
from domicile.commands.moves import (
    Watch,
    carry_out,
    forbidden,
    quiet,
    require_none_on_the_way_back,
    told,
    watched,
)
from domicile.model.erasure import ErasureReport, ErasureWish
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.report import MoveStatus, PurgedTable, PurgeReport
from domicile.model.site import MoveId
from domicile.model.workspace import Workspace
from domicile.move import begin, erase, evidence, parties, streams
from domicile.move import purge as purging
from domicile.move import rollback as rolling_back
from domicile.move import soak as soaking
from domicile.move.carrier import Carrier
from domicile.move.run import Outcome
from domicile.postgres import purge_journal, waves


async def rollback(
    workspace: Workspace, move_id: str, *, on_progress: Watch = quiet, stop: asyncio.Event | None = None
) -> MoveStatus:
    """Hand every wave that lives at the target back to the source, with what was written at the target meanwhile.

    Until a wave's handover back it lives at the target; killed half-way it is continued by the same order. Raises
    way-back-closed when the plan or a purge forbids it, and why a wave could not be handed back: it serves on at the
    target then.
    """
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        before = await desk.figures.waves(record.move_id)
        there = any(w.phase in (Phase.SOAK, Phase.ROLLBACK) for w in before)
        if record.status is Status.ABORTED and not there:
            return await desk.status(record.move_id)
        if not there and not any(w.rolled_back for w in before):
            raise forbidden(record, "rollback")
        async with carrier_for(desk, record.move_id) as carrier:
            await begin.enlist(carrier)
            await streams.require_way_back(carrier)
            await desk.journal.approve(record.move_id, "rollback", getpass.getuser())
            await desk.moves.request(record.move_id, pause=False)
            outcome = await carry_out(desk, carrier, "rollback", on_progress, stop)
            await desk.moves.request(record.move_id, pause=False)
        now = await told(desk, record.move_id, on_progress)
        if outcome is Outcome.FAILED:
            raise DomicileError(
                ErrorCode(now.error_code or ErrorCode.INTERNAL),
                now.error_message or "the rollback did not come to its end",
                facts={"move": move_id},
                safe=now.safe,
                hint=now.error_hint
                if now.error_code in (ErrorCode.WAY_BACK_BLOCKED, ErrorCode.REFERENCE_MISSING)
                else f"Mend the cause, then run it again: domicile rollback {move_id}",
            )
        return now


async def soak(
    workspace: Workspace, move_id: str, *, on_progress: Watch = quiet, stop: asyncio.Event | None = None
) -> MoveStatus:
    """Keep the source copies of a move's waves current until ``stop`` is set: for plans whose way back is ``stream``.

    Raises way-back-closed for other plans and after a purge was begun; site-unreachable and the like end it, with the
    copies as they were after the last round. May be begun again.
    """
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        if not any(w.phase is Phase.SOAK for w in await desk.figures.waves(record.move_id)):
            raise forbidden(record, "soak")
        async with carrier_for(desk, record.move_id) as carrier:
            await begin.enlist(carrier)
            async with watched(desk, record.move_id, on_progress, None):
                await soaking.run(carrier, stop or asyncio.Event())
        return await told(desk, record.move_id, on_progress)


async def purge(
    workspace: Workspace,
    move_id: str,
    *,
    wish: ErasureWish | None = None,
    on_progress: Watch = quiet,
    stop: asyncio.Event | None = None,
) -> PurgeReport:
    """Remove the source copy of every wave that lives at the target. Irreversible; killed half-way it is
    continued by the same order.

    Of a move that was rolled back: remove the copy that the target has kept, closed, until now. Where only some of its
    waves were, the first order removes what the others left at the source, the next one that.

    With a ``wish`` what the deleted rows leave on disk is seen to, and searched for where the files can be reached;
    of a move that was purged with one before, again.

    Raises verdict-missing when a wave has no clean verdict or its source copy has changed since (the way back is still
    open then), phase-forbids when nothing is to purge, a rollback has not come to its end, or a ``wish`` is given for a
    move that was rolled back.
    """
    begun = time.monotonic()
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        all_waves = await desk.figures.waves(record.move_id)
        require_none_on_the_way_back(record, all_waves)
        kept = any(w.phase in (Phase.SOAK, Phase.PURGE) for w in all_waves)
        rolled_back = not kept and any(w.rolled_back for w in all_waves)
        if not rolled_back and not kept and not any(w.phase is Phase.DONE for w in all_waves):
            raise forbidden(record, "purge")
        if rolled_back and wish is not None:
            raise _no_search_at_target(record.move_id)
        if kept:
            await require_past_no_return(desk, record.move_id, all_waves)
        await desk.journal.approve(record.move_id, "purge", getpass.getuser())
        async with carrier_for(desk, record.move_id) as carrier:
            await begin.enlist(carrier)
            if rolled_back:
                return await _purge_rolled_back(carrier, begun)
            left = record.status is not Status.DONE or any(w.phase is not Phase.DONE for w in all_waves)
            if wish is not None:
                left = True
                await erase.order(carrier, wish)
            if left and await carry_out(desk, carrier, "purge", on_progress, stop) is Outcome.FAILED:
                raise await _why_not_purged(desk, record.move_id)
            return await _purge_report(desk, carrier, time.monotonic() - begun)


async def recheck(workspace: Workspace, move_id: str, *, on_progress: Watch = quiet) -> ErasureReport:
    """Search the source's files again for what a purge removed; nothing else is done. When nothing is found and nothing
    is left to wait for, the fingerprints are destroyed, and later checks give the same report.

    Raises phase-forbids where no purge has left a report, files-unreadable when the scan does not come to its end.
    """
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
        async with carrier_for(desk, record.move_id, any_schema=True) as carrier:
            await begin.enlist(carrier)
            async with (
                carrier.pacing.held(carrier.move, purging=True),
                watched(desk, record.move_id, on_progress, None),
            ):
                return await erase.recheck(carrier)


def _no_search_at_target(move_id: MoveId) -> DomicileError:
    return DomicileError(
        ErrorCode.PHASE_FORBIDS,
        f"move {move_id} was rolled back: what its copy leaves on the target's disk is not searched for",
        facts={"move": move_id},
        safe="Nothing was deleted.",
        hint=f"Purge without a search: domicile purge {move_id}; then, beside the target: domicile scan DATA_DIRECTORY",
    )


async def _why_not_purged(desk: Desk, move_id: MoveId) -> DomicileError:
    """The error of the wave at which the purge stopped, or the move's own, before its first wave or after its last."""
    now = await desk.status(move_id)
    wave = next((w for w in now.waves if w.error_code and w.phase is Phase.PURGE), None)
    failed = wave or now
    return DomicileError(
        ErrorCode(failed.error_code or ErrorCode.INTERNAL),
        failed.error_message or "the purge did not come to its end",
        facts={"wave": wave.no} if wave else {},
        safe=f"{now.target} serves the moved subjects; the rest is still at {now.source}.",
        hint=f"Mend the cause, then run it again: domicile purge {move_id}",
    )


async def _purge_rolled_back(carrier: Carrier, begun: float) -> PurgeReport:
    """What a rollback left at the target."""
    move = carrier.move
    removed = await rolling_back.clear(carrier)
    await evidence.erased(carrier)
    await evidence.close(carrier)
    await streams.end(carrier)
    await purging.vacuum(carrier.reversed())
    await begin.release_guards(carrier)
    return PurgeReport(
        move_id=move.move_id,
        site=move.target_site,
        home=move.source_site,
        waves=sum(w.rolled_back for w in await carrier.figures.waves(move.move_id)),
        rows=sum(removed.values()),
        tables=tuple(PurgedTable(t, n) for t, n in sorted(removed.items())),
        left_at_source=None,
        seconds=time.monotonic() - begun,
        remains=purging.remains(move.target_site, told=False),
    )


async def _purge_report(desk: Desk, carrier: Carrier, seconds: float) -> PurgeReport:
    move_id = carrier.move.move_id
    left = 0
    removed: dict[str, int] = {}
    purged = [w for w in await desk.figures.waves(move_id) if w.phase is Phase.DONE]
    async with carrier.source() as source:
        for wave in purged:
            record = await waves.find_wave(source, move_id, wave.no)
            assert record is not None
            left += await purging.rows_left(carrier, source, record.id)
            for table, rows in await purge_journal.removed(source, record.id):
                removed[table] = removed.get(table, 0) + rows
        stubs = await parties.remains(source, carrier.move)
    erasure = await erase.stored_report(carrier)
    return PurgeReport(
        move_id=move_id,
        site=carrier.move.source_site,
        home=carrier.move.target_site,
        waves=len(purged),
        rows=sum(removed.values()),
        tables=tuple(PurgedTable(t, n) for t, n in sorted(removed.items())),
        left_at_source=left,
        seconds=seconds,
        remains=(*purging.remains(carrier.move.source_site, told=True, searched=erasure is not None), *stubs),
        erasure=erasure,
    )
