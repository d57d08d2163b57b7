"""Erasure: what a purge does beyond the deletion, so that it can be said what is left on disk.

Before the first row is deleted, fingerprints of the wave's values are kept at the source (sealed), canaries are planted
and the scanner is tried out on them. After the last deletion the space is written anew as far as that is possible, and
the files are scanned again. What is found is listed; what was not read is said. Every part can be repeated. A scan that
fails stops no purge: the report says that nothing is known.

The canaries are made with a key of this installation; so are the fingerprints, and what seals them. Decision 0018.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import AsyncConnection
from pydantic import TypeAdapter

from domicile.erasure.agent import Result
from domicile.erasure.prints import CANARY, PRINTS_MAX, Gatherer
from domicile.erasure.scan import Order
from domicile.model.erasure import ErasureReport, ErasureWish, Place, Stage, Step
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase
from domicile.move import evidence, known, residue, scanning
from domicile.move.carrier import Carrier
from domicile.move.known import Known
from domicile.postgres import canary, erasure_record, outsiders, personal, reclaim, waves
from domicile.postgres.clearing import NOTES
from domicile.postgres.erasure_record import ErasureRecord
from domicile.postgres.server_files import ServerFiles, holders_of_log, server_files

WAVE_SHIFT = 20  # owners: the wave's number above the member's ordinal
PRINTS_OF_MOVE_MAX = 4_000_000  # some 300 bytes of memory each, in the process that purges
NOT_ENDED = "the scan did not come to its end"
NOTHING_KEPT = "nothing was kept to search for: the rows were deleted before the search was ordered"
NOT_TOLD = "the role may not ask which server this is, and an agent must not search another one's files"
SEALED = "the fingerprints were sealed with another key than this machine's directory.key"
_REPORT = TypeAdapter(ErasureReport)


async def before_deletion(carrier: Carrier, source: AsyncConnection) -> None:
    """Keep the fingerprints of the values of every wave that is to be purged, and try the scanner out, once for the
    move. Idempotent.

    To be called while every row of these waves is still there. Does nothing unless it was ordered.
    """
    move_id = carrier.move.move_id
    record = await _openable(carrier, source)
    if record is None:
        return
    going: dict[int, int] = {}
    for wave in await carrier.figures.waves(move_id):
        if wave.phase in (Phase.SOAK, Phase.PURGE):
            at_source = await waves.find_wave(source, move_id, wave.no)
            assert at_source is not None
            going[wave.no] = at_source.id
    for no in going:
        if no not in record.waves:
            await _doing(carrier, f"the values of wave {no} are kept, to be searched for")
            await _gather(carrier, source, no, going)
    await carrier.move.failpoints.reach("erase.values_kept")
    if record.first is None:
        await _try_out(carrier, source)
        await carrier.move.failpoints.reach("erase.canaries_found")
    await _doing(carrier)


async def after_deletion(carrier: Carrier) -> ErasureReport | None:
    """Write the freed space anew, scan, and keep the report at the source. Idempotent.

    None where nothing of it was ordered. A server whose files cannot be reached is not an error, nor is a scan that did
    not come to its end, nor are fingerprints that were never kept or cannot be opened: the report says what was not
    read.
    """
    move = carrier.move
    async with carrier.source() as source:
        record = await erasure_record.read(source, move.move_id)
        stored = _stored(record)
        if record is None or (record.prints is None and stored is not None and stored.closed):
            return stored
        tables = [*move.data_map.in_scope(), NOTES, *await canary.twins(source)]
        await canary.remove(source, await canary.twins(source))
        position = await reclaim.position(source)
        await _doing(carrier, "the space is written anew")
        steps = [await reclaim.rewrite_salts(source)]
        steps += await _paced(carrier, reclaim.reclaim(source, tables, rewrite=record.rewrite))
        steps += await _paced(carrier, reclaim.advance(source))
        await move.failpoints.reach("erase.reclaimed")
        looked_for, why = _known_or_why(carrier, record)
        files = await _files(carrier, source)
        if why:
            files = replace(files, data=None, why=why)
        middle, _ = await _scan(carrier, files, record, looked_for)
        await _doing(carrier, "recycled log is overwritten")
        steps.append(await reclaim.overwrite_recycled(source, record.mb_per_s_max, carrier.pacing.rest))
        steps.append(await reclaim.wait_replayed(source, position))
        steps += await _paced(carrier, reclaim.advance(source))
        last, why = await _scan(carrier, files, record, looked_for)
        await move.failpoints.reach("erase.scanned")
        report = await _account(carrier, source, record, looked_for, _Seen(why, position, steps, middle, last))
        await canary.uproot(source)
        await _keep(carrier, source, report)
    await _doing(carrier)
    return report


async def deleted(carrier: Carrier, source: AsyncConnection) -> None:
    """In the transaction that says so: no row of a wave is left."""
    await erasure_record.deleted(source, carrier.move.move_id)


async def order(carrier: Carrier, wish: ErasureWish) -> None:
    """What the operator wants, kept for whoever carries the purge. Idempotent."""
    async with carrier.source() as source:
        await erasure_record.order(source, carrier.move.move_id, wish)


async def recheck(carrier: Carrier) -> ErasureReport:
    """Scan again, without doing anything else; with nothing left to wait for, the fingerprints are destroyed and the
    report is closed. Raises phase-forbids where no purge has left a report, files-unreadable when the scan does not
    come to its end: the report stays as it was."""
    move = carrier.move
    async with carrier.source() as source:
        record = await erasure_record.read(source, move.move_id)
        stored = _stored(record)
        if record is None or stored is None:
            raise DomicileError(
                ErrorCode.PHASE_FORBIDS,
                f"move {move.move_id} has no report of a purge that could be checked again",
                facts={"move": move.move_id},
                hint=f"Purge it first: domicile purge {move.move_id}",
            )
        if record.prints is None:
            return stored
        steps = [s async for s in reclaim.advance(source)]
        looked_for, files = known.of_record(carrier, record), await _files(carrier, source)
        last = await _search(carrier, files, record, looked_for) if files.data else None
        position = await reclaim.position(source)
        report = await _account(carrier, source, record, looked_for, _Seen(files.why, position, steps, None, last))
        await _keep(carrier, source, report)
    await _doing(carrier)
    return report


async def stored_report(carrier: Carrier) -> ErasureReport | None:
    """The report of the last purge or check, or None."""
    async with carrier.source() as source:
        return _stored(await erasure_record.read(source, carrier.move.move_id))


async def _openable(carrier: Carrier, source: AsyncConnection) -> ErasureRecord | None:
    """The record; begun anew where this machine cannot open its fingerprints: what is still there is read again."""
    move_id = carrier.move.move_id
    record = await erasure_record.read(source, move_id)
    if record is not None and _known_or_why(carrier, record)[1] == SEALED:
        await erasure_record.begin_anew(source, move_id)
        record = await erasure_record.read(source, move_id)
    return record


async def _gather(carrier: Carrier, source: AsyncConnection, no: int, going: Mapping[int, int]) -> None:
    """Of wave ``no``; ``going``: the waves that are to be purged, and what they are called at the source."""
    move, key = carrier.move, known.key_of(carrier)
    record = await erasure_record.read(source, move.move_id)
    assert record is not None
    held = known.joined(carrier, record, Gatherer(key).prints()).prints
    gathered, shared = Gatherer(key, max(0, min(PRINTS_MAX, PRINTS_OF_MOVE_MAX - len(held)))), 0
    values = personal.values(source, move.data_map, move.source_schema, going[no], tuple(going.values()))
    async for value in carrier.pacing.gently(values):
        if value.shared:
            shared += 1
        else:
            gathered.add(value.raw, (no % (CANARY >> WAVE_SHIFT)) << WAVE_SHIFT | value.ordinal)
    sealed = known.seal(carrier, held.joined([gathered.prints().beside(held)]))
    counts = gathered.too_plain, gathered.passed_over, shared
    await erasure_record.gathered(source, move.move_id, no, sealed, counts)


async def _try_out(carrier: Carrier, source: AsyncConnection) -> None:
    """Plant, scan, and keep how many of the canaries were found in each place."""
    move = carrier.move
    record = await erasure_record.read(source, move.move_id)
    assert record is not None
    planted = await canary.plant(source, move.data_map.in_scope(), known.key_of(carrier))
    gathered = Gatherer(known.key_of(carrier))
    for number, one in enumerate(planted.canaries):
        gathered.add(one.value, CANARY + number)
    canaries = gathered.prints()
    step = await reclaim.checkpoint(source)
    looked_for = known.joined(carrier, record, canaries)
    result, why = await _scan(carrier, await _files(carrier, source), record, looked_for)
    expected: dict[str, list[int]] = {}
    for number, owner in enumerate(canaries.owners, looked_for.values):
        for place in planted.canaries[owner - CANARY].places if result else ():
            there = _where(result, place, number) if result else place
            counts = expected.setdefault(str(there), [0, 0])
            counts[0] += 1
            counts[1] += number in result.tallies[there].found if result else 0
    found = residue.findings(result, looked_for.prints, (), {}) if result else ()
    first = {
        "canaries": expected,
        "refused": [*planted.refused, *([f"before the deletion: {why}"] if why == NOT_ENDED else ())],
        "stage": asdict(residue.stage("before the deletion", 0.0, found)),
        "checkpoint": asdict(step),
    }
    await erasure_record.tried(source, move.move_id, first, known.seal(carrier, canaries))


def _where(result: Result, place: Place, number: int) -> Place:
    """Where a canary must be found: log that a checkpoint has recycled meanwhile is old log."""
    recycled = place is Place.WAL and number in result.tallies[Place.RECYCLED].found
    return Place.RECYCLED if recycled and number not in result.tallies[place].found else place


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the last pass did and saw. ``middle``: the scan before recycled log was overwritten; ``why``: there is no
    last one."""

    why: str
    position: str
    steps: Sequence[Step]
    middle: Result | None
    last: Result | None


