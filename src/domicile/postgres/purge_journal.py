"""The journal of rows removed at a site, in schema ``domicile`` of the dataset's database: written in the transaction
that removes them, so that what it says is what is gone, however often the work was cut."""

from __future__ import annotations

from psycopg import AsyncConnection

READ_AHEAD = -1  # as a chunk: what the stream had read ahead of itself

_ADD = """
    insert into domicile.purge_journal as j (wave, table_name, chunk, rows) values (%s, %s, %s, %s)
    on conflict (wave, table_name, chunk) do update set rows = j.rows + excluded.rows"""
_CHUNKS = "select distinct chunk from domicile.purge_journal where wave = %s"
_REMOVED = "select table_name, sum(rows)::bigint from domicile.purge_journal where wave = %s group by 1 order by 1"


async def add(conn: AsyncConnection, wave_id: int, table: str, chunk: int, rows: int) -> None:
    """So many rows more of the table are removed, in the caller's transaction."""
    await conn.execute(_ADD, (wave_id, table, chunk, rows))


async def chunks(conn: AsyncConnection, wave_id: int) -> set[int]:
    """The chunks that were removed."""
    return {number for (number,) in await (await conn.execute(_CHUNKS, (wave_id,))).fetchall()}


async def removed(conn: AsyncConnection, wave_id: int) -> list[tuple[str, int]]:
    """Rows removed by table, by every process that has worked on it."""
    return [(table, rows) for table, rows in await (await conn.execute(_REMOVED, (wave_id,))).fetchall()]
