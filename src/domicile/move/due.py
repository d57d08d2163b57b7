"""A wave that used a budget up is tried again when due: what was in the way may have ended by then. So is one that met
a key in passing: a new copy has it where it is.

It has stepped back: its source serves, nothing of it is at the target, and nobody waits. The stream's slot is given up
meanwhile, because a slot that nobody reads keeps the source's log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
import logging

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode
from domicile.move import streams
from domicile.move.carrier import Carrier

LOOK_SECONDS = 0.5

PASSING = frozenset(
    {
        ErrorCode.FENCE_BUDGET,
        ErrorCode.PAUSE_BUDGET,
        ErrorCode.LAG_BUDGET,
        ErrorCode.WAL_BUDGET,
        ErrorCode.KEYS_IN_PASSING,
    }
)

log = logging.getLogger(__name__)


async def wait(carrier: Carrier, no: int, number: int, leave: Callable[[], None]) -> int:
    """Wait until wave ``no``, whose try ``number`` failed, may be tried again: twice as long each time. Returns the
    number of the try to come; 0 when there is none: nothing that passes ended it, its tries are used up, or it could
    not step back. A cold wave has none: its writers would be refused again with nobody there to see it.

    Ends early when a pause or an abort is asked for: whoever carries the move on makes the slot anew. ``leave`` is
    called again and again, and raises when this process leaves the move to another, which then waits anew. Idempotent.
    """
    move, limits = carrier.move, carrier.move.plan.limits
    wave = await carrier.figures.wave(move.move_id, no)
    stepped_back = wave.status is Status.FAILED and wave.phase is Phase.PLANNED
    if move.mode is Mode.COLD or not stepped_back or wave.error_code not in PASSING:
        return 0
    await streams.end(carrier)
    for following in range(number + 1, limits.wave_tries + 1):
        due = datetime.now(UTC) + timedelta(seconds=limits.wave_retry_seconds * 2 ** (following - 2))
        said = f"It is tried again at {due:%H:%M:%S} UTC, try {following} of {limits.wave_tries}."
        log.warning("wave %s: %s. %s", no, wave.error_message, said)
        await carrier.figures.due(move.move_id, no, said)
        ordered = await _until(carrier, due, leave)
        await carrier.figures.due(move.move_id, no, wave.error_hint)
        if ordered or await _begin(carrier, no):
            return following
    return 0


async def _until(carrier: Carrier, due: datetime, leave: Callable[[], None]) -> bool:
    """True as soon as a pause or an abort is asked for. The last look is behind the wait: it raises lease-lost when
    this process slept while another took the move over."""
    while True:
        late = datetime.now(UTC) >= due
        leave()
        record = await carrier.moves.get(carrier.move.move_id)
        if late or record.pause_requested or record.abort_requested:
            return record.pause_requested or record.abort_requested
        await asyncio.sleep(LOOK_SECONDS)


async def _begin(carrier: Carrier, no: int) -> bool:
    """False when the same is still in the way: a try is used up."""
    try:
        await streams.begin(carrier)
    except DomicileError as why:
        log.warning("wave %s: %s", no, why.message)
        return False
    return True
