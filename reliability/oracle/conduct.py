"""The moves of a run: circle after circle goes to the other site, and is rolled back, or stays there and goes on from
there, while the writers write. Each move is purged before the next one, so that at the end nobody has a copy
anywhere."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
import hashlib
from pathlib import Path
import pickle
from random import Random
import sys
import time
from typing import TypeVar

from domicile import commands
from domicile.model.errors import DomicileError
from domicile.model.phase import Phase, Status
from domicile.model.plan import Limits, Mode, Question
from domicile.model.report import MoveStatus
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import Workspace
from domicile.world.process import end
from reliability.oracle import judge
from reliability.oracle.book import DATASET, MAP, SITES, Population
from reliability.oracle.memory import Memory
from reliability.oracle.writers import Config, as_line

ROLLED_BACK = 0.6  # of the moves
TRIES = 10  # of an order that fails, until the run is given up

T = TypeVar("T")


@dataclass(slots=True)
class Moved:
    """What the moves came to. ``stepped_back``: tries of handovers that did. ``troubles``: orders that failed and were
    given again, by code. ``foreign``: rows of those who never move, found on the other site while copies were kept, in
    so many ``looks``."""

    moves: int = 0
    handovers: int = 0
    rollbacks: int = 0
    stepped_back: int = 0
    pauses_ms: list[float] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    looks: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """``sites``: conninfos by name, which may hold secrets; ``rate``: transactions a second."""

    place: Workspace
    sites: Mapping[str, str] = field(repr=False)
    population: Population
    seed: int
    rate: float


@dataclass(frozen=True, slots=True)
class Played:
    """What the writers were promised, what the moves came to, and how many seconds it took."""

    memory: Memory
    moved: Moved
    seconds: float


class Conductor:
    """Moves circles to and fro between the first two sites."""

    def __init__(self, workspace: Workspace, population: Population, dice: Random, say: Callable[[str], None]) -> None:
        self._place = workspace
        self._population = population
        self._dice = dice
        self._say = say
        self._homes = dict.fromkeys(range(population.circles), SITES[0])
        self.moved = Moved()

    async def go_round(self, circle: int) -> None:
        """One move of the circle, from where it is, and its purge. Raises DomicileError when it cannot be done."""
        source = self._homes[circle]
        target = SITES[1 - SITES.index(source)]
        back = not self.moved.moves or self._dice.random() < ROLLED_BACK  # the first one, so that no run is without
        plan = await commands.plan(self._place, Question(DATASET, source, target, where=f"circle = {circle}"))
        found = await commands.apply(self._place, plan, mode=Mode.LIVE)
        for _ in range(TRIES):
            if found.status is Status.WAITING:
                break
            self._note(found)
            found = await commands.resume(self._place, found.move_id)
        if found.status is not Status.WAITING:
            raise RuntimeError(f"the move is {found.status} after {TRIES} tries: {dict(self.moved.troubles)}")
        self._count(found)
        await self._look()
        if back:
            rolled_back = await self._insist(lambda: commands.rollback(self._place, found.move_id))
            self.moved.rollbacks += sum(wave.rolled_back for wave in rolled_back.waves)
            self._pauses(rolled_back)
            await self._look()
        await self._insist(lambda: commands.purge(self._place, found.move_id))
        self._homes[circle] = source if back else target
        self.moved.moves += 1
        course = f"circle {circle} {source} -> {target}{' and back' if back else ''}"
        moved = self.moved
        self._say(f"{course}: {moved.handovers} handovers, {moved.rollbacks} rollbacks, {dict(moved.troubles)}")

    async def _insist(self, order: Callable[[], Awaitable[T]]) -> T:
        """An order that a wave's budget may end is given again."""
        for left in reversed(range(TRIES)):
            try:
                return await order()
            except DomicileError as trouble:
                self.moved.troubles[str(trouble.code)] += 1
                self._say(f"{trouble.code}: {trouble.message}")
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _note(self, found: MoveStatus) -> None:
        codes = [wave.error_code for wave in found.waves if wave.error_code] or [found.error_code or "unknown"]
        self.moved.troubles.update(codes)
        self._say(f"{found.status}: {[(w.no, w.error_code, w.error_message) for w in found.waves if w.error_code]}")

    def _count(self, found: MoveStatus) -> None:
        self.moved.handovers += sum(wave.phase is Phase.SOAK for wave in found.waves)
        self._pauses(found)

    def _pauses(self, found: MoveStatus) -> None:
        live = [wave.live for wave in found.waves if wave.live is not None]
        self.moved.stepped_back += sum(one.tries for one in live)
        self.moved.pauses_ms += [one.pause_ms for one in live if one.pause_ms is not None]

    async def _look(self) -> None:
        at = self._place.datasets[DatasetName(DATASET)].at
        self.moved.looks += 1
        self.moved.foreign += await judge.foreign(
            {str(site): conninfo for site, conninfo in at.items()}, self._population
        )


