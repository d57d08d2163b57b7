"""The oracle: what the sites hold against what the writers were promised. It reads rows and asks domicile nothing.

Run it when the writers have stopped and settled (`Traffic.settle`): then each user's home is the site that acknowledged
its last write. There its rows must be whole: every acknowledged mark once, lists in an order that the acknowledgements
allow, nothing that nobody wrote. At other sites it must have no row, but for copies that were left at former homes,
which must hold nothing that was written after.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from psycopg import IsolationLevel

from domicile.postgres.connect import connect
from domicile.world.account import Account
from domicile.world.ledger import NEVER, NOWHERE, Ledger, Written
from domicile.world.session import named

ROWS_WITH_MARKS = ("order", "review", "photo", "wish", "person")
LISTS = ("profile", "address")
EXAMPLES = 20


class Copies(StrEnum):
    """What a former home may still have of a user."""

    NONE = "none"
    FROZEN = "frozen"  # what it had
    CURRENT = "current"  # what the home has, too: the way back is a stream


@dataclass(frozen=True, slots=True)
class Holding:
    """What one site holds: lists of marks in their order, rows with marks, carts, rows per user."""

    lists: Mapping[tuple[int, str], list[str]]
    rows: Mapping[tuple[str, str], list[tuple[int, tuple[int, ...]]]]  # owner and shape; more than one: doubled
    carts: Mapping[tuple[int, int], int]
    owned: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``lost``: acknowledged and not there, or not as it was acknowledged. ``unexplained``: there, and written by
    nobody. ``foreign``: rows of users at a site that was never their home, or, where copies may not be kept, is not.
    ``two_homes``: writes that a site acknowledged, or holds, after another one had become the home. ``examples``: a
    few marks, which are no personal values."""

    acknowledged: int
    unknown: int
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    unexplained: int = 0
    foreign: int = 0
    two_homes: int = 0
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.reordered or self.unexplained or self.foreign or self.two_homes)

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {"clean": self.clean, **asdict(self)}


@dataclass(slots=True)
class _Found:
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, what: str, example: str, count: int = 1) -> None:
        self.counts[what] += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{what}: {example}")


@dataclass(frozen=True, slots=True)
class Law:
    """Who may have rows where, but for everybody at home. ``staying``: markets whose users, written for or not, may
    have them where they began and nowhere else. ``visited``: sites that were a home of everybody for a while, although
    nobody wrote there for some (they moved on, or were rolled back, before)."""

    copies: Copies = Copies.FROZEN
    staying: tuple[str, ...] = ()
    visited: tuple[str, ...] = ()


LAW = Law()


async def verdict(account: Account, sites: Mapping[str, str], law: Law = LAW) -> Verdict:
    """Read every site and compare."""
    ledger = account.ledger
    holdings = dict(zip(sites, await asyncio.gather(*(read(c, ledger) for c in sites.values())), strict=True))
    return judge(ledger, holdings, law)


async def read(conninfo: str, ledger: Ledger) -> Holding:
    """What one site holds of this run, in one snapshot."""
    queries = named("oracle.sql")
    values = {"like": f"{ledger.prefix}%", "users": sorted({user for user, _ in ledger.carts})}
    async with await connect(conninfo, application_name="store oracle") as conn:
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        async with conn.transaction():

            async def ask(name: str) -> list[tuple[Any, ...]]:
                return await (await conn.execute(queries[name], values)).fetchall()

            lists: dict[tuple[int, str], list[str]] = {}
            for kind in LISTS:
                for user, mark in await ask(kind):
                    lists.setdefault((user, kind), []).append(mark)
            rows: dict[tuple[str, str], list[tuple[int, tuple[int, ...]]]] = {}
            for kind in ROWS_WITH_MARKS:
                for owner, mark, *shape in await ask(kind):
                    rows.setdefault((kind, mark), []).append((owner, tuple(shape)))
            carts = {(user, product): quantity for user, product, quantity in await ask("cell")}
            owned = {owner: int(count) for owner, count in await ask("rows") if owner is not None}
    return Holding(lists, rows, carts, owned)


def judge(ledger: Ledger, holdings: Mapping[str, Holding], law: Law = LAW) -> Verdict:
    """Compare; pure."""
    found = _Found(Counter(two_homes=ledger.two_homes))
    for site, holding in holdings.items():
        _judge_lists(ledger, site, holding, found)
        _judge_rows(ledger, site, holding, found)
        _judge_owned(ledger, site, holding, found, law)
        _judge_staying(ledger, site, holding, found, law.staying)
        if law.copies is not Copies.CURRENT:
            _judge_copies(ledger, site, holding, found)
    _judge_missing(ledger, holdings, found)
    return Verdict(ledger.acknowledged, ledger.unknown, **found.counts, examples=tuple(found.examples))


