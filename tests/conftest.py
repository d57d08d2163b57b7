"""Fixtures for every test: real PostgreSQL servers, fresh databases at one or two sites, sample schemas, a
seed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
import itertools
import os
from pathlib import Path
import random
from typing import Any

import psycopg
from psycopg import sql
import pytest

from domicile.sites import binaries
from domicile.sites.embedded import EmbeddedCluster, scratch_directory

ROOT = Path(__file__).resolve().parent.parent
SEED = int(os.environ.get("DOMICILE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
# Test clusters live for minutes and hold little; durability stays on, because crash tests run on them.
_SETTINGS = {"shared_buffers": "64MB", "max_connections": "200"}
_numbers = itertools.count(1)


# What takes longest, begun first: the last of them would otherwise run alone at the end.
_LONGEST = (
    *("demo/", "move/test_live_kill", "move/test_traffic", "move/"),
    *("cli/test_program", "reliability/", "stream/test_filter_model"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        module = item.path.relative_to(ROOT / "tests").as_posix()
        return next((number for number, part in enumerate(_LONGEST) if module.startswith(part)), len(_LONGEST))

    items.sort(key=rank)


def pytest_report_header() -> str:
    return f"domicile: DOMICILE_TEST_SEED={SEED}"


@pytest.fixture
def seed() -> int:
    """A number to seed generators with; printed at the start, and set by DOMICILE_TEST_SEED to repeat a
    run."""
    return SEED


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory which a server's account can enter (pytest's own tmp_path is closed to others)."""
    with scratch_directory("domicile-tests-") as path:
        yield path


@pytest.fixture(scope="session")
async def pg18(scratch: Path) -> AsyncIterator[EmbeddedCluster]:
    """The bundled PostgreSQL 18."""
    async with await EmbeddedCluster.create(scratch, "pg18", settings=_SETTINGS) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pg15_bindir() -> Path:
    """Debian's PostgreSQL 15; skips where it is not installed, unless DOMICILE_REQUIRE_PG15=1."""
    found = next((b for b in binaries.installed() if b.major == 15), None)
    if found is None:
        if os.environ.get("DOMICILE_REQUIRE_PG15") == "1":
            pytest.fail("PostgreSQL 15 is required here (DOMICILE_REQUIRE_PG15=1): apt-get install postgresql-15")
        pytest.skip("PostgreSQL 15 is not installed (apt-get install postgresql-15)")
    return found.bindir


@pytest.fixture(scope="session")
async def pg15(scratch: Path, pg15_bindir: Path) -> AsyncIterator[EmbeddedCluster]:
    """Debian's PostgreSQL 15, run like an embedded one."""
    cluster = await EmbeddedCluster.create(scratch, "pg15", bindir=pg15_bindir, settings=_SETTINGS)
    async with cluster:
        yield cluster


@dataclass(frozen=True, slots=True)
class SitePair:
    """Two fresh, empty databases. ``source`` and ``target`` are conninfos; ``label`` says which versions."""

    source: str
    target: str
    source_cluster: EmbeddedCluster
    target_cluster: EmbeddedCluster
    label: str


async def create_database(cluster: EmbeddedCluster, prefix: str) -> str:
    """A new empty database; returns its name."""
    name = f"{prefix}_{os.getpid()}_{next(_numbers)}"
    async with await psycopg.AsyncConnection.connect(cluster.conninfo(), autocommit=True) as connection:
        await connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return name


async def drop_database(cluster: EmbeddedCluster, name: str) -> None:
    """Drop it, whoever is connected. Prepared transactions and slots of a failed test are removed first."""
    async with await psycopg.AsyncConnection.connect(cluster.conninfo(), autocommit=True) as connection:
        await connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s",
            (name,),
        )
        prepared = await connection.execute("select gid from pg_prepared_xacts where database = %s", (name,))
        gids = [row[0] for row in await prepared.fetchall()]
        if gids:
            async with await psycopg.AsyncConnection.connect(cluster.conninfo(name), autocommit=True) as inside:
                for gid in gids:
                    await inside.execute(sql.SQL("rollback prepared {}").format(sql.Literal(gid)))
        await connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
async def database(pg18: EmbeddedCluster) -> AsyncIterator[str]:
    """The conninfo of one fresh, empty database on PostgreSQL 18."""
    name = await create_database(pg18, "db")
    yield pg18.conninfo(name)
    await drop_database(pg18, name)


@pytest.fixture(params=["18-18", "15-18"])
def site_clusters(request: pytest.FixtureRequest) -> tuple[EmbeddedCluster, EmbeddedCluster]:
    """Source and target server. Both are one server for 18-18: two databases share nothing that a move
    uses."""
    target: Any = request.getfixturevalue("pg18")
    source: Any = target if request.param == "18-18" else request.getfixturevalue("pg15")
    return source, target


@pytest.fixture
async def site_pair(site_clusters: tuple[EmbeddedCluster, EmbeddedCluster]) -> AsyncIterator[SitePair]:
    """Two fresh, empty databases at a source and a target, 18 -> 18 and 15 -> 18; dropped afterwards."""
    source, target = site_clusters
    at_source = await create_database(source, "source")
    at_target = await create_database(target, "target")
    label = f"{source.binaries.major}-{target.binaries.major}"
    yield SitePair(source.conninfo(at_source), target.conninfo(at_target), source, target, label)
    await drop_database(source, at_source)
    await drop_database(target, at_target)


@pytest.fixture(scope="session")
def samples() -> Path:
    """Sample databases beside the repository; skips where they are absent."""
    path = ROOT.parent / "shared" / "samples"
    if not path.is_dir():
        pytest.skip(f"no sample databases in {path}")
    return path
