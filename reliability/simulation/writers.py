"""Writers: applications that know what was acknowledged, follow DM001, repeat after DM002, and break off at times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import psycopg

from domicile.stream.change import Field
from reliability.simulation import tables
from reliability.simulation.clock import Process, pause
from reliability.simulation.guard import Server
from reliability.simulation.network import Line
from reliability.simulation.plan import dice
from reliability.simulation.site import Site, SqlError, Txn
from reliability.simulation.tables import (
    CODE,
    COUNTER,
    ID,
    ITEMS,
    NOTE,
    ORDER_ID,
    ORDERS,
    PARCELS,
    USER_ID,
    USERS,
    Row,
    number,
    text,
    value_of,
)  # fmt: skip

if TYPE_CHECKING:
    from reliability.simulation.world import World

FAR_SECONDS = 0.001
TRIES_MAX = 12
THINK_SECONDS = 0.5
_MORE = 1_000_000
_WEIGHTS = {
    "add order": 14, "count": 16, "append": 12, "add item": 16, "add parcel": 8, "pass item on": 6, "give": 12,
    "new code": 4, "new key": 3, "drop": 8, "drop order": 4, "sign up": 2, "rename": 3, "add again": 4, "sign off": 1,
}  # fmt: skip
_GIFTS = {"give": 30, "add item": 40, "count": 10, "drop": 5, "add order": 5, "pass item on": 10}
Step = Callable[[Server, Txn], Awaitable[object]]


class Writer:
    """One application session after the other, for as many transactions as the plan has."""

    def __init__(self, world: World, no: int) -> None:
        self.world, self.no = world, no
        self.process = Process(f"writer {no}")
        self.lines: dict[str, Line] = {}
        self.known: dict[int, str] = {}
        self.hang = 0.0

    async def run(self) -> None:
        for count in range(self.world.plan.transactions):
            throw = dice(self.world.plan.seed, 10, self.no, count)
            await self.world.think(throw.expovariate(1 / THINK_SECONDS), throw)
            if (self.no, count) not in self.world.plan.skipped:
                await self._transaction(throw, count)

    async def _transaction(self, throw: Random, count: int) -> None:
        world = self.world
        users = [user for user in world.truth.home if number(user) in world.truth.rows[USERS]]
        if not users:
            return
        user = throw.choice(users)
        for _ in range(TRIES_MAX):
            site = world.sites[self.known.get(user) or world.directory.get(user, world.truth.home[user].name)]
            server = Server(site, world.flaws, partial(_gap, throw))
            makers = [self._make(throw, count, k, site, user) for k in range(throw.choice((1, 1, 2, 3)))]
            steps = [step for step in makers if step is not None]
            if not steps:
                return
            try:
                await self._carry_out(server, steps, throw)
                return
            except SqlError as refused:
                world.count(refused.state)
                if refused.state == "DM001":
                    self.known[user] = refused.home
                elif refused.state in ("DM002", "40001", "55P03", "57P01"):
                    await asyncio.sleep(0.02 + throw.random() * 0.05)
                else:
                    self.known.pop(user, None)
                    return
            except psycopg.OperationalError:
                world.count("broken off")
                self.known.pop(user, None)
                await asyncio.sleep(0.1)

    async def _carry_out(self, server: Server, steps: list[Step], throw: Random) -> None:
        site = server.site
        line = self.lines.get(site.name)
        if line is None or not line.open:
            line = self.lines[site.name] = await self.world.network.open(self.process, site, FAR_SECONDS, throw)
        line.dice = throw
        hang, self.hang = self.hang, 0.0
        if await line.ask(partial(self._serve, server, line, steps, throw, hang)):
            self.world.count("acknowledged")

    async def _serve(self, server: Server, line: Line, steps: list[Step], throw: Random, hang: float) -> bool:
        """Whether anything was written."""
        most = 0.25 if self.world.plan.gifts else 0.06
        txn = await _statements(server, line, steps, throw, (most, hang))
        return await self._commit(server.site, txn, throw)

    async def _commit(self, site: Site, txn: Txn, throw: Random) -> bool:
        """In the log; a little later, with a standby much later, visible; then acknowledged."""
        if not txn.events:
            site.abort(txn)
            return False
        site.log_commit(txn, self.world.loop.now)
        if not self.world.quiet:
            self.world.note(f"writer {self.no} commits {txn.xid} at {site.name}: {_told(txn)}")
        late = throw.random() ** 3 * self.world.late
        if late > 0.001:
            await pause(late)
        if not txn.over:
            site.make_visible(txn)
        return True

    # What a transaction does

    def _make(self, throw: Random, count: int, k: int, site: Site, user: int) -> Step | None:
        """One statement; None where there is nothing to do it with. What it knows of rows is what it has read."""
        weights = _GIFTS if self.world.plan.gifts else _WEIGHTS
        kind = throw.choices(tuple(weights), tuple(weights.values()))[0]
        new = 1_000 + (self.no * 100 + count) * 10 + k + (_MORE if site.name == "target" else 0)
        orders = [row for row in site.rows[ORDERS].values() if row[USER_ID] == number(user)]
        order = throw.choice(orders) if orders else None
        match kind:
            case "sign up":
                return partial(_insert, no=USERS, row=(number(new + 2 * _MORE), text("new")))
            case "rename":
                return partial(_update, no=USERS, key=number(user), change=lambda row: {1: _longer(row[1])})
            case "sign off":
                return partial(_delete, no=USERS, key=number(user))
            case "add again":
                gone = [key for key in self.world.graves.get(user, ()) if key not in self.world.truth.rows[ORDERS]]
                if not gone or site is not self.world.truth.home[user]:
                    return None
                code = self._code(throw, user, new)
                return partial(_insert, no=ORDERS, row=(gone[-1], number(user), code, text("again"), number(new)))
        if order is None or kind == "add order":
            note = text("L" * 40 if throw.random() < 0.5 else "s")
            row = (number(new), number(user), self._code(throw, user, new), note, number(new))
            if throw.random() < 0.5:
                self.world.fresh.append((row, site))
            return partial(_insert, no=ORDERS, row=row)
        return self._about(kind, throw, new, site, order)

    def _about(self, kind: str, throw: Random, new: int, site: Site, order: Row) -> Step | None:
        """One that concerns an order."""
        key = order[ID]
        match kind:
            case "count":
                return partial(_update, no=ORDERS, key=key, change=_counted(ORDERS))
            case "append":
                return partial(_update, no=ORDERS, key=key, change=lambda row: {NOTE: _longer(row[NOTE])})
            case "add item":
                return partial(_insert, no=ITEMS, row=(number(new), self._parent(throw, site, order)[ID], number(new)))
            case "add parcel":
                row = (number(new), self._parent(throw, site, order)[CODE], number(new))
                return partial(_insert, no=PARCELS, row=row)
            case "new code":
                code = self._code(throw, value_of(order[USER_ID]), new)
                return partial(_update, no=ORDERS, key=key, change=lambda _row: {CODE: code}, strong=True)
            case "new key":
                return partial(_update, no=ORDERS, key=key, change=lambda _row: {ID: number(new)}, strong=True)
            case "drop order":
                return partial(self._drop_order, key=key)
            case "give":
                return self._give(throw, new, site, order)
        items = [row for row in site.rows[ITEMS].values() if row[ORDER_ID] == key]
        if not items:
            return partial(_insert, no=ITEMS, row=(number(new), key, number(new)))
        item = throw.choice(items)
        if kind == "drop":
            return partial(_delete, no=ITEMS, key=item[ID])
        other = throw.choice(list(site.rows[ORDERS].values()))
        return partial(
            _update, no=ITEMS, key=item[ID], change=lambda row: {ORDER_ID: other[ID], **_counted(ITEMS)(row)}
        )

    def _give(self, throw: Random, new: int, site: Site, order: Row) -> Step:
        """To another user of this site, with a code of his own: one code is never at two homes."""
        receiver = throw.choice(list(site.rows[USERS]))
        code = self._code(throw, value_of(receiver), new)
        if throw.random() < 0.5:  # somebody who keeps the code: what refers to it stays as it is
            return partial(_update, no=ORDERS, key=order[ID], change=lambda _row: {USER_ID: receiver})
        changed = {USER_ID: receiver, CODE: code}
        return partial(_update, no=ORDERS, key=order[ID], change=lambda _row: changed, strong=True)

    async def _drop_order(self, server: Server, txn: Txn, key: Field) -> None:
        row = await server.delete(txn, ORDERS, key)
        if row is not None:
            self.world.graves.setdefault(value_of(row[USER_ID]), []).append(key)

    def _code(self, throw: Random, user: int, new: int) -> Field:
        """Of a user's own few codes, one that nobody has, so that values pass from row to row; or a new one."""
        mine = text(f"u{user}-{throw.randrange(3)}")
        if throw.random() < 0.3 or any(row[CODE] == mine for row in self.world.truth.rows[ORDERS].values()):
            return text(f"c{new}-{self.no}")
        return mine

    def _parent(self, throw: Random, site: Site, order: Row) -> Row:
        """An order that is there; or one that another writer is about to add, of which this one has heard."""
        fresh = [row for row, where in self.world.fresh[-4:] if where is site]
        if fresh and throw.random() < 0.5:
            return throw.choice(fresh)
        return order


