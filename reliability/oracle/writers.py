"""Writers of the book, in a process of their own: they know each write that was acknowledged, and follow the guard.

The child reads its configuration from its first line of input (conninfos hold secrets, and a command line is seen by
everybody), then orders, one a line: ``focus FIRST LAST``, ``stop FILE``. It answers ``ready``, and at the end with
``written``, when its memory is in the file. End of input is an order to end at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
import gc
import json
import os
from pathlib import Path
import pickle
import random
import sys
import time
from typing import Any

from psycopg.pq.abc import PGresult

from reliability.history import Append, Read
from reliability.oracle.book import SITES, Population, found_at
from reliability.oracle.maker import WEIGHTS, Kind, Maker, Planned
from reliability.oracle.memory import Facts, Heard, Memory, Try
from reliability.oracle.prober import Prober
from reliability.oracle.sessions import BROKEN, MISSING, Answer, Sessions

WAIT_S, WAIT_MAX_S = 0.005, 0.05  # after DM002
PATIENCE_S = 120.0
CREDIT_S = 0.05  # of the rate: how much of a standstill is caught up
FOCUSED = 0.7  # of the transactions are for those whom the mover is at work on
HOT, HOT_SUBJECTS = 0.5, 9  # share of transactions for so few of them: they meet each other
STRAYING = 0.02  # share of tries that go to the other site, as a router does that has forgotten
ABROAD = 0.1  # share of pairs of which the partner is of any circle
# Share of folders that are given beyond the wave. Waves are rolled back one by one, and one that meets such a row takes
# turns with the others (docs/how-to/roll-back.md): once a second would be more than that promises to bear.
GIVEN_FAR = 0.04
_AGAIN = frozenset({"40001", "40P01"})
_REFUSED = frozenset({"DM001", "DM002", *_AGAIN})


@dataclass(frozen=True, slots=True)
class Config:
    """``sites``: conninfos by name, which may hold secrets. ``rate`` in transactions a second, for all writers."""

    sites: Mapping[str, str] = field(repr=False)
    population: Population
    seed: int = 1
    writers: int = 12
    rate: float = 300.0
    probes: float = 20.0  # a second


class Writers:
    """Writers on this event loop: `open`, `run` until `stop`, `settle`, `close`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._dice = random.Random(config.seed)
        self.memory = Memory(tuple(config.sites))
        self._maker = Maker(self.memory, config.population, self._dice)
        self._sessions = Sessions(config.sites)
        self._homes = {s: (found_at(s, config.population), -1) for s in config.population.everybody}
        self._focus = config.population.everybody
        self._stopped = asyncio.Event()
        self._due = 0.0
        self._seen: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self._prober = Prober(self._sessions, self.memory, self._dice)

    async def open(self) -> None:
        """Connect every writer to every site. Raises DomicileError."""
        await self._sessions.open(self._config.writers + 1)

    async def run(self) -> None:
        """Write until `stop`."""
        self._due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for session in range(self._config.writers):
                group.create_task(self._writer(session))
            group.create_task(self._prober.run(self._stopped, self._config.probes, lambda: self._focus))

    def focus(self, subjects: range) -> None:
        """From now on most is written for these."""
        self._focus = subjects

    def stop(self) -> None:
        """Each writer ends what it has sent, and begins nothing more."""
        self._stopped.set()

    async def settle(self) -> None:
        """One last tick for everybody: so their homes are known from acknowledgements."""
        self._stopped.clear()
        subjects = iter(self._config.population.everybody)

        async def go_round(session: int) -> None:
            for subject in subjects:
                await self._carry(session, subject, Kind.TICK)

        async with asyncio.TaskGroup() as group:
            for session in range(self._config.writers):
                group.create_task(go_round(session))

    async def close(self) -> None:
        await self._sessions.close()

    async def _writer(self, session: int) -> None:
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        while not self._stopped.is_set():
            await self._turn()
            await self._carry(session, self._somebody(), self._dice.choices(kinds, weights)[0])

    async def _turn(self) -> None:
        """Wait for this transaction's turn at the configured rate."""
        now = time.monotonic()
        due = max(self._due, now - CREDIT_S)
        self._due = due + 1 / self._config.rate
        await asyncio.sleep(max(0.0, due - now))

    def _somebody(self) -> int:
        among = self._focus if self._dice.random() < FOCUSED else self._config.population.everybody
        few = min(HOT_SUBJECTS, len(among)) if self._dice.random() < HOT else len(among)
        return among[self._dice.randrange(few)]

    def _partner(self, subject: int, kind: Kind) -> int:
        """Another subject of the same level, mostly one who moves together with this one."""
        population = self._config.population
        if kind is Kind.GIVE and subject <= population.movers and self._dice.random() > GIVEN_FAR:
            size = population.wave_subjects
            first = subject - (subject - 1) % size
            return self._dice.choice([s for s in range(first, first + size) if s % 3 == subject % 3 and s != subject])
        circle = (subject - 1) // population.circle_subjects
        near = population.circle(circle) if subject <= population.movers else population.everybody
        among = population.everybody if self._dice.random() < ABROAD else near
        others = [s for s in among if s % 3 == subject % 3 and s != subject]
        if among is near and self._dice.random() < HOT:
            others = [s for s in others if abs(s - subject) < HOT_SUBJECTS] or others
        return self._dice.choice(others)

    async def _carry(self, session: int, subject: int, kind: Kind) -> None:
        """Try until it is acknowledged, or pointless, or failed. Each try is a transaction of its own."""
        first = time.monotonic()
        partner = self._partner(subject, kind)
        wait = WAIT_S
        while True:
            planned = self._maker.make(subject, kind, partner)
            if planned is None:
                return
            straying = self._dice.random() < STRAYING
            site = _other(self._homes[subject][0]) if straying else self._homes[subject][0]
            tried = Try(
                planned.level, session, planned.subjects, planned.effects, begun := time.monotonic(), planned.writes
            )
            answer = await self._sessions.attempt(site, planned.level, planned.calls)
            now = time.monotonic()
            if not answer.state:
                self._enter(planned, tried, answer, site, now)
                return
            self.memory.refuse(tried, planned.ops, now)
            self._maker.done(planned, (), kept=False)
            if not self._learn(planned, site, answer, straying=straying):
                return
            if self._stopped.is_set() or now - first > PATIENCE_S:
                which = self.memory.given_up if self._stopped.is_set() else self.memory.failures
                which["stopped" if self._stopped.is_set() else "patience"] += 1
                return
            if answer.state in ("DM002", MISSING, BROKEN):
                await asyncio.sleep(wait)
                wait = min(wait * 1.5, WAIT_MAX_S)
            elif answer.state in _AGAIN or begun - first > 1.0:
                await asyncio.sleep(self._dice.random() * WAIT_S)

    def _enter(self, planned: Planned, tried: Try, answer: Answer, site: str, now: float) -> None:
        if answer.doubt:
            self.memory.doubt(tried, planned.ops)
            return
        heard = self._heard(planned, answer.results, self.memory.sites.index(site), now)
        self.memory.acknowledge(tried, heard)
        self._maker.done(planned, heard.ops, kept=True)

    def _heard(self, planned: Planned, results: Sequence[PGresult], site: int, now: float) -> Heard:
        """The answers as what they mean."""
        ops: list[Append | Read] = []
        facts: dict[int, Facts] = {}
        ticks: dict[int, int] = {}
        beside: tuple[int, ...] = ()
        for call, op, whose, result in zip(planned.calls, planned.meant, planned.whose, results, strict=True):
            value = (result.get_value(0, 0) or b"") if result.ntuples and result.nfields else b""
            if isinstance(op, Read):
                ops.append(Read(op.key, self._marks(op.key, value)))
            elif op is not None:
                ops.append(op)
            match call[0]:
                case b"home":
                    epoch, mark = value.decode().split()
                    facts[whose] = Facts(int(epoch), mark)
                case b"tick":
                    ticks[whose] = int(value)
                case b"drop entries":
                    beside = _numbers(value)
            if planned.folder and call[0] not in (b"here", b"home", b"tick") and result.command_tuples != 1:
                self.memory.found.note("lost", f"{call[0].decode()}: it touched {result.command_tuples} rows")
        return Heard(site, now, ops, facts, ticks, beside)

    def _marks(self, key: Any, value: bytes) -> tuple[int, ...]:
        """A list, its numbers shared with those of the list before: there are millions."""
        raw, known = self._seen.get(key, (b"", ()))
        if raw != value:
            marks = _numbers(value)
            known = known + marks[len(known) :] if marks[: len(known)] == known else marks
            self._seen[key] = value, known
        return known

    def _learn(self, planned: Planned, site: str, answer: Answer, *, straying: bool) -> bool:
        """What an application does about a refusal; False when it ends there."""
        if answer.state in _REFUSED:
            self.memory.refused[answer.state] += 1
        whose = planned.whose[answer.at]
        match answer.state:
            case "DM001":
                facts = json.loads(answer.about)
                if int(facts["epoch"]) >= self._homes[whose][1]:
                    self._homes[whose] = str(facts["home"]), int(facts["epoch"])
            case "missing" | "23503":
                # Removed after it had moved, so that nobody says where: at the other site then. A word outweighs this.
                if self._homes[whose][0] == site:
                    self._homes[whose] = _other(site), self._homes[whose][1]
            case state if state not in (*_REFUSED, BROKEN):
                self.memory.failures[state] += 1
                return False
        if len(planned.subjects) > 1 and not straying and len({self._homes[s][0] for s in planned.subjects}) > 1:
            self.memory.given_up["apart"] += 1  # two subjects of different homes: that is refused, and rightly
            return False
        return True


