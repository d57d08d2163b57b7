"""What speaks against a move is found before it begins, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import re

import pytest
from tests.planner.planning import LINE, NOTE, Shop, ask, check, run, shop_map

from domicile.model.datamap import DataMap, OwnerStep, Role, TableRule
from domicile.model.errors import ErrorCode
from domicile.model.ids import Ids
from domicile.model.plan import SignUps, WayBack
from domicile.model.schema import TableName
from domicile.planner import checks_rows
from domicile.planner.numbering import Place, look
from domicile.postgres.failures import told


async def test_nothing_speaks_against_it(still_shop: Shop) -> None:
    plan = await still_shop.plan()
    assert [c.name for c in plan.checks if not c.passed] == ["ids apart"], "both sites begin at 1, as they come"
    assert "entirely" in check(plan, "reversible until a wave's handover").detail


@pytest.mark.parametrize(
    ("way_back", "said"),
    [
        (WayBack.STREAM, "crosses back to beijing all the while"),
        (WayBack.HOLD, "none of it crosses back to beijing unless the rollback is ordered"),
        (WayBack.NONE, "there is no rollback"),
    ],
)
async def test_the_plan_says_what_the_way_back_is(still_shop: Shop, way_back: WayBack, said: str) -> None:
    assert said in check(await still_shop.plan(way_back=way_back), "reversible until the purge").detail


async def test_the_plan_says_what_happens_to_sign_ups(still_shop: Shop) -> None:
    refused = await still_shop.plan()
    assert "refused at beijing with DM001 and begins at singapore" in check(refused, "sign-ups").detail
    accepted = await still_shop.plan(sign_ups=SignUps.ACCEPT)
    assert "swept" in check(accepted, "sign-ups").detail
    named = await still_shop.plan(where="", subjects=["u0001"], subjects_file="who.txt")
    assert "nobody is refused" in check(named, "sign-ups").detail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('alter table "Shop".line add extra text', 'Shop".line: extra column extra at the target'),
        ('alter table "Shop".line drop what', "column what is missing at the target"),
        ('alter table "Shop".line alter what type varchar(9)', "type text at the source, character varying(9) at"),
        ('alter table "Shop".line alter what set not null', "column what: not null only at the target"),
        ('alter table "Shop".line alter what type text collate "C"', "collation default at the source, C at the"),
        ('alter table "Shop".line drop constraint line_pkey', "primary key (order, no) at the source, none at"),
        ('alter table "Shop"."order" drop constraint order_total_key', "unique key (total) is missing"),
        ('create unique index on "Shop".line (what) where no > 5', "extra unique key btree (what) WHERE (no > 5)"),
        ('alter table "Shop".line drop constraint line_order_fkey', "foreign key (order) to"),
        ('alter table "Shop"."order" alter id drop identity', "column id: filled by a sequence only at the source"),
        ("alter type \"Shop\".state rename value 'paid' to 'settled'", "enum Shop.state has no label 'paid'"),
        ('drop table "Shop".note', 'Shop".note does not exist at singapore'),
    ],
)
async def test_schemas_that_differ(shop: Shop, change: str, said: str) -> None:
    run(shop.target, change)
    plan = await shop.plan()
    found = check(plan, "schemas equal")
    assert not found.passed
    assert said in found.detail
    assert found.code == ErrorCode.SCHEMAS_DIFFER
    assert found in plan.refusals
    same = await shop.plan(where="market = 'SG'")
    assert same.target_schema_digest == plan.target_schema_digest


async def test_another_column_order_is_fine(shop: Shop) -> None:
    run(
        shop.target,
        'drop table "Shop".note; create table "Shop".note (body text, "User Id" text, id integer primary key)',
    )
    found = check(await shop.plan(), "schemas equal")
    assert found.passed
    assert "another column order, which is fine" in found.detail


async def test_map_must_be_complete(shop: Shop) -> None:
    run(shop.source, 'create table "Shop".newcomer (id integer)')
    data_map = shop_map()
    rules = {**data_map.tables, NOTE: TableRule(NOTE, Role.UNDECIDED)}
    rules[TableName("Shop", "gone")] = TableRule(TableName("Shop", "gone"), Role.LOCAL)
    plan = await shop.plan(data_map=replace(data_map, tables=rules))
    found = check(plan, "map complete")
    assert not found.passed
    assert found.code == ErrorCode.MAP_INCOMPLETE
    assert found.detail == 'undecided: "Shop".note; not in the map: "Shop".newcomer'
    assert check(plan, "map matches the source").detail == 'not at beijing: "Shop".gone'


@pytest.mark.parametrize(
    ("table", "owner", "said"),
    [
        (LINE, '"ordre" -> "Shop"."order"(id)', '"Shop".line has no column ordre'),
        (LINE, '"order" -> "Shop"."order"(idd)', '"Shop".order has no column idd'),
        (NOTE, '"User Id" -> "Shop"."Usr"("User Id")', '"Shop"."Usr" is on an owner path but not in the data map'),
    ],
)
async def test_a_wrong_path(still_shop: Shop, table: TableName, owner: str, said: str) -> None:
    data_map = shop_map()
    rules = {**data_map.tables, table: TableRule(table, Role.OWNED, OwnerStep.parse(owner))}
    error = await still_shop.refusal(data_map=replace(data_map, tables=rules))
    assert error.code is ErrorCode.MAP_INVALID
    assert said in error.message


async def test_a_wrong_subject(still_shop: Shop) -> None:
    data_map = shop_map()
    for subject in (
        replace(data_map.subject, key="nokey"),
        replace(data_map.subject, table=TableName("Shop", "Nobody")),
        replace(data_map.subject, key="country"),
    ):
        error = await still_shop.refusal(data_map=replace(data_map, subject=subject))
        assert error.code is ErrorCode.MAP_INVALID
    assert "country is no unique key" in error.message


async def test_a_path_between_different_types(shop: Shop) -> None:
    data_map = shop_map()
    rules = {**data_map.tables, NOTE: TableRule(NOTE, Role.OWNED, OwnerStep.parse('id -> "Shop"."User"("User Id")'))}
    error = await shop.refusal(data_map=replace(data_map, tables=rules))
    assert error.code is ErrorCode.MAP_INVALID
    assert "text = integer" in error.message


async def test_kinds_that_cannot_move(shop: Shop) -> None:
    run(
        shop.source, 'alter table "Shop".note set unlogged; select lo_create(0); create materialized view m as select 1'
    )
    plan = await shop.plan()
    assert check(plan, "kinds of tables").detail == '"Shop".note is unlogged: its rows do not survive a crash'
    assert not check(plan, "kinds of tables").passed
    assert "public.m" in check(plan, "data beside the tables").detail
    assert "1 large objects" in check(plan, "data beside the tables").detail


@pytest.mark.parametrize("at", ["beijing", "singapore"])
async def test_a_table_that_another_inherits_from_cannot_move(shop: Shop, at: str) -> None:
    """Queries of the parent see the child's rows: they would be copied without their own columns, and purged."""
    heir = TableName("Shop", "heir")
    run(
        shop.source if at == "beijing" else shop.target,
        """create table "Shop".heir (more text) inherits ("Shop".note);
        insert into "Shop".heir values (1, 'u0001', 'x', 'lost')""",
    )
    data_map = shop_map()
    rules = {**data_map.tables} | ({heir: TableRule(heir, Role.LOCAL)} if at == "beijing" else {})
    plan = await shop.plan(data_map=replace(data_map, tables=rules))
    assert check(plan, "map complete").passed
    found = check(plan, "kinds of tables")
    assert f'"Shop".note is inherited by "Shop".heir at {at}, whose rows would move' in found.detail
    assert "no inherit" in found.hint
    assert found in plan.refusals


