"""Does the engine do what the model allows? A recorded move is replayed against the model, step by step.

    python -m reliability.model.replay TRACE.json [--json]

A trace is a list of observations of one wave, in the order in which they were committed: what ``domicile.wave`` says at
a site (``site`` source or target, ``mark``, ``epoch``), that the directory reserved the wave or released it
(``reserved``), and failpoints that the mover reached (``point``). The model follows with every state it could be in; an
observation that none of them can come to is refused, and with it the trace. Nobody writes in this model: writers change
no mark.
"""

# ruff: noqa: I001
from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import sys
from typing import Any

from reliability.model.bounds import Bounds
from reliability.model.explore import Model
from reliability.model.line import HOLDER
from reliability.model.state import (
    CHOOSE, COPY, COUNT, DECIDE, DEPART, EPOCH, MARK, MARKS, PC, PG_CLOSE, PG_DONE, PG_OWN, PREPARE, READ_TAIL,
    RELEASE, RESERVE, RESERVED, SB_CLEAN, SB_RELEASE, SETTLE_G, SITES, STREAM,
)  # fmt: skip

# Where a process stands when it says that it has reached a failpoint.
STANDS: Mapping[str, tuple[int, ...]] = {
    "prepare.source_registered": (PREPARE,),
    "prepare.target_registered": (RESERVE,),
    "prepare.reserved": (COPY,),
    "copy.before": (COPY,),
    "copy.chunk_committed": (COPY,),
    "copy.done": (COPY,),
    "live.catchup": (STREAM,),
    "live.verify": (STREAM,),
    "live.armed": (STREAM,),
    "live.closing": (COUNT,),
    "live.locked": (DEPART,),
    "live.departed": (READ_TAIL,),
    "live.arrived": (RELEASE,),
    "live.published": (DECIDE,),
    "rollback.prepared": (SETTLE_G,),
    "rollback.arrived": (CHOOSE,),
    "stepback.source_open": (SB_CLEAN,),
    "stepback.target_cleaned": (SB_RELEASE,),
    "purge.before": (PG_CLOSE, PG_OWN),
    "purge.deleted": (PG_DONE,),
}


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that was seen. Exactly one of ``mark``, ``reserved`` and ``point`` is there."""

    site: str = ""
    mark: str = ""
    epoch: int = 0
    reserved: bool | None = None
    point: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far the model could follow. ``refused``: the first observation that it could not come to."""

    observations: int
    followed: int
    states: int  # the most that it could be in
    refused: str = ""

    @property
    def accepted(self) -> bool:
        return not self.refused


def replay(trace: Sequence[Observation], *, tries: int = 1, orders: int = 2) -> Replayed:
    """Follow a trace from before the wave was prepared on. Pure."""
    model = Model(Bounds("replay", writers=0, tries=tries, orders=orders))
    could_be = {model.begin()}
    most = 1
    for number, seen in enumerate(trace):
        could_be = _after(model, could_be, seen)
        if not could_be:
            return Replayed(len(trace), number, most, f"observation {number + 1}: {_told(seen)}")
        most = max(most, len(could_be))
    return Replayed(len(trace), len(trace), most)


def _after(model: Model, could_be: Iterable[bytes], seen: Observation) -> set[bytes]:
    """The states in which the model can have shown just this since: a change that nobody saw did not happen."""
    reached: set[bytes] = set()
    waiting = list(could_be)
    passed = set(waiting)
    while waiting:
        s = waiting.pop()
        if seen.point and s[HOLDER + PC] in STANDS.get(seen.point, ()):
            reached.add(s)
        before = _shown(s)
        for _, _, n in model.successors(s):
            if _shown(n) == before:
                if n not in passed:
                    passed.add(n)
                    waiting.append(n)
            elif _shown(n) == _expected(before, seen):
                reached.add(n)
    return reached


def _shown(s: bytes) -> tuple[int, ...]:
    """What an observer sees of a state: the marks with their epochs, and the reservation."""
    return s[MARK], s[EPOCH], s[MARK + 1], s[EPOCH + 1], s[RESERVED]


def _expected(before: tuple[int, ...], seen: Observation) -> tuple[int, ...] | None:
    """What is shown behind the observation; None when it changes nothing that is shown."""
    after = list(before)
    if seen.mark:
        at = 2 * SITES.index(seen.site)
        after[at : at + 2] = [MARKS.index(seen.mark), seen.epoch]
    elif seen.reserved is not None:
        after[4] = int(seen.reserved)
    return tuple(after) if tuple(after) != before else None


def _told(seen: Observation) -> str:
    if seen.point:
        return f"the failpoint {seen.point}"
    if seen.mark:
        return f"{seen.mark} under epoch {seen.epoch} at the {seen.site}"
    return "the wave is reserved" if seen.reserved else "the wave's reservation is gone"


def observations(read: Iterable[Mapping[str, Any]]) -> list[Observation]:
    """From JSON; what repeats the observation before it is left out."""
    found: list[Observation] = []
    last: dict[str, Observation] = {}
    for one in (Observation(**fields) for fields in read):
        of = one.site or ("directory" if one.reserved is not None else "")
        if of and last.get(of) == one:
            continue
        last[of] = one
        found.append(one)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = replay(observations(json.loads(options.trace.read_text(encoding="utf-8"))))
    if options.json:
        print(json.dumps({**asdict(found), "accepted": found.accepted}))
    else:
        print(
            f"{found.followed} of {found.observations} observations followed"
            + (f"; {found.refused}" * bool(found.refused))
        )
    return 0 if found.accepted else 1


if __name__ == "__main__":
    sys.exit(main())
