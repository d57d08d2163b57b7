"""Measurements on live data, each bounded in rows and seconds; what cannot be measured in time counts as not
measured.

Only counts leave the server; the few values that `survey.checks` must judge are asked for in `survey.classify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.datamap import Direction, OwnerStep
from domicile.model.schema import Table
from domicile.postgres.ownership import column, ident

SECONDS_MAX = 10  # of one measurement
SAMPLE_ROWS_MAX = 50_000
HUB_OWNERS = 3  # two people may share a row: a thread, an order with its clerk
WHOLE_TABLE_ROWS_MAX = SAMPLE_ROWS_MAX  # above it, rows are taken from blocks spread over the table
FEW_ROWS = 1000  # so few are taken from twice the blocks: else there may be none
# Blocks to expect at least. The same each time, fewer can be none, for good: of tables of up to 1,642 blocks, with the
# seed below (reckoned with PostgreSQL's hash of block and seed).
BLOCKS_MIN = 5
BLOCK_BYTES = 8192

Path = tuple[OwnerStep, ...]

_NOT_MEASURED = (psycopg.OperationalError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)


@dataclass(frozen=True, slots=True)
class Owners:
    """How many rows of a table have no owner, one, or several; and the most that one row has."""

    none: int
    one: int
    several: int
    most: int


@dataclass(frozen=True, slots=True)
class Use:
    """Of ``rows`` of a table that others refer to, ``hub`` are used by `HUB_OWNERS` subjects or more, one by ``most``;
    ``mean`` is the mean number."""

    rows: int
    hub: int
    most: int
    mean: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of ``rows`` with an owner by both paths, ``differing`` have two different ones."""

    rows: int
    differing: int


@dataclass(frozen=True, slots=True)
class Measure:
    """Measures on one connection. Every method answers None when it took too long or may not be read.

    ``seconds`` bounds one measurement; ``whole`` reads all rows where a sample is the rule.
    """

    conn: AsyncConnection[Any]
    seconds: int = SECONDS_MAX
    whole: bool = False

    async def nulls(self, table: Table, columns: Sequence[str]) -> tuple[int, int] | None:
        """Rows with a null among the columns, and rows looked at."""
        is_null = sql.SQL(" or ").join(sql.SQL("{} is null").format(column("t", c)) for c in columns)
        row = await self.row(
            sql.SQL("select count(*) filter (where {}), count(*) from {} as t").format(is_null, self.rows(table))
        )
        return None if row is None else (row[0], row[1])

    async def agreement(self, table: Table, one: Path, other: Path, key: str) -> Agreement | None:
        """Whether two owner paths of a table lead to the same subject, row by row, on a sample."""
        row = await self.row(
            sql.SQL(
                "select count(*), count(*) filter (where o.one <> o.other) from"
                " (select {one} as one, {other} as other from {sample} as t) as o"
                " where o.one is not null and o.other is not null"
            ).format(
                one=owner_of("t", one, key, "a"),
                other=owner_of("t", other, key, "b"),
                sample=self.rows(table),
            )
        )
        return None if row is None else Agreement(row[0], row[1])

    async def owned(self, table: Table, path: Path, key: str) -> tuple[int, int] | None:
        """Rows of a sample that have an owner by the path, and rows looked at."""
        row = await self.row(
            sql.SQL("select count(*) filter (where {owner} is not null), count(*) from {sample} as t").format(
                owner=owner_of("t", path, key, "a"), sample=self.rows(table)
            )
        )
        return None if row is None else (row[0], row[1])

    async def owners(self, table: Table, steps: Sequence[tuple[OwnerStep, Path]], key: str) -> Owners | None:
        """Owners of each row of ``table`` by all of the ``<-`` steps together.

        Each step comes with the owner path of the table it leads to. Reads those tables whole: bounded by
        time.
        """
        columns = steps[0][0].columns
        sides = [
            sql.SQL("select {} , {} as owner from {} as f").format(
                sql.SQL(", ").join(
                    sql.SQL("{} as {}").format(column("f", theirs), sql.Identifier(ours))
                    for ours, theirs in zip(step.columns, step.to_columns, strict=True)
                ),
                owner_of("f", path, key, "a"),
                ident(step.to_table),
            )
            for step, path in steps
        ]
        on = sql.SQL(" and ").join(sql.SQL("{} = {}").format(column("o", c), column("p", c)) for c in columns)
        row = await self.row(
            sql.SQL(
                "select count(*) filter (where n.owners = 0), count(*) filter (where n.owners = 1),"
                " count(*) filter (where n.owners > 1), coalesce(max(n.owners), 0) from"
                " (select count(distinct o.owner) as owners from {table} as p left join ({sides}) as o on {on}"
                " group by {columns}) as n"
            ).format(
                table=ident(table.name),
                sides=sql.SQL(" union all ").join(sides),
                on=on,
                columns=sql.SQL(", ").join(column("p", c) for c in columns),
            )
        )
        return None if row is None else Owners(*row)

    async def use(self, table: Table, columns: Sequence[str], path: Path, key: str) -> Use | None:
        """By how many owners the rows are used that ``columns`` of a sample of ``table`` refer to.

        ``path`` says whose the referring rows are.
        """
        names = sql.SQL(", ").join(column("o", c) for c in columns)
        row = await self.row(
            sql.SQL(
                "select count(*), count(*) filter (where n.owners >= {several}), coalesce(max(n.owners), 0),"
                " coalesce(avg(n.owners), 0) from (select count(distinct o.owner) as owners from"
                " (select {columns}, {owner} as owner from {sample} as t) as o"
                " where o.owner is not null and not ({null}) group by {names}) as n"
            ).format(
                several=sql.Literal(HUB_OWNERS),
                columns=sql.SQL(", ").join(column("t", c) for c in columns),
                owner=owner_of("t", path, key, "a"),
                sample=self.rows(table),
                null=sql.SQL(" or ").join(sql.SQL("{} is null").format(column("o", c)) for c in columns),
                names=names,
            )
        )
        return None if row is None else Use(row[0], row[1], row[2], float(row[3]))

    async def distinct(self, table: Table, expression: sql.Composable) -> tuple[int, int, int] | None:
        """Rows of a sample (alias ``subject``), distinct values of the expression over them, and nulls."""
        row = await self.row(
            sql.SQL(
                "select count(*), count(distinct e.value), count(*) filter (where e.value is null)"
                " from (select {} as value from {} as subject) as e"
            ).format(expression, self.rows(table))
        )
        return None if row is None else (row[0], row[1], row[2])

    async def dangling(self, table: Table, step: OwnerStep) -> tuple[int, int] | None:
        """By a ``->`` step, rows with a null in its columns, and rows whose parent is not there. Reads all rows."""
        pairs = list(zip(step.columns, step.to_columns, strict=True))
        row = await self.row(
            sql.SQL(
                "select count(*) filter (where {null}), count(*) filter (where not ({null}) and not exists"
                " (select from {to} as p where {on})) from {table} as t"
            ).format(
                null=sql.SQL(" or ").join(sql.SQL("{} is null").format(column("t", c)) for c in step.columns),
                to=ident(step.to_table),
                on=sql.SQL(" and ").join(sql.SQL("{} = {}").format(column("p", p), column("t", t)) for t, p in pairs),
                table=ident(table.name),
            )
        )
        return None if row is None else (row[0], row[1])

    def rows(self, table: Table) -> sql.Composable:
        """The rows to look at, as a source without an alias: a sample, or all."""
        return ident(table.name) if self.whole else sample(table, [sql.SQL("*")], SAMPLE_ROWS_MAX)

    async def row(self, statement: sql.Composed) -> tuple[Any, ...] | None:
        """The one row of a statement, within the time of a measurement; None: too late, forbidden, or not to be
        computed of these values.

        Without parameters: a per cent sign in a table's name would be taken for one.
        """
        try:
            # In a pipeline: a site far away is asked thousands of times, and each round trip counts.
            async with self.conn.pipeline(), self.conn.transaction():
                await self.conn.execute(
                    "select pg_catalog.set_config('statement_timeout', %s, true)", (f"{self.seconds}s",)
                )
                row = await (await self.conn.execute(statement)).fetchone()
        except _NOT_MEASURED as error:
            # Cancelled at the limit, no right, rows hidden by row security, a foreign server that does not answer; a
            # document that is no text (\u0000), two collations, an operator outside the search path; a search in texts
            # of a collation that is not deterministic.
            said_by_server = error.sqlstate is not None or isinstance(error, psycopg.OperationalError)
            if self.conn.closed or not said_by_server:
                raise
            return None
        assert row is not None
        return tuple(row)


