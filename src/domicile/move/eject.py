"""Take members out of a wave: they stay home at the source, and the rest of the wave goes on.

Order: it is written down at the source; the target forgets them, with whatever of theirs was copied; their reservation
is released; the source forgets them; the wave is counted again. So the target never holds a member whom the source
does not, and an ejection that was cut is found again by the member who is still there. Before the handover only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import Phase
from domicile.model.report import LEFT
from domicile.model.site import MoveId
from domicile.move import clearing, parties, stepback
from domicile.move.carrier import Carrier
from domicile.postgres import conditions, waves
from domicile.postgres.lease import assert_lease, settle_doubt
from domicile.postgres.ownership import ident

_LEAVERS = """
    select m.ordinal from domicile.member as m
    where m.wave = {wave} and (not {fits} or exists (
        select from domicile.ejected as e where e.wave = m.wave and e.ordinal = m.ordinal))
    order by 1"""
_WRITE_DOWN = """
    insert into domicile.ejected (wave, ordinal, subject, reason)
    select wave, ordinal, subject, %s from domicile.member where wave = %s and ordinal = any(%s)
    on conflict (wave, ordinal) do nothing"""
_UNFINISHED = """
    select m.ordinal, m.subject::text from domicile.member as m
    join domicile.ejected as e on e.wave = m.wave and e.ordinal = m.ordinal
    where m.wave = %s order by 1"""
_TAKE_OUT = "delete from domicile.member where wave = %s and ordinal = any(%s)"
SUBJECTS_PER_TRANSACTION = 1_000


async def leavers(conn: AsyncConnection, move_id: MoveId, wave_id: int, data_map: DataMap) -> list[int]:
    """Ordinals of the members who do not belong to the wave any more, in order: they do not fit the move's condition
    now, or have no row in the subject's table (deleted, or merged into somebody else), or their ejection was cut.

    ``conn`` is to the source. Writes nothing.
    """
    async with conn.transaction():
        await conn.execute("set transaction read only")
        where = await conditions.kept(conn, move_id)
        subject = data_map.subject
        columns = await conditions.columns_of(conn, subject.table)
        statement = sql.SQL(_LEAVERS).format(
            wave=sql.Literal(wave_id),
            fits=conditions.fits(subject, columns, where, ident(subject.table), sql.SQL("m.subject")),
        )
        await conditions.set_search_path(conn, subject.table)
        # No parameters: a condition may hold a per cent sign.
        rows = await (await conn.execute(statement)).fetchall()
        await conditions.reset_search_path(conn)
    return [ordinal for (ordinal,) in rows]


async def eject_leavers(carrier: Carrier, no: int) -> bool:
    """Take out of a wave that has not begun whoever has left the cohort; False when nobody is left to carry."""
    move = carrier.move
    wave = await carrier.figures.wave(move.move_id, no)
    if wave.phase is not Phase.PLANNED:
        return True
    async with carrier.source() as source:
        record = await waves.find_wave(source, move.move_id, no)
        assert record is not None, "the cohort is frozen before the first wave"
        gone = await leavers(source, move.move_id, record.id, move.data_map)
    return await eject(carrier, no, gone, LEFT) > 0


async def eject(carrier: Carrier, no: int, ordinals: Sequence[int], reason: str) -> int:
    """Take these members out of wave ``no``; returns how many it has left. Idempotent; whatever an earlier ejection
    left undone is done too, for the reason written down then. ``reason`` is a sentence without a personal value.

    Raises phase-forbids when the wave has departed or is at home at the target, and lease-lost.
    """
    move = carrier.move
    async with carrier.source() as source:
        record = await waves.find_wave(source, move.move_id, no)
        assert record is not None, "the cohort is frozen before the first wave"
        if waves.source_mark(record) is SourceMark.DEPARTED:
            raise _too_late(no, carrier)
        async with source.transaction():
            await assert_lease(source, move.move_id, move.generation)
            await source.execute(_WRITE_DOWN, (reason, record.id, list(ordinals)))
        going = await (await source.execute(_UNFINISHED, (record.id,))).fetchall()
        if going:
            await _out_of_target(carrier, no, [ordinal for ordinal, _ in going])
            await move.failpoints.reach("eject.target_cleaned")
            await carrier.directory.release_subjects(move.plan.dataset, move.move_id, no, [s for _, s in going])
            async with source.transaction():
                await assert_lease(source, move.move_id, move.generation)
                await source.execute(_TAKE_OUT, (record.id, [ordinal for ordinal, _ in going]))
        left = await waves.count_members(source, record.id)
    await clearing.write_back(move, record.id, stayed=True)
    await move.failpoints.reach("eject.source_forgot")
    await carrier.membership.ejected(move.move_id, no, left, reason)
    return left


async def _out_of_target(carrier: Carrier, no: int, ordinals: Sequence[int]) -> None:
    """The target forgets them, and holds no row of theirs any more."""
    move = carrier.move
    async with carrier.target() as target:
        await settle_doubt(target, move.move_id, move.generation)
        record = await waves.find_wave(target, move.move_id, no)
        if record is None:
            return
        if waves.target_mark(record) is TargetMark.RESIDENT:
            raise _too_late(no, carrier)
        tables = await stepback.copied_tables(carrier, target, record.id)
        await target.execute("set session_replication_role = replica")
        site = parties.site_of(move)
        for start in range(0, len(ordinals), SUBJECTS_PER_TRANSACTION):
            some = ordinals[start : start + SUBJECTS_PER_TRANSACTION]

            async def remove(some: Sequence[int] = some) -> None:
                for table in tables:
                    for each in _runs(some):
                        await target.execute(await parties.removal(target, site, table, record.id, each))
                await target.execute(_TAKE_OUT, (record.id, list(some)))

            leaving = clearing.Leaving(tables, record.id, [*_runs(some)])
            await clearing.removing(target, move, site, leaving, remove)
        await parties.settle(target, move, site)


def _runs(ordinals: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbours in a rising sequence joined to ranges (first, last]."""
    start = 0
    for position in range(1, len(ordinals) + 1):
        if position == len(ordinals) or ordinals[position] != ordinals[position - 1] + 1:
            yield ordinals[start] - 1, ordinals[position - 1]
            start = position


def _too_late(no: int, carrier: Carrier) -> DomicileError:
    return DomicileError(
        ErrorCode.PHASE_FORBIDS,
        f"nobody can be taken out of wave {no} any more: it has left {carrier.move.source_site}",
        facts={"wave": no},
        safe="The wave is whole; nothing was changed.",
        hint=f"See where it stands with: domicile status {carrier.move.move_id}",
    )
