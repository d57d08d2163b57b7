"""Databases to survey, built once per server: connections to them are read-only in effect, so tests share them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg import AsyncConnection
import pytest
from tests.conftest import create_database, drop_database
from tests.samples import load_chinook, load_pagila

from domicile.postgres.connect import SESSION, connect
from domicile.sites.embedded import EmbeddedCluster
from domicile.world import store

ODD_SCHEMA = Path(__file__).with_name("odd_schema.sql").read_text(encoding="utf-8")


@pytest.fixture(scope="session", params=["pg18", "pg15"])
def server(request: pytest.FixtureRequest) -> EmbeddedCluster:
    found: EmbeddedCluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
async def pagila(server: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    async with await connect(load_pagila(server.conninfo()), settings=SESSION) as connection:
        yield connection


@pytest.fixture(scope="session")
async def chinook(server: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    async with await connect(load_chinook(server.conninfo()), settings=SESSION) as connection:
        yield connection


@pytest.fixture(scope="session")
async def world(server: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    name = await create_database(server, "world")
    async with await connect(server.conninfo(name), settings=SESSION) as connection:
        await store.create_schema(connection)
        await store.populate(connection, scale=0.02)
        yield connection


@pytest.fixture
async def odd(server: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    """A fresh one for each test, which may change it."""
    async with _odd(server) as connection:
        yield connection


@pytest.fixture
async def odd18(pg18: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    """The same on PostgreSQL 18 only."""
    async with _odd(pg18) as connection:
        yield connection


@asynccontextmanager
async def _odd(server: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    name = await create_database(server, "odd")
    async with await connect(server.conninfo(name), settings=SESSION) as connection:
        await connection.execute(ODD_SCHEMA)
        yield connection
    await drop_database(server, name)
