"""The guarded shop on both versions of PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.conftest import create_database, drop_database
from tests.guard.kit import OWNED, SHOP, Guarded, data_map, guarded

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture(params=["pg18", "pg15"])
def any_cluster(request: pytest.FixtureRequest) -> EmbeddedCluster:
    """Each version of the server."""
    cluster: EmbeddedCluster = request.getfixturevalue(request.param)
    return cluster


@pytest.fixture
async def any_database(any_cluster: EmbeddedCluster) -> AsyncIterator[str]:
    """A fresh database, on each version."""
    name = await create_database(any_cluster, "guard")
    yield any_cluster.conninfo(name)
    await drop_database(any_cluster, name)


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Guarded]:
    """On PostgreSQL 18."""
    async with guarded(database, SHOP, data_map("public.users", OWNED)) as found:
        yield found


@pytest.fixture
async def any_shop(any_database: str) -> AsyncIterator[Guarded]:
    """On each version, for what may differ between them."""
    async with guarded(any_database, SHOP, data_map("public.users", OWNED)) as found:
        yield found
