"""Every row that a database holds now, as bytes: who else has a value?"""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import AsyncConnection, sql

OVERLAP = 64  # bytes kept from one piece to the next, for what lies across
PIECE = 1 << 20

_TABLES = """
select n.nspname, c.relname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and c.relpersistence <> 't' and n.nspname !~ '^(pg_|information_schema$|domicile$)'
and pg_catalog.has_table_privilege(c.oid, 'select') order by 1, 2"""


async def rows(conn: AsyncConnection) -> AsyncIterator[bytes]:
    """The rows of all tables that the role may read, in COPY's binary form, where texts stand as they are; pieces
    overlap. Compressed and toasted values come in plain."""
    for schema, name in await (await conn.execute(_TABLES)).fetchall():
        held = bytearray()
        async with conn.cursor() as cursor:
            query = sql.SQL("copy (select * from only {}) to stdout (format binary)").format(
                sql.Identifier(schema, name)
            )
            async with cursor.copy(query) as copy:
                async for block in copy:
                    held += block
                    if len(held) >= PIECE:
                        yield bytes(held)
                        del held[:-OVERLAP]
        yield bytes(held)
