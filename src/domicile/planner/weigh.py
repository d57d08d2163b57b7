"""How much moves: exact rows per table and per subject, bytes from a sample's average width. Reads at the
source, in the plan's snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap, Direction
from domicile.model.schema import Column, Schema, Table, TableName
from domicile.planner.waves import Weight
from domicile.postgres.ownership import column, ident, owner_joins

SAMPLE_ROWS = 1_000
SAMPLE_SUBJECTS = 250
SUBJECTS_PER_FETCH = 10_000
COPY_FIELD_BYTES = 4  # COPY BINARY: a length before every value, a field count before every row
COPY_ROW_BYTES = 2
_FIXED_BYTES: Mapping[str, int] = {
    "bool": 1,
    "int2": 2,
    "int4": 4,
    "int8": 8,
    "float4": 4,
    "float8": 8,
    "date": 4,
    "timestamp": 8,
    "timestamptz": 8,
    "time": 8,
    "interval": 16,
    "uuid": 16,
    "money": 8,
}
# Whose own length is what COPY BINARY sends. As text a bytea is twice as long: above 512 MB that is no value at all.
_LENGTH_KNOWN = frozenset({"bytea", "text", "varchar", "bpchar"})
_OWN_LENGTH = "+ coalesce(octet_length({}), 0)"
_TEXT_LENGTH = "+ coalesce(octet_length({}::text), 0)"

WEIGHT_TABLE = "create temp table domicile_weight (table_no integer, ordinal integer, rows bigint)"
_WEIGH = """
    insert into pg_temp.domicile_weight (table_no, ordinal, rows)
    select {no}, c.ordinal, {count}
    from {table} as t {joins} join pg_temp.domicile_cohort as c on c.subject = {owner} group by c.ordinal"""
_WIDTH = """
    select avg(width)::float8 from (
        select {width} as width
        from {table} as t {joins} join pg_temp.domicile_cohort as c on c.subject = {owner}
        where c.ordinal % {step} = 0 limit {limit}) as sample"""
_TOTALS = "select table_no, sum(rows)::bigint from pg_temp.domicile_weight group by table_no"
_PER_SUBJECT = """
    select sum(rows)::bigint, round(sum(rows * width))::bigint
    from pg_temp.domicile_weight
        join unnest(%s::float8[]) with ordinality as w (width, no) on no = table_no + 1
    group by ordinal order by ordinal"""


@dataclass(frozen=True, slots=True)
class TableWeight:
    """Rows of the cohort in one table, and the bytes of an average one as COPY BINARY sends it."""

    table: TableName
    rows: int
    row_bytes: float

    @property
    def bytes(self) -> int:
        return round(self.rows * self.row_bytes)


async def weigh(conn: AsyncConnection, data_map: DataMap, schema: Schema, subjects: int) -> tuple[TableWeight, ...]:
    """Fill the table of weights (made before by ``WEIGHT_TABLE``) from every in-scope table: one grouped
    query each.
    """
    tables = data_map.in_scope()
    for no, name in enumerate(tables):
        joins, owner = owner_joins(data_map, name)
        # A step against the arrow may meet a row several times for one subject; it travels once.
        single = all(step.direction is Direction.TO for step in data_map.path(name))
        count = sql.SQL("count(*)" if single else "count(distinct (t.tableoid, t.ctid))")
        statement = sql.SQL(_WEIGH).format(no=sql.Literal(no), count=count, table=ident(name), joins=joins, owner=owner)
        await conn.execute(statement)
    totals: dict[int, int] = dict(await (await conn.execute(_TOTALS)).fetchall())
    return tuple(
        [
            TableWeight(name, totals.get(no, 0), await _width(conn, data_map, schema.tables[name], subjects))
            for no, name in enumerate(tables)
        ]
    )


async def per_subject(conn: AsyncConnection, weights: Sequence[TableWeight]) -> AsyncIterator[Weight]:
    """Each subject's weight in key order; memory stays flat however many there are."""
    async with conn.cursor(name="domicile_weights") as cursor:
        cursor.itersize = SUBJECTS_PER_FETCH
        await cursor.execute(_PER_SUBJECT, ([w.row_bytes for w in weights],))
        async for rows, size in cursor:
            yield Weight(rows, size)


async def _width(conn: AsyncConnection, data_map: DataMap, table: Table, subjects: int) -> float:
    joins, owner = owner_joins(data_map, table.name)
    statement = sql.SQL(_WIDTH).format(
        width=row_width(table.stored_columns),
        table=ident(table.name),
        joins=joins,
        owner=owner,
        step=sql.Literal(max(1, subjects // SAMPLE_SUBJECTS)),
        limit=sql.Literal(SAMPLE_ROWS),
    )
    row = await (await conn.execute(statement)).fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0


def row_width(columns: Sequence[Column]) -> sql.Composed:
    """The bytes of a row of ``t`` as COPY BINARY sends it, as an expression; by their texts where a type has no length
    of its own."""
    fixed = COPY_ROW_BYTES + len(columns) * COPY_FIELD_BYTES
    fixed += sum(_FIXED_BYTES.get(c.base_type, 0) for c in columns)
    varying = [
        sql.SQL(_OWN_LENGTH if _has_length(c) else _TEXT_LENGTH).format(column("t", c.name))
        for c in columns
        if c.base_type not in _FIXED_BYTES
    ]
    return sql.SQL("{} {}").format(sql.Literal(fixed), sql.SQL(" ").join(varying))


def _has_length(c: Column) -> bool:
    return c.base_schema == "pg_catalog" and c.base_type in _LENGTH_KNOWN
