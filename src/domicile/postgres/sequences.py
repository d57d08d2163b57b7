"""Sequences of the target, moved beyond the ids that arrive, so that the next id the target gives is
nobody's.

Never backwards, whoever calls nextval meanwhile. A short way is walked with nextval itself, which only
goes forward and blocks nobody. A long way is one setval under the lock of ALTER SEQUENCE, the only lock
that nextval respects: it waits for transactions that drew a value, so it is tried for a short time, and
again.

The step of a sequence is kept: sites that share ids by residue (1, 3, 5 and 2, 4, 6) go on doing so. So is its range:
it does not follow ids that it will not meet, beyond its limit or farther ahead than it comes in years, such as those
of a site whose ids begin elsewhere. There it would give what that site gives.
Values which a session drew in advance (CACHE > 1) are out of reach and may still appear: `Advanced.cache`
says so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import AsyncConnection, errors, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Schema, TableName
from domicile.postgres.failures import SAFE, told
from domicile.postgres.ownership import ident

HEADROOM_VALUES = 100_000  # beyond the source's highest id: what it may give out until the next wave
AHEAD_VALUES_MAX = 10**11  # nobody meets an id that is farther ahead: at 1,000 values a second in three years
WALK_VALUES_MAX = 200_000  # nextval calls, about 0.1 s
WALKS_MAX = 10
LOCK_TIMEOUT_MS = 100  # so long at most does anybody's nextval wait for us
LOCK_TRIES_MAX = 40
LOCK_PAUSE_S = 0.1

_INTEGERS = ("int2", "int4", "int8", "numeric")
_FACTS = """
    select s.seqincrement, s.seqmin, s.seqmax, s.seqcache, pg_catalog.format_type(s.seqtypid, null)
    from pg_catalog.pg_sequence as s
        join pg_catalog.pg_class as c on c.oid = s.seqrelid
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %s and c.relname = %s"""
_REACHED = "select case when is_called then last_value else last_value - %s end from {sequence}"
_EXTREME = "select pg_catalog.{extreme}({column})::numeric::bigint from {table} where {column} {within} {horizon}"
_WALK = "select pg_catalog.count(pg_catalog.nextval({sequence})) from pg_catalog.generate_series(1, %s)"
# The increment is set to what it is: the statement is there for its lock. What follows it reads under that
# lock.
_LOCK = "set local lock_timeout = {timeout}; alter sequence {sequence} increment by {increment}"
_SET = """
    select pg_catalog.setval(
        {name}, reached + pg_catalog.ceil(({goal} - reached)::numeric / {increment})::bigint * {increment})
    from (select case when is_called then last_value else last_value - {increment} end as reached
        from {sequence}) as now
    where {increment} * ({goal} - reached)::numeric > 0"""


@dataclass(frozen=True, slots=True)
class Advanced:
    """One sequence of the target: ``before`` and ``after`` are the last values given; equal when nothing
    was needed."""

    sequence: TableName
    columns: tuple[str, ...]
    before: int
    after: int
    cache: int = 1


@dataclass(frozen=True, slots=True)
class _Sequence:
    name: TableName
    increment: int
    lowest: int
    highest: int
    cache: int

    @property
    def upward(self) -> bool:
        return self.increment > 0

    @property
    def limit(self) -> int:
        return self.highest if self.upward else self.lowest

    def horizon(self, reached: int) -> int:
        """What it will not come beyond."""
        ahead = reached + AHEAD_VALUES_MAX * self.increment
        return min(ahead, self.limit) if self.upward else max(ahead, self.limit)

    def beyond(self, value: int, limit: int) -> bool:
        """True when ``value`` comes after ``limit`` in the sequence's own direction."""
        return value > limit if self.upward else value < limit


async def advance(
    source: AsyncConnection,
    target: AsyncConnection,
    source_schema: Schema,
    target_schema: Schema,
    tables: Iterable[TableName],
    *,
    headroom: int = HEADROOM_VALUES,
) -> tuple[Advanced, ...]:
    """Advance every sequence that fills a column of ``tables`` at the target beyond the source's ids plus
    ``headroom``.

    ``headroom`` counts values of the sequence. Idempotent: what is far enough stays. The target is in
    autocommit. Raises DomicileError: right-missing, fence-budget when transactions keep a sequence locked.
    """
    feeds: dict[TableName, list[tuple[TableName, str]]] = {}
    for table in tables:
        for column in target_schema.tables[table].columns:
            if column.default_sequence is not None:
                feeds.setdefault(column.default_sequence, []).append((table, column.name))
    return tuple([await _advance(source, target, source_schema, fed, headroom) for fed in sorted(feeds.items())])


