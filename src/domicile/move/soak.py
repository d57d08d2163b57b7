"""Keep the source copies current while their waves soak: the policy ``stream`` of the way back.

Round after round, wave after wave, what was written at the target is applied to the closed copy at the source, and the
slot of the way back lets that part of the log go. A rollback then has little left to do. Without this the slot holds
everything since the handovers, which is the policy ``hold``. It may be stopped at any time, and begun again.

The copies change only by this hand: when it stops they are sealed anew, so that a purge still finds what it expects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark
from domicile.model.phase import Phase
from domicile.model.plan import WayBack
from domicile.move import live, live_verify, rollback, streams
from domicile.move.carrier import Carrier
from domicile.move.live_wave import open_live
from domicile.postgres import waves
from domicile.postgres.lease import assert_lease
from domicile.stream import slot

EVERY_SECONDS = 5.0
_ADVANCE = "select pg_catalog.pg_replication_slot_advance(%s, '0/0'::pg_lsn + %s)"
_END_OF_LOG = "select (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::bigint"
_NOTE = """
    update domicile.wave
    set (position, seen) = (select reached, reached from greatest(position, '0/0'::pg_lsn + %(reached)s) as reached)
    where id = %(wave)s"""


async def run(carrier: Carrier, stop: asyncio.Event) -> None:
    """Until ``stop`` is set. Raises way-back-closed unless the plan says ``stream`` and the way is open, and whatever
    ends a stream: the copies are then as current as the last round left them, and still sealed."""
    if carrier.move.plan.way_back is not WayBack.STREAM:
        raise DomicileError(
            ErrorCode.WAY_BACK_CLOSED,
            f"the plan of move {carrier.move.move_id} lets nothing cross back by itself",
            facts={"way_back": str(carrier.move.plan.way_back)},
            safe="Nothing was changed.",
            hint="domicile rollback brings everything back when it is ordered; plan with --way-back stream for this.",
        )
    await streams.require_way_back(carrier)
    numbers = [w.no for w in await carrier.figures.waves(carrier.move.move_id) if w.phase is Phase.SOAK]
    try:
        while True:
            if numbers:
                await take_turns(carrier, numbers)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), EVERY_SECONDS)
            if stop.is_set():
                return
    finally:
        for no in numbers:
            await live.seal(carrier, no)


async def take_turns(carrier: Carrier, numbers: Sequence[int]) -> None:
    """Bring the waves' copies up to what is committed at the target when it begins; what they need no longer of its log
    is let go after each round.

    A row or a unique value that passed from one wave to another at the target stands in the former's copy until its own
    stream has come to where it gave it away. So a wave that meets it waits for the others, as long as one that waits
    gets on; and then new rows of these waves are read as they are by now, because some may have gone on to a wave that
    is ahead, or home. Raises keys-collide when that does not help either. What passes from wave to wave meanwhile, at
    any time, is not waited for: there might be no end to it.
    """
    async with carrier.target() as losing:
        until = await _end_of_log(losing)
    left: Sequence[int] = numbers
    waiting: dict[int, int] = {}
    anew = False
    while True:
        blocked = dict[int, DomicileError]()
        for no in left:
            try:
                await _follow(carrier, no, anew=anew and no in waiting)
            except DomicileError as why:
                if why.code is not ErrorCode.KEYS_COLLIDE:
                    raise
                blocked[no] = why
        positions = {no: (await _copy(carrier, no)).position for no in blocked}
        before, waiting = waiting, {no: at for no, at in positions.items() if at < until}
        await _let_go(carrier, numbers)
        if not waiting:
            return
        everybody = len(left) == len(numbers)
        left = numbers if waiting == before else list(waiting)  # who has come so far is hardly in anybody's way
        if waiting == before and everybody:
            if anew:
                raise blocked[next(iter(waiting))]
            anew = True


async def _follow(carrier: Carrier, no: int, *, anew: bool) -> None:
    """One wave's turn: its copy gets as far as it can, and where it stands is written down, also where nothing
    concerned the wave. Raises keys-collide."""
    back = carrier.reversed()
    async with back.sites() as (losing, gaining):
        record = await rollback.begin_stream(back, losing, gaining, no)
    reached, blocked = 0, None
    async with open_live(back, no, soaking=record.mark == SourceMark.DEPARTED, anew=anew) as wave:
        end = await _end_of_log(wave.source)
        try:
            await live_verify.mark(wave)
            await live_verify.touched_rows(wave, following=True)
            reached = end
        except DomicileError as why:
            if why.code is not ErrorCode.KEYS_COLLIDE:
                raise
            blocked = why
        read = frozenset(wave.catchup.filter.read)
    await _note(back, record.id, reached, read)
    if blocked is not None:
        raise blocked


async def _note(back: Carrier, copy_id: int, reached: int, read: Collection[int]) -> None:
    """Where the copy stands is where its stream is read again from, if every snapshot sees what was ``read`` up to
    there and beyond; else it is read again from where it was. A batch that comes late finds the copy moved on."""
    async with back.sites() as (losing, gaining):
        if not await live_verify.sees(losing, read):
            return
        async with gaining.transaction():
            await assert_lease(gaining, back.move.move_id, back.move.generation)
            await gaining.execute(_NOTE, {"wave": copy_id, "reached": reached})


async def _copy(carrier: Carrier, no: int) -> waves.StreamRecord:
    async with carrier.source() as gaining:
        record = await waves.find_wave(gaining, carrier.move.move_id, no)
        assert record is not None
        return await waves.stream_record(gaining, record.id)


async def _end_of_log(conn: AsyncConnection) -> int:
    """What is committed by now lies before it."""
    row = await (await conn.execute(_END_OF_LOG)).fetchone()
    assert row is not None
    return int(row[0])


async def _kept_for_others(carrier: Carrier, followed: Sequence[int]) -> list[int]:
    """From where on waves that live at the target, and are not followed, need its log: where their streams back stand,
    or begin. Such is one whose process died between its arrival and its soak."""
    needed = []
    async with carrier.sites() as (gaining, losing):
        for wave in await carrier.figures.waves(carrier.move.move_id):
            if wave.no in followed or wave.phase not in streams.IN_USE:
                continue
            copy = await waves.find_wave(gaining, carrier.move.move_id, wave.no)
            home = await waves.find_wave(losing, carrier.move.move_id, wave.no)
            begun = copy and await waves.stream_record(gaining, copy.id)
            if begun and begun.seam:
                needed.append(begun.seen)
            elif home and (arrival := (await waves.stream_record(losing, home.id)).arrival):
                needed.append(int(arrival.split()[2]))
    return needed


async def _let_go(carrier: Carrier, numbers: Sequence[int]) -> None:
    """The slot of the way back passes by what no wave's stream is read again from."""
    back = carrier.reversed()
    needed = [(await _copy(carrier, no)).seen for no in numbers] + await _kept_for_others(carrier, numbers)
    async with back.source() as losing:
        facts = await slot.wait_free(losing, back.move.stream_name)
        if facts is not None and min(needed) > facts.confirmed:
            name = slot.stream_name(back.move.stream_name, losing.info.dbname)
            async with losing.transaction():
                await assert_lease(losing, back.move.move_id, back.move.generation)
                await losing.execute(_ADVANCE, (name, min(needed)))
