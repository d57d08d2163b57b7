"""A simulated site: tables with row locks and snapshots, a log in which a commit stands before anybody sees it, and
what domicile keeps there.

Mirrors PostgreSQL as far as the protocol relies on it. Everything here happens at one instant; what takes time is in
whoever asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from domicile.stream.change import Field
from domicile.stream.seam import Seam
from reliability.simulation import tables
from reliability.simulation.tables import CHILDREN, CODE, ORDERS, Row, Tables

Key = tuple[int, Field]
"""A row by the number of its table and its key; a code is locked as a row of table -1."""
Event = tuple[int, Row | None, Row | None]
"""What happened to a row: table, before, afterwards."""
BYTES_OF_AN_ENTRY = 64


class Lock(IntEnum):
    """How strongly a row is locked: a reference keeps the key from changing, and nothing else."""

    REFERENCE = 1
    UPDATE = 2
    KEY = 3


def _conflict(a: Lock, b: Lock) -> bool:
    return a + b >= Lock.KEY + Lock.REFERENCE


class SqlError(Exception):
    """What a server answers an application; ``home`` with DM001."""

    def __init__(self, state: str, home: str = "") -> None:
        super().__init__(state)
        self.state, self.home = state, home


@dataclass(slots=True)
class Record:
    """One row of domicile.wave."""

    no: int
    mark: str
    home: str
    epoch: int
    seam: str = ""
    position: int = 0
    seen: int = 0
    arrival: str = ""
    term: int = 0
    ahead: list[tuple[str, int, list[bytes], list[bytes]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one snapshot sees: rows, and the marks of waves."""

    seam: Seam
    rows: Tables
    marks: dict[int, tuple[str, str, int]]


@dataclass(slots=True, eq=False)
class Txn:
    """A transaction of an application. ``read``: tables whose owner paths it has followed."""

    number: int
    snapshot: Snapshot | None  # of REPEATABLE READ
    xid: int = 0
    events: list[Event] = field(default_factory=list)
    rows: dict[Key, Row | None] = field(default_factory=dict)
    locks: list[Key] = field(default_factory=list)
    tables: set[int] = field(default_factory=set)
    waves: set[int] = field(default_factory=set)
    logged: bool = False
    over: bool = False


@dataclass(slots=True)
class Entry:
    """A transaction in the log."""

    record: int
    end: int
    xid: int
    messages: list[bytes]
    touched: frozenset[int]


@dataclass(slots=True)
class Slot:
    """A replication slot: what is acknowledged, and what of it a crash would leave. ``begun``: everybody sees what it
    passes by. ``reader``: the session that reads from it."""

    confirmed: int
    saved: int = 0
    begun: bool = False
    reader: object = None


