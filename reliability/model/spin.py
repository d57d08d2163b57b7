"""The independent model: handover.pml, searched exhaustively by spin.

    python -m reliability.model.spin [--bounds small|full] [--controls] [--json] [--record]

Needs spin (6.5 or later) and a C compiler; says so, and is done, where they are missing (--require: fails instead).
Safety is searched in full: assertions, and that nobody is left standing half-way. Liveness is the claim that the wave
comes to rest, under weak fairness: nothing fails for ever, as faults are counted. ``--controls`` breaks the protocol in
one place after the other: each must be found. Nothing is random: there is no seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time

from reliability import record

MODEL = Path(__file__).with_name("handover.pml")
MEMORY_MB = 6_000
DEPTH_MAX = 20_000_000
SECONDS_MAX = 900.0

_STATES = re.compile(r"^\s*(\d+) states, stored", re.MULTILINE)
_TRANSITIONS = re.compile(r"^\s*(\d+) transitions", re.MULTILINE)
_DEPTH = re.compile(r"depth reached (\d+)")
_ERRORS = re.compile(r"errors: (\d+)")
_WRONG = re.compile(r"^pan:\d+: (.+?) \(at depth", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class World:
    """One search: what is defined for the model, and whether liveness is claimed."""

    name: str
    defined: tuple[str, ...] = ()
    live: bool = False
    control: bool = False

    @property
    def asserted(self) -> bool:
        """A control that an assertion must find, not somebody who is left standing."""
        return self.control and self.name != "NO_RETURN"


SMALL = (
    World("handover", ("FAULTS=1",)),
    World("gift", ("FAULTS=0", "GIVE=1")),
    World("comes to rest", ("FAULTS=0", "LIVENESS"), live=True),
)
FULL = (
    World("handover, two faults, stale", ("FAULTS=2", "STALE=1")),
    World("there and back, stale", ("FAULTS=1", "STALE=1", "BACK=1")),
    World("gift, snapshots, stale", ("FAULTS=1", "STALE=1", "GIVE=1", "SNAPSHOTS=1")),
    World("gift, there and back", ("FAULTS=1", "GIVE=1", "BACK=1")),
    World("comes to rest", ("FAULTS=1", "LIVENESS"), live=True),
    World("gift comes to rest", ("FAULTS=0", "GIVE=1", "LIVENESS"), live=True),
)
CONTROLS = tuple(
    World(defined[-1], defined, control=True)
    for defined in (
        ("FAULTS=0", "NO_DRAIN"),
        ("FAULTS=0", "GIVE=1", "ONE_ROUND"),
        ("FAULTS=0", "NO_LOCK"),
        ("FAULTS=0", "EARLY_RELEASE"),
        ("FAULTS=0", "NO_TAIL"),
        ("FAULTS=0", "NO_SEAM"),
        ("FAULTS=0", "GIVE=1", "NO_AHEAD"),
        ("FAULTS=0", "GIVE=1", "NO_ENTERED"),
        ("FAULTS=0", "GIVE=1", "PASSED_BY"),
        ("FAULTS=0", "SNAPSHOTS=1", "NO_FENCE"),
        ("FAULTS=1", "STALE=1", "NO_LEASE"),
        ("FAULTS=1", "NO_TERM"),
        ("FAULTS=1", "OPEN_IN_DOUBT"),
        ("FAULTS=1", "NO_RETURN"),
    )
)


@dataclass(frozen=True, slots=True)
class Searched:
    """What pan said. ``whole``: it came to the end of the search."""

    name: str
    states: int
    transitions: int
    depth: int
    errors: int
    whole: bool
    seconds: float
    wrong: str
    control: bool

    @property
    def as_expected(self) -> bool:
        return self.errors > 0 if self.control else self.whole and not self.errors


def missing() -> str:
    """What is needed and not there, as a sentence; empty when nothing is."""
    absent = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    return f"{' and '.join(absent)} not found: apt-get install spin gcc" if absent else ""


def search(world: World) -> Searched:
    """Make pan and let it search. Raises RuntimeError when it cannot be made."""
    with tempfile.TemporaryDirectory(prefix="domicile-spin-") as directory:
        begun = time.monotonic()
        _run(["spin", "-a", *(f"-D{one}" for one in world.defined), str(MODEL)], directory)
        kind = ["-DNFAIR=3"] if world.live else ["-DSAFETY"]
        made = ["-DVECTORSZ=4096", f"-DMEMLIM={MEMORY_MB}", "-DCOLLAPSE", *kind]
        _run(["gcc", "-O2", "-w", *made, "-o", "pan", "pan.c"], directory)
        how = ["-a", "-f", "-N", "comes_to_rest"] if world.live else ["-E"] if world.asserted else []
        said = _run(["./pan", f"-m{DEPTH_MAX}", "-n", *how], directory)
    return read(world, said, time.monotonic() - begun)


def read(world: World, said: str, seconds: float) -> Searched:
    """Pan's report."""
    errors = _number(_ERRORS, said)
    whole = "Search not completed" not in said and "max search depth too small" not in said
    wrong = _WRONG.search(said)
    return Searched(
        world.name, _number(_STATES, said), _number(_TRANSITIONS, said), _number(_DEPTH, said), errors, whole,
        round(seconds, 1), wrong[1] if wrong else "", world.control,
    )  # fmt: skip


def _number(pattern: re.Pattern[str], said: str) -> int:
    found = pattern.search(said)
    if found is None:
        raise RuntimeError(f"spin did not say {pattern.pattern}: {said[-400:]}")
    return int(found[1])


def _run(command: Sequence[str], directory: str) -> str:
    """What it wrote; pan ends with 0 whatever it found."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {(done.stdout + done.stderr)[-400:]}")
    return done.stdout + done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if lacking := missing():
        print(f"skipped: {lacking}", file=sys.stderr)
        return 1 if options.require else 0
    worlds = [w for w in (FULL if options.bounds == "full" else SMALL) if options.only in ("", w.name)]
    worlds += [w for w in CONTROLS if options.controls and options.only in ("", w.name)]
    found = list(_searched(worlds, told=not options.json))
    figures = {
        "seed": None,
        "bounds": options.bounds,
        "states": sum(one.states for one in found if not one.control),
        "errors": sum(one.errors for one in found if not one.control),
        "controls": sum(one.control for one in found),
        "controls_found": sum(one.control and one.as_expected for one in found),
        "searches": [asdict(one) for one in found],
    }
    if options.json:
        print(json.dumps(figures))
    if options.record:
        print(f"written: results/{record.write('spin', figures).name}", file=sys.stderr)
    return 0 if all(one.as_expected for one in found) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reliability.model.spin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bounds", choices=("small", "full"), default="small")
    parser.add_argument("--only", default="", help="one search, by its name")
    parser.add_argument("--controls", action="store_true", help="break the protocol, place by place, too")
    parser.add_argument("--require", action="store_true", help="fail where spin is missing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write the figures to reliability/results/spin.json")
    return parser.parse_args(arguments)


def _searched(worlds: Sequence[World], *, told: bool) -> Iterator[Searched]:
    for world in worlds:
        one = search(world)
        if told:
            verdict = one.wrong or ("" if one.whole else "not whole")
            print(
                f"{one.name:<28} {one.states:>10,} states {one.transitions:>11,} transitions,"
                f" depth {one.depth:>6}, {one.seconds:6.1f} s {verdict}",
                flush=True,
            )
        yield one


if __name__ == "__main__":
    sys.exit(main())
