"""How fast the mover may go: the application's writes come first.

At each site a small row is written about twenty times a second, and the p99 of these writes is compared with what it
was before the move carried anything. The mover begins slowly and doubles its speed until writes first take too long.
Beyond the limit it holds itself back by a large step, below it lets itself go by small ones: the speed settles where
one or two writes in a hundred are beyond it. Never below `SPEED_MIN`, so that the move ends, and not at all while a
wave is handed over: that is over sooner. Nothing is aborted for it; the figures show it.

Source: Slacker (EDBT 2012) throttles a move on the measured latency, not on a fixed rate; steps as in TCP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field
import logging
import time
from typing import TypeVar

import psycopg

from domicile.model.errors import DomicileError
from domicile.model.plan import Limits, Mode
from domicile.model.site import MoveId, SiteName
from domicile.move.context import Move
from domicile.postgres.brake import Brakes
from domicile.postgres.probe_write import probe_writer

SPEED_MIN, SPEED_FIRST = 0.05, 0.1
PURGE_SPEED_MIN = 0.25  # what it removes is to be gone, also beside others who are slow for reasons of their own
STREAM_SPEED_MIN = 0.25  # the stream must catch up with the writers, or no wave is ever handed over
SLOWER, FASTER = 0.6, 0.02
DECIDE_SECONDS = 0.5
WRITE_SECONDS, FIRST_WRITE_SECONDS = 0.05, 0.01  # between two probe writes; the second while the base is taken
BASE_SAMPLES, BASE_SAMPLES_MIN = 60, 40
BASE_SECONDS, BASE_SECONDS_MAX = 2.0, 20.0  # for BASE_SAMPLES; for BASE_SAMPLES_MIN, over a long line
WINDOW_SECONDS = 3.0
SAMPLES_MIN = 8  # fewer decide nothing
STUCK_SECONDS = 1.0  # a write that has not come back for so long counts as it is
RETRY_SECONDS = 1.0
GENTLY_SECONDS = 0.05
BUSY_SECONDS_MAX = 0.05  # of a turn of the stream: more of it was spent waiting for messages

T = TypeVar("T")
log = logging.getLogger(__name__)


def p99(latencies: Sequence[float]) -> float:
    """The 99th percentile, rounded down to a sample: a single straggler never counts, two of a hundred do."""
    assert latencies
    return sorted(latencies)[int(0.99 * (len(latencies) - 1))]


@dataclass(slots=True)
class Watch:
    """The probe at one site: milliseconds of a write as the mover waited for it. A site that cannot be written is left
    out: the mover's other sessions tell."""

    site: SiteName
    limits: Limits
    base_ms: float | None = None
    reachable: bool = False
    based: asyncio.Event = field(default_factory=asyncio.Event)
    _samples: deque[tuple[float, float]] = field(default_factory=deque)  # when begun, ms
    _begun: float | None = None  # the write that is under way
    _first: float = field(default_factory=time.monotonic)

    async def run(self, conninfo: str, move_id: MoveId) -> None:
        """Write until cancelled."""
        while True:
            try:
                async with probe_writer(conninfo, move_id) as writer:
                    self.reachable = True
                    while True:
                        self._begun = time.monotonic()
                        await writer.write()
                        self._tell(self._begun, time.monotonic())
                        await asyncio.sleep(FIRST_WRITE_SECONDS if self.base_ms is None else WRITE_SECONDS)
            except (psycopg.Error, DomicileError) as why:
                log.debug("no probe at %s: %s", self.site, type(why).__name__)
            finally:
                self.reachable, self._begun = False, None
                self.based.set()  # nobody waits for a site that does not answer
            await asyncio.sleep(RETRY_SECONDS)

    def recent(self, since: float) -> list[float]:
        """Milliseconds of the writes begun since then, at most WINDOW_SECONDS ago; of one that is stuck, so far."""
        now = time.monotonic()
        since = max(since, now - WINDOW_SECONDS)
        found = [ms for begun, ms in self._samples if begun >= since]
        if self._begun is not None and now - self._begun > STUCK_SECONDS:
            found = [(now - self._begun) * 1000] * max(SAMPLES_MIN, len(found))
        return found

    @property
    def limit_ms(self) -> float:
        """Beyond it the mover is too fast."""
        assert self.base_ms is not None
        return max(self.base_ms * self.limits.probe_p99_ratio_max, self.limits.probe_p99_ms_min)

    def _tell(self, begun: float, ended: float) -> None:
        self._begun = None
        self._samples.append((begun, (ended - begun) * 1000))
        if self.base_ms is None:
            self._take_base(ended - self._first)
            return
        while ended - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()

    def _take_base(self, seconds: float) -> None:
        if len(self._samples) >= (BASE_SAMPLES if seconds < BASE_SECONDS else BASE_SAMPLES_MIN):
            self.base_ms = p99([ms for _, ms in self._samples])
            self._samples.clear()
            self.based.set()


