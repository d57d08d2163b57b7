"""The lock of a closing wave, taken by the mover for himself: its writers queue behind it, nobody else waits.

Precondition: the wave is marked ``closing`` and drained, so that each of its writers holds the lock shared from his
first write to his transaction's end (``guard_ask`` in ``sql/guard.sql``). Who has the lock exclusively therefore knows:
every transaction that wrote for the wave has ended, and what is read from the log up to the departure is all there is.

Under the lock nothing is defined, analyzed or waited for but one commit. Its session ends, and with it the lock, by the
server's own hand when the mover says nothing for a while.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
import time
from typing import Any, LiteralString

import psycopg
from psycopg import DatabaseError, errors

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId
from domicile.postgres.drain import Blocker, over_budget
from domicile.postgres.evidence_rows import Entry
from domicile.postgres.guard_sql import LOCK_CLASS, STATEMENTS, Connection
from domicile.postgres.lease import lease_lost

_LEASE = "DM004"  # raised by sql/site.sql

# All is done by single statements. After a pipeline psycopg sends a Flush behind the Sync, and that stops the server's
# clock for idle sessions: a mover who froze then would keep the lock.
_REHEARSE_WITHIN = "set local lock_timeout = '100ms'"
_REHEARSE = """
    with told as (
        insert into domicile.evidence_leaf (move_id, sequence, leaf)
        select move_id, 2147483647, '' from domicile.wave where id = %s)
    select domicile.depart_wave(v.move_id, v.generation, w.id, w.home, w.epoch, '')
    from domicile.wave as w join domicile.move as v on v.move_id = w.move_id
    where w.id = %s and w.mark = 'closing'"""
_LOCK = "select entered, limits from domicile.lock_wave(%s, %s, %s, %s)"
_UNLOCK = "select pg_catalog.pg_advisory_unlock(%s, %s)"
_LIMITS = """
    select pg_catalog.set_config('lock_timeout', %s, false), pg_catalog.set_config('idle_session_timeout', %s, false)"""
_DEPART = "select domicile.depart_wave(%s, %s, %s, %s, %s, %b)"
_RECORD = "with told as (insert into domicile.evidence_leaf (move_id, sequence, leaf, act) values (%s, %s, %s, %s)) "
_TURN = "select domicile.turn_wave(%s, %s, %s, %s::text[], %s, %s, %s)"


@dataclass(frozen=True, slots=True)
class WaveLock:
    """The exclusive lock of one wave, as long as the context of `hold` lasts and its connection lives."""

    conn: Connection
    wave_id: int
    timeout_ms: int
    asked: float  # time.monotonic() when it was asked for: from then on a writer of the wave may wait

    async def depart(
        self, move_id: MoveId, generation: int, home: str, epoch: int, content: bytes, leaf: Entry | None = None
    ) -> int:
        """closing -> departed, and ``content`` as the departure's message in the stream: one commit, one round trip.

        Returns a position in the log: every transaction that wrote for the wave has its commit record before it, the
        departure's own commit is behind it. The stream says another one of the message: its record's beginning.
        ``home`` and ``epoch`` are what writers are told, those that wait too, when the lock is released, not before.
        ``leaf`` is the evidence of it, committed with it.

        Raises lease-lost, and fence-budget when the site's record is locked by somebody for longer than the lock's
        timeout: then nothing was written. A connection that breaks leaves it in doubt.
        """
        row = await self._call(_DEPART, (move_id, generation, self.wave_id, home, epoch, content), leaf)
        assert row is not None
        return int(row[0])

    async def reopen(
        self, move_id: MoveId, generation: int, mark: str, home: str, epoch: int, leaf: Entry | None = None
    ) -> None:
        """Back to ``mark`` (open, or resident where the wave was being rolled back): nothing happened. One round trip.

        Writers that wait pass as soon as the lock is released. Idempotent but for ``leaf``. Errors as for `depart`.
        """
        expected = ["closing", "departed", mark]
        await self._call(_TURN, (move_id, generation, self.wave_id, expected, mark, home, epoch), leaf)

    async def _call(
        self, statement: LiteralString, values: tuple[Any, ...], leaf: Entry | None
    ) -> tuple[Any, ...] | None:
        """One statement, the leaf in front of it: so both or neither."""
        whole, given = (statement, values) if leaf is None else (_RECORD + statement, leaf.row + values)
        try:
            return await (await self.conn.execute(whole, given)).fetchone()
        except errors.LockNotAvailable as error:
            raise over_budget("the wave's mark could not be written", self.timeout_ms / 1000, ()) from error
        except DatabaseError as error:
            if error.sqlstate != _LEASE:
                raise
            raise lease_lost(values[0], values[1]) from error


async def rehearse(conn: Connection, wave_id: int) -> None:
    """A departure that is rolled back, on the session that will `hold` the lock: its first one takes ten times as long
    as the next, in which it compiles the functions and fills its caches."""
    with suppress(errors.LockNotAvailable):
        async with conn.transaction(force_rollback=True):
            await conn.execute(_REHEARSE_WITHIN)
            await conn.execute(_REHEARSE, (wave_id, wave_id))


@asynccontextmanager
async def hold(
    conn: Connection, wave_id: int, *, entered: int, timeout_ms: int, dead_man_ms: int
) -> AsyncIterator[WaveLock]:
    """Take the wave's lock, for the time of the context, on a session that is used for nothing else.

    ``entered`` is what the drain before reported. The wave's own writers in flight finish; new ones queue for
    ``timeout_ms`` at most. Raises fence-budget, with the lock given back, when they do not finish (the blockers are
    named), or when rows came into the wave since the drain (fact ``entered``: drain again, then try again).

    The server ends the session when nothing is heard of it for ``dead_man_ms``. Leaving the context releases the lock,
    whatever happened; where that cannot be said to the server, the session is closed.
    """
    assert conn.autocommit, "a transaction around the lock would hold back what it waits for"
    asked = time.monotonic()
    now, limits = await _acquire(conn, wave_id, f"{timeout_ms}ms", f"{dead_man_ms}ms")
    try:
        if now != entered:
            raise _entered(now - entered)
        yield WaveLock(conn, wave_id, timeout_ms, asked)
    finally:
        await _release(conn, wave_id, limits)


async def lock_holders(conn: Connection, wave_id: int) -> tuple[Blocker, ...]:
    """Transactions of other sessions that hold the wave's lock, shared or not, the oldest first."""
    cursor = await conn.execute(STATEMENTS["lock_holders"], {"class": LOCK_CLASS, "wave": wave_id})
    return tuple(
        Blocker(transaction, pid, application or "", age, backend == "autovacuum worker")
        for transaction, pid, backend, application, age in await cursor.fetchall()
    )