class Store:
    """A site as any database is. ``on_logged`` and ``on_visible`` are told of every commit of an application,
    ``on_mark`` of every mark."""

    def __init__(self, name: str, first_xid: int) -> None:
        self.name, self.up, self.life = name, True, 0
        self.rows: Tables = tuple({} for _ in tables.NAMES)
        self.renamed: dict[Key, Field] = {}  # what became of a key that no row has any more
        self.log: list[Entry] = []
        self.end_of_log, self.next_xid, self.completed = 1_000, first_xid, first_xid - 1
        self.running: set[int] = set()
        self.active: dict[int, Txn] = {}
        self.locks: dict[Key, dict[int, Lock]] = {}
        self.slots: dict[str, Slot] = {}
        self.waves: dict[int, Record] = {}
        self.members: dict[int, frozenset[int]] = {}
        self.generation = 0
        self.fence = self.entered = 0
        self.exclusive: dict[int, object] = {}
        self.leased: set[object] = set()  # sessions of the mover with an open transaction that holds the lease
        self.settling: object = None  # the one that has the lease's row for itself
        self.listeners: list[asyncio.Future[None]] = []
        self.on_logged: Callable[[Any, Txn], None] = lambda _site, _txn: None
        self.on_visible: Callable[[Any, Txn], None] = lambda _site, _txn: None
        self.on_mark: Callable[[Any, Record], None] = lambda _site, _record: None
        self._copied: Tables | None = None
        self._numbers = 0

    # Transactions

    def begin(self, *, repeatable: bool) -> Txn:
        self._numbers += 1
        txn = Txn(self._numbers, self.snapshot() if repeatable else None)
        self.active[txn.number] = txn
        return txn

    def snapshot(self) -> Snapshot:
        if self._copied is None:
            self._copied = tuple(dict(table) for table in self.rows)
        marks = {no: (r.mark, r.home, r.epoch) for no, r in self.waves.items()}
        return Snapshot(self.seam(), self._copied, marks)

    def seam(self) -> Seam:
        """``pg_current_snapshot()``."""
        highest = self.completed + 1
        running = frozenset(xid for xid in self.running if xid < highest)
        return Seam(min(running, default=highest), highest, running)

    def find(self, txn: Txn, no: int, key: Field, *, latest: bool = False) -> Row | None:
        """A row as the transaction sees it."""
        if (no, key) in txn.rows:
            return txn.rows[no, key]
        rows = self.rows if latest or txn.snapshot is None else txn.snapshot.rows
        return rows[no].get(key)

    def write(self, txn: Txn, no: int, old: Row | None, new: Row | None) -> None:
        """Note a change; its locks are held."""
        if not txn.xid:
            txn.xid = self.take_xid()
            self.running.add(txn.xid)
        if old is not None:
            txn.rows[no, old[0]] = None
        if new is not None:
            txn.rows[no, new[0]] = new
        txn.events.append((no, old, new))

    def take_xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def log_commit(self, txn: Txn, at: float) -> None:
        """The commit is in the log: from here on no crash takes it back."""
        self.on_logged(self, txn)
        self._append(txn.xid, txn.events, at)
        txn.logged = True

    def make_visible(self, txn: Txn) -> None:
        """And now everybody sees it."""
        self.on_visible(self, txn)
        self._put(txn.events)
        self._end_of(txn.xid)
        self._over(txn)

    def abort(self, txn: Txn) -> None:
        if txn.xid:
            self._end_of(txn.xid)
        self._over(txn)

    def commit_now(self, events: list[Event], at: float, marker: bytes = b"") -> int:
        """A transaction of the mover's, from its beginning to its end. Returns its id."""
        xid = self.take_xid()
        self._append(xid, events, at, marker)
        self._put(events)
        self._end_of(xid)
        return xid

    def _append(self, xid: int, events: list[Event], at: float, marker: bytes = b"") -> None:
        # Every other commit directly behind the one before it, as where its changes were written earlier.
        record = self.end_of_log + (8 if marker or xid & 1 else 0)
        self.end_of_log = end = record + BYTES_OF_AN_ENTRY
        changes = [tables.change_message(no, old, new) for no, old, new in events]
        if marker:
            changes.append(tables.marker_message(record - 8, marker))
        messages = [
            tables.begin_message(record, at, xid),
            *changes,
            tables.commit_message(record, end, at),
        ]
        self.log.append(Entry(record, end, xid, messages, frozenset(no for no, _, _ in events)))
        listeners, self.listeners = self.listeners, []
        for waiting in listeners:
            if not waiting.done():
                waiting.set_result(None)

    def _put(self, events: list[Event]) -> None:
        for no, old, new in events:
            if old is not None:
                del self.rows[no][old[0]]
            if new is not None:
                if old is not None:
                    self.renamed[no, old[0]] = new[0]
                self.renamed.pop((no, new[0]), None)
                assert new[0] not in self.rows[no], "a simulated site has two rows under one key"
                self.rows[no][new[0]] = new
        self._copied = None

    def _end_of(self, xid: int) -> None:
        self.running.discard(xid)
        self.completed = max(self.completed, xid)

    def _over(self, txn: Txn) -> None:
        txn.over = True
        for key in txn.locks:
            holders = self.locks[key]
            holders.pop(txn.number, None)
            if not holders:
                del self.locks[key]
        self.active.pop(txn.number, None)


