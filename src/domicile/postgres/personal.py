"""The values of a wave's rows as they stand on disk, for a search: they stay in memory, and in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Column, Schema, TableName
from domicile.postgres.ownership import Fragment, column, ident, rows_of_wave

BATCH = 2_000
SHORT = 8  # bytes; shorter values are not asked for
_TEXTS = ("text", "varchar", "bpchar", "citext", "name", "json", "xml")

# A value that more rows have than those of all the waves that go is not theirs alone.
_VALUES = """
with mine as materialized (
    select x.v, pg_catalog.min(m.ordinal) as ordinal
    {rows} cross join lateral ({values}) as x (v)
    where m.wave = {wave} and pg_catalog.octet_length(x.v) >= {short} group by x.v),
going as (
    select x.v, pg_catalog.count(*) as rows {rows} cross join lateral ({values}) as x (v)
    where m.wave in ({waves}) and x.v in (select v from mine) group by x.v),
everybody as (
    select x.v, pg_catalog.count(*) as rows from {table} as t cross join lateral ({values}) as x (v)
    where x.v in (select v from mine) group by x.v)
select mine.v, mine.ordinal, everybody.rows > going.rows from mine join going using (v) join everybody using (v)"""


@dataclass(frozen=True, slots=True)
class Value:
    """``ordinal``: whose it is in the wave; ``shared``: rows of somebody who stays have it, too."""

    raw: bytes
    ordinal: int
    shared: bool


async def values(
    conn: AsyncConnection, data_map: DataMap, schema: Schema, wave_id: int, going: Collection[int]
) -> AsyncIterator[Value]:
    """Every different value of the wave's rows that can be known again on disk, column by column.

    Texts, strings inside jsonb, elements of arrays of text, bytea, uuid and bigint. Other types have few values, or
    none that would be anybody's. ``going``: the waves that are to be purged, this one among them. Inside a transaction
    of its own; reads each table thrice for each such column.
    """
    async with conn.transaction():
        for table in data_map.in_scope():
            for col in schema.tables[table].columns:
                if statement := _statement(data_map, table, col, wave_id, going):
                    async for value in _read(conn, statement, backwards=col.base_type == "int8"):
                        yield value


async def _read(conn: AsyncConnection, statement: sql.Composed, *, backwards: bool) -> AsyncIterator[Value]:
    """``backwards``: an integer, which travels with its highest byte first and is kept with its lowest."""
    async with conn.cursor(name="values", binary=True) as cursor:
        await cursor.execute(statement)
        while rows := await cursor.fetchmany(BATCH):
            for raw, ordinal, shared in rows:
                yield Value(bytes(raw)[:: -1 if backwards else 1], ordinal, shared)


def _statement(
    data_map: DataMap, table: TableName, col: Column, wave_id: int, going: Collection[int]
) -> sql.Composed | None:
    found = _as_bytes(col)
    if found is None:
        return None
    return sql.SQL(_VALUES).format(
        rows=rows_of_wave(data_map, table),
        values=found,
        wave=wave_id,
        waves=sql.SQL(", ").join(map(sql.Literal, going)),
        short=SHORT,
        table=ident(table),
    )


def _as_bytes(col: Column) -> Fragment | None:
    """A query for the bytes of one row's value, or None for a type that is not searched for."""
    it = column("t", col.name)
    text = "select pg_catalog.convert_to({}, pg_catalog.getdatabaseencoding())"
    if col.base_type == "jsonb":
        strings = sql.SQL("s.v #>> '{{}}'::text[]").format()
        paths = sql.SQL(" from pg_catalog.jsonb_path_query({}::jsonb, 'strict $.**') as s (v)").format(it)
        return sql.SQL(text).format(strings) + paths + sql.SQL(" where pg_catalog.jsonb_typeof(s.v) = 'string'")
    if col.element_type in _TEXTS:
        return sql.SQL(text).format(sql.SQL("s.v")) + sql.SQL(" from pg_catalog.unnest({}::text[]) as s (v)").format(it)
    if col.base_type in _TEXTS:
        return sql.SQL(text).format(sql.SQL("{}::text").format(it))
    if col.base_type == "bytea":
        return sql.SQL("select {}::bytea").format(it)
    if col.base_type == "uuid":
        return sql.SQL("select pg_catalog.uuid_send({}::uuid)").format(it)
    if col.base_type == "int8":
        return sql.SQL("select pg_catalog.int8send({}::int8)").format(it)
    return None
