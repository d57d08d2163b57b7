"""Purge: remove the source copy of a wave that lives at its target.

Precondition: departed at the source, resident at the target, verdict clean, and the source copy still has the
root that the verdict sealed (a copy that changed since then holds a write nobody moved: refused).
Postcondition: no row of the wave's subjects is left in the in-scope tables of the source; the marks stay, so
that a stale writer is still told where the home is. Irreversible from the first chunk on.

Chunks are ranges of subjects: all rows of a range go in one transaction with their journal, children before
parents, so that no reader ever sees half a subject and a crash loses nothing but the current chunk.
Idempotent. What the removed rows leave on disk is looked after by ``erase``.
"""

from __future__ import annotations

import time

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import Phase
from domicile.model.plan import Mode, WayBack
from domicile.model.report import WaveStatus
from domicile.model.site import SiteName
from domicile.move import approval, clearing, erase, evidence, live, parties, read_ahead, verify
from domicile.move.carrier import Carrier
from domicile.postgres import erasure_record, purge_journal, reclaim, waves
from domicile.postgres.clearing import NOTES
from domicile.postgres.lease import assert_lease
from domicile.postgres.ownership import ident

LONG_ROWS = 50_000  # of a wave


def remains(site: SiteName, *, told: bool, searched: bool = False) -> tuple[str, ...]:
    """What the removal of a copy at ``site`` does not touch, in sentences. ``told``: stale writers there still are.
    ``searched``: what is left on disk has a report of its own."""
    keys = f"The keys of its subjects stay in domicile.member at {site}, so that stale writers are refused."
    whose = keys if told else f"{site} has forgotten that these subjects left: stale writers there are refused no more."
    if searched:
        return (whose,)
    return (
        "Deleted rows are overwritten in their files only when the space is used again; VACUUM made it reusable.",
        f"The write-ahead log, archives, backups and standbys of {site} may hold the rows until they expire.",
        whose,
        "What is left on disk was not searched for: only a purge that is begun with --scan does that.",
    )


async def is_long(carrier: Carrier) -> bool:
    """Whether it is worth while to watch how the application's writes fare: a part of it can be held back. Where the
    source cannot be asked, which is for a step to fail at: no."""
    all_waves = await carrier.figures.waves(carrier.move.move_id)
    if max((w.rows_copied for w in all_waves if w.phase in (Phase.SOAK, Phase.PURGE)), default=0) > LONG_ROWS:
        return True
    try:
        async with carrier.source() as source:
            return await erasure_record.read(source, carrier.move.move_id) is not None
    except (DomicileError, psycopg.Error):
        return False


async def require_ready(carrier: Carrier) -> None:
    """Raise verdict-missing unless every wave's copy at the source may be removed, as long as there is a way back; and
    reference-missing where rows of those who stay need it.

    A copy that the mover was changing when its process died, or could not reach the site, has no seal: it is sealed as
    it stands, as if soaking had just ended.
    """
    move = carrier.move
    async with carrier.source() as source:
        await parties.require_unneeded(source, move)
    if move.mode is Mode.COLD or move.plan.way_back is WayBack.NONE:
        return
    for wave in await carrier.figures.waves(move.move_id):
        if wave.phase is not Phase.SOAK:
            continue
        if not wave.source_root:
            await live.seal(carrier, wave.no)
        async with carrier.source() as source:
            record = await waves.find_wave(source, move.move_id, wave.no)
            assert record is not None
            await require_sealed(carrier, source, record, await carrier.figures.wave(move.move_id, wave.no))


async def run(carrier: Carrier, no: int) -> None:
    """Carry out the purge of wave ``no``."""
    move = carrier.move
    wave = await carrier.figures.wave(move.move_id, no)
    await move.failpoints.reach("purge.before")
    async with carrier.source() as source:
        record = await waves.find_wave(source, move.move_id, no)
        assert record is not None
        done = await purge_journal.chunks(source, record.id)
        if not done:
            await require_sealed(carrier, source, record, wave)
            await approval.require_people(carrier)
            await erase.before_deletion(carrier, source)
        await source.execute("set session_replication_role = replica")
        async with source.transaction():
            for table, rows in (await read_ahead.remove(carrier.reversed(), source, record.id)).items():
                await purge_journal.add(source, record.id, table, purge_journal.READ_AHEAD, rows)
        last = await waves.last_ordinal(source, record.id)
        size = chunk_subjects(move.plan.limits.purge_chunk_rows, wave.rows_planned, last)
        for chunk, first in enumerate(range(0, last, size)):
            if chunk not in done:
                begun = time.monotonic()
                await _purge_chunk(carrier, source, record.id, chunk, (first, first + size))
                await carrier.pacing.rest(time.monotonic() - begun)
                await move.failpoints.reach("purge.chunk_committed")
        await _require_empty(carrier, source, record.id)
        await parties.settle(source, move, parties.site_of(move, source=True))
        removed = sum(rows for _, rows in await purge_journal.removed(source, record.id))
        async with source.transaction():
            await assert_lease(source, move.move_id, move.generation)
            await waves.set_purged(source, record.id)
            await erase.deleted(carrier, source)
            await approval.tell(carrier, source)
            await evidence.purged(carrier, source, removed, no=no, root=wave.source_root)
        await carrier.figures.purged(move.move_id, no, removed)
    await move.failpoints.reach("purge.deleted")


