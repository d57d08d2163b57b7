"""A destination with a wave in it, and changes made by hand: what the filter would hand to the apply."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection, sql
from tests.verify.kit import data_map

from domicile.model.datamap import DataMap
from domicile.model.plan import Format, TablePlan
from domicile.model.site import MoveId
from domicile.postgres import site_schema
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.stream.apply import Apply
from domicile.stream.change import Change, Field, Key, Op, Transaction
from domicile.stream.layout import Layout, StreamTable, build_layout, read_identities
from domicile.stream.params import field as as_field

MOVE, GENERATION, WAVE = MoveId("m1"), 7, 3
OTHER_WAVE = 4
MEMBERS, STRANGERS = range(1, 6), range(101, 106)
UNSENT = None

SHOP = """
create type mood as enum ('calm', 'wild');
create domain mark as text check (value <> 'bad');
create table users (id bigint primary key, email text unique);
create table orders (id bigint primary key, user_id bigint not null references users on delete cascade,
                     no text unique, note text);
create index on orders (user_id);
create table item (order_id bigint references orders on delete cascade, line int, what text,
                   primary key (order_id, line));
"""
OWNED = {
    "public.orders": "user_id -> public.users(id)",
    "public.item": "order_id -> public.orders(id)",
}
Values = Mapping[str, str | None]
"""Column -> SQL expression; None: not sent."""


@dataclass
class Destination:
    """``conn`` is somebody else's session in the same database, with ordinary rights and triggers."""

    conninfo: str
    conn: AsyncConnection[Any]
    data_map: DataMap
    layout: Layout
    position: int = 1 << 32
    xid: int = 1000
    known: dict[str, StreamTable] = field(default_factory=dict)

    def apply(self) -> AbstractAsyncContextManager[Apply]:
        """A new session of the apply."""
        return Apply.open(self.conninfo, self.layout, self.data_map, MOVE, GENERATION, WAVE)

    async def carry_out(self, *changes: Change) -> Apply:
        """One transaction by an apply of its own; returns that, closed."""
        async with self.apply() as apply:
            await apply.finish([self.transaction(*changes)])
            return apply

    def transaction(self, *changes: Change, last: bool = True) -> Transaction:
        """The next transaction of the origin."""
        self.position += 0x100
        self.xid += 1
        return Transaction(self.xid, self.position, 0, list(changes), last=last)

    def parts(self, *parts: Sequence[Change]) -> list[Transaction]:
        """One transaction in parts."""
        whole = self.transaction()
        return [
            Transaction(whole.xid, whole.position, 0, list(changes), last=n == len(parts))
            for n, changes in enumerate(parts, 1)
        ]

    async def insert(self, table: str, **values: str | None) -> Change:
        """The change that an INSERT makes."""
        row = await self.fields(table, values)
        return Change(self.table(table).no, Op.INSERT, self._key(table, row), row)

    async def update(self, table: str, old: Values | None = None, **values: str | None) -> Change:
        """The change that an UPDATE makes: the row afterwards; ``old``: key columns before, where they changed."""
        row = await self.fields(table, values)
        key = self._key(table, row)
        before = None if old is None else self._key(table, await self.fields(table, {**values, **old}))
        return Change(self.table(table).no, Op.UPDATE, key, row, before)

    async def delete(self, table: str, **key: str | None) -> Change:
        """The change that a DELETE makes."""
        found = self.table(table)
        row = await self.fields(table, {**dict.fromkeys(found.columns), **key})
        return Change(found.no, Op.DELETE, self._key(table, row))

    async def fields(self, table: str, values: Values) -> tuple[Field | None, ...]:
        """The row as the stream would send it; columns that are not named are null."""
        found = self.table(table)
        unknown = set(values) - set(found.columns)
        assert not unknown, unknown
        cast = [
            sql.SQL("({})::{}").format(sql.SQL(values.get(name, "null") or "null"), sql.SQL(type_name))
            for name, type_name in zip(found.columns, found.type_names, strict=True)
        ]
        cursor = self.conn.cursor(binary=self.layout.binary)
        await cursor.execute(sql.SQL("select {}").format(sql.SQL(", ").join(cast)))
        assert cursor.pgresult is not None
        got = [as_field(cursor.pgresult.get_value(0, at)) for at in range(len(cast))]
        return tuple(UNSENT if values.get(n, "null") is None else f for n, f in zip(found.columns, got, strict=True))

    def table(self, name: str) -> StreamTable:
        """By its bare name."""
        return next(t for t in self.layout.tables if t.name.name == name)

    async def rows(self, query: str) -> list[Any]:
        """What the database has."""
        return await (await self.conn.execute(query.encode())).fetchall()

    async def stored_position(self) -> int | None:
        """The wave's position as a number."""
        ((at,),) = await self.rows(f"select position - '0/0' from domicile.wave where id = {WAVE}")
        return None if at is None else int(at)

    def _key(self, table: str, row: Sequence[Field | None]) -> Key:
        parts = [row[at] for at in self.table(table).key_at]
        return b"".join(p for p in parts if p is not None)


@asynccontextmanager
async def destination(
    conninfo: str,
    schema: str = SHOP,
    owned: Mapping[str, str] = OWNED,
    *,
    binary: bool = True,
    subject: str = "public.users",
) -> AsyncIterator[Destination]:
    """A database with the schema, the wave of `MEMBERS`, and a wave of `STRANGERS` that is none of ours."""
    async with await connect(conninfo, settings=SESSION) as conn:
        await conn.execute(b"set search_path = public")
        await conn.execute(schema.encode())
        await site_schema.install(conn, "bigint")
        await conn.execute(
            "insert into domicile.move values (%s, 'shop', 'there', 'target', 'here', %s)", (MOVE, GENERATION)
        )
        for wave, members in ((WAVE, MEMBERS), (OTHER_WAVE, STRANGERS)):
            await conn.execute(
                "insert into domicile.wave (id, move_id, no, mark, home, epoch) overriding system value"
                " values (%s, %s, %s, 'open', 'here', 1)",
                (wave, MOVE, wave),
            )
            await conn.execute(
                "insert into domicile.member select %s, n, s from unnest(%s::bigint[]) with ordinality u (s, n)",
                (wave, list(members)),
            )
        mapped = data_map(subject, owned)
        found = await read_schema(conn)
        plans = [
            TablePlan(
                name,
                tuple(c.name for c in found.tables[name].stored_columns),
                0,
                0,
                Format.BINARY if binary else Format.TEXT,
            )
            for name in mapped.in_scope()
        ]
        layout = build_layout(mapped, plans, found, await read_identities(conn, mapped.in_scope()))
        await conn.execute(b"set search_path = ''")
        yield Destination(conninfo, conn, mapped, layout)


async def seed(shop: Destination) -> None:
    """Orders 10 (with two lines) and 20 of user 1; order 900 of a stranger."""
    await shop.conn.execute(
        b"""insert into public.users values (1, 'a'), (2, 'b'), (101, 'z');
            insert into public.orders values (10, 1, 'A', 'long'), (20, 1, 'B', 'long'), (900, 101, 'Z', 'theirs');
            insert into public.item values (10, 1, 'pen'), (10, 2, 'ink'), (20, 1, 'cup'), (900, 1, 'theirs')"""
    )


async def everything(shop: Destination) -> list[object]:
    """All rows, and the position."""
    tables = ("users", "orders", "item")
    return [await shop.rows(f"select * from public.{t} order by 1, 2") for t in tables] + [await shop.stored_position()]
