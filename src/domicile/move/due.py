"""A wave that used a budget up is tried again when due: what was in the way may have ended by then.

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
from domicile.move import streams
from domicile.move.carrier import Carrier

LOOK_SECONDS = 0.5

BUDGETS = frozenset({ErrorCode.FENCE_BUDGET, ErrorCode.PAUSE_BUDGET, ErrorCode.LAG_BUDGET, ErrorCode.WAL_BUDGET})

log = logging.getLogger(__name__)


async def wait(carrier: Carrier, no: int, tries: int, leave: Callable[[], None]) -> bool:
    """Wait until wave ``no``, which failed the ``tries``-th time, may be tried again: twice as long each time. False
    when it is not to be: no budget ended it, its tries are used up, or it could not step back.

    Ends early when a pause or an abort is asked for: whoever carries the move on makes the slot anew. ``leave`` is
    called again and again, and raises when this process leaves the move to another, which then waits anew. Idempotent.
    """
    move, limits = carrier.move, carrier.move.plan.limits
    wave = await carrier.figures.wave(move.move_id, no)
    stepped_back = wave.status is Status.FAILED and wave.phase is Phase.PLANNED
    if not stepped_back or wave.error_code not in BUDGETS or tries >= limits.wave_tries:
        return False
    await streams.end(carrier)
    for number in range(tries, limits.wave_tries):
        due = datetime.now(UTC) + timedelta(seconds=limits.wave_retry_seconds * 2 ** (number - 1))
        said = f"It is tried again at {due:%H:%M:%S} UTC, try {number + 1} of {limits.wave_tries}."
        await carrier.figures.due(move.move_id, no, said)
        log.warning("wave %s: %s. %s", no, wave.error_message, said)
        while datetime.now(UTC) < due:
            leave()
            record = await carrier.moves.get(move.move_id)
            if record.pause_requested or record.abort_requested:
                return True
            await asyncio.sleep(LOOK_SECONDS)
        try:
            await streams.begin(carrier)
        except DomicileError as why:
            log.warning("wave %s: %s", no, why.message)  # the same is in the way still: a try more is used up
        else:
            return True
    return False
