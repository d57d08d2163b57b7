"""The application's sessions: one transaction tried at one site, and what the site answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg.pq.abc import PGresult

from domicile.model.errors import DomicileError
from domicile.world.kinds import Results, Transaction
from domicile.world.session import Lost, Session, detail, sqlstate

MISSING = "missing"  # as an SQLSTATE: the user is not at this site
BROKEN = "broken"
ENDED = "57P"  # by an administrator, a crash, a shutdown


@dataclass(frozen=True, slots=True)
class Answer:
    """How a try ended: with ``state`` empty it is committed; ``doubt``: the answer of its commit was lost."""

    state: str = ""
    about: bytes = b""
    results: Results = ()
    doubt: bool = False


class Pool:
    """Sessions at every site, as many as writers need, taken in turn, so that none is cold. ``sites``: conninfos, which
    may hold secrets."""

    def __init__(self, sites: Mapping[str, str]) -> None:
        self._sites = sites
        self._idle: dict[str, deque[Session]] = {site: deque() for site in sites}
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        """So many at every site. Raises DomicileError."""
        for site, conninfo in self._sites.items():
            for _ in range(count):
                self._idle[site].append(await Session.open(conninfo))

    async def close(self) -> None:
        """Of those that nobody uses."""
        while self._ending:
            await asyncio.wait(self._ending)
        for sessions in self._idle.values():
            while sessions:
                await sessions.pop().close()

    async def attempt(self, site: str, made: Transaction, isolation: bytes) -> Answer:
        """One try. Nothing is left of it when it is refused, and nobody waits for its rollback. A connection that
        breaks is replaced."""
        sessions = self._idle[site]
        session = sessions.popleft() if sessions else None
        committing = False
        answer = Answer(BROKEN)
        try:
            session = session or await Session.open(self._sites[site])
            if made.alone:
                committing = True
                results = await session.round(made.calls)
                _require_answered(results[-1])
                answer = _judged(results)
            else:
                answer = _judged((await session.round([(isolation, ()), *made.calls]))[1:])
                if answer.state:
                    self._roll_back(site, session)
                    return answer
                committing = True
                [last] = await session.round([(b"commit", ())])
                _require_answered(last)
                if state := sqlstate(last):
                    answer = Answer(state, detail(last))
        except (Lost, DomicileError):
            if session is not None:
                await session.close()
            return Answer(results=answer.results, doubt=True) if committing else Answer(BROKEN)
        sessions.append(session)
        return answer

    def _roll_back(self, site: str, session: Session) -> None:
        async def end() -> None:
            try:
                await session.round([(b"rollback", ())])
            except Lost:
                await session.close()
            else:
                self._idle[site].append(session)

        ending = asyncio.create_task(end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _require_answered(last: PGresult) -> None:
    """Raises Lost where the server says, in place of what became of a commit, that the session ends: it may be done."""
    if sqlstate(last).startswith(ENDED):
        raise Lost


def _judged(results: Results) -> Answer:
    """The first error decides; but a first statement that touched nobody comes before all."""
    if not sqlstate(results[0]) and not results[0].command_tuples:
        return Answer(MISSING)
    for result in results:
        if state := sqlstate(result):
            return Answer(state, detail(result))
    return Answer(results=results)
