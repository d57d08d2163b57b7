"""Chaos in small: each fault of the proxy is one, a cut in the middle of a live move costs nothing, harm is seen."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
import copy
from dataclasses import dataclass, field
import json
from random import Random
import time

import psycopg
import pytest
from reliability.chaos import digest
from reliability.chaos.campaign import Rounds, campaign
from reliability.chaos.digest import Look
from reliability.chaos.faults import Kind
from reliability.chaos.proxy import LOOPBACK, Proxy, Way
from reliability.chaos.stage import Stage, installed_pairs, small, staged
from reliability.chaos.tally import RESUME_SECONDS_MAX, Tally, Violation
from reliability.chaos.writing import Pen, writing
from reliability.oracle.book import SITES
from reliability.oracle.memory import Memory
from reliability.oracle.writers import Config
from tests.conftest import SEED

from domicile.sites.embedded import EmbeddedCluster

SOON, NEVER = 2.0, 0.3  # seconds: what must come, comes within the first; what must not, has not within the second


@dataclass(slots=True)
class Echo:
    """A server that sends back what it hears, line by line, and tells what it heard."""

    heard: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    writers: list[StreamWriter] = field(default_factory=list)

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                await self.heard.put(line)
                writer.write(line)
            await self.heard.put(b"end")
        except OSError:
            await self.heard.put(b"reset")
        finally:
            writer.close()


@asynccontextmanager
async def behind() -> AsyncIterator[tuple[Proxy, Echo]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    proxy = Proxy(lambda: int(server.sockets[0].getsockname()[1]))
    await proxy.open()
    try:
        yield proxy, echo
    finally:
        await proxy.close()
        server.close()


async def client(proxy: Proxy) -> tuple[StreamReader, StreamWriter]:
    """A connection that works."""
    reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
    assert await asked(reader, writer) < NEVER
    return reader, writer


async def asked(reader: StreamReader, writer: StreamWriter, word: bytes = b"hello\n") -> float:
    """Seconds from a question to its answer."""
    begun = time.monotonic()
    writer.write(word)
    assert await asyncio.wait_for(reader.readline(), SOON) == word
    return time.monotonic() - begun


async def test_a_cut_is_heard_as_a_reset_on_both_sides() -> None:
    async with behind() as (proxy, echo):
        reader, _ = await client(proxy)
        assert await echo.heard.get() == b"hello\n"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), SOON)
        assert await asyncio.wait_for(echo.heard.get(), SOON) == b"reset"
        await client(proxy)  # a new line works


async def test_a_silent_line_tells_nobody_anything() -> None:
    async with behind() as (proxy, echo):
        reader, writer = await client(proxy)
        other = await client(proxy)
        assert [await echo.heard.get(), await echo.heard.get()] == [b"hello\n"] * 2
        assert proxy.silence() == 2
        writer.write(b"anybody there?\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), NEVER)
        other[1].transport.abort()  # a client that dies
        writer.close()  # one that leaves
        await asyncio.sleep(NEVER)
        assert echo.heard.empty(), "the server hears neither of it"
        await client(proxy)  # a new line works all the same
        assert await echo.heard.get() == b"hello\n"
        proxy.calm()
        assert {await asyncio.wait_for(echo.heard.get(), SOON) for _ in range(2)} <= {b"reset", b"end"}


async def test_a_stalled_direction_stands_still_alone_and_loses_nothing() -> None:
    async with behind() as (proxy, echo):
        reader, writer = await client(proxy)
        await echo.heard.get()
        assert proxy.stall(Way.THERE) == 1
        writer.write(b"late\n")
        echo.writers[0].write(b"news\n")
        assert await asyncio.wait_for(reader.readline(), SOON) == b"news\n", "the other direction flows"
        await asyncio.sleep(NEVER)
        assert echo.heard.empty()
        proxy.calm()
        assert await asyncio.wait_for(reader.readline(), SOON) == b"late\n"


async def test_a_delay_delays_and_lines_overtake_each_other() -> None:
    async with behind() as (proxy, echo):
        first = await client(proxy)
        second = await client(proxy)
        [await echo.heard.get() for _ in range(2)]
        lags = iter((NEVER, 0.0))
        assigned: dict[int, float] = {}
        proxy.delay(lambda: assigned.setdefault(len(assigned), next(lags, 0.0)))
        times = [await asked(*first), await asked(*second)]
        assert max(times) >= 2 * NEVER > NEVER > min(times), times
        slow, fast = (first, second) if times[0] > times[1] else (second, first)
        [await echo.heard.get() for _ in range(2)]
        slow[1].write(b"sent first\n")
        fast[1].write(b"sent second\n")
        assert [await echo.heard.get(), await echo.heard.get()] == [b"sent second\n", b"sent first\n"]
        assert [await slow[0].readline(), await fast[0].readline()] == [b"sent first\n", b"sent second\n"]
        proxy.calm()
        assert await asked(*slow) < NEVER


async def test_who_calls_a_server_that_is_down_is_reset() -> None:
    proxy = Proxy(lambda: None)
    await proxy.open()
    try:
        reader, _ = await asyncio.open_connection(LOOPBACK, proxy.port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), SOON)
    finally:
        await proxy.close()


async def test_a_statement_is_cut(pg18: EmbeddedCluster) -> None:
    proxy = Proxy(lambda: pg18.port)
    await proxy.open()
    try:
        conninfo = psycopg.conninfo.make_conninfo(pg18.conninfo(), port=proxy.port)
        async with await psycopg.AsyncConnection.connect(conninfo) as conn:
            asyncio.get_running_loop().call_later(NEVER, proxy.cut)
            with pytest.raises(psycopg.OperationalError):
                await conn.execute("select pg_sleep(10)")
    finally:
        await proxy.close()


# The whole of it, in small


@dataclass(slots=True)
class Played:
    """A round with cuts, and what is left of it: the servers, and what the writers remember."""

    stage: Stage
    pen: Pen
    tally: Tally
    memory: Memory


@pytest.fixture(scope="module")
async def played() -> AsyncIterator[Played]:
    tally = Tally(SEED, print)
    async with staged(small()) as stage:
        async with writing(Config(stage.application, stage.population, SEED, rate=60.0, probes=10.0)) as pen:
            rounds = Rounds(stage, pen, Random(SEED), tally, {Kind.CUT})
            await rounds.round()
            look = await digest.verdict(stage, pen)
            memory = await pen.tell(stage.folder / "memory")
            assert look.clean
            yield Played(stage, pen, tally, memory)


async def test_a_cut_during_a_live_move_costs_nothing(played: Played) -> None:
    tally = played.tally
    assert tally.injections[Kind.CUT] >= 2, (tally.injections, tally.missed)
    assert tally.verdicts == tally.clean >= 2
    assert not tally.violations
    assert max(tally.resumed[Kind.CUT]) < RESUME_SECONDS_MAX
    assert played.memory.acknowledged > 0
    assert await digest.two_homes(played.stage) == []


async def looked(played: Played, memory: Memory | None = None) -> Look:
    return await digest.compare(played.stage, memory or played.memory)


@asynccontextmanager
async def harmed(conninfo: str, harm: str, mend: str) -> AsyncIterator[None]:
    """In a session that no guard looks at; mended at the end, so that the next harm is seen alone."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await conn.execute("set session_replication_role = replica")
        assert (await conn.execute(harm.encode())).rowcount > 0, "the harm was done"
        try:
            yield
        finally:
            await conn.execute(mend.encode())