def sample(table: Table, columns: Sequence[sql.Composable], rows: int) -> sql.Composed:
    """A bounded part of a table, as a derived table: its first rows, or rows of blocks spread over a large
    one."""
    spread: sql.Composable = sql.SQL("")
    if table.rows_estimate > max(rows, WHOLE_TABLE_ROWS_MAX):
        # Of many rows no more than asked for: the limit would cut off the table's last blocks.
        share = min(100.0, (200.0 if rows <= FEW_ROWS else 100.0) * rows / table.rows_estimate)
        if table.bytes_heap:
            share = min(100.0, max(share, 100.0 * BLOCKS_MIN * BLOCK_BYTES / table.bytes_heap))
        # The same blocks each time: a second draft of the same rows must not differ. Not of a partitioned table: they
        # would be the same numbers in each leaf, and in small leaves none.
        again = sql.SQL("") if table.partitions else sql.SQL("repeatable (0)")
        spread = sql.SQL("tablesample system ({}) {}").format(sql.Literal(share), again)
    return sql.SQL("(select {} from {} {} limit {})").format(
        sql.SQL(", ").join(columns), ident(table.name), spread, sql.Literal(rows)
    )


def owner_of(alias: str, path: Path, key: str, prefix: str) -> sql.Composable:
    """The owner of row ``alias`` by ``path`` as a scalar expression; aliases ``prefix1``, ``prefix2``, ...
    are taken."""
    if not path:
        return column(alias, key)
    last = path[-1]
    by_key = last.direction is Direction.TO and last.to_columns == (key,)
    if by_key and len(path) == 1:
        return column(alias, last.columns[0])
    steps = path[:-1] if by_key else path
    tables: list[sql.Composable] = []
    at = alias
    where: sql.Composable = sql.SQL("")
    for position, step in enumerate(steps, start=1):
        following = f"{prefix}{position}"
        on = sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(column(following, theirs), column(at, ours))
            for ours, theirs in zip(step.columns, step.to_columns, strict=True)
        )
        source = sql.SQL("{} as {}").format(ident(step.to_table), sql.Identifier(following))
        if position == 1:
            where = on
            tables.append(source)
        else:
            tables.append(sql.SQL("join {} on {}").format(source, on))
        at = following
    found = column(at, last.columns[0]) if by_key else column(at, key)
    return sql.SQL("(select {} from {} where {} limit 1)").format(found, sql.SQL(" ").join(tables), where)
