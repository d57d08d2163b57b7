"""The wave's core under one seeded scheduler, with virtual time, network and crashes: run after run, seed by seed.

    python -m reliability.simulation [--seeds N] [--first S] [--jobs J] [--seed ONE] [--controls] [--json] [--record]

The stream (reader apart), the comparison of touched rows, the handover and its recovery are the real code; sites,
writers with their guard, the network and the phases around the handover are simulated. After every commit: one home for
each user, no acknowledged write lost or done twice, no outsider's row on its way. At each arrival the rows are those
that were promised. Once nothing fails any more, every wave arrives or has stepped back. ``--seed`` tells one run in
full, and shrinks it where it fails; ``--controls`` plants defects, each of which must be found.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
import gc
import json
import sys
import time
from typing import Any

from reliability import record
from reliability.simulation.controls import ALL, found_by
from reliability.simulation.plan import Fault, plan_of
from reliability.simulation.run import run
from reliability.simulation.shrink import shrunk

RECORD = "simulation"
PORTION = 100
FOUND_MAX = 20


def main(arguments: Sequence[str] | None = None) -> int:
    given = _options(arguments)
    if given.seed is not None:
        return _one(given.seed, in_json=given.json)
    if given.controls:
        return _controls(in_json=given.json, keep=given.record)
    kept = record.read(RECORD) if given.record else {}
    first = given.first or (kept["first"] + kept["seeds"] if kept else 1)
    figures = _campaign(first, given.seeds, given.jobs)
    if given.json:
        print(json.dumps(figures))
    else:
        print(f"seeds {first} to {first + figures['seeds'] - 1}: ", end="")
        print(", ".join(f"{name} {value}" for name, value in figures.items() if name not in ("found", "faults")))
        print("faults: " + ", ".join(f"{kind} {count}" for kind, count in figures["faults"].items()))
    for found in figures["found"]:
        print(f"seed {found['seed']}: {found['what']}", file=sys.stderr)
    if given.record:
        print(f"written: results/{record.write(RECORD, together(kept, figures)).name}", file=sys.stderr)
    return 1 if figures["found"] else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reliability.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=1_000, help="how many runs (default: 1000)")
    parser.add_argument("--first", type=int, help="the first one's seed (default: 1; with --record the next one)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share them")
    parser.add_argument("--seed", type=int, help="one run, told line by line, and shrunk where it fails")
    parser.add_argument("--controls", action="store_true", help="plant one defect after the other")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="add the figures to those in reliability/results")
    given = parser.parse_args(arguments)
    if given.record and given.first is not None:
        parser.error("--record goes on behind the seeds that are on record: leave --first out")
    return given


def _campaign(first: int, seeds: int, jobs: int) -> dict[str, Any]:
    begun = time.monotonic()
    counts: Counter[str] = Counter()
    found: list[dict[str, object]] = []
    told = begun
    for part, failed in _portions(first, seeds, jobs):
        counts.update(part)
        found += failed
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{counts['seeds']:,} of {seeds:,} seeds, {len(found)} failed", file=sys.stderr)
    seconds = time.monotonic() - begun
    return {
        "first": first,
        "seeds": counts["seeds"],
        "jobs": jobs,
        "seconds": round(seconds, 1),
        "seeds_per_minute": round(counts["seeds"] / seconds * 60),
        "steps": counts["steps"],
        "acknowledged": counts["acknowledged"],
        "commits": counts["commits"],
        "crossed": counts["crossed"],
        "handovers": counts["handovers"],
        "rollbacks": counts["rollbacks"],
        "step_backs": counts["step backs"],
        "purges": counts["purges"],
        "processes": counts["processes"],
        "faults": {str(kind): counts[f"fault: {kind}"] for kind in Fault},
        "found": found[:FOUND_MAX],
    }


def together(kept: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Both campaigns as one, the second behind the first. ``campaigns`` says which commit each seed was run on."""
    campaigns = [dict(one) for one in kept.get("campaigns", ())]
    commit = record.commit()
    if campaigns and campaigns[-1]["commit"] == commit:
        campaigns[-1] |= {"seeds": campaigns[-1]["seeds"] + figures["seeds"], "date": record.today()}
    else:
        campaigns.append(
            {"first": figures["first"], "seeds": figures["seeds"], "commit": commit, "date": record.today()}
        )
    if not kept:
        return {**figures, "campaigns": campaigns}
    summed = {
        name: kept[name] + value for name, value in figures.items() if isinstance(value, int | float) and name in kept
    }
    return {
        **summed,
        "first": kept["first"],
        "jobs": figures["jobs"],
        "seeds_per_minute": round(summed["seeds"] / summed["seconds"] * 60),
        "faults": {kind: kept["faults"].get(kind, 0) + count for kind, count in figures["faults"].items()},
        "found": (kept["found"] + figures["found"])[:FOUND_MAX],
        "campaigns": campaigns,
    }


def _portions(first: int, seeds: int, jobs: int) -> Iterator[tuple[Counter[str], list[dict[str, object]]]]:
    portions = [range(at, min(at + PORTION, first + seeds)) for at in range(first, first + seeds, PORTION)]
    if jobs == 1:
        yield from map(_portion, portions)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_portion, portions)


def _portion(seeds: range) -> tuple[Counter[str], list[dict[str, object]]]:
    counts: Counter[str] = Counter()
    found: list[dict[str, object]] = []
    gc.collect()
    gc.disable()  # what a run leaves behind is small, and looked for between portions
    for seed in seeds:
        outcome = run(plan_of(seed))
        counts.update(outcome.counts)
        counts["seeds"] += 1
        counts["steps"] += outcome.steps
        if outcome.found:
            found.append({"seed": seed, "what": outcome.found})
    gc.enable()
    return counts, found


def _one(seed: int, *, in_json: bool) -> int:
    outcome = run(plan_of(seed), quiet=False)
    tried = 0
    if outcome.found:
        outcome, tried = shrunk(outcome.plan)
    if in_json:
        print(json.dumps({"seed": seed, "found": outcome.found, "runs": tried, "history": outcome.history}))
    else:
        print(f"seed {seed}" + (f", shrunk in {tried} runs" if tried else ""))
        print(outcome.plan)
        print("\n".join(outcome.history))
    return 1 if outcome.found else 0


def _controls(*, in_json: bool, keep: bool) -> int:
    figures = []
    for control in ALL:
        seed, runs, what = found_by(control)
        figures.append({"control": control.name, "seed": seed or None, "runs": runs, "what": what})
        if not in_json:
            print(f"{control.name:<66} {f'{runs:>5} runs: {what[:90]}' if seed else 'NOT FOUND'}", flush=True)
    missed = [one["control"] for one in figures if one["seed"] is None]
    told = {"controls": len(figures), "controls_found": len(figures) - len(missed), "runs": figures}
    if in_json:
        print(json.dumps(told))
    if keep:
        print(f"written: results/{record.write('simulation_controls', told).name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