class Site(Store):
    """With what domicile keeps there, and what is asked of all its rows."""

    def crash(self) -> None:
        """Transactions under way are gone, those in the log are not; so is what a slot was told last."""
        self.up = False
        self.life += 1
        for txn in list(self.active.values()):
            if txn.logged:
                self.make_visible(txn)
            else:
                self.abort(txn)
        self.exclusive.clear()
        self.leased.clear()
        self.settling = None
        for slot in self.slots.values():
            slot.confirmed, slot.reader = slot.saved, None

    def set_mark(self, no: int, mark: str, home: str, epoch: int, *, fence: bool) -> None:
        """One commit of the mover's."""
        record = self.waves[no]
        record.mark, record.home, record.epoch = mark, home, epoch
        xid = self.commit_now([], 0.0)
        if fence:
            self.fence = xid
        self.on_mark(self, record)

    def raise_fence(self) -> None:
        self.fence = self.commit_now([], 0.0)

    def latest(self, user: int, snapshot: Snapshot | None) -> tuple[int, str, str, int] | None:
        """Of the waves that the user has been in, the one with the highest epoch: number, mark, home, epoch."""
        found = None
        for no, members in self.members.items():
            if user in members:
                if snapshot is not None:
                    if no not in snapshot.marks:
                        continue
                    mark, home, epoch = snapshot.marks[no]
                else:
                    record = self.waves[no]
                    mark, home, epoch = record.mark, record.home, record.epoch
                if found is None or epoch > found[3]:
                    found = (no, mark, home, epoch)
        return found

    def owned(self, no: int) -> list[Key]:
        """The rows of a wave's members, children first."""
        members = self.members[no]
        return [
            (table, key)
            for table in range(len(tables.NAMES) - 1, -1, -1)
            for key, row in self.rows[table].items()
            if tables.owner_in(self.rows, table, row) in members
        ]

    def code_taken(self, txn: Txn, code: Field, but: Field) -> bool:
        """Whether another order has that code, as unique indexes see it."""
        for key, row in self.rows[ORDERS].items():
            if row[CODE] == code and key != but and (ORDERS, key) not in txn.rows:
                return True
        return any(
            no == ORDERS and row is not None and row[CODE] == code and key != but for (no, key), row in txn.rows.items()
        )

    def horizon(self) -> int:
        """Every transaction below it is visible to all from now on."""
        return self.seam().xmin

    def children(self, txn: Txn, no: int, row: Row) -> Iterator[tuple[int, int, int, Row]]:
        """Rows that refer to this one, with table and columns: those committed and the transaction's own."""
        for child, at, to in CHILDREN.get(no, ()):
            own = [key for table, key in txn.rows if table == child]
            for key in dict.fromkeys([*self.rows[child], *own]):
                found = self.find(txn, child, key, latest=True)
                if found is not None and found[at] == row[to]:
                    yield child, at, to, found

    def held(self, events: list[Event]) -> bool:
        """Whether an application's row locks are in the way of these changes of the mover's."""
        for no, old, new in events:
            if old is not None and (holders := self.locks.get((no, old[0]))):
                same = new is not None and new[0] == old[0] and (no != ORDERS or new[CODE] == old[CODE])
                if any(_conflict(Lock.UPDATE if same else Lock.KEY, lock) for lock in holders.values()):
                    return True
        return False

    def blocked(self, txn: Txn, key: Key, mode: Lock) -> bool:
        """Whether somebody else has a lock in the way; else the transaction has it now."""
        holders = self.locks.setdefault(key, {})
        if any(number != txn.number and _conflict(mode, held) for number, held in holders.items()):
            return True
        if txn.number not in holders:
            txn.locks.append(key)
        holders[txn.number] = max(mode, holders.get(txn.number, mode))
        return False
