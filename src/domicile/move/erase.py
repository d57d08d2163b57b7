"""Erasure: what a purge does beyond the deletion, so that it can be said what is left on disk.

Before the first row is deleted, fingerprints of the wave's values are kept at the source (sealed), canaries are planted
and the scanner is tried out on them. After the last deletion the space is written anew as far as that is possible, and
the files are scanned again. What is found is listed; what was not read is said. Every part can be repeated.

The canaries are made with a key of this installation; so are the fingerprints, and what seals them. Decision 0018.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import AsyncConnection
from pydantic import TypeAdapter

from domicile.erasure.agent import Result
from domicile.erasure.prints import CANARY, Gatherer, Hit, Prints
from domicile.erasure.scan import Order
from domicile.model.erasure import ErasureReport, ErasureWish, Place, Stage, Step
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase
from domicile.move import evidence, residue, scanning
from domicile.move.carrier import Carrier
from domicile.postgres import canary, erasure_record, outsiders, personal, reclaim, waves
from domicile.postgres.erasure_record import ErasureRecord
from domicile.postgres.server_files import ServerFiles, holders_of_log, server_files

WAVE_SHIFT = 20  # owners: the wave's number above the member's ordinal
NONCE_BYTES = 12
_REPORT = TypeAdapter(ErasureReport)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is searched for: the values' fingerprints, then the canaries'. ``values``: how many of the former."""

    prints: Prints
    values: int


async def before_deletion(carrier: Carrier, source: AsyncConnection) -> None:
    """Keep the fingerprints of the values of every wave that is to be purged, and try the scanner out, once for the
    move. Idempotent.

    To be called while every row of these waves is still there. Does nothing unless it was ordered.
    """
    move_id = carrier.move.move_id
    record = await erasure_record.read(source, move_id)
    if record is None:
        return
    for wave in await carrier.figures.waves(move_id):
        if wave.no not in record.waves and wave.phase in (Phase.SOAK, Phase.PURGE):
            at_source = await waves.find_wave(source, move_id, wave.no)
            assert at_source is not None
            await _gather(carrier, source, at_source.id, wave.no)
    await carrier.move.failpoints.reach("erase.values_kept")
    if record.first is None:
        await _try_out(carrier, source)
        await carrier.move.failpoints.reach("erase.canaries_found")


