"""The shop of ``planning.py`` at two sites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import create_database, drop_database
from tests.planner.planning import ROWS, SCHEMA, Shop, run

from domicile.sites import binaries
from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture(scope="session")
def older(request: pytest.FixtureRequest) -> EmbeddedCluster:
    """PostgreSQL 15 where it is installed, else 18: one source version is enough for what planning asks."""
    name = "pg15" if any(b.major == 15 for b in binaries.installed()) else "pg18"
    cluster: Any = request.getfixturevalue(name)
    assert isinstance(cluster, EmbeddedCluster)
    return cluster


@pytest.fixture
async def shop(older: EmbeddedCluster, pg18: EmbeddedCluster) -> AsyncIterator[Shop]:
    """Both sites have the schema, the source has 300 users."""
    at_source, at_target = await create_database(older, "source"), await create_database(pg18, "target")
    yield _filled(older.conninfo(at_source), pg18.conninfo(at_target))
    await drop_database(older, at_source)
    await drop_database(pg18, at_target)


@pytest.fixture(scope="session")
async def still_shop(pg18: EmbeddedCluster) -> AsyncIterator[Shop]:
    """The same, 18 -> 18, for tests that only read, and so share it."""
    names = [await create_database(pg18, "still"), await create_database(pg18, "still")]
    source, target = (pg18.conninfo(n) for n in names)
    yield _filled(source, target)
    for name in names:
        await drop_database(pg18, name)


def _filled(source: str, target: str) -> Shop:
    run(source, SCHEMA)
    run(source, ROWS)
    run(target, SCHEMA)
    return Shop(source, target)
