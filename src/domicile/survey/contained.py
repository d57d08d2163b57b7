"""Whether the values of a column are another table's keys: a quick look first, then a sample with its odds.

Counts alone leave the server. Every count is bounded like those of `survey.measure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math

from psycopg import sql

from domicile.model.datamap import OwnerStep
from domicile.model.schema import Table, TableName
from domicile.postgres.ownership import column, ident
from domicile.survey.measure import SAMPLE_ROWS_MAX, Measure, sample

PROBE_ROWS = 60  # of the quick look
PROBE_PAIRS_MAX = 60  # of one statement: planning many costs more than asking twice
PROBE_SHARE = 0.5  # of numbers; texts and UUIDs are found nowhere by chance
PROBE_SHARE_TELLING = 0.05
SMALL_ROWS = 2000  # a table of so many is measured without a quick look
TOGETHER = 8  # pairs measured by one statement
ODDS_KEYS = 1000  # numbers tried for the odds of a chance hit


@dataclass(frozen=True, slots=True)
class Pair:
    """Columns of a table that may hold keys of another; several columns for a key of several."""

    columns: tuple[str, ...]
    to_table: TableName
    to_columns: tuple[str, ...]


def pair_of(step: OwnerStep) -> Pair:
    """The columns that an owner step compares."""
    return Pair(step.columns, step.to_table, step.to_columns)


@dataclass(frozen=True, slots=True)
class Contained:
    """Of ``distinct`` values sampled, ``found`` are keys of the other table; ``nulls`` of ``rows`` have none.

    ``dense``: the share of whole numbers between the smallest and the largest value that are keys there, or None where
    values are no numbers.
    """

    found: int
    distinct: int
    nulls: int = 0
    rows: int = 0
    dense: float | None = None

    @property
    def share(self) -> float:
        return self.found / self.distinct if self.distinct else 0.0

    @property
    def complete(self) -> bool:
        """Every value that was seen is found."""
        return 0 < self.distinct == self.found

    @property
    def chance_log10(self) -> float:
        """How likely as many values are found by chance, as a power of ten; 0: for certain, as far as known."""
        if self.dense is None or self.dense >= 1.0 or not self.found:
            return 0.0
        return self.found * math.log10(max(self.dense, 1e-6))


async def probe(measure: Measure, table: Table, pairs: Mapping[Pair, bool]) -> list[Pair]:
    """The pairs worth measuring, given with whether each is of numbers: of a few rows, enough of the values are found,
    or none was to be seen."""
    kept: list[Pair] = []
    asked = list(pairs)
    for first in range(0, len(asked), PROBE_PAIRS_MAX):
        some = asked[first : first + PROBE_PAIRS_MAX]
        names = list(dict.fromkeys(c for p in some for c in p.columns))
        counts: list[sql.Composable] = []
        for pair in some:
            counts += [
                sql.SQL("count({})").format(column("v", pair.columns[0])),
                sql.SQL("count(*) filter (where {})").format(_exists("v", pair)),
            ]
        row = await measure.row(
            sql.SQL("select {} from {} as v").format(
                sql.SQL(", ").join(counts), sample(table, [sql.Identifier(n) for n in names], PROBE_ROWS)
            )
        )
        for number, pair in enumerate(some):
            share = PROBE_SHARE if pairs[pair] else PROBE_SHARE_TELLING
            if row is None or row[2 * number + 1] >= share * row[2 * number]:
                kept.append(pair)
    return kept


async def contained(measure: Measure, table: Table, pair: Pair, *, numbers: bool = False) -> Contained | None:
    """Containment of the distinct values of a sample. ``numbers``: the column's values are whole numbers."""
    return (await contained_all(measure, table, {pair: numbers}))[pair]


async def contained_all(measure: Measure, table: Table, pairs: Mapping[Pair, bool]) -> dict[Pair, Contained | None]:
    """Containment of several pairs, with whether each is of numbers. A small table costs one statement."""
    found: dict[Pair, Contained | None] = {}
    at_once = TOGETHER if table.rows_estimate <= SMALL_ROWS else 1
    asked = list(pairs.items())
    for first in range(0, len(asked), at_once):
        some = asked[first : first + at_once]
        counts = [_counts(table, pair, numbers) for pair, numbers in some]
        row = await measure.row(sql.SQL("select {}").format(sql.SQL(", ").join(counts)))
        for number, (pair, _) in enumerate(some):
            found[pair] = None if row is None else Contained(*row[number])
    return found


def _counts(table: Table, pair: Pair, numbers: bool) -> sql.Composable:
    """What `Contained` holds, as one JSON array."""
    names = [sql.Identifier(c) for c in pair.columns]
    none = sql.SQL(" or ").join(sql.SQL("{} is null").format(column("s", c)) for c in pair.columns)
    return sql.SQL(
        "(with s as materialized {sample},"
        " v as materialized (select distinct {names} from s where not ({none}))"
        " select json_build_array((select count(*) from v where {found}), (select count(*) from v),"
        " (select count(*) from s where {none}), (select count(*) from s), {dense}))"
    ).format(
        sample=sample(table, names, SAMPLE_ROWS_MAX),
        names=sql.SQL(", ").join(names),
        none=none,
        found=_exists("v", pair),
        dense=_dense(pair) if numbers else sql.SQL("null"),
    )


def _exists(alias: str, pair: Pair) -> sql.Composable:
    on = sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(column("k", theirs), column(alias, ours))
        for ours, theirs in zip(pair.columns, pair.to_columns, strict=True)
    )
    return sql.SQL("exists (select from {} as k where {})").format(ident(pair.to_table), on)


def _dense(pair: Pair) -> sql.Composable:
    """The share of the numbers between the smallest and the largest value that are keys: numbers all over the range,
    the same at each call."""
    return sql.SQL(
        "(select (count(*) filter (where exists (select from {to} as k where k.{key} = n.no)) + 1)::float8"
        " / (count(*) + 1) from"
        # Numeric in between: the distance of two bigints may be larger than a bigint.
        " (select (r.low + (pg_catalog.hashint8(i::int8)::int8 & 2147483647) % (r.high - r.low + 1))::int8"
        " from (select min(v.{name})::numeric as low, max(v.{name})::numeric as high from v) as r,"
        " generate_series(1, {numbers}) as i where r.high > r.low) as n (no))"
    ).format(
        to=ident(pair.to_table),
        key=sql.Identifier(pair.to_columns[0]),
        name=sql.Identifier(pair.columns[0]),
        numbers=sql.Literal(ODDS_KEYS),
    )
