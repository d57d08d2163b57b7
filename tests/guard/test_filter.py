"""The filter lets outsiders through without a look into the marks: it must never be behind a fence."""

from __future__ import annotations

import psycopg
import pytest
from tests.guard.kit import HERE, Guarded, register

from domicile.postgres import guard, guard_filter

BODY = "select prosrc from pg_proc where proname = 'guard_filter'"
BODY_AND_VERSION = "select xmin::text || prosrc from pg_proc where proname = 'guard_filter'"
NARROW = "select pg_catalog.get_bit"
OF_A_MEMBER = "update orders set note = note || 'n' where id = 20"


async def test_a_session_that_has_used_it_hears_of_the_next_fence(any_shop: Guarded) -> None:
    """Filter and plan are cached in the session; a fence alone, without drain or refresh, makes it forget them."""
    shop = any_shop
    await shop.fence()
    async with shop.writer() as busy, shop.writer("repeatable read") as steady:
        await steady.conn.rollback()
        for n in range(6, 20):
            statement = f"update orders set note = note || 'n' where id = {n * 10}"
            other = await register(shop.conn, [n], move="m2")
            for writer in (busy, steady):
                await writer.run(statement)
                await writer.commit()
            await guard.set_fence(shop.conn, other, "fenced", HERE, 4)
            for writer in (busy, steady):
                await writer.refused(statement, "DM002")
            if n % 2:
                await guard_filter.refresh(shop.conn)
            for writer in (busy, steady):
                await writer.refused(statement, "DM002")
                await writer.run("update orders set note = note || 'n' where id = 200")
                await writer.commit()


async def test_it_is_open_between_the_fence_and_the_drain_and_narrow_after(shop: Guarded) -> None:
    await shop.arm()
    assert (await shop.value(BODY)).strip() == "select false"
    await shop.mark("fenced")
    assert await shop.value(BODY) == "select true"
    await shop.drain()
    assert (await shop.value(BODY)).strip().startswith(NARROW)
    for mark in ("departed", "fenced"):
        await shop.mark(mark)
        assert (await shop.value(BODY)).strip().startswith(NARROW)
    await shop.mark("open")
    assert await guard_filter.refresh(shop.conn)
    assert not await guard_filter.refresh(shop.conn)
    await shop.mark("fenced")
    assert await shop.value(BODY) == "select true"


@pytest.mark.parametrize("mark", ["closing", "fenced"])
async def test_a_wave_that_it_knows_before_is_fenced_without_a_change(any_shop: Guarded, mark: str) -> None:
    shop = any_shop
    assert await guard.arm(shop.conn, shop.tables, wave_id=shop.wave)
    assert not await guard.arm(shop.conn, shop.tables, wave_id=shop.wave)
    before = await shop.value(BODY_AND_VERSION)
    assert NARROW in before
    async with shop.writer() as writer:
        await writer.run(OF_A_MEMBER)
        await writer.commit()
        await shop.mark(mark)
        await shop.drain()
        assert await shop.value(BODY_AND_VERSION) == before
        if mark == "fenced":
            await writer.refused(OF_A_MEMBER, "DM002")
        else:
            await writer.run(OF_A_MEMBER)
            assert await shop.holders() == [writer.conn.info.backend_pid]


async def test_one_member_that_it_does_not_know_voids_it(any_shop: Guarded) -> None:
    shop = any_shop
    await guard.arm(shop.conn, shop.tables, wave_id=shop.wave)
    stranger = await shop.value("select min(n) from generate_series(10, 100) as n where not domicile.guard_filter(n)")
    await shop.conn.execute(
        "insert into domicile.member (wave, ordinal, subject) values (%s, 99, %s)", (shop.wave, stranger)
    )
    await shop.mark("fenced")
    assert await shop.value(BODY) == "select true"


async def test_it_knows_each_member_and_few_others(shop: Guarded) -> None:
    await register(shop.conn, range(100, 300_000, 50), mark="arriving", move="m2")
    await shop.arm()
    known = "select count(*) filter (where domicile.guard_filter({})) from "
    assert await shop.value(known.format("subject") + "domicile.member where subject >= 100") == 5998
    others = await shop.value(known.format("n") + "generate_series(1000000, 1100000) as n")
    assert 1_000 < others < 20_000


async def test_too_many_members_are_all_asked_about(shop: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_filter, "MEMBERS_MAX", 4)
    await shop.fence()
    assert await shop.value(BODY) == "select true"
    async with shop.writer() as writer:
        await writer.refused("update orders set note = 'n' where id = 20", "DM002")
        await writer.run("update orders set note = 'n' where id = 120")


async def test_a_fence_under_another_isolation_is_refused(shop: Guarded) -> None:
    await shop.conn.execute("begin isolation level repeatable read")
    await shop.mark("fenced")
    with pytest.raises(psycopg.errors.RaiseException, match="READ COMMITTED only"):
        await shop.conn.execute("commit")
