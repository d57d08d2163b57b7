"""Step a wave back to "the source serves, nothing has changed". Used by failure and by abort, from any phase
before the arrival.

Order: the source opens first, because its writers wait; the target is cleaned after, where the wave's
subjects are still refused. Every DELETE carries the owner predicate, children before parents, so that nobody
else's row can go. Idempotent; raises phase-forbids when the target is resident already (then only forward is
right) or has lost the wave to a rollback (its copy is newer than the source's until the source is home again), and
site-unreachable when a site cannot be asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.schema import TableName
from domicile.move import clearing, evidence, parties, read_ahead
from domicile.move.carrier import Carrier
from domicile.postgres import guard, purge_journal, waves
from domicile.postgres.lease import assert_lease, settle_doubt

_COPIED = "select distinct table_name from domicile.progress where wave = %s"
Record = Callable[[AsyncConnection, int], Awaitable[None]]
CLEAN_SUBJECTS = 1_000  # subjects per clean-up transaction at the target


async def run(carrier: Carrier, no: int) -> None:
    """Carry out the step back of wave ``no``."""
    move = carrier.move
    async with carrier.target() as target:
        await settle_doubt(target, move.move_id, move.generation)
        at_target = await waves.find_wave(target, move.move_id, no)
        if waves.target_mark(at_target) is TargetMark.RESIDENT:
            raise DomicileError(
                ErrorCode.PHASE_FORBIDS,
                f"wave {no} is home at {move.target_site} already and cannot step back",
                facts={"wave": no},
                safe=f"{move.target_site} serves the wave; nothing is lost.",
                hint=f"Let the handover finish with: domicile resume {move.move_id}",
            )
        if at_target is not None and at_target.mark != TargetMark.ARRIVING:
            raise _on_its_way_back(carrier, no)
        await _open_source(carrier, no)
        await move.failpoints.reach("stepback.source_open")
        if at_target is not None:
            await clean(carrier, target, at_target.id, record=_forgotten(carrier, no))
        await move.failpoints.reach("stepback.target_cleaned")
    await carrier.directory.release(move.move_id, no)
    # Last: rows that somebody has locked keep nothing else from being done.
    await _write_back(carrier, no)


async def open_source(carrier: Carrier, no: int) -> None:
    """Only the first half, for a target that cannot be reached: safe as long as the wave has not departed."""
    async with carrier.source() as source:
        await settle_doubt(source, carrier.move.move_id, carrier.move.generation)
        record = await waves.find_wave(source, carrier.move.move_id, no)
        if waves.source_mark(record) is SourceMark.FENCED:
            await _open(carrier, source, no, record)


async def _open_source(carrier: Carrier, no: int) -> None:
    move = carrier.move
    async with carrier.source() as source:
        await settle_doubt(source, move.move_id, move.generation)
        record = await waves.find_wave(source, move.move_id, no)
        if record is not None and record.mark in (TargetMark.ARRIVING, TargetMark.RESIDENT):
            raise _on_its_way_back(carrier, no)
        await _open(carrier, source, no, record)


async def _write_back(carrier: Carrier, no: int) -> None:
    """What was cleared for the wave's move is as it was."""
    async with carrier.source() as source:
        record = await waves.find_wave(source, carrier.move.move_id, no)
    if record is not None:
        await clearing.write_back(carrier.move, record.id)


def _on_its_way_back(carrier: Carrier, no: int) -> DomicileError:
    move = carrier.move
    return DomicileError(
        ErrorCode.PHASE_FORBIDS,
        f"wave {no} was handed over and is on its way back to {move.source_site}, or home there again",
        facts={"wave": no},
        safe="Nothing was changed: what was written since the handover is where it was.",
        hint=f"Let the way back finish with: domicile rollback {move.move_id}",
    )


async def _open(carrier: Carrier, source: AsyncConnection, no: int, record: waves.WaveRecord | None) -> None:
    if record is None or record.mark == SourceMark.OPEN:
        return
    async with source.transaction():
        await assert_lease(source, carrier.move.move_id, carrier.move.generation)
        await guard.set_fence(source, record.id, SourceMark.OPEN, carrier.move.source_site, 0)
        taken_back = record.epoch if record.mark == SourceMark.DEPARTED else 0
        await evidence.stepped_back(carrier, source, carrier.move.source_site, no, taken_back)


async def copied_tables(carrier: Carrier, target: AsyncConnection, wave_id: int) -> list[TableName]:
    """The tables whose rows of the wave may be removed at the target, children before parents.

    Only where something was copied: before that, rows of these subjects' keys are somebody else's (a collision). One
    that was dropped half-way took its rows along.
    """
    copied = {name for (name,) in await (await target.execute(_COPIED, (wave_id,))).fetchall()}
    there = carrier.move.target_schema.tables
    return [t for t in reversed(carrier.move.data_map.in_scope()) if str(t) in copied and t in there]


def _forgotten(carrier: Carrier, no: int) -> Record:
    async def write(target: AsyncConnection, _removed: int) -> None:
        await evidence.stepped_back(carrier, target, carrier.move.target_site, no)

    return write


async def clean(
    carrier: Carrier, target: AsyncConnection, wave_id: int, *, record: Record | None = None
) -> Counter[str]:
    """Remove the wave's rows from a site where it is not home; returns how many rows by table, by its journal: those
    that a process removed which died in the middle, too. Idempotent.

    With ``record`` the site's record of the wave goes as well, and in the same transaction the evidence of it is
    written: of how many rows, it is told.
    """
    move = carrier.move
    last = await waves.last_ordinal(target, wave_id)
    tables = await copied_tables(carrier, target, wave_id)
    await target.execute("set session_replication_role = replica")
    site = parties.site_of(move)
    async with target.transaction():
        for name, rows in (await read_ahead.remove(carrier, target, wave_id)).items():
            await purge_journal.add(target, wave_id, name, purge_journal.READ_AHEAD, rows)
    for chunk, first in enumerate(range(0, last, CLEAN_SUBJECTS)):
        some = (first, first + CLEAN_SUBJECTS)

        async def remove(chunk: int = chunk, some: tuple[int, int] = some) -> None:
            for table in tables:
                statement = await parties.removal(target, site, table, wave_id, some)
                cursor = await target.execute(statement)
                await purge_journal.add(target, wave_id, str(table), chunk, cursor.rowcount)

        await clearing.removing(target, move, site, clearing.Leaving(tables, wave_id, [some]), remove)
    await parties.settle(target, move, site)
    async with target.transaction():
        await assert_lease(target, move.move_id, move.generation)
        removed = Counter(dict(await purge_journal.removed(target, wave_id)))
        if record is None:
            await waves.forget_copy(target, wave_id)
        else:
            await waves.forget_wave(target, wave_id)
            await record(target, removed.total())
    return removed
