"""The ways in which the real code asks a simulated site: a slot's stream, a session for questions, rows and their sums.

Mirrors the SQL of stream/reader.py, stream/compare.py and the subtree of stream/reparent.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from zlib import crc32

import psycopg

from domicile.model.errors import DomicileError
from domicile.postgres.checksum import Part
from domicile.postgres.failures import Refusal, explain
from domicile.stream import ahead
from domicile.stream.change import Field, Key
from domicile.stream.layout import StreamTable
from domicile.stream.pgoutput import COMMIT, commit
from domicile.stream.pipeline import Statement
from domicile.stream.reparent import Reparent
from reliability.simulation import tables
from reliability.simulation.destination import Session, does, refuse
from reliability.simulation.flaws import Flaw
from reliability.simulation.network import Line
from reliability.simulation.site import Site, Snapshot
from reliability.simulation.tables import ITEMS, LAYOUT, NAMES, ORDERS, RELATIONS, USERS, Row, Tables

Keys = Mapping[int, Sequence[Key]]


class SlotReader:
    """What `CatchUp` takes for its `Reader`."""

    def __init__(self, line: Line, slot: str, start: int, flaws: frozenset[Flaw]) -> None:
        self._line, self._slot, self._flaws = line, slot, flaws
        if slot not in line.site.slots:
            raise explain(Refusal("42704"), "source", "opening the stream")
        self._from = max(start, line.site.slots[slot].confirmed)
        self._at = 0
        self._told: set[int] = set()
        self._queue: deque[bytes] = deque()
        self.server_position, self.server_clock = self._from, 0

    async def read(self, most: int, idle: float) -> list[bytes]:
        """Some messages; none after ``idle`` seconds. Where it stops has nothing to do with transactions."""
        dice = self._line.dice
        await asyncio.sleep(self._line.far * dice.random())
        if not self._fill():
            await self._wait(idle)
            self._fill()
        count = min(most, len(self._queue))
        if count > 1 and dice.random() < 0.2:
            count = dice.randrange(1, count)
        found = [self._queue.popleft() for _ in range(count)]
        for message in found:
            if message[0] == COMMIT:
                self.server_position = commit(message)
        return found

    def acknowledge(self, position: int) -> None:
        if not position:
            return

        def take() -> None:
            slot = self._line.site.slots.get(self._slot)
            if slot is not None and position > slot.confirmed:
                slot.confirmed = position
                if self._line.dice.random() < 0.5:
                    slot.saved = position

        self._line.post(take)

    def _fill(self) -> bool:
        site = self._line.site
        if self._line.process.dead or not self._line.open or self._slot not in site.slots:
            raise explain(Refusal("" if self._slot in site.slots else "42704"), "source", "reading the stream")
        while self._at < len(site.log):
            entry = site.log[self._at]
            self._at += 1
            if entry.record < self._from:
                continue
            begun, *rest = entry.messages
            fresh = sorted(entry.touched - self._told)
            self._told.update(fresh)
            self._queue.extend([begun, *(RELATIONS[no] for no in fresh), *rest])
            if Flaw.EARLY_ACK in self._flaws:
                self.acknowledge(entry.end)
        return bool(self._queue)

    async def _wait(self, idle: float) -> None:
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        self._line.site.listeners.append(waiting)
        timer = loop.call_later(idle, _wake, waiting)
        await waiting
        timer.cancel()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Answered:
    """A cursor with its rows."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows[0] if self._rows else None

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


