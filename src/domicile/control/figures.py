"""Reading and counting: how far waves are, in rows, bytes and seconds. Never changes a phase."""

from __future__ import annotations

from dataclasses import asdict
import json
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from domicile.control import approvals
from domicile.control.moves import MoveRecord
from domicile.model.phase import Phase, Status
from domicile.model.plan import Limits, Mode, WayBack
from domicile.model.report import InTheWay, LiveFigures, MoveStatus, NoReturn, WaveStatus
from domicile.model.site import MoveId

_OWN_TYPES = ("phase", "status", "live")
_WAVES = """
    select w.*, w.phase = 'planned' and w.status = 'aborted' and exists (
        select from domicile_control.event as e
        where e.move_id = w.move_id and e.wave_no = w.no and e.what = 'phase rollback') as rolled_back
    from domicile_control.wave as w where w.move_id = %s order by w.no"""


class Figures:
    """Figures of waves over one control connection (autocommit)."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn

    async def wave(self, move_id: MoveId, no: int) -> WaveStatus:
        """One wave."""
        return next(w for w in await self.waves(move_id) if w.no == no)

    async def waves(self, move_id: MoveId) -> tuple[WaveStatus, ...]:
        """The waves of a move, in order."""
        return tuple(_wave(r) for r in await self._rows(_WAVES, move_id))

    async def status(self, record: MoveRecord, runner: str) -> MoveStatus:
        """A move with its waves, and the two sentences an operator needs. ``runner`` is the living process
        that carries it, or empty."""
        waves, limits = await self.waves(record.move_id), Limits(**record.plan["limits"])
        no_return = await self.no_return(record.move_id, limits)
        safe, following = _advice(record, waves, runner, no_return)
        return MoveStatus(
            move_id=record.move_id,
            dataset=record.dataset,
            source=record.source,
            target=record.target,
            mode=record.mode,
            limits=limits,
            status=record.status,
            pause_requested=record.pause_requested,
            abort_requested=record.abort_requested,
            runner=runner,
            subjects=sum(w.subjects for w in waves),
            rows_planned=sum(w.rows_planned for w in waves),
            bytes_planned=sum(w.bytes_planned for w in waves),
            created_at=record.created_at,
            waves=waves,
            plan_digest=record.plan_digest,
            error_code=record.error_code,
            error_message=record.error_message,
            error_hint=record.error_hint,
            safe=safe,
            next=following,
            ordered=record.ordered,
            no_return=no_return,
            doing=record.doing if runner else "",
        )

    async def no_return(self, move_id: MoveId, limits: Limits) -> NoReturn | None:
        """From when on it may be purged, and who has approved that; None before the first arrival."""
        return await approvals.no_return(self._conn, move_id, limits)

    async def tables(self, move_id: MoveId) -> list[tuple[str, int]]:
        """Rows per table under the verdicts of the waves that were handed over."""
        rows = await self._rows(
            """select t->>'table' as name, sum((t->>'rows')::bigint)::bigint as rows
               from domicile_control.wave cross join jsonb_array_elements(tables) as t
               where move_id = %s and phase in ('soak', 'purge', 'done') group by 1 order by 1""",
            move_id,
        )
        return [(r["name"], r["rows"]) for r in rows]

    async def seconds(self, move_id: MoveId) -> float:
        """From the first phase to the last event of the move."""
        rows = await self._rows(
            """select coalesce(extract(epoch from max(at) - min(at)), 0)::float as seconds
               from domicile_control.event where move_id = %s""",
            move_id,
        )
        return float(rows[0]["seconds"])

    async def copied(self, move_id: MoveId, no: int, rows: int, size: int) -> None:
        """``rows`` rows of ``size`` bytes more are committed at the target."""
        await self._conn.execute(
            """update domicile_control.wave set rows_copied = rows_copied + %s, bytes_copied = bytes_copied + %s
               where move_id = %s and no = %s""",
            (rows, size, move_id, no),
        )

    async def set_copied(self, move_id: MoveId, no: int, rows: int, size: int) -> None:
        """After a crash: what the target itself says is there."""
        await self._conn.execute(
            "update domicile_control.wave set rows_copied = %s, bytes_copied = %s where move_id = %s and no = %s",
            (rows, size, move_id, no),
        )

    async def copy_took(self, move_id: MoveId, no: int, seconds: float) -> None:
        """Seconds of the copy phase, all attempts since the last step back together."""
        await self._conn.execute(
            """update domicile_control.wave set copy_seconds = coalesce(copy_seconds, 0) + %s
               where move_id = %s and no = %s""",
            (seconds, move_id, no),
        )

    async def fenced(self, move_id: MoveId, no: int) -> None:
        """The wave's writers are refused from now on; kept from the first time, also across a crash."""
        await self._conn.execute(
            """update domicile_control.wave set fenced_at = coalesce(fenced_at, clock_timestamp())
               where move_id = %s and no = %s""",
            (move_id, no),
        )

    async def released(self, move_id: MoveId, no: int) -> None:
        """The wave's writers are served again, at their home."""
        await self._conn.execute(
            """update domicile_control.wave
               set fence_seconds = coalesce(fence_seconds, extract(epoch from clock_timestamp() - fenced_at))
               where move_id = %s and no = %s""",
            (move_id, no),
        )

    async def live(self, move_id: MoveId, no: int, figures: LiveFigures) -> None:
        """How a live wave goes now, in place of what was known before."""
        await self._conn.execute(
            "update domicile_control.wave set live = %s where move_id = %s and no = %s",
            (json.dumps(asdict(figures)), move_id, no),
        )

    async def due(self, move_id: MoveId, no: int, hint: str) -> None:
        """A wave that has stepped back waits until it is tried again; ``hint`` says when."""
        await self._conn.execute(
            "update domicile_control.wave set error_hint = %s where move_id = %s and no = %s", (hint, move_id, no)
        )

    async def purged(self, move_id: MoveId, no: int, rows: int) -> None:
        """``rows`` rows are gone from the source, as its journal says (a total, not an increment)."""
        await self._conn.execute(
            "update domicile_control.wave set rows_purged = %s where move_id = %s and no = %s",
            (rows, move_id, no),
        )

    async def _rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        async with self._conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement.encode(), values)
            return await cursor.fetchall()


