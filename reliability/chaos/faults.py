"""What is done to a move: each kind as a context manager that begins with the fault and ends by lifting it.

``HELD`` faults happen while the mover stands still at a failpoint; the others while it goes on, because they need locks
that it may hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
import os
from random import Random
import signal
from types import MappingProxyType

import psycopg

from domicile.model.errors import DomicileError
from domicile.postgres.connect import connect
from reliability.chaos.proxy import Way
from reliability.chaos.stage import BALLAST, FENCE_SECONDS, SERVERS, WAL_BUDGET_MB, Stage, reached
from reliability.oracle.book import SITES

LOCK_TRIES = 40
BLOCK = b"select pg_logical_emit_message(false, 'chaos', repeat('x', 1048576))"
BACKENDS = """
    select array_agg(pid order by pid) from pg_stat_activity
    where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid()
        and (starts_with(application_name, 'domicile') or not %s)"""
END_WALSENDERS = """
    select count(pg_terminate_backend(active_pid, 2000)) from pg_replication_slots
    where database = current_database() and active_pid is not null"""
DROP_SLOTS = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()"
SLOTS = "select count(*) from pg_replication_slots where database = current_database() and wal_status <> 'lost'"
BULK = (
    "update book.subject as t set ticks = ticks where split_part(book.home_of(t.id), ' ', 2) in {0}",
    "update book.entry as t set mark = mark where split_part(book.home_of(t.subject), ' ', 2) in {0}",
    "update book.list as t set marks = marks where split_part(book.home_of(t.subject), ' ', 2) in {0}",
)
SERVED = "('open', 'closing', 'resident')"
MOVED = "select exists (select from domicile.wave where mark in ('departed', 'arriving'))"


class Kind(StrEnum):
    """What may be done."""

    MOVER_KILLED = "mover-killed"
    WORKER_KILLED = "worker-killed"
    ZOMBIE = "zombie"
    BACKEND_KILLED = "backend-killed"
    SERVER_KILLED = "server-killed"
    SERVER_RESTARTED = "server-restarted"
    CUT = "cut"
    HALF_OPEN = "half-open"
    STALLED = "stalled"
    DELAYED = "delayed"
    REORDERED = "reordered"
    APPLICATION_CUT = "application-cut"
    DISK_FULL = "disk-full"
    SLOT_DROPPED = "slot-dropped"
    SLOT_INVALIDATED = "slot-invalidated"
    WAL_BUDGET = "wal-budget"
    LONG_TRANSACTION = "long-transaction"
    BULK_UPDATE = "bulk-update"
    COLUMN_ADDED = "column-added"
    COLUMN_DROPPED = "column-dropped"
    TABLE_ADDED = "table-added"
    TRUNCATED = "truncated"
    PROMOTION = "promotion"


@dataclass(frozen=True, slots=True)
class Scene:
    """``losing`` and ``gaining``: the sites of the order at work."""

    stage: Stage
    dice: Random
    losing: str
    gaining: str

    def server(self) -> str:
        return self.dice.choice(SERVERS)

    def asked(self, server: str) -> str:
        """A conninfo past every door."""
        return self.stage.servers[server].conninfo()


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Deed:
    """``seconds``: how long it lasts. ``held``: the mover stands still meanwhile. ``stays``: until the order is done.
    ``orders``: those in which it is of interest. ``weight``: how often, against others."""

    fault: Fault
    seconds: tuple[float, float] = (0.0, 0.0)
    held: bool = True
    stays: bool = False
    orders: tuple[str, ...] = ("apply", "rollback", "purge")
    weight: float = 1.0


@asynccontextmanager
async def backend_killed(scene: Scene) -> AsyncIterator[None]:
    """One of the mover's sessions, or else anybody's; PostgreSQL ends all others, and recovers."""
    name = scene.server()
    async with await connect(scene.asked(name)) as conn:
        for mine in (True, False):
            row = await (await conn.execute(BACKENDS, (mine,))).fetchone()
            if row and row[0]:
                os.kill(scene.dice.choice(row[0]), signal.SIGKILL)
                break
    yield
    await reached(scene.stage.servers[name])


@asynccontextmanager
async def server_killed(scene: Scene) -> AsyncIterator[None]:
    server = scene.stage.servers[scene.server()]
    await server.kill()
    yield
    await server.start()


@asynccontextmanager
async def server_restarted(scene: Scene) -> AsyncIterator[None]:
    """As ``pg_ctl restart -m immediate`` does it."""
    server = scene.stage.servers[scene.server()]
    assert server.pid is not None, "it runs"
    os.kill(server.pid, signal.SIGQUIT)
    async with asyncio.timeout(20):
        while server.running:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.02)
    yield
    await server.start()


@asynccontextmanager
async def cut(scene: Scene) -> AsyncIterator[None]:
    """Reset, at one server or at all at once."""
    for name in scene.dice.choice([*((name,) for name in SERVERS), SERVERS]):
        scene.stage.movers[name].cut()
    yield


@asynccontextmanager
async def half_open(scene: Scene) -> AsyncIterator[None]:
    """Neither side hears from the other again, nor that it has gone."""
    door = scene.stage.movers[scene.server()]
    door.silence()
    yield
    door.calm()


@asynccontextmanager
async def stalled(scene: Scene) -> AsyncIterator[None]:
    door = scene.stage.movers[scene.server()]
    door.stall(scene.dice.choice(list(Way)))
    yield
    door.calm()


@asynccontextmanager
async def delayed(scene: Scene) -> AsyncIterator[None]:
    door, lag = scene.stage.movers[scene.server()], 0.01 + scene.dice.random() * 0.1
    door.delay(lambda: lag)
    yield
    door.calm()


@asynccontextmanager
async def reordered(scene: Scene) -> AsyncIterator[None]:
    """Each line to a site is late by its own time: what was sent on one overtakes what was sent before on another."""
    for site in SITES:
        scene.stage.movers[site].delay(lambda: scene.dice.random() ** 3 * 0.3)
    yield
    for site in SITES:
        scene.stage.movers[site].calm()


@asynccontextmanager
async def application_cut(scene: Scene) -> AsyncIterator[None]:
    for site in SITES:
        scene.stage.users[site].cut()
    yield


@asynccontextmanager
async def disk_full(scene: Scene) -> AsyncIterator[None]:
    """The server's file system has no block left, and its log no segment to use again."""
    name = scene.dice.choice(sorted(scene.stage.rooms))
    ballast = scene.stage.rooms[name] / BALLAST
    with ballast.open("wb") as file, suppress(OSError):
        for size in (1 << 26, 1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
    task = asyncio.create_task(_use_up(scene.asked(name)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        ballast.unlink()
        await scene.stage.up()


async def _use_up(conninfo: str) -> None:
    with suppress(psycopg.Error, DomicileError):
        async with await connect(conninfo) as conn:
            for _ in range(WAL_BUDGET_MB * 3):
                await conn.execute(BLOCK)


@asynccontextmanager
async def slot_dropped(scene: Scene) -> AsyncIterator[None]:
    async with await connect(scene.asked(scene.losing)) as conn:
        for _ in range(LOCK_TRIES):
            await conn.execute(END_WALSENDERS)
            with suppress(psycopg.errors.ObjectInUse):
                await conn.execute(DROP_SLOTS)
                break
    yield


@asynccontextmanager
async def slot_invalidated(scene: Scene) -> AsyncIterator[None]:
    """The server keeps no log for anybody, and removes what the slot needs."""
    async with await connect(scene.asked(scene.losing)) as conn:
        await conn.execute("alter system set max_slot_wal_keep_size = '1MB'")
        await conn.execute("select pg_reload_conf()")
        try:
            for _ in range(8):
                await conn.execute(END_WALSENDERS)
                for _ in range(3):
                    await conn.execute(BLOCK)
                    await conn.execute("select pg_switch_wal()")
                await conn.execute("checkpoint")
                row = await (await conn.execute(SLOTS)).fetchone()
                if row == (0,):
                    break
        finally:
            await conn.execute("alter system reset max_slot_wal_keep_size")
            await conn.execute("select pg_reload_conf()")
    yield


@asynccontextmanager
async def wal_budget(scene: Scene) -> AsyncIterator[None]:
    """Others write more log than a move may keep back."""
    async with await connect(scene.asked(scene.losing)) as conn:
        for _ in range(WAL_BUDGET_MB + WAL_BUDGET_MB // 2):
            await conn.execute(BLOCK)
    yield


@asynccontextmanager
async def long_transaction(scene: Scene) -> AsyncIterator[None]:
    """An outsider's, which has written in the move's tables."""
    people = scene.stage.population
    somebody = (people.stayers if scene.losing == SITES[0] else people.residents)[0]
    async with await connect(scene.asked(scene.losing), autocommit=False) as conn:
        await conn.execute("update book.probe set n = n where subject = %s", (somebody,))
        yield
        await conn.commit()


@asynccontextmanager
async def bulk_update(scene: Scene) -> AsyncIterator[None]:
    """Every row that is served there, in one statement a table."""
    for statement in BULK:
        await _insist(scene.asked(scene.losing), statement.format(SERVED))
    yield


@asynccontextmanager
async def column_added(scene: Scene) -> AsyncIterator[None]:
    site = scene.dice.choice(SITES)
    await _insist(scene.asked(site), "alter table book.note add column if not exists more text default 'more'")
    yield
    await _insist(scene.asked(site), "alter table book.note drop column if exists more")


@asynccontextmanager
async def column_dropped(scene: Scene) -> AsyncIterator[None]:
    site = scene.dice.choice(SITES)
    await _insist(scene.asked(site), "alter table book.note drop column if exists spare")
    yield
    await _insist(scene.asked(site), "alter table book.note add column if not exists spare text")


@asynccontextmanager
async def table_added(scene: Scene) -> AsyncIterator[None]:
    """One that hangs from the subjects, and has no row yet."""
    site = scene.dice.choice(SITES)
    await _insist(scene.asked(site), "create table book.tag (subject bigint references book.subject, tag text)")
    yield
    await _insist(scene.asked(site), "drop table if exists book.tag")


@asynccontextmanager
async def truncated(scene: Scene) -> AsyncIterator[None]:
    """Every note of this site is gone, rightly. Not while somebody's closed copy stands there: that must stay."""
    with suppress(psycopg.Error):
        async with await connect(scene.asked(scene.losing), autocommit=False) as conn:
            await conn.execute("set local lock_timeout = '3s'")
            await conn.execute("lock table book.note in access exclusive mode")
            moved = await (await conn.execute(MOVED)).fetchone()
            notes = await (await conn.execute("select id from book.note")).fetchall()
            if moved == (False,):
                await conn.execute("truncate book.note")
                await conn.commit()
                scene.stage.notes.difference_update(note for (note,) in notes)
    yield


async def _insist(conninfo: str, statement: str) -> None:
    """Until it is done: locks of others, their deadlocks and the guard's refusals are waited out."""
    for left in reversed(range(LOCK_TRIES)):
        try:
            async with await connect(conninfo) as conn:
                await conn.execute("set lock_timeout = '500ms'")
                await conn.execute(statement.encode())
                return
        except (psycopg.Error, DomicileError):
            if not left:
                raise
            await asyncio.sleep(0.1)


DEEDS: Mapping[Kind, Deed] = MappingProxyType(
    {
        Kind.BACKEND_KILLED: Deed(backend_killed, weight=2),
        Kind.SERVER_KILLED: Deed(server_killed, (0.0, 1.5), weight=3),
        Kind.SERVER_RESTARTED: Deed(server_restarted, (0.0, 1.5)),
        Kind.CUT: Deed(cut, weight=2),
        Kind.HALF_OPEN: Deed(half_open, stays=True),
        Kind.STALLED: Deed(stalled, (0.5, 6.0)),
        Kind.DELAYED: Deed(delayed, (1.0, 4.0)),
        Kind.REORDERED: Deed(reordered, (1.0, 4.0)),
        Kind.APPLICATION_CUT: Deed(application_cut, held=False),
        Kind.DISK_FULL: Deed(disk_full, (1.0, 4.0)),
        Kind.SLOT_DROPPED: Deed(slot_dropped, orders=("apply", "rollback")),
        Kind.SLOT_INVALIDATED: Deed(slot_invalidated, orders=("apply", "rollback")),
        Kind.WAL_BUDGET: Deed(wal_budget, orders=("apply",)),
        Kind.LONG_TRANSACTION: Deed(
            long_transaction, (FENCE_SECONDS + 1, FENCE_SECONDS * 3), orders=("apply", "rollback")
        ),
        Kind.BULK_UPDATE: Deed(bulk_update, held=False, orders=("apply", "rollback")),
        Kind.COLUMN_ADDED: Deed(column_added, (0.5, 3.0), held=False, orders=("apply", "rollback")),
        Kind.COLUMN_DROPPED: Deed(column_dropped, (0.5, 3.0), held=False, orders=("apply", "rollback")),
        Kind.TABLE_ADDED: Deed(table_added, (0.5, 3.0), held=False),
        Kind.TRUNCATED: Deed(truncated, held=False, orders=("apply",)),
    }
)
"""Those that are done to an order at work. The kinds that are missing have courses of their own, in ``courses.py``."""


def unavailable(stage: Stage, kind: Kind) -> str:
    """Why this kind cannot be done here; empty when it can."""
    full = kind is Kind.DISK_FULL and not stage.rooms
    return "no server has a room that can be filled (that takes root)" if full else ""
