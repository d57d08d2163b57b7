"""Transactions across the seam of copy and stream are in one of both; nothing is acknowledged too early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.move.live_kit import (
    CATCHUP,
    COPY,
    MOVE_SLOT,
    PREPARE,
    TOUCH,
    Owned,
    arrived_whole,
    begun,
    open_transaction,
    owned,
    people,
    refused,
    small_store,
    through,
    until,
)
from tests.move.places import Place, execute, scalar

from domicile.model.errors import ErrorCode
from domicile.move import live_verify, rollback
from domicile.move.carrier import Carrier
from domicile.move.live_wave import open_live
from domicile.sites.embedded import EmbeddedCluster
from domicile.stream import catchup
from domicile.stream.reader import Reader

WAITS_FOR_STANDBY = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
# Whoever had begun by then counts as seen by the snapshot.
FORGET = "update domicile.wave set seam = '{0}:{0}:'"
OWN_XID = "select pg_current_xact_id()::text::bigint + 1"


@pytest.fixture
async def place_15(
    pg15: EmbeddedCluster,
    pg18: EmbeddedCluster,
    store_source_15: str,
    store_target: str,
    scratch: Path,
    tmp_path: Path,
) -> AsyncIterator[Place]:
    async with small_store((pg15, pg18), (store_source_15, store_target), scratch / tmp_path.name) as place:
        yield place


LATE = (
    "update store.user_account set full_name = full_name || ' (late)' where id = {0}",
    "insert into store.review (user_id, product_id, stars, body) values ({0}, 1, 5, 'late')",
    """insert into store.orders (user_id, address_id, currency, total)
       select {0}, min(id), 'INR', 1 from store.address where user_id = {0}""",
    """insert into store.order_item (order_id, line_no, product_id, quantity, unit_price)
       values (currval('store.orders_id_seq'), 1, 1, 1, 1)""",
)


ARRIVED_LATE = """
    select (select count(*) from store.user_account where full_name like '%% (late)')
        + (select count(*) from store.review where body = 'late')"""


async def arrived_late(
    place: Place, carrier: Carrier, behind: Sequence[object], residents: Owned, *, forgotten: bool
) -> None:
    """What was written late is at the target; with the seam ``forgotten``, it is missed before the handover."""
    if forgotten:
        await execute(place.target, FORGET.format(*behind))
        assert (await refused(carrier)).error_code == ErrorCode.DISCREPANCY
        return
    await through(carrier, CATCHUP)
    assert await scalar(place.target, ARRIVED_LATE) == 2
    await arrived_whole(place, residents)


@pytest.mark.parametrize("forgotten", [False, True], ids=["by xid", "control"])
async def test_a_transaction_from_before_the_snapshot_that_commits_behind_it(place: Place, forgotten: bool) -> None:
    """It is in the stream and in no copy. The control forgets who was running at the snapshot, as a seam by numbers
    alone would: what is lost then must be seen before the handover."""
    residents = await owned(place.target)
    one = (await people(place.source))[0]
    async with begun(place) as carrier:
        await through(carrier, PREPARE)
        late = [statement.format(one) for statement in LATE]
        async with open_transaction(place.source, *late) as transaction:
            behind = await (await transaction.execute(OWN_XID)).fetchone()
            assert behind is not None
            await through(carrier, COPY)
            assert await scalar(place.target, ARRIVED_LATE) == 0
            await transaction.commit()
        await arrived_late(place, carrier, behind, residents, forgotten=forgotten)


async def wait_for_nobody(conninfo: str) -> None:
    """Sessions that begin from now on, the mover's too, commit without a standby unless they ask for one."""
    database = await scalar(conninfo, "select current_database()")
    await execute(conninfo, f"alter database {database} set synchronous_commit = local")


