"""One process carries a move. The right to do so is a session lock in the control database plus a generation
that the sites check.

The lock says who holds it: it goes with its session, also at kill -9, and the server ends the session of a machine that
was cut off (`_NOTICE_A_CUT_LINE`). The pulse says who lives: a process that was stopped keeps its session, but not its
pulse, and after `STALE_SECONDS` whoever wants the move ends that session. What the holder writes to the control
database about the move goes through the session that holds the lock, so it can write nothing once the lock is gone;
the generation protects the sites in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
import hashlib
import time

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import make_conninfo

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId
from domicile.postgres.connect import connect

RENEW_SECONDS = 2.0
STALE_SECONDS = 15.0  # a lease that was not renewed for so long may be taken over
SECOND_LOOK_SECONDS = 1.0  # one who has just taken the lock has not written its pulse yet
ANSWER_SECONDS_MAX = 6.0  # of the control database to a pulse

# The server asks a silent peer after 5 s, three times 3 s apart, and lets nothing lie unacknowledged for 15 s; while a
# statement runs it looks every 2 s whether its client is still there.
_NOTICE_A_CUT_LINE = """
    select pg_catalog.set_config('tcp_keepalives_idle', '5', false),
        pg_catalog.set_config('tcp_keepalives_interval', '3', false),
        pg_catalog.set_config('tcp_keepalives_count', '3', false),
        pg_catalog.set_config('tcp_user_timeout', '15s', false),
        pg_catalog.set_config('client_connection_check_interval', '2s', false)"""
_TRY_LOCK = "select pg_catalog.pg_try_advisory_lock(%s)"
_UNLOCK = "select pg_catalog.pg_advisory_unlock(%s)"
_TAKE = """
    update domicile_control.move set generation = generation + 1, runner = %s, runner_seen_at = clock_timestamp()
    where move_id = %s returning generation"""
_RELEASE = """
    update domicile_control.move set runner = '', runner_seen_at = null where move_id = %s and generation = %s"""
_RENEW = """
    update domicile_control.move set runner_seen_at = clock_timestamp()
    where move_id = %(move_id)s and generation = %(generation)s
        and domicile_control.lock_holder(%(number)s) = %(pid)s"""
_LIVING = """
    select runner from domicile_control.move
    where move_id = %(move_id)s and domicile_control.lock_holder(%(number)s) is not null
        and runner_seen_at > clock_timestamp() - pg_catalog.make_interval(secs => %(stale)s)"""
_STALE_HOLDER = """
    select domicile_control.lock_holder(%(number)s) from domicile_control.move
    where move_id = %(move_id)s
        and runner_seen_at <= clock_timestamp() - pg_catalog.make_interval(secs => %(stale)s)"""
_END_SESSION = "select pg_catalog.pg_terminate_backend(%s, 5000)"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to carry a move. ``lost`` is set when the right has gone to another, or cannot be renewed."""

    generation: int
    session: AsyncConnection = field(repr=False)
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def gone(self) -> bool:
        """True as soon as this process knows that it carries the move no more."""
        return self.lost.is_set() or self.session.closed or self.session.broken


@asynccontextmanager
async def hold_lease(conn: AsyncConnection, conninfo: str, move_id: MoveId, runner: str) -> AsyncIterator[Lease]:
    """Carry the move while the block runs. ``conn`` must live as long as the block and be all through which the holder
    writes to the control database; ``conninfo`` is for the pulse, which has a session of its own.

    Takes the lease over from a holder that has lost its pulse. Raises move-busy. When the lease is lost meanwhile the
    task that runs the block is cancelled and the block ends with lease-lost.
    """
    await conn.execute(_NOTICE_A_CUT_LINE)
    if not await _try_lock(conn, move_id):
        await _end_stale_holder(conn, move_id)
        if not await _try_lock(conn, move_id):
            raise await _busy(conn, move_id)
    taken = await (await conn.execute(_TAKE, (runner, move_id))).fetchone()
    assert taken is not None
    lease = Lease(int(taken[0]), conn)
    holder = asyncio.current_task()
    assert holder is not None
    values = {
        "move_id": move_id,
        "generation": lease.generation,
        "number": _lock_number(move_id),
        "pid": conn.info.backend_pid,
    }
    pulse = asyncio.create_task(_beat(lease, conninfo, values, holder))
    try:
        try:
            yield lease
        finally:
            pulse.cancel()
            await asyncio.wait([pulse])
            await _release(lease, move_id)
    except BaseException:
        if lease.lost.is_set():
            holder.uncancel()
            raise _lost(move_id) from None
        raise


