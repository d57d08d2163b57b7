"""Does a move lose, double or expose a row of a schema that nobody designed?

    python -m reliability.schemas --count 200 [--seed 1] [--tables 10] [--versions 15-18] [--jobs 2] [--json]
        [--record]
    python -m reliability.schemas --seed 7 --show [--versions 15-18]

Each seed draws a schema: types, keys, owner paths, partitions, references, names that need care, another layout at each
site. Its rows are written to all the while, by users who know each acknowledged write; the cohort is planned, moved
(some cold), perhaps moved back, and purged; after each step every row of both sites is compared. Some drawings must be
refused, by the name of the table.

A fault names its seed; ``--show`` prints that seed's statements and data map, which hold no row. It exits 1 where
anything was found."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
import json
from multiprocessing import get_context
from random import Random
import sys

from reliability import record
from reliability.schemas.ddl import statements
from reliability.schemas.draw import TABLES_MAX, draw
from reliability.schemas.mapping import data_map
from reliability.schemas.shape import SITES, Shop
from reliability.schemas.share import installed, share, stages
from reliability.schemas.trial import Outcome

RECORD = "schemas"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.schemas", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--count", type=int, default=20, help="how many schemas (20)")
    parser.add_argument("--seed", type=int, default=1, help="the first; the others follow it (1)")
    parser.add_argument("--versions", choices=installed(), help="source-target; without it each in turn")
    parser.add_argument("--tables", type=int, default=TABLES_MAX, help=f"in scope, at most ({TABLES_MAX})")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with servers of its own (1)")
    parser.add_argument("--show", action="store_true", help="print the schema of the seed, and do nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help="keep the figures in reliability/results")
    given = parser.parse_args(arguments)
    pairs = (given.versions,) if given.versions else installed()
    return asyncio.run(_show(given, pairs)) if given.show else _campaign(given, pairs)


def _campaign(given: argparse.Namespace, pairs: Sequence[str]) -> int:
    seeds = range(given.seed, given.seed + given.count)
    outcomes = sorted(_tried(seeds, pairs, given), key=lambda outcome: outcome.seed)
    own = {"seed": given.seed, "count": given.count, "tables_max": given.tables, "versions": list(pairs)}
    figures = {**own, **summary(outcomes)}
    if given.record:
        record.write(RECORD, figures)
    if given.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:24} {value}")
    return 1 if figures["faults"] else 0


def _tried(seeds: range, pairs: Sequence[str], given: argparse.Namespace) -> list[Outcome]:
    """Each seed once; every job has servers of its own."""
    tables, jobs = given.tables, given.jobs
    if jobs < 2:
        return share(seeds, pairs, tables)
    shares = [seeds[job::jobs] for job in range(jobs)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return [one for part in pool.map(share, shares, [pairs] * jobs, [tables] * jobs) for one in part]


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """What a campaign came to."""
    return {
        "schemas": len(outcomes),
        "tables": sum(o.tables for o in outcomes),
        "columns": sum(o.columns for o in outcomes),
        "ways": dict(Counter(f"{o.mode}, {o.way}" for o in outcomes)),
        "acknowledged": sum(o.acknowledged for o in outcomes),
        "at_target": sum(o.at_target for o in outcomes),
        "seconds": round(sum(o.seconds for o in outcomes), 1),
        "faults": sum(bool(o.found) for o in outcomes),
        "found": [{"seed": o.seed, "versions": o.versions, "what": "; ".join(o.found)} for o in outcomes if o.found],
    }


async def _show(given: argparse.Namespace, pairs: Sequence[str]) -> int:
    seed = given.seed
    pair = pairs[seed % len(pairs)]
    async with stages((pair,)) as found:
        shop = draw(Random(seed), found[pair][1], seed, given.tables)
    print(shown(shop))
    return 0


def shown(shop: Shop) -> str:
    """Its statements at both sites and its map."""
    parts = list[str]()
    for site in SITES:
        parts += [f"-- at the {site}", *(f"{statement};" for statement in statements(shop, site))]
    return "\n".join([*parts, data_map(shop, "shop")])


if __name__ == "__main__":
    sys.exit(main())
