from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.conftest import SitePair, create_database, drop_database
from tests.copy.kit import Rig, rig

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture
async def sites(site_pair: SitePair) -> AsyncIterator[Rig]:
    """Two fresh sites, 18 -> 18 and 15 -> 18."""
    async with rig(site_pair) as ready:
        yield ready


@pytest.fixture
async def sites18(pg18_pair: SitePair) -> AsyncIterator[Rig]:
    """Two fresh sites on PostgreSQL 18, where the version plays no part."""
    async with rig(pg18_pair) as ready:
        yield ready


@pytest.fixture
async def pg18_pair(pg18: EmbeddedCluster) -> AsyncIterator[SitePair]:
    """As `site_pair`, 18 -> 18 only."""
    names = [await create_database(pg18, prefix) for prefix in ("source", "target")]
    yield SitePair(pg18.conninfo(names[0]), pg18.conninfo(names[1]), pg18, pg18, "18-18")
    for name in names:
        await drop_database(pg18, name)
