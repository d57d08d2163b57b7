"""The bytes of a row as the plan counts them, beside those that COPY BINARY sends."""

from __future__ import annotations

from tests.conftest import create_database, drop_database

from domicile.model.schema import TableName
from domicile.planner.weigh import row_width
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster

SCHEMA = """
create domain public.scan as bytea;
create table public.t (
    id bigint primary key, data bytea, picture public.scan, note text, code char(8), name varchar(20), none bytea);
insert into public.t values (1, decode(repeat('00ff', 3000), 'hex'), '\\x0102', 'gr\u00fcn', 'a', 'b', null);
"""
HEADER_AND_TRAILER = 11 + 4 + 4 + 2
TABLE = TableName("public", "t")


async def test_bytes_and_texts_are_as_long_as_they_are(pg18: EmbeddedCluster) -> None:
    """A bytea as text is twice as long, and above 512 MB none: the plan ended in an internal error."""
    name = await create_database(pg18, "weigh")
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        await conn.execute(SCHEMA)
        width = row_width((await read_schema(conn)).tables[TABLE].stored_columns)
        assert "::text" not in width.as_string(None)
        row = await (await conn.execute("select " + width.as_string(None) + " from public.t as t")).fetchone()
        async with conn.cursor().copy("copy public.t to stdout (format binary)") as copy:
            sent = sum([len(part) async for part in copy])
    await drop_database(pg18, name)
    assert row == (sent - HEADER_AND_TRAILER,)


async def test_other_types_are_as_long_as_their_texts(pg18: EmbeddedCluster) -> None:
    name = await create_database(pg18, "weigh")
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        await conn.execute("create schema own; create domain own.bytea as int[]")
        await conn.execute("create table public.t (data jsonb, numbers own.bytea)")
        width = row_width((await read_schema(conn)).tables[TABLE].stored_columns)
    await drop_database(pg18, name)
    assert width.as_string(None).count("::text") == 2
