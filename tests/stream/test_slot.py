"""Publication and slot: made in the right order or not at all, dropped whoever reads, never harmful to writers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
import time
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo
import pytest
from tests.conftest import create_database, drop_database
from tests.stream.orders import ITEMS, MOVE, ORDERS, SCHEMA, Conn, left_behind, rows

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.sites.embedded import EmbeddedCluster
from domicile.stream import fitness, slot
from domicile.stream.reader import open_reader


def test_names_are_what_a_slot_may_have_and_tell_moves_apart() -> None:
    long = "m" * 80
    ids = ["a-b", "a_b", "A-b", "", "Ümläut 日本", long, long + "x"]
    names = {slot.stream_name(i, d) for i in ids for d in ("one", "two")}
    assert len(names) == 2 * len(ids)
    for name in names:
        assert len(name) <= 63
        assert name.isascii()
        assert name.replace("_", "").isalnum()
        assert name == name.lower()


async def test_made_once_and_dropped_once(conn: Conn) -> None:
    assert await slot.inspect(conn, MOVE) is None
    await slot.create(conn, MOVE, [ORDERS, ITEMS], seconds_max=5)
    made = await slot.inspect(conn, MOVE)
    assert made is not None
    assert not made.lost
    assert made.active_pid is None
    assert made.confirmed > 0
    seal = await slot.seal(conn, MOVE)
    await slot.create(conn, MOVE, [ITEMS, ORDERS], seconds_max=5)
    again = await slot.inspect(conn, MOVE)
    assert again is not None
    assert again.confirmed == made.confirmed
    assert await slot.seal(conn, MOVE) == seal
    published = await rows(conn, "select tablename from pg_publication_tables order by 1")
    assert {r[0] for r in published} == {ORDERS.name, ITEMS.name}
    kinds = "select pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot from pg_publication"
    assert await rows(conn, kinds) == [(True,) * 5]
    await slot.drop(conn, MOVE)
    await slot.drop(conn, MOVE)
    assert await left_behind(conn) == []
    assert await slot.seal(conn, MOVE) == ""


async def test_two_moves_and_two_databases_of_one_server_do_not_meet(conn: Conn, any_cluster: EmbeddedCluster) -> None:
    other = await create_database(any_cluster, "stream")
    try:
        async with await AsyncConnection.connect(any_cluster.conninfo(other), autocommit=True) as there:
            await there.execute(SCHEMA)
            await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
            await slot.create(conn, MOVE + "b", [ORDERS, ITEMS], seconds_max=5)
            await slot.create(there, MOVE, [ORDERS], seconds_max=5)
            await slot.drop(conn, MOVE)
            assert await slot.inspect(conn, MOVE) is None
            assert await slot.inspect(conn, MOVE + "b") is not None
            assert await slot.inspect(there, MOVE) is not None
    finally:
        await drop_database(any_cluster, other)


async def test_the_bytes_it_keeps_are_told(conn: Conn) -> None:
    await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
    before = await slot.inspect(conn, MOVE)
    await conn.execute("insert into orders select i, i, repeat('x', 500) from generate_series(1, 2000) i")
    after = await slot.inspect(conn, MOVE)
    assert before is not None
    assert after is not None
    assert after.wal_bytes_kept > before.wal_bytes_kept + 1_000_000


async def test_a_writer_older_than_the_publication_is_waited_for(conn: Conn, any_database: str) -> None:
    """It wrote before the publication and commits after the slot was asked for: it is in the copy. Its second row would
    be in the stream and its first would not, had the slot begun before it ended."""
    async with await AsyncConnection.connect(any_database) as writer:
        await writer.execute("insert into orders values (1, 1, 'early')")
        creating = asyncio.create_task(slot.create(conn, MOVE, [ORDERS], seconds_max=20))
        async with await AsyncConnection.connect(any_database, autocommit=True) as look:
            while not await rows(look, "select from pg_publication"):
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            assert not creating.done()
            await writer.execute("insert into orders values (2, 2, 'late')")
            await writer.commit()
            await creating
            [[copied]] = await rows(look, "select count(*) from orders")
            assert copied == 2
            await look.execute("insert into orders values (3, 3, 'after')")
            name = slot.stream_name(MOVE, conn.info.dbname)
            streamed = await rows(
                look,
                "select 1 from pg_logical_slot_peek_binary_changes(%s, null, null,"
                " 'proto_version', '1', 'publication_names', %s) where get_byte(data, 0) = ascii('I')",
                name,
                name,
            )
            assert len(streamed) == 1


@pytest.mark.parametrize("prepared", [False, True])
async def test_past_its_limit_it_names_the_blocker_and_leaves_nothing(
    conn: Conn, any_database: str, prepared: bool
) -> None:
    async with await AsyncConnection.connect(make_conninfo(any_database, application_name="shop")) as writer:
        await writer.execute("insert into outside values (4711)")  # any table, any database of the server
        if prepared:
            await writer.execute("prepare transaction 'of the shop'")
        pid = writer.info.backend_pid
        started = time.monotonic()
        with pytest.raises(DomicileError) as caught:
            await slot.create(conn, MOVE, [ORDERS], seconds_max=0.5)
        assert time.monotonic() - started < 3
        assert caught.value.code is ErrorCode.STREAM_BLOCKED
        named = [b["pid"] for b in caught.value.facts["blockers"]]  # type: ignore[attr-defined]  # facts are plain JSON
        assert (None if prepared else pid) in named
        assert caught.value.facts["prepared"] == (1 if prepared else 0)
        assert "4711" not in str(caught.value.as_dict())
        assert await left_behind(conn) == []
        if prepared:
            await conn.execute("rollback prepared 'of the shop'")
        else:
            await writer.rollback()
        await slot.create(conn, MOVE, [ORDERS], seconds_max=5)


async def test_a_lock_on_a_table_is_waited_for_within_the_limit_and_holds_up_no_writer(
    conn: Conn, any_database: str
) -> None:
    async with await AsyncConnection.connect(any_database) as vacuum:
        await vacuum.execute("lock table orders in share update exclusive mode")
        creating = asyncio.create_task(slot.create(conn, MOVE, [ORDERS], seconds_max=1))
        await asyncio.sleep(0.2)
        async with await AsyncConnection.connect(any_database, autocommit=True) as writer:
            started = time.monotonic()
            await writer.execute("insert into orders values (1, 1, '')")
            await writer.execute("update orders set note = 'n'")
            assert time.monotonic() - started < 0.5
        assert not creating.done()
        with pytest.raises(DomicileError) as caught:
            await creating
        assert caught.value.code is ErrorCode.STREAM_BLOCKED
        named = [b["pid"] for b in caught.value.facts["blockers"]]  # type: ignore[attr-defined]  # facts are plain JSON
        assert named == [vacuum.info.backend_pid]
    assert await left_behind(conn) == []


async def test_cancelled_while_it_waits_it_leaves_nothing(conn: Conn, any_database: str) -> None:
    async with await AsyncConnection.connect(any_database) as writer:
        await writer.execute("insert into orders values (1, 1, '')")
        creating = asyncio.create_task(slot.create(conn, MOVE, [ORDERS], seconds_max=20))
        await asyncio.sleep(0.3)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert await left_behind(conn) == []


async def test_what_a_dead_mover_left_half_made_is_made_anew(conn: Conn, any_database: str) -> None:
    """Its session waits on at the server, with a slot that is no slot yet."""
    async with await AsyncConnection.connect(any_database) as writer:
        await writer.execute("insert into orders values (1, 1, '')")
        async with await AsyncConnection.connect(any_database, autocommit=True) as dead:
            left = asyncio.create_task(slot.create(dead, MOVE, [ORDERS], seconds_max=60))
            while not await rows(conn, "select from pg_replication_slots where database = current_database()"):
                await asyncio.sleep(0.02)
            assert await slot.inspect(conn, MOVE) is None
            with pytest.raises(DomicileError) as caught:  # ends the dead session; the writer is still in the way
                await slot.create(conn, MOVE, [ORDERS], seconds_max=1)
            assert caught.value.code is ErrorCode.STREAM_BLOCKED
            with pytest.raises(DomicileError):
                await left
            await writer.commit()
            await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
    assert await slot.inspect(conn, MOVE) is not None


@pytest.mark.parametrize("maker_dies", [False, True])
async def test_no_wave_begins_before_everybody_sees_what_the_slot_passes_by(
    any_database: str, maker_dies: bool
) -> None:
    """A commit stands in the log before the slot begins, and waits for a standby: nobody sees it yet, and the slot does
    not deliver it."""
    async with AsyncExitStack() as stack:
        ours = make_conninfo(any_database, options="-c synchronous_commit=local")
        admin, before, behind, late, making, again = [
            await stack.enter_async_context(await AsyncConnection.connect(ours, autocommit=True)) for _ in range(6)
        ]
        await admin.execute("create table t (id int primary key)")
        await admin.execute("alter system set synchronous_standby_names = 'nobody'")
        await admin.execute("alter system set synchronous_commit = 'local'")  # of everybody else
        await admin.execute("select pg_reload_conf()")
        try:
            await before.execute("begin; insert into t values (1)")
            made = asyncio.create_task(slot.create(making, MOVE, [TableName("public", "t")], seconds_max=20))
            await _until(admin, "select count(*) from pg_replication_slots where slot_name ~ 'domicile'")
            await asyncio.sleep(0.5)
            await behind.execute("begin; insert into t values (2)")
            await before.execute("commit")
            await asyncio.sleep(0.5)
            await late.execute("set synchronous_commit = on")
            committing = asyncio.create_task(late.execute("insert into t values (3)"))
            await _until(admin, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
            await behind.execute("commit")
            name = slot.stream_name(MOVE, admin.info.dbname)
            confirmed = "select count(*) from pg_replication_slots where confirmed_flush_lsn is not null"
            await _until(admin, f"{confirmed} and slot_name = '{name}'")
            await asyncio.sleep(0.5)
            assert not made.done(), "the slot is said to be made, and its first snapshot does not see 3"
            if maker_dies:
                made.cancel()
                await asyncio.wait([made])
                await making.close()
                made = asyncio.create_task(slot.create(again, MOVE, [TableName("public", "t")], seconds_max=20))
                await asyncio.sleep(0.5)
                assert not made.done(), "what its dead maker had not waited for, the next does not either"
            await admin.execute("select pg_cancel_backend(%s)", (late.info.backend_pid,))
            await asyncio.gather(committing, return_exceptions=True)
            await made
            assert await slot.inspect(admin, MOVE) is not None
        finally:
            await admin.execute("alter system reset synchronous_standby_names")
            await admin.execute("alter system reset synchronous_commit")
            await admin.execute("select pg_reload_conf()")
        await slot.drop(admin, MOVE)


async def _until(conn: Conn, question: str) -> None:
    deadline = time.monotonic() + 10
    while not (row := await (await conn.execute(question.encode())).fetchone()) or not row[0]:
        assert time.monotonic() < deadline, question
        await asyncio.sleep(0.02)


async def test_after_a_crash_between_the_two_the_slot_follows(conn: Conn) -> None:
    await slot.create(conn, MOVE, [ORDERS, ITEMS], seconds_max=5)
    name = slot.stream_name(MOVE, conn.info.dbname)
    await conn.execute("select pg_drop_replication_slot(%s)", (name,))
    await slot.create(conn, MOVE, [ORDERS], seconds_max=5)  # and a publication of other tables is no obstacle
    assert await slot.inspect(conn, MOVE) is not None
    assert await rows(conn, "select tablename from pg_publication_tables") == [(ORDERS.name,)]


async def test_a_slot_is_not_given_other_tables_or_a_second_publication(conn: Conn) -> None:
    await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
    with pytest.raises(DomicileError) as caught:
        await slot.create(conn, MOVE, [ORDERS, ITEMS], seconds_max=5)
    assert caught.value.code is ErrorCode.SCHEMA_CHANGED
    name = slot.stream_name(MOVE, conn.info.dbname)
    await conn.execute(sql.SQL("drop publication {}").format(sql.Identifier(name)))
    with pytest.raises(DomicileError) as caught:
        await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
    assert caught.value.code is ErrorCode.STREAM_LOST
    await slot.drop(conn, MOVE)
    await slot.create(conn, MOVE, [ORDERS], seconds_max=5)


@pytest.mark.parametrize(
    "change",
    [
        "alter publication {} drop table only orders",
        "alter publication {} set (publish = 'insert')",
        "alter publication {0} drop table only orders; alter publication {0} add table orders",
        "alter publication {} set table orders where (id > 5)",
        "drop publication {}",
    ],
)
async def test_whoever_alters_the_publication_breaks_its_seal(conn: Conn, change: str) -> None:
    await slot.create(conn, MOVE, [ORDERS, ITEMS], seconds_max=5)
    seal = await slot.seal(conn, MOVE)
    await conn.execute("vacuum freeze pg_publication, pg_publication_rel")
    assert await slot.seal(conn, MOVE) == seal
    name = sql.Identifier(slot.stream_name(MOVE, conn.info.dbname))
    await conn.execute(sql.SQL(change).format(name))
    assert await slot.seal(conn, MOVE) != seal


async def test_a_reader_that_is_gone_gives_the_slot_back_one_that_stays_is_ended(conn: Conn, any_database: str) -> None:
    await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
    name = slot.stream_name(MOVE, conn.info.dbname)
    async with open_reader(any_database, name, name, 0, binary=True) as reader:
        held = await slot.inspect(conn, MOVE)
        assert held is not None
        assert held.active_pid is not None
        bystander = await rows(conn, "select pg_backend_pid()")
        free = await slot.wait_free(conn, MOVE, seconds_max=0.2)
        assert free is not None
        assert free.active_pid is None
        with pytest.raises(DomicileError) as caught:
            await reader.read()
        assert caught.value.code is ErrorCode.SITE_UNREACHABLE
    assert await rows(conn, "select pg_backend_pid()") == bystander
    async with open_reader(any_database, name, name, 0, binary=True):
        await slot.drop(conn, MOVE, seconds_max=0.2)
    assert await left_behind(conn) == []


async def test_a_slot_whose_log_was_removed_is_lost(scratch: Any) -> None:
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    async with await EmbeddedCluster.create(scratch, "short", settings=settings) as cluster:
        async with await AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
            await conn.execute(SCHEMA)
            await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
            for _ in range(4):
                await conn.execute("insert into orders values (1, 1, ''); delete from orders")
                await conn.execute("select pg_switch_wal()")
            await conn.execute("checkpoint")
            facts = await slot.inspect(conn, MOVE)
            assert facts is not None
            assert facts.lost
            assert facts.reason
            name = slot.stream_name(MOVE, conn.info.dbname)
            with pytest.raises(DomicileError) as caught:
                async with open_reader(cluster.conninfo(), name, name, 0, binary=True) as reader:
                    await reader.read()
            assert caught.value.code is ErrorCode.STREAM_LOST
            await slot.drop(conn, MOVE)
            await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
    await cluster.destroy()


async def test_nothing_is_made_or_dropped_without_the_lease(conn: Conn, any_database: str) -> None:
    """The slot, its publication and its reader may be those of the process that took the move over."""

    async def taken_over() -> None:
        raise DomicileError(ErrorCode.LEASE_LOST, "another process carries the move")

    with pytest.raises(DomicileError) as caught:
        await slot.create(conn, MOVE, [ORDERS], seconds_max=5, lease=taken_over)
    assert caught.value.code is ErrorCode.LEASE_LOST
    assert await left_behind(conn) == []
    await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
    name = slot.stream_name(MOVE, conn.info.dbname)
    async with open_reader(any_database, name, name, 0, binary=True):
        with pytest.raises(DomicileError) as caught:
            await slot.drop(conn, MOVE, seconds_max=0.1, lease=taken_over)
        assert caught.value.code is ErrorCode.LEASE_LOST
        facts = await slot.inspect(conn, MOVE)
        assert facts is not None
        assert facts.active_pid is not None, "its reader goes on"
    with pytest.raises(DomicileError):
        await slot.drop(conn, MOVE, lease=taken_over)
    assert await left_behind(conn) == [(name,), (name,)]
    await slot.drop(conn, MOVE)
    assert await left_behind(conn) == []


async def test_a_new_timeline_is_another_identity(any_cluster: EmbeddedCluster, scratch: Any) -> None:
    """After a promotion positions and slots mean nothing any more, also of a slot that came along."""
    bindir = any_cluster.binaries.bindir
    cluster = await EmbeddedCluster.create(scratch, f"promoted-{any_cluster.name}", bindir=bindir)
    async with cluster:
        async with await AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
            before = await slot.site_identity(conn)
            await conn.execute("select pg_switch_wal()")
            assert await slot.site_identity(conn) == before
            await conn.execute(SCHEMA)
            await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
            made = await slot.inspect(conn, MOVE)
            assert made is not None
            assert not made.lost
            assert not await slot.replaced(conn, MOVE)
    (cluster.data / "standby.signal").touch()
    async with cluster:
        async with await AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
            with pytest.raises(DomicileError):
                await slot.site_identity(conn)
            assert any("standby" in k.what for k in await fitness.shortcomings(conn))
            standing_by = await slot.inspect(conn, MOVE)
            assert standing_by is not None, "a copy of all files has the slot, too"
            assert not standing_by.lost
            await conn.execute("select pg_promote()")
            after = await slot.site_identity(conn)
            found = await slot.inspect(conn, MOVE)
            assert found is not None
            assert found.lost
            assert "standby" in found.reason
            assert await slot.replaced(conn, MOVE)
            await slot.drop(conn, MOVE)
            await slot.create(conn, MOVE, [ORDERS], seconds_max=5)
            anew = await slot.inspect(conn, MOVE)
            assert anew is not None
            assert not anew.lost
            await conn.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
            await slot.create(conn, MOVE, [ORDERS], seconds_max=5)  # the publication of before is taken over
            assert not await slot.replaced(conn, MOVE)
    assert (before[-2:], after[-2:]) == ("/1", "/2")
    assert before[:-2] == after[:-2]
    await cluster.destroy()
