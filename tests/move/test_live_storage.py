"""Partitions that are emptied, dropped, taken out or put in behind the stream's back: it tells nothing of them, and the
wave does not arrive without having been compared as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.move.conftest import VERSIONS
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    PREPARE,
    arrived_whole,
    begun,
    owned,
    people,
    refused,
    small_store,
    through,
    write,
)
from tests.move.places import Place, execute, scalar

from domicile import commands
from domicile.model.errors import ErrorCode
from domicile.model.phase import Status
from domicile.move.carrier import Carrier
from domicile.move.failpoints import Failpoints
from domicile.sites.embedded import EmbeddedCluster

LEAF = "store.payment_2025_03"
ITS_DAYS = "from ('2025-03-01 00:00+00') to ('2025-04-01 00:00+00')"
LATER = "from ('2040-01-01 00:00+00') to ('2041-01-01 00:00+00')"
TRUNCATE = f"truncate {LEAF}"
DROP = f"drop table {LEAF}"
DETACH = f"alter table store.payment detach partition {LEAF}"
# Filled before it is a partition: nothing of it is in the log of the tables that are published.
ATTACH = f"""
    create table store.payment_2040 (like store.payment including defaults including indexes);
    insert into store.payment_2040 (order_id, paid_at, method, amount, currency)
    select o.id, '2040-02-03', 'card', 1, o.currency from store.orders as o
    join store.user_account as u on u.id = o.user_id where u.market = 'IN';
    alter table store.payment attach partition store.payment_2040 for values {LATER}"""
# The leaf comes back as it was, but for the rows.
AWAY = f"{DETACH}; delete from {LEAF}; alter table store.payment attach partition {LEAF} for values {ITS_DAYS}"
NEW = f"create table store.payment_2040 partition of store.payment for values {LATER}"
REWRITE = f"vacuum full {LEAF}"


@pytest.fixture(params=VERSIONS)
def ends(request: pytest.FixtureRequest, pg18: EmbeddedCluster) -> tuple[EmbeddedCluster, str]:
    """The source's server and its template."""
    if request.param == "18-18":
        return pg18, request.getfixturevalue("store_source")
    return request.getfixturevalue("pg15"), request.getfixturevalue("store_source_15")


@pytest.fixture
async def place(
    ends: tuple[EmbeddedCluster, str], pg18: EmbeddedCluster, store_target: str, scratch: Path, tmp_path: Path
) -> AsyncIterator[Place]:
    source, template = ends
    async with small_store((source, pg18), (template, store_target), scratch / tmp_path.name) as place:
        yield place


@dataclass(slots=True)
class Meddling(Failpoints):
    """Somebody executes a statement at the source when a point is reached for the first time."""

    conninfo: str = ""
    at: str = ""
    statement: str = ""
    reached: list[str] = field(default_factory=list)

    async def reach(self, point: str) -> None:
        self.reached.append(point)
        if self.reached.count(self.at) == 1 and point == self.at:
            await execute(self.conninfo, self.statement)


def meddled(carrier: Carrier, place: Place, at: str, statement: str) -> Carrier:
    """The same carrier, with somebody who meddles."""
    somebody = Meddling(conninfo=place.source, at=at, statement=statement)
    return replace(carrier, move=replace(carrier.move, failpoints=somebody))


@pytest.mark.parametrize(
    ("at", "statement", "code"),
    [
        ("live.armed", TRUNCATE, ErrorCode.STREAM_TRUNCATED),
        ("live.catchup", TRUNCATE, ErrorCode.STREAM_TRUNCATED),
        ("live.armed", DROP, ErrorCode.SCHEMA_CHANGED),
        ("live.armed", ATTACH, ErrorCode.SCHEMA_CHANGED),
        ("live.locked", DETACH, ErrorCode.SCHEMA_CHANGED),
        ("live.locked", AWAY, ErrorCode.SCHEMA_CHANGED),
        ("live.locked", ATTACH, ErrorCode.SCHEMA_CHANGED),
    ],
    ids=["truncated", "truncated before", "dropped", "put in", "taken out", "emptied outside", "put in under the lock"],
)
async def test_rows_that_go_or_come_with_a_partition_end_the_wave(
    place: Place, at: str, statement: str, code: ErrorCode
) -> None:
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        wave = await refused(meddled(carrier, place, at, statement))
    assert (wave.error_code, "store.payment" in wave.error_message) == (code, True), wave.error_message
    assert await write(place.source, (await people(place.source))[0]) == ""
    moved = await commands.resume(place.workspace, carrier.move.move_id)
    assert moved.status is Status.WAITING, moved
    await arrived_whole(place, residents)
    found = await scalar(place.target, "select count(*) from store.payment where paid_at = '2040-02-03'")
    assert bool(found) == (statement is ATTACH)


@pytest.mark.parametrize("at", [pytest.param("live.armed", marks=pytest.mark.campaign), "live.locked"])
@pytest.mark.parametrize("statement", [NEW, REWRITE], ids=["new", "rewritten"])
async def test_a_partition_that_is_new_or_rewritten_costs_one_more_comparison(
    place: Place, at: str, statement: str
) -> None:
    residents = await owned(place.target)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        busy = meddled(carrier, place, at, statement)
        await through(busy, CATCHUP)
        assert isinstance(busy.move.failpoints, Meddling)
        assert busy.move.failpoints.reached.count("live.verify") == 2
    await arrived_whole(place, residents)