class Pace:
    """What holds this process back: ``brakes`` the streams of its copies, `turn` its change stream."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self.brakes = Brakes(lambda: self.slowed)
        self._watches = tuple(watches)
        self._speed = SPEED_FIRST
        self._trying = True  # nobody has been slowed down yet
        self._since = time.monotonic()  # the last step down, or the end of a handover: older samples say nothing
        self._handovers = 0
        self._freed = asyncio.Event()
        self._asking = asyncio.Lock()
        self._turned = time.monotonic()

    @property
    def base_ms(self) -> float | None:
        """p99 before, at the site that is worse off now."""
        return self._worst()[0]

    @property
    def p99_ms(self) -> float | None:
        """p99 of the last WINDOW_SECONDS, at the same site."""
        return self._worst()[1]

    @property
    def slowed(self) -> float:
        """Share of its time that the mover holds itself back, 0 to 0.95. May be asked by any thread."""
        return 0.0 if self._handovers else round(1 - self._speed, 3)

    async def turn(self) -> None:
        """Awaited by the stream after each batch: waits for its share of the time that the batch took."""
        busy = min(time.monotonic() - self._turned, BUSY_SECONDS_MAX)
        await self.rest(busy, 1 - STREAM_SPEED_MIN)
        self._turned = time.monotonic()

    async def rest(self, busy: float, most: float = 1.0) -> None:
        """After work of so many seconds: waits for as long as belongs to it, at most the share ``most``."""
        share = min(self.slowed, most)
        if share > 0:
            with suppress(TimeoutError):  # a handover begins: go on at once
                await asyncio.wait_for(self._freed.wait(), busy * share / (1 - share))

    @asynccontextmanager
    async def question(self) -> AsyncIterator[None]:
        """Around a question that a server works at for long: while the mover holds itself back there is one at a time,
        so that it never has more than one processor, and a `rest` behind it."""
        async with AsyncExitStack() as stack:
            if self.slowed:
                await stack.enter_async_context(self._asking)
            begun = time.monotonic()
            yield
            await self.rest(time.monotonic() - begun)

    @contextmanager
    def free(self) -> Iterator[None]:
        """While a wave is handed over: full speed, and what the probe sees then is not held against anybody."""
        self._handovers += 1
        self._freed.set()
        try:
            yield
        finally:
            self._handovers -= 1
            if not self._handovers:
                self._freed.clear()
                self._since = time.monotonic()

    async def run(self) -> None:
        """Decide until cancelled."""
        while True:
            await asyncio.sleep(DECIDE_SECONDS)
            if not self._handovers:
                self.decide()

    def decide(self) -> None:
        """One step up or down, or none while there are too few samples to tell."""
        measured = [(w, w.recent(self._since)) for w in self._watches if w.reachable and w.base_ms is not None]
        told = [(w, latencies) for w, latencies in measured if len(latencies) >= SAMPLES_MIN]
        if any(p99(latencies) > w.limit_ms for w, latencies in told):
            self._speed = max(SPEED_MIN, self._speed * SLOWER)
            self._since, self._trying = time.monotonic(), False
        elif len(told) == len(measured):
            self._speed = min(1.0, self._speed * 2 if self._trying else self._speed + FASTER)

    def _worst(self) -> tuple[float | None, float | None]:
        known = [(w, recent) for w in self._watches if w.base_ms is not None and (recent := w.recent(0.0))]
        if not known:
            bases = [w.base_ms for w in self._watches if w.base_ms is not None]
            return max(bases, default=None), None
        watch, recent = max(known, key=lambda found: p99(found[1]) / found[0].limit_ms)
        return watch.base_ms, round(p99(recent), 2)


@asynccontextmanager
async def open_pace(move: Move) -> AsyncIterator[Pace]:
    """The probes run while the block does. Entered before anything is carried: it takes the base first, in about a
    second. The move must be registered at both sites."""
    sites = ((move.source_site, move.source), (move.target_site, move.target))
    watches = [Watch(site, move.plan.limits) for site, _ in sites]
    pace = Pace(watches)
    tasks = [asyncio.create_task(w.run(at, move.move_id)) for w, (_, at) in zip(watches, sites, strict=True)]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(BASE_SECONDS_MAX):
                await asyncio.gather(*(w.based.wait() for w in watches))
        tasks.append(asyncio.create_task(pace.run()))
        yield pace
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@dataclass(slots=True)
class Pacing:
    """Where the phases of a move find its pace; without one they go as fast as they can."""

    pace: Pace | None = None

    @property
    def brakes(self) -> Brakes | None:
        """For the streams of a copy."""
        return None if self.pace is None else self.pace.brakes

    async def turn(self) -> None:
        """`Pace.turn`."""
        if self.pace is not None:
            await self.pace.turn()

    def question(self) -> AbstractAsyncContextManager[None]:
        """`Pace.question`."""
        return nullcontext() if self.pace is None else self.pace.question()

    def free(self) -> AbstractContextManager[None]:
        """`Pace.free`."""
        return nullcontext() if self.pace is None else self.pace.free()

    def held_back(self) -> float:
        """`Pace.slowed`, for a purge: at most so much that it comes to its end."""
        return 0.0 if self.pace is None else min(self.pace.slowed, 1 - PURGE_SPEED_MIN)

    async def rest(self, busy: float) -> None:
        """`Pace.rest`, for a purge."""
        if self.pace is not None:
            await self.pace.rest(busy, 1 - PURGE_SPEED_MIN)

    async def gently(self, found: AsyncIterator[T]) -> AsyncIterator[T]:
        """The same, with a rest behind every `GENTLY_SECONDS` of work, by whomever."""
        begun = time.monotonic()
        async for one in found:
            yield one
            if (busy := time.monotonic() - begun) > GENTLY_SECONDS:
                await self.rest(busy)
                begun = time.monotonic()

    @asynccontextmanager
    async def held(self, move: Move, *, purging: bool = False) -> AsyncIterator[None]:
        """While the block runs, a live move is held to what the application's writes allow; so is the purge of any."""
        if (move.mode is Mode.COLD and not purging) or self.pace is not None:
            yield
            return
        async with open_pace(move) as pace:
            self.pace = pace
            try:
                yield
            finally:
                self.pace = None
