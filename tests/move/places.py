"""Two sites with real rows and a workspace over them; and an oracle that knows every row without asking domicile."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
import itertools
from pathlib import Path

import psycopg
from psycopg import sql

from domicile import commands, world
from domicile.model.plan import Limits, Mode
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import CONTROL_EMBEDDED, Workspace
from domicile.sites.embedded import EmbeddedCluster

apply_cold = partial(commands.apply, mode=Mode.COLD)
SMALL = Limits(wave_subjects_max=60, canary_subjects_max=5, chunk_rows=200, purge_chunk_rows=100, settle_seconds=0)
SOURCE, TARGET = SiteName("beijing"), SiteName("singapore")
STORE_MAP = Path(world.__file__).parent / "store.map.yaml"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Place:
    """A dataset at two sites."""

    workspace: Workspace
    source: str
    target: str
    dataset: str


Rows = Mapping[str, Counter[str]]


async def every_row(conninfo: str) -> dict[str, Counter[str]]:
    """Every row of every application table, as a digest of its text: the oracle's view, one plain scan a table."""
    found: dict[str, Counter[str]] = {}
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        tables = await conn.execute(
            """select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where c.relkind in ('r', 'p') and not c.relispartition
               and n.nspname !~ '^(pg_|information_schema|domicile)'"""
        )
        for schema, name in await tables.fetchall():
            rows = await conn.execute(sql.SQL("select md5(t::text) from {} as t").format(sql.Identifier(schema, name)))
            found[f"{schema}.{name}"] = Counter(r[0] for r in await rows.fetchall())
    return found


def together(one: Rows, other: Rows, tables: set[str]) -> dict[str, Counter[str]]:
    """The rows of both sites, of the named tables: what a move must leave as it was."""
    return {t: one[t] + other[t] for t in tables}


async def scalar(conninfo: str, query: str, *values: object) -> object:
    """One value."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        row = await (await conn.execute(query.encode(), values)).fetchone()
    return None if row is None else row[0]


async def execute(conninfo: str, *statements: str) -> None:
    """Run statements, each by itself."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        for statement in statements:
            await conn.execute(statement.encode())


@asynccontextmanager
async def cloned(cluster: EmbeddedCluster, template: str) -> AsyncIterator[str]:
    """A database like the template, dropped afterwards; yields its conninfo."""
    name = f"{template}_{next(_numbers)}"
    admin = cluster.conninfo()
    await execute(admin, f'create database "{name}" template "{template}"')
    try:
        yield cluster.conninfo(name)
    finally:
        await execute(admin, f'drop database "{name}" with (force)')


def workspace_for(
    state: Path, dataset: str, map_path: Path, sites: tuple[str, str], control: str = CONTROL_EMBEDDED
) -> Workspace:
    """A workspace with one dataset at its source and its target."""
    name = DatasetName(dataset)
    return Workspace(
        sites={SOURCE: Site(SOURCE, "CN"), TARGET: Site(TARGET, "SG")},
        datasets={name: Dataset(name, str(map_path), dict(zip((SOURCE, TARGET), sites, strict=True)))},
        state_dir=state,
        config_digest="test",
        base_dir=Path("/"),
        control=control,
        limits=SMALL,
    )
