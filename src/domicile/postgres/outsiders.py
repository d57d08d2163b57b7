"""Every row that a database holds now, as bytes, by table: who else has a value?"""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import AsyncConnection, sql

from domicile.model.schema import TableName

OVERLAP = 64  # bytes kept from one piece to the next, for what lies across
PIECE = 1 << 20

_TABLES = """
select n.nspname, c.relname, rn.nspname, r.relname
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_class as r on r.oid = coalesce(pg_catalog.pg_partition_root(c.oid), c.oid)
join pg_catalog.pg_namespace as rn on rn.oid = r.relnamespace
where c.relkind in ('r', 'm') and c.relpersistence <> 't' and n.nspname !~ '^(pg_|information_schema$|domicile$)'
and pg_catalog.has_table_privilege(c.oid, 'select') order by n.nspname, c.relname"""


async def rows(conn: AsyncConnection) -> AsyncIterator[tuple[TableName, bytes]]:
    """The rows of all tables and materialized views that the role may read, in COPY's binary form, where texts stand as
    they are; pieces overlap. Compressed and toasted values come in plain. A partition goes by its table's name."""
    for schema, name, *root in await (await conn.execute(_TABLES)).fetchall():
        table, held = TableName(*root), bytearray()
        async with conn.cursor() as cursor:
            query = sql.SQL("copy (select * from only {}) to stdout (format binary)").format(
                sql.Identifier(schema, name)
            )
            async with cursor.copy(query) as copy:
                async for block in copy:
                    held += block
                    if len(held) >= PIECE:
                        yield table, bytes(held)
                        del held[:-OVERLAP]
        yield table, bytes(held)
