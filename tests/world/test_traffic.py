"""The writers' account and the oracle's verdict: clean when nothing is wrong, and every planted harm is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
import os

import psycopg
import pytest
from tests.conftest import create_database, drop_database

from domicile import world
from domicile.sites.embedded import EmbeddedCluster
from domicile.world import oracle
from domicile.world.account import Account, Met, Spread, Timings, Transacted
from domicile.world.kinds import Kind
from domicile.world.ledger import Append, Give, Insert, Leave, Ledger, Person, Put, Try
from domicile.world.oracle import Copies, Holding, Law, Verdict, judge
from domicile.world.process import writers
from domicile.world.traffic import Config, Traffic

HERE, THERE = "beijing", "singapore"
SECONDS = 1.0
SOME_OF_ALL = {str(kind): 10.0 for kind in Kind}


@dataclass(frozen=True, slots=True)
class Written:
    """Two stores and what their writers were promised."""

    account: Account
    names: dict[str, str]


async def fill(cluster: EmbeddedCluster, number: int) -> str:
    name = await create_database(cluster, "traffic")
    async with await psycopg.AsyncConnection.connect(cluster.conninfo(name), autocommit=True) as conn:
        await world.create_schema(conn, site_number=number)
        if number == 0:
            await world.populate(conn, scale=0.005)
        else:
            await world.populate_residents(conn, users=30, site_number=number)
    return name


async def write(config: Config, seconds: float = SECONDS) -> Account:
    traffic = Traffic(config)
    await traffic.open()
    running = asyncio.create_task(traffic.run())
    await asyncio.sleep(seconds)
    traffic.stop()
    await running
    await traffic.settle()
    await traffic.close()
    return traffic.account()


@pytest.fixture(scope="module")
async def written(pg18: EmbeddedCluster) -> AsyncIterator[Written]:
    """One run without a move, in templates that tests clone."""
    names = {HERE: await fill(pg18, 0), THERE: await fill(pg18, 1)}
    sites = {site: pg18.conninfo(name) for site, name in names.items()}
    account = await write(Config(sites, seed=3, writers=8, weights={**SOME_OF_ALL, "leave": 0.5}, hot=0.5))
    yield Written(account, names)
    for name in names.values():
        await drop_database(pg18, name)


@pytest.fixture
async def sites(pg18: EmbeddedCluster, written: Written) -> AsyncIterator[dict[str, str]]:
    """Copies of the stores, to be harmed."""
    copies = {site: f"{name}_copy" for site, name in written.names.items()}
    async with await psycopg.AsyncConnection.connect(pg18.conninfo(), autocommit=True) as conn:
        for site, name in copies.items():
            await conn.execute(f'create database "{name}" template "{written.names[site]}"'.encode())
    yield {site: pg18.conninfo(name) for site, name in copies.items()}
    for name in copies.values():
        await drop_database(pg18, name)


async def test_without_a_move_all_is_where_it_was_written(written: Written, sites: dict[str, str]) -> None:
    account = written.account
    found = await oracle.verdict(account, sites, Law(Copies.NONE, staying=("CN", "IN")))
    assert found.clean, found
    assert found.acknowledged == account.acknowledged > 100
    assert not account.failures
    assert set(account.refused) <= {"40001", "40P01"}
    ledger = account.ledger
    assert {kind for kind, _ in ledger.rows} == set(oracle.ROWS_WITH_MARKS)
    assert {kind for _, kind in ledger.lists} == set(oracle.LISTS)
    assert ledger.carts
    assert ledger.gone
    assert {person.market for person in ledger.people.values()} >= {"CN", "IN", "SG", "US"}


async def test_the_shop_audited_what_the_writers_were_told(written: Written, sites: dict[str, str]) -> None:
    for site, conninfo in sites.items():
        async with await psycopg.AsyncConnection.connect(conninfo) as conn:
            (entries,) = await (
                await conn.execute("select count(*) from store.audit_log where actor <> 'shop'")
            ).fetchone() or (None,)
        assert entries == written.account.ledger.audited[site]


HARMS = {
    "a lost row": ("lost", "delete from store.review where body = (select min(body) from store.review where {mine})"),
    "a lost mark": ("lost", "update store.user_account set profile = profile - 'marks' where profile ? 'marks'"),
    "a lost item": (
        "lost",
        """delete from store.order_item
           where (order_id, line_no) = (select o.id, 1 from store.orders as o where {mine} limit 1)""",
    ),
    "a lost quantity": ("lost", "update store.cart_item set quantity = 1 where quantity > 5"),
    "another owner": (
        "lost",
        """update store.orders as o
           set user_id = (select id from store.user_account where id <> o.user_id order by id limit 1)
           where o.id = (select max(id) from store.orders where {mine})""",
    ),
    "a doubled row": (
        "doubled",
        """insert into store.review (user_id, product_id, stars, body)
           select user_id, product_id, stars, body from store.review where {mine} limit 1""",
    ),
    "a doubled mark": ("doubled", "update store.address set lines = lines || lines[cardinality(lines)] where {mine}"),
    "a swapped order": (
        "reordered",
        """update store.user_account set profile = jsonb_set(profile, '{{marks}}', (
               select jsonb_agg(m order by n desc)
               from jsonb_array_elements(profile->'marks') with ordinality as t (m, n)))
           where profile ? 'marks'""",
    ),
    "a row rolled back": (
        "unexplained",
        """insert into store.review (user_id, product_id, stars, body)
           select min(user_id), 1, 1, 't3-9-taken-back' from store.review""",
    ),
}
MINE = {"review": "body like 't3-%'", "orders": "note like 't3-%'", "address": "lines[cardinality(lines)] like 't3-%'"}


@pytest.mark.parametrize("name", HARMS)
async def test_a_harm_is_seen(written: Written, sites: dict[str, str], name: str) -> None:
    expected, statement = HARMS[name]
    mine = next((MINE[t] for t in ("review", "orders", "address") if f"store.{t}" in statement), "")
    async with await psycopg.AsyncConnection.connect(sites[HERE], autocommit=True) as conn:
        done = await conn.execute(statement.format(mine=mine).encode())
        assert done.rowcount > 0, "the harm was done"
    found = await oracle.verdict(written.account, sites)
    assert not found.clean
    assert getattr(found, expected) > 0, found
    harmless = {"lost", "doubled", "reordered", "unexplained", "foreign", "two_homes"} - {expected}
    assert [(what, getattr(found, what)) for what in harmless if getattr(found, what)] == []
    assert found.examples


async def test_a_copy_at_another_site_is_seen(written: Written, sites: dict[str, str]) -> None:
    user = min(written.account.ledger.homes)
    market = written.account.ledger.people[user].market
    async with await psycopg.AsyncConnection.connect(sites[THERE], autocommit=True) as conn:
        await conn.execute(
            """insert into store.user_account (id, email, phone, full_name, market, locale)
               values (%s, 'x', '', '', %s, '')""",
            (user, market),
        )
    found = await oracle.verdict(written.account, sites)
    assert (found.foreign, found.lost) == (1, 0)
    quiet = Account(Ledger("none-", dict(written.account.ledger.people)), (HERE, THERE))
    assert (await oracle.verdict(quiet, sites)).clean, "nobody wrote: it may have moved"
    assert (await oracle.verdict(quiet, sites, Law(staying=(market,)))).foreign == 1, "but not if it had to stay"


async def test_a_deleted_account_that_is_back_is_seen(written: Written, sites: dict[str, str]) -> None:
    user = next(u for u, site in written.account.ledger.gone.items() if site == HERE)
    async with await psycopg.AsyncConnection.connect(sites[HERE], autocommit=True) as conn:
        await conn.execute(
            "insert into store.referral (inviter_id, code, channel, invited_at) values (%s, 'x', '', now())", (user,)
        )
    assert (await oracle.verdict(written.account, sites)).lost == 1


def ledger() -> Ledger:
    return Ledger("t1-", {1: Person("IN", HERE), 2: Person("IN", HERE), 3: Person("CN", HERE)})


def at(site: str, epoch: float, begun: float, user: int = 1) -> Try:
    return Try(user, site, epoch, begun)


def holding(*marks: str, user: int = 1, rows: dict[str, int] | None = None) -> Holding:
    """Marks in the user's profile, reviews by mark and owner."""
    kept = {("review", mark): [(owner, ())] for mark, owner in (rows or {}).items()}
    return Holding({(user, "profile"): list(marks)} if marks else {}, kept, {}, {user: 1} if marks or rows else {})


