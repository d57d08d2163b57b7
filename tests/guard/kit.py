"""A shop with one table of every kind that the guard must cover, a wave of five subjects, and writers to try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
import json
from typing import Any

import psycopg
from psycopg import AsyncConnection, IsolationLevel
import pytest

from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.postgres import guard, site_schema, wave_lock
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.postgres.wave_lock import WaveLock

MEMBERS = (1, 2, 3, 4, 5)
HERE, THERE = SiteName("beijing"), SiteName("singapore")
MARK = "select mark from domicile.wave"

SHOP = """
create table address (id bigint primary key, street text not null);
create table users (id bigint primary key, name text not null default 'x',
    address_id bigint references address on delete set null on update cascade);
create table orders (id bigint primary key, note text not null default '',
    user_id bigint references users on delete cascade on update cascade);
create table item (id bigint primary key, qty int not null default 1,
    order_id bigint references orders on delete cascade on update cascade);
create table event (user_id bigint not null, at date not null, what text) partition by range (at);
create table event_1 partition of event for values from ('2025-01-01') to ('2026-01-01');
create table event_2 (what text, at date not null, user_id bigint not null);  -- other column order
alter table event attach partition event_2 for values from ('2026-01-01') to ('2027-01-01');
create table "Wish ""List" ("user" integer, "order" int, note text, primary key ("user", "order"));
create table profile (id bigint primary key, doc jsonb not null,
    owner bigint generated always as ((doc ->> 'user')::bigint) stored);
create table outside (id bigint primary key);

insert into address select g, 'street' from generate_series(1, 20) g;
insert into users select g, 'name', g from generate_series(1, 20) g;
insert into orders select g * 10, '', g from generate_series(1, 20) g;
insert into item select g * 100, 1, g * 10 from generate_series(1, 20) g;
insert into event select g, date '2025-06-01', 'a' from generate_series(1, 20) g;
insert into event select g, date '2026-06-01', 'b' from generate_series(1, 20) g;
insert into "Wish ""List" select g, 1, 'w' from generate_series(1, 20) g;
insert into profile select g, jsonb_build_object('user', g) from generate_series(1, 20) g;
insert into outside select generate_series(1, 20);
"""

OWNED = {
    "public.orders": "user_id -> public.users(id)",
    "public.item": "order_id -> public.orders(id)",
    "public.address": "id <- public.users(address_id)",
    "public.event": "user_id -> public.users(id)",
    'public."Wish ""List"': '"user" -> public.users(id)',
    "public.profile": "owner -> public.users(id)",
}


def data_map(subject: str, owned: Mapping[str, str], key: str = "id") -> DataMap:
    """``owned`` maps a table to its owner step."""
    tables = {TableName.parse(subject): TableRule(TableName.parse(subject), Role.SUBJECT)}
    for name, step in owned.items():
        table = TableName.parse(name)
        tables[table] = TableRule(table, Role.OWNED, OwnerStep.parse(step))
    return DataMap(DatasetName("shop"), SubjectRule(TableName.parse(subject), key), tables)


@dataclass
class Guarded:
    """A database with the guard. ``conn`` is the mover's; ``wave`` the id of the wave there."""

    conninfo: str = field(repr=False)
    conn: AsyncConnection[Any]
    data_map: DataMap
    wave: int

    @property
    def tables(self) -> tuple[TableName, ...]:
        return self.data_map.in_scope()

    async def arm(self) -> None:
        await guard.arm(self.conn, self.tables, lock_timeout_ms=100, seconds_max=5)

    async def mark(self, mark: str) -> None:
        """Without a drain: that is the test's own affair."""
        home = HERE if mark in ("open", "closing", "fenced") else THERE
        await guard.set_fence(self.conn, self.wave, mark, home, 3)

    async def drain(self, seconds_max: float = 5) -> guard.DrainReport:
        return await guard.drain(self.conn, self.tables, seconds_max=seconds_max)

    async def fence(self) -> None:
        """Armed, marked, drained: what a mover does."""
        await self.arm()
        await self.mark("fenced")
        await self.drain()

    async def close(self) -> int:
        """Armed, closing, drained: from here on its writers hold the wave's lock; returns what `wave_lock.hold` asks
        for."""
        await self.arm()
        await self.mark("closing")
        return (await self.drain()).entered

    @asynccontextmanager
    async def locked(self, entered: int, timeout_ms: int = 100) -> AsyncIterator[WaveLock]:
        """The wave's lock on a session of its own."""
        async with await connect(self.conninfo, settings=SESSION) as conn:
            async with wave_lock.hold(
                conn, self.wave, entered=entered, timeout_ms=timeout_ms, dead_man_ms=60_000
            ) as lock:
                yield lock

    async def holders(self) -> list[int | None]:
        """The processes that hold the wave's lock."""
        return [b.pid for b in await wave_lock.lock_holders(self.conn, self.wave)]

    async def rewrite(self, function: str, old: str, new: str, times: int = 1) -> None:
        """Take a protection out of one of the guard's functions, for a negative control."""
        body = await self.value(f"select pg_get_functiondef('domicile.{function}'::regproc)")
        assert body.count(old) == times, (function, old)
        await self.conn.execute(body.replace(old, new).encode())

    async def value(self, query: str) -> Any:
        row = await (await self.conn.execute(query.encode())).fetchone()
        return None if row is None else row[0]

    @asynccontextmanager
    async def writer(self, isolation: str = "read committed", role: str = "") -> AsyncIterator[Writer]:
        """A session of the application's, in a transaction that has taken its snapshot where it keeps one."""
        conn = await psycopg.AsyncConnection.connect(self.conninfo, application_name="shop")
        try:
            if role:
                await conn.execute(f"set role {role}".encode())
                await conn.commit()
            await conn.set_isolation_level(IsolationLevel[isolation.upper().replace(" ", "_")])
            await conn.execute("select 1 from pg_catalog.pg_class limit 1")
            yield Writer(conn)
        finally:
            await conn.close()


