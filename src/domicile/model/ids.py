"""Who numbers what: the sequences that fill keys at the sites of a dataset, and when two of them give one value. Pure.

A *numbering* is what fills one key, or several keys through one sequence, at all sites: one sequence or more at each.
Two sites number *apart* when no value can come from both: their ranges do not meet, or their steps never do (1, 3, 5
and 2, 4, 6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import gcd

from domicile.model.schema import TableName
from domicile.model.site import DatasetName, SiteName

LIMITS = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


class Style(StrEnum):
    """How sites are made to number apart."""

    RANGES = "ranges"  # each site numbers in a range of its own
    STEPS = "steps"  # each site gives every n-th value


class Origin(StrEnum):
    """Where the values of a key come from."""

    SEQUENCE = "sequence"
    PARENT = "parent"  # from the row that it refers to
    RANDOM = "random"  # a UUID
    NATURAL = "natural"  # a value of the application's world: a name, a date, an e-mail address
    UNSEEN = "unseen"  # a number that no sequence known here gives


@dataclass(frozen=True, slots=True)
class KeyOrigin:
    """One key of one table that no sequence fills: why nothing is to be done, or why it cannot be seen to here."""

    table: TableName
    columns: tuple[str, ...]
    origin: Origin
    why: str


@dataclass(frozen=True, slots=True)
class SiteSequence:
    """One sequence at one site. ``columns`` are the keys that it fills, ``outside`` what else it fills, outside of the
    data map. ``column_highest`` bounds the narrowest of the columns; ``plain`` is False where a default makes another
    value of the sequence's."""

    site: SiteName
    name: TableName
    columns: tuple[str, ...]
    type_name: str
    increment: int
    lowest: int
    highest: int
    start: int
    last: int
    called: bool
    cache: int
    cycle: bool
    owner: str
    owned: bool
    column_highest: int = LIMITS["bigint"]
    plain: bool = True
    outside: tuple[str, ...] = ()
    seconds_left: float | None = None

    @property
    def next(self) -> int:
        """The value that it gives next."""
        return self.last + self.increment if self.called else self.last

    @property
    def sign(self) -> int:
        """1 for a sequence that counts upward, -1 for one that counts downward."""
        return 1 if self.increment > 0 else -1

    @property
    def limit(self) -> int:
        """The last value that it may give and its columns can hold."""
        if self.sign > 0:
            return min(self.highest, self.column_highest)
        return max(self.lowest, -self.column_highest - 1)

    @property
    def type_limit(self) -> int:
        """The last value that its type and its columns can hold, whatever its own limit is."""
        bound = min(LIMITS[self.type_name], self.column_highest)
        return bound if self.sign > 0 else -bound - 1

    @property
    def values_left(self) -> int:
        """How many values it has left."""
        return max(0, (self.limit - self.next) // self.increment + 1)

    def directed(self) -> SiteSequence:
        """The same as one that counts upward: what counts downward is mirrored at zero."""
        if self.sign > 0:
            return self
        return replace(
            self,
            increment=-self.increment,
            lowest=-self.highest,
            highest=-self.lowest,
            start=-self.start,
            last=-self.last,
            # Minus one: the negative side of an integer type has one value more.
            column_highest=self.column_highest + 1,
        )


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two sites (or a site and its own rows: ``site`` twice) that come to one value.

    ``values_ahead``: so many values the one behind gives until then. ``rows`` is True where the other site has used
    the value already. ``near`` is False where nobody lives to see it."""

    columns: tuple[str, ...]
    site: SiteName
    other: SiteName
    values_ahead: int
    rows: bool
    near: bool


@dataclass(frozen=True, slots=True)
class Numbering:
    """What numbers ``columns``, at every site. ``lacking``: sites whose tables have no sequence there."""

    columns: tuple[str, ...]
    sequences: tuple[SiteSequence, ...]
    meetings: tuple[Meeting, ...] = ()
    lacking: tuple[SiteName, ...] = ()

    @property
    def apart(self) -> bool:
        """True when no site comes to a value of another one's, or of its own rows, that anybody lives to see."""
        return not any(m.near for m in self.meetings)


@dataclass(frozen=True, slots=True)
class Ids:
    """What ``domicile ids`` has found. ``others``: keys that no sequence numbers."""

    dataset: DatasetName
    sites: tuple[SiteName, ...]
    numberings: tuple[Numbering, ...]
    others: tuple[KeyOrigin, ...]

    @property
    def apart(self) -> bool:
        """True when no two sites number in the same range, as far as sequences tell."""
        return all(n.apart for n in self.numberings)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of one sequence. ``restart`` is where it begins anew; ``beyond`` a value that it is to pass,
    in its own step, never backwards. ``until`` is the last value that it may have given by then, where it begins anew:
    those who stay have been led past it. ``obstacle`` says why this role cannot do it."""

    before: SiteSequence
    increment: int
    lowest: int
    highest: int
    start: int
    restart: int | None = None
    beyond: int | None = None
    until: int | None = None
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A numbering that is left as it is, why, and what to do."""

    columns: tuple[str, ...]
    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class IdPlan:
    """What makes the sites number apart, in the order in which it is to be done."""

    dataset: DatasetName
    style: Style
    sites: tuple[SiteName, ...]
    changes: tuple[Change, ...]
    blocked: tuple[Blocked, ...]
    apart: int  # numberings with nothing to do


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asks for: the sites in their order; ``start`` and ``size`` are 0 where they are left to us.

    ``start`` is the first value of the first new range (or the value above which steps begin); ``size`` the values of
    each range, or the step."""

    style: Style
    sites: tuple[SiteName, ...]
    start: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class IdsChanged:
    """What ``domicile ids --apply`` did: changes in their order, numberings that it left, and how many were apart."""

    dataset: DatasetName
    changes: tuple[Change, ...]
    blocked: tuple[Blocked, ...]
    apart: int


def by_step(one: SiteSequence, other: SiteSequence) -> bool:
    """True when their steps keep them apart, wherever they are."""
    return (one.next - other.next) % gcd(one.increment, other.increment) != 0


def ahead(one: SiteSequence, other: SiteSequence) -> int | None:
    """How many values the one that is behind gives until both have come to one value; None when they never do."""
    if by_step(one, other):
        return None
    if one.sign != other.sign:
        return _head_on(one, other)
    a, b = one.directed(), other.directed()
    first = max(_begin(a), _begin(b))
    if first > min(a.limit, b.limit):
        return None
    return max(max(0, first - s.next) // s.increment for s in (a, b))


def _begin(s: SiteSequence) -> int:
    return s.lowest if s.cycle else s.next


def _head_on(one: SiteSequence, other: SiteSequence) -> int | None:
    up, down = (one, other) if one.sign > 0 else (other, one)
    if max(up.next, down.limit) > min(up.limit, down.next):
        return None
    return (down.next - up.next) // (up.increment - down.increment)
