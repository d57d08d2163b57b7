"""Whoever is new and fits the condition begins at the target; nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
from tests.guard.kit import HERE, OWNED, SHOP, Guarded, data_map, detail, guarded

from domicile.model.datamap import DataMap, SubjectRule
from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres import guard, sign_ups
from domicile.postgres.introspect import read_schema, schema_digest

# A market that is derived, and hides a column of its name; a unique value beside the key; a generated column.
MORE = """
alter table users add column country text, add column market text not null default 'none',
    add column email text unique, add column doc jsonb,
    add column age int generated always as (case when doc ? 'age' then (doc ->> 'age')::int end) stored;
update users set country = case when id % 2 = 0 then 'IN' else 'CN' end, email = 'u' || id;
create unique index on users (lower(email));
"""
INDIA = "market = 'IN' -- those of India"


def market_map() -> DataMap:
    mapped = data_map("public.users", OWNED)
    rule = mapped.subject
    return replace(mapped, subject=SubjectRule(rule.table, rule.key, "upper(subject.country)"))


@pytest.fixture
async def any_market(any_database: str) -> AsyncIterator[Guarded]:
    """A shop with markets, on each version."""
    async with guarded(any_database, SHOP + MORE, market_map()) as found:
        yield found


@pytest.fixture
async def market(database: str) -> AsyncIterator[Guarded]:
    """The same on PostgreSQL 18."""
    async with guarded(database, SHOP + MORE, market_map()) as found:
        yield found


async def refuse(shop: Guarded, condition: str = INDIA, move: str = "m1", peer: str = "singapore") -> None:
    """What freezing a cohort and beginning its move do."""
    await shop.conn.execute(
        """insert into domicile.move (move_id, dataset, here, role, peer, condition, sign_ups)
           values (%(move)s, 'shop', 'beijing', 'source', %(peer)s, %(condition)s, 'refuse')
           on conflict (move_id) do update set condition = %(condition)s, sign_ups = 'refuse'""",
        {"move": move, "peer": peer, "condition": condition},
    )
    await sign_ups.install(shop.conn, shop.data_map)


REFUSED = {
    "insert": "insert into users (id, country) values (100, 'in')",
    "several": "insert into users (id, country) values (100, 'CN'), (101, 'IN')",
    "select": "insert into users (id, country, email) select 100 + id, country, null from users",
    "upsert": "insert into users (id, country) values (100, 'IN') on conflict (id) do update set name = 'n'",
    "upsert, nothing": "insert into users (id, country) values (100, 'IN') on conflict do nothing",
    "merge": "merge into users u using (values (100)) v (id) on u.id = v.id"
    " when not matched then insert (id, country) values (v.id, 'IN')",
    "savepoint": "savepoint s; insert into users (id, country) values (100, 'IN')",
    "function": "do $$ begin insert into users (id, country) values (100, 'IN'); end $$",
    "deleted before": "delete from users where id = 12; insert into users (id, country) values (12, 'IN')",
}
PASSED = {
    "others": "insert into users (id, country) values (100, 'CN'), (101, null)",
    "the column market is not the market": "insert into users (id, country, market) values (100, 'CN', 'IN')",
    "upsert of one who is there": "insert into users (id, country) values (12, 'IN')"
    " on conflict (id) do update set name = 'n'",
    "upsert that finds nothing to do": "insert into users (id, country) values (12, 'IN') on conflict do nothing",
    "upsert by another unique value": "insert into users (id, country, email) values (100, 'IN', 'u12')"
    " on conflict (email) do update set name = 'n'",
    "upsert by an expression": "insert into users (id, country, email) values (100, 'IN', 'U12')"
    " on conflict (lower(email)) do update set name = 'n'",
    "merge of one who is there": "merge into users u using (values (12)) v (id) on u.id = v.id"
    " when matched then update set name = 'n' when not matched then insert (id, country) values (v.id, 'IN')",
    "into the market": "update users set country = 'IN' where id = 13",
    "their rows": "insert into orders values (1, '', 12)",
    "their own": "update users set name = 'n' where id = 12; delete from users where id = 14",
}


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
async def test_a_sign_up_is_refused_and_told_where_to_go(any_market: Guarded, level: str) -> None:
    await refuse(any_market)
    async with any_market.writer(level) as writer:
        for which, statement in REFUSED.items():
            error = await writer.refused(statement, "DM001")
            assert detail(error) == {"home": "singapore", "epoch": 0, "dataset": "shop"}, which
            assert (error.diag.schema_name, error.diag.table_name) == ("public", "users")
            assert "100" not in f"{error.diag.message_primary}{error.diag.message_detail}", "no key in the message"
        for statement in PASSED.values():
            await writer.run(statement)
            await writer.conn.rollback()


async def test_what_is_refused_would_run_without_the_trigger(any_market: Guarded) -> None:
    async with any_market.writer() as writer:
        for statement in REFUSED.values():
            await writer.run(statement)
            await writer.conn.rollback()


async def test_copy_is_refused(market: Guarded) -> None:
    await refuse(market)
    async with market.writer() as writer:
        with pytest.raises(psycopg.Error) as caught:
            async with writer.conn.cursor().copy("copy users (id, country) from stdin") as rows:
                await rows.write("100\tCN\n101\tIN\n")
        assert caught.value.sqlstate == "DM001"


async def test_one_who_left_is_told_by_the_guard_with_the_epoch(market: Guarded) -> None:
    """An upsert of a departed member meets the guard first, which knows more."""
    await refuse(market)
    await market.arm()
    await market.mark("departed")
    async with market.writer() as writer:
        statement = "insert into users (id, country) values (2, 'IN') on conflict (id) do update set name = 'n'"
        assert detail(await writer.refused(statement, "DM001"))["epoch"] == 3


async def test_the_row_is_judged_as_it_is_stored(market: Guarded) -> None:
    """After the application's own triggers, and with generated columns filled in."""
    await market.conn.execute(
        "create function public.zzz() returns trigger language plpgsql"
        " as $$begin new.country := 'IN'; return new; end$$;"
        "create trigger zzzz before insert on public.users for each row when (new.name = 'late')"
        " execute function public.zzz()"
    )
    await refuse(market, "market = 'IN' or age >= 18")
    async with market.writer() as writer:
        await writer.refused("insert into users (id, country, name) values (100, 'CN', 'late')", "DM001")
        await writer.refused("""insert into users (id, country, doc) values (100, 'CN', '{"age": 18}')""", "DM001")
        await writer.run("""insert into users (id, country, doc) values (100, 'CN', '{"age": 17}')""")


