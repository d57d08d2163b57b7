"""A live move, end to end: users write all the while, at whichever site is their home."""

from __future__ import annotations

import asyncio

from tests.move.places import Place, every_row, scalar
from tests.move.test_cold_move import plan_of
from tests.move.test_writers import Application, written

from domicile import commands
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode


async def test_a_quiet_live_move_moves_exactly_the_cohort(either_store: Place) -> None:
    place = either_store
    plan = await plan_of(place)
    moved = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
    assert moved.status is Status.WAITING, moved
    assert {(w.phase, w.verdict) for w in moved.waves} == {(Phase.SOAK, "clean")}
    assert all(w.live is not None and w.live.pause_ms is not None for w in moved.waves)
