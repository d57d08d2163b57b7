"""A furnished desk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.cli.desk import Desk, furnished

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture
async def desk(pg18: EmbeddedCluster, tmp_path: Path) -> AsyncIterator[Desk]:
    """Sixty accounts at beijing, twenty of them of China; an empty singapore; the control database beside them."""
    async with furnished(pg18, tmp_path) as made:
        yield made
