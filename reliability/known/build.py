"""A `World` becomes a database: tables, rows, indexes, foreign keys, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import AsyncConnection, sql

from reliability.known.spec import Col, Made, World

_HELPERS = """
create schema gen;
create function gen.pick(n bigint, salt int, size bigint) returns bigint immutable parallel safe
    return 1 + (hashint8extended(n, salt) & 9223372036854775807) % size;
create function gen.big(n bigint, salt int) returns bigint immutable parallel safe
    -- Of sixteen numbers in a row one is missing, another one in each table.
    return case when salt < 0 then n
           else (n - 1) / 15 * 16 + (n - 1) % 15 + 1
                + ((n - 1) % 15 >= (hashint8extended((n - 1) / 15, salt) & 15))::int end;
create function gen.uuid(n bigint, salt int) returns uuid immutable parallel safe
    return md5(salt || ':' || n)::uuid;
create function gen.name(n bigint, salt int) returns text immutable parallel safe
    return '@' || left(md5(salt || ':' || n), 9) || ':example.org';
create function gen.token(n bigint, salt int) returns varchar(26) immutable parallel safe
    return left(md5(salt || '/' || n), 26)::varchar(26);
"""


async def build(conn: AsyncConnection[Any], world: World) -> None:
    """Create and fill every table of ``world`` in an empty database; foreign keys and indexes come after the rows."""
    await conn.execute(_HELPERS)
    for table in world.tables:
        for statement in _create(table):
            await conn.execute(statement)
    for table in world.tables:
        if table.rows:
            await conn.execute(_insert(table))
    for make in (_keys, _references):  # what is referred to has its key first
        for table in world.tables:
            for statement in make(table):
                await conn.execute(statement)
    await conn.execute("drop schema gen cascade")
    await conn.execute("analyze")


def _create(table: Made) -> Iterator[sql.Composed]:
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(sql.Identifier(c.name), _type(c), sql.SQL(" not null" if c.not_null else ""))
        for c in table.columns
    )
    tail: sql.Composable = sql.SQL("")
    if table.inherits:
        tail = sql.SQL(" inherits ({})").format(sql.Identifier(table.inherits))
    elif table.partitions:
        tail = sql.SQL(" partition by hash ({})").format(sql.Identifier(table.columns[0].name))
    yield sql.SQL("create table {} ({}){}").format(sql.Identifier(table.name), columns, tail)
    for number, leaf in enumerate(_leaves(table)):
        yield sql.SQL("create table {} partition of {} for values with (modulus {}, remainder {})").format(
            sql.Identifier(leaf), sql.Identifier(table.name), sql.Literal(table.partitions), sql.Literal(number)
        )


def _type(column: Col) -> sql.SQL:
    # A name of a type from this package's own patterns, as good as literal.
    return sql.SQL(_TYPES[column.type])


_TYPES = {
    t: t
    for t in (
        "bigint", "bigint[]", "int", "uuid", "uuid[]", "text", "text[]", "varchar(26)", "varchar(26)[]", "jsonb",
        "boolean", "timestamptz", "numeric(12,2)",
    )
}  # fmt: skip


def _leaves(table: Made) -> list[str]:
    return [f"{table.name}_p{number}" for number in range(table.partitions)]


def _insert(table: Made) -> sql.Composed:
    return sql.SQL("insert into {} ({}) select {} from generate_series(1::bigint, {}) as n").format(
        sql.Identifier(table.name),
        sql.SQL(", ").join(sql.Identifier(c.name) for c in table.columns),
        sql.SQL(", ").join(c.fill for c in table.columns),
        sql.Literal(table.rows),
    )


def _keys(table: Made) -> Iterator[sql.Composed]:
    name = sql.Identifier(table.name)
    if table.primary:
        yield sql.SQL("alter table {} add primary key ({})").format(name, _list(table.primary))
    for column in table.columns:
        if column.unique:
            yield sql.SQL("create unique index on {} ({})").format(name, sql.Identifier(column.name))
        elif column.index:
            yield sql.SQL("create index on {} ({})").format(name, _list((column.name, *column.also)))


def _references(table: Made) -> Iterator[sql.Composed]:
    for column in table.columns:
        if column.refers is None:
            continue
        to_table, to_columns = column.refers
        for place in _leaves(table) if table.leaf_references else [table.name]:
            yield sql.SQL("alter table {} add foreign key ({}) references {} ({}){}").format(
                sql.Identifier(place),
                _list((column.name, *column.also)),
                sql.Identifier(to_table),
                _list(to_columns),
                sql.SQL(" deferrable initially deferred" if column.deferred else ""),
            )


def _list(names: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
