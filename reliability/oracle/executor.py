"""A tiny database in memory, for the checker to be checked: lists, transactions that overlap, and faults on request.

Without a fault every transaction happens at one instant between its beginning and its acknowledgement, so a history of
it is strictly serializable. A fault is done by the database, not written into the history: what comes of it is what
clients of such a database would have seen. Seeded; the same seed is the same history."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
import random

from reliability.history import Append, Kind, Outcome, Read, Transaction

KEYS, SESSIONS = 6, 5
LENGTH_MAX = 24  # of a list, then the key is no longer used
ABORTED, UNHEARD = 0.06, 0.03  # shares of transactions


class Fault(StrEnum):
    """What the database does wrong, once."""

    NONE = "none"
    STALE_READ = "stale read"  # a transaction reads what was, and appends to what is
    LATE_READ = "late read"  # a transaction that only reads gets what was there before others were acknowledged
    LOST_APPEND = "lost append"
    DOUBLED_APPEND = "doubled append"
    SWAPPED_APPENDS = "swapped appends"  # after somebody has read them
    SWAPPED_UNSEEN = "swapped unseen"  # two of which the first was acknowledged before the second began
    ABORTED_READ = "aborted read"
    INTERMEDIATE_READ = "intermediate read"
    WRITE_SKEW = "write skew"
    MUTUAL_READ = "mutual read"  # two transactions that see each other
    MUTUAL_WRITE = "mutual write"  # two that overwrite each other
    FORGETFUL_READ = "forgetful read"  # a transaction does not see what it has just appended
    INVENTED = "invented"  # a value that nobody has sent


# The kind that must be among those found, with or without an order behind its name.
REVEALED: dict[Fault, Kind] = {
    Fault.STALE_READ: Kind.G_SINGLE,
    Fault.LATE_READ: Kind.G_SINGLE,
    Fault.LOST_APPEND: Kind.LOST,
    Fault.DOUBLED_APPEND: Kind.DOUBLED,
    Fault.SWAPPED_APPENDS: Kind.INCOMPATIBLE,
    Fault.SWAPPED_UNSEEN: Kind.G0,
    Fault.ABORTED_READ: Kind.G1A,
    Fault.INTERMEDIATE_READ: Kind.G1B,
    Fault.WRITE_SKEW: Kind.G2,
    Fault.MUTUAL_READ: Kind.G1C,
    Fault.MUTUAL_WRITE: Kind.G0,
    Fault.FORGETFUL_READ: Kind.INTERNAL,
    Fault.INVENTED: Kind.UNWRITTEN,
}

Op = Append | Read
Key = tuple[int, int]  # which list of the moment, and how often it has been begun anew


@dataclass(frozen=True, slots=True)
class Made:
    """A history with what each key held at its end."""

    history: list[Transaction]
    final: dict[Hashable, Sequence[Hashable]]


def make(seed: int, transactions: int, fault: Fault = Fault.NONE) -> Made:
    """A history of about so many transactions, with the fault once, somewhere in its middle."""
    database = _Database(random.Random(seed))
    for _ in range(transactions // 2):
        database.one()
    database.do(fault)
    for _ in range(transactions - transactions // 2):
        database.one()
    # Those who were acknowledged in this order were not begun in it: as a recorder would find them.
    database.history.sort(key=lambda t: t.begun)
    return Made(database.history, {key: tuple(values) for key, values in database.lists.items()})


@dataclass(slots=True)
class _Database:
    dice: random.Random
    lists: dict[Hashable, list[Hashable]] = field(default_factory=dict)
    history: list[Transaction] = field(default_factory=list)
    ages: list[int] = field(default_factory=lambda: [0] * KEYS)
    now: float = 0.0
    values: int = 0

    def one(self) -> None:
        """A transaction of one to four operations, at one instant."""
        ops: list[Op] = [
            self._append(self._key()) if self.dice.random() < 0.5 else Read(self._key(), ())
            for _ in range(self.dice.randint(1, 4))
        ]
        fate = self.dice.random()
        if fate < ABORTED:
            self._record(ops, Outcome.FAILED, overlapping=True)
        elif fate < ABORTED + UNHEARD:
            if self.dice.random() < 0.5:
                ops = self._apply(ops)
            self._record(ops, Outcome.UNKNOWN, overlapping=True)
        else:
            self._record(self._apply(ops), overlapping=True)

    def do(self, fault: Fault) -> None:
        """The fault, in transactions of its own; two other keys than anybody uses make sure that it can be seen."""
        x, y = (KEYS, 0), (KEYS + 1, 0)
        for key in (x, y):
            for _ in range(3):
                self._record(self._apply([self._append(key)]))
        match fault:
            case Fault.NONE:
                pass
            case Fault.STALE_READ | Fault.LATE_READ | Fault.FORGETFUL_READ | Fault.INTERMEDIATE_READ:
                self._misread(fault, x)
            case Fault.WRITE_SKEW | Fault.MUTUAL_READ | Fault.MUTUAL_WRITE:
                self._entangle(fault, x, y)
            case _:
                self._spoil(fault, x)
        for key in (x, y):
            self._record(self._apply([Read(key, ())]))

    def _misread(self, fault: Fault, key: Key) -> None:
        """One transaction reads what it may not."""
        past = tuple(self.lists[key][:-1])
        match fault:
            case Fault.STALE_READ:
                mine = self._append(key)
                self._apply([mine])
                self._record([Read(key, past), mine])
            case Fault.LATE_READ:
                self._record([Read(key, past)])
            case Fault.FORGETFUL_READ:
                mine = self._append(key)
                before = tuple(self.lists[key])
                self._apply([mine])
                self._record([mine, Read(key, before)])
            case _:
                first, second = self._append(key), self._append(key)
                self._apply([first])
                self._record(self._apply([Read(key, ())]), overlapping=True)
                self._apply([second])
                self._record([first, second], overlapping=True)

    def _entangle(self, fault: Fault, x: Key, y: Key) -> None:
        """Two transactions at one time, each of which comes before the other."""
        before_x, before_y = tuple(self.lists[x]), tuple(self.lists[y])
        if fault is Fault.MUTUAL_WRITE:
            first, second = [self._append(x), self._append(y)], [self._append(x), self._append(y)]
            self._apply([first[0], second[0], second[1], first[1]])
            self._record(list(first), overlapping=True)
            self._record(list(second), overlapping=True)
            return
        mine, yours = self._append(x), self._append(y)
        self._apply([mine, yours])
        if fault is Fault.MUTUAL_READ:
            before_x, before_y = tuple(self.lists[x]), tuple(self.lists[y])
        self._record([Read(y, before_y), mine], overlapping=True)
        self._record([Read(x, before_x), yours], overlapping=True)

    def _spoil(self, fault: Fault, key: Key) -> None:
        """The lists are not what they should be."""
        match fault:
            case Fault.LOST_APPEND:
                self._record([self._append(key)])
            case Fault.DOUBLED_APPEND:
                mine = self._append(key)
                self._record(self._apply([mine]))
                self._apply([mine])
            case Fault.SWAPPED_APPENDS:
                self._record(self._apply([Read(key, ())]))
                self.lists[key][-2:] = reversed(self.lists[key][-2:])
            case Fault.SWAPPED_UNSEEN:
                self.lists[key][-2:] = reversed(self.lists[key][-2:])
            case Fault.ABORTED_READ:
                mine = self._append(key)
                self._apply([mine])
                self._record([mine], Outcome.FAILED)
            case _:
                self._apply([self._append(key)])

    def _key(self) -> Key:
        """One of the keys of the moment; a list that has become long is left alone."""
        no = self.dice.randrange(KEYS)
        if len(self.lists.get((no, self.ages[no]), ())) >= LENGTH_MAX:
            self.ages[no] += 1
        return no, self.ages[no]

    def _append(self, key: Key) -> Append:
        self.values += 1
        return Append(key, self.values)

    def _apply(self, ops: Sequence[Op]) -> list[Op]:
        """Do it at this instant; what was read stands in the answer."""
        done: list[Op] = []
        for op in ops:
            there = self.lists.setdefault(op.key, [])
            if isinstance(op, Append):
                there.append(op.value)
                done.append(op)
            else:
                done.append(Read(op.key, tuple(there)))
        return done

    def _record(self, ops: Sequence[Op], outcome: Outcome = Outcome.OK, *, overlapping: bool = False) -> None:
        """What the client saw. It began a while ago, and heard the answer a while later, yet before the next one of its
        session began."""
        self.now += 1.0
        reach = SESSIONS / 2 if overlapping else 0.4
        before, after = self.dice.random() * reach, self.dice.random() * reach
        self.history.append(
            Transaction(ops, outcome, len(self.history) % SESSIONS, self.now - before, self.now + after)
        )