async def after_deletion(carrier: Carrier) -> ErasureReport | None:
    """Write the freed space anew, scan, and keep the report at the source. Idempotent.

    None where nothing of it was ordered. A server whose files cannot be reached is not an error: the report says what
    was not read. Raises files-unreadable when a scan that was begun did not come to its end.
    """
    move = carrier.move
    async with carrier.source() as source:
        record = await erasure_record.read(source, move.move_id)
        if record is None or record.prints is None:
            return _stored(record)
        tables = [*move.data_map.in_scope(), *await canary.twins(source)]
        await canary.remove(source, await canary.twins(source))
        position = await reclaim.position(source)
        steps = [s async for s in reclaim.reclaim(source, tables, rewrite=record.rewrite)]
        steps += [s async for s in reclaim.advance(source)]
        await move.failpoints.reach("erase.reclaimed")
        known = _known(carrier, record)
        files = await server_files(source)
        middle = await _scan(files, record, known)
        steps.append(await reclaim.overwrite_recycled(source, record.mb_per_s_max))
        steps.append(await reclaim.wait_replayed(source, position))
        steps += [s async for s in reclaim.advance(source)]
        last = await _scan(files, record, known)
        await move.failpoints.reach("erase.scanned")
        report = await _account(carrier, source, record, known, _Seen(files, position, steps, middle, last))
        await _keep(carrier, source, report)
        await canary.uproot(source)
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
    report is closed. Raises phase-forbids where no purge has left a report."""
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
        known, files = _known(carrier, record), await server_files(source)
        last = await _scan(files, record, known)
        position = await reclaim.position(source)
        report = await _account(carrier, source, record, known, _Seen(files, position, steps, None, last))
        await _keep(carrier, source, report)
    return report


async def stored_report(carrier: Carrier) -> ErasureReport | None:
    """The report of the last purge or check, or None."""
    async with carrier.source() as source:
        return _stored(await erasure_record.read(source, carrier.move.move_id))


async def _gather(carrier: Carrier, source: AsyncConnection, wave_id: int, no: int) -> None:
    move = carrier.move
    record = await erasure_record.read(source, move.move_id)
    assert record is not None
    gathered, shared = Gatherer(_key(carrier)), 0
    async for value in personal.values(source, move.data_map, move.source_schema, wave_id):
        if value.shared:
            shared += 1
        else:
            gathered.add(value.raw, (no % (CANARY >> WAVE_SHIFT)) << WAVE_SHIFT | value.ordinal)
    prints = gathered.prints()
    if record.prints is not None:
        prints = _unseal(carrier, record.prints).joined([prints])
    plain = gathered.too_plain + gathered.passed_over
    await erasure_record.gathered(source, move.move_id, no, _seal(carrier, prints), (plain, shared))


async def _try_out(carrier: Carrier, source: AsyncConnection) -> None:
    """Plant, scan, and keep how many of the canaries were found in each place."""
    move = carrier.move
    record = await erasure_record.read(source, move.move_id)
    assert record is not None
    planted = await canary.plant(source, move.data_map.in_scope(), _key(carrier))
    gathered = Gatherer(_key(carrier))
    for number, one in enumerate(planted.canaries):
        gathered.add(one.value, CANARY + number)
    canaries = gathered.prints()
    step = await reclaim.checkpoint(source)
    known = _joined(carrier, record, canaries)
    files = await server_files(source)
    result = await _scan(files, record, known)
    expected: dict[str, list[int]] = {}
    for number, owner in enumerate(canaries.owners, known.values):
        for place in planted.canaries[owner - CANARY].places if result else ():
            there = _where(result, place, number) if result else place
            counts = expected.setdefault(str(there), [0, 0])
            counts[0] += 1
            counts[1] += number in result.tallies[there].found if result else 0
    found = residue.findings(result, known.prints, (), {}) if result else ()
    first = {
        "canaries": expected,
        "refused": planted.refused,
        "stage": asdict(residue.stage("before the deletion", 0.0, found)),
        "checkpoint": asdict(step),
    }
    await erasure_record.tried(source, move.move_id, first, _seal(carrier, canaries))


def _where(result: Result, place: Place, number: int) -> Place:
    """Where a canary must be found: log that a checkpoint has recycled meanwhile is old log."""
    recycled = place is Place.WAL and number in result.tallies[Place.RECYCLED].found
    return Place.RECYCLED if recycled and number not in result.tallies[place].found else place


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the last pass did and saw. ``middle``: the scan before recycled log was overwritten."""

    files: ServerFiles
    position: str
    steps: Sequence[Step]
    middle: Result | None
    last: Result | None


