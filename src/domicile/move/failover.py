"""After a failover: a site whose server was replaced by one of its standbys has what the standby had.

A standby has the beginning of its server's log. So what is missing at a promoted one is an end: where a mark is
missing, all that was committed later is missing too, and nothing else is. The other site's mark says what it was.

    the loser of a wave lost its departure   it would serve a wave that lives elsewhere, two homes: it is closed again
    the gainer lost the arrival              no write there is left of the wave, and nobody serves it: it goes home
    the target lost rows of the copy         what is left of it is no snapshot: the wave steps back
    the source lost a purge                  the copy is back, closed: it is purged again
    the source lost the cohort               nothing can be carried on: abort, and plan again

Runs before a process does anything else with a move. Until then a site that forgot a departure takes the wave's writes:
only a synchronous standby prevents that (docs/how-to/fail-over.md). Idempotent; in a move that saw no failover it finds
nothing to do, and costs one question to each site.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
import logging

from psycopg import AsyncConnection

from domicile.directory.directory import Home
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import Phase, Status
from domicile.model.report import WaveStatus
from domicile.move import clearing, copy, evidence, purge, rollback, stepback, verify
from domicile.move.carrier import Carrier
from domicile.postgres import guard, waves
from domicile.postgres.lease import assert_lease
from domicile.postgres.waves import WaveRecord

log = logging.getLogger(__name__)

_MARKS = """
    select no, id, mark, home, epoch, purged_at is not null, coalesce(arrival, '') <> ''
    from domicile.wave where move_id = %s"""
_COPIED = "select table_name, chunk from domicile.progress where wave = %s"
_BEHIND_ITS_COPY = (Phase.CATCHUP, Phase.VERIFY, Phase.HANDOVER)
_SERVING = (None, SourceMark.OPEN, SourceMark.CLOSING, SourceMark.FENCED)
_NOT_THERE = (None, TargetMark.ARRIVING)


class Lost(StrEnum):
    """What of a wave a failover has taken."""

    NOTHING = "nothing"
    DEPARTURE = "its departure from the source"
    WAY_BACK_DEPARTURE = "its departure from the target, on its way back"
    ARRIVAL = "its arrival at the target"
    REOPENING = "its reopening at the target, after a try to bring it back"
    COPY = "rows of its copy"
    PURGE = "the purge of its copy"
    HOME = "its only home"


_SERVED_TWICE = (Lost.DEPARTURE, Lost.WAY_BACK_DEPARTURE)


@dataclass(frozen=True, slots=True)
class _AtSite:
    """What a site knows of a wave."""

    record: WaveRecord | None = None
    purged: bool = False
    arrived: bool = False

    @property
    def mark(self) -> str | None:
        return self.record.mark if self.record else None


_UNKNOWN = _AtSite()


def what_is_lost(
    wave: WaveStatus, source: str | None, target: str | None, *, purged: bool = False, arrived: bool = False
) -> Lost:
    """From the phase in the control database and the marks of both sites; no mark: the site does not know the wave.
    ``purged`` at the source; ``arrived``: the target knows of an arrival. Pure."""
    match wave.phase, source, target:
        case _, mark, TargetMark.RESIDENT if mark in _SERVING:
            return Lost.DEPARTURE
        case _, TargetMark.RESIDENT, TargetMark.RESIDENT | SourceMark.CLOSING:
            return Lost.WAY_BACK_DEPARTURE
        case Phase.SOAK | Phase.ROLLBACK, _, mark if mark in _NOT_THERE:
            return Lost.ARRIVAL
        case Phase.SOAK, SourceMark.DEPARTED, SourceMark.DEPARTED if arrived:
            return Lost.REOPENING
        case Phase.SOAK, SourceMark.DEPARTED | TargetMark.RESIDENT, SourceMark.DEPARTED:
            return Lost.ARRIVAL  # it was on its way home when its process died
        case Phase.DONE, SourceMark.DEPARTED, _ if not purged:
            return Lost.PURGE
        case Phase.PURGE, _, mark if mark != TargetMark.RESIDENT:
            return Lost.HOME
        case Phase.PLANNED, mark, _ if wave.rolled_back and mark != TargetMark.RESIDENT:
            return Lost.HOME
    return Lost.NOTHING


async def mend(carrier: Carrier) -> None:
    """Give every wave of the move one home again, and close what must not be written. Raises discrepancy when a wave
    has none left, and whatever keeps a site from being asked."""
    async with carrier.sites() as (source, target):
        here, there = await _records(source, carrier), await _records(target, carrier)
    found = []
    for wave in await carrier.figures.waves(carrier.move.move_id):
        at_source, at_target = here.get(wave.no, _UNKNOWN), there.get(wave.no, _UNKNOWN)
        if at_source.record is None and at_target.record is None:
            continue  # not frozen yet, or `require_cohort` says it
        lost = what_is_lost(wave, at_source.mark, at_target.mark, purged=at_source.purged, arrived=at_target.arrived)
        if lost is Lost.NOTHING and await _copy_is_short(carrier, wave, at_target.record):
            lost = Lost.COPY
        if lost is not Lost.NOTHING:
            log.warning("wave %s: a failover has taken %s", wave.no, lost)
            found.append((wave, lost, (at_source.record, at_target.record)))
    # What is served at both sites first: the rest can take long, or be refused.
    found.sort(key=lambda one: one[1] not in _SERVED_TWICE)
    for wave, lost, records in found:
        await _mend(carrier, wave, lost, records)


async def _mend(
    carrier: Carrier, wave: WaveStatus, lost: Lost, records: tuple[WaveRecord | None, WaveRecord | None]
) -> None:
    match lost:
        case Lost.DEPARTURE:
            await _close(carrier, wave)
        case Lost.WAY_BACK_DEPARTURE:
            await _close(carrier.reversed(), wave)
        case Lost.ARRIVAL:
            await _take_home(carrier, wave.no, *records)
        case Lost.REOPENING:
            await rollback.settle(carrier, wave.no)
        case Lost.COPY:
            await _step_back(carrier, wave.no)
        case Lost.PURGE:
            await purge.run(carrier, wave.no)
        case _:
            raise _homeless(carrier, wave.no)


async def require_cohort(carrier: Carrier, source: AsyncConnection) -> None:
    """Raise plan-stale unless the source knows every wave: who is in it is written down nowhere else."""
    move = carrier.move
    known = await _records(source, carrier)
    missing = [w.no for w in await carrier.figures.waves(move.move_id) if w.no not in known]
    if missing:
        raise DomicileError(
            ErrorCode.PLAN_STALE,
            f"{move.source_site} does not know waves {missing} any more: it was replaced by a server without them",
            facts={"waves": missing},
            safe=f"Of these waves nothing has moved: {move.source_site} serves them.",
            hint=f"Give the move up, then plan anew: domicile abort {move.move_id}",
        )


async def _records(conn: AsyncConnection, carrier: Carrier) -> dict[int, _AtSite]:
    """A site's waves of the move by their number."""
    cursor = await conn.execute(_MARKS, (carrier.move.move_id,))
    return {
        no: _AtSite(WaveRecord(*record), purged, arrived) for no, *record, purged, arrived in await cursor.fetchall()
    }


