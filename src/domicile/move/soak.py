"""Keep the source copies current while their waves soak: the policy ``stream`` of the way back.

Round after round, wave after wave, what was written at the target is applied to the closed copy at the source, and the
slot of the way back lets that part of the log go. A rollback then has little left to do. Without this the slot holds
everything since the handovers, which is the policy ``hold``. It may be stopped at any time, and begun again.

The copies change only by this hand: when it stops they are sealed anew, so that a purge still finds what it expects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

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
            await _round(carrier, numbers)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), EVERY_SECONDS)
            if stop.is_set():
                return
    finally:
        for no in numbers:
            await live.seal(carrier, no)


async def take_turns(carrier: Carrier, numbers: Sequence[int]) -> list[int]:
    """Bring the waves' copies up to what is committed at the target; returns how far each is.

    A row or a unique value that passed from one wave to another at the target stands in the former's copy until its own
    stream has come to where it gave it away. So a wave that meets it waits for the others, as long as one that waits
    gets on; and then new rows of these waves are read as they are by now, because some may have gone on to a wave that
    is ahead, or home. Raises keys-collide when that does not help either.
    """
    waiting: dict[int, int] = {}
    anew = False
    while True:
        positions, blocked = dict[int, int](), dict[int, DomicileError]()
        for no in numbers:
            try:
                await _follow(carrier, no, anew=anew and no in waiting)
            except DomicileError as why:
                if why.code is not ErrorCode.KEYS_COLLIDE:
                    raise
                blocked[no] = why
            positions[no] = await _position(carrier, no)
        if not blocked:
            return list(positions.values())
        before, waiting = waiting, {no: positions[no] for no in blocked}
        if waiting == before:
            if anew:
                raise next(iter(blocked.values()))
            anew = True


async def _follow(carrier: Carrier, no: int, *, anew: bool) -> None:
    back = carrier.reversed()
    async with back.sites() as (losing, gaining):
        record = await rollback.begin_stream(back, losing, gaining, no)
    async with open_live(back, no, soaking=record.mark == SourceMark.DEPARTED, anew=anew) as wave:
        await live_verify.mark(wave)
        await live_verify.touched_rows(wave, following=True)


async def _position(carrier: Carrier, no: int) -> int:
    async with carrier.source() as gaining:
        record = await waves.find_wave(gaining, carrier.move.move_id, no)
        assert record is not None
        return (await waves.stream_record(gaining, record.id)).position


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
                needed.append(begun.position)
            elif home and (arrival := (await waves.stream_record(losing, home.id)).arrival):
                needed.append(int(arrival.split()[2]))
    return needed


async def _round(carrier: Carrier, numbers: Sequence[int]) -> None:
    back = carrier.reversed()
    positions = await take_turns(carrier, numbers)
    if positions:
        positions += await _kept_for_others(carrier, numbers)
        async with back.source() as losing:
            facts = await slot.wait_free(losing, back.move.stream_name)
            if facts is not None and min(positions) > facts.confirmed:
                name = slot.stream_name(back.move.stream_name, losing.info.dbname)
                async with losing.transaction():
                    await assert_lease(losing, back.move.move_id, back.move.generation)
                    await losing.execute(_ADVANCE, (name, min(positions)))