def moved() -> Ledger:
    """User 1 writes here, moves, writes there."""
    book = ledger()
    book.acknowledge(at(HERE, 0, 1.0), [Append(1, "profile", "a")], 1.1)
    book.acknowledge(at(THERE, 1, 2.0), [Append(1, "profile", "b"), Insert(1, "review", "r")], 2.1)
    book.acknowledge(at(THERE, 1, 3.0), [Append(1, "profile", "c"), Insert(1, "review", "s")], 3.1)
    return book


def test_copies_at_the_former_home() -> None:
    there = holding("a", "b", "c", rows={"r": 1, "s": 1})
    assert judge(moved(), {HERE: holding("a"), THERE: there}).clean
    assert judge(moved(), {HERE: holding(), THERE: there}, Law(Copies.NONE)).clean
    assert judge(moved(), {HERE: holding("a"), THERE: there}, Law(Copies.NONE)).foreign == 1
    newer = {HERE: holding("a", "c"), THERE: there}
    assert judge(moved(), newer).two_homes == 1
    assert judge(moved(), newer, Law(Copies.CURRENT)).clean
    assert judge(moved(), {HERE: holding("a", rows={"s": 1}), THERE: there}).two_homes == 1
    assert judge(moved(), {HERE: there, THERE: holding("a")}).lost == 4


