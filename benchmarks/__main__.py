"""All benchmarks at a small size, one table: ``python -m benchmarks [--json]``.

Each runs in a process of its own, because processor time is counted per process. Figures worth quoting come from the
scripts themselves at their full size.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys

from benchmarks import _bench

# Name, options of a short run, the figures to show with their targets.
SHORT: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
    (
        "copy",
        ("--rows", "200000", "--repeat", "3"),
        {"ratio": ">= 0.95", "client_cpu_ratio": "<= 1.3", "rows_per_s": ""},
    ),
    ("verify", ("--rows", "200000", "--repeat", "3"), {"ratio": ">= 0.8", "rows_per_s_per_core": ""}),
    ("guard", ("--repeat", "3"), {"tps_ratio_idle": ">= 0.98", "tps_ratio_armed": ">= 0.90"}),
    (
        "handover",
        ("--quick", "--scenes", "loopback"),
        {"pause_ms": "p50 <= 10, p99 <= 50, max <= 100", "failed_requests": "0"},
    ),
    ("foreground", ("--quick",), {"tps_ratio": ">= 0.95", "p99_ratio": "<= 1.1"}),
    ("classify", ("--rows", "90"), {"precision": ">= 0.98", "recall": ">= 0.9"}),
    ("stream", ("--quick",), {"ratio_full": ">= 0.9", "ratio_filtered": ">= 1.5"}),
    ("survey", ("--quick",), {"precision": ">= 0.99", "recall": ">= 0.98", "undecided": "", "seconds": "<= 60"}),
    ("evidence", ("--quick",), {"append_per_s": "", "proof_per_s": "", "verify_seconds": "<= 60"}),
    (
        "purge",
        ("--quick",),
        {"survivors_unlisted": "0", "sensitivity_min": "1.0", "foreground_tps_ratio": ">= 0.95", "mb_per_s": ""},
    ),
    ("wan", ("--quick", "--mbit", "40"), {"ratio": ">= 0.8", "skipped": ""}),
)


async def run(name: str, options: tuple[str, ...]) -> dict[str, object]:
    """One benchmark's JSON object. Raises RuntimeError when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"benchmarks.{name}", *options, "--json", stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"benchmarks.{name} failed with exit code {process.returncode}")
    result: dict[str, object] = json.loads(said)
    return result


async def run_all() -> dict[str, dict[str, object]]:
    """Those that are there, one after the other: they share the machine."""
    results = {}
    for name, options, _ in SHORT:
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            continue
        _bench.say(f"== {name} {' '.join(options)}")
        results[name] = await run(name, options)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    results = asyncio.run(run_all())
    if as_json:
        print(json.dumps(results))
        return
    print(f"{'benchmark':10} {'figure':22} {'value':>12}  target")
    for name, _, figures in SHORT:
        for figure, target in figures.items():
            if name in results:
                print(f"{name:10} {figure:22} {results[name].get(figure, '-')!s:>12}  {target}")
    print(_bench.machine())


if __name__ == "__main__":
    main()
