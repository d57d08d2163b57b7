"""Servers of both versions with nothing on them, for tests that look at their files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.erasure.kit import SETTINGS

from domicile.sites.embedded import EmbeddedCluster


@pytest.fixture(params=["15", "18"], scope="module")
async def alone(request: pytest.FixtureRequest, scratch: Path) -> AsyncIterator[EmbeddedCluster]:
    """A PostgreSQL 15 or 18 that no other test uses."""
    bindir = request.getfixturevalue("pg15_bindir") if request.param == "15" else None
    name = f"alone{request.param}-{request.module.__name__.rpartition('.')[2]}"
    async with await EmbeddedCluster.create(scratch, name, bindir=bindir, settings=SETTINGS) as cluster:
        yield cluster
    await cluster.destroy()