async def require_sealed(carrier: Carrier, source: AsyncConnection, record: waves.WaveRecord, wave: WaveStatus) -> None:
    """Refuse unless the wave lives at the target and the source copy is exactly what the verdict sealed."""
    move = carrier.move
    async with carrier.target() as target:
        at_target = await waves.find_wave(target, move.move_id, wave.no)
    if record.mark != SourceMark.DEPARTED or waves.target_mark(at_target) is not TargetMark.RESIDENT:
        raise _refuse(carrier, wave.no, "it is not home at the target")
    if wave.verdict != "clean":
        raise _refuse(carrier, wave.no, "it has no clean verdict")
    tables = move.data_map.in_scope()
    root = await verify.root_of(source, move.data_map, move.source_schema, tables, record.id, wave.source_root)
    if root != wave.source_root:
        raise _refuse(carrier, wave.no, "the source copy has changed since its verdict")


async def vacuum(carrier: Carrier) -> None:
    """What the removed rows leave is written anew and searched for. Where nothing is known that could be searched for,
    VACUUM ANALYZE alone: space is reusable and statistics name nobody who left."""
    if await erase.after_deletion(carrier) is not None:
        return
    async with carrier.source() as source:
        for table in (*carrier.move.data_map.in_scope(), NOTES):
            await source.execute(sql.SQL("vacuum (analyze) {}").format(ident(table)))
        await reclaim.rewrite_salts(source)


async def rows_left(carrier: Carrier, source: AsyncConnection, wave_id: int) -> int:
    """Rows of the wave's subjects in the in-scope tables of the source, but for stubs."""
    site = parties.site_of(carrier.move, source=True)
    return sum([await parties.rows_left(source, site, table, wave_id) for table in carrier.move.data_map.in_scope()])


def chunk_subjects(chunk_rows: int, rows: int, subjects: int) -> int:
    """How many subjects make a chunk of about ``chunk_rows`` rows; at least one: a subject is never split."""
    return max(1, chunk_rows * max(subjects, 1) // max(rows, 1))


async def _purge_chunk(
    carrier: Carrier, source: AsyncConnection, wave_id: int, chunk: int, subjects: tuple[int, int]
) -> None:
    move = carrier.move
    site, tables = parties.site_of(move, source=True), move.data_map.in_scope()[::-1]

    async def remove() -> None:
        await parties.require_chunk_unneeded(source, move, (wave_id, *subjects))
        for table in tables:
            cursor = await source.execute(await parties.removal(source, site, table, wave_id, subjects))
            await purge_journal.add(source, wave_id, str(table), chunk, cursor.rowcount)

    leaving = clearing.Leaving(tables, wave_id, [subjects])
    await clearing.removing(source, move, site, leaving, remove)


async def _require_empty(carrier: Carrier, source: AsyncConnection, wave_id: int) -> None:
    left = await rows_left(carrier, source, wave_id)
    if left:
        raise DomicileError(
            ErrorCode.DISCREPANCY,
            f"{left} rows of the wave are still at {carrier.move.source_site} after its purge",
            facts={"rows": left},
            safe=f"{carrier.move.target_site} serves the wave.",
            hint="Something writes there without the guard; find it, then run domicile purge again.",
        )


def _refuse(carrier: Carrier, no: int, why: str) -> DomicileError:
    return DomicileError(
        ErrorCode.VERDICT_MISSING,
        f"wave {no} is not purged: {why}",
        facts={"wave": no},
        safe="The source copy is kept, fenced.",
        hint=f"Compare the sites with: domicile verify {carrier.move.move_id}",
    )
