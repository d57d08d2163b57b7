"""One process's share of a campaign: servers of its own, and one schema after another moved between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from random import Random
import sys

import psycopg

from domicile.postgres.connect import connect
from domicile.sites import binaries
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from reliability.schemas.draw import Ground, draw
from reliability.schemas.trial import Outcome, Stage, trial
from reliability.schemas.values import EXTENSIONS

VERSIONS = ("15-18", "18-15", "15-15", "18-18")
SETTINGS = {"shared_buffers": "64MB", "max_connections": "120"}


def installed() -> tuple[str, ...]:
    """The pairs of versions that can be tried here."""
    return tuple(p for p in VERSIONS if all(binaries.find(int(major)) is not None for major in p.split("-")))


def share(seeds: range, pairs: Sequence[str], tables: int) -> list[Outcome]:
    """One schema after another; the versions take turns with the seeds. A process of its own can run it: it is not of
    a ``__main__``, which a spawned process does not import."""
    return asyncio.run(_share(seeds, pairs, tables))


async def _share(seeds: range, pairs: Sequence[str], tables: int) -> list[Outcome]:
    outcomes = list[Outcome]()
    async with stages(pairs) as found:
        for seed in seeds:
            stage, ground = found[pairs[seed % len(pairs)]]
            outcomes.append(await trial(draw(Random(seed), ground, seed, tables), stage))
            _say(outcomes[-1])
    return outcomes


def _say(outcome: Outcome) -> None:
    """Progress, on stderr: stdout is for the result."""
    said = asdict(outcome)
    found = said.pop("found")
    line = " ".join(f"{key}={value}" for key, value in said.items() if not isinstance(value, dict))
    print(line, *(f"\n    {one}" for one in found), file=sys.stderr, flush=True)


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
