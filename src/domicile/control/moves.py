"""Phase, status and figures of moves and waves. Only this module changes a phase."""

from __future__ import annotations

from dataclasses import dataclass
import json
from typing import Any

from psycopg import AsyncConnection, errors

from domicile.control.doubts import Doubts
from domicile.control.journal import Journal
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status, may_follow
from domicile.model.plan import Mode, Plan
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.model.verdict import Verdict

ERROR_MESSAGE_MAX = 1_000  # characters kept of an error's message


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """One row of ``domicile_control.move``."""

    move_id: MoveId
    dataset: DatasetName
    source: SiteName
    target: SiteName
    mode: Mode
    status: Status
    plan: dict[str, Any]
    plan_digest: str
    pause_requested: bool
    abort_requested: bool
    attempt: int
    generation: int
    runner: str
    ordered: str  # what the workers are to carry on, if anything: control/orders.py
    frozen: bool
    created_at: str
    error_code: str
    error_message: str
    error_hint: str
    doing: str  # of whoever carries it now


_MOVES = """
    select move_id, dataset, source, target, mode, status, plan, plan_digest, pause_requested, abort_requested, attempt,
        generation, runner, ordered, frozen, to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        error_code, error_message, error_hint, doing
    from domicile_control.move
    where (%(move_id)s::text is null or move_id = %(move_id)s)
        and (%(plan_digest)s::text is null or plan_digest = %(plan_digest)s and status <> 'aborted')
    order by created_at, move_id"""

# One statement: on when a wave has arrived, and when its purge began, the point of no return rests.
_ENTER = """
    with entered as (
        update domicile_control.wave set phase = %s, status = %s, error_code = '', error_message = '', error_hint = ''
        where move_id = %s and no = %s returning move_id, no)
    insert into domicile_control.event (move_id, wave_no, what, detail)
    select e.move_id, e.no, %s::text, '{}' from entered as e"""


