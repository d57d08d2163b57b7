"""Deferrable unique and exclusion constraints, which the replica role does not enforce.

PostgreSQL checks them by an internal trigger, and under ``session_replication_role = replica`` that trigger does not
fire: two equal keys would stay (reproduced in tests/copy). So they are proven by a query after the copy. A writer that
has not committed then is caught by its own check, which sees the rows that were copied.
"""

from __future__ import annotations

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Schema, Table
from domicile.postgres.collisions import EXAMPLES_MAX, Collision
from domicile.postgres.failures import told
from domicile.postgres.ownership import Fragment, rows_of_wave
from domicile.postgres.unique_keys import Key, expression, listed, primary_key_text, read_keys

# A row is not its own double: it is named by its relation and its place there. The innermost relation goes by the
# table's own name, so that the key's expressions find their columns.
_SIDE = """
    select {keys}, domicile_place, {example} as example
    from (select t.*, (t.tableoid, t.ctid)::text as domicile_place {rows}) as {alias} where {condition}"""
_DOUBLED = """
    with doubled as (
        select a.example from ({arrived}) as a
        where exists (select from ({held}) as h where {meets} and a.domicile_place <> h.domicile_place))
    select (select count(*) from doubled), array(select to_jsonb(example) from doubled limit {limit})"""


async def broken(
    target: AsyncConnection, data_map: DataMap, target_schema: Schema, wave_id: int
) -> tuple[Collision, ...]:
    """Rows of the wave at the target that share a deferrable key with another row. Reads only."""
    tables = [target_schema.tables[name] for name in data_map.in_scope()]
    keys = await read_keys(target, tables, private=False)
    found = [
        await _doubled(target, data_map, table, key, wave_id)
        for table in tables
        for key in keys[table.name]
        if not key.immediate
    ]
    return tuple(c for c in found if c is not None)


async def _doubled(
    target: AsyncConnection, data_map: DataMap, table: Table, key: Key, wave_id: int
) -> Collision | None:
    of_wave = sql.SQL("{} where m.wave = {}").format(rows_of_wave(data_map, table.name), sql.Literal(wave_id))
    query = sql.SQL(_DOUBLED).format(
        arrived=_side(table, key, of_wave),
        held=_side(table, key, sql.SQL("from {} as t").format(key.relation_sql)),
        meets=key.meets,
        limit=sql.Literal(EXAMPLES_MAX),
    )
    with told("target", f"deferrable keys of {table.name}"):
        row = await (await target.execute(query)).fetchone()
    assert row is not None
    if not row[0]:
        return None
    return Collision(table.name, key.name, int(row[0]), tuple(tuple(example) for example in row[1]))


def _side(table: Table, key: Key, rows: Fragment) -> sql.Composed:
    return sql.SQL(_SIDE).format(
        keys=listed(map(expression, key.expressions)),
        example=primary_key_text(table),
        rows=rows,
        alias=sql.Identifier(table.name.name),
        condition=key.condition,
    )