@dataclass
class Writer:
    """One session of the application."""

    conn: AsyncConnection[Any]

    async def run(self, statement: str) -> None:
        await self.conn.execute(statement.encode())

    async def refused(self, statement: str, sqlstate: str) -> psycopg.Error:
        """Run it, assert the refusal, end the transaction; returns the error."""
        with pytest.raises(psycopg.Error) as caught:
            await self.run(statement)
        await self.conn.rollback()
        assert caught.value.sqlstate == sqlstate, (statement, str(caught.value))
        return caught.value

    async def commit(self) -> None:
        await self.conn.commit()


async def value(conn: AsyncConnection[Any], query: str) -> object:
    """The first value that a query gives in this session."""
    row = await (await conn.execute(query.encode())).fetchone()
    return row and row[0]


def detail(error: psycopg.Error) -> dict[str, Any]:
    """The JSON object in the DETAIL."""
    facts: dict[str, Any] = json.loads(error.diag.message_detail or "")
    return facts


async def depart(lock: WaveLock, move: str = "m1") -> int:
    """The departure as a mover makes it."""
    return await lock.depart(MoveId(move), 0, THERE, 4, b"departed")


async def reopen(lock: WaveLock, mark: str = "open") -> None:
    """The departure undone."""
    await lock.reopen(MoveId("m1"), 0, mark, HERE, 3)


async def register(conn: AsyncConnection[Any], members: Sequence[Any], mark: str = "open", move: str = "m1") -> int:
    """A move and its wave 1 of these members; returns the wave's id."""
    async with conn.transaction():
        await conn.execute(
            "insert into domicile.move (move_id, dataset, here, role, peer) values (%s, 'shop', %s, 'source', %s)"
            " on conflict do nothing",
            (move, HERE, THERE),
        )
        row = await (
            await conn.execute(
                "insert into domicile.wave (move_id, no, mark, home, epoch) values"
                " (%s, (select count(*) + 1 from domicile.wave), %s, %s, 0) returning id",
                (move, mark, HERE),
            )
        ).fetchone()
        assert row is not None
        async with conn.cursor().copy("copy domicile.member (wave, ordinal, subject) from stdin") as rows:
            for ordinal, subject in enumerate(members, 1):
                await rows.write_row((row[0], ordinal, subject))
    return int(row[0])


@asynccontextmanager
async def guarded(conninfo: str, ddl: str, mapped: DataMap, members: Sequence[Any] = MEMBERS) -> AsyncIterator[Guarded]:
    """The schema, the guard installed, a wave registered, nothing armed."""
    conn = await connect(conninfo, settings={**SESSION, "search_path": "public"})
    try:
        if ddl:
            await conn.execute(ddl.encode())
        await conn.execute("set search_path = ''")
        schema = await read_schema(conn)
        key = schema.tables[mapped.subject.table].column(mapped.subject.key)
        await site_schema.install(conn, key.type_name)
        await guard.install(conn, mapped, schema, here=HERE)
        yield Guarded(conninfo, conn, mapped, await register(conn, members))
    finally:
        await conn.close()
