"""The oracle over real moves: clean when nothing is wrong, and every planted harm is seen."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
import copy
from dataclasses import dataclass
import json
import random
import sys

from benchmarks import oracle as benchmark
import psycopg
import pytest
from reliability.history import Append, Level, Outcome, Read, Transaction
from reliability.oracle import book, conduct, judge
from reliability.oracle.book import SITES, Population, found_at
from reliability.oracle.conduct import Played, Stage
from reliability.oracle.memory import Facts, Heard, Memory, Page, Served, Tick, Try, key_of
from reliability.oracle.prober import Prober
from reliability.oracle.sessions import Sessions
from reliability.oracle.writers import Config
from tests.conftest import create_database, drop_database

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Question
from domicile.sites.embedded import EmbeddedCluster, scratch_directory

SECONDS, RATE = 12.0, 150.0
BROKEN_SECONDS = 4.0  # writers go on behind a handover of which some no longer hear
PEOPLE = Population(circles=2, waves=2, wave_subjects=6, staying=6)


@dataclass(frozen=True, slots=True)
class Run:
    """One run, and the databases that it left: templates, of which tests take copies."""

    played: Played
    names: dict[str, str]


@pytest.fixture(scope="module")
async def run(pg18: EmbeddedCluster) -> AsyncIterator[Run]:
    names = {site: await create_database(pg18, site) for site in SITES}
    control = await create_database(pg18, "control")
    sites = {site: pg18.conninfo(name) for site, name in names.items()}
    await book.build(sites, PEOPLE)
    with scratch_directory("domicile-oracle-") as state:
        place = conduct.workspace(state, sites, PEOPLE, pg18.conninfo(control))
        played = await conduct.play(
            Stage(place, sites, PEOPLE, seed=5, rate=RATE), SECONDS, lambda line: print(line, file=sys.stderr)
        )
    yield Run(played, names)
    for name in (*names.values(), control):
        await drop_database(pg18, name)


@pytest.fixture
async def sites(pg18: EmbeddedCluster, run: Run) -> AsyncIterator[dict[str, str]]:
    """Copies of what the run left, to be harmed."""
    copies = {site: f"{name}_copy" for site, name in run.names.items()}
    async with await psycopg.AsyncConnection.connect(pg18.conninfo(), autocommit=True) as conn:
        for site, name in copies.items():
            await conn.execute(f'create database "{name}" template "{run.names[site]}"'.encode())
    yield {site: pg18.conninfo(name) for site, name in copies.items()}
    for name in copies.values():
        await drop_database(pg18, name)


# In the place of the function by which the guard refuses.
NO_ANSWER = b"""
    create or replace function domicile.guard_answer(mark text, home text, epoch int8, dataset text, relation oid)
    returns void language plpgsql as 'begin end'"""


async def test_a_guard_that_has_stopped_refusing_is_found_out(pg18: EmbeddedCluster) -> None:
    """Behind a handover both sites take the wave's writes: the prober sees it, the acknowledgements show it, and what
    was written at the former home is lost."""
    names = {site: await create_database(pg18, site) for site in SITES}
    control = await create_database(pg18, "control")
    sites = {site: pg18.conninfo(name) for site, name in names.items()}
    await book.build(sites, PEOPLE)
    with scratch_directory("domicile-oracle-") as state:
        place = conduct.workspace(state, sites, PEOPLE, pg18.conninfo(control))
        async with conduct.writing(Config(sites, PEOPLE, rate=RATE, probes=50)) as busy:
            await busy.focus(PEOPLE.circle(0))
            plan = await commands.plan(place, Question(book.DATASET, *SITES, where="circle = 0"))
            assert (await commands.apply(place, plan)).status is Status.WAITING
            for conninfo in sites.values():
                async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
                    await conn.execute(NO_ANSWER)
            await asyncio.sleep(BROKEN_SECONDS)
            memory = await busy.stop(state / "memory")
    assert memory.probes["taken taken"] > 0, memory.probes
    found = await judge.verdict(memory, sites, PEOPLE)
    assert found.dual_home > memory.found.counts["dual_home"], found
    assert found.lost > 0, found
    for name in (*names.values(), control):
        await drop_database(pg18, name)


async def test_moves_under_writes_harm_nothing(run: Run, sites: dict[str, str]) -> None:
    found = await judge.verdict(run.played.memory, sites, PEOPLE)
    assert found.clean, found
    figures = benchmark.figures(run.played, found)
    assert not benchmark.harmed(figures), figures
    json.dumps(figures)


async def test_the_run_was_one(run: Run) -> None:
    """Everything that can go wrong was there: otherwise nothing was shown."""
    memory, moved = run.played.memory, run.played.moved
    assert moved.handovers >= moved.rollbacks >= PEOPLE.waves
    assert moved.looks >= moved.moves
    assert memory.acknowledged > 1_000
    assert any({"taken", "DM001"} == set(answers.split()) for answers in memory.probes), memory.probes
    assert memory.refused["DM001"] > 0
    for level, history in memory.histories.items():
        assert any(isinstance(op, Read) and op.values for t in history for op in t.ops), level
        assert any(len({op.key for op in t.ops}) > 1 for t in history), level
    assert any(t.outcome is Outcome.FAILED for history in memory.histories.values() for t in history)
    assert {one.site for served in memory.served.values() for one in served} == {0, 1}
    assert max(one.epoch for served in memory.served.values() for one in served) >= 1
    assert any(memory.finals.values()), "full lists were taken away"


SETTLED = "(select max(subject) from book.list where cardinality(marks) > 2)"
TAMPERED = {
    "a row beside a list is gone": (
        "lost",
        "delete from book.entry where id = (select min(id::text)::uuid from book.entry)",
    ),
    "a mark is gone": ("lost", f"update book.list set marks = marks[2:] where subject = {SETTLED}"),
    "a list is gone": ("lost", f"delete from book.list where subject = {SETTLED}"),
    "a page is gone": ("lost", "delete from book.page where id = (select min(id) from book.page)"),
    "a tick is gone": ("lost", f"update book.subject set ticks = ticks - 1 where id = {SETTLED}"),
    "a folder is another's": (
        "lost",
        """update book.folder set subject = (select max(id) from book.subject where id <> folder.subject)
           where id = (select min(id) from book.folder)""",
    ),
    "a row twice": (
        "doubled",
        "insert into book.entry (subject, no, mark) select subject, no, mark from book.entry order by id limit 1",
    ),
    "a mark twice": ("doubled", f"update book.list set marks = marks || marks[1] where subject = {SETTLED}"),
    "a page twice": ("doubled", "insert into book.page (folder, mark) select folder, mark from book.page limit 1"),
    "a tick twice": ("doubled", f"update book.subject set ticks = ticks + 1 where id = {SETTLED}"),
    "two marks exchanged": (
        "reordered",
        f"""update book.list as l set marks = (select array_agg(m order by n desc) from unnest(l.marks)
            with ordinality as t (m, n)) where subject = {SETTLED} and cardinality(marks) > 2""",
    ),
    "a mark that nobody wrote": (
        "unwritten",
        f"update book.list set marks = marks || -1::bigint where subject = {SETTLED}",
    ),
    "a page that nobody wrote": (
        "unwritten",
        "insert into book.page (folder, mark) select folder, -1 from book.page limit 1",
    ),
    "a row without its list": ("unwritten", f"insert into book.entry (subject, no, mark) values ({SETTLED}, 0, -1)"),
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_a_harm_is_seen(run: Run, sites: dict[str, str], name: str) -> None:
    expected, statement = TAMPERED[name]
    await harm(sites[SITES[0]], statement)
    found = await judge.verdict(run.played.memory, sites, PEOPLE)
    assert not found.clean
    assert getattr(found, expected) > 0, found
    assert found.examples
    assert benchmark.harmed(benchmark.figures(run.played, found))


@pytest.mark.parametrize("subject", [PEOPLE.stayers[0], 1], ids=["one who never moves", "one who moved"])
async def test_a_row_at_another_site_is_seen(run: Run, sites: dict[str, str], subject: int) -> None:
    home = await home_of(sites, subject)
    elsewhere = SITES[1 - SITES.index(home)]
    assert await judge.foreign(sites, PEOPLE) == 0
    await harm(sites[elsewhere], f"insert into book.subject (id, circle) values ({subject}, 0)")
    found = await judge.verdict(run.played.memory, sites, PEOPLE)
    assert found.foreign == 1, found
    assert await judge.foreign(sites, PEOPLE) == (1 if subject in PEOPLE.stayers else 0)


async def test_a_list_that_comes_back_is_seen(run: Run, sites: dict[str, str]) -> None:
    gone = next(key for finals in run.played.memory.finals.values() for key in finals)
    assert isinstance(gone, int)
    subject, no = divmod(gone, key_of(1, 0))
    home = await home_of(sites, subject)
    await harm(sites[home], f"insert into book.list (subject, no, marks) values ({subject}, {no}, array[1::bigint])")
    found = await judge.verdict(run.played.memory, sites, PEOPLE)
    assert found.unwritten >= 1, found


async def test_a_stale_read_is_seen(run: Run, sites: dict[str, str]) -> None:
    """One answer among thousands is replaced by what was there a moment ago."""
    memory = copy.deepcopy(run.played.memory)
    history = memory.histories[Level.SERIALIZABLE]
    at = next(
        no
        for no, one in enumerate(history)
        for op in one.ops
        if one.outcome is Outcome.OK and isinstance(op, Read) and len(op.values) > 3 and len(one.ops) == 2
    )
    one = history[at]
    stale = [Read(op.key, op.values[:-2]) if isinstance(op, Read) else op for op in one.ops]
    history[at] = Transaction(stale, one.outcome, one.session, one.begun, one.ended)
    found = await judge.verdict(memory, sites, PEOPLE)
    assert not found.clean
    assert {name.split(": ")[0] for name in found.anomalies} == {"serializable"}, found


async def test_a_refused_mark_that_is_there_is_seen(run: Run, sites: dict[str, str]) -> None:
    memory = copy.deepcopy(run.played.memory)
    history = memory.histories[Level.READ_COMMITTED]
    at = next(
        no
        for no, one in enumerate(history)
        if one.outcome is Outcome.OK and one.ops and all(isinstance(op, Append) for op in one.ops)
    )
    history[at] = Transaction(history[at].ops, Outcome.FAILED, None, history[at].begun, history[at].ended)
    found = await judge.verdict(memory, sites, PEOPLE)
    assert found.anomalies.get("read committed: G1a", 0) >= 1, found


async def test_two_homes_are_seen_in_the_acknowledgements(run: Run, sites: dict[str, str]) -> None:
    subject = next(s for s, served in run.played.memory.served.items() if len({one.site for one in served}) == 2)
    for change in ("site", "epoch"):
        memory = copy.deepcopy(run.played.memory)
        served = memory.served[subject]
        last = max(served, key=lambda one: one.ended)
        first = min(served, key=lambda one: one.ended)
        if change == "site":
            served.append(Served(1 - first.site, first.epoch, first.begun, first.ended))
        else:
            served.append(Served(first.site, first.epoch, last.ended + 1, last.ended + 2))
        assert first.epoch < last.epoch
        found = await judge.verdict(memory, sites, PEOPLE)
        assert found.dual_home >= 1, (change, found)


async def test_the_prober_sees_two_homes(sites: dict[str, str]) -> None:
    """A stayer's row is put at the other site, where no guard knows of it."""
    subject = PEOPLE.stayers[0]
    sessions, memory = Sessions(sites), Memory(tuple(sites))
    prober = Prober(sessions, memory, random.Random(1))
    await prober.probe(subject)
    assert memory.probes == Counter({"taken missing": 1})
    assert not memory.found.counts
    await harm(
        sites[SITES[1]],
        f"insert into book.subject (id, circle) values ({subject}, -1)",
        f"insert into book.probe (subject) values ({subject})",
    )
    await prober.probe(subject)
    assert memory.probes["taken taken"] == 1
    assert memory.found.counts == Counter(dual_home=1)
    await sessions.close()


