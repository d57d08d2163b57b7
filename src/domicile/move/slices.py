"""Between the conductor and the phases: what the copy and the verifier need from the control database, and
small questions to the sites."""

from __future__ import annotations

import logging
import time

import psycopg

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import Phase
from domicile.model.plan import Mode
from domicile.model.verdict import Verdict
from domicile.move import clearing, copy, evidence, stepback, streams, verify
from domicile.move.carrier import Carrier
from domicile.move.context import WaveAtSites
from domicile.postgres import sequences, waves
from domicile.postgres.lease import assert_lease

log = logging.getLogger(__name__)

_PROGRESS = "select coalesce(sum(rows), 0), coalesce(sum(bytes), 0) from domicile.progress where wave = %s"


async def copy_rows(carrier: Carrier, no: int) -> None:
    """The copy phase, with its figures kept in the control database and an abort heeded between chunks.

    A live copy is of one snapshot: what a cut one left is removed first.
    """
    move = carrier.move
    move_id, live = move.move_id, move.mode is Mode.LIVE
    async with carrier.sites() as (source, target):
        wave = await carrier.wave_at_sites(source, target, no)
        position = await streams.position(source, move) if live else None
        if live:
            await stepback.clean(carrier, target, wave.target_id)
            await target.execute("reset session_replication_role")
            await sequences.advance(source, target, move.source_schema, move.target_schema, move.data_map.in_scope())
        row = await (await target.execute(_PROGRESS, (wave.target_id,))).fetchone()
    assert row is not None
    if not live:  # its fence is held: nobody changes what the copy will find
        await clearing.run(move, wave)
    await carrier.figures.set_copied(move_id, no, int(row[0]), int(row[1]))

    async def report(rows: int, size: int) -> None:
        await carrier.figures.copied(move_id, no, rows, size)
        await refuse_abort(carrier)

    await evidence.snapshot(carrier, no, wave.source_id, position)
    begun = time.monotonic()
    await copy.run(move, wave, report, seam_after=position, brakes=carrier.pacing.brakes)
    await carrier.figures.copy_took(move_id, no, time.monotonic() - begun)
    await evidence.copied(carrier, no, wave.target_id)


async def verify_rows(carrier: Carrier, no: int) -> None:
    """The verify phase: the verdict is sealed in the control database; one that is not clean fails the
    wave."""
    async with carrier.sites() as (source, target):
        wave = await carrier.wave_at_sites(source, target, no)
    await settle_verdict(carrier, no, wave, await verify.run(carrier.move, wave))


async def settle_verdict(carrier: Carrier, no: int, wave: WaveAtSites, verdict: Verdict) -> None:
    """Seal the verdict; one that is not clean is raised. A rollback's is of the way back and is not kept, nor is one
    that takes a wave out of its handover, where none stands without a clean one: it steps back."""
    move = carrier.move
    if not move.back and (verdict.clean or (await carrier.figures.wave(move.move_id, no)).phase is not Phase.HANDOVER):
        await carrier.moves.verdict(carrier.move.move_id, no, verdict)
    async with carrier.source() as source, source.transaction():
        await assert_lease(source, move.move_id, move.generation)
        await waves.write_discrepancies(source, wave.source_id, verdict.discrepancies)
        await evidence.judged(carrier, source, no, verdict)
    if verdict.clean:
        return
    broken = "".join(f"; {count} rows without their parent by {name}" for name, count in verdict.broken_references)
    together = "Subjects who refer to each other must be in one wave: plan with larger limits. " if broken else ""
    raise DomicileError(
        ErrorCode.DISCREPANCY,
        f"{verdict.discrepancies_total} discrepancies in wave {no}{broken}",
        facts={"discrepancies": verdict.discrepancies_total, "broken_references": dict(verdict.broken_references)},
        safe="The wave steps back; the source serves and nothing has changed.",
        hint=f"{together}See them with: domicile report {carrier.move.move_id}; domicile resume tries again.",
    )


async def refuse_abort(carrier: Carrier, handed_over: int | None = None) -> None:
    """Raise interrupted when an operator has asked for the abort of the move.

    ``handed_over``: this wave is in its handover, and goes on if it has departed. The sites are asked only then: its
    writers wait.
    """
    record = await carrier.moves.get(carrier.move.move_id)
    if record.abort_requested and not (handed_over is not None and await has_departed(carrier, handed_over)):
        raise DomicileError(ErrorCode.INTERRUPTED, "the move is aborted by order")


async def has_departed(carrier: Carrier, no: int) -> bool:
    """True when the wave is past the source's own mark: only forward, or asking the target, is right."""
    async with carrier.sites() as (source, target):
        facts = await carrier.facts(source, target, no)
    return facts.source is SourceMark.DEPARTED or facts.target is TargetMark.RESIDENT


async def open_source_if_safe(carrier: Carrier, no: int) -> None:
    """When the target cannot be cleaned now: let the source serve at least, unless the wave has departed."""
    try:
        await stepback.open_source(carrier, no)
    except (DomicileError, psycopg.Error):
        log.warning("the source of wave %s cannot be reached either; its fence stands", no)
