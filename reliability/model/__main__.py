"""Every state of the handover, its recovery, the rollback and the purge, within bounds.

    python -m reliability.model [--bounds small|full|huge] [--only NAME] [--controls] [--json] [--record]

The decisions are those of `domicile.model.handover`, which is called; around it stand the sites with their marks,
epochs, terms and lease generations, writers and the guard that answers them, the log and its stream, the wave's lock,
the directory, crashes, statements that arrive late, and a process that wakes up after another has taken the move
over.

In every state: at most one home accepts, what was acknowledged is at the home and nothing else is, no outsider's row is
at the other site, the directory names no home that is none. From every state, once nothing fails any more, an end is
reached. ``--controls`` breaks one rule after the other: each must be found out. Nothing is random: there is no seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import json
import sys

from reliability import record
from reliability.model.bounds import FULL, HUGE, SMALL, Bounds, Flaw, broken
from reliability.model.explore import Explored, explore

CONTROL_STATES_MAX = 200_000


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    found = list(_explored(options))
    wrong = [one for one in found if bool(one.violation) is not bool(one.bounds.flaws) or not _whole(one)]
    figures = {
        "seed": None,
        "bounds": options.bounds,
        "states": sum(one.states for one in found if not one.bounds.flaws),
        "transitions": sum(one.transitions for one in found if not one.bounds.flaws),
        "violations": sum(one.violation is not None for one in found if not one.bounds.flaws),
        "controls": sum(bool(one.bounds.flaws) for one in found),
        "controls_found": sum(bool(one.bounds.flaws) and one.violation is not None for one in found),
        "configurations": [one.figures() for one in found],
    }
    if options.json:
        print(json.dumps(figures))
    if options.record:
        print(f"written: results/{record.write('model', figures).name}", file=sys.stderr)
    return 1 if wrong else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reliability.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bounds", choices=("small", "full", "huge"), default="small")
    parser.add_argument("--only", default="", help="one configuration, by its name")
    parser.add_argument("--controls", action="store_true", help="break the protocol, rule by rule, too")
    parser.add_argument("--states-max", type=int, default=0, help="stop a configuration there; it counts as not whole")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write the figures to reliability/results/model.json")
    return parser.parse_args(arguments)


def _explored(options: argparse.Namespace) -> Iterator[Explored]:
    """One configuration after the other, each told as soon as it is done."""
    configurations = {"small": SMALL, "full": FULL, "huge": HUGE}[options.bounds]
    chosen: list[Bounds] = [b for b in configurations if options.only in ("", b.name)]
    controls = [broken(flaw) for flaw in Flaw] if options.controls else []
    for bounds in (*chosen, *controls):
        most = CONTROL_STATES_MAX if bounds.flaws else options.states_max
        one = explore(bounds, states_max=most, quiet=bool(bounds.flaws))
        if not options.json:
            print("\n".join(_told(one)), flush=True)
        yield one


def _whole(one: Explored) -> bool:
    """All of it was seen; of a control, until it was found out."""
    return one.complete or one.violation is not None


def _told(one: Explored) -> Iterator[str]:
    seen = f"{one.states:>10,} states {one.transitions:>11,} transitions, depth {one.depth:>3}, {one.seconds:6.1f} s"
    if one.bounds.flaws:
        verdict = one.violation.what if one.violation else "NOT FOUND OUT"
        yield f"{one.bounds.name:<60} {seen}: {verdict}"
        return
    yield f"{one.bounds.name:<16} {seen}  ({one.bounds.described()}){'' if one.complete else ': not whole'}"
    if one.violation:
        yield from one.violation.trace


if __name__ == "__main__":
    sys.exit(main())
