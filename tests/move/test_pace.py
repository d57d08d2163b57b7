"""The mover holds itself back when an application's writes suffer, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
import time

import psycopg
import pytest
from tests.conftest import SitePair
from tests.copy.kit import Rig, data_map, rig

from domicile.model.plan import Limits
from domicile.model.site import SiteName
from domicile.move import copy
from domicile.move.context import Move
from domicile.move.pace import FASTER, SLOWER, SPEED_FIRST, SPEED_MIN, STREAM_SPEED_MIN, Pace, Watch, open_pace, p99
from domicile.postgres import probe_write
from domicile.postgres.brake import Brakes

LIMITS = Limits(probe_p99_ratio_max=1.5, probe_p99_ms_min=20.0)
MAP = data_map("public.users", {"public.files": "user_id -> public.users(id)"})


def test_a_single_straggler_never_counts() -> None:
    assert p99([1.0] * 199 + [900.0]) == 1.0
    assert p99([1.0] * 9 + [900.0]) == 1.0
    assert p99([1.0] * 98 + [900.0, 800.0]) == 800.0
    assert p99([7.0]) == 7.0


class Line:
    """A stream whose servers take ``natural`` seconds for a block of 64 KiB, which the mover handles in ``own``
    seconds, with buffers for a hundred blocks between."""

    def __init__(self, natural: float, own: float = 0.000_05) -> None:
        self.natural = natural
        self.own = own
        self.share = 0.0
        self.brakes = Brakes(lambda: self.share)
        self.brake = self.brakes.of("here")
        self._behind = 0.0  # seconds of work that lie in the buffers

    def seconds(self, blocks: int) -> float:
        """How long so many blocks take."""
        total = 0.0
        for _ in range(blocks):
            blocked = max(0.0, self._behind + self.natural - self.own - 100 * self.natural)
            busy = self.own + blocked
            wait = self.brake.wait(65_536, busy, blocked)
            self._behind = max(0.0, self._behind + self.natural - busy - wait)
            total += busy + wait
        return total


@pytest.mark.parametrize("own", [0.000_05, 0.000_9, 0.001_2])
def test_a_brake_keeps_the_share_also_when_buffers_hide_the_work(own: float) -> None:
    line = Line(0.001, own)
    line.seconds(1_000)
    natural = line.seconds(2_000)
    assert natural == pytest.approx(2_000 * max(own, 0.001)), "nothing is held back"
    for share, times in ((0.5, 2), (0.9, 10), (0.95, 20)):
        line.share = share
        line.seconds(200)
        assert line.seconds(2_000) == pytest.approx(natural * times, rel=0.2)
    line.share = 0.0
    assert line.seconds(50) <= 0.065


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_brake_learns_that_rows_have_become_slower(share: float) -> None:
    line = Line(0.001)
    line.seconds(2_000)
    line.share = share
    line.natural = 0.010
    line.seconds(3_000)
    assert line.seconds(1_000) == pytest.approx(10 / (1 - share), rel=0.25)


def test_a_brake_knows_each_table_by_itself() -> None:
    line = Line(0.001)
    line.seconds(2_000)
    line.share, line.natural = 0.9, 0.010
    line.brake = line.brakes.of("there")
    line.seconds(300)
    assert line.seconds(1_000) == pytest.approx(100, rel=0.25), "not what the quick table takes"
    line.natural = 0.001
    line.brake = line.brakes.of("here")
    assert line.seconds(1_000) == pytest.approx(10, rel=0.25), "known from before"


def test_a_brake_does_not_take_a_lock_for_slow_rows() -> None:
    line = Line(0.001)
    line.seconds(2_000)
    line.brake.wait(65_536, 120.0, 120.0)
    line.share = 0.5
    assert line.seconds(1_000) < 4.0


def watch(base_ms: float | None = 10.0) -> Watch:
    return Watch(SiteName("here"), LIMITS, base_ms, reachable=True)


def measured(found: Watch, ms: float, writes: int = 10) -> None:
    """As if so many writes had just taken so long."""
    now = time.monotonic()
    found._samples.extend((now, ms) for _ in range(writes))


def running(*watches: Watch) -> Pace:
    """At full speed, after its beginning."""
    pace = Pace(watches)
    pace._speed, pace._trying = 1.0, False
    return pace


def test_it_begins_slowly_and_doubles_until_writes_take_too_long() -> None:
    one = watch()
    pace = Pace((one,))
    assert pace.slowed == pytest.approx(1 - SPEED_FIRST)
    for times in (2, 4, 8):
        measured(one, 1.0)
        pace.decide()
        assert pace.slowed == pytest.approx(1 - times * SPEED_FIRST)
    measured(one, 500.0)
    pace.decide()
    assert pace.slowed == pytest.approx(1 - 8 * SPEED_FIRST * SLOWER)
    one._samples.clear()
    measured(one, 1.0)
    pace.decide()
    assert pace.slowed == pytest.approx(1 - 8 * SPEED_FIRST * SLOWER - FASTER), "small steps from now on"


def test_slower_by_large_steps_faster_by_small_ones() -> None:
    one, other = watch(), watch(base_ms=100.0)
    pace = running(one, other)
    for step in range(1, 20):
        measured(one, 21.0)
        measured(other, 149.0)
        pace.decide()
        assert pace.slowed == pytest.approx(1 - max(SPEED_MIN, SLOWER**step), abs=0.001)
    assert pace.slowed == pytest.approx(0.95), "the move still ends"
    assert (pace.base_ms, pace.p99_ms) == (10.0, 21.0), "of the site that is worse off"
    slowed = pace.slowed
    for _ in range(10):
        measured(one, 19.0)
        measured(other, 149.0)
        pace.decide()
        assert pace.slowed == pytest.approx(slowed - FASTER, abs=0.001)
        slowed = pace.slowed
    for found in (one, other):
        found._samples.clear()
        measured(found, 1.0)
    for _ in range(60):
        pace.decide()
    assert pace.slowed == 0.0


@pytest.mark.parametrize(("ms_one", "ms_other", "down"), [(21, 149, True), (19, 151, True), (19, 149, False)])
def test_the_worse_of_both_sites_counts(ms_one: float, ms_other: float, down: bool) -> None:
    one, other = watch(), watch(base_ms=100.0)
    pace = running(one, other)
    measured(one, ms_one)
    measured(other, ms_other)
    pace.decide()
    assert (pace.slowed > 0) is down


def test_what_was_measured_before_a_step_does_not_cause_another() -> None:
    one = watch()
    pace = running(one)
    measured(one, 500.0)
    for _ in range(5):
        pace.decide()
    assert pace.slowed == pytest.approx(1 - SLOWER)


def test_a_site_that_cannot_be_measured_is_left_out() -> None:
    gone, here, unknown = watch(), watch(), watch(base_ms=None)
    gone.reachable = False
    for found in (gone, unknown):
        measured(found, 5_000.0)
    pace = running(gone, here, unknown)
    pace.decide()
    assert pace.slowed == 0.0
    pace._speed = 0.5
    here.reachable = False
    pace.decide()
    assert pace.slowed == pytest.approx(0.5 - FASTER), "nobody says that it is too fast"


def test_a_write_that_does_not_come_back_counts() -> None:
    one = watch()
    pace = running(one)
    one._begun = time.monotonic() - 2
    pace.decide()
    assert pace.slowed > 0


async def test_nothing_is_held_back_during_a_handover() -> None:
    one = watch()
    pace = running(one)
    pace._speed = SPEED_MIN
    assert await turn_seconds(pace) == pytest.approx(0.05 / STREAM_SPEED_MIN - 0.05, rel=0.5), (
        "more than a turn at work"
    )
    pace._turned = time.monotonic() - 1
    waiting = asyncio.create_task(pace.turn())
    await asyncio.sleep(0)
    with pace.free():
        before = time.monotonic()
        await waiting
        assert time.monotonic() - before < 0.05, "woken"
        assert pace.slowed == 0.0
        assert await turn_seconds(pace) < 0.05
        measured(one, 900.0)
    pace.decide()
    assert pace.slowed == 0.95, "still as before, and the handover's own writes are not counted"
    pace._speed = 1.0
    pace.decide()
    assert pace.slowed == 0.0


async def turn_seconds(pace: Pace) -> float:
    pace._turned = time.monotonic() - 1
    before = time.monotonic()
    await pace.turn()
    return time.monotonic() - before


@pytest.fixture
async def sites(site_pair: SitePair) -> AsyncIterator[Rig]:
    async with rig(site_pair) as ready:
        yield ready


async def filled(sites: Rig, rows: int, **limits: float) -> Move:
    """Users with files at the source, and the move of all of them."""
    await sites.both(
        """create table public.users (id int primary key);
        create table public.files (id int primary key, user_id int not null, body text);
        create index on public.files (user_id)"""
    )
    await sites.source.execute("insert into public.users select generate_series(1, 100)")
    await sites.source.execute(
        "insert into public.files select n, 1 + n %% 100, repeat(md5(n::text), 6) from generate_series(1, %s) as n",
        (rows,),
    )
    await sites.source.execute("analyze")
    await sites.register(MAP, range(1, 101), **limits)
    return sites.move


async def writers(sites: Rig) -> set[int]:
    """Server processes of the probe."""
    found = set()
    for conn in (sites.source, sites.target):
        cursor = await conn.execute(
            "select pid from pg_stat_activity where application_name = %s and datname = current_database()",
            (probe_write.APPLICATION_NAME,),
        )
        found |= {row[0] for row in await cursor.fetchall()}
    return found


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_idle_sites_hold_nobody_back(sites: Rig) -> None:
    async with open_pace(await filled(sites, 10, probe_p99_ms_min=2_000.0)) as pace:
        assert pace.base_ms is not None
        assert pace.base_ms > 0
        await until(lambda: pace.p99_ms is not None and all(len(w.recent(0)) > 10 for w in pace._watches))
        await until(lambda: pace.slowed == 0.0)
        for conn in (sites.source, sites.target):
            assert (await sites.texts(conn, "select count(*), min(move_id) from domicile.probe")) == [(1, "m1")]
        assert len(await writers(sites)) == 2
    for conn in (sites.source, sites.target):
        assert (await sites.texts(conn, "select count(*) from domicile.probe")) == [(0,)], "nothing stays behind"
    assert not await writers(sites)


async def test_writes_beyond_the_limit_slow_down_and_below_it_speed_up(sites: Rig) -> None:
    async with open_pace(await filled(sites, 10, probe_p99_ratio_max=0.001, probe_p99_ms_min=0.001)) as pace:
        await until(lambda: pace.slowed > 0.9)
        for found in pace._watches:
            found.limits = Limits(probe_p99_ms_min=60_000.0)
        slowed = pace.slowed
        await until(lambda: pace.slowed < slowed - 0.05)


async def test_a_probe_that_fails_harms_nobody_and_comes_back(sites: Rig) -> None:
    async with open_pace(await filled(sites, 10, probe_p99_ms_min=2_000.0)) as pace:
        for conn in (sites.source, sites.target):
            await conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
                (probe_write.APPLICATION_NAME,),
            )
        await until(lambda: not all(w.reachable for w in pace._watches))
        await until(lambda: all(w.reachable for w in pace._watches))
        await sites.source.execute("vacuum full domicile.probe")
        await sites.target.execute("truncate domicile.probe")
        for found in pace._watches:
            found._samples.clear()
        await until(lambda: all(len(w.recent(0)) > 5 for w in pace._watches))


async def test_sites_that_do_not_answer_do_not_keep_the_move_from_beginning(sites: Rig) -> None:
    move = await filled(sites, 10)
    nowhere = "host=127.0.0.1 port=1 dbname=x user=x"
    before = time.monotonic()
    async with open_pace(copy_of(move, nowhere)) as pace:
        assert time.monotonic() - before < 10
        assert (pace.base_ms, pace.p99_ms) == (None, None)
        await until(lambda: pace.slowed == 0.0)


def copy_of(move: Move, conninfo: str) -> Move:
    return Move(
        move.move_id, move.plan, move.data_map, conninfo, conninfo, move.source_schema, move.target_schema,
        move.generation, move.failpoints,
    )  # fmt: skip


async def copied(sites: Rig, brakes: Brakes) -> float:
    """Seconds of the copy, from nothing, held back so."""
    await sites.target.execute("truncate public.users, public.files, domicile.progress")

    async def report(rows: int, size: int) -> None:
        """Nobody looks."""

    before = time.monotonic()
    await copy.run(sites.move, sites.wave, report, brakes=brakes)
    return time.monotonic() - before


class Hand:
    """Brakes with the share set by hand."""

    def __init__(self) -> None:
        self.share = 0.0
        self.brakes = Brakes(lambda: self.share)


async def learnt(sites: Rig, hand: Hand) -> float:
    """Copy freely until the speed is known; seconds of the last copy."""
    for _ in range(20):
        seconds = await copied(sites, hand.brakes)
        if hand.brakes._speeds["public.files"].natural is not None:
            return seconds
    raise AssertionError("nothing was learnt")


async def test_a_copy_held_back_takes_longer_by_the_share(sites: Rig) -> None:
    await filled(sites, 60_000, streams=1, chunk_rows=1_000_000)
    hand = Hand()
    free = await learnt(sites, hand)
    hand.share = 0.9
    held = await copied(sites, hand.brakes)
    assert 4 < held / free < 25, (free, held)


async def test_writes_are_served_sooner_when_a_saturating_copy_is_held_back(sites: Rig) -> None:
    move = await filled(sites, 400_000, streams=6, chunk_rows=5_000)
    hand = Hand()

    async def saturate() -> None:
        while True:
            await copied(sites, hand.brakes)

    async with open_pace(move) as pace:
        load = asyncio.create_task(saturate())
        taken: dict[float, list[float]] = {0.0: [], 0.95: []}
        for _ in range(3):
            for share in taken:
                hand.share = share
                await asyncio.sleep(0.7)  # until buffers are empty
                for found in pace._watches:
                    found._samples.clear()
                await asyncio.sleep(1.5)
                taken[share] += [ms for found in pace._watches for ms in found.recent(0)]
        assert not load.done(), load
        load.cancel()
        await asyncio.wait([load])
    free, held = (sorted(ms)[len(ms) * 9 // 10] for ms in taken.values())
    assert held < free, taken


async def test_a_stop_ends_a_copy_that_rests(sites: Rig) -> None:
    await filled(sites, 100_000, streams=1, chunk_rows=1_000_000)
    hand = Hand()
    await learnt(sites, hand)
    hand.share = 0.99
    resting = asyncio.create_task(copied(sites, hand.brakes))
    await asyncio.sleep(1)
    assert not resting.done()
    before = time.monotonic()
    resting.cancel()
    await asyncio.wait([resting])
    assert time.monotonic() - before < 5
    with pytest.raises((asyncio.CancelledError, psycopg.Error)):
        resting.result()
