"""For tests that make trouble for live moves: small waves, a control database that many processes reach, marks, traces,
and users whom nobody writes for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
import time

import psycopg
import pytest
from tests.conftest import create_database, drop_database
from tests.move.places import SOURCE, STORE_MAP, TARGET, Place, execute, scalar, workspace_for

from domicile import commands
from domicile.commands.desk import carrier_for, open_desk
from domicile.commands.moves import create, freeze_cohort
from domicile.model.phase import PHASES_OF, Phase, Status
from domicile.model.plan import Limits, Mode, Plan, Question
from domicile.model.report import WaveStatus
from domicile.move import begin, live_verify
from domicile.move.carrier import Carrier
from domicile.move.live_wave import LiveWave
from domicile.move.run import Outcome, run_phase
from domicile.postgres import guard, waves
from domicile.sites.embedded import EmbeddedCluster
from domicile.world import oracle
from domicile.world.account import Account
from domicile.world.oracle import Copies, Law
from domicile.world.traffic import Config, Traffic

TOUCH = "update store.user_account set full_name = full_name || '!' where id = {}"
MOVE_SLOT = "select * from pg_replication_slots where database = current_database()"
INDIA = "market = 'IN'"
QUIET = 3  # every so many-th user is left alone by the writers
RATE = 60.0
SECONDS_MAX = 60.0
# A canary and two waves of Indians.
FEW = Limits(
    wave_subjects_max=20,
    canary_subjects_max=4,
    chunk_rows=300,
    purge_chunk_rows=300,
    handover_tries=60,
    settle_seconds=0,
)
# All Indians at once.
ONE = replace(FEW, wave_subjects_max=500, canary_subjects_max=0, fence_seconds_max=30.0)

_OWNERS: Mapping[str, str] = {
    "store.user_account": "select t.id as owner, t::text as row from store.user_account as t",
    "store.address": "select t.user_id, t::text from store.address as t",
    "store.device": "select t.user_id, t::text from store.device as t",
    "store.orders": "select t.user_id, t::text from store.orders as t",
    "store.order_item": "select user_id, t::text from store.order_item as t join store.orders as o on o.id = order_id",
    "store.payment": "select user_id, t::text from store.payment as t join store.orders as o on o.id = order_id",
    "store.review": "select t.user_id, t::text from store.review as t",
    "store.cart": "select t.user_id, t::text from store.cart as t",
    "store.cart_item": "select c.user_id, t::text from store.cart_item as t join store.cart as c on c.id = t.cart_id",
    'store."Wishlist"': 'select t.user_id, t::text from store."Wishlist" as t',
    "store.photo": "select t.user_id, t::text from store.photo as t",
    "store.referral": "select t.inviter_id, t::text from store.referral as t",
}
# A transaction that wrote an outsider's row is in the way of every fence.
IN_THE_WAY = """
    insert into store.review (user_id, product_id, stars, body)
    select max(id), 1, 1, 'slow' from store.user_account where market = 'CN'"""
_MARKS = "select no, mark from domicile.wave order by no"
_TRACES = """
    select 'slot' from pg_replication_slots where database = current_database()
    union all select 'publication' from pg_publication
    union all select 'armed guard' from pg_trigger where starts_with(tgname, 'zz_domicile') and tgenabled <> 'D'
    union all select 'trigger' from pg_trigger where starts_with(tgname, 'zz_domicile')
    union all select 'move' from domicile.move
    union all select 'wave' from domicile.wave
    union all select 'member' from domicile.member
    union all select 'progress' from domicile.progress
    union all select 'probe' from domicile.probe
    union all select 'prepared' from pg_prepared_xacts where database = current_database()"""

Owned = Counter[tuple[str, int, str]]


@asynccontextmanager
async def small_store(
    at: tuple[EmbeddedCluster, EmbeddedCluster], templates: tuple[str, str], state: Path, limits: Limits = FEW
) -> AsyncIterator[Place]:
    """A store at two sites, and a control database on the target's server, which outlives any mover."""
    names = [f"{template}_{state.name[-40:]}" for template in templates]
    control = await create_database(at[1], "control")
    try:
        for cluster, name, template in zip(at, names, templates, strict=True):
            await execute(cluster.conninfo(), f'create database "{name}" template "{template}"')
        source, target = (cluster.conninfo(name) for cluster, name in zip(at, names, strict=True))
        workspace = workspace_for(state, "store", STORE_MAP, (source, target), at[1].conninfo(control))
        yield Place(replace(workspace, limits=limits), source, target, "store")
    finally:
        for cluster, name in zip(at, names, strict=True):
            await drop_database(cluster, name)
        await drop_database(at[1], control)


