"""A fresh database on each version of PostgreSQL, and a small shop in one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import AsyncConnection
import pytest
from tests.conftest import create_database, drop_database
from tests.stream.destination import Destination, destination
from tests.stream.filtered import DDL, MAP
from tests.stream.orders import SCHEMA, Conn
from tests.stream.wave import Wave, watched

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


@pytest.fixture(params=["binary", "text"])
async def shop(any_database: str, request: pytest.FixtureRequest) -> AsyncIterator[Destination]:
    """The small shop, in both forms of the stream."""
    async with destination(any_database, binary=request.param == "binary") as made:
        assert made.layout.binary == (request.param == "binary")
        yield made


@pytest.fixture
async def conn(any_database: str) -> AsyncIterator[Conn]:
    async with await AsyncConnection.connect(any_database, autocommit=True) as connection:
        await connection.execute(SCHEMA)
        yield connection


@pytest.fixture(params=[True, False], ids=["binary", "text"])
def binary(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


@pytest.fixture
async def shop18(database: str) -> AsyncIterator[Wave]:
    """Binary on PostgreSQL 18, where neither matters."""
    async with watched(database, DDL, MAP, [1, 2]) as wave:
        yield wave
