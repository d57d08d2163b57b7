"""What must hold after the move, as statements over two censuses per site. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from domicile.demo.census import Census, Group, tables
from domicile.demo.sites import OTHERS, SOURCE, TARGET
from domicile.model.site import SiteName

PEOPLE = (Group.MAINLAND, Group.OUTSIDE, Group.RESIDENT, Group.NOBODY)
Censuses = Mapping[SiteName, Census]


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that was looked at. ``differing`` names the tables that speak against it."""

    text: str
    holds: bool
    users: int
    rows: int
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableCount:
    """Rows of one table at the source and at the target, before and after."""

    table: str
    source_before: int
    source_after: int
    target_before: int
    target_after: int


def statements(before: Censuses, after: Censuses) -> tuple[Statement, ...]:
    """Every statement, those that do not hold included."""
    return tuple(_statements(before, after))


def table_counts(before: Censuses, after: Censuses) -> tuple[TableCount, ...]:
    """Rows per table at the source and at the target."""
    sites = (before[SOURCE], after[SOURCE], before[TARGET], after[TARGET])
    return tuple(TableCount(t, *(census.table_rows(t) for census in sites)) for t in tables())


def _statements(before: Censuses, after: Censuses) -> Iterator[Statement]:
    source, target = before[SOURCE], before[TARGET]
    source_now, target_now = after[SOURCE], after[TARGET]
    yield _equal(
        f"Users of mainland China are at {SOURCE} as before, byte for byte",
        source,
        source_now,
        Group.MAINLAND,
    )
    yield _equal(
        f"All other users are at {TARGET}, byte for byte as they were at {SOURCE}",
        source,
        target_now,
        Group.OUTSIDE,
    )
    yield _none(f"Nobody from outside mainland China is left at {SOURCE}", source_now, Group.OUTSIDE)
    yield _none(f"Nobody of mainland China is at {TARGET}", target_now, Group.MAINLAND)
    yield _equal(f"Those who always lived at {TARGET} are as before, byte for byte", target, target_now, Group.RESIDENT)
    for site in (SOURCE, TARGET):
        yield _equal(f"Local and reference tables of {site} are as before", before[site], after[site], Group.SITE)
        yield _none(f"No row at {site} lacks its owner", after[site], Group.NOBODY)
    for site in OTHERS:
        yield _none(f"No user has a row at {site}", after[site], *PEOPLE)


def _equal(text: str, before: Census, after: Census, group: Group) -> Statement:
    """The group's rows are the same in both censuses, and there are some."""
    left, right = before.of(group), after.of(group)
    differing = tuple(sorted(t for t in left.keys() | right.keys() if left.get(t) != right.get(t)))
    return Statement(text, bool(left) and not differing, after.users(group), after.rows(group), differing)


def _none(text: str, census: Census, *groups: Group) -> Statement:
    found = {table for group in groups for table in census.of(group)}
    return Statement(text, not found, census.users(*groups), census.rows(*groups), tuple(sorted(found)))
