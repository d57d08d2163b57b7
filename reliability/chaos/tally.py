"""What a campaign came to: what was done, how soon work went on, and what was found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
import statistics
from typing import Any

from domicile.move.failpoints import POINTS
from reliability.chaos.digest import Look
from reliability.chaos.faults import DEEDS, Kind

RESUME_SECONDS_MAX = 30.0
WEIGHTS = {Kind.MOVER_KILLED: 8.0, Kind.WORKER_KILLED: 1.0, Kind.ZOMBIE: 0.6}
EXAMPLES = 12
_HARMS = ("lost", "doubled", "foreign", "dual_home")


class Violation(Exception):
    """Something that must not be. What it says names no person."""


@dataclass(slots=True)
class Tally:
    """``kills`` and ``server_kills``: by failpoint. ``at``: faults by kind and failpoint. ``hung``: orders that were
    killed by hand because they neither ended nor failed; ``missed``: faults whose failpoint was not met."""

    seed: int
    say: Callable[[str], None]
    injections: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    server_kills: Counter[str] = field(default_factory=Counter)
    at: Counter[tuple[str, str]] = field(default_factory=Counter)
    resumed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    hung: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    fenced: int = 0
    moves: int = 0
    verdicts: int = 0
    clean: int = 0
    harms: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)

    @classmethod
    def behind(cls, kept: Mapping[str, Any], seed: int, say: Callable[[str], None]) -> Tally:
        """A tally that goes on behind the figures on record, so that what they have seen least comes next."""
        tally = cls(seed, say)
        if not kept:
            return tally
        raw = kept["raw"]
        tally.injections.update(kept["injections"])
        tally.kills.update(kept["failpoints"])
        tally.server_kills.update(kept["failpoints_server"])
        tally.at.update({(kind, point): count for kind, points in raw["at"].items() for point, count in points.items()})
        for kind, seconds in raw["resumed"].items():
            tally.resumed[kind] += seconds
        tally.hung.update(kept["killed_by_hand"])
        tally.again.update(kept["ordered_again"])
        tally.missed.update(kept["missed"])
        tally.harms.update({harm: kept[harm] for harm in _HARMS} | kept["other_harms"])
        tally.fenced, tally.moves, tally.acknowledged = kept["zombies_fenced"], kept["moves"], kept["acknowledged"]
        tally.verdicts, tally.clean = kept["verdicts"], kept["verdicts_clean"]
        tally.violations += kept["violations"]
        return tally

    def raw(self) -> dict[str, object]:
        """What `behind` needs beyond `figures`."""
        at: dict[str, dict[str, int]] = {}
        for (kind, point), count in sorted(self.at.items()):
            at.setdefault(str(kind), {})[point] = count
        resumed = {str(kind): [round(s, 2) for s in seconds] for kind, seconds in sorted(self.resumed.items())}
        return {"at": at, "resumed": resumed}

    def went_on(self, kind: Kind, seconds: float, about: str) -> None:
        """Work went on so long after the fault."""
        self.resumed[kind].append(seconds)
        if seconds > RESUME_SECONDS_MAX:
            self.found(f"slow: {kind}: work went on {seconds:.1f} s after {about}")

    def judged(self, look: Look, about: str) -> None:
        """A verdict. Raises Violation unless it is clean."""
        self.verdicts += 1
        self.clean += look.clean
        if not look.clean:
            self.harms.update(look.harms)
            harms = {harm: count for harm, count in look.harms.items() if count}
            raise Violation(f"{harms} after {about}: {'; '.join(look.examples[:EXAMPLES])}")

    def found(self, what: str) -> None:
        """A violation that the stage survives."""
        self.violations.append(what)
        self.say(f"VIOLATION (seed {self.seed}): {what}")

    def choose(self, kinds: Iterable[Kind], dice: Random) -> Kind | None:
        """The one that is furthest behind its share."""
        behind = {kind: (self.injections[kind] + self.missed[kind] + dice.random()) / weight(kind) for kind in kinds}
        return min(behind, key=lambda kind: behind[kind]) if behind else None

    def point(self, kind: Kind, points: Sequence[str], dice: Random) -> str:
        """The failpoint at which this kind was seen least."""
        return min(points, key=lambda point: (self.at[kind, point], dice.random()))

    def note(self, kind: Kind, point: str) -> None:
        """A fault of this kind was done at this failpoint."""
        self.injections[kind] += 1
        self.at[kind, point] += 1
        if kind in (Kind.SERVER_KILLED, Kind.SERVER_RESTARTED, Kind.BACKEND_KILLED):
            self.server_kills[point] += 1

    def figures(self) -> dict[str, object]:
        """As they are printed and kept."""
        every = sorted(seconds for kind in self.resumed.values() for seconds in kind)
        return {
            "injections": {str(kind): self.injections[kind] for kind in Kind if self.injections[kind]},
            "injected": self.injections.total(),
            "failpoints": {point: self.kills[point] for point in POINTS},
            "failpoints_server": {point: self.server_kills[point] for point in POINTS},
            "resume_seconds": _spread(every),
            "resume_seconds_by_kind": {str(kind): _spread(sorted(s)) for kind, s in sorted(self.resumed.items())},
            "ordered_again": dict(self.again),
            "killed_by_hand": dict(self.hung),
            "missed": dict(self.missed),
            "skipped": dict(self.skipped),
            "zombies_fenced": self.fenced,
            "moves": self.moves,
            "verdicts": self.verdicts,
            "verdicts_clean": self.clean,
            "acknowledged": self.acknowledged,
            **{harm: self.harms[harm] for harm in _HARMS},
            "other_harms": {harm: count for harm, count in self.harms.items() if count and harm not in _HARMS},
            "violations": self.violations,
        }


def weight(kind: Kind) -> float:
    return WEIGHTS[kind] if kind in WEIGHTS else DEEDS[kind].weight


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(seconds), 2), "max": round(seconds[-1], 2)} if seconds else {}
