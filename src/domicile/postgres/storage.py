"""Where a table's rows are kept: its partitions and the files of each. The log tells neither of a partition that is put
in, taken out or dropped, nor of the TRUNCATE of one where changes are published as those of the whole table.

Two equal answers mean that between them rows came and went by way of the log only. A rewrite in place (VACUUM FULL,
CLUSTER) gives another answer, too, with the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from domicile.model.schema import TableName
from domicile.postgres.guard_sql import Connection

# Takes no lock. A partition that was taken out and put back has the same oid and file, but another row in pg_inherits,
# and so has everything below it.
_KEPT = """
with recursive tree (oid, root, hangs) as (
    select c.oid, c.oid, ''
    from unnest(%s::text[], %s::text[]) as wanted (schema, name)
    join pg_catalog.pg_namespace as n on n.nspname = wanted.schema
    join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = wanted.name
  union all
    select i.inhrelid, t.root, t.hangs || ' ' || i.xmin::text
    from tree as t
    join pg_catalog.pg_inherits as i on i.inhparent = t.oid and not i.inhdetachpending
    join pg_catalog.pg_class as c on c.oid = i.inhrelid and c.relispartition
)
select n.nspname, r.relname, t.oid::bigint, t.hangs, c.relfilenode::bigint
from tree as t
join pg_catalog.pg_class as c on c.oid = t.oid and c.relkind = 'r'
join pg_catalog.pg_class as r on r.oid = t.root
join pg_catalog.pg_namespace as n on n.oid = r.relnamespace"""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table without partitions, or one partition that holds rows: whose it is, how it hangs there, and its file."""

    table: TableName
    oid: int
    hangs: str
    file: int


async def leaves(conn: Connection, tables: Iterable[TableName]) -> frozenset[Leaf]:
    """Everything that holds rows of these tables now. One statement, cheap enough for the time under a wave's lock."""
    names = sorted(set(tables))
    cursor = await conn.execute(_KEPT, ([t.schema for t in names], [t.name for t in names]), prepare=True)
    return frozenset(
        Leaf(TableName(schema, name), oid, hangs, file) for schema, name, oid, hangs, file in await cursor.fetchall()
    )


def changed(was: frozenset[Leaf], now: frozenset[Leaf]) -> tuple[tuple[TableName, ...], bool]:
    """The tables of which something was replaced; and True when it was files alone, not partitions. Pure."""
    hung = [{(leaf.oid, leaf.hangs) for leaf in leaves} for leaves in (was, now)]
    return tuple(sorted({leaf.table for leaf in was ^ now})), hung[0] == hung[1]