def _wave(row: dict[str, Any]) -> WaveStatus:
    same = {name: row[name] for name in WaveStatus.__dataclass_fields__ if name in row and name not in _OWN_TYPES}
    return WaveStatus(phase=Phase(row["phase"]), status=Status(row["status"]), live=_live(row["live"]), **same)


def _live(kept: dict[str, Any]) -> LiveFigures | None:
    if not kept:
        return None
    return LiveFigures(**{**kept, "blockers": tuple(InTheWay(**blocker) for blocker in kept["blockers"])})


def _advice(
    record: MoveRecord, waves: tuple[WaveStatus, ...], runner: str, no_return: NoReturn | None
) -> tuple[str, str]:
    """What is safe now, and what to do next."""
    stuck = [w for w in waves if w.phase not in (Phase.PLANNED, Phase.SOAK, Phase.PURGE, Phase.DONE)]
    moved = sum(w.phase in (Phase.SOAK, Phase.PURGE, Phase.DONE) for w in waves)
    safe = f"{moved} of {len(waves)} waves live at {record.target}; every other subject is served by {record.source}."
    if stuck and not runner:
        safe = f"{_stuck(record, stuck)} {safe}"
    match record.status:
        case Status.DONE | Status.ABORTED:
            return safe, ""
        case _ if runner:
            return (
                safe,
                f"It is being carried by {runner}; watch it with: domicile status {record.move_id} --watch",
            )
        case _ if record.ordered:
            return safe, f"It waits for a worker: domicile worker --site {record.source}"
        case _ if any(w.phase is Phase.ROLLBACK for w in waves):
            return (
                safe,
                f"The rollback was begun and is not finished; continue it with: domicile rollback {record.move_id}",
            )
        case Status.WAITING if any(w.phase is Phase.PURGE for w in waves):
            return (
                safe,
                f"The purge was begun and is not finished; continue it with: domicile purge {record.move_id}",
            )
        case Status.WAITING:
            way_on = f"When you are sure, remove the source copy with: domicile purge {record.move_id}"
            if no_return is not None and len(no_return.standing) < no_return.approvals_needed:
                approved = f"domicile approve {record.move_id} --act purge"
                way_on = f"When you are sure, let different people approve its purge: {approved}"
            if record.mode is Mode.LIVE and record.plan["way_back"] != WayBack.NONE:
                way_on += f"; to bring them back with all they wrote: domicile rollback {record.move_id}"
            return f"{safe} The source copy is kept, closed to writes.", way_on
        case Status.PENDING if not record.frozen:
            return safe, "It has not begun; run domicile apply with the same plan file again, or abort it."
        case _:
            return (
                safe,
                f"Continue with: domicile resume {record.move_id}; give up with: domicile abort {record.move_id}",
            )


def _stuck(record: MoveRecord, stuck: list[WaveStatus]) -> str:
    """What holds of waves that somebody has stopped carrying on their way."""
    numbers = ", ".join(str(w.no) for w in stuck)
    if record.mode is Mode.LIVE and all(w.phase not in (Phase.HANDOVER, Phase.ROLLBACK) for w in stuck):
        return f"Wave {numbers} was on its way: its subjects are served by {record.source}, as before."
    at = "one of the sites" if record.mode is Mode.LIVE else record.source
    return (
        f"Wave {numbers} stands between homes: its rows are whole at {at}, its writers may be refused until the move is"
        " carried on or aborted."
    )
