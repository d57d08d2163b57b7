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
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
import json
from multiprocessing import get_context
from random import Random
import sys

import psycopg

from domicile.postgres.connect import connect
from domicile.sites import binaries
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from reliability import record
from reliability.schemas.ddl import statements
from reliability.schemas.draw import TABLES_MAX, Ground, draw
from reliability.schemas.mapping import data_map
from reliability.schemas.shape import SITES, Shop
from reliability.schemas.trial import Outcome, Stage, trial
from reliability.schemas.values import EXTENSIONS

RECORD = "schemas"
VERSIONS = ("15-18", "18-15", "15-15", "18-18")
SETTINGS = {"shared_buffers": "64MB", "max_connections": "120"}


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


def installed() -> tuple[str, ...]:
    """The pairs of versions that can be tried here."""
    return tuple(p for p in VERSIONS if all(binaries.find(int(major)) is not None for major in p.split("-")))


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
        return _share(seeds, pairs, tables)
    shares = [seeds[job::jobs] for job in range(jobs)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return [one for part in pool.map(_share, shares, [pairs] * jobs, [tables] * jobs) for one in part]


def _share(seeds: range, pairs: Sequence[str], tables: int) -> list[Outcome]:
    return asyncio.run(share(seeds, pairs, tables))


async def share(seeds: range, pairs: Sequence[str], tables: int) -> list[Outcome]:
    """One schema after another; the versions take turns with the seeds."""
    outcomes = list[Outcome]()
    async with stages(pairs) as found:
        for seed in seeds:
            stage, ground = found[pairs[seed % len(pairs)]]
            outcomes.append(await trial(draw(Random(seed), ground, seed, tables), stage))
            _say(outcomes[-1])
    return outcomes


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


def _say(outcome: Outcome) -> None:
    """Progress, on stderr: stdout is for the result."""
    said = asdict(outcome)
    found = said.pop("found")
    line = " ".join(f"{key}={value}" for key, value in said.items() if not isinstance(value, dict))
    print(line, *(f"\n    {one}" for one in found), file=sys.stderr, flush=True)


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


@asynccontextmanager
async def stages(pairs: Sequence[str]) -> AsyncIterator[dict[str, tuple[Stage, Ground]]]:
    """Servers for these pairs of versions, with what they can do. Nothing is left of them."""
    with scratch_directory("domicile-schemas-") as folder:
        async with AsyncExitStack() as stack:
            servers = dict[int, EmbeddedCluster]()
            for major in sorted({int(major) for pair in pairs for major in pair.split("-")}):
                found = binaries.find(major)
                bindir = None if found is None or found.bundled else found.bindir
                server = await EmbeddedCluster.create(folder, f"pg{major}", bindir=bindir, settings=SETTINGS)
                servers[major] = await stack.enter_async_context(server)
            control = servers[max(servers)]
            async with await connect(control.conninfo()) as conn:
                await conn.execute("create database control")
            made = {}
            for pair in pairs:
                source, target = (servers[int(major)] for major in pair.split("-"))
                ground = await ground_of(source, target)
                made[pair] = Stage(source, target, control.conninfo("control"), folder), ground
            yield made


async def ground_of(source: EmbeddedCluster, target: EmbeddedCluster) -> Ground:
    """What both servers can do."""
    extensions, xml = set(EXTENSIONS), True
    for server in (source, target):
        async with await connect(server.conninfo()) as conn:
            rows = await (await conn.execute("select name from pg_available_extensions")).fetchall()
            extensions &= {name for (name,) in rows}
            try:
                await conn.execute("select '<a/>'::xml")
            except psycopg.errors.FeatureNotSupported:  # a build without it
                xml = False
    return Ground((source.binaries.major, target.binaries.major), frozenset(extensions), xml)


if __name__ == "__main__":
    sys.exit(main())
