"""The demo's own check notices what it is there for. Pure, but for its SQL, which test_demo.py runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from tests.conftest import ROOT

from domicile.demo import proof
from domicile.demo.census import QUIET, Census, Group, Tally, blocks, tables
from domicile.demo.customers import Writes
from domicile.demo.proof import Statement
from domicile.demo.sites import OTHERS, SOURCE, TARGET
from domicile.model.datamap import Role
from domicile.model.site import SiteName
from domicile.survey import datamap_file
from domicile.world.account import Spread
from domicile.world.oracle import Verdict

USERS, ORDERS, MARKET = "store.user_account", "store.orders", "store.market"
AUDIT = proof.AUDIT_LOG
Tallies = dict[tuple[str, Group], Tally]


def census(tallies: Tallies) -> Census:
    return Census(MappingProxyType(tallies))


def before() -> dict[SiteName, Tallies]:
    reference = {(MARKET, Group.SITE): Tally(9, 9, 900), (AUDIT, Group.SITE): Tally(7, 7, 70)}
    people = {
        (USERS, Group.MAINLAND): Tally(4, 1, 40),
        (ORDERS, Group.MAINLAND): Tally(8, 2, 80),
        (USERS, Group.OUTSIDE): Tally(5, 1, 50),
        (ORDERS, Group.OUTSIDE): Tally(10, 2, 100),
    }
    residents = {(USERS, Group.RESIDENT): Tally(2, 1, 20), (ORDERS, Group.RESIDENT): Tally(3, 1, 30)}
    return {
        SOURCE: {**reference, **people},
        TARGET: {**reference, **residents},
        **{name: dict(reference) for name in OTHERS},
    }


def after() -> dict[SiteName, Tallies]:
    sites = before()
    for key in ((USERS, Group.OUTSIDE), (ORDERS, Group.OUTSIDE)):
        sites[TARGET][key] = sites[SOURCE].pop(key)
    # What customers wrote meanwhile.
    sites[SOURCE][ORDERS, Group.MAINLAND] = Tally(9, 2, 80)
    sites[TARGET][ORDERS, Group.OUTSIDE] = Tally(12, 2, 100)
    sites[SOURCE][AUDIT, Group.SITE] = Tally(11, 11, 110)
    return sites


CLEAN = Writes(
    seconds=1.0,
    transactions=6,
    refused={"DM001": 2, "40001": 1},
    failures={},
    latency=Spread(),
    pause=Spread(),
    audited={SOURCE: 4},
    found=Verdict(acknowledged=6, unknown=0),
)


def statements(now: Mapping[SiteName, Tallies], writes: Writes = CLEAN) -> tuple[Statement, ...]:
    first = {name: census(tallies) for name, tallies in before().items()}
    return proof.statements(first, {name: census(tallies) for name, tallies in now.items()}, writes)


def test_a_good_move_is_proven() -> None:
    assert [s.text for s in statements(after()) if not s.holds] == []


@pytest.mark.parametrize(
    ("site", "key", "tally", "said"),
    [
        (SOURCE, (ORDERS, Group.MAINLAND), Tally(9, 2, 81), "Users of mainland China"),
        (SOURCE, (USERS, Group.OUTSIDE), Tally(1, 0, 0), "Nobody from outside"),
        (TARGET, (ORDERS, Group.OUTSIDE), Tally(11, 1, 90), "All others"),
        (TARGET, (ORDERS, Group.OUTSIDE), Tally(12, 2, 101), "All others"),
        (TARGET, (ORDERS, Group.MAINLAND), Tally(1, 0, 0), "Nobody of mainland"),
        (TARGET, (USERS, Group.RESIDENT), Tally(2, 1, 21), "Those who always lived"),
        (TARGET, (MARKET, Group.SITE), Tally(10, 10, 1000), "Local and reference tables of singapore"),
        (TARGET, (AUDIT, Group.SITE), Tally(8, 8, 80), "The audit log of singapore"),
        (SOURCE, (ORDERS, Group.NOBODY), Tally(1, 0, 0), "No row at beijing lacks"),
        (OTHERS[1], (USERS, Group.RESIDENT), Tally(1, 0, 0), "No user has a row at oregon"),
    ],
)
def test_each_harm_is_noticed(site: SiteName, key: tuple[str, Group], tally: Tally, said: str) -> None:
    now = after()
    now[site][key] = tally
    broken = [s for s in statements(now) if not s.holds]
    assert len(broken) == 1
    assert broken[0].text.startswith(said)
    assert broken[0].differing == (() if key[0] == AUDIT else (key[0],))


@pytest.mark.parametrize(
    ("writes", "said"),
    [
        (replace(CLEAN, found=replace(CLEAN.found, lost=1)), "Of 6 acknowledged writes 1 are lost"),
        (replace(CLEAN, found=replace(CLEAN.found, doubled=1)), "Of 6 acknowledged writes 0 are lost, 1 doubled"),
        (replace(CLEAN, found=replace(CLEAN.found, foreign=3)), "Writes acknowledged at two homes: 0; rows where"),
        (replace(CLEAN, found=replace(CLEAN.found, two_homes=1)), "Writes acknowledged at two homes: 1"),
        (replace(CLEAN, failures={"23505": 2}), "Writers were refused 2 times"),
        (replace(CLEAN, refused={"XX000": 1}), "Writers were refused 0 times"),
    ],
)
def test_each_word_of_the_oracle_is_heard(writes: Writes, said: str) -> None:
    broken = [s for s in statements(after(), writes) if not s.holds]
    assert len(broken) == 1
    assert broken[0].text.startswith(said)


def test_the_audit_log_may_lack_what_was_in_doubt() -> None:
    """An order whose acknowledgement was lost made two entries, or none."""
    doubtful = replace(CLEAN, found=replace(CLEAN.found, unknown=1))
    for entries, holds in ((11, True), (13, True), (14, False), (10, False)):
        now = after()
        now[SOURCE][AUDIT, Group.SITE] = Tally(entries, entries, 0)
        assert all(s.holds for s in statements(now, doubtful)) is holds


def test_empty_sites_prove_nothing() -> None:
    nothing: dict[SiteName, Census] = {name: census({}) for name in (SOURCE, TARGET, *OTHERS)}
    assert not all(s.holds for s in proof.statements(nothing, nothing, CLEAN))


def test_the_census_counts_every_table_of_the_map() -> None:
    data_map = datamap_file.load(ROOT / "src" / "domicile" / "world" / "store.map.yaml")
    assert sorted(tables()) == sorted(map(str, data_map.tables))
    grouped = {name for name, statement in blocks() if b"group by" in statement}
    assert grouped == set(map(str, data_map.in_scope()))
    assert not data_map.of_role(Role.UNDECIDED)
    alone = f"% {QUIET} = 0 and ".encode()
    assert {name for name, statement in blocks() if statement.count(alone) == 2} == grouped
