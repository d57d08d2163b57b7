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

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.schema import TableName
from domicile.move import read_ahead
from domicile.move.carrier import Carrier
from domicile.postgres import guard, waves
from domicile.postgres.lease import assert_lease, settle_doubt
from domicile.postgres.ownership import delete_rows_of_wave

_COPIED = "select distinct table_name from domicile.progress where wave = %s"
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
            await clean(carrier, target, at_target.id)
        await move.failpoints.reach("stepback.target_cleaned")
    await carrier.directory.release(move.move_id, no)


async def open_source(carrier: Carrier, no: int) -> None:
    """Only the first half, for a target that cannot be reached: safe as long as the wave has not departed."""
    async with carrier.source() as source:
        await settle_doubt(source, carrier.move.move_id, carrier.move.generation)
        record = await waves.find_wave(source, carrier.move.move_id, no)
        if waves.source_mark(record) is SourceMark.FENCED:
            await _open(carrier, source, record)


async def _open_source(carrier: Carrier, no: int) -> None:
    move = carrier.move
    async with carrier.source() as source:
        await settle_doubt(source, move.move_id, move.generation)
        record = await waves.find_wave(source, move.move_id, no)
        if record is not None and record.mark in (TargetMark.ARRIVING, TargetMark.RESIDENT):
            raise _on_its_way_back(carrier, no)
        await _open(carrier, source, record)


def _on_its_way_back(carrier: Carrier, no: int) -> DomicileError:
    move = carrier.move
    return DomicileError(
        ErrorCode.PHASE_FORBIDS,
        f"wave {no} was handed over and is on its way back to {move.source_site}, or home there again",
        facts={"wave": no},
        safe="Nothing was changed: what was written since the handover is where it was.",
        hint=f"Let the way back finish with: domicile rollback {move.move_id}",
    )


async def _open(carrier: Carrier, source: AsyncConnection, record: waves.WaveRecord | None) -> None:
    if record is None or record.mark == SourceMark.OPEN:
        return
    async with source.transaction():
        await assert_lease(source, carrier.move.move_id, carrier.move.generation)
        await guard.set_fence(source, record.id, SourceMark.OPEN, carrier.move.source_site, 0)


async def copied_tables(carrier: Carrier, target: AsyncConnection, wave_id: int) -> list[TableName]:
    """The tables whose rows of the wave may be removed at the target, children before parents.

    Only where something was copied: before that, rows of these subjects' keys are somebody else's (a collision). One
    that was dropped half-way took its rows along.
    """
    copied = {name for (name,) in await (await target.execute(_COPIED, (wave_id,))).fetchall()}
    there = carrier.move.target_schema.tables
    return [t for t in reversed(carrier.move.data_map.in_scope()) if str(t) in copied and t in there]


async def clean(carrier: Carrier, target: AsyncConnection, wave_id: int, *, forget: bool = True) -> Counter[str]:
    """Remove the wave's rows from a site where it is not home, and its record unless told otherwise; returns how many
    rows by table. Idempotent."""
    move = carrier.move
    last = await waves.last_ordinal(target, wave_id)
    tables = await copied_tables(carrier, target, wave_id)
    await target.execute("set session_replication_role = replica")
    removed = await read_ahead.remove(carrier, target, wave_id)
    for first in range(0, last, CLEAN_SUBJECTS):
        async with target.transaction():
            await assert_lease(target, move.move_id, move.generation)
            for table in tables:
                statement = delete_rows_of_wave(move.data_map, table, wave_id, first, first + CLEAN_SUBJECTS)
                cursor = await target.execute(statement)
                removed[str(table)] += cursor.rowcount
    async with target.transaction():
        await assert_lease(target, move.move_id, move.generation)
        await (waves.forget_wave(target, wave_id) if forget else waves.forget_copy(target, wave_id))
    return removed