async def _account(
    carrier: Carrier, source: AsyncConnection, record: ErasureRecord, looked_for: Known, seen: _Seen
) -> ErasureReport:
    first, today = record.first or {}, datetime.now(UTC)
    canaries = {Place(p): (n, s) for p, (n, s) in first.get("canaries", {}).items()}
    recycled = seen.middle.tallies[Place.RECYCLED].found if seen.middle else {}
    if Place.RECYCLED not in canaries and (there := looked_for.canaries_among(recycled)):
        canaries[Place.RECYCLED] = (there, there)
    shared, elsewhere = await _held(carrier, source, looked_for, seen.last)
    unsearched = await _unsearched(carrier, record)
    since, deleted = await _since_handover(carrier, record, today)
    stages = [Stage(**first["stage"])] if first.get("stage") else []
    if (before := _stored(record)) is not None and before.stages:
        stages = [*before.stages]
    if seen.middle:
        found = residue.findings(seen.middle, looked_for.prints, shared, {})
        behind = seen.last.seconds if seen.last else 0.0
        stages.append(residue.stage("space written anew", max(0.0, since - behind), found))
    if seen.last:
        found = residue.findings(seen.last, looked_for.prints, shared, canaries)
        stages.append(residue.stage("at the end", since, found))
    else:
        found = residue.unread(seen.why)
    holders = await holders_of_log(source, record.deleted_lsn or seen.position)
    kept = [(path, until) for path, until in record.kept]
    listed = residue.residuals(found, seen.steps, holders, kept, rewrite=record.rewrite) + residue.in_rows(elsewhere)
    left = looked_for.canaries_left(seen.last) if seen.last else 0
    closed = residue.is_closed(found, listed, today.date()) and residue.is_shown(found, left)
    return ErasureReport(
        site=str(carrier.move.source_site),
        method=residue.BY_AGENT if _agent(carrier) else residue.METHOD,
        scanned_by=seen.last.by if seen.last else "",
        begun_at=record.begun_at.astimezone(UTC).isoformat(timespec="seconds"),
        finished_at=today.isoformat(timespec="seconds"),
        searched=looked_for.values - len(shared),
        too_plain=record.plain,
        shared=record.shared + len(shared),
        findings=found,
        residuals=listed,
        steps=tuple(seen.steps),
        scanned=seen.last is not None,
        mb_per_s=round(seen.last.mb_per_s, 1) if seen.last else 0.0,
        canaries_left=left,
        not_planted=tuple(first.get("refused", ())),
        closed=closed and seen.last is not None and not unsearched,
        stages=tuple(stages),
        lag_seconds=residue.lags(stages),
        deleted_after=deleted,
        passed_over=record.passed_over,
        waves_unsearched=unsearched,
    )