def test_a_visit_during_which_nobody_wrote() -> None:
    book = ledger()
    book.acknowledge(at(HERE, 0, 1.0), [Append(1, "profile", "a")], 1.1)
    book.acknowledge(at(HERE, 2, 9.0), [Append(1, "profile", "b")], 9.1)
    visited = {HERE: holding("a", "b"), THERE: holding("a")}
    assert judge(book, visited).foreign == 1
    assert judge(book, visited, Law(visited=(THERE,))).clean


def test_two_homes_are_seen_by_who_acknowledges() -> None:
    book = moved()
    book.acknowledge(
        at(HERE, -1, 2.05), [], 3.5
    )  # begun before the first answer there: its commit may have been before
    book.acknowledge(at(THERE, 1, 3.6), [], 3.7)
    assert book.two_homes == 0
    book.acknowledge(at(HERE, -1, 4.0), [], 4.1)
    book.acknowledge(at(THERE, 1, 4.05), [], 4.2)  # under way together: perhaps it was committed before
    assert book.two_homes == 0
    book.acknowledge(at(HERE, -1, 4.3), [], 4.4)
    book.acknowledge(at(THERE, 1, 4.5), [], 4.6)
    assert book.two_homes == 1


def test_a_user_who_moved_back_has_one_home() -> None:
    book = moved()
    book.acknowledge(at(HERE, -1, 4.0), [], 4.1)  # a router that forgot everything is the first to find out
    book.acknowledge(at(HERE, 2, 5.0), [], 5.1)  # told so
    book.acknowledge(at(HERE, 2, 6.0), [], 6.1)
    assert (book.two_homes, book.homes[1].site) == (0, HERE)
    book.acknowledge(at(THERE, 1, 7.0), [], 7.1)
    book.acknowledge(at(HERE, 2, 8.0), [], 8.1)
    assert book.two_homes == 1


def test_order_is_judged_by_acknowledgements() -> None:
    book = ledger()
    for mark, begun, now in (("a", 1.0, 2.0), ("b", 1.5, 2.5), ("c", 3.0, 3.5)):
        book.acknowledge(at(HERE, 0, begun), [Append(1, "profile", mark)], now)
    book.doubt(at(HERE, 0, 4.0), [Append(1, "profile", "d")])

    def reordered(*marks: str) -> int:
        return judge(book, {HERE: holding(*marks)}).reordered

    assert reordered("a", "b", "c") == reordered("b", "a", "c", "d") == 0, "a and b were under way together"
    assert reordered("a", "c", "b") == 1
    assert reordered("d", "c", "a", "b") == 2, "what is in doubt is late all the same"


def test_what_is_in_doubt_may_be_there_or_not() -> None:
    book = ledger()
    book.acknowledge(at(HERE, 0, 1.0), [Put(1, 5, 7), Insert(1, "order", "o", (1, 2, 2))], 1.1)
    book.acknowledge(at(HERE, 0, 1.0, 2), [], 1.1)
    book.doubt(at(HERE, 0, 2.0), [Append(1, "profile", "a"), Insert(1, "review", "r"), Put(1, 5, 9), Give("o", 2)])
    for owner in (1, 2):
        order = {("order", "o"): [(owner, (1, 2, 2))]}
        for quantity in (7, 9):
            for more in ({}, {("review", "r"): [(1, ())]}):
                there = Holding({}, {**order, **more}, {(1, 5): quantity}, {1: 3, 2: 1})
                assert judge(book, {HERE: there}).clean
        assert judge(book, {HERE: Holding({}, order, {(1, 5): 8}, {1: 3, 2: 1})}).lost == 1
    book.doubt(at(HERE, 0, 3.0, 2), [Leave(2)])
    assert judge(book, {HERE: Holding({}, {("order", "o"): [(1, (1, 2, 2))]}, {(1, 5): 7}, {1: 3})}).clean
    assert book.unknown == 2


