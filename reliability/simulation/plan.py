"""What happens in one run, as data: a seed makes it, a shrunk one is a part of it.

Every actor has dice of its own, made from the seed and its number, so that leaving one out changes what the others do
no more than it must.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

FAULTS_UNTIL = 6.0
"""Seconds of virtual time after which nothing fails any more."""
LASTS = (0.05, 0.2, 0.6, 1.5, 5.0)
"""Seconds that a fault lasts; the longest is more than a wave waits for a site."""
FAILPOINTS = (
    "live.locked", "live.departed", "live.departed", "live.arrived", "live.closing",
    "live.verify", "live.catchup", "live.published",
    "stepback.source_open", "copy.chunk", "rollback.prepared", "purge.chunk",
)  # fmt: skip


class Fault(StrEnum):
    """What may go wrong."""

    KILL = "mover killed"
    KILL_AT = "mover killed at a step"
    FREEZE = "mover asleep for longer than its lease"
    CUT = "connections of the mover cut"
    CUT_LATE = "a connection of the mover cut, what was sent arrives late"
    LOCK = "the session with the wave's lock ended"
    SOURCE = "source crashed"
    TARGET = "target crashed"
    CONTROL = "control database away"
    SLOT = "slot lost"
    WRITER = "a writer's connection cut"
    SLOW = "line slow"
    HANG = "a transaction stays open"
    LATE = "commits visible late"


AT_A_STEP = (
    Fault.FREEZE, Fault.CUT, Fault.CUT_LATE, Fault.SOURCE, Fault.TARGET, Fault.CONTROL, Fault.SLOT, Fault.LATE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mishap:
    """One fault, when, and for how long. With a ``step``: ``at`` seconds after the mover has taken it."""

    kind: Fault
    at: float
    lasts: float = 0.0
    step: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """``skipped``: transactions that are left out, by writer and number. ``rollback``, ``purge``: what the operator
    orders after the move. ``gifts``: few orders, which pass from user to user while others write below them."""

    seed: int
    waves: int
    subjects: int  # in each wave
    outsiders: int  # at each site
    writers: int
    transactions: int  # of each writer
    mishaps: tuple[Mishap, ...]
    skipped: frozenset[tuple[int, int]] = frozenset()
    rollback: bool = False
    purge: bool = False
    gifts: bool = False

    @property
    def writes(self) -> int:
        return self.writers * self.transactions - len(self.skipped)


def dice(seed: int, *who: int) -> Random:
    """Dice of their own for somebody: of whole numbers, which hash alike everywhere."""
    mixed = seed * 0x9E3779B97F4A7C15 + 0x1234567
    for part in who:
        mixed = (mixed ^ (part + 1) * 0xBF58476D1CE4E5B9) * 0x94D049BB133111EB & (1 << 64) - 1
        mixed ^= mixed >> 29
    return Random(mixed)


def plan_of(seed: int) -> Plan:
    """The run that a seed stands for."""
    throw = dice(seed, 0)
    mishaps = sorted((_mishap(throw) for _ in range(throw.choice((0, 1, 1, 2, 2, 3, 4)))), key=lambda m: m.at)
    return Plan(
        seed=seed,
        waves=throw.choice((1, 1, 1, 1, 2, 2, 3)),
        subjects=throw.choice((1, 2, 2, 3)),
        outsiders=throw.choice((1, 2, 3)),
        writers=throw.choice((2, 2, 3, 3, 4, 5)),
        transactions=throw.randrange(6, 16),
        mishaps=tuple(mishaps),
        rollback=throw.random() < 0.33,
        purge=throw.random() < 0.33,
        gifts=throw.random() < 0.15,
    )


def _mishap(throw: Random) -> Mishap:
    kind = throw.choice(tuple(Fault))
    lasts = throw.choice(LASTS)
    if kind is Fault.KILL_AT or (kind in AT_A_STEP and throw.random() < 0.6):
        return Mishap(kind, round(throw.random() ** 2 * 0.1, 4), lasts, throw.choice(FAILPOINTS))
    return Mishap(kind, round(throw.random() * throw.choice((0.6, 1.5, FAULTS_UNTIL)), 4), lasts)


def smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with less in them, the ones with much less first."""
    for at in range(len(plan.mishaps)):
        yield replace(plan, mishaps=plan.mishaps[:at] + plan.mishaps[at + 1 :])
    if plan.rollback:
        yield replace(plan, rollback=False)
    if plan.purge:
        yield replace(plan, purge=False)
    if plan.waves > 1:
        yield replace(plan, waves=plan.waves - 1)
    if plan.writers > 1:
        yield replace(plan, writers=plan.writers - 1)
    if plan.subjects > 1:
        yield replace(plan, subjects=plan.subjects - 1)
    if plan.outsiders > 1:
        yield replace(plan, outsiders=plan.outsiders - 1)
    if plan.transactions > 1:
        yield replace(plan, transactions=plan.transactions // 2)
        yield replace(plan, transactions=plan.transactions - 1)
    for writer in range(plan.writers):
        for number in range(plan.transactions):
            if (writer, number) not in plan.skipped:
                yield replace(plan, skipped=plan.skipped | {(writer, number)})
