"""Small stores at two sites, cloned from templates that are made once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair, create_database, drop_database
from tests.move.live_kit import small_store
from tests.move.mover import Mover, mover
from tests.move.places import STORE_MAP, Place, cloned, execute, scalar, workspace_for

from domicile import world
from domicile.sites.embedded import EmbeddedCluster

EXTENSIONS = ("hstore", "citext", "ltree")  # of those that the bundled PostgreSQL has not
USERS_SCALE = 0.01  # 200 users, about 10,000 rows
# Whole moves take seconds: the pair that has both versions in it is enough for every day.
VERSIONS = [pytest.param("18-18", marks=pytest.mark.campaign), "15-18"]


async def _template(cluster: EmbeddedCluster, name: str, *, site_number: int) -> str:
    if await scalar(cluster.conninfo(), f"select true from pg_database where datname = '{name}'"):
        return name  # tests of another directory borrow these fixtures, and have made it
    await execute(cluster.conninfo(), f'create database "{name}"')
    async with await psycopg.AsyncConnection.connect(cluster.conninfo(name), autocommit=True) as conn:
        await world.create_schema(conn, site_number=site_number)
        await world.populate_reference(conn)
        if site_number == 0:
            await world.populate(conn, scale=USERS_SCALE)
        else:
            await world.populate_residents(conn, users=40, site_number=site_number)
    return name


@pytest.fixture(scope="session")
async def store_source(pg18: EmbeddedCluster) -> str:
    """Template of the source's store on PostgreSQL 18."""
    return await _template(pg18, "store_source", site_number=0)


@pytest.fixture(scope="session")
async def store_source_15(pg15: EmbeddedCluster) -> str:
    """The same on PostgreSQL 15."""
    return await _template(pg15, "store_source", site_number=0)


@pytest.fixture(scope="session")
async def store_target(pg18: EmbeddedCluster) -> str:
    """Template of the target's store: same schema and reference rows, other users."""
    return await _template(pg18, "store_target", site_number=1)


@pytest.fixture
async def control(pg18: EmbeddedCluster) -> AsyncIterator[str]:
    """An empty control database: one embedded for each test would take longer than the test (`make demo` has one)."""
    name = await create_database(pg18, "control")
    yield pg18.conninfo(name)
    await drop_database(pg18, name)


@pytest.fixture
async def store(
    pg18: EmbeddedCluster, store_source: str, store_target: str, scratch: Path, tmp_path: Path, control: str
) -> AsyncIterator[Place]:
    """A store at two sites, 18 -> 18."""
    async with cloned(pg18, store_source) as source, cloned(pg18, store_target) as target:
        state = scratch / f"state-{tmp_path.name}"
        yield Place(workspace_for(state, "store", STORE_MAP, (source, target), control), source, target, "store")


@pytest.fixture
async def store_15(
    pg15: EmbeddedCluster,
    pg18: EmbeddedCluster,
    store_source_15: str,
    store_target: str,
    scratch: Path,
    tmp_path: Path,
    control: str,
) -> AsyncIterator[Place]:
    """A store at two sites, 15 -> 18."""
    async with cloned(pg15, store_source_15) as source, cloned(pg18, store_target) as target:
        state = scratch / f"state-{tmp_path.name}"
        yield Place(workspace_for(state, "store", STORE_MAP, (source, target), control), source, target, "store")


@pytest.fixture
async def place(
    pg18: EmbeddedCluster, store_source: str, store_target: str, scratch: Path, tmp_path: Path
) -> AsyncIterator[Place]:
    """A store at two sites, 18 -> 18, with small waves and a control database that many processes reach."""
    async with small_store((pg18, pg18), (store_source, store_target), scratch / tmp_path.name) as place:
        yield place


@pytest.fixture
async def process(place: Place) -> AsyncIterator[Mover]:
    """A process that carries moves there, and can be killed."""
    async with mover(place.workspace) as running:
        yield running


@pytest.fixture(params=VERSIONS)
def either_store(request: pytest.FixtureRequest) -> Place:
    """A store at two sites, 18 -> 18 and 15 -> 18."""
    place = request.getfixturevalue("store" if request.param == "18-18" else "store_15")
    assert isinstance(place, Place)
    return place


@pytest.fixture(params=VERSIONS)
def site_clusters(request: pytest.FixtureRequest) -> tuple[EmbeddedCluster, EmbeddedCluster]:
    """Source and target server, as everywhere else."""
    target, source = (request.getfixturevalue(f"pg{version}") for version in request.param.split("-")[::-1])
    return source, target


@pytest.fixture
async def contrib_pair(pg15: EmbeddedCluster) -> AsyncIterator[SitePair]:
    """Two empty databases with extensions that Debian's PostgreSQL has, and the bundled one has not."""
    names = [await create_database(pg15, "contrib") for _ in range(2)]
    source, target = map(pg15.conninfo, names)
    present = "select true from pg_available_extensions where name = %s"
    missing = [name for name in EXTENSIONS if not await scalar(source, present, name)]
    if not missing:
        for site in (source, target):
            await execute(site, *(f"create extension {name}" for name in EXTENSIONS))
        await execute(target, f"alter database {names[1]} set xmloption = document")  # an engine must not mind
        yield SitePair(source, target, pg15, pg15, "15-15")
    for name in names:
        await drop_database(pg15, name)
    if missing:
        pytest.skip(f"this PostgreSQL has no {', '.join(missing)} (apt-get install postgresql-contrib)")
