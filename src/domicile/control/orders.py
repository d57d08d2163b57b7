"""What workers are to carry on: an order stands with its move until it is carried out or taken back. The queue of a
site is filled from here, so an order is lost neither with a worker nor with the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from domicile.model.site import MoveId, SiteName

MOVE, PURGE = "move", "purge"

_GIVE = """
    update domicile_control.move set ordered = %(kind)s,
        pause_requested = pause_requested and %(kind)s <> 'move',
        status = case when %(kind)s = 'move' then 'pending' else status end
    where move_id = %(move_id)s"""
_STANDING = """
    select move_id, ordered, source, attempt, (extract(epoch from clock_timestamp()) * 1000)::bigint
    from domicile_control.move where ordered <> '' and source = any(%s) order by created_at, move_id"""
_NEXT = """
    update domicile_control.move set attempt = attempt + 1 where move_id = %s and attempt = %s returning attempt"""


@dataclass(frozen=True, slots=True)
class Order:
    """``kind`` is `MOVE` or `PURGE`; ``seen_ms`` is when it was read, by the control database's clock."""

    move_id: MoveId
    kind: str
    source: SiteName
    attempt: int
    seen_ms: int


class Orders:
    """Over one control connection (autocommit). Every method is one statement and idempotent."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn

    async def give(self, move_id: MoveId, kind: str) -> None:
        """Order the workers of the move's source site to carry it on; a pause that was asked for is over."""
        await self._conn.execute(_GIVE, {"move_id": move_id, "kind": kind})

    async def withdraw(self, move_id: MoveId) -> None:
        """The order is carried out, or somebody else carries it out."""
        await self._conn.execute("update domicile_control.move set ordered = '' where move_id = %s", (move_id,))

    async def standing(self, sites: Sequence[SiteName]) -> tuple[Order, ...]:
        """What is ordered of the workers of these sites, oldest moves first."""
        rows = await (await self._conn.execute(_STANDING, (list(sites),))).fetchall()
        return tuple(Order(MoveId(r[0]), r[1], SiteName(r[2]), r[3], r[4]) for r in rows)

    async def next_attempt(self, order: Order) -> int | None:
        """Begin another attempt after the order's; None when another worker was quicker."""
        row = await (await self._conn.execute(_NEXT, (order.move_id, order.attempt))).fetchone()
        return int(row[0]) if row else None

    async def doing(self, move_id: MoveId, what: str) -> None:
        """What is being done about it, where that lasts and no figure tells of it; empty when it is done."""
        await self._conn.execute(
            "update domicile_control.move set doing = %s where move_id = %s and doing <> %s", (what, move_id, what)
        )
