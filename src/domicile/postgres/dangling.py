"""Rows that live at a site and name somebody else's row that has gone from there, though a foreign key forbids it: what
the stream removes asks no foreign key (docs/decisions/0019, 25)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Schema
from domicile.postgres.clearing import AND_FORGET, LOCK_TABLE, Clearing, RowKey, as_json
from domicile.postgres.party_nulls import parties

_NO_WAVE = 0  # rows of whoever lives here
# Judged of the few that name nothing, not of every row. A copy lives elsewhere, what is between two sites is its own
# mover's, and of a row below one that is not there nobody knows whose it is: a stream may have read it ahead.
_OF_WHO_LIVES_HERE = """
    exists (select from (select) as start {joins}) and not exists (
        select from (select) as start {joins} cross join lateral ({latest}) as latest
        where latest.mark in ('closing', 'fenced', 'departed', 'arriving'))"""
_FOUND = """
    select {key} from (
        select t.* from {table} as t where t.{column} is not null
            and not exists (select from {named} as p where p.{named_key} = t.{column}) offset 0) as t
    where {of_who_lives_here} limit {batch}"""
_LOCK = "select {key} from {table} as t join {listed} on {noted} for no key update of t skip locked"
_LISTED = """(
    select array(select pg_catalog.json_array_elements_text(one)) as row_key
    from pg_catalog.unnest({keys}::pg_catalog.json[]) as one) as n"""
# A statement of its own: it sees what was committed before the rows were locked.
_CLEAR = """
    with nulled as (
        update {table} as t set {column} = null from {listed}
        where {noted} and t.{column} is not null
            and not exists (select from {named} as p where p.{named_key} = t.{column}) and {of_who_lives_here}
        returning {key} as row_key)"""


def to_rows(data_map: DataMap, schema: Schema) -> list[Clearing]:
    """The references with the policy `null` that name somebody's rows. Pure."""
    named = (r for r in parties(data_map, schema) if r.to_table != data_map.subject.table and r.proves)
    return [Clearing(data_map, schema, reference, _NO_WAVE) for reference in named]


async def find(conn: AsyncConnection[Any], one: Clearing) -> list[RowKey]:
    """A batch of rows with such a reference. Reads a whole table, and holds nothing up."""
    statement = one.compose(_FOUND, of_who_lives_here=one.compose(_OF_WHO_LIVES_HERE))
    return [tuple(key) for (key,) in await (await conn.execute(statement)).fetchall()]


async def clear(conn: AsyncConnection[Any], one: Clearing, rows: Sequence[RowKey]) -> int:
    """Set the reference to null in those of these rows that nobody has locked, and for which it still holds; returns
    how many. In the caller's transaction, with the replica role. Raises LockNotAvailable when the table is locked."""
    await conn.execute(one.compose(LOCK_TABLE))  # whoever puts up a fence behind the question waits
    free = await (await conn.execute(one.compose(_LOCK, listed=_listed(one, rows)))).fetchall()
    listed, here = _listed(one, [key for (key,) in free]), one.compose(_OF_WHO_LIVES_HERE)
    row = await (await conn.execute(one.compose(_CLEAR + AND_FORGET, listed=listed, of_who_lives_here=here))).fetchone()
    return int(row[0]) if row else 0


def _listed(one: Clearing, rows: Iterable[Sequence[str]]) -> sql.Composed:
    return one.compose(_LISTED, keys=as_json(rows))
