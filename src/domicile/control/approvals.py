"""The point of no return of a move: from when on it may be purged, and who has approved that.

An approval is for the waves that live at the target when it is given: one that arrives later needs new approvals. It
expires by the plan's limits. A move has one plan, so an approval of the move is one of that plan and no other.
"""

from __future__ import annotations

from psycopg import AsyncConnection

from domicile.control.journal import Journal
from domicile.model.plan import Limits
from domicile.model.report import Approval, NoReturn
from domicile.model.site import MoveId

PURGE = "purge"  # the one act that takes approvals
_WHAT = f"approve {PURGE}"
_ARRIVED = """
    with arrived as (select max(at) as at from domicile_control.event where move_id = %(move)s and what = 'phase soak'),
    first as (
        select min(each.at) as at from domicile_control.wave as w
        cross join lateral (
            select max(e.at) as at from domicile_control.event as e
            where e.move_id = w.move_id and e.wave_no = w.no and e.what = 'phase soak') as each
        where w.move_id = %(move)s and w.phase in ('soak', 'purge', 'done'))
    select extract(epoch from a.at)::bigint, extract(epoch from coalesce(p.at, clock_timestamp()))::bigint,
        p.at is not null, extract(epoch from coalesce(f.at, a.at))::bigint
    from arrived as a cross join first as f cross join lateral (
        select min(e.at) as at from domicile_control.event as e
        where e.move_id = %(move)s and e.what = 'phase purge' and e.at >= a.at) as p"""
_GIVEN = """
    select given_by, extract(epoch from max(given_at))::bigint as given from domicile_control.approval
    where move_id = %(move)s and what = %(what)s and given_at >= (
        select max(at) from domicile_control.event where move_id = %(move)s and what = 'phase soak')
    group by given_by order by given, given_by"""


async def approve(conn: AsyncConnection, move_id: MoveId, person: str) -> None:
    """The person approves the purge of what lives at the target now. Given again, it is a newer one of the same
    person."""
    await Journal(conn).approve(move_id, _WHAT, person)


async def no_return(conn: AsyncConnection, move_id: MoveId, limits: Limits) -> NoReturn | None:
    """None before the first wave has arrived. Times are the control database's; that of a purge which was begun since
    the last arrival is the moment when it was."""
    row = await (await conn.execute(_ARRIVED, {"move": move_id})).fetchone()
    if row is None or row[0] is None:
        return None
    arrived, now, begun, first = row
    lasts = round(limits.approval_hours_max * 3600)
    given = await (await conn.execute(_GIVEN, {"move": move_id, "what": _WHAT})).fetchall()
    return NoReturn(
        opens_at=arrived + round(limits.undo_hours * 3600),
        now=now,
        begun=begun,
        arrived_first=first,
        approvals_needed=limits.purge_approvals,
        approvals=tuple(Approval(person, at, at + lasts, standing=at + lasts > now) for person, at in given),
    )
