"""Rows that live at a site and name somebody else's row that has gone from there, though a foreign key forbids it: what
the stream removes asks no foreign key (docs/decisions/0019, 25)."""

from __future__ import annotations

import json
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Schema
from domicile.postgres.clearing import AND_FORGET, Clearing
from domicile.postgres.party_nulls import parties

# A copy lives elsewhere, and what is between two sites is its own mover's.
_FOUND = """
    select {key} from {table} as t
    where t.{column} is not null and not exists (select from {named} as p where p.{named_key} = t.{column})
        and not exists (
            select from (select) as start {joins} cross join lateral ({latest}) as latest
            where latest.mark in ('closing', 'fenced', 'departed', 'arriving'))
    limit {batch} for no key update of t skip locked"""
# A statement of its own: it sees what was committed before the row was locked.
_CLEAR = """
    with nulled as (
        update {table} as t set {column} = null from (
            select array(select pg_catalog.json_array_elements_text(one)) as row_key
            from pg_catalog.unnest({keys}::pg_catalog.json[]) as one) as n
        where {noted} and t.{column} is not null
            and not exists (select from {named} as p where p.{named_key} = t.{column})
        returning {key} as row_key)"""


def to_rows(data_map: DataMap, schema: Schema, wave_id: int = 0) -> list[Clearing]:
    """The references with the policy `null` that name somebody's rows. Pure."""
    named = (r for r in parties(data_map, schema) if r.to_table != data_map.subject.table)
    return [Clearing(data_map, schema, reference, wave_id) for reference in named]


async def clear(conn: AsyncConnection[Any], one: Clearing) -> int:
    """A batch of such references; returns how many were cleared, 0 behind the last. In the caller's transaction, with
    the replica role. Rows that somebody has locked are left out."""
    found = [key for (key,) in await (await conn.execute(one.compose(_FOUND))).fetchall()]
    if not found:
        return 0
    keys = sql.Literal([json.dumps(key, ensure_ascii=False) for key in found])
    row = await (await conn.execute(one.compose(_CLEAR + AND_FORGET, keys=keys))).fetchone()
    return int(row[0]) if row else 0