# A harm to rows at a subject's home or at the other site, how it is mended, and what it is.
HARMS = {
    "a row that is gone": (
        "home",
        "update book.probe set subject = -subject where subject = {0}",
        "update book.probe set subject = -subject where subject = -{0}",
        "lost",
    ),
    "a note that is gone": (
        "home",
        "delete from book.note where id = {0} * 2",
        "insert into book.note (id, subject, body) values ({0} * 2, {0}, 'note 0')",
        "lost",
    ),
    "a counter that was counted back": (
        "home",
        "update book.subject set ticks = ticks - 1 where id = {0}",
        "update book.subject set ticks = ticks + 1 where id = {0}",
        "lost",
    ),
    "a counter that was counted twice": (
        "home",
        "update book.subject set ticks = ticks + 1 where id = {0}",
        "update book.subject set ticks = ticks - 1 where id = {0}",
        "doubled",
    ),
    "an outsider's row at the other site": (
        "away",
        "insert into book.folder (id, subject) values (1000000, {0})",
        "delete from book.folder where id = 1000000",
        "foreign",
    ),
    "an outsider's note at the other site": (
        "away",
        "insert into book.note (id, subject, body) values (1000000, {0}, '')",
        "delete from book.note where id = 1000000",
        "foreign",
    ),
    "a subject who is served at both sites": (
        "away",
        "insert into book.subject (id, circle) values ({0}, 0)",
        "delete from book.subject where id = {0}",
        "dual_home",
    ),
}


