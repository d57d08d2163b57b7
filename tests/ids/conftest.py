from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.cli.desk import Desk, furnished
from tests.conftest import SitePair, create_database, drop_database
from tests.ids.kit import HERE, THERE, Shop

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture
def shop(site_pair: SitePair, tmp_path: Path) -> Shop:
    """Two fresh sites, 18 and 18, 15 and 18."""
    made = Shop(tmp_path, {HERE: site_pair.source, THERE: site_pair.target})
    made.mapped()
    return made


@pytest.fixture
async def shop18(pg18: EmbeddedCluster, tmp_path: Path) -> AsyncIterator[Shop]:
    """Two fresh sites on PostgreSQL 18, where the version plays no part."""
    names = [await create_database(pg18, site) for site in (HERE, THERE)]
    made = Shop(tmp_path, dict(zip((HERE, THERE), map(pg18.conninfo, names), strict=True)))
    made.mapped()
    yield made
    for name in names:
        await drop_database(pg18, name)


@pytest.fixture
async def desk(pg18: EmbeddedCluster, tmp_path: Path) -> AsyncIterator[Desk]:
    """A folder with a configuration of two sites, for the program itself."""
    async with furnished(pg18, tmp_path) as made:
        yield made
