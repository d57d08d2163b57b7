"""A stream at work: reads, filters, applies and acknowledges until it is stopped.

One per wave, on the caller's event loop. Invariant: what is acknowledged to the origin is committed at the destination;
what is applied is a prefix of the origin's commits, of which transactions that do not concern the wave are left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
import time

import psycopg

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.failures import explain, refusal_of
from domicile.stream.apply import Apply
from domicile.stream.change import Marker, Transaction
from domicile.stream.filter import WaveFilter
from domicile.stream.reader import Reader

READ_MOST = 2_000  # messages between two looks at everything else: a few milliseconds
IDLE_SECONDS = 0.5
# Small transactions come one by one, a thousand a second. Taken together they cost us, and the destination, far less.
LINGER_SECONDS, FEW_MESSAGES, FEW_BYTES = 0.05, 200, 16 * 1024  # a full buffer of a socket holds more
BATCH_CHANGES = 5_000
ACKNOWLEDGE_SECONDS = 2.0
MICROSECONDS = 1_000_000

Reparent = Callable[[Transaction], Awaitable[None]]
Turn = Callable[[], Awaitable[None]]
Horizon = Callable[[], Awaitable[int]]


@dataclass(slots=True)
class _Flying:
    """A batch whose answer has not come."""

    answer: asyncio.Future[None]
    committed_at: int
    changes: int


@dataclass(slots=True)
class _Markers:
    """Who waits for which marker."""

    waiters: dict[bytes, asyncio.Future[list[Transaction]]] = field(default_factory=dict)
    failure: BaseException | None = None
    wanted: asyncio.Event = field(default_factory=asyncio.Event)  # somebody waits for what comes

    def expect(self, content: bytes) -> asyncio.Future[list[Transaction]]:
        waiter = self.waiters.setdefault(content, asyncio.get_running_loop().create_future())
        self.wanted.set()
        if self.failure is not None and not waiter.done():
            waiter.set_exception(self.failure)
        return waiter

    async def linger(self) -> None:
        """Let more come for a little while, but not when somebody waits for it."""
        if not all(waiter.done() for waiter in self.waiters.values()):
            return
        self.wanted.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self.wanted.wait()

    def take(self, content: bytes) -> asyncio.Future[list[Transaction]] | None:
        waiter = self.waiters.pop(content, None)
        return None if waiter is None or waiter.done() else waiter

    def disappoint(self, why: BaseException) -> None:
        """Whoever waits now is told why it will not be."""
        for waiter in self.waiters.values():
            if not waiter.done():
                waiter.set_exception(why)


@dataclass(slots=True)
class CatchUp:
    """``reparent`` carries out a transaction in which rows came to other owners; ``turn`` waits while the stream must
    go slower; ``horizon`` asks the origin below which id all are visible. ``keeps``: the origin keeps its whole log."""

    reader: Reader
    filter: WaveFilter
    apply: Apply
    reparent: Reparent
    turn: Turn
    horizon: Horizon
    keeps: bool = False
    applied: int = 0  # changes committed at the destination
    waiting: list[Transaction] = field(default_factory=list)  # read, and not on its way to the destination
    _changes: int = 0
    _flying: deque[_Flying] = field(default_factory=deque)
    _markers: _Markers = field(default_factory=_Markers)
    _held: asyncio.Event = field(default_factory=asyncio.Event)  # set while what arrives is kept as the tail
    _arrived: bool = False
    _stalled: bool = False  # what was read last is not for a tail, and waits for the end of the hold
    _going_on: asyncio.Event = field(default_factory=asyncio.Event)
    _acknowledged: float = field(default_factory=time.monotonic)
    _candidate: tuple[int, int] = (0, 0)  # a position that is committed, and the newest transaction read by then

    async def run(self) -> None:
        """Until cancelled, or until it fails: then whoever waits for a marker is told the same."""
        try:
            while True:
                payloads = await self.reader.read(READ_MOST, IDLE_SECONDS)
                for item in self.filter.feed(payloads):
                    await (self._pass(item) if isinstance(item, Marker) else self._take(item))
                if (
                    self.waiting
                    and not self._held.is_set()
                    and (len(payloads) < READ_MOST or self._changes >= BATCH_CHANGES)
                ):
                    await self._submit()
                self._land()
                await self._acknowledge()
                await self.turn()
                few = len(payloads) < FEW_MESSAGES and sum(map(len, payloads)) < FEW_BYTES
                if few and (self._arrived or not self._held.is_set()):
                    await self._markers.linger()
        except BaseException as why:
            told = _told(why, passing=self.filter.is_ahead and not self.keeps)
            self._markers.failure = told
            self._markers.disappoint(told)
            if isinstance(why, DomicileError):
                raise told from None
            raise

    def expect(self, content: bytes) -> asyncio.Future[list[Transaction]]:
        """To be called before the marker is written at the origin. Done when everything that was committed before the
        marker is committed at the destination; while the tail is held: the tail, all that is not on its way there."""
        waiter = self._markers.expect(content)
        if self._stalled and not waiter.done():
            waiter.set_exception(_held())
        return waiter

    def hold(self) -> None:
        """From now on what arrives is kept as the tail instead of being applied, and taken at once."""
        self._markers.wanted.set()
        self._held.set()
        self._going_on.clear()

    async def landed(self) -> None:
        """Everything that is on its way to the destination is committed there. Raises pause-budget when what is held
        cannot be handed over as a tail."""
        while self._flying:
            await asyncio.wait([self._flying[0].answer])
            self._land()
        if self._stalled:
            raise _held()

    def go_on(self) -> None:
        """After a handover that stepped back: the tail is applied like everything else."""
        if not self._arrived:
            self._held.clear()
            self._going_on.set()

    def arrived(self) -> None:
        """The tail is committed at the destination, which is the home now: nothing is applied there any more."""
        self._arrived = True
        self.waiting.clear()
        self._changes = 0

    @property
    def position(self) -> int:
        """Up to where of the origin's log nothing of the wave is missing at the destination."""
        return max(self.reader.server_position, self.apply.position) if self._idle else self.apply.position

    @property
    def _idle(self) -> bool:
        return not (self._flying or self.waiting or self.filter.pending)

    @property
    def lag_seconds(self) -> float:
        """How old the oldest transaction is that is not yet committed at the destination, by the origin's clock."""
        oldest = (
            self._flying[0].committed_at if self._flying else self.waiting[0].committed_at if self.waiting else None
        )
        return 0.0 if oldest is None else max(0.0, (self.reader.server_clock - oldest) / MICROSECONDS)

    async def flush(self) -> None:
        """Everything read so far is committed at the destination."""
        if self.waiting:
            await self._submit()
        while self._flying:
            await self._flying[0].answer
            self._land()

    async def _take(self, transaction: Transaction) -> None:
        if transaction.enter or transaction.leave:
            if self._held.is_set():
                # What follows can be judged only once this is carried out, and that is not for a pause.
                self._stalled = True
                self._markers.disappoint(_held())
                await self._going_on.wait()
                self._stalled = False
            await self.flush()
            await self.reparent(transaction)
            self.applied += len(transaction.changes)
            return
        self.waiting.append(transaction)
        self._changes += len(transaction.changes)
        if self._changes >= BATCH_CHANGES and not self._held.is_set():
            await self._submit()

    async def _submit(self) -> None:
        batch, self.waiting = self.waiting, []
        changes, self._changes = self._changes, 0
        answer = await self.apply.submit(batch)
        self._flying.append(_Flying(answer, batch[0].committed_at, changes))
        self._land()

    def _land(self) -> None:
        """Take note of answers that came; the first failure is raised."""
        while self._flying and self._flying[0].answer.done():
            flying = self._flying.popleft()
            flying.answer.result()
            self.applied += flying.changes

    async def _pass(self, marker: Marker) -> None:
        waiter = self._markers.take(marker.content)
        if waiter is None:
            return
        if not self._held.is_set():
            await self.flush()
        waiter.set_result(list(self.waiting))

    async def _acknowledge(self) -> None:
        """Now and then: write down how far others' transactions have been read, and let the origin's log go.

        Only as far as every snapshot sees. A commit is in the log, and in the stream, before it is visible (with
        synchronous standbys long before): the next wave's snapshot might miss what the slot had let go. Where the log
        is kept, that is noted: the next stream reads again from there, to know what it must not miss.
        """
        now = time.monotonic()
        if self._arrived or now - self._acknowledged < ACKNOWLEDGE_SECONDS:
            return
        self._acknowledged = now
        visible = await self.horizon()
        self.filter.forget(visible)
        if not self.keeps and self._idle and self.position > self.apply.position:
            answer = await self.apply.submit([Transaction(0, self.position, 0)])
            self._flying.append(_Flying(answer, 0, 0))
        position, newest = self._candidate
        if not position or visible > newest:
            if self.keeps:
                self.apply.rounds.seen = position
            else:
                self.reader.acknowledge(position)
            # Of what a former stream has applied, this one knows nothing before it has read as far.
            read_so_far = self.reader.server_position >= self.apply.position
            self._candidate = (self.apply.position, self.filter.newest) if read_so_far else (0, 0)


