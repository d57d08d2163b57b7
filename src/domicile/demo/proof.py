"""What must hold after the move, as statements over two censuses per site and the oracle's verdict. Pure.

Customers write all the while, so rows are compared byte for byte only where nobody wrote; the rest is the oracle's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from domicile.demo.census import NONE, Census, Group, tables
from domicile.demo.customers import Writes
from domicile.demo.sites import OTHERS, SOURCE, TARGET
from domicile.model.site import SiteName

PEOPLE = (Group.MAINLAND, Group.OUTSIDE, Group.RESIDENT, Group.NOBODY)
AUDIT_LOG = "store.audit_log"
ENTRIES_IN_DOUBT = 2  # of an order whose acknowledgement was lost
Censuses = Mapping[SiteName, Census]


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that was looked at. ``differing`` names the tables that speak against it."""

    text: str
    holds: bool
    rows: int = 0
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableCount:
    """Rows of one table at the source and at the target, before and after."""

    table: str
    source_before: int
    source_after: int
    target_before: int
    target_after: int


def statements(before: Censuses, after: Censuses, writes: Writes) -> tuple[Statement, ...]:
    """Every statement, those that do not hold included."""
    return (*_oracle(writes), *_people(before, after), *_sites(before, after, writes))


def table_counts(before: Censuses, after: Censuses) -> tuple[TableCount, ...]:
    """Rows per table at the source and at the target."""
    sites = (before[SOURCE], after[SOURCE], before[TARGET], after[TARGET])
    return tuple(TableCount(t, *(census.table_rows(t) for census in sites)) for t in tables())


def _oracle(writes: Writes) -> Iterator[Statement]:
    """What the writers themselves can say. Their verdict has only marks, so these statements name no tables."""
    found = writes.found
    lost = found.lost + found.doubled + found.reordered + found.unexplained
    yield Statement(
        f"Of {found.acknowledged:,} acknowledged writes {found.lost:,} are lost, {found.doubled:,} doubled, "
        f"{found.reordered:,} out of order; {found.unexplained:,} were written by nobody",
        not lost and found.acknowledged > 0,
    )
    yield Statement(
        f"Writes acknowledged at two homes: {found.two_homes:,}; rows where their user never lived: {found.foreign:,}",
        not found.two_homes and not found.foreign,
    )
    again = f", besides {writes.again:,} serialization failures" if writes.again else ""
    failures = ", ".join(f"{state} {count:,}" for state, count in writes.failures.items())
    yield Statement(
        f"Writers were refused {writes.moving:,} times, only with DM001 and DM002{again}"
        + (f"; but there were failures: {failures}" if failures else ""),
        writes.politely,
    )


def _people(before: Censuses, after: Censuses) -> Iterator[Statement]:
    source, target = before[SOURCE], before[TARGET]
    source_now, target_now = after[SOURCE], after[TARGET]
    yield _equal(
        f"Users of mainland China for whom nobody wrote are at {SOURCE} as before, byte for byte",
        source,
        source_now,
        Group.MAINLAND,
    )
    yield _equal(
        f"All others for whom nobody wrote are at {TARGET}, byte for byte as they were at {SOURCE}",
        source,
        target_now,
        Group.OUTSIDE,
    )
    yield _none(f"Nobody from outside mainland China is left at {SOURCE}", source_now, Group.OUTSIDE)
    yield _none(f"Nobody of mainland China is at {TARGET}", target_now, Group.MAINLAND)
    yield _equal(
        f"Those who always lived at {TARGET}, and for whom nobody wrote, are as before, byte for byte",
        target,
        target_now,
        Group.RESIDENT,
    )


def _sites(before: Censuses, after: Censuses, writes: Writes) -> Iterator[Statement]:
    for site in (SOURCE, TARGET):
        yield _equal(
            f"Local and reference tables of {site} are as before, but for the audit log",
            before[site],
            after[site],
            Group.SITE,
            but=(AUDIT_LOG,),
        )
        grown = after[site].table_rows(AUDIT_LOG) - before[site].table_rows(AUDIT_LOG)
        written = writes.audited.get(site, 0)
        yield Statement(
            f"The audit log of {site} grew by the {written:,} entries of writes there, and by none of the move",
            grown == written or 0 < grown - written <= ENTRIES_IN_DOUBT * writes.found.unknown,
            rows=grown,
        )
        yield _none(f"No row at {site} lacks its owner", after[site], Group.NOBODY)
    for site in OTHERS:
        yield _none(f"No user has a row at {site}", after[site], *PEOPLE)


def _equal(text: str, before: Census, after: Census, group: Group, *, but: Collection[str] = ()) -> Statement:
    """The group's rows that nobody wrote are the same in both censuses, and there are some."""
    left, right = before.of(group), after.of(group)
    differing = tuple(
        sorted(
            t
            for t in left.keys() | right.keys()
            if t not in but and left.get(t, NONE).untouched != right.get(t, NONE).untouched
        )
    )
    rows = after.quiet_rows(group)
    return Statement(text, rows > 0 and not differing, rows, differing)


def _none(text: str, census: Census, *groups: Group) -> Statement:
    found = {table for group in groups for table in census.of(group)}
    return Statement(text, not found, census.rows(*groups), tuple(sorted(found)))
