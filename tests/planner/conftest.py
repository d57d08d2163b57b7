"""The shop of ``planning.py`` at two sites, 18 -> 18 and 15 -> 18."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.conftest import SitePair, create_database, drop_database
from tests.planner.planning import ROWS, SCHEMA, Shop, run

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture
def shop(site_pair: SitePair) -> Shop:
    """Both sites have the schema, the source has 300 users."""
    run(site_pair.source, SCHEMA)
    run(site_pair.source, ROWS)
    run(site_pair.target, SCHEMA)
    return Shop(site_pair.source, site_pair.target)


@pytest.fixture(scope="session")
async def still_shop(pg18: EmbeddedCluster) -> AsyncIterator[Shop]:
    """The same for tests that only read, and so share it."""
    names = [await create_database(pg18, "still"), await create_database(pg18, "still")]
    source, target = (pg18.conninfo(n) for n in names)
    run(source, SCHEMA)
    run(source, ROWS)
    run(target, SCHEMA)
    yield Shop(source, target)
    for name in names:
        await drop_database(pg18, name)
