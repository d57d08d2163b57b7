"""A transaction is seen by a snapshot or by the stream behind it: never by both, never by neither."""

from __future__ import annotations

import asyncio
import random

from hypothesis import example, given
from hypothesis import strategies as st
import psycopg
import pytest

from domicile.stream.seam import Seam

WRAP = 1 << 32
OLDEST = 3  # 0 to 2 are no transactions of anybody


@st.composite
def seams(draw: st.DrawFn) -> Seam:
    """Snapshots near and far from the places where 32 bits begin again."""
    epoch = draw(st.integers(0, 3)) * WRAP
    xmin = max(OLDEST, epoch + draw(st.integers(-1000, 1000) | st.integers(0, WRAP - 1)))
    xmax = xmin + draw(st.integers(0, 2000))
    running = draw(st.lists(st.integers(xmin, xmax - 1), max_size=20)) if xmax > xmin else []
    return Seam(xmin, xmax, frozenset(running))


@given(seams())
def test_its_text_is_postgresql_s(seam: Seam) -> None:
    assert Seam.parse(str(seam)) == seam


@pytest.mark.parametrize("text", ["10:10:", "10:12:10", "10:20:11,15", "4294967290:4294967300:4294967291,4294967296"])
def test_texts_of_the_server_survive(text: str) -> None:
    assert str(Seam.parse(text)) == text


@given(seams(), st.integers(-3000, 3000))
def test_it_sees_what_ended_before_and_nothing_else(seam: Seam, offset: int) -> None:
    xid = seam.xmin + offset
    if xid < seam.xmin:
        assert seam.sees(xid)
    elif xid >= seam.xmax or xid in seam.running:
        assert not seam.sees(xid)
    else:
        assert seam.sees(xid)


@given(seams(), st.integers(0, 3000), st.integers(-3000, 6000))
def test_with_its_own_transaction_it_sees_that_one_more(seam: Seam, ahead: int, offset: int) -> None:
    """Also of a transaction that took its number after the snapshot: whoever took one in between may be running."""
    own = seam.xmax + ahead
    other = own + offset
    assert seam.with_seen(own).sees(other) == (other == own or seam.sees(other))
    for running in seam.running:
        assert seam.with_seen(running).sees(running)


@given(seams(), st.integers(-(WRAP // 2) + 1, WRAP // 2 - 1))
@example(Seam(WRAP - 2, WRAP + 2, frozenset()), -3)
@example(Seam(WRAP - 2, WRAP + 2, frozenset()), 0)
@example(Seam(2 * WRAP, 2 * WRAP, frozenset()), -1)
def test_32_bits_are_enough_within_half_of_them(seam: Seam, offset: int) -> None:
    full = seam.xmax + offset
    if full < OLDEST:
        return
    assert seam.widen(full % WRAP) == full
    assert seam.sees_short(full % WRAP) == seam.sees(full)


def test_across_the_wrap_the_smaller_number_is_the_later_one() -> None:
    seam = Seam(WRAP - 5, WRAP + 5, frozenset({WRAP - 1, WRAP + 4}))
    assert seam.sees_short(WRAP - 6)
    assert seam.sees_short(WRAP - 5)
    assert not seam.sees_short(WRAP - 1), "was running"
    assert seam.sees_short(3), "ended already, after the wrap"
    assert not seam.sees_short(4), "was running"
    assert not seam.sees_short(5), "began later"


async def test_it_agrees_with_the_server_s_own_answer(any_database: str, seed: int) -> None:
    """Sixty transactions, of which some are open when the snapshot is taken and some begin later."""
    rng = random.Random(seed)
    async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as conn:
        open_now: dict[int, psycopg.AsyncConnection] = {}
        xids: list[int] = []

        async def begin() -> None:
            writer = await psycopg.AsyncConnection.connect(any_database)
            row = await (await writer.execute("select pg_current_xact_id()::text::bigint")).fetchone()
            assert row is not None
            xids.append(row[0])
            open_now[row[0]] = writer

        async def end(xid: int) -> None:
            writer = open_now.pop(xid)
            await writer.commit()
            await writer.close()

        for _ in range(40):
            await begin()
            if rng.random() < 0.7:
                await end(rng.choice(list(open_now)))
        row = await (await conn.execute("select pg_current_snapshot()::text")).fetchone()
        assert row is not None
        seam = Seam.parse(row[0])
        assert not any(seam.sees(xid) for xid in open_now)
        for _ in range(20):
            await begin()
        await asyncio.gather(*(end(xid) for xid in list(open_now)))
        cursor = await conn.execute(
            "select x, pg_visible_in_snapshot(x::text::xid8, %s::pg_snapshot) from unnest(%s::bigint[]) as x",
            (row[0], xids),
        )
        for xid, visible in await cursor.fetchall():
            assert seam.sees(xid) == visible, xid
            assert seam.sees_short(xid % WRAP) == visible, xid
