"""What a plan says of reference tables that differ between the sites, and of rows that would mean others there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.planner.planning import Shop, check, run, shop_map

from domicile.model.datamap import DataMap, Role, SharedPolicy, TableRule
from domicile.model.errors import ErrorCode
from domicile.model.plan import Check, Mode
from domicile.model.schema import TableName
from domicile.postgres import drift

KIND = TableName("Shop", "means")
DRIFT, MEANING = "reference tables", "meaning of reference rows"
# Half of the orders are paid by 1, the others by 2; nobody by 3. The target's columns are in another order.
_MEANS = """
    create table "Shop".means (
        id integer primary key, {} text not null, {} text not null, "100%" numeric, unique (code, region));
    insert into "Shop".means (id, code, region, "100%")
    values (1, 'card', 'all', 1.0), (2, 'cash', 'all', 2), (3, 'gold', 'CN', 3)"""
_PAID = """
    alter table "Shop"."order" add paid_by integer references "Shop".means;
    update "Shop"."order" set paid_by = 1 + id % 2"""
_REFERENCE = '"Shop".order(paid_by) -> "Shop".means(id)'


def kinds_map(rule: TableRule | None = None) -> DataMap:
    data_map = shop_map()
    rules = {**data_map.tables, KIND: rule or TableRule(KIND, Role.REFERENCE)}
    return DataMap(data_map.dataset, data_map.subject, rules, "map")


async def judged(shop: Shop, change: str, rule: TableRule | None = None) -> tuple[Check, Check]:
    """The two checks, where the target's kinds are the source's and then changed."""
    for site, columns in ((shop.source, ("code", "region")), (shop.target, ("region", "code"))):
        run(site, _MEANS.format(*columns))
        run(site, _PAID)
    if change:
        run(shop.target, change)
    plan = await shop.plan(data_map=kinds_map(rule))
    found, meaning = check(plan, DRIFT), check(plan, MEANING)
    assert not found.blocking
    assert (meaning in plan.refusals_of(Mode.LIVE)) is not meaning.passed
    return found, meaning


async def test_the_same_rows_in_another_order_of_columns_are_the_same(shop: Shop) -> None:
    found, meaning = await judged(shop, "")
    assert found.passed, found.detail
    assert meaning.passed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("delete from \"Shop\".means where id = 3", "1 rows only at beijing"),
        ("insert into \"Shop\".means values (4, 'all', 'sand')", "1 rows only at singapore"),
        ("update \"Shop\".means set \"100%\" = 1 where id = 1", "1 rows differ (100% in 1)"),
        ("update \"Shop\".means set code = 'karte' where id = 1", "1 rows differ (code in 1)"),
        ("update \"Shop\".means set id = 9 where id = 3", "1 rows have another key for the same (code, region)"),
    ],
)  # fmt: skip
async def test_drift_is_counted_and_is_a_warning(shop: Shop, change: str, said: str) -> None:
    found, meaning = await judged(shop, change)
    assert not found.passed
    assert said in found.detail, found.detail
    assert "card" not in found.detail, "no value"
    assert meaning.passed, "nobody's order would mean another kind"


_SWAP = """
    update "Shop".means set code = 'x' where id = 1;
    update "Shop".means set code = 'card' where id = 2;
    update "Shop".means set code = 'cash' where id = 1"""

_GOLD = """
    delete from "Shop".means where id = 3;
    update "Shop".means set code = 'gold', region = 'CN' where id = 2"""
_SHELL = """
    update "Shop".means set code = 'shell' where id = 1;
    insert into "Shop".means values (7, 'all', 'card')"""


@pytest.mark.parametrize(
    ("change", "keys", "bound"),
    [
        (_SWAP, 2, drift.ROWS_MAX),
        (_SWAP, 2, 0),
        # Only the key is there, under it what is number 3 at the source.
        (_GOLD, 1, drift.ROWS_MAX),
        (_GOLD, 1, 0),
        # What is number 1 at the source is another number, and number 1 is new.
        (_SHELL, 1, drift.ROWS_MAX),
    ],
)  # fmt: skip
async def test_rows_that_would_mean_others_stop_the_plan(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, change: str, keys: int, bound: int
) -> None:
    monkeypatch.setattr(drift, "ROWS_MAX", bound)
    found, meaning = await judged(shop, change)
    assert not meaning.passed
    assert meaning.code == ErrorCode.KEYS_COLLIDE
    assert f"{keys} keys of {_REFERENCE} by their (code, region)" in meaning.detail
    if not bound:
        assert "only rows that the cohort refers to were compared" in found.detail


async def test_who_says_that_only_the_key_must_be_there_is_believed(shop: Shop) -> None:
    _, meaning = await judged(shop, _SWAP, TableRule(KIND, Role.SHARED, policy=SharedPolicy.PRESENT))
    assert meaning.passed


async def test_copied_rows_that_would_mean_others_stop_the_plan(shop: Shop) -> None:
    rule = TableRule(KIND, Role.SHARED, policy=SharedPolicy.COPY, not_personal=(), others_not_personal=True)
    _, meaning = await judged(shop, _SWAP, rule)
    assert f"2 keys of {_REFERENCE}" in meaning.detail


_POUCHES = """
    create table "Shop".pouch (id integer primary key, means integer references "Shop".means);
    create table "Shop".purse (id integer primary key, pouch integer references "Shop".pouch);
    alter table "Shop"."order" add purse integer references "Shop".purse"""
_FULL = """
    insert into "Shop".pouch values (1, 1), (2, 2);
    insert into "Shop".purse values (1, 1), (2, 2);
    update "Shop"."order" set purse = 1"""


async def test_what_copied_rows_of_copied_rows_would_mean_is_looked_at(shop: Shop) -> None:
    for site in (shop.source, shop.target):
        run(site, _MEANS.format("code", "region"))
        run(site, _POUCHES)
    run(shop.source, _FULL)
    run(shop.target, _SWAP)
    data_map = kinds_map()
    copied = {
        name: TableRule(name, Role.SHARED, policy=SharedPolicy.COPY, not_personal=("id",))
        for name in (TableName("Shop", "pouch"), TableName("Shop", "purse"))
    }
    plan = await shop.plan(data_map=replace(data_map, tables={**data_map.tables, **copied}))
    meaning = check(plan, MEANING)
    assert not meaning.passed
    assert '1 keys of "Shop".pouch(means) -> "Shop".means(id) by their (code, region)' in meaning.detail


async def test_rows_without_a_value_in_the_only_key_are_not_compared(shop: Shop) -> None:
    """Nothing tells them apart: each would be each other one."""
    for site, codes in ((shop.source, "abc"), (shop.target, "de")):
        run(site, _MEANS.format("code", "region").replace("primary key", "unique").replace("not null", ""))
        run(site, 'alter table "Shop"."order" add paid_by integer references "Shop".means (id)')
        run(site, f"insert into \"Shop\".means (code) select unnest(string_to_array('{codes}', null))")
    run(shop.source, 'update "Shop"."order" set paid_by = 1')
    found = check(await shop.plan(data_map=kinds_map()), DRIFT)
    assert found.passed, found.detail