async def _advance(
    source: AsyncConnection,
    target: AsyncConnection,
    source_schema: Schema,
    fed: tuple[TableName, list[tuple[TableName, str]]],
    headroom: int,
) -> Advanced:
    name, columns = fed
    shown = tuple(f"{table}.{column}" for table, column in columns)
    with told("target", f"sequence {name}"):
        sequence = await _facts(target, name)
        before = await _reached(target, name, sequence.increment)
    used: int | None = None
    with told("source", f"sequence {name}"):
        for table, column in columns:
            value = await _extreme(source, source_schema, table, column, sequence, sequence.horizon(before))
            if value is not None and (used is None or sequence.beyond(value, used)):
                used = value
    if used is None:
        return Advanced(name, shown, before, before, sequence.cache)
    # A small type must not be used up by the headroom: at most a tenth of what is left.
    left = abs(sequence.limit - used) // 10 // abs(sequence.increment)
    goal = used + min(headroom, left) * sequence.increment
    with told("target", f"sequence {name}"):
        await _go(target, sequence, goal)
        after = await _reached(target, name, sequence.increment)
    return Advanced(name, shown, before, after, sequence.cache)


async def _go(target: AsyncConnection, sequence: _Sequence, goal: int) -> None:
    for _ in range(WALKS_MAX):
        reached = await _reached(target, sequence.name, sequence.increment)
        if not sequence.beyond(goal, reached):
            return
        steps = -(-abs(goal - reached) // abs(sequence.increment))
        if steps > WALK_VALUES_MAX:
            await _leap(target, sequence, goal)
        else:
            walk = sql.SQL(_WALK).format(sequence=_literal(sequence.name))
            await target.execute(walk, (steps,))


async def _leap(target: AsyncConnection, sequence: _Sequence, goal: int) -> None:
    """One setval, computed and done while nobody else can draw a value."""
    values = {
        "name": _literal(sequence.name),
        "sequence": ident(sequence.name),
        "increment": sql.Literal(sequence.increment),
        "goal": sql.SQL("({})::bigint").format(sql.Literal(goal)),
        "timeout": sql.Literal(f"{LOCK_TIMEOUT_MS}ms"),
    }
    both = sql.SQL("; ").join((sql.SQL(_LOCK).format(**values), sql.SQL(_SET).format(**values)))
    for _ in range(LOCK_TRIES_MAX):
        try:
            async with target.transaction():
                await target.execute(both)
            return
        except errors.LockNotAvailable:
            await asyncio.sleep(LOCK_PAUSE_S)
    raise DomicileError(
        ErrorCode.FENCE_BUDGET,
        f"sequence {sequence.name} was in use by open transactions at each of {LOCK_TRIES_MAX} tries",
        facts={"sequence": str(sequence.name), "tries": LOCK_TRIES_MAX, "lock_timeout_ms": LOCK_TIMEOUT_MS},
        safe=SAFE,
        hint="End long transactions at the target that draw from it, then run apply again.",
    )


async def _extreme(
    source: AsyncConnection, schema: Schema, table: TableName, column: str, sequence: _Sequence, horizon: int
) -> int | None:
    """The source's furthest id in the sequence's direction, up to the horizon; None where there is none.

    A column that is no number (``'INV-' || nextval(...)``) is judged by the source's own sequence.
    """
    at_source = schema.tables[table].column(column)
    if at_source.base_type in _INTEGERS:
        statement = sql.SQL(_EXTREME).format(
            extreme=sql.SQL("max" if sequence.upward else "min"),
            column=sql.Identifier(column),
            table=ident(table),
            within=sql.SQL("<=" if sequence.upward else ">="),
            horizon=sql.Literal(horizon),
        )
        row = await (await source.execute(statement)).fetchone()
        return None if row is None or row[0] is None else int(row[0])
    if at_source.default_sequence is None:
        return None
    facts = await _facts(source, at_source.default_sequence)
    reached = await _reached(source, at_source.default_sequence, facts.increment)
    return None if sequence.beyond(reached, horizon) else reached


async def _facts(conn: AsyncConnection, name: TableName) -> _Sequence:
    row = await (await conn.execute(_FACTS, (name.schema, name.name))).fetchone()
    if row is None:
        raise DomicileError(
            ErrorCode.SCHEMA_CHANGED,
            f"sequence {name} is gone",
            facts={"sequence": str(name)},
            hint="Bring the schemas of both sites together, then plan again.",
        )
    return _Sequence(name, row[0], row[1], row[2], row[3])


async def _reached(conn: AsyncConnection, name: TableName, increment: int) -> int:
    """The last value given, or, before the first, the one before it."""
    statement = sql.SQL(_REACHED).format(sequence=ident(name))
    row = await (await conn.execute(statement, (increment,))).fetchone()
    assert row is not None
    return int(row[0])


def _literal(name: TableName) -> sql.Composable:
    """The sequence as a regclass argument: quoted as an identifier, then as text."""
    return sql.SQL("{}::pg_catalog.regclass").format(sql.Literal(ident(name).as_string(None)))