def _other(site: str) -> str:
    return SITES[1 - SITES.index(site)]


def _numbers(value: bytes) -> tuple[int, ...]:
    """An array of the server's."""
    inside = value[1:-1]
    return tuple(map(int, inside.split(b","))) if inside else ()


def as_line(config: Config) -> bytes:
    """A configuration for the child."""
    given = {**asdict(config), "sites": dict(config.sites)}
    return json.dumps(given).encode() + b"\n"


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    given: dict[str, Any] = json.loads(await orders.readline())
    writers = Writers(Config(**{**given, "population": Population(**given["population"])}))
    await writers.open()
    gc.freeze()  # what the memory holds is never garbage: looking through it again and again would be a pause of ours
    gc.disable()
    _answer("ready")
    running = asyncio.create_task(writers.run())
    while order := (await orders.readline()).decode().split(maxsplit=1):
        match order[0]:
            case "focus":
                first, last = map(int, order[1].split())
                writers.focus(range(first, last + 1))
            case "stop":
                writers.stop()
                await running
                await writers.settle()
                await writers.close()
                Path(order[1].strip()).write_bytes(pickle.dumps(writers.memory))
                _answer("written")
                return
        if running.done():
            break
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def _answer(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    asyncio.run(_serve())
    os._exit(0)  # nothing is left to be done, and the memory is large


if __name__ == "__main__":
    main()