@asynccontextmanager
async def commits_hang(conninfo: str) -> AsyncIterator[None]:
    """Commits that want a standby are in the log, and nobody sees them before the end of the block."""
    probe = ("set synchronous_commit = on", "select pg_logical_emit_message(true, 'probe', '')")
    probes: list[asyncio.Task[None]] = []

    async def hanging() -> bool:
        if not probes or probes[-1].done():
            probes.append(asyncio.create_task(execute(conninfo, *probe)))
        return bool(await scalar(conninfo, WAITS_FOR_STANDBY))

    try:
        await execute(conninfo, "alter system set synchronous_standby_names = 'nobody'", "select pg_reload_conf()")
        await until(hanging)
        yield
    finally:
        await execute(conninfo, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
        await asyncio.gather(*probes)


@pytest.mark.parametrize("forgotten", [False, True], ids=["by xid", "control"])
async def test_a_commit_that_is_in_the_log_before_anybody_sees_it(place_15: Place, forgotten: bool) -> None:
    """Its position lies before the snapshot, which does not see it: a seam by position would lose it."""
    place = place_15
    residents = await owned(place.target)
    one = (await people(place.source))[0]
    await wait_for_nobody(place.source)
    async with begun(place) as carrier:
        await through(carrier, PREPARE)
        late = [statement.format(one) for statement in LATE]
        async with open_transaction(place.source, "set local synchronous_commit = on", *late) as transaction:
            behind = await (await transaction.execute(OWN_XID)).fetchone()
            assert behind is not None
            async with commits_hang(place.source):
                hanging = asyncio.create_task(transaction.commit())
                await until(lambda: scalar(place.source, f"{WAITS_FOR_STANDBY} having count(*) > 1"))
                await through(carrier, COPY)
                assert not hanging.done()
            await hanging
        await arrived_late(place, carrier, behind, residents, forgotten=forgotten)


async def test_nothing_is_acknowledged_that_the_target_has_not_committed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's lock holds a change up at the target. Nor is a marker behind it said to be reached."""
    monkeypatch.setattr(catchup, "ACKNOWLEDGE_SECONDS", 0.1)
    one = (await people(place.source))[0]
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            async with open_transaction(place.target, "lock table store.user_account"):
                async with open_transaction(place.source, TOUCH.format(one)) as writer:
                    row = await (await writer.execute("select pg_current_wal_insert_lsn()::text")).fetchone()
                    assert row is not None
                    await writer.commit()
                beyond = f"select confirmed_flush_lsn > '{row[0]}' from ({MOVE_SLOT}) as s"
                await asyncio.sleep(3.0)
                assert await scalar(place.source, beyond) is False
                reached = asyncio.create_task(live_verify.mark(live))
                await asyncio.wait([reached], timeout=1.0)
                assert not reached.done()
            await reached
            await until(lambda: scalar(place.source, beyond))


async def test_nothing_is_acknowledged_that_is_not_visible(place_15: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the log, and applied; the snapshot of the next wave might miss it all the same."""
    monkeypatch.setattr(catchup, "ACKNOWLEDGE_SECONDS", 0.1)
    place = place_15
    one = (await people(place.source))[0]
    applied = f"select right(full_name, 1) = '!' from store.user_account where id = {one}"
    await wait_for_nobody(place.source)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with (
            open_live(carrier, 1),
            open_transaction(place.source, "set local synchronous_commit = on", TOUCH.format(one)) as writer,
        ):
            row = await (await writer.execute("select pg_current_wal_insert_lsn()::text")).fetchone()
            assert row is not None
            beyond = f"select confirmed_flush_lsn > '{row[0]}' from ({MOVE_SLOT}) as s"
            async with commits_hang(place.source):
                hanging = asyncio.create_task(writer.commit())
                await until(lambda: scalar(place.target, applied))
                await asyncio.sleep(3.0)
                assert not hanging.done()
                assert await scalar(place.source, beyond) is False
            await hanging
            await until(lambda: scalar(place.source, beyond))


async def test_a_stream_that_is_opened_again_acknowledges_nothing_before_it_has_read_so_far(
    place_15: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A former one has applied what is not visible yet; this one does not know, and waits for the server to begin."""
    monkeypatch.setattr(catchup, "ACKNOWLEDGE_SECONDS", 0.1)
    place = place_15
    one = (await people(place.source))[0]
    applied = f"select right(full_name, 1) = '!' from store.user_account where id = {one}"
    await wait_for_nobody(place.source)

    async def nothing_yet(*_: object) -> list[bytes]:
        await asyncio.sleep(0.05)
        return []

    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_transaction(place.source, "set local synchronous_commit = on", TOUCH.format(one)) as writer:
            row = await (await writer.execute("select pg_current_wal_insert_lsn()::text")).fetchone()
            assert row is not None
            beyond = f"select confirmed_flush_lsn > '{row[0]}' from ({MOVE_SLOT}) as s"
            async with commits_hang(place.source):
                async with open_live(carrier, 1):
                    hanging = asyncio.create_task(writer.commit())
                    await until(lambda: scalar(place.target, applied))
                with monkeypatch.context() as slow:
                    slow.setattr(Reader, "read", nothing_yet)
                    async with open_live(carrier, 1):
                        await asyncio.sleep(2.0)
                assert not hanging.done()
                assert await scalar(place.source, beyond) is False
            await hanging
            async with open_live(carrier, 1):
                await until(lambda: scalar(place.source, beyond))


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_stream_that_is_opened_anew_compares_what_somebody_else_applied_when_it_is_visible(
    place_15: Place, way: str
) -> None:
    """It is at the destination, and the mover that applied it is no more: nothing notes it as touched."""
    place, back = place_15, way == "back"
    one = (await people(place.source))[0]
    applied = f"select right(full_name, 1) = '!' from store.user_account where id = {one}"
    for conninfo in (place.source, place.target):
        await wait_for_nobody(conninfo)
    async with begun(place) as carrier:
        await through(carrier, PREPARE, COPY)
        origin, destination = place.source, place.target
        if back:
            await through(carrier, CATCHUP)
            carrier, origin, destination = carrier.reversed(), destination, origin
            async with carrier.sites() as sites:
                await rollback.begin_stream(carrier, *sites, 1)
        async with open_transaction(origin, "set local synchronous_commit = on", TOUCH.format(one)) as writer:
            async with commits_hang(origin):
                hanging = asyncio.create_task(writer.commit())
                async with open_live(carrier, 1, soaking=back):
                    await until(lambda: scalar(destination, applied))
                async with open_live(carrier, 1, soaking=back) as live:
                    verdict = asyncio.create_task(live_verify.whole(live))
                    await asyncio.wait([verdict], timeout=2.0)
                    assert not verdict.done()
                    assert not hanging.done()
                    await execute(origin, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
                    assert (await verdict).clean
            await hanging