async def test_a_condition_that_fails_on_a_row_does_not_fail_the_application(market: Guarded) -> None:
    await refuse(market, "(doc ->> 'born')::int < 2000")
    async with market.writer() as writer:
        await writer.refused("""insert into users (id, doc) values (100, '{"born": 1999}')""", "DM001")
        await writer.run("""insert into users (id, doc) values (100, '{"born": "unknown"}')""")
        await writer.run("insert into orders values (1, '', 100)")
        await writer.commit()
    assert await market.value("select count(*) from public.users where id = 100") == 1


async def test_a_condition_can_write_nothing_and_what_follows_can(market: Guarded) -> None:
    """It runs with the mover's rights, so a function that lies about itself is held to its word."""
    await market.conn.execute(
        "create function public.deed() returns void language sql as 'delete from public.outside';"
        "create function public.lie() returns boolean stable language plpgsql as"
        " $$begin perform public.deed(); return true; end$$"
    )
    await refuse(market, "lie()")
    async with market.writer() as writer:
        await writer.run("insert into users (id) values (100); insert into orders values (1, '', 100)")
        await writer.commit()
    assert await market.value("select count(*) from public.outside") == 20


async def test_names_are_found_as_in_the_plan_whatever_the_session_s_path(market: Guarded) -> None:
    await market.conn.execute(
        "create function public.abroad(text) returns boolean immutable language sql as $$select $1 = 'IN'$$;"
        "create schema trap;"
        "create function trap.abroad(text) returns boolean immutable language sql as 'select false';"
        "create function trap.upper(text) returns text immutable language sql as $$select 'CN'$$;"
        "grant usage on schema trap to public"
    )
    await refuse(market, "abroad(market)")
    async with market.writer() as writer:
        await writer.run("set search_path = trap, pg_catalog")
        await writer.refused("insert into public.users (id, country) values (100, 'IN')", "DM001")
        await writer.run("set search_path = ''")
        await writer.refused("insert into public.users (id, country) values (100, 'IN')", "DM001")


