"""The book's transactions: what each sends, and what it leaves when it is committed.

Every transaction writes each subject that it works for, in a statement that is sure to touch a row. The guard refuses
writes and no reads, and a former home answers reads from the past: a transaction that only read there would see what
was, as is documented, and its history would be no evidence. With a write behind it, what it read was read at home.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
import random

from domicile.world.session import Call
from reliability.history import Append, Level, Read
from reliability.oracle.book import Population, level_of
from reliability.oracle.memory import NUMBERS, Drop, Effect, Give, Memory, Page, TakePage, Tick, key_of, number

OPEN_LISTS = 3  # of a subject at a time
LENGTH_MAX = 24  # then the list is closed, and the next one begun
CLOSED_MAX = 2  # of a subject; the oldest is taken away first
PAGES_MAX = 12  # of a folder
APPENDED_TOO = 0.5  # share of operations on lists that append
TICKED_TOO = 0.15  # share of transactions on lists that count, too


class Kind(StrEnum):
    """One kind of transaction."""

    LISTS = "lists"
    PAIR = "pair"  # lists of two subjects
    TICK = "tick"
    PAGE = "page"
    TAKE_PAGE = "take page"
    DROP = "drop"
    GIVE = "give"  # a folder with its pages, to another subject


WEIGHTS = {Kind.LISTS: 60.0, Kind.PAIR: 8.0, Kind.TICK: 10.0, Kind.PAGE: 8.0, Kind.TAKE_PAGE: 7.0, Kind.GIVE: 0.5}


@dataclass(frozen=True, slots=True)
class Planned:
    """``meant``: of each call the operation on a list that it is, if it is one, in which a read is still empty.
    ``whose``: of each call the subject. ``folder``: nobody else may work on it meanwhile."""

    kind: Kind
    level: Level
    subjects: tuple[int, ...]
    calls: tuple[Call, ...]
    meant: tuple[Append | Read | None, ...]
    whose: tuple[int, ...]
    effects: tuple[Effect, ...]
    writes: int
    folder: int = 0

    @property
    def ops(self) -> list[Append | Read]:
        return [op for op in self.meant if op is not None]

    @property
    def keys(self) -> set[int]:
        """The lists it works on."""
        return {number(op.key) for op in self.ops}


@dataclass(slots=True)
class _Draft:
    calls: list[Call] = field(default_factory=list)
    meant: list[Append | Read | None] = field(default_factory=list)
    whose: list[int] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    writes: int = 0

    def call(self, name: bytes, subject: int, *values: int, op: Append | Read | None = None) -> None:
        self.calls.append((name, tuple(b"%d" % value for value in values or (subject,))))
        self.meant.append(op)
        self.whose.append(subject)

    def write(self, name: bytes, subject: int, *values: int, op: Append | Read | None = None) -> None:
        self.call(name, subject, *values, op=op)
        self.writes += 1

    def tick(self, subject: int) -> None:
        self.write(b"tick", subject)
        self.effects.append(Tick(subject))


@dataclass(slots=True)
class Maker:
    """Makes transactions, and knows which lists are open and who works on what."""

    memory: Memory
    population: Population
    dice: random.Random
    marks: int = 0
    opened: dict[int, list[int]] = field(default_factory=dict)  # numbers of lists, by subject
    closed: dict[int, list[int]] = field(default_factory=dict)
    lengths: Counter[int] = field(default_factory=Counter)
    at_work: Counter[int] = field(default_factory=Counter)  # transactions under way, by list
    held: set[int] = field(default_factory=set)  # folders
    _next: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for subject in self.population.everybody:
            self.opened[subject] = list(range(OPEN_LISTS))
            self._next[subject] = OPEN_LISTS
            self.closed[subject] = []
            self.memory.begin_with(subject, subject)  # each with the folder of its own number

    def make(self, subject: int, kind: Kind, partner: int) -> Planned | None:
        """One transaction of that kind; None when it is not possible now. Give it back with `done`."""
        closed = self.closed[subject]
        if kind is Kind.LISTS and len(closed) > CLOSED_MAX and not self.at_work[key_of(subject, closed[0])]:
            kind = Kind.DROP
        draft = _Draft()
        subjects = (subject, partner) if kind in (Kind.PAIR, Kind.GIVE) else (subject,)
        for one in subjects:
            draft.call(b"here", one)
        folder = 0
        match kind:
            case Kind.LISTS | Kind.PAIR:
                self._lists(draft, subjects)
            case Kind.DROP:
                self._drop(draft, subject)
            case Kind.PAGE | Kind.TAKE_PAGE | Kind.GIVE:
                folder = self._folder(subject, kind)
                if not folder:
                    return None
                self._on_folder(draft, kind, folder, subjects)
        if kind not in (Kind.LISTS, Kind.PAIR) or self.dice.random() < TICKED_TOO:
            for one in subjects:
                draft.tick(one)
        for one in subjects:
            draft.call(b"home", one)
        planned = Planned(
            kind,
            level_of(subject),
            subjects,
            tuple(draft.calls),
            tuple(draft.meant),
            tuple(draft.whose),
            tuple(draft.effects),
            draft.writes,
            folder,
        )
        self.at_work.update(planned.keys)
        self.held |= {folder} if folder else set()
        return planned

    def done(self, planned: Planned, ops: Sequence[Append | Read], *, kept: bool) -> None:
        """It is over; ``kept``: acknowledged, with these operations. One whose answer was lost is never over: a list
        that it may have appended to is not taken away."""
        self.at_work.subtract(planned.keys)
        self.held.discard(planned.folder)
        for op in ops if kept else ():
            key = number(op.key)
            known = self.lengths[key]
            self.lengths[key] = known + 1 if isinstance(op, Append) else max(known, len(op.values))
        for key in planned.keys:
            subject, no = divmod(key, NUMBERS)
            if planned.kind is Kind.DROP:
                if kept:
                    del self.lengths[key], self.at_work[key]
                else:
                    self.closed[subject].insert(0, no)
            elif self.lengths[key] >= LENGTH_MAX and no in self.opened[subject]:
                self.opened[subject][self.opened[subject].index(no)] = self._next[subject]
                self._next[subject] += 1
                self.closed[subject].append(no)

    def _lists(self, draft: _Draft, subjects: tuple[int, ...]) -> None:
        """Reads and appends in any order, one append for each subject at least."""
        wanted = [(one, True) for one in subjects]
        more = range(self.dice.randint(0, 3))
        wanted += [(self.dice.choice(subjects), self.dice.random() < APPENDED_TOO) for _ in more]
        self.dice.shuffle(wanted)
        for subject, appends in wanted:
            if not appends:
                no = self.dice.choice([*self.opened[subject], *self.closed[subject]])
                draft.call(b"read", subject, subject, no, op=Read(key_of(subject, no), ()))
                continue
            no = self.dice.choice(self.opened[subject])
            self.marks += 1
            draft.write(b"append", subject, subject, no, self.marks, op=Append(key_of(subject, no), self.marks))
            draft.write(b"entry", subject, subject, no, self.marks)

    def _drop(self, draft: _Draft, subject: int) -> None:
        no = self.closed[subject].pop(0)
        key = key_of(subject, no)
        draft.write(b"drop list", subject, subject, no, op=Read(key, ()))
        draft.write(b"drop entries", subject, subject, no)
        draft.effects.append(Drop(key))

    def _folder(self, subject: int, kind: Kind) -> int:
        """A folder that is surely the subject's and nobody's work now; 0 when there is none."""
        for folder in sorted(self.memory.owned.get(subject, ())):
            pages = self.memory.pages.get(folder, {})
            if folder in self.held or (kind is Kind.PAGE and len(pages) >= PAGES_MAX):
                continue
            if kind is Kind.TAKE_PAGE and not any(pages.values()):
                continue
            return folder
        return 0

    def _on_folder(self, draft: _Draft, kind: Kind, folder: int, subjects: tuple[int, ...]) -> None:
        subject = subjects[0]
        match kind:
            case Kind.PAGE:
                self.marks += 1
                draft.write(b"page", subject, subject, folder, self.marks)
                draft.effects.append(Page(folder, self.marks))
            case Kind.TAKE_PAGE:
                mark = self.dice.choice([mark for mark, sure in self.memory.pages[folder].items() if sure])
                draft.write(b"take page", subject, folder, mark)
                draft.effects.append(TakePage(folder, mark))
            case _:
                draft.write(b"give folder", subject, subject, folder, subjects[1])
                draft.effects.append(Give(folder, subjects[1]))