class Moves:
    """The store of moves over one control connection (autocommit). Every method is one statement or one
    transaction."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        self._journal = Journal(conn)
        self.doubts = Doubts(conn, self._journal)

    async def create(self, move_id: MoveId, plan: Plan, plan_json: str, mode: Mode, given_by: str) -> MoveRecord:
        """Write down a new move with its waves; a plan that was applied before is refused (plan-applied)."""
        values = (move_id, plan.dataset, plan.source, plan.target, mode, plan_json, plan.digest)
        try:
            async with self._conn.transaction():
                await self._conn.execute(
                    """insert into domicile_control.move (move_id, dataset, source, target, mode, plan, plan_digest)
                       values (%s, %s, %s, %s, %s, %s, %s)""",
                    values,
                )
                async with self._conn.cursor() as cursor:
                    await cursor.executemany(
                        """insert into domicile_control.wave (move_id, no, subjects, rows_planned, bytes_planned)
                           values (%s, %s, %s, %s, %s)""",
                        [(move_id, w.no, w.subjects, w.rows, w.bytes) for w in plan.waves],
                    )
                await self._journal.approve(move_id, "apply", given_by)
        except errors.UniqueViolation:
            before = await self.of_plan(plan.digest)
            assert before is not None
            raise already_applied(before) from None
        return await self.get(move_id)

    async def get(self, move_id: MoveId) -> MoveRecord:
        """The move, or move-unknown."""
        # A name with characters that PostgreSQL cannot hold is nobody's.
        found = await self._select(move_id=move_id) if move_id.isprintable() else ()
        if not found:
            raise DomicileError(
                ErrorCode.MOVE_UNKNOWN,
                f"there is no move {ascii(move_id)[1:-1]}",
                hint="List the moves with: domicile status",
            )
        return found[0]

    async def of_plan(self, plan_digest: str) -> MoveRecord | None:
        """The move, not aborted, that carries this plan."""
        found = await self._select(plan_digest=plan_digest)
        return found[0] if found else None

    async def all(self) -> tuple[MoveRecord, ...]:
        """Every move, oldest first."""
        return await self._select()

    async def set_status(self, move_id: MoveId, status: Status, error: DomicileError | None = None) -> None:
        """Record how the move goes, and why when it failed outside a wave; an ended move keeps the time it ended."""
        await self._conn.execute(
            """update domicile_control.move set status = %(status)s,
                 error_code = %(code)s, error_message = %(message)s, error_hint = %(hint)s,
                 ended_at = case when %(ended)s then coalesce(ended_at, now()) end
               where move_id = %(move_id)s""",
            {
                "status": status,
                "ended": status in (Status.DONE, Status.ABORTED),
                "move_id": move_id,
                "code": error.code if error else "",
                "message": error.message[:ERROR_MESSAGE_MAX] if error else "",
                "hint": error.hint[:ERROR_MESSAGE_MAX] if error else "",
            },
        )

    async def request(self, move_id: MoveId, *, pause: bool | None = None, abort: bool | None = None) -> None:
        """Ask whoever carries the move to pause or abort at the next safe point; None leaves a request as it
        is."""
        await self._conn.execute(
            """update domicile_control.move set pause_requested = coalesce(%s, pause_requested),
                 abort_requested = coalesce(%s, abort_requested) where move_id = %s""",
            (pause, abort, move_id),
        )

    async def set_frozen(self, move_id: MoveId) -> None:
        """The cohort is written down at the source: from now on the plan's condition is not needed any
        more."""
        await self._conn.execute("update domicile_control.move set frozen = true where move_id = %s", (move_id,))

    async def next_attempt(self, move_id: MoveId) -> int:
        """Begin another attempt; returns its number, which names the durable workflow."""
        return int(
            await self._value(
                "update domicile_control.move set attempt = attempt + 1 where move_id = %s returning attempt",
                move_id,
            )
        )

    async def enter(self, move_id: MoveId, no: int, phase: Phase) -> None:
        """The wave enters ``phase`` (or is in it already, after a crash), and the journal says when. Clears the error
        of a failed attempt."""
        before = Phase(
            await self._value("select phase from domicile_control.wave where move_id = %s and no = %s", move_id, no)
        )
        assert may_follow(before, phase), (before, phase)
        status = {Phase.SOAK: Status.WAITING, Phase.DONE: Status.DONE}.get(phase, Status.RUNNING)
        await self._conn.execute(_ENTER, (phase, status, move_id, no, f"phase {phase}"))

    async def fail(self, move_id: MoveId, no: int, error: DomicileError) -> None:
        """The wave failed where it stands; it is stepped back next."""
        await self._conn.execute(
            """update domicile_control.wave set status = 'failed', error_code = %s, error_message = %s,
                 error_hint = %s where move_id = %s and no = %s""",
            (error.code, error.message[:ERROR_MESSAGE_MAX], error.hint[:ERROR_MESSAGE_MAX], move_id, no),
        )
        await self._journal.event(move_id, no, "failed", {"code": str(error.code)})

    async def back_to_planned(self, move_id: MoveId, no: int, status: Status) -> None:
        """The wave has stepped back: nothing of it is left at either site but its place in the frozen cohort.

        ``status`` FAILED keeps the error that caused it; ABORTED and PENDING clear it.
        """
        await self._conn.execute(
            """update domicile_control.wave set phase = 'planned', status = %(status)s, rows_copied = 0,
                 bytes_copied = 0, fenced_at = null, fence_seconds = null, copy_seconds = null,
                 verdict = '', source_root = '', target_root = '', tables = '[]', live = '{}',
                 error_code = case when %(keep)s then error_code else '' end,
                 error_message = case when %(keep)s then error_message else '' end,
                 error_hint = case when %(keep)s then error_hint else '' end
               where move_id = %(move_id)s and no = %(no)s""",
            {"status": status, "keep": status is Status.FAILED, "move_id": move_id, "no": no},
        )
        await self._journal.event(move_id, no, "stepped back")

    async def verdict(self, move_id: MoveId, no: int, verdict: Verdict) -> None:
        """Seal what verify found."""
        tables = [{"table": str(t.table), "rows": t.rows} for t in verdict.tables]
        await self._conn.execute(
            """update domicile_control.wave set verdict = %s, source_root = %s, target_root = %s, tables = %s
               where move_id = %s and no = %s""",
            (
                "clean" if verdict.clean else "discrepancies",
                verdict.source_root,
                verdict.target_root,
                json.dumps(tables),
                move_id,
                no,
            ),
        )

    async def seal(self, move_id: MoveId, no: int, source_root: str) -> None:
        """The root of the copy that stays behind, frozen since its departure: a purge removes nothing else."""
        await self._conn.execute(
            "update domicile_control.wave set source_root = %s where move_id = %s and no = %s",
            (source_root, move_id, no),
        )

    async def _select(self, *, move_id: str | None = None, plan_digest: str | None = None) -> tuple[MoveRecord, ...]:
        cursor = await self._conn.execute(_MOVES, {"move_id": move_id, "plan_digest": plan_digest})
        return tuple(
            MoveRecord(
                MoveId(r[0]), DatasetName(r[1]), SiteName(r[2]), SiteName(r[3]), Mode(r[4]), Status(r[5]), *r[6:]
            )
            for r in await cursor.fetchall()
        )

    async def _value(self, statement: str, *values: object) -> Any:
        row = await (await self._conn.execute(statement.encode(), values)).fetchone()
        assert row is not None
        return row[0]


def already_applied(record: MoveRecord) -> DomicileError:
    """The error for a plan that a move carries already."""
    return DomicileError(
        ErrorCode.PLAN_APPLIED,
        f"this plan was applied already, as move {record.move_id} (status {record.status})",
        facts={"move": record.move_id, "status": str(record.status)},
        safe="The earlier move is untouched.",
        hint=f"See it with: domicile status {record.move_id}; continue it with: domicile resume {record.move_id}",
    )
