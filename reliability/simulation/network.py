"""Lines between processes and sites: what is asked arrives in its order, later; or never, or nobody hears the answer.

A connection is a TCP connection: nothing on it overtakes or is doubled. Of several, what is sent later may come first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from types import CoroutineType
from typing import Any

import psycopg

from reliability.simulation.clock import NOWHERE, Killed, Process, VirtualLoop
from reliability.simulation.site import Site

NOTICE_SECONDS = 0.3
"""Until a server finds out that nobody is at the other end of a line that was cut."""


class Network:
    """All lines. ``far``: seconds to a site, by its name; ``slow``: how many times longer it takes now."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.lines: list[Line] = []
        self.slow: dict[str, float] = {}

    async def open(self, process: Process, site: Site, far: float, dice: Random) -> Line:
        """A new connection. Raises OperationalError."""
        line = Line(self, process, site, far, dice)
        if not line.open:
            await asyncio.sleep(far)
            raise psycopg.OperationalError
        self.lines.append(line)
        return line

    def close(self) -> None:
        """Everything is over."""
        for line in self.lines:
            line.open = line.served = False


class Line:
    """One connection. ``on_end``: what the server does when the session is over; ``lost``: what a break is told as."""

    def __init__(self, network: Network, process: Process, site: Site, far: float, dice: Random) -> None:
        self.network, self.process, self.site, self.dice = network, process, site, dice
        self.far, self.life, self.open, self.served = far, site.life, site.up, site.up
        self.lost: Callable[[], Exception] = psycopg.OperationalError
        self.on_end: list[Callable[[], None]] = []
        self._waiting: list[asyncio.Future[Any]] = []
        self._arrives = self._answers = self._held_until = 0.0

    def post(self, what: Callable[[], Any]) -> asyncio.Future[Any]:
        """Send it; the future has what the site answers."""
        loop = self.network.loop
        answer = loop.create_future()
        if self.process.dead:
            answer.set_exception(Killed())
        elif not self.open:
            answer.set_exception(self.lost())
        else:
            self._waiting.append(answer)
            self._arrives = max(self._arrives, loop.now + self._delay())
            loop.call_at(self._arrives, self._arrive, what, answer, context=NOWHERE)
        return answer

    async def ask(self, what: Callable[[], Any]) -> Any:
        """The same, and wait for the answer. ``what`` may give work that takes its time at the site."""
        return await self.post(what)

    @property
    def busy(self) -> bool:
        """Something is on its way."""
        return bool(self._waiting)

    def cut(self, *, late: bool, notice: float = NOTICE_SECONDS) -> None:
        """Nothing comes back any more; what is on its way arrives only when it is ``late``, just before the server
        finds out."""
        if not self.open:
            return
        self.open = False
        self._held_until = self.network.loop.now + notice * 0.9
        self.served = self.served and late
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if not answer.done():
                answer.set_exception(self.lost())
        if not self.on_end and not waiting:
            self.end()
            return
        self.network.loop.call_at(max(self.network.loop.now + notice, self._arrives + 0.001), self.end, context=NOWHERE)

    def end(self) -> None:
        """The server ends the session."""
        self.open = self.served = False
        callbacks, self.on_end = self.on_end, []
        for callback in callbacks:
            callback()
        if self in self.network.lines:
            self.network.lines.remove(self)

    def _delay(self) -> float:
        return self.far * (0.5 + self.dice.random()) * self.network.slow.get(self.site.name, 1.0)

    def _arrive(self, what: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        if not self.served or self.life != self.site.life:
            return
        if self._held_until > self.network.loop.now:
            self.network.loop.call_at(self._held_until, self._arrive, what, answer, context=NOWHERE)
            return
        try:
            result = what()
        except Exception as refused:
            self._answer(answer, None, refused)
            return
        if type(result) is CoroutineType:
            self.network.loop.serve(result, partial(self._answer, answer))
        else:
            self._answer(answer, result, None)

    def _answer(self, answer: asyncio.Future[Any], result: object, refused: Exception | None) -> None:
        loop = self.network.loop
        self._answers = max(self._answers, loop.now + self._delay())
        loop.call_at(self._answers, self._hear, answer, result, refused, context=NOWHERE)

    def _hear(self, answer: asyncio.Future[Any], result: object, refused: Exception | None) -> None:
        if answer in self._waiting:
            self._waiting.remove(answer)
        if answer.done():
            return
        if refused is not None:
            answer.set_exception(refused)
        else:
            answer.set_result(result)