def test_pauses_are_those_of_who_was_in_flight() -> None:
    timings = Timings()
    for one in (
        Transacted(1, 9.0, 0.002, Met.NOTHING, 0, 0.0),
        Transacted(1, 10.0, 0.030, Met.MOVED, 1, 1.0),  # waited, was told, is the first there
        Transacted(2, 10.01, 0.040, Met.MOVED, 1, 1.0),
        Transacted(2, 10.02, 0.050, Met.NOTHING, 1, 1.0),  # a straying one that met nothing
        Transacted(3, 20.0, 0.500, Met.MOVED, 1, 1.0),  # told long after: redirected, not paused
        Transacted(1, 30.0, 0.020, Met.MOVING, 0, 2.0),  # and back
        Transacted(3, 31.0, 0.700, Met.MOVING, 0, 0.0),  # never told anything, but to wait
        Transacted(9, 30.0, 9.000, Met.MOVED, 0, 1.0),  # of no wave that is asked about
    ):
        timings.add(one)
    account = Account(ledger(), (HERE, THERE), timings)
    waves = {1: 1, 2: 1, 3: 1}
    assert [tuple(round(ms) for ms in met) for met in account.handovers(waves)] == [(700,), (30, 40), (20,)]
    assert account.pauses(waves) == Spread(3, 40.0, 700.0, 700.0)
    assert Spread.of([]) == Spread()
    assert account.latency(after=30.0).max == 9000.0


async def test_nobody_waits_for_a_friend_who_is_at_home_elsewhere(sites: dict[str, str]) -> None:
    """A copy that is on its way answers DM002 and where its subject lives, for as long as it is on its way."""
    answer = """
        create function wait() returns trigger language plpgsql as $body$ begin
            raise exception using errcode = 'DM002', detail = '{"home": "singapore", "epoch": 1, "dataset": "store"}';
        end $body$;
        create trigger wait before update on store.orders for each row when (new.user_id <> old.user_id)
            execute function wait()"""
    async with await psycopg.AsyncConnection.connect(sites[HERE], autocommit=True) as conn:
        await conn.execute(answer)
    kinds = {**{str(kind): 0.0 for kind in Kind}, "order": 1.0, "give order": 1.0}
    account = await write(Config(sites, writers=4, weights=kinds, markets=("IN",)))
    assert account.given_up["apart"] == account.refused["DM002"] > 0
    assert not account.failures


async def test_lost_connections_leave_doubt_but_no_harm(sites: dict[str, str]) -> None:
    traffic = Traffic(Config(sites, seed=4, writers=6))
    await traffic.open()
    running = asyncio.create_task(traffic.run())
    async with await psycopg.AsyncConnection.connect(sites[HERE], autocommit=True) as conn:
        for _ in range(8):
            await asyncio.sleep(0.1)
            await conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'store application' and datname = current_database()"
            )
    async with asyncio.timeout(20):  # however slow the machine is
        while traffic.account().acknowledged <= 50:
            await asyncio.sleep(0.1)
    traffic.stop()
    await running
    await traffic.settle()
    await traffic.close()
    account = traffic.account()
    found = await oracle.verdict(account, sites)
    assert found.clean, found
    assert not account.failures
    assert any(met & Met.BROKEN for met in account.timings.met)
    assert account.acknowledged > 50


async def test_a_process_of_their_own_ends_with_its_parent(sites: dict[str, str]) -> None:
    config = Config(sites, seed=5, writers=4, rate=200.0, doors=False, quiet=2)
    async with await psycopg.AsyncConnection.connect(sites[HERE]) as conn:
        before = {row[0] for row in await (await conn.execute("select id from store.user_account")).fetchall()}
    async with writers(config) as busy:
        await asyncio.sleep(0.5)
        await busy.open_doors()
        account = await busy.stop()
    assert account.acknowledged > 20
    assert not account.failures
    assert (await oracle.verdict(account, sites)).clean
    quiet = [user for user in account.ledger.homes if user % 2 == 0 and user in before]
    assert quiet == [], "every second user is left alone"
    async with writers(config) as idle:
        pid = idle.pid
        assert os.getpgid(pid) == pid, "a terminal's Ctrl-C does not reach it: the parent decides"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_verdict_says_all_it_found() -> None:
    clean = Verdict(5, 0)
    for what in ("lost", "doubled", "reordered", "unexplained", "foreign", "two_homes"):
        assert not replace(clean, **{what: 1}).clean
    assert clean.clean
