"""Does a failover of a site, in the middle of a live move or while its waves soak, lose a write or make two homes?

    python -m reliability.chaos.promotion [--rounds 12] [--seed 1] [--json] [--record]

Each round: two sites, of which one has a physical standby; a move whose process is killed at a named point; the
primary dies, its standby is promoted with everything, or (``behind``) without the last commits; the operator orders
``domicile resume``. Then every user must have one home that takes his writes, and every write that was acknowledged and
survived the failover must be there once. A write that a promoted site took for somebody who lived elsewhere must still
be in its copy, which is in doubt then and cannot be purged. Exits 1 when a round found anything else.

The two servers are copies of one stopped cluster. What the standby is to lack is committed while it is stopped:
asynchronous replication that was a moment behind.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
import itertools
import json
from pathlib import Path
import random
import shutil
import subprocess
import sys
import time
from typing import Any

import psycopg

from domicile import world
from domicile.sites import binaries
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from reliability import record
from reliability.chaos.orders import Operator, Order

LOOK_SECONDS = 0.02
SECONDS_MAX = 30.0
ORDER_SECONDS = 90.0
ORDERS_MAX = 4  # a wave that stepped back is begun again by the next
USERS_SCALE, RESIDENTS = 0.005, 20
SOURCE, TARGET = "beijing", "singapore"
DATABASE, CONTROL = "store", "control"
MEMBERS, OUTSIDERS = "market = 'IN'", "market = 'CN'"
SOAKING = "soaking"
BEFORE = ("prepare.reserved", "copy.chunk_committed", "copy.done", "live.catchup", "live.verify", "live.closing")
AFTER = ("live.locked", "live.departed", "live.arrived", "live.published", SOAKING)
ROUNDS, SEED, FEW = 12, 1, 3
SOME = 3  # of the users whom the move is about, and as many others
_PEOPLE = "select id, market from store.user_account order by id"
_FLUSHED = "select (pg_current_wal_flush_lsn() - '0/0')::bigint"
_REPLAYED = "select (pg_last_wal_replay_lsn() - '0/0')::bigint"
_PROMOTE = "select pg_promote(true, 30)::integer"
_SMALL = {"shared_buffers": "32MB", "max_wal_size": "128MB"}
_CONFIG = """\
version: 1
state: state
control: "{control}"
sites:
  beijing: {{jurisdiction: CN, conninfo: "{source}"}}
  singapore: {{jurisdiction: SG, conninfo: "{target}"}}
datasets:
  store:
    map: store.map.yaml
    at: [beijing, singapore]
