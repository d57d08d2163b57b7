"""A drawn schema as data: tables, how they hang together, how each site lays them out, and what a plan is to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from psycopg import sql

from reliability.schemas.kinds import Kind

Name = tuple[str, str]  # schema, table
SITES = ("source", "target")
COPIED = "copied"  # the role of a shared table whose rows are copied; a site has what its own rows need


class Identity(StrEnum):
    """How the log tells a table's rows apart."""

    PRIMARY = "primary key"
    INDEX = "index"  # replica identity using a unique index; no primary key
    FULL = "full"  # nothing is unique: rows may be there twice
    FULL_KEYED = "full, keyed"  # replica identity full, beside a primary key
    NONE = "none"  # no key at all: cold only


@dataclass(frozen=True, slots=True)
class Col:
    """``kind`` names how values are made (`Shop.kinds`); empty where the server, an owner or a reference fills it.
    ``clause``: what stands behind the type: generated, identity, default, check. ``filled``: not inserted. ``fresh``:
    each value is new. ``family``: as in `kinds.Kind`."""

    name: str
    type: str
    kind: str = ""
    not_null: bool = False
    clause: str = ""
    filled: bool = False
    fresh: bool = False
    family: str = ""


@dataclass(frozen=True, slots=True)
class Ref:
    """Columns that name a row of a table. ``options``: of the foreign key; None: none is declared.
    ``inward``: against the arrow, the other table names this one. ``party``: it names a subject, whoever that is, and
    the map says stub, or null for ``cleared``."""

    columns: tuple[str, ...]
    to: Name
    to_columns: tuple[str, ...]
    options: str | None = ""
    inward: bool = False
    party: bool = False
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A partition: its bound as DDL writes it, and how it is cut itself. ``apart``: made as a table of its own, with
    its columns in another order, and attached."""

    bound: str
    by: str = ""
    parts: tuple[Part, ...] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """How one site lays a table out. ``order``: columns, by position; a negative number is one that is dropped again.
    ``by``: of the partitioning, empty for an ordinary table."""

    order: tuple[int, ...]
    by: str = ""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Tab:
    """One table in scope. ``loose``: references beside the owner path. ``indexes`` and ``checks`` are DDL's own words,
    with {table} for its name."""

    name: Name
    cols: tuple[Col, ...]
    key: tuple[str, ...]
    identity: Identity
    layouts: tuple[Layout, Layout]
    owner: Ref | None = None
    loose: tuple[Ref, ...] = ()
    indexes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    row_security: bool = False
    trigger: str = ""  # '', 'origin' or 'always'

    def col(self, name: str) -> Col:
        """The column of that name."""
        return next(c for c in self.cols if c.name == name)


@dataclass(frozen=True, slots=True)
class Shop:
    """A whole schema. ``tables``: the subjects first, parents before children. ``beside``: whole statements for tables
    out of scope, with their roles in ``roles``. ``types``: whole statements, in an order that works; ``filler``: types
    that only the target has, so that object ids differ. ``crossing``: rows of one subject may refer to another's, so
    they move together. ``refused``: by mode (live, cold), what the plan's refusal must name; absent: none is due.
    ``source_only``, ``target_only``: whole statements that make one site's tables differ."""

    seed: int
    schemas: tuple[str, ...]
    tables: tuple[Tab, ...]
    subject_key: str
    market: str
    kinds: Mapping[str, Kind] = field(repr=False, compare=False)
    types: tuple[str, ...] = ()
    filler: int = 0
    extensions: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    roles: Mapping[Name, str] = field(default_factory=dict)
    crossing: bool = False
    cold: bool = False
    low_source: bool = True  # sequences and keys of the source begin below the target's
    refused: Mapping[str, str] = field(default_factory=dict)
    source_only: tuple[str, ...] = ()
    target_only: tuple[str, ...] = ()
    by_file: bool = False
    wave_subjects: int = 500
    hold: bool = True  # the way back: held, or streamed

    @property
    def subject(self) -> Tab:
        """The subjects' table."""
        return self.tables[0]

    @property
    def parties(self) -> tuple[tuple[Tab, Ref], ...]:
        """The references to a second person, with their tables."""
        return tuple((t, r) for t in self.tables for r in t.loose if r.party)

    def tab(self, name: Name) -> Tab:
        """The table in scope of that name."""
        return next(t for t in self.tables if t.name == name)

    def path(self, tab: Tab) -> tuple[Ref, ...]:
        """From a row to its subject."""
        steps = []
        while tab.owner is not None:
            steps.append(tab.owner)
            tab = self.tab(tab.owner.to)
        return tuple(steps)

    def below(self, tab: Tab) -> Iterator[Tab]:
        """The table, and those whose owner paths lead through it."""
        for one in self.tables:
            if one is tab or any(step.to == tab.name for step in self.path(one)):
                yield one


def ident(*parts: str) -> sql.Identifier:
    return sql.Identifier(*parts)


def owned_rows(shop: Shop, tab: Tab) -> tuple[sql.Composed, sql.Composable]:
    """``table as t left join ...``, and the expression of the owner's key, null where nobody owns the row. Written from
    the shop, and not from what domicile makes of its map."""
    joins: list[sql.Composable] = [sql.SQL("{} as t").format(ident(*tab.name))]
    at, path = "t", shop.path(tab)
    for number, step in enumerate(path, 1):
        last = number == len(path) and step.to_columns == (shop.subject_key,)
        if last and not step.inward:
            return sql.SQL(" ").join(joins), ident(at, step.columns[0])
        alias = f"o{number}"
        pairs = [
            sql.SQL("{} = {}").format(ident(at, ours), ident(alias, theirs))
            for ours, theirs in zip(step.columns, step.to_columns, strict=True)
        ]
        joins.append(
            sql.SQL("left join {} as {} on {}").format(ident(*step.to), ident(alias), sql.SQL(" and ").join(pairs))
        )
        at = alias
    return sql.SQL(" ").join(joins), ident(at, shop.subject_key)


def shown(names: Sequence[str]) -> str:
    return ", ".join(names)
