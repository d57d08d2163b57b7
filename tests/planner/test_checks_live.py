"""What only a live move needs is said in the plan, stops a live move, and leaves the cold one alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
import re

import psycopg
import pytest
from tests.conftest import create_database, drop_database
from tests.planner.planning import ROWS, SCHEMA, Shop, check, run, shop_map

from domicile.model.datamap import OwnerStep, Role, TableRule
from domicile.model.errors import ErrorCode
from domicile.model.plan import Limits, Mode, Plan, WayBack
from domicile.model.schema import TableName
from domicile.planner import plan_file
from domicile.sites.embedded import EmbeddedCluster

STREAM, TABLES, PREPARED = "change stream at beijing", "tables in the change stream", "forgotten prepared transactions"


def refuses_live_only(plan: Plan, name: str) -> None:
    """The check of that name, and nothing else, stops the live move; nothing stops the cold one."""
    assert [c.name for c in plan.refusals_of(Mode.LIVE)] == [name]
    assert plan.refusals_of(Mode.COLD) == ()
    assert plan.refusals == ()
    found = check(plan, name)
    assert found.mode is Mode.LIVE
    assert "domicile apply --cold" in found.hint
    assert plan_file.load(plan_file.dump(plan)) == plan


async def test_sites_that_fit_a_live_move(still_shop: Shop) -> None:
    plan = await still_shop.plan()
    assert plan.refusals_of(Mode.LIVE) == ()
    live = [c.name for c in plan.checks if c.mode is Mode.LIVE]
    assert live == [STREAM, "change stream at singapore", TABLES, PREPARED]
    alone = await still_shop.plan(way_back=WayBack.NONE)
    assert [c.name for c in alone.checks if c.mode is Mode.LIVE] == [STREAM, TABLES, PREPARED]


@pytest.fixture(scope="module")
async def plain_server(scratch: Path) -> AsyncIterator[EmbeddedCluster]:
    """A server as it comes: wal_level is replica."""
    settings = {"wal_level": "replica", "max_prepared_transactions": "4"}
    async with await EmbeddedCluster.create(scratch, "plain", settings=settings) as cluster:
        yield cluster


@pytest.fixture
async def plain(plain_server: EmbeddedCluster, shop: Shop) -> AsyncIterator[Shop]:
    """The shop, whose source is such a server."""
    name = await create_database(plain_server, "plain")
    run(plain_server.conninfo(name), SCHEMA)
    run(plain_server.conninfo(name), ROWS)
    yield replace(shop, source=plain_server.conninfo(name))
    await drop_database(plain_server, name)


async def test_a_server_that_cannot_give_a_stream(plain: Shop) -> None:
    plan = await plain.plan()
    refuses_live_only(plan, STREAM)
    found = check(plan, STREAM)
    assert found.detail == "wal_level is replica: no change stream"
    assert "alter system set wal_level = 'logical'; -- then restart the server" in found.hint
    assert found.code == ErrorCode.SETTING_WRONG

    with psycopg.connect(plain.source, autocommit=True) as other:
        other.execute("begin; create table public.t (); prepare transaction 'left behind'")
    try:
        assert check(await plain.plan(), PREPARED).passed, "it may end in a moment"
        old = await plain.plan(limits=Limits(fence_seconds_max=0.001))
        found = check(old, PREPARED)
        assert re.fullmatch(r"1 at beijing, the oldest for \d+ s", found.detail)
        assert found in old.refusals_of(Mode.LIVE)
        assert found not in old.refusals_of(Mode.COLD)
    finally:
        with psycopg.connect(plain.source, autocommit=True) as other:
            other.execute("rollback prepared 'left behind'")


async def test_the_way_back_needs_a_stream_at_the_target(shop: Shop, plain: Shop) -> None:
    """The same server as the target: it matters only where something may cross back."""
    run(plain.source, 'truncate "Shop"."User" cascade')
    turned = replace(shop, target=plain.source)
    refuses_live_only(await turned.plan(way_back=WayBack.HOLD), "change stream at singapore")
    refuses_live_only(await turned.plan(way_back=WayBack.STREAM), "change stream at singapore")
    assert (await turned.plan(way_back=WayBack.NONE)).refusals_of(Mode.LIVE) == ()


async def test_tables_whose_changes_cannot_be_told(shop: Shop) -> None:
    for site in (shop.source, shop.target):
        run(site, 'alter table "Shop".line drop constraint line_pkey')
    plan = await shop.plan()
    refuses_live_only(plan, TABLES)
    found = check(plan, TABLES).detail
    assert found.startswith('"Shop".line: "Shop".line has no usable replica identity: alter table "Shop".line add')
    assert found.count('"Shop".line:') == 1, "said once, of the source; the target has the same"
    run(shop.source, 'alter table "Shop".line replica identity full')
    only_back = await shop.plan()
    refuses_live_only(only_back, TABLES)
    assert '"Shop".line at singapore: ' in check(only_back, TABLES).detail
    assert "--way-back none" in check(only_back, TABLES).hint
    assert (await shop.plan(way_back=WayBack.NONE)).refusals_of(Mode.LIVE) == ()


async def test_owners_that_the_stream_cannot_follow(shop: Shop) -> None:
    tag = TableName("Shop", "tag")
    for site in (shop.source, shop.target):
        run(site, 'create table "Shop".tag (code text primary key); alter table "Shop".note add tag text')
    data_map = shop_map()
    rules = {**data_map.tables, tag: TableRule(tag, Role.OWNED, OwnerStep.parse('code <- "Shop".note(tag)'))}
    plan = await shop.plan(data_map=replace(data_map, tables=rules))
    refuses_live_only(plan, TABLES)
    assert "its owner is found against the arrow" in check(plan, TABLES).detail


async def test_an_ordinary_role(shop: Shop) -> None:
    run(
        shop.source,
        """drop role if exists "the reader"; create role "the reader" login password 'secret';
        grant usage on schema "Shop" to "the reader"; grant select on all tables in schema "Shop" to "the reader" """,
    )
    reader = re.sub(r"password=\S+", "password=secret", shop.source.replace("user=postgres", "user='the reader'"))
    try:
        found = check(await shop.plan(source_conninfo=reader), STREAM)
        assert not found.passed
        assert "no replication right" in found.detail
        assert 'alter role "the reader" replication;' in found.hint
        assert re.search(r'grant create on database "\w+" to "the reader";', found.hint)
    finally:
        run(shop.source, 'drop owned by "the reader"; drop role "the reader"')


async def test_a_warning_stops_nobody(shop: Shop) -> None:
    run(shop.source, "alter system set max_slot_wal_keep_size = '64GB'")
    try:
        run(shop.source, "select pg_reload_conf()")
        plan = await shop.plan()
        assert "max_slot_wal_keep_size is 65536 MB" in check(plan, STREAM).detail
        assert not check(plan, STREAM).passed
        assert plan.refusals_of(Mode.LIVE) == ()
    finally:
        run(shop.source, "alter system reset max_slot_wal_keep_size")
        run(shop.source, "select pg_reload_conf()")