async def _statements(server: Server, line: Line, steps: list[Step], throw: Random, pauses: tuple[float, float]) -> Txn:
    """All up to the commit, with the way to and fro in between."""
    site = server.site
    txn = site.begin(repeatable=throw.random() < 0.2)

    def end() -> None:
        if not txn.over and not txn.logged:
            site.abort(txn)

    line.on_end = [end]
    try:
        for step in steps:
            await step(server, txn)
            await pause(FAR_SECONDS + throw.random() ** 3 * pauses[0] + pauses[1])
        if txn.over:
            raise SqlError("57P01")
        if throw.random() < 0.04:
            raise SqlError("rolled back")
    except SqlError:
        end()
        raise
    return txn


async def _insert(server: Server, txn: Txn, no: int, row: Row) -> None:
    await server.insert(txn, no, row)


async def _update(
    server: Server, txn: Txn, no: int, key: Field, change: Callable[[Row], dict[int, Field]], *, strong: bool = False
) -> None:
    await server.update(txn, no, key, change, strong=strong)


async def _delete(server: Server, txn: Txn, no: int, key: Field) -> None:
    await server.delete(txn, no, key)


def _counted(no: int) -> Callable[[Row], dict[int, Field]]:
    at = COUNTER[no]
    return lambda row: {at: number(value_of(row[at]) + 1)}


def _longer(field: Field) -> Field:
    return text(field[4:].decode() + "+")


def _gap(throw: Random) -> float:
    """Between a statement's lock on its table and what it asks the guard."""
    return 0.0 if throw.random() < 0.7 else throw.random() ** 2 * 0.04


def _told(txn: Txn) -> str:
    return ", ".join(_event(no, old, new) for no, old, new in txn.events)


def _event(no: int, old: Row | None, new: Row | None) -> str:
    def told(row: Row) -> str:
        return "/".join(str(value_of(f)) if len(f) == 12 and f[4] in (0, 255) else f[4:].decode() for f in row)

    if new is None:
        assert old is not None
        return f"delete {tables.NAMES[no]} {value_of(old[0])}"
    return f"{'insert' if old is None else 'update'} {tables.NAMES[no]} {told(new)}"
