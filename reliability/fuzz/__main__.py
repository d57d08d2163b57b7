"""Does every bad input end in an error that says what is wrong?

    python -m reliability.fuzz [--inputs 1000000] [--seed S] [--target NAME] [--workers 2] [--json] [--record]

Plans, data maps, configurations, connection strings, messages of the change stream, answers of the guard, arguments of
the program and calls at a real database: valid ones, damaged where their structure is, or byte by byte. Each must be
accepted or refused with an error that has a code, within two seconds of processor time, four more for each megabyte,
and 768 MiB; no error may repeat a password or somebody's value; what is accepted must come back the same when it is
written and read again. An input that breaks the rule is shrunk and kept in ``reliability/fuzz/found/``. Exits 1 when
there was one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any

from domicile.model.errors import ErrorCode
from reliability import record
from reliability.fuzz import campaign
from reliability.fuzz.child import MEMORY_BYTES, Tally, dice_of
from reliability.fuzz.rule import CPU_SECONDS_MAX
from reliability.fuzz.targets import TARGETS

INPUTS = 1_000_000


def main() -> int:
    """The exit code."""
    options = _options()
    if options.show is not None:
        sys.stdout.buffer.write(repr(TARGETS[options.target].make(_dice(options))).encode() + b"\n")
        return 0
    counts = campaign.shares(options.inputs, options.target)
    say(f"seed {options.seed}: {sum(counts.values()):,} inputs")
    begun = time.monotonic()
    tallies = campaign.run(counts, options.seed, options.workers, say)
    figures = {name: _figures(tally, options.seed) for name, tally in tallies.items()}
    result = {"seed": options.seed, **summary(figures, time.monotonic() - begun)}
    if options.record:
        keep(figures, time.monotonic() - begun)
    print(json.dumps(result) if options.json else _shown(result))
    return 1 if result["faults"] else 0


def summary(figures: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The figures of a run, or of several that had a target each."""
    targets = figures.values()
    return {
        "inputs": sum(t["inputs"] for t in targets),
        "input_bytes": sum(t["input_bytes"] for t in targets),
        "seconds": round(seconds, 1),
        "cpu_seconds_max": CPU_SECONDS_MAX,
        "memory_bytes_max": MEMORY_BYTES,
        "faults": sum(one["times"] for t in targets for one in t["faults"]),
        "kinds_of_fault": sum(len(t["faults"]) for t in targets),
        "error_codes": sorted({code for t in targets for code in t["outcomes"]} & {str(code) for code in ErrorCode}),
        "targets": figures,
    }


def keep(figures: dict[str, Any], seconds: float) -> None:
    """Write them down; what an earlier run says of other targets stays."""
    kept = record.read("fuzz") or {"seconds": 0.0, "targets": {}}
    others = {name: said for name, said in kept["targets"].items() if name not in figures}
    record.write("fuzz", summary({**others, **figures}, seconds + (kept["seconds"] if others else 0.0)))


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def _figures(tally: Tally, seed: int) -> dict[str, Any]:
    return {
        "date": record.today(),
        "seed": seed,
        "inputs": tally.inputs,
        "input_bytes": tally.bytes,
        "cpu_seconds": round(tally.cpu_seconds, 1),
        "slowest_seconds": round(tally.slowest_seconds, 3),
        "memory_mb": tally.memory_mb,
        "outcomes": dict(tally.codes.most_common()),
        "faults": [
            {"fault": fault, "times": times, "file": tally.files.get(fault, "")}
            for fault, times in tally.faults.most_common()
        ],
    }


def _shown(result: dict[str, Any]) -> str:
    lines = [
        f"{result['inputs']:,} inputs in {result['seconds']} s, seed {result['seed']}: {result['faults']:,} faults"
    ]
    for name, figures in result["targets"].items():
        lines.append(
            f"{name}: {figures['inputs']:,}, slowest {figures['slowest_seconds']} s, {figures['memory_mb']} MB"
        )
        lines += [f"  {code}: {times:,}" for code, times in figures["outcomes"].items()]
        lines += [f"  FAULT {one['fault']}: {one['times']:,} ({one['file']})" for one in figures["faults"]]
    return "\n".join(lines)


def _dice(options: argparse.Namespace) -> random.Random:
    return dice_of(options.seed, options.target, options.show)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reliability.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"how many in all (default {INPUTS:,})")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="to repeat a run")
    parser.add_argument("--target", choices=sorted(TARGETS), default="", help="only this one")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--show", type=int, metavar="NUMBER", help="print that input of --target and --seed")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help="write the figures to reliability/results/fuzz.json")
    options = parser.parse_args()
    if options.show is not None and not options.target:
        parser.error("--show needs --target")
    return options


if __name__ == "__main__":
    sys.exit(main())