def tried(*effects: Tick | Page, begun: float = 1.0) -> Try:
    return Try(book.level_of(1), 0, (1,), effects, begun, 1)


def heard(ended: float, mark: str = "open", ticks: int = 0) -> Heard:
    return Heard(0, ended, (), {1: Facts(0, mark)}, {1: ticks})


def test_a_counter_that_goes_back_is_seen() -> None:
    memory = Memory(SITES)
    memory.acknowledge(tried(Tick(1)), heard(2.0, ticks=1))
    memory.acknowledge(tried(Tick(1), begun=3.0), heard(4.0, ticks=2))
    assert not memory.found.counts
    memory.acknowledge(tried(Tick(1), begun=5.0), heard(6.0, ticks=2))
    assert memory.found.counts == Counter(reordered=1)


def test_a_write_under_a_fence_is_seen() -> None:
    memory = Memory(SITES)
    for mark in ("open", "closing", "resident"):
        memory.acknowledge(tried(), heard(2.0, mark))
    assert not memory.found.counts
    for mark in ("departed", "arriving", "fenced"):
        memory.acknowledge(tried(), heard(2.0, mark))
    assert memory.found.counts == Counter(dual_home=3)


def test_what_is_in_doubt_may_be_there_or_not() -> None:
    memory = Memory(SITES)
    for subject in PEOPLE.everybody:
        memory.begin_with(subject, subject)
    memory.doubt(tried(Tick(1), Page(1, 7)), [Append(key_of(1, 0), 8)])
    everybody = dict.fromkeys(PEOPLE.everybody, 3)
    empty = {site: judge.Holding() for site in SITES}
    for site in SITES:
        there = {subject for subject in PEOPLE.everybody if found_at(subject, PEOPLE) == site}
        empty[site] = judge.Holding(
            owned={s: everybody[s] for s in there}, ticks=dict.fromkeys(there, 0), folders={s: s for s in there}
        )
    assert judge.judge(memory, empty, PEOPLE).clean
    home = empty[SITES[0]]
    done = judge.Holding(
        home.owned,
        {**home.ticks, 1: 1},
        {key_of(1, 0): (8,)},
        {key_of(1, 0): Counter([8])},
        home.folders,
        {7: (1,)},
    )
    assert judge.judge(memory, {**empty, SITES[0]: done}, PEOPLE).clean
    twice = judge.Holding(done.owned, {**done.ticks, 1: 2}, done.lists, done.entries, done.folders, {7: (1, 1)})
    assert judge.judge(memory, {**empty, SITES[0]: twice}, PEOPLE).doubled == 2


async def harm(conninfo: str, *statements: str) -> None:
    """Do it in a session that no guard looks at, and make sure that it was done."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await conn.execute("set session_replication_role = replica")
        for statement in statements:
            assert (await conn.execute(statement.encode())).rowcount > 0, "the harm was done"


async def home_of(sites: dict[str, str], subject: int) -> str:
    """The one site that has the subject's row."""
    found = []
    for site, conninfo in sites.items():
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
            if await (await conn.execute("select 1 from book.subject where id = %s", (subject,))).fetchone():
                found.append(site)
    (home,) = found
    return home
