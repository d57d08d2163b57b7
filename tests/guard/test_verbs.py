"""Every way to write a row of a fenced subject is refused; nobody else's is."""

from __future__ import annotations

import pytest
from tests.guard.kit import Guarded, detail, register

REFUSED = {
    "insert": "insert into orders values (1, '', 2)",
    "update": "update orders set note = 'n' where id = 20",
    "update, new owner": "update orders set user_id = 2 where id = 110",
    "update, old owner": "update orders set user_id = 11 where id = 20",
    "update, no owner": "update orders set user_id = null where id = 20",
    "delete": "delete from orders where id = 20",
    "subject inserted": "insert into users select 60; insert into users values (2)",
    "subject updated": "update users set name = 'n' where id = 2",
    "subject deleted": "delete from users where id = 2",
    "subject's key, old": "update users set id = 30 where id = 2",
    "two steps, insert": "insert into item values (1, 1, 20)",
    "two steps, update": "update item set qty = 2 where id = 200",
    "two steps, away": "update item set order_id = 110 where id = 200",
    "two steps, to": "update item set order_id = 20 where id = 1100",
    "two steps, delete": "delete from item where id = 200",
    "inverse, update": "update address set street = 's' where id = 2",
    "inverse, key": "update address set id = 30 where id = 2",
    "inverse, delete": "delete from address where id = 2",
    "partition, insert": "insert into event values (2, '2025-07-01', 'x')",
    "partition, leaf": "insert into event_2 (user_id, at) values (2, '2026-07-01')",
    "partition, row moves": "update event set at = '2026-07-01' where user_id = 2 and at = '2025-06-01'",
    "partition, delete": "delete from event where user_id = 2",
    "quoted names": """update "Wish ""List" set note = 'n' where "user" = 2""",
    "quoted names, insert": """insert into "Wish ""List" values (2, 9)""",
    "generated owner, insert": """insert into profile values (30, '{"user": 2}')""",
    "generated owner, to": """update profile set doc = '{"user": 2}' where id = 11""",
    "generated owner, away": """update profile set doc = '{"user": 11}' where id = 2""",
    "generated owner, delete": "delete from profile where id = 2",
    "upsert": "insert into orders values (20, '', 11) on conflict (id) do update set note = 'n'",
    "upsert, nothing": "insert into orders values (20, '', 2) on conflict do nothing",
    "merge": "merge into orders o using (values (20)) v (id) on o.id = v.id when matched then update set note = 'n'",
    "merge, delete": "merge into orders o using (values (20)) v (id) on o.id = v.id when matched then delete",
    "merge, insert": "merge into orders o using (values (1)) v (id) on o.id = v.id"
    " when not matched then insert values (v.id, '', 2)",
    "insert ... select": "insert into orders select 900 + id, '', id from users",
    "with": "with gone as (delete from item where id = 200 returning 1) select * from gone",
    "function": "do $$ begin update orders set note = 'n' where id = 20; end $$",
    "truncate": "truncate outside, event",
    "truncate, leaf": "truncate event_1",
    "truncate, cascade": "truncate address cascade",
    "savepoint": "savepoint s; update orders set note = 'n' where id = 110; release s; delete from item where id = 300",
    "key": "update orders set id = 21 where id = 20",
}

PASSED = {
    "insert": "insert into orders values (1, '', 12)",
    "update": "update orders set note = 'n' where id = 120",
    "update, owner": "update orders set user_id = 13 where id = 120",
    "delete": "delete from orders where id = 120",
    "subject": "insert into users values (30); update users set name = 'n' where id > 10;"
    " delete from users where id = 12",
    "subject's key cascades": "update users set id = 40 where id = 12",
    "two steps": "insert into item values (1, 1, 120); update item set qty = 2 where id = 1200;"
    " delete from item where id = 1200",
    "inverse": "insert into address values (30, 's'); update address set street = 's' where id in (30, 12)",
    "partition": "insert into event values (12, '2025-07-01', 'x');"
    " update event set at = '2026-07-01' where user_id = 12",
    "quoted names": """update "Wish ""List" set note = 'n' where "user" = 12""",
    "generated owner": """insert into profile values (30, '{"user": 12}');
        update profile set doc = '{}' where id = 12""",
    "nobody's": "insert into orders values (1, '', null); update orders set note = 'n' where id = 1;"
    " delete from orders where id = 1",
    "upsert": "insert into orders values (120, '', 12) on conflict (id) do update set note = 'n'",
    "merge": "merge into orders o using (values (120)) v (id) on o.id = v.id when matched then update set note = 'n'",
    "not in the map": "truncate outside",
    "savepoint": "savepoint s; update orders set note = 'n' where id = 110; rollback to s;"
    " delete from item where id = 1300",
    "for update": "select * from orders where id = 20 for update",
}

LEVELS = ("read committed", "repeatable read", "serializable")


