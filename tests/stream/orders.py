"""A database with orders to be streamed, and what is left of a stream."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from domicile.model.schema import TableName

MOVE = "store-EU-2026.11"
ORDERS, ITEMS = TableName("public", "orders"), TableName("public", 'Odd "item" %s')
SCHEMA = """
create table orders (id bigint primary key, user_id bigint, note text);
create table "Odd ""item"" %s" (id bigint primary key, order_id bigint);
create table outside (id bigint primary key);
create table log (id bigint)"""


Conn = AsyncConnection[Any]


async def rows(conn: Conn, query: str, *parameters: object) -> list[Any]:
    return await (await conn.execute(query.encode(), parameters or None)).fetchall()


async def left_behind(conn: Conn) -> list[Any]:
    """Slots of this database and publications."""
    return await rows(
        conn,
        "select slot_name from pg_replication_slots where database = current_database()"
        " union all select pubname from pg_publication",
    )
