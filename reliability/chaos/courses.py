"""One order with one fault: how it is broken, and how an operator brings it to its end all the same.

An order that fails, dies or hangs is given again, as its error says. The time until work goes on is taken from the
fault, or from its end where it lasts by its nature, until the order is done, or has come to the next failpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
import signal
import time

import psycopg

from domicile import commands
from domicile.control.lease import STALE_SECONDS
from domicile.model.errors import DomicileError
from domicile.model.phase import Status, ended
from domicile.model.report import MoveStatus
from domicile.model.workspace import Workspace
from reliability.chaos.digest import two_homes
from reliability.chaos.faults import DEEDS, Deed, Kind, Scene
from reliability.chaos.orders import Held, Order
from reliability.chaos.stage import CONTROL, Stage
from reliability.chaos.tally import Tally, Violation

HANG_SECONDS = 30.0
STAYS_SECONDS = 10.0  # until an operator gives up waiting for a mover whose lines are silent
ZOMBIE_END_SECONDS = 20.0
STUCK_SECONDS = 120.0  # of orders that fail, until it counts as stuck
REST_SECONDS = 0.5
LASTS_SECONDS = 2.0  # a fault that lasts longer is counted from its end
CLOSED = "way-back-closed"
PREPARING = ("prepare.source_registered", "prepare.target_registered", "prepare.reserved")
COPYING = ("copy.before", "copy.chunk_committed", "copy.done")
CROSSING = ("live.catchup", "live.verify", "live.armed", "live.closing", "live.locked", "live.departed", "live.arrived")
POINTS_OF = {
    "apply": (*PREPARING, *COPYING, *CROSSING, "live.published", "live.sealed"),
    "cold": (
        *PREPARING,
        *("fence.armed", "fence.marked", "fence.drained"),
        *COPYING,
        *("verify.before", "verify.done", "handover.departed", "handover.arrived", "handover.published"),
    ),
    "rollback": ("rollback.prepared", *CROSSING, "live.published", "rollback.arrived"),
    "purge": ("purge.before", "purge.chunk_committed", "purge.deleted", "purge.done"),
    "clear": ("rollback.cleared",),
    "abort": ("stepback.source_open", "stepback.target_cleaned"),
    "eject": ("eject.target_cleaned", "eject.source_forgot"),
}
Again = Callable[[], Awaitable[Sequence[str]]]
CHAIN = 8  # movers killed one after the other in one order, at most


@dataclass(slots=True)
class Course:
    """An order under way. ``again``: the command line with which it is given, anew each time."""

    stage: Stage
    tally: Tally
    dice: Random
    order: str
    losing: str
    gaining: str
    again: Again
    points: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        self.points = self.points or POINTS_OF[self.order]

    async def run(self, kind: Kind | None) -> Order:
        """Give the order, with a fault of this kind, until it is done; its last process. Raises Violation."""
        match kind:
            case None:
                return await self._insist(await self._give(), None, 0.0)
            case Kind.MOVER_KILLED:
                return await self.killed(self._chain())
            case Kind.ZOMBIE:
                return await self._zombie()
            case _:
                return await self._broken(kind, DEEDS[kind])

    async def killed(self, points: Sequence[str]) -> Order:
        """One mover after the other dies by ``kill -9``, each a little further on."""
        since = 0.0
        for no, point in enumerate(points):
            times = self.dice.choice((1, 2)) if not no and self.order in ("apply", "cold") else 1
            process = await self._give(failpoint=f"{point}:kill:{times}")
            if not await process.end(HANG_SECONDS):
                return await self._insist(process, Kind.MOVER_KILLED, since)
            if not process.killed:
                self.tally.missed[Kind.MOVER_KILLED] += 1
                return await self._insist(process, Kind.MOVER_KILLED, since)
            if since:
                self.tally.went_on(Kind.MOVER_KILLED, time.monotonic() - since, f"a kill before {point}")
            since = time.monotonic()
            self.tally.note(Kind.MOVER_KILLED, point)
            self.tally.kills[point] += 1
            if served := await two_homes(self.stage):
                raise Violation(f"killed at {point}: both sites serve {served}")
        return await self._insist(await self._give(), Kind.MOVER_KILLED, since)

    def _chain(self) -> list[str]:
        """The failpoints that have seen the fewest kills, in the order in which a wave meets them."""
        by_need = sorted(self.points, key=lambda point: (self.tally.kills[point], self.dice.random()))
        return sorted(by_need[: self.dice.randint(1, CHAIN)], key=self.points.index)

    async def _broken(self, kind: Kind, deed: Deed) -> Order:
        point = self.tally.point(kind, self.points, self.dice)
        process = await self._give(held=Held(point))
        if not await process.held(HANG_SECONDS):
            self.tally.missed[kind] += 1
            return await self._insist(process, None, 0.0)
        scene = Scene(self.stage, self.dice, self.losing, self.gaining)
        if not deed.held:
            process.signal(signal.SIGCONT)
            await asyncio.sleep(self.dice.random() * 0.2)
        since = time.monotonic()
        async with deed.fault(scene):
            self.tally.note(kind, point)
            process.signal(signal.SIGCONT)
            if deed.stays:
                if not await process.end(STAYS_SECONDS):
                    self.tally.hung[kind] += 1
                    await process.kill()
                return await self._insist(process, kind, since)
            await asyncio.sleep(self.dice.uniform(*deed.seconds))
        lasted = deed.seconds[1] > LASTS_SECONDS
        return await self._insist(process, kind, time.monotonic() if lasted else since)

    async def _zombie(self) -> Order:
        """Stopped for longer than its lease; another takes over; what comes back then must write nothing."""
        point = self.tally.point(Kind.ZOMBIE, self.points, self.dice)
        zombie = await self._give(held=Held(point))
        if not await zombie.held(HANG_SECONDS):
            self.tally.missed[Kind.ZOMBIE] += 1
            return await self._insist(zombie, None, 0.0)
        since = time.monotonic()
        self.tally.note(Kind.ZOMBIE, point)
        await asyncio.sleep(STALE_SECONDS)
        early = self.dice.random() < 0.5
        other = await self._give()
        if early:  # it comes back while the other is at work
            await other.end(self.dice.random() * 4)
            zombie.signal(signal.SIGCONT)
        done = await self._insist(other, Kind.ZOMBIE, since)
        zombie.signal(signal.SIGCONT)
        if not await zombie.end(ZOMBIE_END_SECONDS):
            await zombie.kill()
            raise Violation(f"a zombie of {point} did not end")
        if zombie.code == 0 and not (early and done is not other):
            raise Violation(f"a zombie of {point} ended as if the move had been its own")
        self.tally.fenced += zombie.code != 0
        return done

    async def worker_killed(self, arguments: Sequence[str], move: Callable[[], Awaitable[MoveStatus | None]]) -> None:
        """The order is left to workers; the first dies by ``kill -9``, and a second one takes over."""
        point = self.tally.point(Kind.WORKER_KILLED, self.points, self.dice)
        worker = ("worker", "--site", self.losing)
        first = self.stage.operator.give(*worker, failpoint=f"{point}:kill")
        ordered = await self.stage.operator.do(*arguments, "--detach", seconds=HANG_SECONDS)
        if ordered.code != 0:
            raise Violation(f"an order for workers was refused: {tail(ordered)}")
        if await first.end(HANG_SECONDS):
            self.tally.note(Kind.WORKER_KILLED, point)
            self.tally.kills[point] += 1
        else:
            self.tally.missed[Kind.WORKER_KILLED] += 1
            await first.kill()
        since = time.monotonic()
        second = self.stage.operator.give(*worker)
        while (found := await move()) is not None and found.status is not Status.WAITING:
            if time.monotonic() - since > 2 * HANG_SECONDS or second.code is not None or ended(found.status):
                raise Violation(f"no worker went on behind {point}: {found.status}; {tail(second)}")
            await asyncio.sleep(0.1)
        self.tally.went_on(Kind.WORKER_KILLED, time.monotonic() - since, f"the death of a worker at {point}")
        second.signal(signal.SIGTERM)
        if not await second.end(HANG_SECONDS):
            await second.kill()
            raise Violation("a worker that was asked to leave did not")

    async def _give(self, failpoint: str = "", held: Held | None = None) -> Order:
        arguments = await self.again()
        return self.stage.operator.give(*arguments, failpoint=failpoint, held=held or Held())

    async def _insist(self, process: Order, kind: Kind | None, since: float) -> Order:
        """Wait for its end; while it is not done, give the order again."""
        about = f"{kind or 'nothing'} in {self.order}"
        deadline, failed = time.monotonic() + STUCK_SECONDS, process
        while time.monotonic() < deadline:
            if not await process.end(HANG_SECONDS):
                self.tally.hung[str(kind)] += 1
                self.tally.say(f"{about}: hung, killed by hand: {tail(process)}")
                await process.kill()
            if process.code == 0 or (self.order == "rollback" and CLOSED in process.said()):
                break
            failed = process
            self.tally.again[str(kind)] += 1
            await asyncio.sleep(REST_SECONDS)
            process = await self._give()
        else:
            raise Violation(f"stuck: {about}, still after {STUCK_SECONDS:.0f} s of orders: {tail(failed)}")
        if kind is not None and since:
            self.tally.went_on(kind, time.monotonic() - since, about)
        return process


def tail(process: Order) -> str:
    """The last that an order has said, on one line."""
    return f"[{process.code}] " + " | ".join(process.said().strip().splitlines()[-6:])


def looking(stage: Stage) -> Workspace:
    """The operator's configuration, with a control database past every door."""
    return replace(stage.workspace, control=stage.servers[CONTROL].conninfo())


async def moves(stage: Stage) -> tuple[MoveStatus, ...]:
    """Every move there is, oldest first. A control database that is recovering is waited for."""
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        try:
            return await commands.status(looking(stage))
        except (DomicileError, psycopg.Error):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(REST_SECONDS)