async def _copy_is_short(carrier: Carrier, wave: WaveStatus, at_target: WaveRecord | None) -> bool:
    """Of a wave whose copy was whole. The stream's rows come after the last of it, so none of them is there either."""
    if wave.phase not in _BEHIND_ITS_COPY or at_target is None or at_target.mark != TargetMark.ARRIVING:
        return False
    async with carrier.target() as target:
        highest = await waves.last_ordinal(target, at_target.id)
        done = {(t, int(cell)) for t, cell in await (await target.execute(_COPIED, (at_target.id,))).fetchall()}
    return any(True for _ in copy.chunks(carrier.move.plan, highest, done, set()))


async def _step_back(carrier: Carrier, no: int) -> None:
    move = carrier.move
    short = DomicileError(
        ErrorCode.STREAM_LOST,
        f"{move.target_site} was replaced by a server that has a part of the copy of wave {no}",
        facts={"wave": no},
        safe=f"The wave has stepped back; {move.source_site} serves and nothing has changed.",
        hint=f"Begin the wave again with: domicile resume {move.move_id}",
    )
    await carrier.moves.fail(move.move_id, no, short)
    await stepback.run(carrier, no)
    await carrier.moves.back_to_planned(move.move_id, no, Status.FAILED)


async def _close(carrier: Carrier, wave: WaveStatus) -> None:
    """The carrier's source has lost the wave to its target, and does not know it: it is told again.

    What was written there meanwhile is in the copy and nowhere else, and what the standby lacked of the time before is
    missing in it. Only a copy that still is what was sealed is sound.
    """
    move = carrier.move
    limits, tables = move.plan.limits, move.data_map.in_scope()
    async with carrier.sites() as (losing, gaining):
        home = await waves.find_wave(gaining, move.move_id, wave.no)
        left = await waves.find_wave(losing, move.move_id, wave.no)
        assert home is not None
        seconds = limits.fence_seconds_max
        await guard.install(losing, move.data_map, move.source_schema, here=move.source_site, seconds_max=seconds)
        await guard.arm(
            losing,
            tables,
            wave_id=left.id if left else None,
            lock_timeout_ms=limits.lock_timeout_ms,
            seconds_max=seconds,
        )
        async with losing.transaction(), gaining.transaction():
            await assert_lease(losing, move.move_id, move.generation)
            if left is None:
                gone = WaveRecord(0, SourceMark.DEPARTED, move.target_site, home.epoch)
                number = await waves.insert_wave(losing, move.move_id, wave.no, gone)
                await waves.write_members(losing, number, waves.members(gaining, home.id))
            else:
                number = left.id
                await guard.set_fence(losing, number, SourceMark.DEPARTED, move.target_site, home.epoch)
            await evidence.departed_again(carrier, (losing, gaining), wave.no, home.epoch)
            await carrier.moves.doubts.doubt(move.move_id, wave.no)
        await guard.drain(losing, tables, seconds_max=seconds)
        if wave.phase is Phase.SOAK and wave.source_root:
            root = await verify.root_of(losing, move.data_map, move.source_schema, tables, number, wave.source_root)
            if root == wave.source_root:
                await carrier.moves.doubts.accept(move.move_id, wave.no)
            else:  # once it is accepted it is sealed as it is then
                await carrier.moves.seal(move.move_id, wave.no, "")


