"""One run's world: two sites, the control database with its directory, the network between, and who lives there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import Phase, may_follow
from domicile.stream.ahead import _row
from domicile.stream.change import Field
from domicile.stream.index import empty_index
from reliability.simulation import tables
from reliability.simulation.clock import NOWHERE, Killed, Process, VirtualLoop
from reliability.simulation.flaws import Flaw
from reliability.simulation.network import Network
from reliability.simulation.origin import unreachable
from reliability.simulation.plan import FAULTS_UNTIL, Fault, Plan, dice
from reliability.simulation.site import Key, Site
from reliability.simulation.tables import ITEMS, LAYOUT, NAMES, ORDERS, PARCELS, USERS, Row, number, text
from reliability.simulation.truth import ACCEPTING, Truth, Violation

T = TypeVar("T")
CONTROL_SECONDS = 0.002
LATE_SECONDS = 0.02  # until a commit that is in the log is visible, at most
WRAP = 1 << 32
UNEXPECTED = (ErrorCode.INTERNAL, ErrorCode.DISCREPANCY, ErrorCode.KEYS_COLLIDE)
WHOLE = 20_000  # changes of a transaction that is not cut in parts
RUNG = 0.7  # of the writers wait for the mover's next step


@dataclass(slots=True)
class Control:
    """What the control database says: whose the move is, how far each wave is, what is ordered."""

    up: bool = True
    generation: int = 0
    holder: Process | None = None
    order: str = ""
    phase: dict[int, Phase] = field(default_factory=dict)
    reserved: set[int] = field(default_factory=set)
    home_again: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)  # waves that are to step back
    tries: Counter[int] = field(default_factory=Counter)

    def enter(self, no: int, phase: Phase) -> None:
        assert may_follow(self.phase[no], phase), f"{self.phase[no]} -> {phase}"
        self.phase[no] = phase


class World:
    """Everything there is. ``step`` of which a mishap waits; ``late``: how late commits become visible."""

    def __init__(self, plan: Plan, flaws: frozenset[Flaw]) -> None:
        self.plan, self.flaws = plan, flaws
        self.loop = VirtualLoop()
        self.network = Network(self.loop)
        self.control = Control(phase=dict.fromkeys(range(1, plan.waves + 1), Phase.PLANNED))
        throw = self.dice = dice(plan.seed, 1)
        # Ids of transactions of 32 bits wrap in every fourth run.
        first = throw.choice((5_000, 3 * WRAP + 700, WRAP - 30, WRAP // 2 - 20))
        self.sites = {name: Site(name, first + throw.randrange(20)) for name in ("source", "target")}
        self.truth = Truth((self.sites["source"], self.sites["target"]), self.loop.fail)
        self.directory: dict[int, str] = {}
        self.members: dict[int, frozenset[int]] = {}
        self.late, self.steps = LATE_SECONDS, [m.step for m in plan.mishaps if m.kind is Fault.KILL_AT]
        self.far = throw.choice((0.002, 0.008, 0.03))
        self.parts = throw.choice((3, WHOLE, WHOLE))
        self.counts: Counter[str] = Counter()
        self.history: list[str] = []
        self.quiet = True
        self.graves: dict[int, list[Field]] = {}
        self.fresh: list[tuple[Row, Site]] = []
        self.markers = 0
        self._awaited: dict[str, list[asyncio.Future[None]]] = {}
        self._thinking: list[tuple[asyncio.Future[None], float]] = []
        self._populate()

    def _populate(self) -> None:
        user = 0
        for wave in range(1, self.plan.waves + 1):
            self.members[wave] = frozenset(range(user + 1, user + 1 + self.plan.subjects))
            user += self.plan.subjects
        for site, name in enumerate(("source", "target")):
            count = user + self.plan.outsiders if name == "source" else self.plan.outsiders
            for one in range(1, count + 1):
                self._settle(self.sites[name], one + 100 * site)

    def _settle(self, site: Site, user: int) -> None:
        self.truth.add(site, USERS, (number(user), text(f"user {user}")))
        self.directory[user] = site.name
        for k in range(self.dice.randrange(3)):
            order = user * 2 + k
            code = text(f"u{user}-{k}")
            note = text("L" * 40 if self.dice.random() < 0.5 else "s")
            self.truth.add(site, ORDERS, (number(order), number(user), code, note, number(0)))
            self.truth.add(site, ITEMS, (number(order), number(order), number(0)))
            if self.dice.random() < 0.5:
                self.truth.add(site, PARCELS, (number(order), code, number(0)))

    async def ask_control(self, process: Process, what: Callable[[], T]) -> T:
        """A commit in the control database, by whoever holds the move. Raises lease-lost, site-unreachable."""
        await asyncio.sleep(CONTROL_SECONDS)
        if process.dead:
            raise Killed
        if not self.control.up:
            raise unreachable("control")
        if self.control.holder is not process:
            raise DomicileError(ErrorCode.LEASE_LOST, "another process carries the move now")
        return what()

    def kill(self, process: Process) -> None:
        """What it had sent arrives; its sessions end soon."""
        self.loop.kill(process)
        for line in [line for line in self.network.lines if line.process is process]:
            line.cut(late=True, notice=0.02 + self.dice.random() * 0.1)

    async def reach(self, process: Process, name: str) -> None:
        """A step of the mover, at which it may die."""
        self.note(f"{process.name} reaches {name}")
        if name in self.steps and self.loop.now:
            self.steps.remove(name)
            self.count_fault(Fault.KILL_AT)
            self.kill(process)
        self._ring()
        for waiting in self._awaited.pop(name, ()):
            _wake(waiting)
        await asyncio.sleep(0)

    async def reached(self, name: str) -> bool:
        """Wait for that step of the mover; False when it does not come in time."""
        waiting = self.loop.create_future()
        self._awaited.setdefault(name, []).append(waiting)
        timer = self.loop.call_later(FAULTS_UNTIL, _wake, waiting)
        await waiting
        timer.cancel()
        return self.loop.now < FAULTS_UNTIL

    async def think(self, seconds: float, throw: Random) -> None:
        """Wait for so long; or, often, until the mover takes its next step: that is when writers are of interest."""
        waiting = self.loop.create_future()
        timer = self.loop.call_later(seconds, _wake, waiting)
        if throw.random() < RUNG:
            self._thinking.append((waiting, throw.random() ** 2 * self.far * 3))
        await waiting
        timer.cancel()

    def _ring(self) -> None:
        thinking, self._thinking = self._thinking, []
        for waiting, delay in thinking:
            self.loop.call_later(delay, _wake, waiting, context=NOWHERE)

    def failed(self, process: Process, why: DomicileError, *, back: bool = False) -> None:
        """A wave could not be carried to its end. It may be that rows came to another wave's users since, and collide
        on their way back with the copies that these have left; or what stream/parts.py says it cannot do in parts."""
        self.note(f"{process.name}: {why.code}: {why.message}")
        # One who slept through a takeover compares two different times; the sites refuse what it makes of it.
        if self.control.holder is not process:
            return
        self.count(f"failed: {why.code}")
        may_collide = back or self.parts < WHOLE
        if why.code in UNEXPECTED and not (may_collide and why.code is ErrorCode.KEYS_COLLIDE):
            self.loop.fail(Violation(f"{why.code}: {why.message}"))

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def count_fault(self, kind: str) -> None:
        self.note(f"fault: {kind}")
        self.counts[f"fault: {kind}"] += 1

    def note(self, what: str) -> None:
        """A line of the history."""
        if not self.quiet:
            self.history.append(f"{self.loop.now:9.4f}  {what}")

    def marker(self) -> str:
        self.markers += 1
        return f"{self.markers:016x}"

    # The end

    def finish(self) -> list[str]:
        """What is wrong once everything is over."""
        wrong = []
        for no in range(1, self.plan.waves + 1):
            homes = [s.name for s in self.sites.values() if no in s.waves and s.waves[no].mark in ACCEPTING]
            if len(homes) != 1 and not (not homes and self.control.phase[no] is Phase.PLANNED):
                wrong.append(f"wave {no} is served at {homes or 'no site'}")
            elif homes and any(self.directory[user] != homes[0] for user in self.members[no]):
                wrong.append(f"the directory does not say that wave {no} lives at {homes[0]}")
        wrong += [f"wave {no} is reserved for ever" for no in self.control.reserved]
        for site in self.sites.values():
            self.truth.compare(site, {u for u, home in self.truth.home.items() if home is site}, "in the end")
            wrong += self._strangers(site)
        return wrong

    def _strangers(self, site: Site) -> list[str]:
        """Rows of somebody who lives elsewhere and has left no copy here. Of one that was read ahead of its stream the
        owner may be still to come, or never come where the stream has ended: its wave's record knows it."""
        wrong = []
        ahead = _read_ahead(site)
        for no, rows in enumerate(site.rows):
            for row in rows.values():
                owner = tables.owner_in(site.rows, no, row)
                latest = None if owner is None else site.latest(owner, None)
                here = owner is not None and self.truth.home.get(owner) is site
                left = latest is not None and latest[1] in (SourceMark.DEPARTED, TargetMark.ARRIVING)
                if not here and not left and (no, row[0]) not in ahead:
                    key = tables.value_of(row[0])
                    wrong.append(
                        f"{NAMES[no]} {key} of {owner or 'nobody'} is at {site.name}, and has no business there"
                    )
        return wrong


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _read_ahead(site: Site) -> set[Key]:
    index = empty_index(LAYOUT)
    return {
        _row(index, element)[0]
        for record in site.waves.values()
        for _, until, entered, _ in record.ahead
        if until > record.position
        for element in entered
    }
