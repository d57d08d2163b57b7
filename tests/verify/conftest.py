from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.conftest import SitePair, create_database, drop_database
from tests.verify.kit import Sites, open_sites

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture
async def sites(site_pair: SitePair) -> AsyncIterator[Sites]:
    """Two fresh sites, 18 -> 18 and 15 -> 18."""
    async with open_sites(site_pair) as ready:
        yield ready


@pytest.fixture
async def sites18(pg18: EmbeddedCluster) -> AsyncIterator[Sites]:
    """Two fresh sites on PostgreSQL 18, where the version plays no part."""
    async for ready in _fresh(pg18, pg18):
        yield ready


@pytest.fixture
async def sites15(pg15: EmbeddedCluster, pg18: EmbeddedCluster) -> AsyncIterator[Sites]:
    """15 -> 18 only, for what Debian's build has and the bundled one has not."""
    async for ready in _fresh(pg15, pg18):
        yield ready


async def _fresh(source: EmbeddedCluster, target: EmbeddedCluster) -> AsyncIterator[Sites]:
    names = await create_database(source, "source"), await create_database(target, "target")
    label = f"{source.binaries.major}-{target.binaries.major}"
    pair = SitePair(source.conninfo(names[0]), target.conninfo(names[1]), source, target, label)
    async with open_sites(pair) as ready:
        yield ready
    await drop_database(source, names[0])
    await drop_database(target, names[1])
