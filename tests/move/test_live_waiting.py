"""The handover of a live wave as writers feel it: what is asked while they wait, and what is left alone behind it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
import itertools

import psycopg
import pytest
from tests.move.line import Deed, doing
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    ONE,
    PREPARE,
    TOUCH,
    arrived_whole,
    begun,
    owned,
    people,
    through,
    until,
)
from tests.move.places import Place, execute, scalar
from tests.move.test_live_arrival import REST, in_flight

from domicile.move import live_handover, live_verify
from domicile.move.live_wave import LiveWave
from domicile.postgres.checksum import Part
from domicile.stream import compare

SESSIONS = """
    select coalesce(array_agg(pid), '{}') from pg_stat_activity
    where application_name = 'domicile' and backend_type = 'client backend' and pid <> pg_backend_pid()"""


async def sessions(place: Place) -> set[int]:
    """Ours at the source."""
    found = await scalar(place.source, SESSIONS)
    assert isinstance(found, list)
    return set(found)


async def test_rows_that_are_known_are_hashed_beside_the_departure_and_the_others_behind_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them once, and all before the arrival."""
    one, two = (await people(place.source))[:2]
    residents = await owned(place.target)
    told: list[tuple[bool, int]] = []
    departed = False
    hold, last, sums = live_handover._held, compare.uncompared, compare.Side.sums

    async def held(wave: LiveWave, drains: live_handover.Drains) -> int:
        entered = await hold(wave, drains)
        await execute(place.source, TOUCH.format(one))
        await until(lambda: asyncio.sleep(0, bool(wave.catchup.waiting)))
        return entered

    async def spy(side: compare.Side, conn: psycopg.AsyncConnection, keys: compare.Keys) -> dict[int, Part]:
        if asked := compare.count(keys):
            told.append((departed, asked))
        return await sums(side, conn, keys)

    async def note() -> None:
        nonlocal departed
        departed = True

    monkeypatch.setattr(live_handover, "_held", held)
    monkeypatch.setattr(compare.Side, "sums", spy)
    # The writer in flight is read before the departure or behind it, as it happens: let it be behind.
    tails = itertools.cycle((slice(1), slice(None)))  # of each try
    monkeypatch.setattr(compare, "uncompared", lambda noted, equal, tail: last(noted, equal, tail[next(tails)]))
    in_flight(monkeypatch, place, TOUCH.format(two))
    async with begun(place, limits=replace(ONE, lock_timeout_ms=900)) as carrier:
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, {("live.departed", 1): note}), CATCHUP)
    assert told[-2:] == [(False, 1), (True, 1)]
    await arrived_whole(place, residents)


async def test_a_handover_costs_nobody_a_session(place: Place) -> None:
    """While those who waited are served, the servers have better things to do than to end processes."""
    at_arrival: list[set[int]] = []

    async def look() -> None:
        at_arrival.append(await sessions(place))

    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, {("live.arrived", 1): look}), CATCHUP)
        assert at_arrival[0] - await sessions(place) == set()


async def test_a_row_that_differs_does_not_bring_its_neighbours_back_under_the_lock(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (await people(place.source))[:3]
    found: list[compare.Touched] = []
    original = live_verify.equal_rows

    async def equal_rows(wave: LiveWave) -> compare.Touched:
        await live_verify.mark(wave)
        await execute(place.target, REST, f"update store.user_account set locale = 'xx' where id = {two}")
        found.append(await original(wave))
        await execute(place.target, REST, f"update store.user_account set locale = 'en' where id = {two}")
        return found[-1]

    touches = [
        *(f"update store.user_account set locale = 'en' where id = {each}" for each in (one, two, three)),
        f"update store.orders set total = total + 1 where user_id = {two}",
    ]
    deeds: dict[tuple[str, int], Deed] = {("live.closing", 1): lambda: execute(place.source, *touches)}
    monkeypatch.setattr(live_verify, "equal_rows", equal_rows)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        await through(doing(carrier, deeds), CATCHUP)
        orders = await scalar(place.source, f"select count(*) from store.orders where user_id = {two}")
    tables = [len(keys) for keys in found[0].values()]
    assert sorted(tables) == sorted([2, int(str(orders))])