async def test_triggers_and_keys(shop: Shop) -> None:
    run(
        shop.target,
        """create function mail() returns trigger language plpgsql as 'begin return new; end';
        create trigger mail after insert on "Shop".note for each row execute function mail();
        alter table "Shop".note enable always trigger mail""",
    )
    for site in (shop.source, shop.target):
        run(site, 'alter table "Shop".line drop constraint line_pkey')
    plan = await shop.plan()
    assert 'mail on "Shop".note at singapore' in check(plan, "triggers").detail
    assert check(plan, "triggers") in plan.refusals
    assert '"Shop".line' in check(plan, "primary keys").detail
    assert check(plan, "primary keys") not in plan.refusals


async def test_owners(shop: Shop) -> None:
    tag, cohort = TableName("Shop", "tag"), "\"User Id\" in ('u0001', 'u0004')"
    for site in (shop.source, shop.target):
        run(site, 'create table "Shop".tag (code text primary key); alter table "Shop".note add tag text')
    run(
        shop.source,
        """insert into "Shop".tag values ('one'), ('both'), ('none'), ('theirs');
        insert into "Shop".note values (1, 'u0001', 'x', 'one'), (2, 'u0001', 'x', 'both'), (3, 'u0002', 'x', 'both'),
            (4, 'u0002', 'x', 'theirs'), (5, 'u0003', 'x', 'theirs'), (6, null, 'x', null), (7, 'u0001', 'x', 'one')""",
    )
    data_map = shop_map()
    rules = {**data_map.tables, tag: TableRule(tag, Role.OWNED, OwnerStep.parse('code <- "Shop".note(tag)'))}
    plan = await shop.plan(where=cohort, data_map=replace(data_map, tables=rules))
    assert {t.table.name: t.rows for t in plan.tables if t.table in (tag, NOTE)} == {"tag": 2, "note": 3}
    assert '1 of "Shop".tag' in check(plan, "one owner per row").detail
    assert not check(plan, "one owner per row").passed
    assert check(plan, "rows without an owner").detail == 'they stay at beijing: 1 of "Shop".note, 1 of "Shop".tag'


