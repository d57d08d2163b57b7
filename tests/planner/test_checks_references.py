"""What moving rows refer to must be at the target when they arrive: with them, before them, or copied for them."""

from __future__ import annotations

from dataclasses import replace

from tests.planner.planning import KIND, Shop, check, run, shop_map

from domicile.model.datamap import Role, SharedPolicy, TableRule
from domicile.model.errors import ErrorCode
from domicile.model.plan import Limits
from domicile.model.schema import TableName


async def test_references(shop: Shop) -> None:
    for site in (shop.source, shop.target):
        run(site, 'alter table "Shop"."User" add friend text references "Shop"."User"')
        run(site, 'create table "Shop".desk (id integer primary key, "order" bigint references "Shop"."order")')
    run(
        shop.source,
        """update "Shop"."User" set friend = 'u0003' where "User Id" = 'u0001';
        insert into "Shop".plan_kind values ('rare');
        update "Shop"."order" set kind = 'rare' where "User Id" = 'u0001';
        insert into "Shop".desk select 1, min(id) from "Shop"."order" where "User Id" = 'u0001'""",
    )
    data_map, desk = shop_map(), TableName("Shop", "desk")
    rules = {**data_map.tables, desk: TableRule(desk, Role.LOCAL)}
    with_desk = replace(data_map, tables=rules)
    plan = await shop.plan(data_map=with_desk)
    found = check(plan, "references present at the target")
    assert found.code == ErrorCode.REFERENCE_MISSING
    assert '1 keys of "Shop"."User"(friend) -> "Shop"."User"("User Id") belong to subjects who stay' in found.detail
    assert '1 keys of "Shop".order(kind) -> "Shop".plan_kind(code), for example (rare)' in found.detail
    outside = check(plan, "references from outside")
    assert '1 of "Shop".desk(order) -> "Shop".order(id)' in outside.detail
    assert {found, outside} == set(plan.refusals)
    together = await shop.plan(data_map=with_desk, where="\"User Id\" in ('u0001', 'u0003')")
    assert "subjects who stay" not in check(together, "references present at the target").detail

    run(shop.target, "insert into \"Shop\".plan_kind values ('rare')")
    run(
        shop.source, 'update "Shop"."User" set friend = null; alter table "Shop".desk drop constraint "desk_order_fkey"'
    )
    loose = {**rules, desk: TableRule(desk, Role.LOCAL, references=('"order" -> "Shop"."order"(id)',))}
    plan = await shop.plan(data_map=replace(data_map, tables=loose))
    assert plan.refusals == ()
    assert "1 of" in check(plan, "loose references from outside").detail


async def test_references_between_waves(shop: Shop) -> None:
    """In one wave they arrive together; what refers to an earlier wave finds it there."""
    for site in (shop.source, shop.target):
        run(site, 'alter table "Shop"."User" add friend text references "Shop"."User"')
    both, name = "\"User Id\" in ('u0001', 'u0003')", "references between waves"
    run(shop.source, """update "Shop"."User" set friend = 'u0003' where "User Id" = 'u0001'""")
    apart = await shop.plan(where=both)
    assert [w.subjects for w in apart.waves] == [1, 1]
    found = check(apart, name)
    assert (found.passed, found.code) == (False, ErrorCode.REFERENCE_MISSING)
    assert '1 of "Shop"."User"(friend) -> "Shop"."User"("User Id")' in found.detail
    assert found in apart.refusals
    assert check(await shop.plan(where=both, limits=Limits(canary_subjects_max=0)), name).passed
    run(shop.source, """update "Shop"."User" set friend = case "User Id" when 'u0003' then 'u0001' end""")
    assert check(await shop.plan(where=both), name).passed


async def test_shared_tables(shop: Shop) -> None:
    data_map = shop_map()
    listed = TableRule(KIND, Role.SHARED, not_personal=("code",))
    for policy, passed in ((SharedPolicy.REFUSE, False), (SharedPolicy.COPY, True), (SharedPolicy.PRESENT, True)):
        rules = {**data_map.tables, KIND: replace(listed, policy=policy)}
        plan = await shop.plan(data_map=replace(data_map, tables=rules))
        assert check(plan, "shared rows").passed is passed
    run(shop.target, 'delete from "Shop".plan_kind')
    missing = check(await shop.plan(data_map=replace(data_map, tables=rules)), "references present at the target")
    assert "for example (basic)" in missing.detail
    rules[KIND] = replace(listed, policy=SharedPolicy.COPY)
    copied = await shop.plan(data_map=replace(data_map, tables=rules))
    assert check(copied, "references present at the target").passed
    will = '1 rows of "Shop".plan_kind will be copied to singapore for "Shop".order(kind)'
    assert will in check(copied, "shared rows to copy").detail
    run(shop.target, 'drop table "Shop".plan_kind cascade')
    absent = check(await shop.plan(), "references present at the target")
    assert '"Shop".plan_kind do not exist at singapore' in absent.detail


_ROOMS = """
    create table "Shop".desk (id integer primary key);
    create table "Shop".stand (id integer primary key);
    create table "Shop".clerk (email text primary key);
    create table "Shop".room (
        code text not null unique deferrable, "User Id" text references "Shop"."User", who text, kind text
            references "Shop".plan_kind, extra integer, desk integer references "Shop".desk,
        stand integer references "Shop".stand, clerk text references "Shop".clerk);
    create unique index on "Shop".room (code);
    alter table "Shop"."order" add room text references "Shop".room (code)"""


async def test_shared_rows_that_may_not_be_copied(shop: Shop) -> None:
    """Nothing of anybody crosses with them, and the plan names what keeps each table from it."""
    for site in (shop.source, shop.target):
        run(site, _ROOMS)
    data_map, room = shop_map(), TableName("Shop", "room")
    rule = TableRule(room, Role.SHARED, policy=SharedPolicy.COPY, personal=("who",), not_personal=("code",))
    desk, clerk = TableName("Shop", "desk"), TableName("Shop", "clerk")
    beside = {desk: TableRule(desk, Role.LOCAL), clerk: TableRule(clerk, Role.REFERENCE, personal=("email",))}
    plan = await shop.plan(data_map=replace(data_map, tables={**data_map.tables, **beside, room: rule}))
    refused = check(plan, "shared tables to copy")
    assert refused in plan.refusals
    for said in (
        "its column who is somebody's",
        "column extra is not listed under not_personal",
        '"Shop".room("User Id") -> "Shop"."User"("User Id") leads to somebody\'s rows',
        '"Shop".room(desk) -> "Shop".desk(id) leads to rows of this site alone',
        '"Shop".room(stand) -> "Shop".stand(id) leads to rows of this site alone',
        '"Shop".room(clerk) -> "Shop".clerk(email) holds what is personal there',
        "is judged at the commit only (at beijing)",
        "is judged at the commit only (at singapore)",
    ):
        assert said in refused.detail, refused.detail
    assert "column kind" not in refused.detail, "it is classified where it leads"
