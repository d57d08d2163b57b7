"""Who belongs to a move after it has begun: waves of late joiners, and members who were taken out of theirs. Counts
only; names stay at the source."""

from __future__ import annotations

from psycopg import AsyncConnection

from domicile.control.journal import Journal
from domicile.model.report import EjectedCount
from domicile.model.site import MoveId

_ADD_WAVE = """
    insert into domicile_control.wave (move_id, no, subjects, rows_planned, bytes_planned)
    values (%s, %s, %s, %s, %s) on conflict (move_id, no) do nothing"""
_SUBJECTS = "select subjects from domicile_control.wave where move_id = %s and no = %s for update"
_SET_SUBJECTS = "update domicile_control.wave set subjects = %s where move_id = %s and no = %s"
_EJECTED = """
    select wave_no, detail ->> 'reason', sum((detail ->> 'subjects')::integer)::integer
    from domicile_control.event where move_id = %s and what = 'ejected' group by 1, 2 order by 1, 2"""


class Membership:
    """Over one control connection (autocommit). Every method is one statement or one transaction, and idempotent."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        self._journal = Journal(conn)

    async def add_wave(self, move_id: MoveId, no: int, subjects: int, rows: int, size: int) -> None:
        """One more wave, of late joiners: ``rows`` rows of about ``size`` bytes."""
        async with self._conn.transaction():
            added = await self._conn.execute(_ADD_WAVE, (move_id, no, subjects, rows, size))
            if added.rowcount:
                await self._journal.event(move_id, no, "late joiners", {"subjects": subjects})

    async def stop_sweeping(self, move_id: MoveId, sweeps: int) -> None:
        """The last sweep allowed has still found somebody."""
        await self._journal.event(move_id, None, "late joiners keep coming: no more sweeps", {"sweeps": sweeps})

    async def ejected(self, move_id: MoveId, no: int, left: int, reason: str) -> None:
        """The wave has ``left`` members now; who is missing was taken out for this reason."""
        async with self._conn.transaction():
            row = await (await self._conn.execute(_SUBJECTS, (move_id, no))).fetchone()
            assert row is not None
            if gone := row[0] - left:
                await self._conn.execute(_SET_SUBJECTS, (left, move_id, no))
                await self._journal.event(move_id, no, "ejected", {"subjects": gone, "reason": reason})

    async def ejections(self, move_id: MoveId) -> tuple[EjectedCount, ...]:
        """How many were taken out of each wave, and why."""
        cursor = await self._conn.execute(_EJECTED, (move_id,))
        return tuple(EjectedCount(no, reason, subjects) for no, reason, subjects in await cursor.fetchall())
