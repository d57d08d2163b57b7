"""Which sequences fill the keys that move, at every site, and how far two sites are from giving one value.

Reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

from psycopg import AsyncConnection

from domicile.model.datamap import DataMap, Direction
from domicile.model.ids import (
    Ids,
    KeyOrigin,
    Meeting,
    Numbering,
    Origin,
    SiteSequence,
    ahead,
    by_step,
)
from domicile.model.schema import Column, Schema, Table, TableName
from domicile.model.site import SiteName
from domicile.postgres.failures import told
from domicile.postgres.id_facts import (
    Generator,
    Window,
    column_text,
    paces,
    read_generators,
    read_sequences,
    used,
)
from domicile.postgres.sequences import AHEAD_VALUES_MAX

T = TypeVar("T")
_INTEGERS = ("int2", "int4", "int8", "numeric")
EXPRESSION_SHOWN_MAX = 60


@dataclass(frozen=True, slots=True)
class Place:
    """One site as it is looked at: a connection in autocommit or in a snapshot, and its schema."""

    site: SiteName
    conn: AsyncConnection
    schema: Schema


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was read of all sites: the numberings without their meetings, and how to ask for values in use."""

    places: tuple[Place, ...]
    generators: Mapping[SiteName, tuple[Generator, ...]]
    numberings: tuple[Numbering, ...]

    async def used(
        self, site: SiteName, asked: Sequence[tuple[SiteSequence, Window]], *, given: bool = False
    ) -> list[tuple[int, int] | None]:
        """For each question the values that the site's rows hold in what the sequence fills: the first and the last it
        would come to; with ``given`` also what the site's own sequence has given by now. Windows and answers are in the
        sequence's own direction (`SiteSequence.directed`)."""
        place = next(p for p in self.places if p.site == site)
        questions = [
            (self._columns(site, sequence), _real(sequence, window, None if given else site))
            for sequence, window in asked
        ]
        answers = await used(place.conn, site, questions)
        return [
            None if found is None else _sorted(sequence.sign * found[0], sequence.sign * found[1])
            for (sequence, _), found in zip(asked, answers, strict=True)
        ]

    def _columns(self, site: SiteName, sequence: SiteSequence) -> list[Generator]:
        return list({g.key: g for g in self.generators[site] if g.key in sequence.columns and g.plain}.values())


async def read(places: Sequence[Place], data_map: DataMap) -> Numbers:
    """Every numbering of the map's in-scope keys, as it is now. Raises DomicileError (right-missing)."""
    found = await at_once(*(_generators(place, data_map) for place in places))
    generators = {place.site: mine for place, mine in zip(places, found, strict=True)}
    per_site = await at_once(*(_sequences(p, data_map, generators[p.site]) for p in places))
    numberings = tuple(_numbering(group, places) for group in _grouped(chain.from_iterable(per_site)))
    return Numbers(tuple(places), generators, numberings)


async def read_again(numbers: Numbers, numbering: Numbering, data_map: DataMap) -> Numbering:
    """The same numbering as it is by now: how far its sequences are, and their limits."""
    of = {p.site: [g for g in numbers.generators[p.site] if g.key in numbering.columns] for p in numbers.places}
    per_site = await at_once(*(_sequences(p, data_map, of[p.site]) for p in numbers.places))
    return replace(numbering, sequences=tuple(chain.from_iterable(per_site)))


async def look(places: Sequence[Place], data_map: DataMap) -> Ids:
    """The whole account: numberings with their meetings, and the keys that no sequence numbers."""
    numbers = await read(places, data_map)
    in_use = await _in_use(numbers)
    numberings = tuple(replace(n, meetings=_meetings(n, in_use)) for n in numbers.numberings)
    others = tuple(_others(numbers, data_map))
    return Ids(data_map.dataset, tuple(p.site for p in places), numberings, others)


InUse = Mapping[tuple[SiteSequence, SiteName], int]


async def _in_use(numbers: Numbers) -> InUse:
    """By sequence and site: the first value in use there that the sequence comes to, in its direction."""
    asked = [(s, stepped(n, s, s.directed().next, s.directed().limit)) for n in numbers.numberings for s in n.sequences]
    sites = [p.site for p in numbers.places]
    answers = await at_once(*(numbers.used(site, asked) for site in sites))
    return {
        (sequence, site): found[0]
        for site, of_site in zip(sites, answers, strict=True)
        for (sequence, _), found in zip(asked, of_site, strict=True)
        if found is not None
    }