def _judge_lists(ledger: Ledger, site: str, holding: Holding, found: _Found) -> None:
    """What is in the lists of one site."""
    for (user, kind), marks in holding.lists.items():
        promised = ledger.lists.get((user, kind), {})
        for mark in marks:
            if mark not in promised:
                found.note("unexplained", mark)
        if _home(ledger, user) != site:
            continue
        for mark, times in Counter(marks).items():
            if times > 1:
                found.note("doubled", mark, times - 1)
        for mark in _reordered([(mark, promised[mark]) for mark in marks if mark in promised]):
            found.note("reordered", mark)


def _reordered(marks: Iterable[tuple[str, Written]]) -> Iterator[str]:
    """Marks that stand before another that had been acknowledged before they were begun."""
    earliest = NEVER
    for mark, written in reversed(list(marks)):
        if written.begun > earliest:
            yield mark
        earliest = min(earliest, written.acknowledged)


def _judge_rows(ledger: Ledger, site: str, holding: Holding, found: _Found) -> None:
    """The rows with marks of one site."""
    for (kind, mark), there in holding.rows.items():
        row = ledger.rows.get((kind, mark))
        if row is None:
            found.note("unexplained", f"{kind} {mark}")
            continue
        if len(there) > 1:
            found.note("doubled", f"{kind} {mark}", len(there) - 1)
        for owner, shape in there:
            if owner in row.owners and shape != row.shape and _home(ledger, owner) == site:
                found.note("lost", f"{kind} {mark} is not whole at {site}")


def _judge_owned(ledger: Ledger, site: str, holding: Holding, found: _Found, law: Law) -> None:
    """Who was written for, has rows at one site, and may not."""
    for user, home in ledger.homes.items():
        count = holding.owned.get(user, 0)
        left_from = ledger.gone.get(user)
        if not count or left_from == NOWHERE:
            continue
        if home.site == site and left_from is not None:
            found.note("lost", f"a deletion at {site}", count)
        elif home.site != site and (law.copies is Copies.NONE or not (site in home.ever or site in law.visited)):
            found.note("foreign", f"rows at {site}", count)


def _judge_staying(ledger: Ledger, site: str, holding: Holding, found: _Found, staying: Collection[str]) -> None:
    """Who should have stayed, and has rows where it did not begin; where it was written for, that was counted."""
    for user, person in ledger.people.items():
        count = holding.owned.get(user, 0)
        if not count or person.market not in staying or person.origin == site:
            continue
        home = ledger.homes.get(user)
        if home is None or site in home.ever:
            found.note("foreign", f"rows of {person.market} at {site}", count)


def _judge_copies(ledger: Ledger, site: str, holding: Holding, found: _Found) -> None:
    """What was written at a home, and is in a copy that an earlier home had kept."""
    for (user, kind), marks in holding.lists.items():
        promised = ledger.lists.get((user, kind), {})
        for mark in marks:
            if mark in promised and _later(ledger, user, site, promised[mark]):
                found.note("two_homes", f"{mark} at {site}")
    for (kind, mark), there in holding.rows.items():
        row = ledger.rows.get((kind, mark))
        if row is not None and any(_later(ledger, owner, site, row.written) for owner, _ in there):
            found.note("two_homes", f"{kind} {mark} at {site}")


def _later(ledger: Ledger, user: int, site: str, written: Written) -> bool:
    """It was begun at the user's home, another site, after that had become the home. Where nobody wrote while the user
    was at that site, nobody knows when that was."""
    home = ledger.homes.get(user)
    if home is None or site not in home.ever:
        return False
    return site != home.site == written.site and written.begun > home.since


def _judge_missing(ledger: Ledger, holdings: Mapping[str, Holding], found: _Found) -> None:
    """What was acknowledged and is not at home."""
    for (user, kind), promised in ledger.lists.items():
        if user in ledger.gone:
            continue
        there = set(holdings[_home(ledger, user)].lists.get((user, kind), ()))
        for mark, written in promised.items():
            if mark not in there and written.acknowledged != NEVER:
                found.note("lost", mark)
    for (kind, mark), row in ledger.rows.items():
        if row.written.acknowledged == NEVER or row.owners & ledger.gone.keys():
            continue
        if not any(
            owner == there
            for owner in row.owners
            for there, _ in holdings[_home(ledger, owner)].rows.get((kind, mark), ())
        ):
            found.note("lost", f"{kind} {mark}")
    for (user, product), quantities in ledger.carts.items():
        if user in ledger.gone:
            continue
        if holdings[_home(ledger, user)].carts.get((user, product), 0) not in quantities:
            found.note("lost", f"the quantity of product {product} in a cart")


def _home(ledger: Ledger, user: int) -> str:
    home = ledger.homes.get(user)
    return ledger.people[user].origin if home is None else home.site