async def _since_handover(carrier: Carrier, record: ErasureRecord, today: datetime) -> tuple[float, float]:
    """Seconds since the first of the waves was handed over, and from then to the last deletion."""
    deleted = record.deleted_at or today
    arrived = await carrier.figures.no_return(carrier.move.move_id, carrier.move.plan.limits)
    first = datetime.fromtimestamp(arrived.arrived_first, UTC) if arrived is not None else deleted
    return max(0.0, (today - first).total_seconds()), max(0.0, (deleted - first).total_seconds())


async def _unsearched(carrier: Carrier, record: ErasureRecord) -> int:
    """Waves whose rows are gone, and of which nothing was kept to search for."""
    all_waves = await carrier.figures.waves(carrier.move.move_id)
    return sum(w.phase is Phase.DONE and w.subjects > 0 and w.no not in record.waves for w in all_waves)


async def _held(
    carrier: Carrier, source: AsyncConnection, looked_for: Known, last: Result | None
) -> tuple[set[int], dict[int, set[str]]]:
    """Of the values that were found: those that rows which stay hold too, in the tables that move; and of the others
    those that stand in rows of other tables, with the names of these."""
    in_scope = carrier.move.data_map.in_scope()
    tallies = last.tallies.values() if last else ()
    found = {n for tally in tallies for n in tally.found if n < looked_for.values}
    shared: set[int] = set()
    elsewhere: dict[int, set[str]] = {}
    if found:
        async for table, piece in carrier.pacing.gently(outsiders.rows(source)):
            for which in {hit.which for hit in looked_for.prints.search(piece)} & found:
                if table in in_scope:
                    shared.add(which)
                else:
                    elsewhere.setdefault(which, set()).add(str(table))
    return shared, {which: tables for which, tables in elsewhere.items() if which not in shared}