async def test_a_foreign_key_that_nobody_has_validated_does_not_show_an_owner(shop: Shop) -> None:
    name = "rows without an owner"
    assert check(await shop.plan(), name).detail == "none"
    run(
        shop.source,
        """alter table "Shop".line drop constraint line_order_fkey;
        insert into "Shop".line values (987654, 1, 'of nobody');
        alter table "Shop".line add constraint line_order_fkey foreign key ("order") references "Shop"."order" not valid
        """,
    )
    plan = await shop.plan()
    assert check(plan, "schemas equal").passed
    assert check(plan, name).detail == 'they stay at beijing: 1 of "Shop".line'


async def test_a_foreign_key_of_some_partitions_does_not_show_an_owner(shop: Shop) -> None:
    visit, data_map = TableName("Shop", "visit"), shop_map()
    for site in (shop.source, shop.target):
        run(
            site,
            """create table "Shop".visit (id bigint, "User Id" text not null, year integer) partition by range (year);
            create table "Shop".v1 partition of "Shop".visit for values from (1) to (2000);
            create table "Shop".v2 partition of "Shop".visit for values from (2000) to (3000);
            alter table "Shop".v1 add foreign key ("User Id") references "Shop"."User" """,
        )
    run(shop.source, "insert into \"Shop\".visit values (1, 'u0001', 5), (2, 'nobody', 2005), (3, 'nobody', 2006)")
    owner = OwnerStep.parse('"User Id" -> "Shop"."User"("User Id")')
    rules = {**data_map.tables, visit: TableRule(visit, Role.OWNED, owner)}
    plan = await shop.plan(data_map=replace(data_map, tables=rules))
    assert check(plan, "rows without an owner").detail == 'they stay at beijing: 2 of "Shop".visit'
    run(shop.source, 'delete from "Shop".visit where id > 1')
    for site in (shop.source, shop.target):
        run(site, 'alter table "Shop".v2 add foreign key ("User Id") references "Shop"."User"')
    plan = await shop.plan(data_map=replace(data_map, tables=rules))
    assert check(plan, "rows without an owner").detail == "none", "every partition has the key"


async def test_keys_that_are_taken(shop: Shop) -> None:
    run(
        shop.target,
        """insert into "Shop"."User" values ('u0001', 'IN'), ('other', 'SG');
        insert into "Shop"."order" values (90001, 'other', 'basic', 1), (3, 'other', 'basic', 90002);
        insert into "Shop".note values (5, 'u0001', 'left behind')""",
    )
    plan = await shop.plan(where="true")
    found = check(plan, "keys free at the target")
    assert not found.passed
    assert found.code == ErrorCode.KEYS_COLLIDE
    assert '1 of "Shop"."User" under User_pkey are taken' in found.detail
    assert '1 of "Shop".order under order_pkey are taken, for example (3)' in found.detail
    assert '1 of "Shop".order under order_total_key are taken, for example (90001)' in found.detail
    assert '1 of "Shop".note belong to the cohort already' in found.detail
    assert "u0001" not in found.detail
    assert found.detail.endswith("; 5 keys asked")


async def test_ordinary_role(shop: Shop) -> None:
    run(
        shop.source,
        """drop role if exists "the mover"; create role "the mover" login password 'secret';
        alter table "Shop"."order" enable row level security;
        grant usage on schema "Shop" to "the mover"; grant select on all tables in schema "Shop" to "the mover" """,
    )
    mover = shop.source.replace("user=postgres", "user='the mover'")
    mover = re.sub(r"password=\S+", "password=secret", mover)
    try:
        error = await shop.refusal(source_conninfo=mover)
        assert error.code is ErrorCode.RIGHT_MISSING, error.message
        assert "row-level security" in error.message
        run(shop.source, 'alter table "Shop"."order" disable row level security')
        run(shop.source, 'alter table "Shop".plan_kind enable row level security')  # which stays
        plan = await shop.plan(source_conninfo=mover)
        assert '"Shop".plan_kind is not readable at beijing' in check(plan, "reference tables").detail
        found = check(plan, "rights at beijing")
        assert not found.passed
        assert found.code == ErrorCode.RIGHT_MISSING
        assert 'grant set on parameter session_replication_role to "the mover";' in found.hint
        assert "grant create on database" in found.hint
        assert 'grant "postgres" to "the mover";' in found.hint
        run(shop.source, 'revoke select on "Shop"."User" from "the mover"')
        assert (await shop.refusal(source_conninfo=mover)).code is ErrorCode.RIGHT_MISSING
    finally:
        run(shop.source, 'drop owned by "the mover"; drop role "the mover"')


