"""A prober asks both sites at once whether they would take a write of a subject.

It opens a transaction at each site, writes in both, and rolls both back when both have answered. If both took it, then
at that instant either could have been committed: two homes. A departure waits for the transaction that was let in, so
a move that happens between the two answers cannot make it look like that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
import time

from domicile.model.errors import DomicileError
from domicile.world.session import Lost
from reliability.history import Level
from reliability.oracle.memory import Memory
from reliability.oracle.sessions import BROKEN, MISSING, Sessions, judged

TAKEN = "taken"
SPREAD_S = 0.01  # between the two questions: either may be the first


class Prober:
    """Writes what it finds into the memory: ``probes`` by what the sites answered, in the order of their names."""

    def __init__(self, sessions: Sessions, memory: Memory, dice: Random) -> None:
        self._sessions = sessions
        self._memory = memory
        self._dice = dice

    async def run(self, stopped: asyncio.Event, rate: float, subjects: Callable[[], range]) -> None:
        """So many probes a second, until it is stopped."""
        while not stopped.is_set():
            due = time.monotonic() + 1 / rate
            among = subjects()
            await self.probe(among[self._dice.randrange(len(among))])
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def probe(self, subject: int) -> None:
        """Ask about one subject."""
        both = asyncio.Barrier(len(self._memory.sites))
        answers = await asyncio.gather(*(self._ask(site, subject, both) for site in self._memory.sites))
        self._memory.probes[" ".join(answers)] += 1
        if all(answer == TAKEN for answer in answers):
            self._memory.found.note("dual_home", f"both sites took a write of subject {subject} at one instant")

    async def _ask(self, site: str, subject: int, both: asyncio.Barrier) -> str:
        answer = BROKEN
        session = None
        await asyncio.sleep(self._dice.random() * SPREAD_S)
        try:
            session = await self._sessions.take(site)
            value = b"%d" % subject
            calls = ((b"here", (value,)), (b"probe", (value,)))
            results = (await session.round([(Level.READ_COMMITTED.encode(), ()), *calls]))[1:]
            answer = judged(calls, results).state or (TAKEN if results[-1].command_tuples else MISSING)
        except (Lost, DomicileError):
            pass
        await both.wait()  # both transactions are open until both have answered
        if session is not None:
            try:
                await session.round([(b"rollback", ())])
                self._sessions.give(site, session)
            except Lost:
                await session.close()
                answer = BROKEN
        return answer