@pytest.mark.parametrize("level", LEVELS)
async def test_every_verb_is_refused_and_outsiders_pass(any_shop: Guarded, level: str) -> None:
    await any_shop.fence()
    async with any_shop.writer(level) as writer:
        for statement in REFUSED.values():
            await writer.refused(statement, "DM002")
        for statement in PASSED.values():
            await writer.run(statement)
            await writer.conn.rollback()


async def test_what_is_refused_would_run_without_the_fence(any_shop: Guarded) -> None:
    await any_shop.arm()
    async with any_shop.writer() as writer:
        for which, statement in REFUSED.items():
            if which != "subject inserted":  # its row is there: the guard answers before the key would
                await writer.run(statement)
                await writer.conn.rollback()


async def test_copy_is_refused_for_a_member_and_passes_for_outsiders(any_shop: Guarded) -> None:
    await any_shop.fence()
    async with any_shop.writer() as writer:
        with pytest.raises(Exception, match="between two sites") as caught:
            async with writer.conn.cursor().copy("copy orders (id, user_id) from stdin") as rows:
                await rows.write("1\t12\n2\t2\n")
        assert getattr(caught.value, "sqlstate", "") == "DM002"
        await writer.conn.rollback()
        async with writer.conn.cursor().copy("copy orders (id, user_id) from stdin") as rows:
            await rows.write("1\t12\n2\t13\n")
        await writer.commit()


async def test_cascades_reach_the_guard_where_the_parent_is_out_of_scope(any_shop: Guarded) -> None:
    await any_shop.conn.execute("alter table public.orders add column outside_id bigint")
    for rule in ("on delete cascade", "on delete set null", "on delete set default"):
        await any_shop.conn.execute("alter table public.orders drop constraint if exists to_outside")
        await any_shop.conn.execute(
            "alter table public.orders add constraint to_outside foreign key (outside_id)"
            f" references public.outside {rule} on update cascade"
        )
        await any_shop.mark("open")
        await any_shop.conn.execute("update public.orders set outside_id = user_id")
        await any_shop.fence()
        async with any_shop.writer() as writer:
            await writer.refused("delete from outside where id = 2", "DM002")
            await writer.refused("update outside set id = 99 where id = 2", "DM002")
            await writer.run("update outside set id = 99 where id = 12; delete from outside where id = 13")
            await writer.conn.rollback()


@pytest.mark.parametrize(
    ("mark", "answer"),
    [
        ("open", ""),
        ("closing", ""),
        ("fenced", "DM002"),
        ("arriving", "DM002"),
        ("departed", "DM001"),
        ("resident", ""),
    ],
)
async def test_the_mark_decides_and_the_detail_names_the_home(shop: Guarded, mark: str, answer: str) -> None:
    await shop.arm()
    await shop.mark(mark)
    async with shop.writer() as writer:
        for statement in ("update orders set note = 'n' where id = 20", "update item set qty = 2 where id = 200"):
            if not answer:
                await writer.run(statement)
                continue
            error = await writer.refused(statement, answer)
            home = "beijing" if mark == "fenced" else "singapore"
            assert detail(error) == {"home": home, "epoch": 3, "dataset": "shop"}
            assert error.diag.schema_name == "public"
            assert error.diag.table_name in ("orders", "item")
            assert error.diag.message_hint
            assert "200" not in str(error)


async def test_of_several_waves_the_highest_epoch_decides(shop: Guarded) -> None:
    await shop.arm()
    await shop.mark("departed")  # epoch 3
    later = await register(shop.conn, [2], move="m2")
    async with shop.writer() as writer:
        # A planned wave (epoch 0) changes nothing of where the subject lives.
        await writer.refused("update orders set note = 'n' where id = 20", "DM001")
        await shop.conn.execute("update domicile.wave set mark = 'arriving', epoch = 4 where id = %s", (later,))
        await writer.refused("update orders set note = 'n' where id = 20", "DM002")
        await shop.conn.execute("update domicile.wave set mark = 'resident', epoch = 4 where id = %s", (later,))
        await writer.run("update orders set note = 'n' where id = 20")
        await writer.commit()
        await writer.refused("update orders set note = 'n' where id = 30", "DM001")


async def test_a_row_shared_by_two_owners_is_refused_when_one_is_fenced(shop: Guarded) -> None:
    await shop.conn.execute("update public.users set address_id = 2 where id = 12")
    await shop.fence()
    async with shop.writer() as writer:
        await writer.refused("update address set street = 's' where id = 2", "DM002")


async def test_an_owner_changed_by_the_application_s_own_trigger_is_seen(shop: Guarded) -> None:
    await shop.conn.execute(
        "create function public.give() returns trigger language plpgsql as $$begin new.user_id := 2; return new; end$$;"
        "create trigger give before insert on public.orders for each row execute function public.give()"
    )
    await shop.fence()
    async with shop.writer() as writer:
        await writer.refused("insert into orders values (1, '', 12)", "DM002")


async def test_the_mover_s_role_passes(shop: Guarded) -> None:
    await shop.fence()
    await shop.conn.execute("set session_replication_role = replica")
    await shop.conn.execute("update public.orders set note = 'n' where id = 20")
