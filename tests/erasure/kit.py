"""A server of one's own, so that what is on its disk is known, and values that no other row has."""

from __future__ import annotations

from collections.abc import Iterable
import hashlib
from pathlib import Path
import secrets

import psycopg
from tests.move.places import execute

from domicile.erasure import agent
from domicile.erasure.prints import Gatherer, Prints
from domicile.erasure.scan import Order
from domicile.model.erasure import Place
from domicile.postgres.server_files import server_files
from domicile.sites.embedded import EmbeddedCluster

SETTINGS = {"shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "64MB", "autovacuum": "off"}


def value(name: str) -> str:
    """A value that says what it is for, and that nobody else has."""
    return f"{name}-{secrets.token_hex(8)}"


def noise(size: int, seed: str) -> str:
    """Text that does not compress."""
    return hashlib.shake_256(seed.encode()).hexdigest(size)[:size]


def prints_of(values: Iterable[str | bytes]) -> Prints:
    """Each value's owner is its number."""
    gathered = Gatherer(secrets.token_bytes(32))
    for number, one in enumerate(values):
        gathered.add(one.encode() if isinstance(one, str) else one, number)
    return gathered.prints()


async def scanned(cluster: EmbeddedCluster, values: list[str], *, kept: tuple[Path, ...] = ()) -> dict[str, set[Place]]:
    """Where each value was found, after a checkpoint."""
    conninfo = cluster.conninfo()
    await execute(conninfo, "checkpoint")
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        files = await server_files(conn)
    assert files.data == cluster.data, files.why
    prints = prints_of(values)
    result = agent.carry_out(Order(files.data, prints, files.places, kept, files.collected, server=files.server))
    found: dict[str, set[Place]] = {v: set() for v in values}
    for place, tally in result.tallies.items():
        for which in tally.found:
            found[values[prints.owners[which]]].add(place)
    return found