async def _acquire(conn: Connection, wave_id: int, wait_max: str, silence_max: str) -> tuple[int, list[str]]:
    """The lock; ``domicile.entered`` as it is under it, and the session's limits as they were."""
    started = time.monotonic()
    try:
        row = await (await conn.execute(_LOCK, (LOCK_CLASS, wave_id, wait_max, silence_max))).fetchone()
    except errors.LockNotAvailable as error:
        waited = round(time.monotonic() - started, 3)
        raise over_budget("the wave's writers did not end", waited, await lock_holders(conn, wave_id)) from error
    except BaseException:
        await conn.close()  # nobody knows whether it was had
        raise
    assert row is not None
    return int(row[0]), list(row[1])


async def _release(conn: Connection, wave_id: int, limits: Sequence[str]) -> None:
    try:
        async with conn.pipeline():
            await conn.execute(_UNLOCK, (LOCK_CLASS, wave_id))
            await conn.execute(_LIMITS, limits)
    except psycopg.Error:
        await conn.close()
    except BaseException:
        await conn.close()
        raise


def _entered(count: int) -> DomicileError:
    return DomicileError(
        ErrorCode.FENCE_BUDGET,
        f"rows came into the wave with {count} writes of its users while the fence closed",
        facts={"entered": count},
        safe="The source serves; no row was changed.",
        hint="Go on with: domicile resume",
    )
