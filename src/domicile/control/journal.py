"""What happened to a move and who ordered it, in order: for people and for the report. Counts, codes and
names only."""

from __future__ import annotations

from collections.abc import Mapping
import json
from types import MappingProxyType

from psycopg import AsyncConnection

from domicile.model.site import MoveId

NO_DETAIL: Mapping[str, object] = MappingProxyType({})


class Journal:
    """Append-only, over one control connection."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn

    async def event(self, move_id: MoveId, no: int | None, what: str, detail: Mapping[str, object] = NO_DETAIL) -> None:
        """Write down what happened to a move, or to one wave of it."""
        await self._conn.execute(
            "insert into domicile_control.event (move_id, wave_no, what, detail) values (%s, %s, %s, %s)",
            (move_id, no, what, json.dumps(dict(detail))),
        )

    async def approve(self, move_id: MoveId, what: str, given_by: str) -> None:
        """Write down an order and who gave it (an account of the operating system, not a subject)."""
        await self._conn.execute(
            "insert into domicile_control.approval (move_id, what, given_by) values (%s, %s, %s)",
            (move_id, what, given_by),
        )