class Conn:
    """A session for questions, as the real code uses one: it knows the statements by what they are about."""

    autocommit, broken = True, False

    def __init__(self, line: Line, now: Callable[[], float]) -> None:
        self.line, self._now = line, now
        self._within = False
        self.snapshot: Snapshot | None = None

    async def execute(self, text: Any, params: Sequence[Any] = ()) -> Answered:
        return Answered(await self.line.ask(partial(self._answer, text, params)))

    async def ask(self, what: Callable[[Tables], Any]) -> Any:
        """A question about rows, in the session's snapshot if it has one."""
        return await self.line.ask(lambda: what(self._rows()))

    async def commit(self) -> None:
        await self.execute("commit")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    @property
    def site(self) -> Site:
        return self.line.site

    def _rows(self) -> Tables:
        if not self._within:
            return self.site.rows
        if self.snapshot is None:
            self.snapshot = self.site.snapshot()
        return self.snapshot.rows

    def _answer(self, text: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        if text.lstrip().startswith("begin"):
            self._within, self.snapshot = True, None
        elif text in ("rollback", "commit"):
            self._within, self.snapshot = False, None
        elif "pg_logical_emit_message" in text:
            self.site.commit_now([], self._now(), marker=params[0])
        elif "pg_snapshot_xmin" in text:
            return [(str(self.site.horizon()),)]
        elif "pg_current_snapshot" in text:
            self._rows()
            seam = self.snapshot.seam if self.snapshot is not None else self.site.seam()
            return [(str(seam), self.site.end_of_log)]
        elif text is ahead._KEPT:  # noqa: SLF001 - the statement is known by its text
            record = self.site.waves.get(params[0])
            return [] if record is None else [kept for kept in record.ahead if kept[1] > record.position]
        else:
            raise AssertionError(f"a simulated site does not know this statement: {text}")
        return []


class SimReparent(Reparent):
    """`Reparent`, with the one statement that is SQL by its very nature."""

    __slots__ = ()

    async def _subtree(
        self, conn: Any, top: StreamTable, keys: Sequence[Key]
    ) -> AsyncIterator[tuple[StreamTable, Key, Any]]:
        members = conn.site.members.get(self.wave_id, frozenset())
        flaws: frozenset[Flaw] = getattr(self.apply, "flaws", frozenset())
        found = await conn.ask(lambda rows: list(_below(rows, top.no, set(keys), members)))
        for no, row in found:
            if Flaw.NO_SUBTREE not in flaws or no == top.no:
                yield LAYOUT.tables[no], row[0], row


def _below(rows: Tables, top: int, keys: set[Key], members: frozenset[int]) -> Iterator[tuple[int, Row]]:
    for no in range(top, len(NAMES)):
        for row in rows[no].values():
            if tables.owner_in(rows, no, row) not in members:
                continue
            if no == top:
                wanted = row[0] in keys
            elif no == ORDERS:
                continue  # below a user's own row nothing is taken along: those rows name their owner
            else:
                wanted = top == ORDERS and _order_of(rows, no, row) in keys
            if wanted:
                yield no, row


def _order_of(rows: Tables, no: int, row: Row) -> Field | None:
    if no == ITEMS:
        return row[1]
    return next((order[0] for order in rows[ORDERS].values() if order[2] == row[1]), None)


class SimSide:
    """What the comparison of touched rows takes for its `Side`."""

    def __init__(self, site: Site, wave: int) -> None:
        self._site, self._wave = site, wave

    async def sums(self, conn: Conn, keys: Keys) -> dict[int, Part]:
        found: dict[int, Part] = await conn.ask(lambda rows: {no: self._part(rows, no, k) for no, k in keys.items()})
        return found

    async def rows(self, conn: Conn, no: int, keys: Sequence[Key]) -> Counter[tuple[int, int]]:
        listed = await conn.ask(lambda rows: self._mine(rows, no, keys))
        return Counter((crc32(row[0]), _hash(no, row)) for row in listed)

    async def hashes(self, conn: Conn, keys: Keys) -> dict[int, Counter[tuple[int, int]]]:
        return {no: await self.rows(conn, no, listed) for no, listed in keys.items()}

    async def names(self, _conn: Conn, keys: Keys) -> dict[int, dict[int, Key]]:
        return {no: {crc32(key): key for key in listed} for no, listed in keys.items()}

    async def belonging(self, conn: Conn, no: int, keys: Sequence[Key]) -> set[tuple[int, int]]:
        def work(rows: Tables) -> set[tuple[int, int]]:
            return {(crc32(r[0]), tables.owner_in(rows, no, r) or 0) for r in self._mine(rows, no, keys)}

        found: set[tuple[int, int]] = await conn.ask(work)
        return found

    async def orphans(self, conn: Conn, keys: Keys) -> dict[int, int]:
        found: dict[int, int] = await conn.ask(
            lambda rows: {no: len(_orphans(rows, no, self._mine(rows, no, k))) for no, k in keys.items()}
        )
        return found

    def require(self, no: int, keys: Sequence[Key], part: Part) -> Statement:
        def work(session: Session) -> None:
            if self._part(tuple(session._tables()), no, keys) != part:  # noqa: SLF001 - a statement is a part of it
                raise refuse("touched rows differ", NAMES[no])

        return does(work)

    def require_parents(self, no: int, keys: Sequence[Key]) -> list[Statement]:
        def work(session: Session) -> None:
            here = tuple(session._tables())  # noqa: SLF001
            if _orphans(here, no, self._mine(here, no, keys)):
                raise refuse("rows without what they refer to", NAMES[no])

        return [does(work)]

    def _mine(self, rows: Tables, no: int, keys: Sequence[Key]) -> list[Row]:
        members = self._site.members.get(self._wave, frozenset())
        listed = (rows[no].get(key) for key in dict.fromkeys(keys))
        return [row for row in listed if row is not None and tables.owner_in(rows, no, row) in members]

    def _part(self, rows: Tables, no: int, keys: Sequence[Key]) -> Part:
        listed = self._mine(rows, no, keys)
        return Part(len(listed), sum(_hash(no, row) + (tables.owner_in(rows, no, row) or 0) for row in listed))


def _hash(no: int, row: Row) -> int:
    return crc32(b"".join(row), no)


def _orphans(rows: Tables, no: int, listed: Sequence[Row]) -> list[Row]:
    match no:
        case 1:
            return [row for row in listed if row[1] not in rows[USERS]]
        case 2 | 3:
            return [row for row in listed if _order_of(rows, no, row) not in rows[ORDERS]]
    return []


@asynccontextmanager
async def one_snapshot(side: str, conn: Any) -> AsyncIterator[Any]:
    """As in move/reader.py: questions in one snapshot."""
    with _told(side):
        await conn.execute("begin")
    try:
        yield _Sessions(side, conn)
    finally:
        try:
            await conn.commit()
        except psycopg.Error:
            conn.broken = True


class _Sessions:
    def __init__(self, side: str, conn: Conn) -> None:
        self._side, self._conn = side, conn

    async def ask(self, _what: str, question: Callable[[Any], Any]) -> Any:
        with _told(self._side):
            return await question(self._conn)


@contextmanager
def _told(side: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error:
        raise explain(Refusal(), side, "asking about rows") from None


def unreachable(side: str) -> DomicileError:
    """A site cannot be asked."""
    return explain(Refusal(), side, "carrying the wave")
