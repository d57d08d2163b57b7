"""Is any acknowledged write lost, doubled, reordered or exposed, and has anybody ever two homes?

    python -m benchmarks.oracle --minutes 10 [--seed 1] [--rate 300] [--json] [--record]

Two servers; writers in a process of their own, who know each write that was acknowledged: lists that only grow, rows
beside them in the same transaction, counters, inserts and deletes, rows two steps away from their owner, transactions
of two subjects, and folders that change hands with all their pages. A third of the subjects is written under READ
COMMITTED, one under REPEATABLE READ, one under SERIALIZABLE. Meanwhile small waves are moved live from site to site
and rolled back, over and over, each move purged before the next. A prober opens a writing transaction at both sites at
once for one subject after the other. At the end everything is compared, and the histories of the lists are checked for
what their level forbids (G0, G1a, G1b, G1c; G-single; G2), in real time.

``acknowledged`` counts writes of rows. ``refused``: tries that the guard or the server refused, each of which was tried
again or given up, rightly (``given_up``: two subjects live apart). Exits 1 when anything was found."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
import sys
import tempfile

from reliability.oracle import book, conduct, judge
from reliability.oracle.book import SITES, Population
from reliability.oracle.conduct import Played, Stage
from reliability.oracle.judge import Verdict

from benchmarks import _bench
from domicile.world.account import Spread
from reliability import record

SETTINGS = {**_bench.SETTINGS, "max_connections": "100"}
RATE = 300.0
CLOSING_WRITES, CLOSING_HANDOVERS = 1_000_000, 500
HARMS = ("lost", "doubled", "unwritten", "reordered", "foreign", "dual_home", "anomalies", "failures")


async def run(minutes: float, seed: int, rate: float, population: Population) -> dict[str, object]:
    """The figures of a run on fresh servers."""
    with tempfile.TemporaryDirectory(prefix="domicile-oracle-") as state:
        Path(state).chmod(0o711)
        async with _bench.clusters(*SITES, "control", settings=SETTINGS) as (first, second, control):
            sites = dict(zip(SITES, (first.conninfo(), second.conninfo()), strict=True))
            await book.build(sites, population)
            place = conduct.workspace(Path(state), sites, population, control.conninfo())
            played = await conduct.play(Stage(place, sites, population, seed, rate), minutes * 60, _bench.say)
            _bench.say(f"judging {played.memory.transactions:,} transactions")
            found = await judge.verdict(played.memory, sites, population)
    for example in found.examples:
        _bench.say(example)
    return {
        "minutes": minutes,
        "seed": seed,
        "rate": rate,
        "population": asdict(population),
        **figures(played, found),
    }


def figures(played: Played, found: Verdict) -> dict[str, object]:
    """What a run came to, and how long one of the size that settles it would take at this pace."""
    memory, moved, seconds = played.memory, played.moved, played.seconds
    handed_over = moved.handovers + moved.rollbacks
    pauses = Spread.of(moved.pauses_ms)
    return {
        "acknowledged": memory.acknowledged,
        "transactions": memory.transactions,
        "lost": found.lost,
        "doubled": found.doubled,
        "unwritten": found.unwritten,
        "reordered": found.reordered,
        "foreign": found.foreign + moved.foreign,
        "dual_home": found.dual_home,
        "anomalies": dict(found.anomalies),
        "handovers": moved.handovers,
        "rollbacks": moved.rollbacks,
        "moves": moved.moves,
        "stepped_back": moved.stepped_back,
        "troubles": dict(moved.troubles),
        "refused": dict(memory.refused),
        "given_up": dict(memory.given_up),
        "failures": dict(memory.failures),
        "doubtful": memory.unknown,
        "probes": dict(memory.probes),
        "histories": {str(level): len(history) for level, history in memory.histories.items()},
        "mover_pause_ms": {"p50": pauses.p50, "p99": pauses.p99, "max": pauses.max},
        "seconds": round(seconds, 1),
        "closing_run_minutes": round(
            max(CLOSING_WRITES / max(1, memory.acknowledged), CLOSING_HANDOVERS / max(1, handed_over)) * seconds / 60, 1
        ),
    }


def harmed(result: Mapping[str, object]) -> bool:
    """Something was found that must not be."""
    return any(result[harm] for harm in HARMS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oracle", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    usual = Population()
    parser.add_argument("--minutes", type=float, default=1.0, help="how long moves are begun (1)")
    parser.add_argument("--seed", type=int, default=1, help="of writers and moves (1)")
    parser.add_argument("--rate", type=float, default=RATE, help=f"transactions a second ({RATE:.0f})")
    parser.add_argument("--circles", type=int, default=usual.circles, help="groups who move together")
    parser.add_argument("--waves", type=int, default=usual.waves, help="of each group")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help="write the figures to reliability/results/oracle.json")
    options = parser.parse_args(arguments)
    _bench.say(f"seed {options.seed}")
    population = Population(circles=options.circles, waves=options.waves)
    result = asyncio.run(run(options.minutes, options.seed, options.rate, population))
    if options.record:
        record.write("oracle", result)
    _bench.show(result, as_json=options.json)
    return 1 if harmed(result) else 0


if __name__ == "__main__":
    sys.exit(main())
