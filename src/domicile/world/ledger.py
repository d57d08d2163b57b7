"""What the writers were promised: every acknowledged write, and whose home acknowledged it. Pure.

A *mark* is a text that one transaction alone writes. What a transaction would leave is a list of effects; they are
entered when its commit is acknowledged (`Ledger.acknowledge`), or when its answer was lost (`Ledger.doubt`): then they
may be there or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
import math
from typing import NamedTuple

NEVER = math.inf
NOWHERE = ""  # the site of a write whose answer was lost


class Append(NamedTuple):
    """A mark at the end of a list of the user's: ``profile`` or ``address``."""

    user: int
    kind: str
    mark: str


class Insert(NamedTuple):
    """A row with a mark (``order``, ``review``, ``photo``, ``wish``, ``person``). ``shape``: what else must be true of
    it, for an order the number of its items, their amount, and what was paid."""

    user: int
    kind: str
    mark: str
    shape: tuple[int, ...] = ()


class Put(NamedTuple):
    """The quantity of a product in the user's cart; 0 is none."""

    user: int
    product: int
    quantity: int


class Give(NamedTuple):
    """An order belongs to another user now."""

    mark: str
    user: int


class Leave(NamedTuple):
    """The user's account is deleted, with all that it owned."""

    user: int


Effect = Append | Insert | Put | Give | Leave


class Try(NamedTuple):
    """When a transaction was first tried and where it was done. ``epoch`` is that of the word which sent the writer
    there: 0 when nobody did, -1 when it went where it should not (a router that forgot)."""

    user: int
    site: str
    epoch: float
    begun: float


class Written(NamedTuple):
    """When a mark was written, and which site said so. In doubt: `NEVER`, and `NOWHERE`."""

    begun: float
    acknowledged: float
    site: str


@dataclass(slots=True)
class Row:
    """A row with a mark. ``owners`` has one user, or two when it is in doubt whether it was given away."""

    shape: tuple[int, ...]
    owners: set[int]
    written: Written


@dataclass(slots=True)
class Home:
    """Where the user's last write was acknowledged, and where it ever was. ``since``: the first one there."""

    site: str
    epoch: float
    since: float
    ever: set[str]


class Person(NamedTuple):
    """A user as the writers found or made it."""

    market: str
    origin: str


@dataclass(slots=True)
class Ledger:
    """The memory of one run. ``two_homes`` counts writes that one site acknowledged after another had become home."""

    prefix: str
    people: dict[int, Person] = field(default_factory=dict)
    homes: dict[int, Home] = field(default_factory=dict)
    lists: dict[tuple[int, str], dict[str, Written]] = field(default_factory=dict)
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    carts: dict[tuple[int, int], set[int]] = field(default_factory=dict)  # the quantities that may be there
    gone: dict[int, str] = field(default_factory=dict)  # by which site; NOWHERE: in doubt
    audited: Counter[str] = field(default_factory=Counter)  # entries that the shop's own trigger made, by site
    acknowledged: int = 0
    unknown: int = 0
    two_homes: int = 0
    _strays: dict[int, list[tuple[str, float]]] = field(default_factory=dict)

    def acknowledge(self, done: Try, effects: Iterable[Effect], now: float) -> None:
        """The commit was answered at ``now``."""
        self.acknowledged += 1
        self._at(done, now)
        for effect in effects:
            self._enter(effect, done, now, done.site)

    def doubt(self, done: Try, effects: Iterable[Effect]) -> None:
        """The connection broke while the commit was under way."""
        self.unknown += 1
        for effect in effects:
            self._enter(effect, done, NEVER, NOWHERE)

    def _at(self, done: Try, now: float) -> None:
        home = self.homes.get(done.user)
        if home is None:
            origin = self.people[done.user].origin
            self.homes[done.user] = Home(done.site, max(0.0, done.epoch), now, {origin, done.site})
        elif done.site == home.site:
            home.epoch = max(home.epoch, done.epoch)
            self.two_homes += sum(done.begun > acknowledged for _, acknowledged in self._strays.pop(done.user, ()))
        elif done.epoch > home.epoch:
            home.site, home.epoch, home.since = done.site, done.epoch, now
            home.ever.add(done.site)
            if left := [stray for stray in self._strays.pop(done.user, ()) if stray[0] != done.site]:
                self._strays[done.user] = left
        elif done.begun > home.since:
            # Either two homes, or the user has moved back there and nobody has been told: the next write will show.
            self._strays.setdefault(done.user, []).append((done.site, now))

    def _enter(self, effect: Effect, done: Try, now: float, site: str) -> None:
        match effect:
            case Append(user, kind, mark):
                self.lists.setdefault((user, kind), {})[mark] = Written(done.begun, now, site)
            case Insert(user, kind, mark, shape):
                self.rows[kind, mark] = Row(shape, {user}, Written(done.begun, now, site))
            case Put(user, product, quantity):
                if site != NOWHERE:
                    self.carts[user, product] = {quantity}
                elif known := self.carts.get((user, product)):  # else nobody knows what was there before
                    known.add(quantity)
            case Give(mark, user):
                row = self.rows["order", mark]
                row.owners = row.owners | {user} if site == NOWHERE else {user}
            case Leave(user):
                self.gone[user] = site
