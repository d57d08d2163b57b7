"""Copies of which nobody knows whether they are what their wave left behind: a failover took the departure."""

from __future__ import annotations

from psycopg import AsyncConnection

from domicile.control.journal import Journal
from domicile.model.site import MoveId

COPY_IN_DOUBT, COPY_ACCEPTED = "copy in doubt", "copy accepted"  # events; docs/how-to/fail-over.md names the latter
_IN_DOUBT = """
    select wave_no from domicile_control.event where move_id = %(move_id)s and what in (%(doubt)s, %(accepted)s)
    group by wave_no having max(id) filter (where what = %(doubt)s)
        > coalesce(max(id) filter (where what = %(accepted)s), 0)
    order by wave_no"""


class Doubts:
    """In the journal, as events."""

    def __init__(self, conn: AsyncConnection, journal: Journal) -> None:
        self._conn = conn
        self._journal = journal

    async def doubt(self, move_id: MoveId, no: int) -> None:
        """The copy that the wave left behind may lack writes of before its departure, or hold later ones."""
        await self._journal.event(move_id, no, COPY_IN_DOUBT)

    async def accept(self, move_id: MoveId, no: int) -> None:
        """It was found to be what the wave left."""
        await self._journal.event(move_id, no, COPY_ACCEPTED)

    async def waves(self, move_id: MoveId) -> list[int]:
        """The waves whose copies are doubted, unless somebody has accepted them since."""
        values = {"move_id": move_id, "doubt": COPY_IN_DOUBT, "accepted": COPY_ACCEPTED}
        return [no for (no,) in await (await self._conn.execute(_IN_DOUBT, values)).fetchall()]