@pytest.mark.parametrize(
    "condition",
    [
        "market = 'IN' and case when name = 'x' then true end",
        "market = $tag$IN$tag$ and name <> E'it\\'s; $body$ 100%%'",
        "subject.market in ('IN') /* and then */ and name like '%x%'",
        "market = 'IN'",
    ],
)
async def test_a_condition_is_code_of_its_own(market: Guarded, condition: str) -> None:
    """Keywords, quotes and comments in it cannot end what stands around it; a column may be called anything."""
    await market.conn.execute("alter table public.users add column domicile_fits text, add column found int")
    await refuse(market, condition + " and domicile_fits is null and found is null")
    async with market.writer() as writer:
        await writer.refused("insert into users (id, country) values (100, 'IN')", "DM001")
        await writer.run("insert into users (id, country, found) values (100, 'IN', 1)")


async def test_a_role_without_any_right_in_the_schema_is_answered_too(market: Guarded) -> None:
    await refuse(market)
    role = "sign_up_clerk"
    await market.conn.execute(
        f"create role {role}; grant usage on schema public to {role}; grant insert on public.users to {role}".encode()
    )
    try:
        async with market.writer(role=role) as writer:
            await writer.refused("insert into users (id, country) values (100, 'IN')", "DM001")
            await writer.run("insert into users (id, country) values (100, 'CN')")
    finally:
        await market.conn.execute(f"drop owned by {role}; drop role {role}".encode())


async def test_what_the_condition_calls_runs_with_the_rights_of_who_signs_up(any_market: Guarded) -> None:
    """Whoever may create functions where the condition looks could put one before PostgreSQL's own: its types match
    better. The mover's role may do more than they."""
    await any_market.conn.execute(
        "alter table public.users add column nick varchar;"
        "create function public.lower(varchar) returns text stable language sql as"
        " $$select pg_catalog.set_config('test.ran_as', current_user, false)$$"
    )
    await refuse(any_market, "lower(nick) = 'sign_up_stranger'")
    role = "sign_up_stranger"
    await any_market.conn.execute(
        f"create role {role}; grant usage on schema public to {role}; grant insert on public.users to {role}".encode()
    )
    try:
        async with any_market.writer(role=role) as writer:
            await writer.refused("insert into users (id, nick) values (100, 'x')", "DM001")
    finally:
        await any_market.conn.execute(f"drop owned by {role}; drop role {role}".encode())


async def test_the_mover_s_role_passes(market: Guarded) -> None:
    await refuse(market)
    await market.conn.execute("set session_replication_role = replica")
    await market.conn.execute("insert into public.users (id, country) values (100, 'IN')")


async def test_every_move_has_its_own_condition_and_home(market: Guarded) -> None:
    await refuse(market)
    await refuse(market, "market = 'CN'", "m2", "oregon")
    india, china = (f"insert into users (id, country) values (100, '{c}')" for c in ("IN", "CN"))
    async with market.writer() as writer:
        assert detail(await writer.refused(india, "DM001"))["home"] == "singapore"
        assert detail(await writer.refused(china, "DM001"))["home"] == "oregon"
        await sign_ups.release(market.conn, market.data_map, "m1")
        await writer.run(india)
        await writer.conn.rollback()
        await writer.refused(china, "DM001")
        await sign_ups.release(market.conn, market.data_map, "m2")
        await writer.run(china)


