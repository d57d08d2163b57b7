"""A fresh database on each version of PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.conftest import create_database, drop_database

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture(params=["pg18", "pg15"])
def any_cluster(request: pytest.FixtureRequest) -> EmbeddedCluster:
    """Each version of the server."""
    cluster: EmbeddedCluster = request.getfixturevalue(request.param)
    return cluster


@pytest.fixture
async def any_database(any_cluster: EmbeddedCluster) -> AsyncIterator[str]:
    """The conninfo of a fresh database, on each version."""
    name = await create_database(any_cluster, "stream")
    yield any_cluster.conninfo(name)
    await drop_database(any_cluster, name)
