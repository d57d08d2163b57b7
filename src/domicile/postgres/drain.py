"""Wait for writers without standing in anybody's way: who holds a write lock on some tables, and when they have ended.

A transaction takes ROW EXCLUSIVE on a table before it writes its first row there and keeps it to its end. So after a
mark is committed, each writer either holds its lock already, and is waited for here, or takes it later, and then its
trigger sees the mark. Source of the method: ``CREATE INDEX CONCURRENTLY`` waits so; here nobody queues behind the wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import time

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.postgres.guard_sql import STATEMENTS, Connection, Relation, relations

WRITE_MODES = ("RowExclusiveLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
POLL_SECONDS_MIN = 0.002
POLL_SECONDS_MAX = 0.05
PREPARED_SECONDS_MAX = 1.0  # a prepared transaction ends when somebody says so; a commit under way is waited for
BLOCKERS_NAMED_MAX = 10

_ENTERED = "select case when is_called then last_value else 0 end from domicile.entered"
_LEVELS = "select relation::bigint, joins from domicile.guarded"
_RAISE_FENCE = "select domicile.raise_fence()"


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction that holds a lock in the way. ``pid`` is None for a prepared one; ``age_s`` (seconds since its
    start) and ``application`` are None or empty where our role may not see them."""

    transaction: str
    pid: int | None
    application: str
    age_s: float | None
    autovacuum: bool = False

    def as_dict(self) -> dict[str, object]:
        """For the facts of an error: never the query's text, which may hold personal values."""
        age = None if self.age_s is None else round(self.age_s, 3)
        return {"pid": self.pid, "application_name": self.application, "transaction_age_s": age}


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What was waited for: seconds, transactions, and rounds (one more than the joins of the longest owner path).

    ``entered`` is ``domicile.entered`` before the first round: while it has not grown, no owner has changed since in a
    way that a lookup could have missed.
    """

    seconds: float
    transactions: int
    rounds: int
    entered: int = 0


async def entered(conn: Connection) -> int:
    """How often, so far, rows have come into a closing wave by another row of theirs."""
    row = await (await conn.execute(_ENTERED)).fetchone()
    assert row is not None
    return int(row[0])


async def blockers(conn: Connection, tables: Iterable[TableName]) -> tuple[Blocker, ...]:
    """Who holds a write lock on the tables or their partitions now, the oldest first. To be asked before a fence,
    too."""
    return await holders(conn, await relations(conn, tables), WRITE_MODES)


async def drain(conn: Connection, tables: Iterable[TableName], *, seconds_max: float) -> DrainReport:
    """Wait until every transaction that could have written for a wave marked before this call has ended. Blocks nobody;
    idempotent.

    Where owners are found through other tables, a writer that read such a table before its own writers had ended may
    still hold the old answer: hence one more round for each join, over the tables whose path is at least that long. A
    snapshot from before those writers' end gives the old answer even later: hence a new fence before each such round.

    Raises fence-budget after ``seconds_max`` with the blockers; for prepared transactions, which end only by an order,
    after a second.
    """
    assert conn.autocommit, "a drain inside a transaction would hold back what it waits for"
    started = time.monotonic()
    before = await entered(conn)
    found = await relations(conn, tables)
    joins = dict(await (await conn.execute(_LEVELS)).fetchall())
    rounds = 1 + max((joins.get(r.root, 0) for r in found), default=0)
    transactions = 0
    for level in range(rounds):
        if level:
            await conn.execute(_RAISE_FENCE)
        concerned = [r for r in found if joins.get(r.root, 0) >= level]
        transactions += await _wait(conn, concerned, started, seconds_max)
    return DrainReport(time.monotonic() - started, transactions, rounds, before)


async def holders(conn: Connection, found: Sequence[Relation], modes: Sequence[str]) -> tuple[Blocker, ...]:
    """Transactions of other sessions that hold a lock of one of the modes on one of the relations, the oldest first."""
    cursor = await conn.execute(STATEMENTS["holders"], {"relations": [r.oid for r in found], "modes": list(modes)})
    return tuple(
        Blocker(transaction, pid, application or "", age, backend == "autovacuum worker")
        for transaction, pid, backend, application, age in await cursor.fetchall()
    )


def over_budget(doing: str, seconds_max: float, waiting_for: Sequence[Blocker]) -> DomicileError:
    """The error that names who is in the way."""
    prepared = sum(b.pid is None for b in waiting_for)
    hint = "Let these transactions end, or end them, then go on with: domicile resume"
    if prepared:
        hint = "Commit or roll back the prepared transactions (pg_prepared_xacts), then: domicile resume"
    return DomicileError(
        ErrorCode.FENCE_BUDGET,
        f"{doing}: {len(waiting_for)} transactions were in the way for {seconds_max:g} s"
        + (f", {prepared} of them prepared" if prepared else ""),
        facts={
            "blockers": [b.as_dict() for b in waiting_for[:BLOCKERS_NAMED_MAX]],
            "blockers_total": len(waiting_for),
            "prepared": prepared,
            "seconds_max": seconds_max,
        },
        safe="The source serves; no row was changed.",
        hint=hint,
    )


async def _wait(conn: Connection, found: Sequence[Relation], started: float, seconds_max: float) -> int:
    """Wait for the transactions that hold a write lock now; returns how many there were."""
    waiting = {b.transaction: b for b in await holders(conn, found, WRITE_MODES)}
    total = len(waiting)
    pause = POLL_SECONDS_MIN
    prepared_since: float | None = None
    while waiting:
        now = time.monotonic()
        only_prepared = all(b.pid is None for b in waiting.values())
        prepared_since = (prepared_since or now) if only_prepared else None
        if prepared_since is not None and now - prepared_since > min(PREPARED_SECONDS_MAX, seconds_max):
            raise over_budget("the fence cannot close", min(PREPARED_SECONDS_MAX, seconds_max), _oldest(waiting))
        if now - started > seconds_max:
            raise over_budget("the fence cannot close", seconds_max, _oldest(waiting))
        await asyncio.sleep(pause)
        pause = min(pause * 2, POLL_SECONDS_MAX)
        present = {b.transaction: b for b in await holders(conn, found, WRITE_MODES)}
        # One that was prepared meanwhile has the name it had.
        waiting = {t: present[t] for t in waiting.keys() & present.keys()}
    return total


def _oldest(waiting: dict[str, Blocker]) -> list[Blocker]:
    return sorted(waiting.values(), key=lambda b: -(b.age_s or 0.0))