async def _traces(shop: Guarded) -> tuple[int, int, int]:
    """Triggers, functions that know a condition, conditions kept."""
    triggers = await shop.value("select count(*) from pg_trigger where tgname = 'zy_domicile_sign_up'")
    functions = await shop.value(
        "select count(*) from pg_proc where proname = 'refuse_sign_up' and prosrc like '%domicile_fits :=%'"
    )
    kept = await shop.value("select count(*) from domicile.move where condition <> '' or sign_ups = 'refuse'")
    return triggers, functions, kept


async def test_installed_and_released_as_often_as_one_likes(any_market: Guarded) -> None:
    before = await _traces(any_market)
    assert before == (0, 0, 0)
    for _ in range(2):
        await refuse(any_market)
    assert await _traces(any_market) == (1, 1, 1)
    for _ in range(2):
        await sign_ups.release(any_market.conn, any_market.data_map, "m1")
        assert await _traces(any_market) == (0, 0, 0), "the condition is forgotten too"


async def test_accepting_moves_and_targets_have_no_trigger(market: Guarded) -> None:
    await refuse(market)
    await sign_ups.release(market.conn, market.data_map, "m1")
    await market.conn.execute("update domicile.move set condition = 'true'")
    await sign_ups.install(market.conn, market.data_map)
    await market.conn.execute("update domicile.move set role = 'target', sign_ups = 'refuse'")
    await sign_ups.install(market.conn, market.data_map)
    assert (await _traces(market))[0] == 0


async def test_it_is_no_part_of_the_application_s_schema(market: Guarded) -> None:
    before = schema_digest(await read_schema(market.conn), market.tables)
    await refuse(market)
    assert schema_digest(await read_schema(market.conn), market.tables) == before
    await guard.install(market.conn, market.data_map, await read_schema(market.conn), here=HERE)


async def test_nobody_queues_behind_a_table_that_is_held(market: Guarded) -> None:
    async with market.writer() as holder, market.writer() as other:
        await holder.run("update users set name = 'n' where id = 12")
        await market.conn.execute(
            "update domicile.move set condition = 'true', sign_ups = 'refuse' where move_id = 'm1'"
        )
        with pytest.raises(DomicileError) as caught:
            await sign_ups.install(market.conn, market.data_map, seconds_max=0.5)
        assert caught.value.code is ErrorCode.FENCE_BUDGET
        await other.run("set statement_timeout = '1s'; update users set name = 'n' where id = 13")
        await holder.commit()
        await other.commit()
    await sign_ups.install(market.conn, market.data_map)
    async with market.writer() as holder:
        await holder.run("update users set name = 'n' where id = 12")
        with pytest.raises(DomicileError):
            await sign_ups.release(market.conn, market.data_map, "m1", seconds_max=0.5)
        async with market.writer() as other:
            await other.run("insert into users (id, country) values (100, 'IN')")  # accepted all the same
        await holder.commit()
    await sign_ups.release(market.conn, market.data_map, "m1")
    assert await _traces(market) == (0, 0, 0)


async def test_a_partitioned_subject_table(database: str) -> None:
    ddl = """
        create table users (id bigint primary key, country text) partition by hash (id);
        create table users_0 partition of users for values with (modulus 2, remainder 0);
        create table users_1 (country text, id bigint not null);  -- other column order
        alter table users attach partition users_1 for values with (modulus 2, remainder 1);
        insert into users select n, 'IN' from generate_series(1, 20) as n;"""
    async with guarded(database, ddl, data_map("public.users", {})) as shop:
        await refuse(shop, "country = 'IN'")
        async with shop.writer() as writer:
            for key in range(100, 110):
                await writer.refused(f"insert into users values ({key}, 'IN')", "DM001")
                await writer.run(f"insert into users values ({key}, 'CN')")
                await writer.commit()
        await sign_ups.release(shop.conn, shop.data_map, "m1")
        assert (await _traces(shop))[0] == 0
