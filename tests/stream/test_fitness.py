"""What a change stream needs of tables, roles and servers: told before anything is made."""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo
import pytest
from tests.stream.orders import MOVE, ORDERS, Conn, left_behind, rows

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.postgres.site_probe import Weight
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from domicile.stream import fitness, slot
from domicile.stream.reader import open_reader

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
