"""Publication and slot: made in the right order or not at all, dropped whoever reads, never harmful to writers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
import time
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo
import pytest
from tests.conftest import create_database, drop_database

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.postgres.site_probe import Weight
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from domicile.stream import fitness, slot
from domicile.stream.reader import open_reader

MOVE = "store-EU-2026.11"
ORDERS, ITEMS = TableName("public", "orders"), TableName("public", 'Odd "item" %s')
SCHEMA = """
create table orders (id bigint primary key, user_id bigint, note text);
create table "Odd ""item"" %s" (id bigint primary key, order_id bigint);
create table outside (id bigint primary key);
create table log (id bigint)"""

Conn = AsyncConnection[Any]


@pytest.fixture
async def conn(any_database: str) -> AsyncIterator[Conn]:
    async with await AsyncConnection.connect(any_database, autocommit=True) as connection:
        await connection.execute(SCHEMA)
        yield connection


async def rows(conn: Conn, query: str, *parameters: object) -> list[Any]:
    return await (await conn.execute(query.encode(), parameters or None)).fetchall()


async def left_behind(conn: Conn) -> list[Any]:
    """Slots of this database and publications."""
    return await rows(
        conn,
        "select slot_name from pg_replication_slots where database = current_database()"
        " union all select pubname from pg_publication",
    )


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


UNFIT = """
create table plain (id bigint);
create table nothing (id bigint primary key); alter table nothing replica identity nothing;
create table deferred (id bigint primary key deferrable);
create table by_index (id bigint not null unique, n int);
alter table by_index replica identity using index by_index_id_key;
create table index_gone (id bigint not null unique, n int);
alter table index_gone replica identity using index index_gone_id_key;
alter table index_gone drop constraint index_gone_id_key;
create table full_row (id bigint, n int); alter table full_row replica identity full;
create table computed (id bigint, n int generated always as (id + 1) stored);
alter table computed replica identity full;
create table computed_beside (id bigint primary key, n int generated always as (id + 1) stored);
create unlogged table forgetful (id bigint primary key);
create table part (id int, at int) partition by range (at);
create table part_1 partition of part (primary key (id)) for values from (0) to (10);
create table part_2 partition of part (primary key (id)) for values from (10) to (20);
create table half (id int, at int) partition by range (at);
create table half_1 partition of half (primary key (id)) for values from (0) to (10);
create table half_2 partition of half for values from (10) to (20) partition by range (id);
create table half_2a partition of half_2 for values from (0) to (10);
create table empty_part (id int) partition by range (id);
create table refreshed (id bigint primary key); create materialized view summed as select * from refreshed"""


async def test_tables_whose_updates_would_be_refused_are_found_and_only_they(conn: Conn) -> None:
    """Measured by publishing each and writing to it: what is fit must go on working, what is not must fail."""
    await conn.execute(UNFIT)
    names = [
        "plain", "nothing", "deferred", "by_index", "index_gone", "full_row", "computed", "computed_beside", "part",
        "half", "empty_part",
    ]  # fmt: skip
    tables = [TableName("public", n) for n in names]
    unfit = dict(await fitness.unfit(conn, tables))
    breaks = {"plain", "nothing", "deferred", "index_gone", "half"}
    if conn.info.server_version >= fitness.GENERATED_CHECKED_SINCE:
        breaks.add("computed")
    assert {t.name for t in unfit} == breaks
    assert "public.half_2a" in unfit[TableName("public", "half")]
    await conn.execute("insert into part values (1, 1), (2, 1), (3, 11); insert into half values (1, 11)")
    for table in tables:
        name = sql.Identifier(table.name)
        if table.name not in ("part", "half", "empty_part"):
            await conn.execute(sql.SQL("insert into {} (id) values (1)").format(name))
        await conn.execute(sql.SQL("create publication p for table only {}").format(name))
        try:
            for write in ("update {} set id = id + 100", "delete from {}"):
                if table in unfit:
                    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                        await conn.execute(sql.SQL(write).format(name))
                else:
                    await conn.execute(sql.SQL(write.replace("100", "7")).format(name))
        except psycopg.errors.InvalidColumnReference:  # 18: the identity holds a generated column
            assert table.name == "computed"
        finally:
            await conn.execute("drop publication p")


async def test_what_never_reaches_the_log_is_unfit(conn: Conn) -> None:
    await conn.execute(UNFIT)
    tables = [TableName("public", n) for n in ("forgetful", "summed", "absent", "orders")]
    found = dict(await fitness.unfit(conn, [*tables, TableName("none", "such")]))
    assert set(found) == {*tables[:3], TableName("none", "such")}
    assert "unlogged" in found[tables[0]]


async def test_rows_that_change_their_partition_go_on(conn: Conn) -> None:
    """Keys on the leaves only, published through the root: nothing an application does is refused."""
    await conn.execute(UNFIT)
    part = TableName("public", "part")
    assert await fitness.unfit(conn, [part]) == []
    await slot.create(conn, MOVE, [part], seconds_max=5)
    await conn.execute("insert into part values (1, 1), (2, 1), (3, 11)")
    await conn.execute("update part set at = at + 10 where id = 1")
    await conn.execute(
        "merge into part using (values (2), (9)) as v (id) on part.id = v.id"
        " when matched then update set at = 12 when not matched then insert values (v.id, 2)"
    )
    await conn.execute("delete from part_2 where id = 3")
    assert await rows(conn, "select id, at from part order by 1") == [(1, 11), (2, 12), (9, 2)]


async def test_a_missing_right_is_told(conn: Conn, any_database: str) -> None:
    role = f"mover_{conn.info.dbname}"
    await conn.execute(sql.SQL("create role {} login password 'x'").format(sql.Identifier(role)))
    try:
        weak = make_conninfo(any_database, user=role, password="x")
        async with await AsyncConnection.connect(weak, autocommit=True) as mover:
            lacks = await fitness.shortcomings(mover)
            assert {"alter role ... replication;", "grant create on database ... to ...;"} == {k.mend for k in lacks}
            assert {k.weight for k in lacks} == {Weight.BLOCKS}
            with pytest.raises(DomicileError) as caught:
                await slot.create(mover, MOVE, [ORDERS], seconds_max=5)
            assert caught.value.code is ErrorCode.RIGHT_MISSING
            with pytest.raises(DomicileError) as caught:
                async with open_reader(weak, "none", "none", 0, binary=True):
                    pass
            assert caught.value.code is ErrorCode.RIGHT_MISSING
            identity = await slot.site_identity(mover)
        assert await slot.site_identity(conn) == identity
        assert await fitness.shortcomings(conn) == []
    finally:
        await conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    assert await left_behind(conn) == []


async def test_settings_that_stand_in_the_way_are_told() -> None:
    wrong = {
        "wal_level": "replica",
        "max_replication_slots": "0",
        "max_wal_senders": "0",
        "synchronous_standby_names": "ANY 1 (*)",
        "synchronous_commit": "local",
        "max_slot_wal_keep_size": "64MB",
        "idle_replication_slot_timeout": "60s",
    }
    with scratch_directory("domicile-slot-") as scratch:
        async with await EmbeddedCluster.create(scratch, "wrong", settings=wrong) as cluster:
            async with await AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
                lacks = await fitness.shortcomings(conn)
    found = " ".join(k.what for k in lacks)
    for name in ("wal_level", "slots", "walsenders", "synchronous", "max_slot_wal_keep_size", "idle_replication"):
        assert name in found
    assert sum(k.weight is Weight.BLOCKS for k in lacks) == 4


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