def _held() -> DomicileError:
    return DomicileError(
        ErrorCode.PAUSE_BUDGET,
        "a row came to another owner just before the handover",
        safe="The source serves and nothing has changed; the handover is tried again.",
        hint="Nothing need be done.",
    )


def _told(why: BaseException, *, passing: bool) -> Exception:
    """What whoever waits for a marker is told: no words of PostgreSQL's, and no timeout, which would be taken for one
    of his own.

    ``passing``: rows came into the wave, and were read as they are now. What is at the destination is not as far: a key
    that is taken there may be about to be given up. (On the way back, other waves' streams are brought up first.)
    """
    if isinstance(why, psycopg.Error):
        return explain(refusal_of(why), "source", "the change stream")
    if passing and isinstance(why, DomicileError) and why.code is ErrorCode.KEYS_COLLIDE:
        return DomicileError(
            ErrorCode.KEYS_IN_PASSING,
            f"{why.message}: rows came into the wave, and another may be about to give the key up",
            facts=why.facts,
            safe="The wave steps back; the source serves and nothing has changed.",
            hint="Nothing need be done: the wave is copied anew, when due, and its keys are checked before.",
        )
    return why if isinstance(why, Exception) and not isinstance(why, TimeoutError) else _stopped()


def _stopped() -> DomicileError:
    return DomicileError(
        ErrorCode.INTERRUPTED,
        "the stream was stopped",
        safe="The source serves and nothing has changed.",
        hint="Go on with: domicile resume",
    )
