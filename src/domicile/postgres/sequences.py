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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, errors, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Schema, TableName
from domicile.postgres.failures import SAFE, told
from domicile.postgres.ownership import ident
from domicile.postgres.pipelined import pipelined
from domicile.postgres.unique_keys import trusted

HEADROOM_VALUES = 100_000  # beyond the source's highest id: what it may give out until the next wave
AHEAD_VALUES_MAX = 10**11  # nobody meets an id that is farther ahead: at 1,000 values a second in three years
WALK_VALUES_MAX = 200_000  # nextval calls, about 0.1 s
WALKS_MAX = 10
LOCK_TIMEOUT_MS = 100  # so long at most does anybody's nextval wait for us
LOCK_TRIES_MAX = 40
LOCK_PAUSE_S = 0.1

_INTEGERS = ("int2", "int4", "int8", "numeric")
# The position read, or before the first value the one before it.
_LOOK = """
    select s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
        case when q.is_called then q.last_value else q.last_value - s.seqincrement end,
        pg_catalog.format_type(s.seqtypid, null)
    from pg_catalog.pg_sequence as s cross join {sequence} as q
    where s.seqrelid = {name}"""
_EXTREME = "select pg_catalog.{extreme}({column})::numeric::bigint from {table} where {column} {within} {horizon}"
_WALK = "select pg_catalog.count(pg_catalog.nextval({sequence})) from pg_catalog.generate_series(1, {steps})"
# The type is set to what it is: the statement is there for its lock. What follows it reads under that lock, the
# increment too, which somebody may just have changed.
_LOCK = "set local lock_timeout = {timeout}; alter sequence {sequence} as {type}"
_SET = """
    select pg_catalog.setval({name}, reached + pg_catalog.ceil(({goal} - reached)::numeric / step)::bigint * step)
    from (select s.seqincrement as step,
            case when q.is_called then q.last_value else q.last_value - s.seqincrement end as reached
        from pg_catalog.pg_sequence as s cross join {sequence} as q where s.seqrelid = {name}) as now
    where step * ({goal} - reached)::numeric > 0"""


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
    reached: int  # the last value given, or, before the first, the one before it
    type_name: str

    @property
    def upward(self) -> bool:
        return self.increment > 0

    @property
    def limit(self) -> int:
        return self.highest if self.upward else self.lowest

    @property
    def horizon(self) -> int:
        """What it will not come beyond."""
        ahead = self.reached + AHEAD_VALUES_MAX * self.increment
        return min(ahead, self.limit) if self.upward else max(ahead, self.limit)

    def furthest(self, values: Sequence[int]) -> int | None:
        """The one that comes last."""
        return (max if self.upward else min)(values, default=None)

    def goal(self, used: int, headroom: int) -> int:
        """``headroom`` values beyond; a small type must not be used up by it: at most a tenth of what is left."""
        left = abs(self.limit - used) // 10 // abs(self.increment)
        return used + min(headroom, left) * self.increment

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
    names = sorted(feeds)
    sequences = await _look(target, "target", names)
    used = await _used(source, source_schema, {sequences[name]: feeds[name] for name in names})
    goals = {name: sequences[name].goal(value, headroom) for name in names if (value := used[name]) is not None}
    after = await _go(target, sequences, goals)
    return tuple(
        Advanced(
            name,
            tuple(f"{table}.{column}" for table, column in feeds[name]),
            sequences[name].reached,
            after[name].reached,
            sequences[name].cache,
        )
        for name in names
    )


async def _used(
    source: AsyncConnection, schema: Schema, feeds: Mapping[_Sequence, Sequence[tuple[TableName, str]]]
) -> dict[TableName, int | None]:
    """The source's furthest id in each sequence's direction, up to its horizon; None where there is none.

    A column that is no number (``'INV-' || nextval(...)``) is judged by the source's own sequence.
    """
    asked: list[tuple[TableName, _Sequence, sql.Composed]] = []
    values: dict[TableName, list[int]] = {sequence.name: [] for sequence in feeds}
    theirs: dict[TableName, list[_Sequence]] = {}
    for sequence, columns in feeds.items():
        for table, column in columns:
            at_source = schema.tables[table].column(column)
            if at_source.base_type in _INTEGERS:
                asked.append((table, sequence, _extreme(sequence, table, column)))
            elif at_source.default_sequence is not None:
                theirs.setdefault(at_source.default_sequence, []).append(sequence)
    found = await pipelined(source, "source", [(f"ids of {table}", statement) for table, _, statement in asked])
    for (_, sequence, _), rows in zip(asked, found, strict=True):
        if rows[0][0] is not None:
            values[sequence.name].append(int(rows[0][0]))
    for name, own in (await _look(source, "source", sorted(theirs))).items():
        for sequence in theirs[name]:
            if not sequence.beyond(own.reached, sequence.horizon):
                values[sequence.name].append(own.reached)
    return {sequence.name: sequence.furthest(values[sequence.name]) for sequence in feeds}


def _extreme(sequence: _Sequence, table: TableName, column: str) -> sql.Composed:
    return sql.SQL(_EXTREME).format(
        extreme=sql.SQL("max" if sequence.upward else "min"),
        column=sql.Identifier(column),
        table=ident(table),
        within=sql.SQL("<=" if sequence.upward else ">="),
        horizon=sql.Literal(sequence.horizon),
    )


async def _go(
    target: AsyncConnection, sequences: Mapping[TableName, _Sequence], goals: Mapping[TableName, int]
) -> dict[TableName, _Sequence]:
    """Forward, each to its goal; what they are then."""
    now = dict(sequences)
    for _ in range(WALKS_MAX):
        behind = [name for name, goal in goals.items() if now[name].beyond(goal, now[name].reached)]
        if not behind:
            break
        walks = []
        for name in behind:
            steps = -(-abs(goals[name] - now[name].reached) // abs(now[name].increment))
            if steps > WALK_VALUES_MAX:
                with told("target", f"sequence {name}"):
                    await _leap(target, now[name], goals[name])
            else:
                walk = sql.SQL(_WALK).format(sequence=_literal(name), steps=sql.Literal(steps))
                walks.append((f"sequence {name}", walk))
        await pipelined(target, "target", walks)
        now |= await _look(target, "target", behind)
    return now


async def _leap(target: AsyncConnection, sequence: _Sequence, goal: int) -> None:
    """One setval, computed and done while nobody else can draw a value."""
    values = {
        "name": _literal(sequence.name),
        "sequence": ident(sequence.name),
        "type": trusted(sequence.type_name),
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


async def _look(conn: AsyncConnection, side: str, names: Sequence[TableName]) -> dict[TableName, _Sequence]:
    """What the sequences are now."""
    asked = [(f"sequence {name}", sql.SQL(_LOOK).format(sequence=ident(name), name=_literal(name))) for name in names]
    found = await pipelined(conn, side, asked)
    return {name: _Sequence(name, *rows[0]) for name, rows in zip(names, found, strict=True)}


def _literal(name: TableName) -> sql.Composable:
    """The sequence as a regclass argument: quoted as an identifier, then as text."""
    return sql.SQL("{}::pg_catalog.regclass").format(sql.Literal(ident(name).as_string(None)))