def workspace(state: Path, sites: Mapping[str, str], population: Population, control: str) -> Workspace:
    """The configuration of a run; its map is written beside its state. ``sites`` and ``control``: conninfos."""
    state.mkdir(parents=True, exist_ok=True)
    map_path = state / "book.map.yaml"
    map_path.write_text(MAP, encoding="utf-8")
    at = {SiteName(site): conninfo for site, conninfo in sites.items()}
    return Workspace(
        sites={site: Site(site, "") for site in at},
        datasets={DatasetName(DATASET): Dataset(DatasetName(DATASET), str(map_path), at)},
        state_dir=state,
        config_digest=hashlib.sha256("".join(sites.values()).encode()).hexdigest(),
        base_dir=Path("/"),
        limits=Limits(wave_subjects_max=population.wave_subjects, canary_subjects_max=0, wave_retry_seconds=2.0),
        control=control,
    )


@dataclass(slots=True)
class Busy:
    """The writers' process, seen from its parent."""

    _process: Process

    async def focus(self, subjects: range) -> None:
        """From now on most is written for these."""
        await self.order(f"focus {subjects.start} {subjects.stop - 1}")

    async def stop(self, file: Path) -> Memory:
        """Let the writers end and settle; their memory. Once."""
        await self.order(f"stop {file}")
        await self.expect("written")
        memory = pickle.loads(file.read_bytes())
        assert isinstance(memory, Memory), "our own child wrote it"
        return memory

    async def order(self, line: str) -> None:
        assert self._process.stdin is not None, "it was asked for"
        with suppress(ConnectionError):  # a child that died is found by what it does not answer
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()

    async def expect(self, word: str) -> None:
        assert self._process.stdout is not None, "it was asked for"
        if (line := (await self._process.stdout.readline()).decode().strip()) != word:
            raise RuntimeError(f"the writers' process ended before it was {word} ({line!r}); what it said stands above")

    @property
    def alive(self) -> bool:
        return self._process.returncode is None


@asynccontextmanager
async def writing(config: Config) -> AsyncIterator[Busy]:
    """Writers that write when the block begins; at its end, however it comes, their process is gone."""
    async with started("reliability.oracle.writers", config) as process:
        busy = Busy(process)
        await busy.expect("ready")
        yield busy


@asynccontextmanager
async def started(module: str, config: Config) -> AsyncIterator[Process]:
    """A process of its own that runs the module and has been told the config; gone at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=PIPE, stdout=PIPE, process_group=0
    )
    try:
        assert process.stdin is not None, "it was asked for"
        process.stdin.write(as_line(config))
        yield process
    finally:
        await end(process)


async def play(stage: Stage, seconds: float, say: Callable[[str], None]) -> Played:
    """Writers write, and round after round is moved, for so long, the last round to its end."""
    population = stage.population
    conductor = Conductor(stage.place, population, Random(stage.seed), say)
    begun = time.monotonic()
    async with writing(Config(stage.sites, population, stage.seed, rate=stage.rate)) as busy:
        no = 0
        while no == 0 or time.monotonic() - begun < seconds:
            circle = no % population.circles
            await busy.focus(population.circle(circle))
            await conductor.go_round(circle)
            if not busy.alive:
                raise RuntimeError("the writers' process has ended; what it said stands above")
            no += 1
        lasted = time.monotonic() - begun
        memory = await busy.stop(stage.place.state_dir / "memory")
    return Played(memory, conductor.moved, lasted)
