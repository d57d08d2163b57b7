"""What the writers were promised: each acknowledged write, who acknowledged it, when, and under which epoch. Pure.

Nothing of a refused try may ever be seen, so each try has marks of its own. When the answer of a commit is lost, its
writes may be there or not, all or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
import math
from typing import NamedTuple

from reliability.history import Append, Level, Outcome, Read, Transaction

EXAMPLES = 20
NUMBERS = 1 << 20  # of lists a subject may have


def key_of(subject: int, no: int) -> int:
    """A list's key: one number."""
    return subject * NUMBERS + no


def subject_of(key: Hashable) -> int:
    return number(key) // NUMBERS


def number(of: Hashable) -> int:
    """A key or a mark of ours as what it is."""
    assert isinstance(of, int), "our keys and marks are numbers"
    return of


class Tick(NamedTuple):
    subject: int


class Page(NamedTuple):
    folder: int
    mark: int


class TakePage(NamedTuple):
    folder: int
    mark: int


class Give(NamedTuple):
    folder: int
    subject: int


class Drop(NamedTuple):
    """A list is taken away, with the rows beside it."""

    key: int


Effect = Tick | Page | TakePage | Give | Drop


class Facts(NamedTuple):
    """What the site said of the subject inside the transaction, behind a write of it."""

    epoch: int
    mark: str


class Served(NamedTuple):
    """One acknowledged transaction of a subject: where, and between which moments it was committed."""

    site: int
    epoch: int
    begun: float
    ended: float


@dataclass(frozen=True, slots=True)
class Try:
    """One transaction as it was sent. ``writes``: rows that it writes."""

    level: Level
    session: int
    subjects: tuple[int, ...]
    effects: tuple[Effect, ...]
    begun: float
    writes: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What its answer said. ``ops``: its appends, and what its reads found. ``beside``: the marks in rows beside a list
    that was taken away."""

    site: int
    ended: float
    ops: Sequence[Append | Read]
    facts: Mapping[int, Facts]
    ticks: Mapping[int, int] = field(default_factory=dict)
    beside: Sequence[int] = ()


@dataclass(slots=True)
class Ticks:
    """``least`` and ``most``: what the counter can be. ``highest``: of those acknowledged; when it was."""

    least: int = 0
    most: int = 0
    highest: int = 0
    ended: float = -math.inf


@dataclass(slots=True)
class Found:
    """What went wrong: counts by name, and a few examples of each, which name nobody."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, what: str, example: str, count: int = 1) -> None:
        if count:
            self.counts[what] += count
            if sum(e.startswith(what) for e in self.examples) < EXAMPLES:
                self.examples.append(f"{what}: {example}")


@dataclass(slots=True)
class Memory:
    """The memory of one run. ``finals``: what the lists held that were taken away. ``found``: what was wrong with
    answers as they came."""

    sites: tuple[str, ...]
    histories: dict[Level, list[Transaction]] = field(default_factory=lambda: {level: [] for level in Level})
    finals: dict[Level, dict[Hashable, Sequence[Hashable]]] = field(
        default_factory=lambda: {level: {} for level in Level}
    )
    doubtful: set[int] = field(default_factory=set)  # lists of which nobody knows whether they were taken away
    served: dict[int, list[Served]] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)  # of each mark that was appended
    ticks: dict[int, Ticks] = field(default_factory=dict)
    folders: dict[int, set[int]] = field(default_factory=dict)  # who may own it: two when it is in doubt
    owned: dict[int, set[int]] = field(default_factory=dict)  # folders by their sure owner
    pages: dict[int, dict[int, bool]] = field(default_factory=dict)  # by folder and mark: is it sure to be there?
    found: Found = field(default_factory=Found)
    acknowledged: int = 0  # writes
    transactions: int = 0
    unknown: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)

    def begin_with(self, folder: int, subject: int) -> None:
        """The subject has this folder from the beginning."""
        self.folders[folder] = {subject}
        self.owned.setdefault(subject, set()).add(folder)

    def acknowledge(self, tried: Try, heard: Heard) -> None:
        """The commit was answered."""
        self.transactions += 1
        self.acknowledged += tried.writes
        for subject in tried.subjects:
            facts = heard.facts[subject]
            if facts.mark not in ("open", "closing", "resident"):
                self.found.note("dual_home", f"a write was acknowledged under the mark {facts.mark}")
            self.served.setdefault(subject, []).append(Served(heard.site, facts.epoch, tried.begun, heard.ended))
        for op in heard.ops:
            if isinstance(op, Append):
                self.epochs[number(op.value)] = heard.facts[subject_of(op.key)].epoch
        self._remember(tried, heard.ops, Outcome.OK, heard.ended)
        for effect in tried.effects:
            self._enter(effect, tried, heard)

    def refuse(self, tried: Try, ops: Sequence[Append | Read], ended: float) -> None:
        """It was not committed."""
        if appends := [op for op in ops if isinstance(op, Append)]:
            self._remember(tried, appends, Outcome.FAILED, ended)

    def doubt(self, tried: Try, ops: Sequence[Append | Read]) -> None:
        """The connection broke while the commit was under way."""
        self.unknown += 1
        self._remember(tried, [op for op in ops if isinstance(op, Append)], Outcome.UNKNOWN, math.inf)
        for effect in tried.effects:
            match effect:
                case Tick(subject):
                    self.ticks.setdefault(subject, Ticks()).most += 1
                case Page(folder, mark) | TakePage(folder, mark):
                    self.pages.setdefault(folder, {})[mark] = False
                case Give(folder, subject):
                    for owner in self.folders[folder]:
                        self.owned[owner].discard(folder)
                    self.folders[folder].add(subject)
                case Drop(key):
                    self.doubtful.add(key)

    def _remember(self, tried: Try, ops: Sequence[Append | Read], outcome: Outcome, ended: float) -> None:
        if ops:
            self.histories[tried.level].append(Transaction(ops, outcome, tried.session, tried.begun, ended))

    def _enter(self, effect: Effect, tried: Try, heard: Heard) -> None:
        match effect:
            case Tick(subject):
                self._ticked(self.ticks.setdefault(subject, Ticks()), heard.ticks[subject], tried.begun, heard.ended)
            case Page(folder, mark):
                self.pages.setdefault(folder, {})[mark] = True
            case TakePage(folder, mark):
                self.pages[folder].pop(mark, None)
            case Give(folder, subject):
                for owner in self.folders[folder]:
                    self.owned[owner].discard(folder)
                self.begin_with(folder, subject)
            case Drop(key):
                there = next((op.values for op in heard.ops if isinstance(op, Read)), ())
                self.finals[tried.level][key] = there
                self._compare(Counter(there), Counter(heard.beside))

    def _ticked(self, ticks: Ticks, value: int, begun: float, ended: float) -> None:
        """A counter that goes back, or gives a number twice, has lost a tick, or has been in two places."""
        ticks.least += 1
        ticks.most += 1
        if begun > ticks.ended and value <= ticks.highest:
            self.found.note("reordered", f"a counter went from {ticks.highest} to {value}")
        if value > ticks.highest:
            ticks.highest, ticks.ended = value, ended

    def _compare(self, listed: Counter[Hashable], beside: Counter[Hashable]) -> None:
        """A list against the rows that its writers wrote beside it."""
        for mark in listed - beside:
            self.found.note("lost", f"the row of mark {mark}")
        for mark, count in (beside - listed).items():
            self.found.note("doubled" if mark in listed else "unwritten", f"the row of mark {mark}", count)