@pytest.mark.parametrize("name", HARMS)
async def test_a_harm_turns_the_verdict_red(played: Played, name: str) -> None:
    """The same stage is clean before it, and again behind it."""
    where, harm, mend, kind = HARMS[name]
    somebody = played.stage.population.stayers[0]
    home = digest.homes_of(played.memory, played.stage.population)[somebody]
    site = home if where == "home" else SITES[1 - SITES.index(home)]
    async with harmed(played.stage.sites[site], harm.format(somebody), mend.format(somebody)):
        look = await looked(played)
        assert look.harms.get(kind), look
        with pytest.raises(Violation):
            Tally(1, print).judged(look, name)
    assert (await looked(played)).clean


def forget_a_write(memory: Memory) -> None:
    """One who was written, and whose writer knows nothing of it."""
    ticks = next(t for t in memory.ticks.values() if t.least)
    ticks.least, ticks.most = 0, 0


def promise_more(memory: Memory) -> None:
    ticks = next(t for t in memory.ticks.values() if t.least)
    ticks.least, ticks.most = ticks.least + 1, ticks.most + 1


@pytest.mark.parametrize(("harm", "kind"), [(forget_a_write, "doubled"), (promise_more, "lost")])
async def test_an_acknowledgement_that_is_not_kept_turns_it_red(
    played: Played, harm: Callable[[Memory], None], kind: str
) -> None:
    memory = copy.deepcopy(played.memory)
    harm(memory)
    assert (await looked(played, memory)).harms.get(kind)
    assert (await looked(played)).clean


async def test_a_copy_is_allowed_to_those_who_moved_and_to_nobody_else(played: Played) -> None:
    somebody = played.stage.population.circle(0)[0]
    home = digest.homes_of(played.memory, played.stage.population)[somebody]
    away = played.stage.sites[SITES[1 - SITES.index(home)]]
    copied = f"insert into book.probe (subject) values ({somebody})"
    async with harmed(away, copied, f"delete from book.probe where subject = {somebody}"):
        assert (await looked(played)).harms.get("foreign")
        assert (await digest.compare(played.stage, played.memory, {somebody})).clean
        assert (await digest.compare(played.stage, played.memory, {somebody + 1})).harms.get("foreign")


def test_work_that_goes_on_too_late_is_found() -> None:
    tally = Tally(1, lambda _: None)
    tally.went_on(Kind.CUT, RESUME_SECONDS_MAX, "a fault")
    assert not tally.violations
    tally.went_on(Kind.CUT, RESUME_SECONDS_MAX + 1, "a fault")
    assert len(tally.violations) == 1
    assert tally.figures()["resume_seconds"] == {"p50": 30.5, "max": 31.0}


def test_a_campaign_goes_on_behind_the_one_on_record() -> None:
    tally = Tally(1, print)
    tally.note(Kind.CUT, "copy.done")
    tally.note(Kind.SERVER_KILLED, "live.locked")
    tally.kills["live.locked"] += 2
    tally.went_on(Kind.CUT, 2.5, "a fault")
    tally.went_on(Kind.CUT, 99.0, "a fault")
    tally.judged(Look({}, (), 7, 7, Memory(SITES)), "a move")
    tally.harms["lost"] += 1
    tally.again["apply"] += 3
    kept = json.loads(json.dumps({**tally.figures(), "raw": tally.raw()}))
    after = Tally.behind(kept, 2, print)
    assert (after.figures(), after.raw()) == (tally.figures(), tally.raw())
    after.note(Kind.CUT, "copy.done")
    assert after.point(Kind.CUT, ["copy.done", "copy.before"], Random(1)) == "copy.before"
    assert after.figures()["injected"] == 3
    assert Tally.behind({}, 2, print).figures()["injected"] == 0


@pytest.mark.campaign
@pytest.mark.parametrize("versions", installed_pairs())
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.PROMOTION])
async def test_every_kind(kind: Kind, versions: str, seed: int) -> None:
    """A round of each; what a campaign does for hours."""
    tally = Tally(seed, print)
    await campaign(tally, {kind}, 0.0, (versions,))
    assert not tally.violations
    assert tally.injections[kind] or tally.skipped or tally.missed, tally
