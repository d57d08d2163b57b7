"""The demo's own check notices what it is there for. Pure, but for its SQL, which test_demo.py runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest
from tests.conftest import ROOT

from domicile.demo import proof
from domicile.demo.census import Census, Group, Tally, blocks, tables
from domicile.demo.proof import Statement
from domicile.demo.sites import OTHERS, SOURCE, TARGET
from domicile.model.datamap import Role
from domicile.model.site import SiteName
from domicile.survey import datamap_file

USERS, ORDERS, MARKET = "store.user_account", "store.orders", "store.market"
Tallies = dict[tuple[str, Group], Tally]


def census(tallies: Tallies) -> Census:
    return Census(MappingProxyType(tallies))


def before() -> dict[SiteName, Tallies]:
    reference = {(MARKET, Group.SITE): Tally(9, 900)}
    people = {
        (USERS, Group.MAINLAND): Tally(4, 40),
        (ORDERS, Group.MAINLAND): Tally(8, 80),
        (USERS, Group.OUTSIDE): Tally(5, 50),
        (ORDERS, Group.OUTSIDE): Tally(10, 100),
    }
    residents = {(USERS, Group.RESIDENT): Tally(2, 20), (ORDERS, Group.RESIDENT): Tally(3, 30)}
    return {
        SOURCE: {**reference, **people},
        TARGET: {**reference, **residents},
        **{name: dict(reference) for name in OTHERS},
    }


def after() -> dict[SiteName, Tallies]:
    sites = before()
    for key in ((USERS, Group.OUTSIDE), (ORDERS, Group.OUTSIDE)):
        sites[TARGET][key] = sites[SOURCE].pop(key)
    return sites


def statements(now: Mapping[SiteName, Tallies]) -> tuple[Statement, ...]:
    first = {name: census(tallies) for name, tallies in before().items()}
    return proof.statements(first, {name: census(tallies) for name, tallies in now.items()})


def test_a_good_move_is_proven() -> None:
    assert [s.text for s in statements(after()) if not s.holds] == []


@pytest.mark.parametrize(
    ("site", "key", "tally", "said"),
    [
        (SOURCE, (ORDERS, Group.MAINLAND), Tally(8, 81), "Users of mainland China"),
        (SOURCE, (USERS, Group.OUTSIDE), Tally(1, 10), "Nobody from outside"),
        (TARGET, (ORDERS, Group.OUTSIDE), Tally(9, 90), "All other users"),
        (TARGET, (ORDERS, Group.OUTSIDE), Tally(10, 101), "All other users"),
        (TARGET, (ORDERS, Group.MAINLAND), Tally(1, 1), "Nobody of mainland"),
        (TARGET, (USERS, Group.RESIDENT), Tally(2, 21), "Those who always lived"),
        (TARGET, (MARKET, Group.SITE), Tally(10, 1000), "Local and reference tables of singapore"),
        (SOURCE, (ORDERS, Group.NOBODY), Tally(1, 1), "No row at beijing lacks"),
        (OTHERS[1], (USERS, Group.RESIDENT), Tally(1, 1), "No user has a row at oregon"),
    ],
)
def test_each_harm_is_noticed(site: SiteName, key: tuple[str, Group], tally: Tally, said: str) -> None:
    now = after()
    now[site][key] = tally
    broken = [s for s in statements(now) if not s.holds]
    assert len(broken) == 1
    assert broken[0].text.startswith(said)
    assert broken[0].differing == (key[0],)


def test_empty_sites_prove_nothing() -> None:
    nothing: dict[SiteName, Census] = {name: census({}) for name in (SOURCE, TARGET, *OTHERS)}
    assert not all(s.holds for s in proof.statements(nothing, nothing))


def test_the_census_counts_every_table_of_the_map() -> None:
    data_map = datamap_file.load(ROOT / "src" / "domicile" / "world" / "store.map.yaml")
    assert sorted(tables()) == sorted(map(str, data_map.tables))
    grouped = {name for name, statement in blocks() if b"group by" in statement}
    assert grouped == set(map(str, data_map.in_scope()))
    assert not data_map.of_role(Role.UNDECIDED)