async def _paced(carrier: Carrier, steps: AsyncIterator[Step]) -> list[Step]:
    """The steps, with a rest behind each."""
    done = []
    async for step in steps:
        done.append(step)
        await carrier.pacing.rest(step.seconds)
    return done


def _agent(carrier: Carrier) -> Sequence[str]:
    """The program that scans beside the source's server, where there is one."""
    return carrier.agents.get(carrier.move.source_site, ())


async def _files(carrier: Carrier, source: AsyncConnection) -> ServerFiles:
    """The source's files. Where they are for an agent, it knows itself; and it refuses another server's."""
    files = await server_files(source)
    if not _agent(carrier):
        return files
    if files.server is None:
        return replace(files, data=None, why=NOT_TOLD)
    return replace(files, data=files.data or Path(), why="")


async def _scan(
    carrier: Carrier, files: ServerFiles, record: ErasureRecord, looked_for: Known
) -> tuple[Result | None, str]:
    """What was found; or None, and why nothing is known."""
    if files.data is None:
        return None, files.why
    try:
        return await _search(carrier, files, record, looked_for), ""
    except DomicileError as error:
        if error.code is not ErrorCode.FILES_UNREADABLE:
            raise
        return None, NOT_ENDED


async def _search(carrier: Carrier, files: ServerFiles, record: ErasureRecord, looked_for: Known) -> Result:
    assert files.data is not None
    order = _order(files.data, files, record, looked_for)

    async def told(share: int) -> None:
        await _doing(carrier, f"the server's files are searched, {share} %")

    return await scanning.scan(order, _agent(carrier), carrier.pacing.held_back, told)


async def _doing(carrier: Carrier, what: str = "") -> None:
    """For whoever watches: all this may last for hours. That it cannot be said is no reason to stop it."""
    with suppress(psycopg.Error):
        await carrier.orders.doing(carrier.move.move_id, what)


def _order(data: Path, files: ServerFiles, record: ErasureRecord, looked_for: Known) -> Order:
    """What was to go by now, and has gone, is not missed."""
    today = datetime.now(UTC).date().isoformat()
    due = {path for path, until in record.kept if until and until <= today}
    kept = tuple(Path(path) for path, _ in record.kept if path not in due)
    expired, fast = tuple(map(Path, sorted(due))), float(record.mb_per_s_max)
    return Order(data, looked_for.prints, files.places, kept, files.collected, fast, expired, files.server)


async def _keep(carrier: Carrier, source: AsyncConnection, report: ErasureReport) -> None:
    kept = _REPORT.dump_python(report, mode="json")
    async with source.transaction():
        await erasure_record.reported(source, carrier.move.move_id, kept, closed=report.closed)
        await evidence.scanned(carrier, source, report)


def _stored(record: ErasureRecord | None) -> ErasureReport | None:
    return _REPORT.validate_python(record.report) if record is not None and record.report is not None else None


def _known_or_why(carrier: Carrier, record: ErasureRecord) -> tuple[Known, str]:
    """What is searched for; or nothing, and why."""
    try:
        return known.of_record(carrier, record), "" if record.prints is not None else NOTHING_KEPT
    except DomicileError as error:
        if error.code is not ErrorCode.CONFIG_INVALID:
            raise
        return Known(Gatherer(known.key_of(carrier)).prints(), 0), SEALED