async def plan_of(place: Place, where: str = INDIA, limits: Limits | None = None) -> Plan:
    """A plan of the live move."""
    question = Question(place.dataset, SOURCE, TARGET, where=where)
    plan = await commands.plan(place.workspace, question, limits=limits)
    assert not plan.refusals_of(Mode.LIVE), plan.refusals_of(Mode.LIVE)
    return plan


@asynccontextmanager
async def begun(place: Place, where: str = INDIA, limits: Limits = ONE) -> AsyncIterator[Carrier]:
    """A live move that has begun, whose phases the test carries out by itself."""
    plan = await plan_of(place, where, limits)
    async with open_desk(place.workspace) as desk:
        record = await create(desk, plan, Mode.LIVE)
        async with carrier_for(desk, record.move_id) as carrier, carrier.move.pool.keeping():
            await freeze_cohort(desk, carrier, plan)
            await begin.run(carrier)
            yield carrier


async def until(true: Callable[[], Awaitable[object]], seconds: float = SECONDS_MAX) -> None:
    """Wait until the question is answered with yes."""
    deadline = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        await asyncio.sleep(0.02)


async def marks(place: Place) -> tuple[dict[int, str], dict[int, str]]:
    """What each site says of each wave."""
    found = []
    for site in (place.source, place.target):
        async with await psycopg.AsyncConnection.connect(site, autocommit=True) as conn:
            found.append(dict(await (await conn.execute(_MARKS)).fetchall()))
    return found[0], found[1]


async def one_home(place: Place) -> None:
    """No wave is served at both sites."""
    source, target = await marks(place)
    serving = {no for no, mark in source.items() if mark in ("open", "closing", "resident")}
    assert not serving & {no for no, mark in target.items() if mark == "resident"}, (source, target)


async def traces(conninfo: str) -> Counter[str]:
    """What a move has left at a site."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        return Counter(kind for (kind,) in await (await conn.execute(_TRACES)).fetchall())


async def no_trace(place: Place) -> None:
    """Nothing is left of any move, and nobody is in a transaction of ours."""
    left = await traces(place.source), await traces(place.target)
    assert left == (Counter(), Counter()), left
    async with open_desk(place.workspace) as desk:
        row = await (await desk.conn.execute("select count(*) from domicile_directory.reservation")).fetchone()
        assert row == (0,)


async def write(conninfo: str, subject: int) -> str:
    """One write for a user; the SQLSTATE of the refusal, empty when it is committed."""
    try:
        touched = "update store.user_account set locale = locale where id = %s returning id"
        return "" if await scalar(conninfo, touched, subject) == subject else "nobody"
    except psycopg.Error as error:
        return error.sqlstate or "?"


async def members(place: Place, mark: str) -> list[int]:
    """The members of the waves that have this mark at the source."""
    found = await scalar(
        place.source,
        """select coalesce(array_agg(m.subject order by m.subject), '{}') from domicile.member as m
           join domicile.wave as w on w.id = m.wave where w.mark = %s""",
        mark,
    )
    assert isinstance(found, list)
    return found


async def owned(conninfo: str, *, quiet: int = 0) -> Owned:
    """Every row of every user with its owner; with ``quiet``, of every so many-th user."""
    found: Owned = Counter()
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        for table, query in _OWNERS.items():
            statement = f"select owner, row from ({query}) as t (owner, row)"
            if quiet:
                statement += f" where owner % {quiet} = 0"
            rows = await (await conn.execute(statement.encode())).fetchall()
            found.update((table, owner, row) for owner, row in rows)
    return found


async def both(place: Place, *, quiet: int = 0) -> Owned:
    """The same of both sites together: a row that is at both counts twice."""
    return await owned(place.source, quiet=quiet) + await owned(place.target, quiet=quiet)


@dataclass(slots=True)
class Busy:
    """Writers of the whole store, on this event loop."""

    place: Place
    traffic: Traffic
    running: asyncio.Task[None]
    still: Owned

    async def verdict(self, copies: Copies = Copies.NONE, visited: tuple[str, ...] = ()) -> Account:
        """Let them end, and compare what they were promised with what is there, and whom nobody wrote for with
        before."""
        self.traffic.stop()
        await self.running
        await self.traffic.settle()
        account = self.traffic.account()
        sites = {SOURCE: self.place.source, TARGET: self.place.target}
        found = await oracle.verdict(account, sites, Law(copies, staying=("CN",), visited=visited))
        assert found.clean, found
        assert not account.failures, account.failures
        assert set(account.refused) <= {"DM001", "DM002", "40001", "40P01"}, account.refused
        if copies is Copies.NONE:
            assert await both(self.place, quiet=QUIET) == self.still, "rows of users whom nobody wrote for"
        return account


@asynccontextmanager
async def busy(place: Place, seed: int, **weights: float) -> AsyncIterator[Busy]:
    """Writers for every market at both sites while the block runs, who follow what the guard tells them. ``weights``
    replaces those of kinds of transactions."""
    still = await both(place, quiet=QUIET)
    sites = {SOURCE: place.source, TARGET: place.target}
    traffic = Traffic(Config(sites, seed=seed, writers=4, rate=RATE, quiet=QUIET, doors=False, weights=weights))
    await traffic.open()
    running = asyncio.create_task(traffic.run())
    try:
        yield Busy(place, traffic, running, still)
    finally:
        traffic.stop()
        running.cancel()
        await asyncio.wait([running])
        await traffic.close()


PREPARE, COPY, CATCHUP, *_ = PHASES_OF[Mode.LIVE]


async def through(carrier: Carrier, *phases: Phase) -> None:
    """The only wave's phases. The last three are one: from the catch-up on the wave is carried to its arrival."""
    for phase in phases:
        outcome = await run_phase(carrier, 1, phase)
        wave = await carrier.figures.wave(carrier.move.move_id, 1)
        assert outcome is Outcome.DONE, (phase, wave.error_code, wave.error_message, wave.live)