async def living_runner(conn: AsyncConnection, move_id: MoveId) -> str:
    """Who carries the move now, or empty: the runner's name counts only while its session holds the lock and its pulse
    beats."""
    values = {"move_id": move_id, "number": _lock_number(move_id), "stale": STALE_SECONDS}
    row = await (await conn.execute(_LIVING, values)).fetchone()
    return str(row[0]) if row else ""


async def _beat(lease: Lease, conninfo: str, values: Mapping[str, object], holder: asyncio.Task[object]) -> None:
    """Renew the lease until it is lost: then say so and cancel the holder."""
    quick = make_conninfo(conninfo, tcp_user_timeout=int(ANSWER_SECONDS_MAX * 1000))  # a line that was cut ends at once
    answered = time.monotonic()
    session: AsyncConnection | None = None
    try:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                async with asyncio.timeout(ANSWER_SECONDS_MAX):
                    session = session or await connect(quick, application_name="domicile pulse")
                    renewed = (await session.execute(_RENEW, values)).rowcount == 1
                answered = time.monotonic()
            except (psycopg.Error, DomicileError, TimeoutError):
                # Nobody has taken the lease before it is stale; until then the line may come back.
                renewed = time.monotonic() - answered < STALE_SECONDS
                await _drop(session)
                session = None
            if not renewed:
                lease.lost.set()
                holder.cancel()
                return
    finally:
        await _drop(session)


async def _drop(session: AsyncConnection | None) -> None:
    if session is not None:
        await session.close()


async def _release(lease: Lease, move_id: MoveId) -> None:
    """Give the lease back; one that was lost is not ours to give, and its session must write nothing more."""
    if lease.gone:
        await lease.session.close()
        return
    with suppress(psycopg.OperationalError):  # the session ends with its lock: then there is nothing to give back
        await lease.session.execute(_RELEASE, (move_id, lease.generation))
        await lease.session.execute(_UNLOCK, (_lock_number(move_id),))


async def _try_lock(conn: AsyncConnection, move_id: MoveId) -> bool:
    row = await (await conn.execute(_TRY_LOCK, (_lock_number(move_id),))).fetchone()
    return bool(row and row[0])


async def _end_stale_holder(conn: AsyncConnection, move_id: MoveId) -> None:
    """End the session that holds the lock without a pulse, if there is one; its process may live, but not carry on."""
    found = await _stale_holder(conn, move_id)
    if found is None:
        return
    await asyncio.sleep(SECOND_LOOK_SECONDS)
    if await _stale_holder(conn, move_id) == found:
        with suppress(errors.InsufficientPrivilege):  # of another role: it stays busy
            await conn.execute(_END_SESSION, (found,))


async def _stale_holder(conn: AsyncConnection, move_id: MoveId) -> int | None:
    values = {"move_id": move_id, "number": _lock_number(move_id), "stale": STALE_SECONDS}
    row = await (await conn.execute(_STALE_HOLDER, values)).fetchone()
    return row[0] if row else None


def _lock_number(move_id: MoveId) -> int:
    """A positive 63-bit number of the move, so that it reads back from pg_locks as it was given."""
    return int.from_bytes(hashlib.sha256(move_id.encode()).digest()[:8], "big") >> 1


def _lost(move_id: MoveId) -> DomicileError:
    return DomicileError(
        ErrorCode.LEASE_LOST,
        f"this process carries move {move_id} no more: it was away too long, or cut off from the control database",
        facts={"move": move_id},
        safe="It stopped before writing anything more; whoever takes the move over goes on from the last commit.",
        hint=f"Watch it with: domicile status {move_id} --watch",
    )


async def _busy(conn: AsyncConnection, move_id: MoveId) -> DomicileError:
    runner = await living_runner(conn, move_id)
    return DomicileError(
        ErrorCode.MOVE_BUSY,
        f"move {move_id} is being carried by another process ({runner or 'unknown'})",
        facts={"move": move_id, "runner": runner},
        safe="That process goes on undisturbed.",
        hint=f"Watch it with: domicile status {move_id} --watch; stop it with: domicile pause {move_id}",
    )
