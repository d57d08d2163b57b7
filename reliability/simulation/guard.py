"""What an application's statement meets at a site: row locks, foreign keys, and the guard in both isolation levels.

Mirrors postgres/sql/guard.sql and the drain of postgres/drain.py, which are SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from domicile.model.handover import SourceMark, TargetMark
from domicile.stream.change import Field
from reliability.simulation import tables
from reliability.simulation.clock import pause
from reliability.simulation.flaws import Flaw
from reliability.simulation.site import Key, Lock, Site, SqlError, Txn
from reliability.simulation.tables import CODE, ID, ITEMS, ORDER_ID, ORDERS, PARCEL_CODE, PARCELS, USER_ID, USERS, Row

LOOK_SECONDS, LOCK_SECONDS_MAX = 0.004, 0.4
REFUSING = (SourceMark.FENCED, SourceMark.DEPARTED, TargetMark.ARRIVING)
Change = Callable[[Row], Mapping[int, Field]]
"""What an update sets, from the row as it is under its lock."""


@dataclass(frozen=True, slots=True)
class Server:
    """A session's server process: it carries one statement out, and waits where PostgreSQL would."""

    site: Site
    flaws: frozenset[Flaw]
    gap: Callable[[], float]

    async def insert(self, txn: Txn, no: int, row: Row) -> None:
        await self._begin(txn, no)
        await self._ask(txn, no, None, row)
        await self._lock(txn, (no, row[0]), Lock.KEY)
        if self.site.find(txn, no, row[0], latest=True) is not None:
            raise SqlError("23505")
        await self._refer(txn, no, row)
        await self._take_code(txn, no, None, row)
        self.site.write(txn, no, None, row)

    async def update(self, txn: Txn, no: int, key: Field, change: Change, *, strong: bool = False) -> Row | None:
        """The row afterwards; None where there was none. ``strong``: a key changes, and what refers to it follows."""
        await self._begin(txn, no)
        old = await self._current(txn, no, key, Lock.KEY if strong else Lock.UPDATE)
        if old is None:
            return None
        values = change(old)
        new = tuple(values.get(at, field) for at, field in enumerate(old))
        await self._ask(txn, no, old, new)
        if new[0] != old[0]:
            await self._lock(txn, (no, new[0]), Lock.KEY)
            if self.site.find(txn, no, new[0], latest=True) is not None:
                raise SqlError("23505")
        if new[1] != old[1] and no != USERS:
            await self._refer(txn, no, new)
        await self._take_code(txn, no, old, new)
        following = [c for c in self.site.children(txn, no, old) if new[c[2]] != old[c[2]]] if strong else []
        self.site.write(txn, no, old, new)
        for child, at, to, row in following:
            txn.tables.add(child)
            found = await self._current(txn, child, row[0], Lock.UPDATE, cascade=True)
            if found is not None and found[at] == old[to]:
                self.site.write(txn, child, found, tuple(new[to] if i == at else f for i, f in enumerate(found)))
        return new

    async def delete(self, txn: Txn, no: int, key: Field) -> Row | None:
        """With all that refers to the row, which goes after it, as ON DELETE CASCADE does."""
        await self._begin(txn, no)
        old = await self._current(txn, no, key, Lock.KEY)
        if old is None:
            return None
        if Flaw.NO_DELETE not in self.flaws:
            await self._ask(txn, no, old, None)
        below = list(self.site.children(txn, no, old))
        self.site.write(txn, no, old, None)
        for child, at, to, row in below:
            found = await self._current(txn, child, row[0], Lock.KEY, cascade=True)
            if found is not None and found[at] == old[to]:
                await self.delete(txn, child, found[0])
        return old

    async def _begin(self, txn: Txn, no: int) -> None:
        """The table's lock is taken; whom the statement concerns is asked a little later."""
        txn.tables.add(no)
        gap = self.gap()
        if gap:
            await pause(gap)
        if txn.over:
            raise SqlError("57P01")

    async def _current(self, txn: Txn, no: int, key: Field, mode: Lock, *, cascade: bool = False) -> Row | None:
        """The row as it is once it is locked; what comes by way of a foreign key looks beyond the snapshot, and follows
        a row that got another key meanwhile: it was found by what it refers to, not by its key."""
        latest = None
        if there := self.site.find(txn, no, key, latest=cascade) is not None:
            await self._lock(txn, (no, key), mode)
            latest = self.site.find(txn, no, key, latest=True)
        if cascade and latest is None and (renamed := self.site.renamed.get((no, key))) is not None:
            if txn.snapshot is not None:
                raise SqlError("40001")
            return await self._current(txn, no, renamed, mode, cascade=True)
        if there and txn.snapshot is not None and latest != self.site.find(txn, no, key):
            raise SqlError("40001")
        return latest

    async def _refer(self, txn: Txn, no: int, row: Row) -> None:
        """The foreign key, asked at the statement's end: the parent is there for this transaction, and stays. Who is
        about to add it is waited for: a statement that began before may take so long for any other reason."""
        match no:
            case 1:
                parent: Key | None = (USERS, row[USER_ID])
            case 2:
                parent = (ORDERS, row[ORDER_ID])
            case 3:
                await self._lock(txn, (-1, row[PARCEL_CODE]), Lock.REFERENCE)
                found = self._order_with(txn, row[PARCEL_CODE])
                parent = None if found is None else (ORDERS, found[ID])
            case _:
                return
        if parent is None:
            raise SqlError("23503")
        await self._lock(txn, parent, Lock.REFERENCE)
        for latest in (False, True):
            there = self.site.find(txn, parent[0], parent[1], latest=latest)
            if there is None or (no == PARCELS and there[CODE] != row[PARCEL_CODE]):
                raise SqlError("23503")

    def _order_with(self, txn: Txn, code: Field) -> Row | None:
        for (no, _), row in txn.rows.items():
            if no == ORDERS and row is not None and row[CODE] == code:
                return row
        rows = self.site.rows if txn.snapshot is None else txn.snapshot.rows
        for key, row in rows[ORDERS].items():
            if row[CODE] == code and (ORDERS, key) not in txn.rows:
                return row
        return None

    async def _take_code(self, txn: Txn, no: int, old: Row | None, new: Row) -> None:
        if no != ORDERS or (old is not None and old[CODE] == new[CODE]):
            return
        for code in (new[CODE],) if old is None else (old[CODE], new[CODE]):
            await self._lock(txn, (-1, code), Lock.KEY)
        if self.site.code_taken(txn, new[CODE], new[0] if old is None else old[0]):
            raise SqlError("23505")

    async def _lock(self, txn: Txn, key: Key, mode: Lock) -> None:
        waited = 0.0
        while self.site.blocked(txn, key, mode):
            await self._wait(txn)
            waited += LOOK_SECONDS
            if waited > LOCK_SECONDS_MAX:
                raise SqlError("55P03")

    async def _wait(self, txn: Txn) -> None:
        await pause(LOOK_SECONDS)
        if txn.over:
            raise SqlError("57P01")

    # The guard

    async def _ask(self, txn: Txn, no: int, old: Row | None, new: Row | None) -> None:
        """The trigger: every member that owns the row before or afterwards."""
        self._refuse_old_snapshot(txn)
        came_from = None
        if old is not None and (before := self._owner(txn, no, old)) is not None:
            rekeyed = new is not None and no == ORDERS and (old[ID], old[CODE]) != (new[ID], new[CODE])
            came_from = await self._member(txn, before, entering=rekeyed, came_from=None)
        own = ID if no == USERS else 1
        if new is None or (old is not None and old[own] == new[own]):
            return
        if (after := self._owner(txn, no, new)) is not None:
            entering = no == ORDERS and old is not None
            await self._member(txn, after, entering=entering, came_from=None if no in (ITEMS, PARCELS) else came_from)
        elif Flaw.UNSEEN_PARENT not in self.flaws:
            self.site.entered += 1  # the row above is not there for this statement, and may be once it is written

    def _owner(self, txn: Txn, no: int, row: Row) -> int | None:
        """Found in the statement's snapshot."""
        if no in (USERS, ORDERS):
            return tables.owner_in(self.site.rows, no, row)
        if no == ITEMS:
            parent = self.site.find(txn, ORDERS, row[ORDER_ID])
        else:
            rows = self.site.rows if txn.snapshot is None else txn.snapshot.rows
            own = [r for (t, _), r in txn.rows.items() if t == ORDERS and r is not None]
            others = [r for key, r in rows[ORDERS].items() if (ORDERS, key) not in txn.rows]
            parent = next((r for r in own + others if r[CODE] == row[PARCEL_CODE]), None)
        return None if parent is None else tables.value_of(parent[USER_ID])

    async def _member(self, txn: Txn, user: int, *, entering: bool, came_from: int | None) -> int | None:
        """``guard_ask``: returns the wave whose lock it has."""
        locked: int | None = None
        while True:
            latest = self.site.latest(user, txn.snapshot)
            if latest is None:
                return locked
            no, mark, _, _ = latest
            if mark not in (SourceMark.CLOSING, SourceMark.DEPARTED) or no == locked:
                break
            await self._share(txn, no)
            locked = no
            if Flaw.NO_SECOND_LOOK in self.flaws:
                break
            self._refuse_old_snapshot(txn)
        if mark == SourceMark.CLOSING and entering and no != came_from and Flaw.ENTERED_IGNORED not in self.flaws:
            self.site.entered += 1
        if mark in REFUSING:
            raise SqlError("DM001" if mark == SourceMark.DEPARTED else "DM002", latest[2])
        return locked

    async def _share(self, txn: Txn, no: int) -> None:
        waited = 0.0
        while no in self.site.exclusive and no not in txn.waves:
            await self._wait(txn)
            waited += LOOK_SECONDS
            if waited > LOCK_SECONDS_MAX * 10:
                raise SqlError("55P03")
        txn.waves.add(no)

    def _refuse_old_snapshot(self, txn: Txn) -> None:
        if txn.snapshot is None or Flaw.OLD_SNAPSHOT_PASSES in self.flaws:
            return
        if self.site.fence and not txn.snapshot.seam.sees(self.site.fence):
            raise SqlError("40001")


async def drain(site: Site, seconds_max: float, flaws: frozenset[Flaw]) -> int | None:
    """Whoever wrote before has ended: ``entered`` as it was before; None when it took too long."""
    before = site.entered
    if Flaw.NO_DRAIN in flaws:
        return before
    deadline = asyncio.get_running_loop().time() + seconds_max
    for level in range(1 if Flaw.ONE_ROUND in flaws else 2):
        concerned = {ITEMS, PARCELS} if level else {USERS, ORDERS, ITEMS, PARCELS}
        if level:
            site.raise_fence()
        waiting = [txn for txn in site.active.values() if txn.tables & concerned]
        while any(not txn.over for txn in waiting):
            if asyncio.get_running_loop().time() > deadline:
                return None
            await pause(LOOK_SECONDS)
    return before
