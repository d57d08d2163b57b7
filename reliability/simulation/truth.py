"""What the users were promised, and where it must be: every commit is checked against all commits before it.

The truth has no sites. A row changes from what it was in truth, or an earlier write was lost or done twice. A commit
happens where its owners are at home, or two homes accepted. What crosses is a row that a member had in that very form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from domicile.model.handover import SourceMark, TargetMark
from domicile.stream.change import Field
from reliability.simulation import tables
from reliability.simulation.site import Record, Site, Txn
from reliability.simulation.tables import CHILDREN, NAMES, ORDERS, USERS, Row, Tables

ACCEPTING = (SourceMark.OPEN, SourceMark.CLOSING, TargetMark.RESIDENT)


class Violation(Exception):
    """An invariant does not hold."""


class Truth:
    """``home`` of each user; ``former`` versions of rows with all who ever owned them in that form."""

    def __init__(self, sites: tuple[Site, Site], fail: Callable[[Exception], None]) -> None:
        self.sites, self._fail = sites, fail
        self.rows: Tables = tuple({} for _ in NAMES)
        self.home: dict[int, Site] = {}
        self.owners: dict[tuple[int, Row], set[int]] = {}
        self.commits = self.crossed = 0
        self._pending: dict[tuple[str, int], Txn] = {}  # in a log, and not yet visible
        for site in sites:
            site.on_logged, site.on_visible, site.on_mark = self.logged, self.visible, self.marked

    def add(self, site: Site, no: int, row: Row) -> None:
        """A row that was there before everything."""
        self.rows[no][row[0]] = row
        site.rows[no][row[0]] = row
        if no == USERS:
            self.home[tables.value_of(row[0])] = site
        self._note(no, row)

    def logged(self, site: Site, txn: Txn) -> None:
        """A commit is in the log of a site: it must be the home of whomever it concerns."""
        for no, old, new in txn.events:
            for row in (old, new):
                owner = None if row is None else self._owner(site, txn, no, row)
                if owner is None:
                    continue
                latest = site.latest(owner, None)
                if latest is not None and latest[1] not in ACCEPTING:
                    raise self._found(
                        f"two homes: a write for user {owner} is committed at {site.name}, which says {latest[1]}"
                    )
                home = self.home.setdefault(owner, site)
                if home is not site:
                    raise self._found(f"two homes: a write for user {owner} is committed at {site.name}, not at home")

        self._pending[site.name, txn.number] = txn
        orders = [row for t in self._pending.values() for no, *rows in t.events if no == ORDERS for row in rows if row]
        for no, _, new in txn.events:  # the stream may bring it before anybody sees it
            if new is not None:
                self._note(no, new, orders)

    def visible(self, site: Site, txn: Txn) -> None:
        """The commit counts: it changes what was there."""
        self._pending.pop((site.name, txn.number), None)
        for no, old, new in txn.events:
            changed = new if old is None else old
            assert changed is not None
            key = changed[0]
            if self.rows[no].get(key) != old:
                raise self._found(
                    f"lost or doubled: {NAMES[no]} {tables.value_of(key)} at {site.name} was not what was promised"
                )
            if old is not None:
                del self.rows[no][old[0]]
            if new is not None:
                if new[0] in self.rows[no]:
                    raise self._found(f"doubled: {NAMES[no]} {tables.value_of(new[0])} is somewhere else already")
                self.rows[no][new[0]] = new
        self.commits += 1
        for no, _, new in txn.events:
            if new is not None and self.rows[no].get(new[0]) == new:
                self._note(no, new)

    def marked(self, site: Site, record: Record) -> None:
        """A site says something else of a wave."""
        other = self.sites[0] if site is self.sites[1] else self.sites[1]
        there = other.waves.get(record.no)
        if there is not None and record.mark in ACCEPTING and there.mark in ACCEPTING:
            raise self._found(
                f"two homes: wave {record.no} is {record.mark} at {site.name}, {there.mark} at {other.name}"
            )

    def arrived(self, site: Site, no: int) -> None:
        """A wave has come to a site: all of its rows are there as they were promised, and no others."""
        members = site.members[no]
        for user in members:
            self.home[user] = site
        self.compare(site, members, f"at the arrival of wave {no}")

    def compare(self, site: Site, users: frozenset[int] | set[int], when: str) -> None:
        for no, promised in enumerate(self.rows):
            here = {k: row for k, row in site.rows[no].items() if tables.owner_in(site.rows, no, row) in users}
            wanted = {k: row for k, row in promised.items() if tables.owner_in(self.rows, no, row) in users}
            for key in dict.fromkeys((*here, *wanted)):
                if here.get(key) != wanted.get(key):
                    what = "lost" if key not in here else "come back" if key not in wanted else "another"
                    raise self._found(f"{NAMES[no]} {tables.value_of(key)} is {what} at {site.name} {when}")

    def crosses(self, no: int, row: Row, members: frozenset[int]) -> None:
        """A row is on its way to the other site: in this form it has been a member's."""
        self.crossed += 1
        if members.isdisjoint(self.owners.get((no, row), ())):
            raise self._found(f"{NAMES[no]} {tables.value_of(row[0])} of somebody else crosses")

    def crosses_in_part(self, no: int, key: Field, sent: Iterable[tuple[int, Field]], members: frozenset[int]) -> None:
        """The same of an update that does not send every column."""
        self.crossed += 1
        wanted = list(sent)
        for (table, row), owners in self.owners.items():
            ours = table == no and row[0] == key and not members.isdisjoint(owners)
            if ours and all(row[at] == field for at, field in wanted):
                return
        raise self._found(f"{NAMES[no]} {tables.value_of(key)} of somebody else crosses")

    def removed(self, site: Site, rows: Iterable[tuple[int, Field]]) -> None:
        """Somebody's copy is removed from a site: not the one at home."""
        for no, key in rows:
            row = self.rows[no].get(key)
            owner = None if row is None else tables.owner_in(self.rows, no, row)
            if owner is not None and self.home.get(owner) is site:
                raise self._found(f"lost: {NAMES[no]} {tables.value_of(key)} is removed at its home, {site.name}")

    def told(self, no: int, home: Site) -> None:
        """The directory says of a wave that it lives there: by then it does."""
        if no not in home.waves or home.waves[no].mark not in ACCEPTING:
            raise self._found(f"the directory says too early that wave {no} lives at {home.name}")

    def _found(self, what: str) -> Violation:
        """The run ends with it, whoever catches it on its way."""
        violation = Violation(what)
        self._fail(violation)
        return violation

    def _note(self, no: int, row: Row, more: Iterable[Row] = ()) -> None:
        """Whose it is in this form, by what is promised and by ``more`` versions of orders; so what hangs from it."""
        orders = (*self.rows[ORDERS].values(), *more)
        owners = self.owners.setdefault((no, row), set())
        match no:
            case 0:
                owners.add(tables.value_of(row[0]))
            case 1:
                owner = tables.value_of(row[tables.USER_ID])
                owners.add(owner)
                for child, at, to in CHILDREN[ORDERS]:
                    for below in self.rows[child].values():
                        if below[at] == row[to]:
                            self.owners.setdefault((child, below), set()).add(owner)
            case _:
                to = tables.ID if no == tables.ITEMS else tables.CODE
                owners.update(tables.value_of(order[tables.USER_ID]) for order in orders if order[to] == row[1])

    def _owner(self, site: Site, txn: Txn, no: int, row: Row) -> int | None:
        if no in (USERS, ORDERS):
            return tables.owner_in(site.rows, no, row)
        parents = {key: order for key, order in site.rows[ORDERS].items() if (ORDERS, key) not in txn.rows}
        parents |= {key: order for (t, key), order in txn.rows.items() if t == ORDERS and order is not None}
        return tables.owner_in((site.rows[USERS], parents, {}, {}), no, row)
