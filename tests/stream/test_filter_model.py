"""The filter against a model: whatever transactions do to users, orders and items, replaying what it says keeps the
rows equal to the database's rows of the wave, and the index to a fresh one."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import psycopg
import pytest
from tests.stream.test_filter import MAP
from tests.stream.wave import Wave, watched

from domicile.model.errors import DomicileError, ErrorCode

DDL = """
drop schema public cascade; create schema public; drop schema if exists domicile cascade;
drop publication if exists domicile_test;
create table users (id bigint primary key, name text);
create table orders (id bigint primary key, user_id bigint, big text, n int);
alter table orders alter big set storage external;
create table items (id bigint primary key, order_id int, note text);
insert into users select i, 'u' from unnest('{1,2,8,9}'::int[]) i;
insert into orders select 10 * i + k, i, repeat('x', 2500), 0 from unnest('{1,2,8,9}'::int[]) i,
    generate_series(0, 1) k;
insert into items select 10 * o.id + k, o.id, '' from orders o, generate_series(0, 1) k;
alter table items add foreign key (order_id) references orders on delete cascade on update cascade deferrable;
"""
EXAMPLES = 25
USERS = st.sampled_from([1, 2, 8, 9])
ORDERS = st.sampled_from([10, 11, 20, 21, 80, 81, 90, 91])
ITEMS = st.sampled_from([100, 101, 110, 200, 210, 800, 801, 810, 900, 910])


def written(template: str, *choices: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
    return st.tuples(*choices).map(lambda values: template.format(*values))


STATEMENTS = st.one_of(
    written("insert into orders values ({0}, {1}, repeat('y', 2500), 1) on conflict do nothing", ORDERS, USERS),
    written("insert into items select {0}, {1} on conflict do nothing", ITEMS, ORDERS),
    written("update orders set user_id = {1} where id = {0}", ORDERS, USERS),
    written("update orders set n = n + 1 where id = {0}", ORDERS),
    written("update orders set user_id = {1} where user_id = {0}", USERS, USERS),
    written(
        "update orders set id = {1} where id = {0} and not exists (select from orders where id = {1})", ORDERS, ORDERS
    ),
    written("update items set order_id = {1} where id = {0}", ITEMS, ORDERS),
    written("update items set order_id = {1} where order_id = {0}", ORDERS, ORDERS),
    written("update items set note = note || 'z' where order_id = {0}", ORDERS),
    written("update items set id = {1} where id = {0} and not exists (select from items where id = {1})", ITEMS, ITEMS),
    written("delete from orders where id = {0}", ORDERS),
    written("delete from items where id = {0}", ITEMS),
    written("delete from users where id = {0}", USERS),
    written("insert into users values ({0}) on conflict do nothing", USERS),
)
TRANSACTIONS = st.lists(st.lists(STATEMENTS, min_size=1, max_size=5), min_size=1, max_size=6)
"""Between two readings of the stream."""


async def carry_out(wave: Wave, transactions: list[list[str]]) -> None:
    """Each commits, or has done nothing: an item whose order is not there fails at the commit."""
    for statements in transactions:
        script = "; ".join(("begin", "set constraints all deferred", *statements, "commit"))
        try:
            await wave.app.execute(script.encode())
        except psycopg.errors.ForeignKeyViolation:
            await wave.app.execute("rollback")


@pytest.mark.parametrize("how", ["binary", "text", "opened anew"])
def test_replayed_rows_are_the_databases(database: str, how: str) -> None:
    """Constraints are deferred, so that every order of events occurs inside a transaction. Where the filter gives up,
    it says so, and a new copy would begin."""
    outcomes = []

    async def carried_out(rounds: list[list[list[str]]]) -> int:
        changes = 0
        async with watched(database, DDL, MAP, [1, 2], binary=how != "text") as wave:
            wave.opened_anew = how == "opened anew"
            for transactions in rounds:
                await carry_out(wave, transactions)
                try:
                    changes += sum(len(t.changes) + len(t.leave) + len(t.enter) for t in await wave.assert_equal())
                except DomicileError as error:
                    if error.code is not ErrorCode.STREAM_UNCLEAR:
                        raise
                    return -1
        return changes

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(TRANSACTIONS, min_size=1, max_size=3))
    def property_holds(rounds: list[list[list[str]]]) -> None:
        outcomes.append(asyncio.run(carried_out(rounds)))

    property_holds()
    assert sum(n > 0 for n in outcomes) > len(outcomes) / 2
    assert sum(n < 0 for n in outcomes) < len(outcomes) / 10
