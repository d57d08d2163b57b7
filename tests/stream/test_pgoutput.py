"""Every message that pgoutput sends, read from a real slot, in binary and in text form."""

from __future__ import annotations

from collections.abc import AsyncIterator
import struct
from typing import Any

from psycopg import AsyncConnection
import pytest

from domicile.postgres.connect import SESSION, connect
from domicile.stream import pgoutput
from domicile.stream.change import NULL
from domicile.stream.pgoutput import Relation, RelationColumn

DDL = """
create type public.mood as enum ('glad');
create table public."Tä ble" (id int primary key, "naïve col" text, gone int, feeling public.mood, big text);
alter table public."Tä ble" drop column gone;
alter table public."Tä ble" alter big set storage external;
create publication domicile_test for table public."Tä ble";
"""


@pytest.fixture
async def conn(any_database: str) -> AsyncIterator[AsyncConnection[Any]]:
    connection = await connect(any_database, settings=SESSION)
    await connection.execute(DDL.encode())
    await connection.execute("select pg_create_logical_replication_slot('t_' || current_database(), 'pgoutput')")
    yield connection
    await connection.close()


async def read(conn: AsyncConnection[Any], *, binary: bool) -> list[bytes]:
    statement = """
        select data from pg_logical_slot_get_binary_changes('t_' || current_database(), null, null, 'proto_version',
            '1', 'publication_names', 'domicile_test', 'messages', 'true', 'binary', %s)"""
    cursor = await conn.execute(statement, (str(binary).lower(),), binary=True)
    return [row[0] for row in await cursor.fetchall()]


def only(payloads: list[bytes], tag: int) -> list[bytes]:
    return [p for p in payloads if p[0] == tag]


@pytest.mark.parametrize("binary", [True, False])
async def test_rows(conn: AsyncConnection[Any], binary: bool) -> None:
    await conn.execute(
        """insert into public."Tä ble" values (1, null, 'glad', repeat('x', 5000)), (-2, '', null, 'ü')"""
    )
    await conn.execute("""update public."Tä ble" set feeling = null where id = 1""")
    await conn.execute("""update public."Tä ble" set id = 3 where id = -2""")
    await conn.execute("""delete from public."Tä ble" where id = 3""")
    payloads = await read(conn, binary=binary)

    def number(value: int) -> bytes:
        return struct.pack("!ii", 4, value) if binary else struct.pack("!i", len(str(value))) + str(value).encode()

    first, second = only(payloads, pgoutput.INSERT)
    big = struct.pack("!i", 5000) + b"x" * 5000
    assert pgoutput.fields(first, pgoutput.FIRST_COLUMN) == ([number(1), NULL, b"\0\0\0\4glad", big], len(first))
    assert pgoutput.fields(second, pgoutput.FIRST_COLUMN)[0] == [number(-2), b"\0\0\0\0", NULL, b"\0\0\0\2\xc3\xbc"]
    assert pgoutput.behind(first, pgoutput.FIRST_COLUMN) == len(first)

    unchanged, rekeyed = only(payloads, pgoutput.UPDATE)
    assert unchanged[5] == pgoutput.NEW
    assert pgoutput.fields(unchanged, pgoutput.FIRST_COLUMN)[0] == [number(1), NULL, NULL, None]
    assert rekeyed[5] == pgoutput.OLD_KEY
    old, at = pgoutput.fields(rekeyed, pgoutput.FIRST_COLUMN)
    assert old == [number(-2), NULL, NULL, NULL]
    assert at == pgoutput.behind(rekeyed, pgoutput.FIRST_COLUMN)
    assert rekeyed[at] == pgoutput.NEW
    assert pgoutput.fields(rekeyed, at + 3)[0][0] == number(3)

    [gone] = only(payloads, pgoutput.DELETE)
    assert gone[5] == pgoutput.OLD_KEY
    assert pgoutput.fields(gone, pgoutput.FIRST_COLUMN)[0] == [number(3), NULL, NULL, NULL]


async def test_transactions(conn: AsyncConnection[Any]) -> None:
    """Times, xids and positions are those that the server itself tells; a subtransaction has the top one's xid."""
    async with conn.transaction():
        [(xid, before)] = await (
            await conn.execute("select pg_current_xact_id()::text::bigint, pg_current_wal_insert_lsn() - '0/0'")
        ).fetchall()
        async with conn.transaction():
            await conn.execute("""insert into public."Tä ble" values (1)""")
    [(after, clock)] = await (
        await conn.execute(
            "select pg_current_wal_insert_lsn() - '0/0', extract(epoch from now() - '2000-01-01 00:00:00+00') * 1000000"
        )
    ).fetchall()
    payloads = await read(conn, binary=True)
    [begin], [commit] = only(payloads, pgoutput.BEGIN), only(payloads, pgoutput.COMMIT)
    commit_record, committed_at, short = pgoutput.begin(begin)
    end = pgoutput.commit(commit)
    assert short == xid % (1 << 32)
    assert before < commit_record < end <= after
    assert 0 <= clock - committed_at < 60_000_000
    assert payloads.index(begin) < payloads.index(commit)


async def test_what_a_table_looks_like(conn: AsyncConnection[Any]) -> None:
    await conn.execute("""insert into public."Tä ble" values (1)""")
    [payload] = only(await read(conn, binary=True), pgoutput.RELATION)
    [(oid, mood)] = await (
        await conn.execute("""select 'public."Tä ble"'::regclass::oid::bigint, 'public.mood'::regtype::oid::bigint""")
    ).fetchall()
    assert pgoutput.relation(payload) == Relation(
        oid,
        "public",
        "Tä ble",
        "d",
        (
            RelationColumn("id", 23, True, -1),
            RelationColumn("naïve col", 25, False, -1),
            RelationColumn("feeling", mood, False, -1),
            RelationColumn("big", 25, False, -1),
        ),
    )


async def test_truncate(conn: AsyncConnection[Any]) -> None:
    await conn.execute("""truncate public."Tä ble" restart identity""")
    payloads = await read(conn, binary=True)
    [truncate], [relation] = only(payloads, pgoutput.TRUNCATE), only(payloads, pgoutput.RELATION)
    assert pgoutput.truncated(truncate) == (pgoutput.relation(relation).oid,)


async def test_logical_messages(conn: AsyncConnection[Any]) -> None:
    await conn.execute("select pg_logical_emit_message(false, 'other', ''::text)")
    await conn.execute("select pg_logical_emit_message(true, 'domicile', '\\x00ff'::bytea)")
    first, second = (pgoutput.message(p) for p in only(await read(conn, binary=True), pgoutput.MESSAGE))
    assert (first.transactional, first.prefix, first.content) == (False, "other", b"")
    assert (second.transactional, second.prefix, second.content) == (True, "domicile", b"\x00\xff")
    assert first.position < second.position