limits: {{settle_seconds: 0, chunk_rows: 200, fence_seconds_max: 20}}
"""
_REVIEW = """
    insert into store.review (user_id, product_id, stars, body)
    select id, 1, 5, %s from store.user_account where id = %s returning user_id"""
_TOUCH = "update store.user_account set locale = locale where id = %s returning id"
_SETTLED = "select phase = 'soak' or phase = 'planned' and status = 'aborted' from domicile_control.wave"
_REVIEWED = "select body, count(*) from store.review where starts_with(body, 'write ') group by 1"


@dataclass(slots=True)
class Site:
    """``now`` is the server that serves: the primary, and after `fail_over` the standby, at another port."""

    primary: EmbeddedCluster
    standby: EmbeddedCluster
    now: EmbeddedCluster

    async def caught_up(self) -> None:
        """Wait until the standby has everything that is committed now."""
        end = await _number(self.primary, _FLUSHED)
        deadline = time.monotonic() + SECONDS_MAX
        while await _number(self.standby, _REPLAYED) < end:
            assert time.monotonic() < deadline, "the standby does not follow"
            await asyncio.sleep(LOOK_SECONDS)

    async def cut(self) -> None:
        """What is committed from now on never reaches the standby."""
        await self.caught_up()
        await self.standby.stop()

    async def fail_over(self) -> None:
        """The primary dies for good; the standby is promoted with what it has."""
        if self.standby.running:
            await self.caught_up()
        await self.primary.kill()
        await self.standby.start()
        assert await _number(self.standby, _PROMOTE), "it was not promoted"
        self.now = self.standby


@asynccontextmanager
async def site(golden: EmbeddedCluster, directory: Path, name: str, *, alone: bool = False) -> AsyncIterator[Site]:
    """A primary and, unless ``alone``, its standby, with what the stopped ``golden`` holds; gone behind the block."""
    primary = await _copy(golden, directory, f"{name}-primary", _SMALL)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(primary.destroy)
        await primary.start()
        standby = primary
        if not alone:
            upstream = primary.conninfo().replace("dbname=postgres", "")
            standby = await _copy(golden, directory, f"{name}-standby", {**_SMALL, "primary_conninfo": upstream})
            stack.push_async_callback(standby.destroy)
            (standby.data / "standby.signal").touch()
            await standby.start()
        yield Site(primary, standby, primary)


async def _copy(golden: EmbeddedCluster, directory: Path, name: str, settings: Mapping[str, str]) -> EmbeddedCluster:
    assert not golden.running, "a copy of files that change is none"
    base = directory / name
    base.mkdir(mode=0o711)
    # Owners too: they are the server's account.
    await asyncio.to_thread(subprocess.run, ["cp", "-a", str(golden.data), str(base / "data")], check=True)
    shutil.copy2(golden.base / "password", base / "password")
    return await EmbeddedCluster.create(directory, name, bindir=golden.binaries.bindir, settings=settings)


async def _number(cluster: EmbeddedCluster, query: str) -> int:
    ((found,),) = await _rows(cluster.conninfo(), query)
    return int(found or 0)


async def golden(directory: Path, name: str, bindir: Path | None, site_number: int) -> EmbeddedCluster:
    """A stopped server with a small store, to be copied."""
    async with await EmbeddedCluster.create(directory, name, bindir=bindir) as cluster:
        async with await psycopg.AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
            await conn.execute("create database store")
            await conn.execute("create database control")
        async with await psycopg.AsyncConnection.connect(cluster.conninfo(DATABASE), autocommit=True) as conn:
            await world.create_schema(conn, site_number=site_number)
            await world.populate_reference(conn)
            if site_number == 0:
                await world.populate(conn, scale=USERS_SCALE)
            else:
                await world.populate_residents(conn, users=RESIDENTS, site_number=site_number)
    return cluster


@dataclass(frozen=True, slots=True)
class Course:
    """Which site fails over, with the mover dead at ``point``. ``behind``: its standby lacks what was committed since
    that point of an earlier process, none when it lacks nothing."""

    version: int
    fails: str
    point: str
    behind: str = ""

    def __str__(self) -> str:
        lacking = f", the standby as at {self.behind}" if self.behind else ""
        return f"{self.version}->18, {self.fails} fails over at {self.point}{lacking}"


@dataclass(frozen=True, slots=True)
class Write:
    """One that was acknowledged at ``site``. ``survives``: the server that serves there in the end has it."""

    subject: int
    body: str
    site: str
    member: bool
    survives: bool


@dataclass(slots=True)
class Round:
    """One course on its way."""

    course: Course
    folder: Path
    sites: Mapping[str, Site]
    control: str
    operator: Operator
    people: Mapping[int, bool]  # who writes, and whether the move is about them
    cut: bool = False
    over: bool = False
    written: list[Write] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def configure(self) -> None:
        source, target = (self.sites[name].now.conninfo(DATABASE) for name in (SOURCE, TARGET))
        text = _CONFIG.format(control=self.control, source=source, target=target)
        (self.folder / "domicile.yaml").write_text(text, encoding="utf-8")

    async def order(self, *arguments: str, point: str = "") -> Order:
        self.configure()
        order = self.operator.give(*arguments, failpoint=f"{point}:kill" if point else "")
        if not await order.end(ORDER_SECONDS):
            await order.kill()
        if point and not order.killed:
            raise AssertionError(f"not killed at {point}: {order.said()[-400:]}")
        return order

    async def write(self) -> None:
        """Everybody writes wherever they are let."""
        for name, place in self.sites.items():
            async with await psycopg.AsyncConnection.connect(place.now.conninfo(DATABASE), autocommit=True) as conn:
                for subject, member in self.people.items():
                    body = f"write {next(self.numbers)}"
                    try:
                        row = await (await conn.execute(_REVIEW, (body, subject))).fetchone()
                    except psycopg.Error:
                        continue
                    lost = name == self.course.fails and self.cut and not self.over
                    if row is not None:
                        self.written.append(Write(subject, body, name, member, not lost))

    async def serving(self, subject: int) -> list[str]:
        """The sites that take a write of this user."""
        found = []
        for name, place in self.sites.items():
            async with await psycopg.AsyncConnection.connect(place.now.conninfo(DATABASE), autocommit=True) as conn:
                try:
                    if await (await conn.execute(_TOUCH, (subject,))).fetchone():
                        found.append(name)
                except psycopg.Error:
                    continue
        return found


async def play(now: Round) -> tuple[list[str], float]:
    """The course, to its verdict: what was found, and the seconds from the failover to the end of the last order."""
    course, failing = now.course, now.sites[now.course.fails]
    await now.write()
    planned = await now.order("plan", "store", "--from", SOURCE, "--to", TARGET, "--where", MEMBERS, "-o", "plan.json")
    if planned.code:
        raise AssertionError(planned.said()[-400:])
    first = course.behind or course.point
    await now.order("apply", "plan.json", "--yes", point="" if first == SOAKING else first)
    move = await _move(now.control)
    await now.write()
    if course.behind:
        await failing.cut()
        now.cut = True
        await now.write()
        await now.order("resume", move, point="" if course.point == SOAKING else course.point)
        await now.write()
    await failing.fail_over()
    now.over = True
    since = time.monotonic()
    await now.write()
    for _ in range(ORDERS_MAX):
        last = await now.order("resume", move)
        if await _settled(now.control):
            break
    else:
        raise AssertionError(f"it does not come to its end: {last.said()[-400:]}")
    seconds = time.monotonic() - since
    await now.write()
    return await judge(now), seconds


async def judge(now: Round) -> list[str]:
    """What is not as it must be."""
    found: list[str] = []
    there = {n: Counter(dict(await _rows(p.now.conninfo(DATABASE), _REVIEWED))) for n, p in now.sites.items()}
    doubted = await _rows(now.control, "select 1 from domicile_control.event where what = 'copy in doubt'")
    homes = {subject: await now.serving(subject) for subject in now.people}
    for subject, serving in homes.items():
        if len(serving) != 1:
            found.append(f"user {subject} is served by {serving or 'nobody'}")
    for write in now.written:
        for home in homes[write.subject][:1]:
            times = there[home][write.body]
            kept = bool(doubted) and write.site != home and there[write.site][write.body] == 1
            if times > 1:
                found.append(f"{write} is there {times} times")
            if write.survives and not times and not kept:
                found.append(f"{write} is lost")
        if not write.member and any(there[name][write.body] for name in now.sites if name != write.site):
            found.append(f"{write} of an outsider has left its site")
    return found


async def _move(control: str) -> str:
    ((move,),) = await _rows(control, "select move_id from domicile_control.move")
    return str(move)


async def _settled(control: str) -> bool:
    """Every wave lives at the target, or came home by itself."""
    return all(settled for (settled,) in await _rows(control, _SETTLED))


async def _rows(conninfo: str, query: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        return await (await conn.execute(query.encode())).fetchall()


def courses(dice: random.Random, versions: list[int]) -> list[Course]:
    """Every one there is, in an order of the dice."""
    order = (*BEFORE, *AFTER)
    found = [Course(version, fails, point) for version in versions for fails in (SOURCE, TARGET) for point in order]
    found += [
        Course(version, fails, point, behind)
        for version in versions
        for fails in (SOURCE, TARGET)
        for behind, point in itertools.combinations(order, 2)
        if behind in BEFORE and point != behind
    ]
    dice.shuffle(found)
    return found


async def campaign(rounds: int, seed: int) -> dict[str, Any]:
    """So many courses; the figures."""
    dice = random.Random(seed)
    old = next((b for b in binaries.installed() if b.major == 15), None)
    versions = [18] if old is None else [18, 15]
    found: list[str] = []
    seconds: list[float] = []
    counts: Counter[str] = Counter()
    with scratch_directory("domicile-promotion-") as scratch:
        source = {18: await golden(scratch, "golden-18", None, 0)}
        if old is not None:
            source[15] = await golden(scratch, "golden-15", old.bindir, 0)
        target = await golden(scratch, "golden-target", None, 1)
        for number, course in enumerate(itertools.islice(courses(dice, versions), rounds), 1):
            folder = scratch / f"round-{number}"
            folder.mkdir(mode=0o711)
            async with AsyncExitStack() as stack:
                one = Round(*await _stage(stack, course, folder, (source[course.version], target)))
                try:
                    wrong, took = await play(one)
                except AssertionError as trouble:
                    wrong, took = [str(trouble)], 0.0
            found += [f"{course}: {what}" for what in wrong]
            seconds.append(round(took, 2))
            kind = f"{course.fails} {'behind' if course.behind else 'whole'}"
            counts.update({kind: 1, "acknowledged": len(one.written)})
            print(f"{number} of {rounds}: {course}: {len(wrong)} found, {took:.1f} s", file=sys.stderr, flush=True)
    spread = {"p50": sorted(seconds)[len(seconds) // 2], "max": max(seconds)}
    return {"seed": seed, "rounds": rounds, "counts": dict(counts), "resume_seconds": spread, "found": found}


async def _stage(
    stack: AsyncExitStack, course: Course, folder: Path, golden_ones: tuple[EmbeddedCluster, EmbeddedCluster]
) -> tuple[Course, Path, Mapping[str, Site], str, Operator, Mapping[int, bool]]:
    """The servers and who writes. The control database stands with the site that does not fail over."""
    sites = {
        name: await stack.enter_async_context(site(golden, folder, name, alone=name != course.fails))
        for name, golden in zip((SOURCE, TARGET), golden_ones, strict=True)
    }
    (other,) = [place for name, place in sites.items() if name != course.fails]
    shutil.copy(Path(world.__file__).parent / "store.map.yaml", folder)
    operator = Operator(folder)
    stack.callback(operator.dismiss)
    rows = await _rows(sites[SOURCE].now.conninfo(DATABASE), _PEOPLE)
    some = [[n for n, market in rows if market == wanted][:SOME] for wanted in ("IN", "CN")]
    people = {subject: member for member, ids in zip((True, False), some, strict=True) for subject in ids}
    return course, folder, sites, other.primary.conninfo(CONTROL), operator, people


async def run(seed: int) -> list[str]:
    """A few rounds; what was found."""
    return list((await campaign(FEW, seed))["found"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.chaos.promotion", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how many failovers ({ROUNDS})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"which ones ({SEED})")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help="write the figures to reliability/results/promotion.json")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    figures = asyncio.run(campaign(options.rounds, options.seed))
    if options.record:
        record.write("promotion", figures)
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:16} {value}")
    return 1 if figures["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