def _meetings(numbering: Numbering, in_use: InUse) -> tuple[Meeting, ...]:
    """Where two sites come to one value, or one site to a value in use; of a pair of sites the first that happens."""
    found: list[tuple[SiteSequence, SiteName, int, bool]] = []
    for sequence in numbering.sequences:
        found += [
            (sequence, other.site, distance, False)
            for other in rivals(numbering, sequence)
            if sequence.site < other.site and (distance := ahead(sequence, other)) is not None
        ]
        directed = sequence.directed()
        found += [
            (sequence, site, (value - directed.next) // directed.increment, True)
            for (of, site), value in in_use.items()
            if of == sequence
        ]
    first: dict[tuple[SiteName, ...], Meeting] = {}
    for sequence, other_site, values, rows in sorted(found, key=lambda f: f[2]):
        near = values < AHEAD_VALUES_MAX
        meeting = Meeting(numbering.columns, sequence.site, other_site, values, rows, near)
        first.setdefault(tuple(sorted((sequence.site, other_site))), meeting)
    return tuple(first[pair] for pair in sorted(first))


async def at_once(*asked: Awaitable[T]) -> list[T]:
    """All answers, of several sites at once. When one fails the others are waited for first: they hold connections."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [a for a in answers if not isinstance(a, BaseException)]


def rivals(numbering: Numbering, sequence: SiteSequence) -> list[SiteSequence]:
    """The sequences of other sites that fill one of its columns."""
    return [
        s for s in numbering.sequences if s.site != sequence.site and not set(s.columns).isdisjoint(sequence.columns)
    ]


def stepped(numbering: Numbering, sequence: SiteSequence, low: int, high: int) -> Window:
    """The values from ``low`` to ``high`` that it can give. Its step counts only where steps keep it apart from
    another site: one that stands for blocks of ids (Hibernate) may have rows between."""
    step = sequence.directed()
    if any(by_step(sequence, other) for other in rivals(numbering, sequence)):
        return Window(low, high, step.increment, step.next)
    return Window(low, high)


def _real(sequence: SiteSequence, window: Window, site: SiteName | None) -> Window:
    """A window in the sequence's direction as one of values that columns hold. At the sequence's own site nothing
    counts that it has given by then: its writers go on."""
    low, high = _sorted(sequence.sign * window.low, sequence.sign * window.high)
    if window.low > window.high:
        return Window(1, 0)
    own = sequence if site == sequence.site else None
    return Window(max(low, -(2**63)), min(high, 2**63 - 1), window.step, sequence.sign * window.base, own)


def _sorted(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one <= other else (other, one)


async def _generators(place: Place, data_map: DataMap) -> tuple[Generator, ...]:
    tables = [t for t in data_map.written() if t in place.schema.tables]
    keys = {t: _key_columns(place.schema.tables[t], data_map) for t in tables}
    with told(place.site, "defaults of keys"):
        found = await read_generators(place.conn, tables)
    return tuple(
        replace(g, plain=g.plain and place.schema.tables[g.table].column(g.column).base_type in _INTEGERS)
        for g in found
        if g.column in keys[g.table]
    )


def _key_columns(table: Table, data_map: DataMap) -> set[str]:
    """Columns of keys, and columns that owner paths lead to: nobody can have two rows of one value there."""
    led_to = {
        column
        for rule in data_map.tables.values()
        if rule.owner is not None and rule.owner.to_table == table.name
        for column in rule.owner.to_columns
    }
    return {*table.primary_key, *(c for k in table.unique_keys for c in k.columns), *led_to}


async def _sequences(place: Place, data_map: DataMap, generators: Sequence[Generator]) -> list[SiteSequence]:
    filled: dict[TableName, list[Generator]] = {}
    for generator in generators:
        if generator.sequence is not None:
            filled.setdefault(generator.sequence, []).append(generator)
    known = {str(t) for t in data_map.tables}
    found = []
    with told(place.site, "sequences"):
        sequences = await read_sequences(place.conn, place.site, place.schema, filled)
    rates = await paces(place.conn, place.site, place.schema, [{g.table for g in filled[s.name]} for s in sequences])
    for sequence, rate in zip(sequences, rates, strict=True):
        outside = tuple(t for t in sequence.outside if t not in known)
        seconds = sequence.values_left / rate if rate else None
        found.append(replace(sequence, outside=outside, seconds_left=seconds))
    return found


def _grouped(sequences: Iterable[SiteSequence]) -> list[tuple[SiteSequence, ...]]:
    """Sequences that fill a column in common, at whichever site, belong together."""
    groups: list[list[SiteSequence]] = []
    for sequence in sequences:
        joined = [g for g in groups if any(not set(s.columns).isdisjoint(sequence.columns) for s in g)]
        groups = [g for g in groups if g not in joined]
        groups.append([*(s for g in joined for s in g), sequence])
    return sorted((tuple(g) for g in groups), key=lambda g: min(c for s in g for c in s.columns))


def _numbering(group: tuple[SiteSequence, ...], places: Sequence[Place]) -> Numbering:
    columns = tuple(sorted({c for s in group for c in s.columns}))
    lacking = tuple(
        place.site
        for place in places
        if any(c not in {k for s in group if s.site == place.site for k in s.columns} for c in _at(place, columns))
    )
    return Numbering(columns, group, lacking=lacking)


def _at(place: Place, columns: Iterable[str]) -> set[str]:
    """Those of the columns that exist at the site."""
    there = {column_text(t.name, c.name) for t in place.schema.tables.values() for c in t.columns}
    return there.intersection(columns)


def _others(numbers: Numbers, data_map: DataMap) -> Iterator[KeyOrigin]:
    """The keys that no sequence numbers, each once, as the first site that has the table shows it."""
    numbered = {c for n in numbers.numberings for c in n.columns}
    for name in data_map.written():
        place = next((p for p in numbers.places if name in p.schema.tables), None)
        if place is None:
            continue
        table = place.schema.tables[name]
        expressions = {g.column: g.expression for g in numbers.generators[place.site] if g.table == name}
        for key in dict.fromkeys((table.primary_key, *(k.columns for k in table.unique_keys))):
            if key and not any(column_text(name, c) in numbered for c in key):
                yield _origin(table, key, data_map, expressions)


def _origin(table: Table, key: tuple[str, ...], data_map: DataMap, expressions: Mapping[str, str]) -> KeyOrigin:
    columns = [table.column(c) for c in key]
    if parent := _parent(table, key, data_map):
        return KeyOrigin(table.name, key, Origin.PARENT, f"it comes from {parent}, and is as unique as that")
    # A UUID that refers to a row comes again in every row that refers to it.
    owner = data_map.tables[table.name].owner
    referring = {c for r in table.references for c in r.columns} | set(owner.columns if owner is not None else ())
    if any(c.base_type == "uuid" and c.name not in referring for c in columns):
        return KeyOrigin(table.name, key, Origin.RANDOM, "a UUID: no two sites make the same one")
    given = [c for c in columns if expressions.get(c.name) and not c.generated]
    if given:
        shown = expressions[given[0].name]
        shown = shown if len(shown) <= EXPRESSION_SHOWN_MAX else shown[:EXPRESSION_SHOWN_MAX] + "..."
        return KeyOrigin(
            table.name, key, Origin.UNSEEN, f"its default, {shown}, names no sequence: see that sites differ in it"
        )
    return _ungenerated(table, key, columns)


def _ungenerated(table: Table, key: tuple[str, ...], columns: Sequence[Column]) -> KeyOrigin:
    if all(c.base_type in _INTEGERS for c in columns):
        why = "a number without a default or a sequence: the application gives it; see that sites differ in it"
        return KeyOrigin(table.name, key, Origin.UNSEEN, why)
    why = "a value of the application's: nothing numbers it; domicile plan counts the rows that meet one"
    return KeyOrigin(table.name, key, Origin.NATURAL, why)


def _parent(table: Table, key: tuple[str, ...], data_map: DataMap) -> str:
    """The key that a part of this one refers to whole, where it moves along; empty when there is none."""
    scope = set(data_map.written())
    steps = [(r.columns, r.to_table, r.to_columns) for r in table.references]
    rule = data_map.tables[table.name]
    if rule.owner is not None and rule.owner.direction is Direction.TO:
        steps.append((rule.owner.columns, rule.owner.to_table, rule.owner.to_columns))
    for columns, to_table, to_columns in steps:
        if to_table in scope and to_table != table.name and set(columns) <= set(key):
            return f"{to_table} ({', '.join(to_columns)})"
    return ""
