"""After the planned waves: one more of whoever has joined the cohort since it was frozen, until nobody is left."""

from __future__ import annotations

import logging

from domicile.move import purge
from domicile.move.carrier import Carrier
from domicile.postgres import waves

SWEEPS_MAX = 10  # where sign-ups are accepted, people may come for ever

log = logging.getLogger(__name__)


async def run(carrier: Carrier) -> int:
    """Register the wave of the late joiners at the source and in the control database; returns its number, 0 when
    there is nobody. Idempotent: a wave that a crash left at the source alone is found there."""
    move = carrier.move
    no = 1 + max(w.no for w in await carrier.figures.waves(move.move_id))
    async with carrier.source() as source:
        subjects = await carrier.sweep(source, move.plan, move.data_map, move.move_id, no, move.generation)
        if not subjects:
            return 0
        record = await waves.find_wave(source, move.move_id, no)
        assert record is not None, "just registered"
        rows = await purge.rows_left(carrier, source, record.id)
    size = round(rows * move.plan.bytes / max(move.plan.rows, 1))
    await carrier.membership.add_wave(move.move_id, no, subjects, rows, size)
    return no


async def give_up(carrier: Carrier) -> None:
    """Say that the last sweep allowed has still found somebody; who comes now stays at the source."""
    move_id = carrier.move.move_id
    await carrier.membership.stop_sweeping(move_id, SWEEPS_MAX)
    log.warning("move %s: late joiners keep coming; after %s sweeps they stay at the source", move_id, SWEEPS_MAX)
