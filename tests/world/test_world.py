"""The demo world: its size, its sameness, its scripts, its references and its ranges of ids."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import re
from typing import Any
from uuid import uuid4

from psycopg import AsyncConnection, errors, sql
import pytest

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites.embedded import EmbeddedCluster
from domicile.world import (
    STORE_MARKETS,
    Counts,
    Step,
    create_schema,
    populate,
    populate_reference,
    populate_residents,
)
from domicile.world.store import ORDERS_PER_USER, USERS

SCALE = 0.05  # 1,000 people, 10,500 orders
RANGE = 10**12
Connection = AsyncConnection[Any]

# name, columns, referenced table, referenced columns of every declared foreign key
FOREIGN_KEYS = """
select conrelid::regclass::text, conname,
       array(select attname::text from unnest(conkey) with ordinality as k (n, o)
             join pg_attribute on attrelid = conrelid and attnum = n order by o),
       confrelid::regclass::text,
       array(select attname::text from unnest(confkey) with ordinality as k (n, o)
             join pg_attribute on attrelid = confrelid and attnum = n order by o)
from pg_constraint where contype = 'f' and connamespace = 'store'::regnamespace and conparentid = 0
"""
STRANGE_INVITERS = """
select count(*) from store.referral where inviter_id not in (select id from store.user_account)
"""
STRANGE_ADDRESSES = """
select count(*) from store.orders as o join store.address as a on a.id = o.address_id
where a.user_id <> o.user_id
"""
WRONG_TOTALS = """
select count(*) from store.orders as o
where total <> (select sum(amount) from store.order_item as i where i.order_id = o.id)
"""
WRONG_PAYMENTS = """
select count(*) from store.payment as p join store.orders as o on o.id = p.order_id
where p.amount <> o.total or p.currency <> o.currency or p.paid_at < o.placed_at
"""
ORDERS_BEFORE_THEIR_USER = """
select count(*) from store.orders as o join store.user_account as u on u.id = o.user_id
where u.created_at > o.placed_at
"""
TABLES = """
select relname::text from pg_class
where relnamespace = 'store'::regnamespace and relkind in ('r', 'p') and not relispartition order by 1
"""


@asynccontextmanager
async def database(cluster: EmbeddedCluster) -> AsyncIterator[Connection]:
    """A fresh database, dropped afterwards."""
    name = sql.Identifier(f"world_{uuid4().hex[:12]}")
    async with await AsyncConnection.connect(cluster.conninfo("postgres"), autocommit=True) as admin:
        await admin.execute(sql.SQL("create database {}").format(name))
        try:
            conninfo = cluster.conninfo(name.as_string().strip('"'))
            async with await AsyncConnection.connect(conninfo, autocommit=True) as conn:
                yield conn
        finally:
            await admin.execute(sql.SQL("drop database {} with (force)").format(name))


async def rows(conn: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await conn.execute(sql.SQL(query))).fetchall()


async def value(conn: Connection, query: str) -> Any:
    return (await rows(conn, query))[0][0]


async def digests(conn: Connection) -> dict[str, tuple[int, str]]:
    """Per table: rows, and a digest of their text in physical order."""
    await conn.execute("set timezone = 'UTC'")
    found = {}
    for (table,) in await rows(conn, TABLES):
        query = sql.SQL("select count(*), md5(string_agg(t::text, E'\\n')) from store.{} as t").format(
            sql.Identifier(table)
        )
        found[table] = (await (await conn.execute(query)).fetchall())[0]
    return found


@pytest.fixture(scope="module")
async def world(pg18: EmbeddedCluster) -> AsyncIterator[tuple[Connection, Counts, list[Step]]]:
    """A small world with residents of a second range in the same database."""
    async with database(pg18) as conn:
        await create_schema(conn)
        steps: list[Step] = []
        counts = await populate(conn, scale=SCALE, progress=steps.append)
        await populate_residents(conn, users=200)
        yield conn, counts, steps


async def test_counts_are_the_rows_and_the_sizes_are_a_stores(
    world: tuple[Connection, Counts, list[Step]],
) -> None:
    conn, counts, steps = world
    assert counts.users == 1_000
    assert counts.orders == 10_500
    for table, expected in counts.rows.items():
        key = {"device": "user_id", "order_item": "order_id", "cart_item": "cart_id", "Wishlist": "user_id"}
        within = f"{key.get(table, 'id')} between 0 and {RANGE}"
        counted = await value(conn, f'select count(*) from store."{table}" where {within}')
        assert counted == expected, table
        assert expected > 0, table
    assert 1.9 < counts.rows["order_item"] / counts.orders < 2.1
    assert 0.9 < counts.rows["payment"] / counts.orders < 1.0
    assert counts.total == sum(counts.rows.values())
    assert [step.number for step in steps] == list(range(1, steps[0].of + 1))


async def test_the_default_world_has_20000_users_and_200000_orders() -> None:
    assert USERS >= 20_000
    assert USERS * ORDERS_PER_USER >= 200_000


async def test_same_seed_same_rows_on_every_version(pg18: EmbeddedCluster, pg15: EmbeddedCluster) -> None:
    found = []
    for cluster, seed in ((pg18, 7), (pg15, 7), (pg18, 8)):
        async with database(cluster) as conn:
            await create_schema(conn)
            await populate(conn, scale=0.01, seed=seed)
            found.append(await digests(conn))
    same, on_15, other = found
    assert same == on_15
    assert same["user_account"] != other["user_account"]
    assert same["product"] == other["product"]


async def test_every_declared_reference_holds(world: tuple[Connection, Counts, list[Step]]) -> None:
    conn, _, _ = world
    keys = await rows(conn, FOREIGN_KEYS)
    assert len(keys) >= 20
    for table, name, columns, target, target_columns in keys:
        pairs = zip(columns, target_columns, strict=True)
        join = " and ".join(f'a."{mine}" = b."{theirs}"' for mine, theirs in pairs)
        some = " and ".join(f'a."{mine}" is not null' for mine in columns)
        lost = f"select from {table} as a where {some} and not exists (select from {target} as b where {join})"
        assert await rows(conn, lost) == [], name
    # the reference nobody declared, and the agreement of the two ways from an order to its owner
    assert await value(conn, STRANGE_INVITERS) == 0
    assert await value(conn, STRANGE_ADDRESSES) == 0


async def test_totals_and_times_agree(world: tuple[Connection, Counts, list[Step]]) -> None:
    conn, _, _ = world
    assert await value(conn, WRONG_TOTALS) == 0
    assert await value(conn, WRONG_PAYMENTS) == 0
    assert await value(conn, ORDERS_BEFORE_THEIR_USER) == 0


@pytest.mark.parametrize(
    ("market", "letters"),
    [
        ("CN", "[一-鿿]"),
        ("HK", "[一-鿿]"),
        ("TW", "[陳黃張劉許鄭謝賴葉蘇貨個買電滿會豔]"),
        ("IN", "[\u0900-\u097f]"),
        ("IN", "[\u0b80-\u0bff]"),
        ("IN", "[A-Z]"),
        ("ID", "[A-Z]"),
        ("MY", "[A-Z]"),
        ("PH", "[A-Z]"),
        ("SG", "[一-鿿]"),
    ],
)
async def test_people_of_each_market_write_their_script(
    world: tuple[Connection, Counts, list[Step]], market: str, letters: str
) -> None:
    conn, _, _ = world
    people = f"store.user_account as u where u.market = '{market}' and u.id < {RANGE}"
    names = await rows(conn, f"select u.full_name from {people}")
    assert abs(len(names) - 10 * STORE_MARKETS[market]) < 5 * STORE_MARKETS[market] + 10
    assert any(re.match(letters, name) for (name,) in names)
    texts = await rows(conn, f"select r.body from store.review as r, {people} and r.user_id = u.id")
    assert any(re.search(letters, text) for (text,) in texts)


async def test_imeis_pass_the_luhn_check(world: tuple[Connection, Counts, list[Step]]) -> None:
    conn, _, _ = world
    for (imei,) in await rows(conn, "select imei from store.device"):
        doubled = (int(d) * (1 + i % 2) for i, d in enumerate(imei))
        assert sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


async def test_residents_and_everything_after_them_stay_in_their_range(
    world: tuple[Connection, Counts, list[Step]], pg18: EmbeddedCluster
) -> None:
    conn, _, _ = world
    for table in ("user_account", "address", "orders", "payment", "review", "cart", "photo", "referral"):
        found = await rows(conn, f"select id / {RANGE}, count(*) from store.{table} group by 1 order by 1")
        assert [site for site, _ in found] == [0, 1], table
    async with database(pg18) as target:
        await create_schema(target, site_number=1)
        await populate_residents(target, users=50)
        await target.execute(
            """insert into store.user_account (email, phone, full_name, market, locale)
            values ('new@mail.example', '', '', 'SG', 'en_SG')"""
        )
        low, high = (await rows(target, "select min(id), max(id) from store.user_account"))[0]
        assert (low, high) == (RANGE + 1, RANGE + 1001)


async def test_reference_rows_are_the_same_at_each_site_and_insert_once(pg18: EmbeddedCluster) -> None:
    async with database(pg18) as conn:
        await create_schema(conn, site_number=2)
        await populate_reference(conn)
        first = await digests(conn)
        await populate_reference(conn)
        assert await digests(conn) == first
        assert first["product"][0] == 126
        assert first["user_account"][0] == 0
        await conn.execute("insert into store.product (category_id, name, price) values (4, 'New', 1)")


async def test_an_update_of_a_status_writes_one_audit_row(
    world: tuple[Connection, Counts, list[Step]],
) -> None:
    conn, _, _ = world
    before = await value(conn, "select count(*) from store.audit_log")
    await conn.execute("update store.orders set status = 'returned' where id = 1")
    assert await value(conn, "select count(*) from store.audit_log") == before + 1


async def test_a_second_populate_changes_nothing(world: tuple[Connection, Counts, list[Step]]) -> None:
    conn, _, _ = world
    before = await digests(conn)
    with pytest.raises(errors.UniqueViolation):
        await populate(conn, scale=SCALE)
    assert await digests(conn) == before
    assert await value(conn, "select count(*) from pg_namespace where nspname = 'store_build'") == 0


async def test_a_world_too_small_is_refused(world: tuple[Connection, Counts, list[Step]]) -> None:
    with pytest.raises(DomicileError) as caught:
        await populate(world[0], scale=0.0001)
    assert caught.value.code is ErrorCode.CONFIG_INVALID


async def test_loading_without_the_right_is_refused(pg18: EmbeddedCluster) -> None:
    async with database(pg18) as conn:
        await create_schema(conn)
        await conn.execute("create role world_guest")
        try:
            await conn.execute("set role world_guest")
            with pytest.raises(DomicileError) as caught:
                await populate(conn, scale=0.01)
            assert caught.value.code is ErrorCode.RIGHT_MISSING
        finally:
            await conn.execute("reset role")
            await conn.execute("drop role world_guest")
