"""Round after round on one stage: a circle moves, comes back or stays, and is purged; each order meets a fault, and a
verdict follows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
import importlib
from random import Random
import time

from domicile.model.phase import Phase
from domicile.model.report import MoveStatus
from domicile.postgres.connect import connect
from reliability.chaos import digest
from reliability.chaos.courses import CLOSED, POINTS_OF, Again, Course, moves, tail
from reliability.chaos.faults import DEEDS, Kind, unavailable
from reliability.chaos.stage import Stage, small, staged
from reliability.chaos.tally import Tally, Violation
from reliability.chaos.writing import Pen, writing
from reliability.oracle.book import DATASET, SITES
from reliability.oracle.writers import Config

RATE = 60.0
ROUNDS_MAX = 25  # of a stage: its writers' memory grows
VIOLATIONS_MAX = 3
BEFORE_ABORT = ("prepare.target_registered", "copy.chunk_committed", "copy.done", "live.catchup", "live.closing")
LIVE_ONLY = frozenset(
    {
        *(Kind.SLOT_DROPPED, Kind.SLOT_INVALIDATED, Kind.WAL_BUDGET, Kind.TRUNCATED, Kind.BULK_UPDATE),
        *(Kind.COLUMN_ADDED, Kind.COLUMN_DROPPED, Kind.LONG_TRANSACTION),
    }
)
PLAN_TRIES = 3


@dataclass(slots=True)
class Rounds:
    """The rounds of one stage."""

    stage: Stage
    pen: Pen
    dice: Random
    tally: Tally
    kinds: AbstractSet[Kind]
    no: int = field(default=0, init=False)
    acknowledged: int = field(default=0, init=False)

    async def go(self, deadline: float) -> None:
        """Until the time is over, or the stage has seen enough. Raises Violation."""
        while self.no < ROUNDS_MAX and (time.monotonic() < deadline or not self.no):
            await self.round()
            self.no += 1

    async def round(self) -> None:
        """One circle, from where it lives. Everything of it is purged at the end."""
        circle = self.no % self.stage.population.circles
        await self.pen.focus(self.stage.population.circle(circle))
        at = await self._whereabouts(circle)
        source = self.dice.choice([site for site in SITES if at[site]])
        target = SITES[1 - SITES.index(source)]
        kind = self._kind_of_round()
        self.tally.say(f"round {self.no}: circle {circle}, {kind}, {source} -> {target}")
        match kind:
            case "abort":
                await self._aborted(circle, source, target)
            case "eject":
                await self._ejected(circle, source, target, max(at[source]))
            case _:
                await self._moved(circle, source, target, cold=kind == "cold")
        self.tally.moves += 1

    def _kind_of_round(self) -> str:
        """What has seen the fewest kills; without kills, mostly a live move."""
        if Kind.MOVER_KILLED not in self.kinds:
            return "live" if self.dice.random() < 0.85 or not self.kinds - LIVE_ONLY else "cold"
        kills = self.tally.kills
        own = {
            "live": (*POINTS_OF["apply"], *POINTS_OF["rollback"]),
            "cold": [point for point in POINTS_OF["cold"] if point not in POINTS_OF["apply"]],
            "abort": POINTS_OF["abort"],
            "eject": POINTS_OF["eject"],
        }
        least = {kind: min(kills[point] for point in points) + 2 * self.dice.random() for kind, points in own.items()}
        return "live" if self.dice.random() < 0.5 else min(least, key=lambda kind: least[kind])

    async def _moved(self, circle: int, source: str, target: str, *, cold: bool) -> None:
        new = await self._planned(circle, source, target)
        order = "cold" if cold else "apply"
        course = self._course(order, source, target, new.again)
        kind = self._choose(order)
        if kind is Kind.WORKER_KILLED:
            await course.worker_killed(new.arguments(cold), new.now)
        else:
            new.cold = cold
            await course.run(kind)
        move = await new.id()
        await self._verdict(f"{kind} in {order} of {move}", circle)
        if not cold and self.dice.random() < self._share_of_rollbacks():
            await self._rolled_back(move, circle, source, target)
        else:
            await self._purged(move, circle, source, target)

    def _share_of_rollbacks(self) -> float:
        """Behind a move its purge is of interest too, which a rollback leaves nothing of."""
        rollbacks = min(self.tally.kills[p] for p in POINTS_OF["rollback"])
        purges = min(self.tally.kills[p] for p in POINTS_OF["purge"])
        return 0.75 if rollbacks <= purges else 0.4

    async def _rolled_back(self, move: str, circle: int, source: str, target: str) -> None:
        """And purged. Where a fault took the stream of the way back, some waves stay where they are."""
        kind = self._choose("rollback")
        order = await self._course("rollback", target, source, _same("rollback", move, "--yes")).run(kind)
        closed = CLOSED in order.said()
        if closed and kind not in (Kind.SLOT_DROPPED, Kind.SLOT_INVALIDATED, Kind.DISK_FULL):
            raise Violation(f"{kind} has closed the way back of {move}: {tail(order)}")
        await self._verdict(f"{kind} in rollback of {move}", circle)
        await self._purged(move, circle, source, target, partly=closed, order="purge" if closed else "clear")

    async def _purged(
        self, move: str, circle: int, source: str, target: str, *, partly: bool = False, order: str = "purge"
    ) -> None:
        """Of a move that was rolled back in part, the first order removes what the rest left at the source, the second
        one the copies at the target."""
        kind = self._choose(order)
        course = self._course(order, source, target, _same("purge", move, "--yes"))
        await course.run(kind)
        if partly:
            await course.run(None)
        await self._verdict(f"{kind} in {order} of {move}", circle, copies=False)

    async def _aborted(self, circle: int, source: str, target: str) -> None:
        """The mover dies, and so do those who take its wave back."""
        new = await self._planned(circle, source, target)
        point = min(BEFORE_ABORT, key=lambda p: (self.tally.kills[p], self.dice.random()))
        died = self.stage.operator.give(*await new.again(), failpoint=f"{point}:kill")
        if not await died.end(60) or not died.killed:
            await died.kill()
            raise Violation(f"not killed at {point}: {tail(died)}")
        self.tally.note(Kind.MOVER_KILLED, point)
        self.tally.kills[point] += 1
        move = await new.id()
        course = self._course("abort", source, target, _same("abort", move, "--yes"))
        await course.killed(POINTS_OF["abort"])
        await self._verdict(f"abort of {move}", circle, copies=False)

    async def _ejected(self, circle: int, source: str, target: str, somebody: int) -> None:
        """One of the second wave leaves the cohort, and the mover dies while it takes them out. At the end everybody is
        where they were."""
        new = await self._planned(circle, source, target)
        died = self.stage.operator.give(*await new.again(), failpoint="prepare.source_registered:kill")
        if not await died.end(60) or not died.killed:
            await died.kill()
            raise Violation(f"not killed at its beginning: {tail(died)}")
        self.tally.note(Kind.MOVER_KILLED, "prepare.source_registered")
        self.tally.kills["prepare.source_registered"] += 1
        move = await new.id()
        await self._join(source, somebody, -2)
        await self._course("eject", source, target, new.again).killed(POINTS_OF["eject"])
        await self._verdict(f"ejection from {move}", circle)
        await self._rolled_back(move, circle, source, target)
        await self._join(source, somebody, circle)

    async def _join(self, site: str, subject: int, circle: int) -> None:
        async with await connect(self.stage.sites[site]) as conn:
            await conn.execute("update book.subject set circle = %s where id = %s", (circle, subject))

    async def _planned(self, circle: int, source: str, target: str) -> _New:
        plan = f"plan-{self.no}.json"
        known = {str(move.move_id) for move in await moves(self.stage)}
        question = ("--from", source, "--to", target, "--where", f"circle = {circle}", "-o", plan)
        for _ in range(PLAN_TRIES):
            order = await self.stage.operator.do("plan", DATASET, *question)
            if order.code == 0:
                return _New(self.stage, plan, known)
            (self.stage.folder / plan).unlink(missing_ok=True)
        raise Violation(f"no plan from {source} to {target}: {tail(order)}")

    def _course(self, order: str, losing: str, gaining: str, again: Again) -> Course:
        return Course(self.stage, self.tally, self.dice, order, losing, gaining, again)

    def _choose(self, order: str) -> Kind | None:
        """What this order meets."""
        fit = {
            kind
            for kind in self.kinds
            if kind in (Kind.MOVER_KILLED, Kind.ZOMBIE)
            or (kind is Kind.WORKER_KILLED and order in ("apply", "cold"))
            or (kind in DEEDS and _meets(kind, order) and not unavailable(self.stage, kind))
        }
        return self.tally.choose(sorted(fit), self.dice)

    async def _verdict(self, about: str, circle: int, *, copies: bool = True) -> None:
        look = await digest.verdict(self.stage, self.pen, self.stage.population.circle(circle) if copies else ())
        self.acknowledged = look.acknowledged
        about = f"{about} ({self.stage.versions})"
        self.tally.say(f"  {about}: {look.acknowledged} writes, {'clean' if look.clean else dict(look.harms)}")
        self.tally.judged(look, about)

    async def _whereabouts(self, circle: int) -> dict[str, list[int]]:
        found = {}
        for site, conninfo in self.stage.sites.items():
            async with await connect(conninfo) as conn:
                rows = await conn.execute("select id from book.subject where circle = %s order by id", (circle,))
                found[site] = [subject for (subject,) in await rows.fetchall()]
        return found


@dataclass(slots=True)
class _New:
    """A move to come from a plan: first it is applied, then resumed, until it is known."""

    stage: Stage
    plan: str
    known: Collection[str]
    cold: bool = False

    def arguments(self, cold: bool) -> Sequence[str]:
        return ("apply", self.plan, "--yes", *(("--cold",) if cold else ()))

    async def now(self) -> MoveStatus | None:
        return next((move for move in await moves(self.stage) if str(move.move_id) not in self.known), None)

    async def id(self) -> str:
        move = await self.now()
        if move is None:
            raise Violation("a move that was applied is not known")
        return str(move.move_id)

    async def again(self) -> Sequence[str]:
        """A move whose cohort is not frozen is begun anew from its plan; it has copied nothing."""
        move = await self.now()
        if move is None or (not move.ordered and _not_begun(move)):
            return self.arguments(self.cold)
        return ("resume", str(move.move_id))


def _not_begun(move: MoveStatus) -> bool:
    return move.status == "pending" and all(wave.phase is Phase.PLANNED for wave in move.waves)


def _meets(kind: Kind, order: str) -> bool:
    if order == "cold":
        return kind not in LIVE_ONLY and "apply" in DEEDS[kind].orders
    return ("purge" if order == "clear" else order) in DEEDS[kind].orders


def _same(*arguments: str) -> Again:
    async def again() -> Sequence[str]:
        return arguments

    return again


async def campaign(tally: Tally, kinds: AbstractSet[Kind], seconds: float, versions: Sequence[str]) -> None:
    """Stage after stage, each with the next pair of versions, for so long."""
    deadline = time.monotonic() + seconds
    dice = Random(tally.seed)
    enough = len(tally.violations) + VIOLATIONS_MAX
    no = 0
    while kinds - {Kind.PROMOTION} and (no == 0 or time.monotonic() < deadline):
        await _on_a_stage(tally, kinds, dice, deadline, versions[no % len(versions)])
        no += 1
        if len(tally.violations) >= enough:
            return
    if Kind.PROMOTION in kinds:
        await _promotion(tally)


async def _on_a_stage(tally: Tally, kinds: AbstractSet[Kind], dice: Random, deadline: float, versions: str) -> None:
    async with staged(small(), versions) as stage:
        tally.skipped |= {str(kind): why for kind in kinds if (why := unavailable(stage, kind))}
        config = Config(stage.application, stage.population, tally.seed, rate=RATE, probes=10.0)
        rounds = None
        try:
            async with writing(config) as pen:
                rounds = Rounds(stage, pen, dice, tally, kinds)
                await rounds.go(deadline)
        except Violation as found:
            stage.keep(str(found))
            tally.found(f"{found}; data kept in {stage.folder}; repeat with --seed {tally.seed} --versions {versions}")
        tally.acknowledged += rounds.acknowledged if rounds is not None else 0


async def _promotion(tally: Tally) -> None:
    """A physical standby that is promoted in place of the source: a course and a stage of its own. Its module has
    ``async def run(seed: int) -> list[str]``, which returns what was found."""
    module = None
    with suppress(ModuleNotFoundError):
        module = importlib.import_module("reliability.chaos.promotion")
    if module is None:
        tally.skipped[str(Kind.PROMOTION)] = "there is no course for it"
        return
    tally.injections[Kind.PROMOTION] += 1
    for found in await module.run(tally.seed):
        tally.found(f"promotion: {found}")