async def refused(carrier: Carrier, phase: Phase = CATCHUP) -> WaveStatus:
    """The same of a phase that cannot be done: the wave has stepped back, and the source serves it."""
    assert await run_phase(carrier, 1, phase) is Outcome.FAILED
    wave = await carrier.figures.wave(carrier.move.move_id, 1)
    assert (wave.phase, wave.status) == (Phase.PLANNED, Status.FAILED)
    async with carrier.sites() as (source, target):
        at_source = await waves.find_wave(source, carrier.move.move_id, 1)
        assert at_source is not None
        assert at_source.mark == "open"
        assert await waves.find_wave(target, carrier.move.move_id, 1) is None
    return wave


async def ended(carrier: Carrier) -> None:
    """What the conductor does after a failure: nothing is left that costs the source anything."""
    await begin.end(carrier, Outcome.FAILED)


@asynccontextmanager
async def open_transaction(conninfo: str, *statements: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A transaction that has executed these statements and stays open; rolled back at the end, if it is still there."""
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        for statement in statements:
            await conn.execute(statement.encode())
        yield conn
        await conn.rollback()


async def people(conninfo: str, market: str = "IN") -> list[int]:
    """The users of a market, in key order."""
    found = await scalar(conninfo, "select array_agg(id order by id) from store.user_account where market = %s", market)
    assert isinstance(found, list)
    return found


def rows_of(rows: Owned, owners: Collection[int]) -> Owned:
    """Those of some users."""
    return Counter({row: count for row, count in rows.items() if row[1] in owners})


def without(rows: Owned, owners: Collection[int]) -> Owned:
    """Those of everybody else."""
    return Counter({row: count for row, count in rows.items() if row[1] not in owners})


async def arrived_whole(place: Place, residents: Owned) -> None:
    """After the handover, before the purge: the target has exactly the members' rows, as the closed copy at the source
    has them, beside its own."""
    moved = await members(place, "departed")
    at_source, at_target = await owned(place.source), await owned(place.target)
    assert rows_of(at_target, moved) == rows_of(at_source, moved)
    assert without(at_target, moved) == residents


@asynccontextmanager
async def held(place: Place, carrier: Carrier) -> AsyncIterator[psycopg.AsyncConnection]:
    """While the block runs the wave wants to be handed over, and somebody is in the way: what is yielded is the session
    of an outsider with an open transaction. The guard is armed before, as other waves may have left it."""
    limits = carrier.move.plan.limits
    async with carrier.source() as conn:
        await guard.arm(conn, carrier.move.data_map.in_scope(), seconds_max=limits.fence_seconds_max)
    async with open_transaction(place.source, IN_THE_WAY) as outsider:
        yield outsider


async def closing(place: Place) -> None:
    """Wait until the wave's writers must take its lock."""

    async def asked() -> bool:
        return (await marks(place))[0] == {1: "closing"}

    await until(asked)


def given_after_the_snapshot(monkeypatch: pytest.MonkeyPatch, place: Place, *statements: str) -> None:
    """The next comparison sees these statements at the target only: their changes come behind its snapshot of the
    source."""
    mark, visible = live_verify.mark, live_verify.visible

    def as_it_was() -> None:
        monkeypatch.setattr(live_verify, "mark", mark)
        monkeypatch.setattr(live_verify, "visible", visible)

    async def late(live: LiveWave) -> None:
        as_it_was()
        await execute(place.source, *statements)
        await mark(live)

    async def before(live: LiveWave) -> None:
        as_it_was()
        await visible(live)
        monkeypatch.setattr(live_verify, "mark", late)

    monkeypatch.setattr(live_verify, "mark", late)
    monkeypatch.setattr(live_verify, "visible", before)
