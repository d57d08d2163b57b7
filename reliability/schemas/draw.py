"""A shop at random: which tables there are, how they lead to their subject, and what else refers to what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from reliability.schemas import kinds, twists
from reliability.schemas.columns import APART, Columns
from reliability.schemas.kinds import Kind, one_of
from reliability.schemas.layouts import CUTS, draw_layouts
from reliability.schemas.names import Namer, quoted
from reliability.schemas.shape import COPIED, Col, Identity, Layout, Name, Ref, Shop, Tab
from reliability.schemas.values import EXTENSION_KEYS, EXTENSIONS, draw_types

TABLES_MAX, STEPS_MAX = 10, 5
CODES = ("A", "b", "ß")
MOVING = "IN"
_ON_DELETE = ("", " on delete cascade", " on delete cascade", " on delete restrict", " on delete set null")
_ON_UPDATE = ("", "", " on update cascade")
_LATER = ("", "", "", " deferrable", " deferrable initially deferred")
_UNDRAWN = (Layout(()), Layout(()))


@dataclass(frozen=True, slots=True)
class Ground:
    """What both servers can do. ``majors``: of source and target."""

    majors: tuple[int, int] = (18, 18)
    extensions: frozenset[str] = frozenset()
    xml: bool = False


class Drawer:
    """One drawing. `shop` once."""

    def __init__(self, dice: Random, ground: Ground, seed: int, tables_max: int) -> None:
        self._dice, self._seed, self._tables_max = dice, seed, tables_max
        spaces = Namer(dice)
        self._schemas = tuple(spaces.fresh(0.4) for _ in range(dice.randrange(1, 3)))
        self._names = {schema: Namer(dice) for schema in self._schemas}
        self._types = draw_types(dice, self._schemas[0], self._names[self._schemas[0]].fresh)
        self._extensions = tuple(e for e in sorted(ground.extensions & EXTENSIONS.keys()) if dice.random() < 0.5)
        plain = {**kinds.PLAIN, **self._types.kinds, **({"xml": kinds.XML} if ground.xml else {})}
        for extension in self._extensions:
            plain |= EXTENSIONS[extension]
        own = sorted({*self._types.kinds, *(k for e in self._extensions for k in EXTENSIONS[e])})
        self._kinds: dict[str, Kind] = plain
        self._columns = Columns(dice, plain, own, self._types.keys, min(ground.majors) >= 18)
        self._tables: list[Tab] = []
        self._cuts: dict[Name, str] = {}
        self._code: Name | None = None
        self._subject_key = ""

    def shop(self) -> Shop:
        """The drawing."""
        dice = self._dice
        beside, roles = self._beside()
        market = self._subject()
        for _ in range(dice.randrange(self._tables_max)):
            self._owned()
        crossing = self._friends()
        self._loose_references()
        if not crossing:
            self._parties(Random(f"{self._seed} parties"))
            self._tables = _cleared(Random(f"{self._seed} cleared"), self._tables)
        tables = [
            replace(t, layouts=draw_layouts(dice, t.cols, t.key, self._cuts.get(t.name, ""))) for t in self._tables
        ]
        shop = Shop(
            seed=self._seed,
            schemas=self._schemas,
            tables=tuple(tables),
            subject_key=self._subject_key,
            market=market,
            kinds=self._all_kinds(),
            types=tuple(self._types.statements),
            filler=dice.randrange(4),
            extensions=self._extensions,
            beside=beside,
            roles=self._copied(Random(f"{self._seed} copied"), roles),
            crossing=crossing,
            cold=dice.random() < 0.15,
            low_source=dice.random() < 0.6,
            by_file=dice.random() < 0.2 and tables[0].col(self._subject_key).family in ("int", "uuid"),
            wave_subjects=_together(tables, 500 if crossing else dice.choice((500, 500, 4))),
            hold=dice.random() < 0.7,
        )
        return twists.draw(dice, shop) if dice.random() < 0.15 else shop

    def _all_kinds(self) -> dict[str, Kind]:
        """How values of every column are made."""
        keys = {**kinds.KEYS, **kinds.COLD_KEYS, **EXTENSION_KEYS, **self._types.keys}
        beside = {"code": Kind("text", one_of(*CODES)), "apart": APART}
        return {**self._kinds, **CUTS, **beside, **{"key " + name: kind for name, kind in keys.items()}}

    def _name(self) -> Name:
        schema = self._dice.choice(self._schemas)
        return schema, self._names[schema].fresh()

    def _beside(self) -> tuple[tuple[str, ...], dict[Name, str]]:
        """Tables of other roles, and a view."""
        dice = self._dice
        statements, roles = list[str](), dict[Name, str]()
        if dice.random() < 0.4:
            self._code = name = self._name()
            listed = ", ".join(f"('{code}', {n})" for n, code in enumerate(CODES))
            statements.append(f"create table {quoted(*name)} (code text primary key, n integer)")
            statements.append(f"insert into {quoted(*name)} values {listed}")  # noqa: S608  # of constants
            roles[name] = dice.choice(("reference", "shared"))
        if dice.random() < 0.4:
            name = self._name()
            unlogged = dice.choice(("", "unlogged "))
            statements.append(f"create {unlogged}table {quoted(*name)} (at timestamptz default now(), what oid)")
            statements.append(f"insert into {quoted(*name)} default values")
            roles[name] = "local"
        if dice.random() < 0.3:
            statements.append(f"create materialized view {quoted(*self._name())} as select 1 as one")
        return tuple(statements), roles

    def _copied(self, dice: Random, roles: dict[Name, str]) -> dict[Name, str]:
        """Rows of a shared table may be copied to where they are missing. Dice of its own: other drawings stay what
        they are."""
        if self._code is None or roles[self._code] != "shared" or dice.random() < 0.4:
            return roles
        return {**roles, self._code: COPIED}

    def _subject(self) -> str:
        """The subjects' table; returns the column of their market."""
        dice, names = self._dice, Namer(self._dice)
        key = self._columns.new(names)
        cols = [key, Col(names.fresh(), "text", not_null=True)]
        market = cols[1].name
        self._subject_key = key.name
        if dice.random() < 0.15:  # the subject's key is not the primary key
            other = self._columns.new(names)
            self._finish(names, [other, *cols], (other.name,), Identity.PRIMARY, None)
            tab = self._tables[0]
            unique = f"alter table {{table}} add unique ({quoted(key.name)})"
            self._tables[0] = replace(tab, indexes=(unique, *tab.indexes))
        else:
            self._finish(names, cols, (key.name,), Identity.PRIMARY, None)
        return market

    def _owned(self) -> None:
        dice, names = self._dice, Namer(self._dice)
        parents = [t for t in self._tables if self._depth(t) < STEPS_MAX and t.key]
        parent = dice.choice([self._tables[0], *parents])
        to = (self._subject_key,) if parent is self._tables[0] else parent.key
        may_be_null = dice.random() < 0.2
        owner = [self._columns.like(parent.col(n), names.fresh(), not_null=not may_be_null) for n in to]
        cols, key, identity = self._columns.key(names, owner)
        options: str | None = None
        if dice.random() < 0.8:
            deed = dice.choice(_ON_DELETE if may_be_null else _ON_DELETE[:4])
            options = deed + dice.choice(_ON_UPDATE) + dice.choice(_LATER)
        ref = Ref(tuple(c.name for c in owner), parent.name, to, options)
        self._finish(names, cols, key, identity, ref)

    def _depth(self, tab: Tab) -> int:
        steps = 0
        while (owner := tab.owner) is not None:
            steps += 1
            tab = next(t for t in self._tables if t.name == owner.to)
        return steps

    def _finish(
        self, names: Namer, cols: list[Col], key: tuple[str, ...], identity: Identity, owner: Ref | None
    ) -> None:
        """Its other columns, and how it may be cut."""
        dice, name = self._dice, self._name()
        if dice.random() < 0.3:
            if owner is None or (key and dice.random() < 0.3):
                # Of a subject whose key is another than the primary one, that could not be unique.
                self._cuts[name] = key[0] if owner is not None or key == (self._subject_key,) else ""
            else:
                kind = dice.choice(sorted(CUTS))
                col = Col(
                    names.fresh(),
                    CUTS[kind].type,
                    kind=kind,
                    not_null=bool(key) or "date" in kind,
                    family=CUTS[kind].family,
                )
                cols.append(col)
                key, self._cuts[name] = ((*key, col.name) if key else key), col.name
        # Since 18 a generated column in the identity keeps a table out of every publication.
        cols += self._columns.plain(names, made=identity not in (Identity.FULL, Identity.FULL_KEYED))
        own = owner.columns if owner else ()
        indexes, checks = self._columns.extras(names, cols, own, cut=bool(self._cuts.get(name)))
        if self._code and dice.random() < 0.3:
            col = Col(names.fresh(), "text", kind="code")
            cols.append(col)
            checks.append(f"foreign key ({quoted(col.name)}) references {quoted(*self._code)}")
        trigger = "origin" if dice.random() < 0.25 else ""
        row_security = dice.random() < 0.1
        tab = Tab(
            name, tuple(cols), key, identity, _UNDRAWN, owner, (), tuple(indexes), tuple(checks), row_security, trigger
        )
        self._tables.append(tab)

    def _friends(self) -> bool:
        """Subjects may refer to each other."""
        if self._dice.random() < 0.7:
            return False
        self._refer(0, self._tables[0], (self._subject_key,))
        return True

    def _loose_references(self) -> None:
        """Rows refer to others of the same subject: of their own table, of any other, in circles."""
        for at, tab in enumerate(self._tables[1:], 1):
            if self._dice.random() < 0.2:
                others = [t for t in self._tables[1:] if t.key]
                if others:
                    to = self._dice.choice([tab, *others] if tab.key else others)
                    self._refer(at, to, to.key)

    def _always_owned(self, tab: Tab) -> bool:
        """Foreign keys alone see to it that each row has an owner."""
        while (owner := tab.owner) is not None:
            if owner.inward or owner.options is None or not all(tab.col(name).not_null for name in owner.columns):
                return False
            tab = next(t for t in self._tables if t.name == owner.to)
        return True

    def _parties(self, dice: Random) -> None:
        """Rows refer to a second subject, whoever that is. Dice of its own: other drawings stay what they are."""
        if dice.random() < 0.7 or self._cuts.get(self._tables[0].name) or self._tables[0].loose:
            return
        for at in sorted(dice.sample(range(len(self._tables)), min(2, len(self._tables)))):
            names = Namer(dice)
            for col in self._tables[at].cols:
                names.of(col.name)
            key = self._tables[0].col(self._subject_key)
            col = Columns(dice, {}, [], {}, False).like(key, names.fresh(), not_null=False)
            options = dice.choice(_LATER)
            ref = Ref((col.name,), self._tables[0].name, (self._subject_key,), options, party=True)
            tab = self._tables[at]
            self._tables[at] = replace(tab, cols=(*tab.cols, col), loose=(*tab.loose, ref))

    def _refer(self, at: int, to: Tab, to_columns: tuple[str, ...]) -> None:
        dice, tab = self._dice, self._tables[at]
        names = Namer(dice)
        for col in tab.cols:
            names.of(col.name)
        cols = [self._columns.like(to.col(n), names.fresh(), not_null=False) for n in to_columns]
        options: str | None = None
        if dice.random() < 0.8:
            options = dice.choice(_ON_DELETE) + dice.choice(_ON_UPDATE) + dice.choice(_LATER)
        # A row that may come to be nobody's stays: it would keep what it refers to from being purged, and be missed by
        # what refers to it.
        if not self._always_owned(tab) or not self._always_owned(to):
            return
        ref = Ref(tuple(c.name for c in cols), to.name, to_columns, options)
        self._tables[at] = replace(tab, cols=(*tab.cols, *cols), loose=(*tab.loose, ref))


def _cleared(dice: Random, tables: Iterable[Tab]) -> list[Tab]:
    """References to a second subject are set to null in some tables, where a key tells the rows apart. Dice of its own,
    too."""
    drawn = []
    for tab in tables:
        keyed = tab.identity in (Identity.PRIMARY, Identity.FULL_KEYED)
        chosen = any(ref.party for ref in tab.loose) and keyed and dice.random() < 0.5
        loose = tuple(replace(ref, cleared=ref.party) for ref in tab.loose) if chosen else tab.loose
        drawn.append(replace(tab, loose=loose))
    return drawn


def _together(tables: Iterable[Tab], wave_subjects: int) -> int:
    """Who is named by a reference that is cleared must not move in a later wave."""
    return 500 if any(ref.cleared for tab in tables for ref in tab.loose) else wave_subjects


def draw(dice: Random, ground: Ground, seed: int = 0, tables_max: int = TABLES_MAX) -> Shop:
    """A shop; equal dice draw equal shops. ``seed`` is that of its rows and writers, and of who the second persons
    in rows of two people are."""
    return Drawer(dice, ground, seed, tables_max).shop()
