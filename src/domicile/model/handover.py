"""The machine inside the handover: facts in, next action out. No input or output; ``move/handover.py`` acts
on it.

Invariant: at no instant do both sites accept writes of the wave. The source accepts only in ``OPEN`` and, under the
wave's lock, in ``CLOSING``; the target only in ``RESIDENT``; no legal edge leads to a pair of both, and every crash
leaves a pair from which ``next_action`` finds the way on.

A wave that is rolled back goes the same way with the sites exchanged: "source" is the site that loses it.

Point of no return: the target's commit that makes the wave resident.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SourceMark(StrEnum):
    """What the source's own mark says of the wave."""

    OPEN = "open"  # not fenced: the source accepts writes
    CLOSING = "closing"  # accepted under the wave's lock, which the mover is about to take for itself (live)
    FENCED = "fenced"  # refused with DM002: between homes, nothing decided
    DEPARTED = "departed"  # refused with DM001: the home is elsewhere


class TargetMark(StrEnum):
    """What the target's own mark says of the wave."""

    ABSENT = "absent"  # the target knows nothing of the wave
    ARRIVING = "arriving"  # refused with DM002: rows are here or coming, the home is not
    RESIDENT = "resident"  # the target accepts writes


class Action(StrEnum):
    """One step; each is a single commit at one site (or in the directory) and may be repeated."""

    DEPART = "depart"  # source: fenced, or closing and locked -> departed
    ARRIVE = "arrive"  # target: arriving -> resident; the point of no return
    PUBLISH = "publish"  # directory: the reservation becomes the record
    RETURN = "return"  # source: departed -> fenced (live: open), because the target said no
    STEP_BACK = "step back"  # the fence opens, the target forgets the wave: nothing happened
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Facts:
    """Both sites' own marks, what the directory holds, and whether the wave is fit.

    Fit, cold: the verdict is clean, the keys are proven. Live: besides, this process holds the wave's lock (before the
    departure) and has in hand whatever was written up to the departure (after it). A process that comes after a crash
    has neither, so for it a live wave is unfit, and goes back until it has caught up again.
    """

    source: SourceMark
    target: TargetMark
    published: bool
    fit: bool

    def two_homes(self) -> bool:
        """The one thing that must never be."""
        return self.source in (SourceMark.OPEN, SourceMark.CLOSING) and self.target is TargetMark.RESIDENT


def next_action(facts: Facts) -> Action:
    """Decide from marks alone what to do next, first run or recovery alike."""
    match facts:
        case Facts(target=TargetMark.RESIDENT, published=False):
            return Action.PUBLISH
        case Facts(target=TargetMark.RESIDENT):
            return Action.FINISHED
        case Facts(source=SourceMark.DEPARTED, target=TargetMark.ARRIVING, fit=True):
            return Action.ARRIVE
        case Facts(source=SourceMark.DEPARTED):
            return Action.RETURN
        case Facts(source=SourceMark.FENCED | SourceMark.CLOSING, target=TargetMark.ARRIVING, fit=True):
            return Action.DEPART
        case _:
            return Action.STEP_BACK