async def _account(
    carrier: Carrier, source: AsyncConnection, record: ErasureRecord, known: _Known, seen: _Seen
) -> ErasureReport:
    first, today = record.first or {}, datetime.now(UTC)
    canaries = {Place(p): (n, s) for p, (n, s) in first.get("canaries", {}).items()}
    recycled = seen.middle.tallies[Place.RECYCLED].found if seen.middle else {}
    if Place.RECYCLED not in canaries and (there := _of_canaries(known, recycled)):
        canaries[Place.RECYCLED] = (there, there)
    shared = await _shared(source, known, seen.last)
    since = (today - record.deleted_at).total_seconds() if record.deleted_at else 0.0
    stages = [Stage(**first["stage"])] if first.get("stage") else []
    if seen.middle:
        found = residue.findings(seen.middle, known.prints, shared, {})
        behind = seen.last.seconds if seen.last else 0.0
        stages.append(residue.stage("space written anew", max(0.0, since - behind), found))
    if seen.last:
        found = residue.findings(seen.last, known.prints, shared, canaries)
        stages.append(residue.stage("at the end", since, found))
    else:
        found = residue.unread(seen.files.why)
    holders = await holders_of_log(source, record.deleted_lsn or seen.position)
    kept = [(path, until) for path, until in record.kept]
    listed = residue.residuals(found, seen.steps, holders, kept, rewrite=record.rewrite)
    left = _canaries_left(known, seen.last) if seen.last else set()
    return ErasureReport(
        site=str(carrier.move.source_site),
        method=residue.METHOD,
        begun_at=record.begun_at.astimezone(UTC).isoformat(timespec="seconds"),
        finished_at=today.isoformat(timespec="seconds"),
        searched=known.values - len(shared),
        too_plain=record.plain,
        shared=record.shared + len(shared),
        findings=found,
        residuals=listed,
        steps=tuple(seen.steps),
        scanned=seen.last is not None,
        mb_per_s=round(seen.last.mb_per_s, 1) if seen.last else 0.0,
        canaries_left=len(left),
        not_planted=tuple(first.get("refused", ())),
        closed=seen.last is not None and residue.is_closed(found, listed, today.date()),
        stages=tuple(stages),
        lag_seconds=residue.lags(stages),
    )


async def _shared(source: AsyncConnection, known: _Known, last: Result | None) -> set[int]:
    """Of the values that were found, those that rows which stay hold too, in whatever column of the database."""
    if last is None:
        return set()
    found = {n for tally in last.tallies.values() for n in tally.found if n < known.values}
    if not found:
        return set()
    held: set[int] = set()
    async for piece in outsiders.rows(source):
        held |= {hit.which for hit in _hits(known.prints, piece)} & found
    return held


def _hits(prints: Prints, piece: bytes) -> Iterable[Hit]:
    return prints.search(piece)


async def _scan(files: ServerFiles, record: ErasureRecord, known: _Known) -> Result | None:
    if files.data is None:
        return None
    kept = tuple(Path(path) for path, _ in record.kept)
    return await scanning.scan(
        Order(files.data, known.prints, files.places, kept, files.logs, float(record.mb_per_s_max))
    )


async def _keep(carrier: Carrier, source: AsyncConnection, report: ErasureReport) -> None:
    kept = _REPORT.dump_python(report, mode="json")
    async with source.transaction():
        await erasure_record.reported(source, carrier.move.move_id, kept, closed=report.closed)
        await evidence.scanned(carrier, source, report)


def _stored(record: ErasureRecord | None) -> ErasureReport | None:
    return _REPORT.validate_python(record.report) if record is not None and record.report is not None else None


def _canaries_left(known: _Known, last: Result) -> set[int]:
    """Of canaries that were deleted. The one in the server's log was not."""
    tallies = (t for place, t in last.tallies.items() if place is not Place.LOGS)
    return {n for t in tallies for n in t.found if n >= known.values}


def _of_canaries(known: _Known, found: Iterable[int]) -> int:
    return sum(n >= known.values for n in found)


def _known(carrier: Carrier, record: ErasureRecord) -> _Known:
    empty = Gatherer(_key(carrier)).prints()
    return _joined(carrier, record, _unseal(carrier, record.canaries) if record.canaries else empty)


def _joined(carrier: Carrier, record: ErasureRecord, canaries: Prints) -> _Known:
    assert record.prints is not None
    values = _unseal(carrier, record.prints)
    return _Known(values.joined([canaries]), len(values))


def _key(carrier: Carrier) -> bytes:
    return carrier.directory.secret(f"erasure {carrier.move.move_id}")


def _seal(carrier: Carrier, prints: Prints) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(_key(carrier)).encrypt(nonce, prints.pack(), b"prints")


def _unseal(carrier: Carrier, sealed: bytes) -> Prints:
    try:
        raw = AESGCM(_key(carrier)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"prints")
    except InvalidTag:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            "the fingerprints of the purge were sealed with another key than this machine's directory.key",
            hint="Copy directory.key from the machine that began the purge.",
        ) from None
    return Prints.unpack(_key(carrier), raw)