async def test_sites_that_cannot_be_used(still_shop: Shop) -> None:
    unreachable = await still_shop.refusal(target_conninfo="host=127.0.0.1 port=1 dbname=x user=x")
    assert unreachable.code is ErrorCode.SITE_UNREACHABLE
    same = await still_shop.refusal(target_conninfo=still_shop.source)
    assert same.code is ErrorCode.CONFIG_INVALID
    assert "the same database" in same.message


async def test_sequences_are_named(shop: Shop) -> None:
    run(shop.target, 'alter table "Shop"."order" alter id set cache 50')
    found = check(await shop.plan(), "sequences")
    assert 'to be advanced at singapore beyond what arrives: "Shop".order.id' in found.detail
    assert "CACHE > 1" in found.detail
    assert not found.blocking


async def test_ids_of_both_sites(shop: Shop) -> None:
    """Sites that number in one range: told with the key's name and the way until they meet, and not refused."""
    run(
        shop.target,
        """insert into "Shop"."User" values ('other', 'SG');
        insert into "Shop"."order" values (90001, 'other', 'basic', 90001)""",
    )
    plan = await shop.plan()
    found = check(plan, "ids apart")
    assert not found.passed
    assert not found.blocking
    said = re.search(r'"Shop".order.id, ([0-9,]+) values ahead', found.detail)
    assert said, found.detail
    assert "later moves will collide" in found.detail
    [(last,)] = ask(shop.source, 'select max(id) from "Shop"."order"')
    assert int(said[1].replace(",", "")) == 0, "the target's sequence begins among the source's rows"
    assert "domicile ids shop --plan ranges" in found.hint
    run(shop.target, f'alter table "Shop"."order" alter id set start {10**12} set minvalue {10**12} restart')
    run(shop.source, f"""select setval('"Shop".order_id_seq', {last})""")
    run(shop.source, f'alter table "Shop"."order" alter id set maxvalue {10**12 - 1}')
    apart = check(await shop.plan(), "ids apart")
    assert not apart.passed
    assert f"{90001 - last - 1:,} values ahead" in apart.detail, "a row of the other site lies ahead"
    run(shop.source, """select setval('"Shop".order_id_seq', 90001)""")
    assert check(await shop.plan(), "ids apart").detail == "1 numberings do not meet"
    run(shop.source, """select setval('"Shop".order_id_seq', 1)""")
    behind = check(await shop.plan(), "ids apart").detail
    assert 'a site comes to ids of its own rows, so that inserts will fail: "Shop".order.id at beijing' in behind


async def test_ids_that_take_long_to_look_at(still_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that no index begins with is read whole: the plan does not wait for it, and goes on."""

    async def slow(places: Sequence[Place], data_map: DataMap) -> Ids:
        with told(places[0].site, "values"):
            await places[0].conn.execute("select pg_sleep(20)")
        return await look(places, data_map)

    monkeypatch.setattr(checks_rows, "IDS_TIMEOUT_MS", 50)
    monkeypatch.setattr(checks_rows, "look", slow)
    plan = await still_shop.plan()
    found = check(plan, "ids apart")
    assert "not looked at: no answer within 0.05 s" in found.detail
    assert "domicile ids shop" in found.hint
    assert plan.checks[-1] != found, "what comes after it was looked at"


async def test_partitions(shop: Shop) -> None:
    for site in (shop.source, shop.target):
        run(
            site,
            """create table "Shop".visit (id bigint, "User Id" text references "Shop"."User", year integer)
            partition by range (year);
            create table "Shop".v1 partition of "Shop".visit for values from (1) to (2000)""",
        )
    run(shop.source, 'create table "Shop".v2 partition of "Shop".visit for values from (2000) to (3000)')
    run(shop.source, "insert into \"Shop\".visit values (1, 'u0001', 5), (2, 'u0001', 2005), (3, 'u0002', 5)")
    visit, data_map = TableName("Shop", "visit"), shop_map()
    owner = OwnerStep.parse('"User Id" -> "Shop"."User"("User Id")')
    plan = await shop.plan(
        data_map=replace(data_map, tables={**data_map.tables, visit: TableRule(visit, Role.OWNED, owner)})
    )
    assert [t.rows for t in plan.tables if t.table == visit] == [2]
    found = check(plan, "partitions")
    assert not found.passed
    assert "FOR VALUES FROM (2000) TO (3000)" in found.detail
