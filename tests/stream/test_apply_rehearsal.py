"""What a handover adds to the apply: statements in the same transaction, and the rehearsal of all of it."""

from __future__ import annotations

import asyncio

import pytest
from tests.stream.destination import UNSENT, WAVE, Destination, everything, seed

from domicile.model.errors import DomicileError, ErrorCode
from domicile.stream.pipeline import Refused, Statement


async def test_statements_of_a_handover_in_one_transaction(shop: Destination) -> None:
    await seed(shop)
    tail = [shop.transaction(await shop.update("orders", id="10", user_id="2", no="'A'", note=UNSENT))]
    mark = Statement(b"update domicile.wave set mark = 'resident' where id = $1::integer", (b"%d" % WAVE,))
    count = Statement(b"select count(*) from public.orders where user_id = 2")
    no = Statement(b"select domicile.refuse('not equal', 'public.orders')")
    async with shop.apply() as apply:
        with pytest.raises(Refused) as caught:
            await (await apply.send([*apply.compose(tail), no, mark], tail))
        assert (caught.value.reason, caught.value.about) == ("not equal", "public.orders")
        assert await shop.rows("select mark from domicile.wave where id = 3") == [("open",)]
        assert await shop.rows("select user_id from public.orders where id = 10") == [(1,)]
        statements = apply.compose(tail)
        answers = await (await apply.send([*statements, mark, count], tail))
        assert len(answers) == len(statements) + 2
        assert answers[-1].get_value(0, 0) == b"1"
        assert apply.position == tail[0].position == await shop.stored_position()
        await apply.finish([shop.transaction(await shop.insert("users", id="5"))])
    assert await shop.rows("select mark from domicile.wave where id = 3") == [("resident",)]


async def test_a_rehearsal_leaves_nothing_behind(shop: Destination) -> None:
    """Whatever it says, and however often: rows, position and session are as before."""
    await seed(shop)
    before = await everything(shop)
    deed = Statement(b"delete from public.item")
    wrong = Statement(b"select domicile.refuse('no', 'anything')", keep=True)
    async with shop.apply() as apply:
        for _ in range(2):
            await apply.rehearse([deed, wrong, deed])
            assert await everything(shop) == before
        await apply.finish([shop.transaction(await shop.delete("item", order_id="10", line="1"))])
        await apply.rehearse([wrong, deed])
        await (await apply.send([wrong._replace(text=b"select 1")]))
    assert await shop.rows("select count(*) from public.item where order_id < 900") == [(2,)]
    assert await shop.stored_position() == shop.position


async def test_a_rehearsal_that_the_server_does_not_understand_costs_nothing(shop: Destination) -> None:
    """The session forgets all that it had planned, because nobody knows what the server has of it."""
    unknown = Statement(b"select nothing from public.nowhere", keep=True)
    async with shop.apply() as apply:
        await apply.rehearse([unknown])
        await apply.finish([shop.transaction(await shop.insert("users", id="3", email="'c'"))])
        with pytest.raises(Refused):
            await (await apply.send([unknown]))
        await apply.finish([shop.transaction(await shop.insert("users", id="4", email="'d'"))])
    assert await shop.rows("select max(id) from public.users where id < 100") == [(4,)]


async def test_a_large_transaction_is_not_cut_by_a_rehearsal(shop: Destination) -> None:
    async with shop.apply() as apply:
        first, last = shop.parts(
            [await shop.insert("users", id="3", email="'c'")], [await shop.delete("users", id="3")]
        )
        await apply.submit([first])
        with pytest.raises(DomicileError) as caught:
            await apply.rehearse([])
        assert caught.value.code is ErrorCode.PAUSE_BUDGET
        await apply.finish([last])
    assert await shop.stored_position() == shop.position


async def test_a_rehearsal_that_is_cancelled_takes_the_session_with_it(shop: Destination) -> None:
    """Nothing may be committed behind what it has opened."""
    slow = Statement(b"select pg_catalog.pg_sleep(5)")
    async with shop.apply() as apply:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(apply.rehearse([slow]), 0.3)
        with pytest.raises(DomicileError) as caught:
            await apply.finish([shop.transaction(await shop.insert("users", id="3", email="'c'"))])
        assert caught.value.code is ErrorCode.INTERRUPTED
    assert await shop.stored_position() is None


async def test_a_rehearsal_without_the_lease_says_so(shop: Destination) -> None:
    async with shop.apply() as apply:
        await shop.conn.execute(b"update domicile.move set generation = generation + 1")
        with pytest.raises(DomicileError) as caught:
            await apply.rehearse([])
    assert caught.value.code is ErrorCode.LEASE_LOST