async def _take_home(carrier: Carrier, no: int, at_source: WaveRecord | None, at_target: WaveRecord | None) -> None:
    """The target does not know of the arrival, hence of no write after it: what the source holds is all there is.

    As after a rollback: the source is home under the next epoch, the target's copy is closed until a purge removes it.
    The target first: then nobody is ever served at both.
    """
    move = carrier.move
    if at_source is None:
        raise _homeless(carrier, no)
    epoch = at_source.epoch
    if at_source.mark != TargetMark.RESIDENT:
        epoch = max(epoch + 1, at_target.epoch if at_target else 0)
    async with carrier.sites() as (source, target):
        if at_target is not None:
            async with target.transaction():
                await assert_lease(target, move.move_id, move.generation)
                await guard.set_fence(target, at_target.id, SourceMark.DEPARTED, move.source_site, epoch)
        async with source.transaction():
            await assert_lease(source, move.move_id, move.generation)
            await guard.set_fence(source, at_source.id, TargetMark.RESIDENT, move.source_site, epoch)
            if at_source.mark == SourceMark.DEPARTED:
                await evidence.stepped_back(carrier, source, move.source_site, no, at_source.epoch)
        async with source.transaction():
            members = waves.members(source, at_source.id)
            await carrier.directory.reserve(move.plan.dataset, move.move_id, no, members)
    await carrier.directory.publish(move.plan.dataset, move.move_id, no, Home(move.source_site, epoch))
    await carrier.moves.enter(move.move_id, no, Phase.ROLLBACK)
    await clearing.write_back(move, at_source.id)
    await carrier.moves.back_to_planned(move.move_id, no, Status.ABORTED)


def _homeless(carrier: Carrier, no: int) -> DomicileError:
    move = carrier.move
    return DomicileError(
        ErrorCode.DISCREPANCY,
        f"wave {no} has lost its home: neither {move.source_site} nor {move.target_site} knows that it lives there",
        facts={"wave": no},
        safe="Both sites refuse its writes; nothing was deleted by this command.",
        hint="The server that was its home went back to before it came: restore it from its log, then order again.",
    )
