"""The apply against real servers: what it writes, what it must not write, and what is committed when it fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
import time
import traceback

import pytest
from tests.stream.destination import GENERATION, MOVE, UNSENT, Destination, everything, seed

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.connect import connect
from domicile.postgres.lease import settle_doubt
from domicile.stream.apply import SETTINGS
from domicile.stream.change import Change
from domicile.stream.pipeline import Statement


async def test_rows_and_position_come_together(shop: Destination) -> None:
    changes = (
        await shop.insert("users", id="1", email="'a'"),
        await shop.insert("orders", id="10", user_id="1", no="'A-1'", note="null"),
        await shop.insert("item", order_id="10", line="1", what="'pen'"),
    )
    apply = await shop.carry_out(*changes)
    assert await shop.rows("select * from public.orders") == [(10, 1, "A-1", None)]
    assert await shop.rows("select * from public.item") == [(10, 1, "pen")]
    assert apply.position == shop.position == await shop.stored_position()
    assert apply.repeated == 0
    assert {no: set(keys) for no, keys in apply.dirty.items()} == {c.table: {c.key} for c in changes}


async def refusal(shop: Destination, *changes: Change) -> DomicileError:
    """What the apply says to one transaction, after which nothing has changed."""
    before = await everything(shop)
    with pytest.raises(DomicileError) as caught:
        await shop.carry_out(*changes)
    assert await everything(shop) == before
    return caught.value


async def test_update_and_delete(shop: Destination) -> None:
    await seed(shop)
    await shop.carry_out(
        await shop.update("orders", id="10", user_id="2", no="'A2'", note="null"),
        await shop.delete("item", order_id="10", line="2"),
    )
    assert await shop.rows("select * from public.orders where id = 10") == [(10, 2, "A2", None)]
    assert await shop.rows("select line from public.item where order_id = 10") == [(1,)]


async def test_unsent_values_are_never_written(shop: Destination) -> None:
    await seed(shop)
    apply = await shop.carry_out(
        await shop.update("orders", id="10", user_id="1", no="'A1'", note=UNSENT),
        await shop.update("orders", id="20", user_id="1", no="'B1'", note="'short'"),
        await shop.update("orders", id="20", user_id="1", no="'B2'", note=UNSENT),
        await shop.insert("orders", id="30", user_id="1", no="'C1'", note="'first'"),
        await shop.update("orders", id="30", user_id="1", no="'C2'", note=UNSENT),
    )
    assert await shop.rows("select id, no, note from public.orders where user_id = 1 order by 1") == [
        (10, "A1", "long"), (20, "B2", "short"), (30, "C2", "first"),
    ]  # fmt: skip
    assert apply.repeated == 0


async def test_key_update(shop: Destination) -> None:
    """Down a chain that ends under a third key; with all values; with an unsent one."""
    await seed(shop)
    await shop.carry_out(
        await shop.update("item", {"line": "1"}, order_id="20", line="8", what="'cup'"),
        await shop.update("item", {"line": "8"}, order_id="20", line="9", what="'mug'"),
    )
    apply = await shop.carry_out(await shop.update("orders", {"id": "10"}, id="11", user_id="1", no="'A'", note="'n'"))
    assert len(apply.dirty[shop.table("orders").no]) == 2, "what may be left under the former key is compared, too"
    await shop.carry_out(await shop.update("orders", {"id": "20"}, id="21", user_id="1", no="'B'", note=UNSENT))
    assert await shop.rows("select id, no, note from public.orders where user_id = 1 order by 1") == [
        (11, "A", "n"), (21, "B", "long"),
    ]  # fmt: skip
    assert await shop.rows("select line, what from public.item where order_id = 20") == [(9, "mug")]


async def test_keys_swapped(shop: Destination) -> None:
    await seed(shop)
    apply = await shop.carry_out(
        await shop.update("item", {"line": "1"}, order_id="10", line="0", what="'pen'"),
        await shop.update("item", {"line": "2"}, order_id="10", line="1", what="'ink'"),
        await shop.update("item", {"line": "0"}, order_id="10", line="2", what="'pen'"),
    )
    assert await shop.rows("select line, what from public.item where order_id = 10 order by 1") == [
        (1, "ink"), (2, "pen"),
    ]  # fmt: skip
    assert apply.repeated == 0


async def test_unique_value_swapped_between_rows_goes_one_by_one(shop: Destination) -> None:
    await seed(shop)
    apply = await shop.carry_out(
        await shop.update("orders", id="10", user_id="1", no="'tmp'", note=UNSENT),
        await shop.update("orders", id="20", user_id="1", no="'A'", note=UNSENT),
        await shop.update("orders", id="10", user_id="1", no="'B'", note=UNSENT),
    )
    assert await shop.rows("select id, no from public.orders where user_id = 1 order by 1") == [(10, "B"), (20, "A")]
    assert apply.repeated == 1


async def test_cascade_deletes_parents_first_in_the_source(shop: Destination) -> None:
    """Also one by one, where the owner path of the children is gone when their turn comes."""
    await seed(shop)
    await shop.conn.execute(b"insert into public.orders values (30, 1, 'C')")
    apply = await shop.carry_out(
        await shop.delete("orders", id="20"),
        await shop.delete("item", order_id="20", line="1"),
        await shop.insert("orders", id="40", user_id="1", no="'B'", note="null"),
        await shop.insert("item", order_id="40", line="1", what="'new'"),
        await shop.update("item", order_id="40", line="1", what="'newer'"),
        await shop.update("orders", id="10", user_id="1", no="'t'", note=UNSENT),
        await shop.update("orders", id="30", user_id="1", no="'A'", note="null"),
        await shop.update("orders", id="10", user_id="1", no="'C'", note=UNSENT),
    )
    assert apply.repeated == 1
    assert await shop.rows("select order_id from public.item where order_id < 900 order by 1, line") == [
        (10,), (10,), (40,),
    ]  # fmt: skip
    assert await shop.rows("select id, no from public.orders where user_id = 1 order by 1") == [
        (10, "C"), (30, "A"), (40, "B"),
    ]  # fmt: skip


async def test_row_below_a_parent_whose_key_is_still_to_change(shop: Destination) -> None:
    """It was read ahead of the stream, and stands below a key that no order has yet."""
    await seed(shop)
    async with await connect(shop.conninfo, settings=SETTINGS) as mover:
        await mover.execute("insert into public.item values (50, 8, 'read ahead')")
    await shop.carry_out(
        await shop.update("orders", old={"id": "20"}, id="50", user_id="1", no="'B'", note=UNSENT),
        await shop.update("item", old={"order_id": "20"}, order_id="50", line="1", what="'c'"),
        await shop.delete("orders", id="50"),
        await shop.delete("item", order_id="50", line="1"),
        await shop.delete("item", order_id="50", line="8"),
    )
    assert await shop.rows("select order_id from public.item where order_id < 900") == [(10,), (10,)]


async def test_user_deleted_with_everything(shop: Destination) -> None:
    await seed(shop)
    apply = await shop.carry_out(
        await shop.delete("users", id="1"),
        await shop.delete("orders", id="10"),
        await shop.delete("orders", id="20"),
        await shop.delete("item", order_id="10", line="1"),
        await shop.delete("item", order_id="10", line="2"),
        await shop.delete("item", order_id="20", line="1"),
    )
    assert apply.repeated == 0
    assert await shop.rows("select id from public.users order by 1") == [(2,), (101,)]
    assert await shop.rows("select order_id from public.item") == [(900,)]


async def test_child_moved_away_from_a_parent_that_goes(shop: Destination) -> None:
    await seed(shop)
    await shop.carry_out(
        await shop.update("item", {"order_id": "20", "line": "1"}, order_id="10", line="3", what="'cup'"),
        await shop.delete("orders", id="20"),
    )
    assert await shop.rows("select line from public.item where order_id = 10 order by 1") == [(1,), (2,), (3,)]


async def test_parent_key_updated_in_cascade(shop: Destination) -> None:
    await seed(shop)
    await shop.carry_out(
        await shop.update("orders", {"id": "10"}, id="12", user_id="1", no="'A'", note=UNSENT),
        await shop.update("item", {"order_id": "10"}, order_id="12", line="1", what="'pen'"),
        await shop.update("item", {"order_id": "10"}, order_id="12", line="2", what="'ink'"),
    )
    assert await shop.rows("select order_id, line from public.item where order_id < 20 order by 1, 2") == [
        (12, 1), (12, 2),
    ]  # fmt: skip
    assert await shop.rows("select note from public.orders where id = 12") == [("long",)]


@pytest.mark.parametrize("verb", ["insert", "update", "delete", "rekey"])
async def test_foreign_row_with_the_same_key_is_not_touched(shop: Destination, verb: str) -> None:
    await seed(shop)
    match verb:
        case "insert":
            change = await shop.insert("orders", id="900", user_id="1", no="'Q'", note="'secret'")
        case "update":
            change = await shop.update("orders", id="900", user_id="1", no="'Q'", note="'secret'")
        case "rekey":
            change = await shop.update("orders", {"id": "10"}, id="900", user_id="1", no="'Q'", note="'secret'")
        case _:
            change = await shop.delete("item", order_id="900", line="1")
    error = await refusal(shop, change)
    assert error.code is ErrorCode.KEYS_COLLIDE
    assert error.facts["changes"] == 1
    assert str(error.facts["table"]) in ("public.orders", "public.item", "orders")
    said = f"{error} {error.facts} {error.hint}"
    assert "secret" not in said
    assert "900" not in said


async def test_row_that_should_be_there_is_missing(shop: Destination) -> None:
    await seed(shop)
    for change in (await shop.delete("orders", id="77"), await shop.update("orders", id="77", user_id="1")):
        assert (await refusal(shop, change)).code is ErrorCode.KEYS_COLLIDE


async def test_triggers_and_foreign_keys_of_the_destination_rest(shop: Destination) -> None:
    await shop.conn.execute(
        b"""create table public.mail (id bigint);
            create function public.send_mail() returns trigger language plpgsql as
                'begin insert into public.mail values (1); return null; end';
            create trigger send after insert on public.item for each row execute function public.send_mail()"""
    )
    await shop.carry_out(await shop.insert("item", order_id="10", line="1"))  # its order comes later
    assert await shop.rows("select count(*) from public.item") == [(1,)]
    assert await shop.rows("select count(*) from public.mail") == [(0,)]
    await shop.conn.execute(b"insert into public.users values (1); insert into public.orders values (10, 1)")
    await shop.conn.execute(b"insert into public.item values (10, 2)")
    assert await shop.rows("select count(*) from public.mail") == [(1,)], "the trigger is one that fires"


async def test_lease_lost_means_nothing_is_committed(shop: Destination) -> None:
    await seed(shop)
    async with shop.apply() as apply:
        await apply.finish([shop.transaction(await shop.insert("users", id="3", email="'c'"))])
        await shop.conn.execute(b"update domicile.move set generation = generation + 1")
        with pytest.raises(DomicileError) as caught:
            await apply.finish([shop.transaction(await shop.insert("users", id="4", email="'d'"))])
        assert caught.value.code is ErrorCode.LEASE_LOST
        with pytest.raises(DomicileError, match="another process"):
            await apply.submit([shop.transaction()])
    assert await shop.rows("select max(id) from public.users where id < 100") == [(3,)]


async def test_somebody_else_moved_the_position(shop: Destination) -> None:
    async with shop.apply() as apply:
        await apply.finish([shop.transaction(await shop.insert("users", id="3", email="'c'"))])
        await shop.conn.execute(b"update domicile.wave set position = '9/0'")
        with pytest.raises(DomicileError) as caught:
            await apply.finish([shop.transaction(await shop.insert("users", id="4", email="'d'"))])
    assert caught.value.code is ErrorCode.LEASE_LOST
    assert await shop.rows("select max(id) from public.users") == [(3,)]


async def test_what_was_sent_before_a_doubt_was_settled_is_refused(shop: Destination) -> None:
    """However late it comes: whoever settled it has concluded that it is not there."""
    async with shop.apply() as apply:
        await apply.finish([shop.transaction(await shop.insert("users", id="3", email="'c'"))])
        await settle_doubt(shop.conn, MOVE, GENERATION - 1)
        await apply.finish([shop.transaction(await shop.insert("users", id="4", email="'d'"))])
        await settle_doubt(shop.conn, MOVE, GENERATION)
        with pytest.raises(DomicileError) as caught:
            await apply.finish([shop.transaction(await shop.insert("users", id="5", email="'e'"))])
    assert caught.value.code is ErrorCode.LEASE_LOST
    async with shop.apply() as again:
        await again.finish([shop.transaction(await shop.insert("users", id="6", email="'f'"))])
    assert await shop.rows("select array_agg(id order by id) from public.users where id in (3, 4, 5, 6)") == [
        ([3, 4, 6],)
    ]


async def test_applied_transaction_is_refused(shop: Destination) -> None:
    once = shop.transaction(await shop.insert("users", id="3"))
    async with shop.apply() as apply:
        await apply.finish([once])
        with pytest.raises(DomicileError, match="a second time"):
            await apply.finish([once])
    async with shop.apply() as again:
        assert again.position == once.position
        with pytest.raises(DomicileError, match="a second time"):
            await again.finish([once])


async def test_parts_of_a_transaction_committed_right_behind_another_follow_it(shop: Destination) -> None:
    """A part before the last stands where its commit record begins: where the record before it ends."""
    before = shop.transaction(await shop.insert("users", id="3", email="'c'"))
    part, last = shop.parts([await shop.insert("users", id="4", email="'d'")], [])
    async with shop.apply() as apply:
        await apply.finish([before, replace(part, position=before.position), last])
        assert apply.position == last.position
    assert await shop.rows("select count(*) from public.users where id in (3, 4)") == [(2,)]


async def test_empty_transaction_moves_the_position_on(shop: Destination) -> None:
    async with shop.apply() as apply:
        await apply.finish([shop.transaction()])
        assert apply.position == shop.position == await shop.stored_position()


async def test_batches_behind_a_refused_one_wait_for_it(shop: Destination) -> None:
    """Three on their way: the first must go one by one, the others follow in order."""
    await seed(shop)
    first = shop.transaction(
        await shop.update("orders", id="10", user_id="1", no="'tmp'", note=UNSENT),
        await shop.update("orders", id="20", user_id="1", no="'A'", note=UNSENT),
        await shop.update("orders", id="10", user_id="1", no="'B'", note=UNSENT),
    )
    second = shop.transaction(await shop.update("orders", id="20", user_id="1", no="'C'", note=UNSENT))
    third = shop.transaction(await shop.update("orders", id="10", user_id="1", no="'A'", note=UNSENT))
    async with shop.apply() as apply:
        answers = [await apply.submit([t]) for t in (first, second, third)]
        await asyncio.gather(*answers)
        assert apply.repeated == 1
        assert apply.position == third.position
    assert await shop.rows("select id, no from public.orders where user_id = 1 order by 1") == [(10, "A"), (20, "C")]


async def test_nothing_behind_a_failed_batch_is_committed(shop: Destination) -> None:
    await seed(shop)
    async with shop.apply() as apply:
        good = await apply.submit([shop.transaction(await shop.insert("users", id="3"))])
        bad = await apply.submit([shop.transaction(await shop.delete("users", id="101"))])
        try:
            behind = await apply.submit([shop.transaction(await shop.insert("users", id="4"))])
        except DomicileError:
            behind = bad
        await good
        for answer in (bad, behind):
            with pytest.raises(DomicileError, match="row that is to be changed"):
                await answer
    assert await shop.rows("select id from public.users order by 1") == [(1,), (2,), (3,), (101,)]
    assert await shop.stored_position() == apply.position


async def test_killed_between_batches_position_and_rows_agree(shop: Destination) -> None:
    transactions = [shop.transaction(await shop.insert("users", id=str(1000 + n))) for n in range(30)]
    async with shop.apply() as apply:
        for transaction in transactions[:20]:
            await apply.submit([transaction])
        await shop.conn.execute(
            b"select pg_catalog.pg_terminate_backend(pid, 5000) from pg_catalog.pg_stat_activity"
            b" where application_name = 'domicile apply' and datname = pg_catalog.current_database()"
        )
        with pytest.raises(DomicileError) as caught:
            await apply.finish(transactions[20:])
    assert caught.value.code is ErrorCode.SITE_UNREACHABLE
    at = await shop.stored_position()
    done = [t for t in transactions if t.position <= (at or 0)]
    assert 0 < len(done) < 30
    assert await shop.rows("select count(*) from public.users") == [(len(done),)]
    async with shop.apply() as again:
        assert again.position == at
        await again.finish(transactions[len(done) :])
    assert await shop.rows("select count(*) from public.users") == [(30,)]


async def test_what_was_sent_is_not_taken_for_committed(shop: Destination) -> None:
    await seed(shop)
    async with shop.apply() as apply:
        before = apply.position
        async with shop.conn.transaction():
            await shop.conn.execute(b"select from public.users where id = 2 for update")
            answer = await apply.submit([shop.transaction(await shop.delete("users", id="2"))])
            await asyncio.sleep(0.2)
            assert apply.position == before
        await answer
        assert apply.position == shop.position


async def test_closed_while_a_batch_waits_for_a_lock(shop: Destination) -> None:
    await seed(shop)
    async with shop.conn.transaction():
        await shop.conn.execute(b"select from public.users where id = 1 for update")
        async with shop.apply() as apply:
            answer = await apply.submit([shop.transaction(await shop.delete("users", id="1"))])
            await asyncio.sleep(0.2)
        with pytest.raises(DomicileError, match="stopped"):
            await answer
    await asyncio.sleep(0.2)
    assert await shop.rows("select count(*) from public.users where id = 1") == [(1,)]


async def test_who_gives_up_a_batch_lets_others_wait_for_it(shop: Destination) -> None:
    """A stream that ends gives up all that it waits for, while its batches are on their way; who waits for their end
    then waits, and does not ask again and again."""
    await seed(shop)
    async with shop.apply() as apply:
        async with shop.conn.transaction():
            await shop.conn.execute(b"select from public.users where id = 2 for update")
            given_up = await apply.submit([shop.transaction(await shop.delete("users", id="2"))])
            given_up.cancel()
            following = asyncio.create_task(apply.send([Statement(b"select 1")]))
            begun = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - begun < 0.1
            assert not following.done()
        await (await following)
    assert await shop.rows("select count(*) from public.users where id = 2") == [(0,)]


async def test_errors_name_no_value(shop: Destination) -> None:
    """Of a check constraint, too, whose message quotes the row."""
    await shop.conn.execute(b"alter table public.users add check (email <> 'hidden@example.com')")
    error = await refusal(shop, await shop.insert("users", id="3", email="'hidden@example.com'"))
    assert "hidden" not in repr(error.as_dict())
    assert "hidden" not in "".join(traceback.format_exception(error))
