"""Sessions of the book's application: a transaction is two round trips, and its answer tells a refusal from a doubt."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from domicile.model.errors import DomicileError
from domicile.postgres.connect import connect
from domicile.world.session import Call, Lost, Session, detail, sqlstate
from reliability.oracle.book import STATEMENTS

APPLICATION_NAME = "book application"
MISSING = "missing"  # as an SQLSTATE: a subject is not at this site
BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a try ended: with ``state`` empty it is committed. ``at``: which of the calls was refused; ``doubt``: the
    answer of its commit was lost."""

    state: str = ""
    about: bytes = b""
    at: int = 0
    results: Sequence[PGresult] = ()
    doubt: bool = False


async def open_session(conninfo: str) -> Session:
    """A session that knows every statement of the book. Raises DomicileError."""
    conn = await connect(conninfo, application_name=APPLICATION_NAME)
    for name, text in STATEMENTS.items():
        prepared = conn.pgconn.prepare(name, text)
        if prepared.status != ExecStatus.COMMAND_OK:
            raise RuntimeError(f"the statement {name.decode()!r} is not one: {sqlstate(prepared)}")
    return Session(conn)


class Sessions:
    """Sessions at every site, as many as are needed, taken in turn, so that none is cold."""

    def __init__(self, sites: Mapping[str, str]) -> None:
        self._sites = sites
        self._idle: dict[str, deque[Session]] = {site: deque() for site in sites}

    async def open(self, count: int) -> None:
        """So many at every site. Raises DomicileError."""
        for site, conninfo in self._sites.items():
            for _ in range(count):
                self._idle[site].append(await open_session(conninfo))

    async def close(self) -> None:
        """Of those that nobody uses."""
        for sessions in self._idle.values():
            while sessions:
                await sessions.pop().close()

    async def attempt(self, site: str, level: str, calls: Sequence[Call], *, keep: bool = True) -> Answer:
        """One try. Nothing is left of it when it is refused; without ``keep`` it is rolled back although it could be
        committed. A connection that breaks is replaced."""
        session: Session | None = None
        committing = False
        answer = Answer(BROKEN)
        try:
            session = await self.take(site)
            answer = judged(calls, (await session.round([(level.encode(), ()), *calls]))[1:])
            committing = keep and not answer.state
            last = await session.round([(b"commit" if committing else b"rollback", ())])
            if committing and (state := sqlstate(last[0])):
                answer = Answer(state, detail(last[0]), len(calls) - 1)
        except (Lost, DomicileError):
            if session is not None:
                await session.close()
            return Answer(results=answer.results, doubt=True) if committing else Answer(BROKEN)
        self.give(site, session)
        return answer

    async def take(self, site: str) -> Session:
        """A session that nobody else has until it is given back. Raises DomicileError."""
        idle = self._idle[site]
        return idle.popleft() if idle else await open_session(self._sites[site])

    def give(self, site: str, session: Session) -> None:
        self._idle[site].append(session)


def judged(calls: Sequence[Call], results: Sequence[PGresult]) -> Answer:
    """The first error decides; but a subject who is not there comes before all."""
    for at, (call, result) in enumerate(zip(calls, results, strict=True)):
        if call[0] == b"here" and not sqlstate(result) and not result.command_tuples:
            return Answer(MISSING, at=at)
        if state := sqlstate(result):
            return Answer(state, detail(result), at)
    return Answer(results=results)
