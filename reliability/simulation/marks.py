"""What the mover says to a simulated site of its waves: the functions that live_handover.py and the mover call.

Mirrors postgres/lease.py, postgres/waves.py, postgres/wave_lock.py and site.sql, one commit each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import CoroutineType
from typing import Any

import psycopg

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark
from domicile.model.site import SiteName
from domicile.postgres.failures import Refusal, explain
from domicile.postgres.waves import WaveRecord
from reliability.simulation.clock import pause
from reliability.simulation.flaws import Flaw
from reliability.simulation.guard import LOOK_SECONDS
from reliability.simulation.origin import Conn
from reliability.simulation.site import Site

DOUBT_SECONDS_MAX = 5.0
LEAVING = (SourceMark.CLOSING, SourceMark.FENCED, SourceMark.DEPARTED, "arriving")


def lease_lost() -> DomicileError:
    return DomicileError(ErrorCode.LEASE_LOST, "another process carries the move now")


class Marks:
    """One run's: with its flaws."""

    def __init__(self, flaws: frozenset[Flaw]) -> None:
        self.flaws = flaws

    def require(self, site: Site, generation: int) -> None:
        if site.generation != generation and Flaw.NO_LEASE not in self.flaws:
            raise lease_lost()

    async def write(self, conn: Conn, generation: int, what: Callable[[Site], Any]) -> Any:
        """One transaction that asserts the lease, and holds it from then on: it is never on the line as a whole."""
        site = conn.site

        async def begin() -> None:
            await _unsettled(conn)
            self.require(site, generation)
            site.leased.add(conn)

        async def work() -> Any:
            try:
                done = what(site)
                return await done if isinstance(done, CoroutineType) else done
            finally:
                site.leased.discard(conn)

        conn.line.on_end.append(partial(site.leased.discard, conn))
        await conn.line.ask(begin)
        return await conn.line.ask(work)

    async def write_at_once(self, conn: Conn, generation: int, what: Callable[[Site], Any]) -> Any:
        """The same as one message."""

        def work() -> Any:
            self.require(conn.site, generation)
            return what(conn.site)

        return await conn.line.ask(work)

    async def assert_lease(self, conn: Any, _move_id: str, generation: int) -> None:
        """It is held to the end of the transaction: so it is asked about together with what follows."""
        conn.lease = generation

    async def set_fence(self, conn: Any, wave: int, mark: str, home: str, epoch: int) -> None:
        def work(site: Site) -> None:
            if wave not in site.waves:
                return
            raised = mark in LEAVING and site.waves[wave].mark not in LEAVING[1:]
            site.set_mark(wave, str(mark), str(home), epoch, fence=raised)

        await self.write(conn, conn.lease, work)

    async def find_wave(self, conn: Conn, _move_id: str, no: int) -> WaveRecord | None:
        record = await conn.line.ask(lambda: conn.site.waves.get(no))
        return None if record is None else WaveRecord(no, record.mark, SiteName(record.home), record.epoch)

    async def settle_doubt(self, conn: Conn, _move_id: str, generation: int) -> None:
        """One transaction that has the lease's row for itself."""
        site = conn.site

        async def begin() -> None:
            await free(site)
            await _unsettled(conn)
            site.settling = conn

        def work() -> None:
            _settled(conn)
            if site.generation == generation:
                for record in site.waves.values():
                    record.term += 1

        conn.line.on_end.append(partial(_settled, conn))
        await conn.line.ask(begin)
        await conn.line.ask(work)

    async def depart(self, conn: Conn, wave: int, generation: int, home: str, epoch: int, content: bytes) -> None:
        def work(site: Site) -> None:
            record = site.waves.get(wave)
            if record is None or record.mark != SourceMark.CLOSING:
                raise explain(Refusal("P0001"), "source", "the departure")
            record.mark, record.home, record.epoch = SourceMark.DEPARTED, home, epoch
            site.fence = site.commit_now([], asyncio.get_running_loop().time(), marker=content)
            site.on_mark(site, record)

        await self._call(conn, generation, work)

    async def reopen(self, conn: Conn, wave: int, generation: int, mark: str, home: str, epoch: int) -> None:
        def work(site: Site) -> None:
            now = site.waves[wave].mark if wave in site.waves else ""
            if now not in (SourceMark.CLOSING, SourceMark.DEPARTED, mark):
                raise explain(Refusal("P0001"), "source", "the return")
            site.set_mark(wave, str(mark), home, epoch, fence=now == SourceMark.DEPARTED)

        await self._call(conn, generation, work)

    async def _call(self, conn: Conn, generation: int, work: Callable[[Site], None]) -> None:
        try:
            await self.write_at_once(conn, generation, work)
        except psycopg.OperationalError:
            raise explain(Refusal(), "source", "under the wave's lock") from None

    @asynccontextmanager
    async def hold(
        self, conn: Any, wave: int, *, entered: int, timeout_ms: float, dead_man_ms: float
    ) -> AsyncIterator[WaveLock]:
        """The wave's lock, for the mover alone."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        now = await conn.line.ask(partial(self._acquire, conn, wave, timeout_ms / 1000, dead_man_ms / 1000))
        try:
            if now is None or now != entered:
                raise DomicileError(ErrorCode.FENCE_BUDGET, "the wave's writers did not end, or rows came into it")
            yield WaveLock(self, conn, wave, asked)
        finally:
            try:
                await conn.line.ask(partial(_release, conn.site, wave, conn))
            except (psycopg.OperationalError, DomicileError):
                conn.line.cut(late=False)

    async def _acquire(self, conn: Conn, wave: int, seconds: float, dead_man: float) -> int | None:
        site, loop = conn.site, asyncio.get_running_loop()
        life, deadline = site.life, loop.time() + seconds
        while wave in site.exclusive and site.exclusive[wave] is not conn:
            if loop.time() > deadline:
                return None
            await pause(LOOK_SECONDS)
        site.exclusive[wave] = conn  # from here on others queue behind it
        conn.line.on_end.append(lambda: _release(site, wave, conn))
        loop.call_later(dead_man, lambda: _dead_man(site, wave, conn))
        while Flaw.NO_LOCK not in self.flaws and any(wave in txn.waves for txn in site.active.values()):
            if loop.time() > deadline or site.life != life:
                _release(site, wave, conn)
                return None
            await pause(LOOK_SECONDS)
        return site.entered if site.exclusive.get(wave) is conn else None


class WaveLock:
    """What `hold` gives: `domicile.postgres.wave_lock.WaveLock`."""

    def __init__(self, marks: Marks, conn: Conn, wave: int, asked: float) -> None:
        self._marks, self._conn, self._wave, self.asked = marks, conn, wave, asked

    async def depart(self, _move_id: str, generation: int, home: str, epoch: int, content: bytes, _leaf: None) -> None:
        await self._marks.depart(self._conn, self._wave, generation, home, epoch, content)

    async def reopen(self, _move_id: str, generation: int, mark: str, home: str, epoch: int, _leaf: None) -> None:
        await self._marks.reopen(self._conn, self._wave, generation, mark, home, epoch)


async def free(site: Site) -> None:
    """Wait until no transaction of the mover's is open at the site. Raises site-unreachable."""
    deadline = asyncio.get_running_loop().time() + DOUBT_SECONDS_MAX
    while site.leased:
        if asyncio.get_running_loop().time() > deadline:
            raise explain(Refusal(), "site", "settling a doubt")
        await pause(LOOK_SECONDS)


async def _unsettled(conn: Conn) -> None:
    """Nobody has the lease's row for himself. Raises OperationalError when the session is over by then."""
    life = conn.site.life
    while conn.site.settling is not None:
        await pause(LOOK_SECONDS)
    if not conn.line.served or conn.site.life != life:
        raise psycopg.OperationalError


def _settled(conn: Conn) -> None:
    if conn.site.settling is conn:
        conn.site.settling = None


def _release(site: Site, wave: int, conn: object) -> None:
    if site.exclusive.get(wave) is conn:
        del site.exclusive[wave]


def _dead_man(site: Site, wave: int, conn: Conn) -> None:
    if site.exclusive.get(wave) is conn:
        conn.line.cut(late=False, notice=0.0)
        conn.line.end()
