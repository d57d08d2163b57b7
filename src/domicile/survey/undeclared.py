"""References that no foreign key declares: found by name, type and index, believed as far as values were found.

A reference is *proven* when every value that was looked at is a key of the other table, and that is no coincidence:
the name says the table, or the values (texts, UUIDs, numbers of a key with gaps) cannot be there by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from domicile.model.datamap import Direction, OwnerStep
from domicile.model.schema import Column, Reference, Schema, Table, TableName
from domicile.survey.contained import SMALL_ROWS, Contained, Pair, contained, contained_all, probe
from domicile.survey.measure import Measure
from domicile.survey.names import (
    NameIndex,
    Said,
    acts_on,
    comparable_keys,
    glued_stem,
    is_about_persons,
    is_telling,
    referable,
    says_person,
)
from domicile.survey.words import comparable, looks_like_identifier, names_table, words

BELIEVED_SHARE = 0.95
NAMED_SHARE = 0.5  # of the values of a column whose name says what they are: the rest is gone, or never was there
BY_VALUES_ALONE_MIN = 20  # fewer distinct values are contained in any dense key by chance
TELLING_MIN = 3  # texts or UUIDs that are found where the name says
INDEXED_MIN = 5  # numbers that are found where the name says, in a column that is looked up by
CHANCE_LOG10_MAX = -6.0  # numbers found by chance once in a million times are found on purpose
CANDIDATES_MAX = 3
RIVALS_MAX = 20
KIND_WORDS = frozenset({"type", "kind", "class", "model", "table"})


@dataclass(frozen=True, slots=True)
class Undeclared:
    """Columns that may refer to another table's key. ``measured`` is None where nothing could be measured."""

    step: OwnerStep
    named: Said
    measured: Contained | None
    telling: bool = False  # texts or UUIDs
    indexed: bool = False
    suffixed: bool = True  # the name says that it identifies something: user_id, not user
    polymorphic: str = ""  # the column that says which table is meant, where there is one
    rival: TableName | None = None  # another table that holds the same values, and fits the name as well
    own_key: bool = False  # the column is its table's whole primary key

    @property
    def proven(self) -> bool:
        """Whether an owner path may follow it without a person's word."""
        found = self.measured
        if found is None or not found.complete or self.polymorphic or self.rival is not None:
            return False
        by_chance = not self.telling and found.chance_log10 > CHANCE_LOG10_MAX
        if self.named is Said.NOTHING or (self.named is Said.TABLE and by_chance and not self.suffixed):
            # Two tables may number their rows alike.
            alike = self.own_key and not self.telling
            return not by_chance and not alike and found.distinct >= BY_VALUES_ALONE_MIN
        least = TELLING_MIN if self.telling else INDEXED_MIN if self.indexed else BY_VALUES_ALONE_MIN
        return found.distinct >= least

    @property
    def says_a_table(self) -> bool:
        """Whether its rows can be compared with an owner path: meant for one table, and not perhaps by chance."""
        found = self.measured
        if self.polymorphic or found is None:
            return False
        return self.telling or (self.named is not Said.NOTHING and found.share >= BELIEVED_SHARE)

    @property
    def believed(self) -> bool:
        """Whether it is worth a person's look."""
        found = self.measured
        if found is None or not found.distinct:
            return self.named is Said.TABLE
        if self.polymorphic:
            return found.found > 0
        if self.telling and found.found >= BY_VALUES_ALONE_MIN:
            return True  # some rows are subjects', whoever the others are: people of other servers, or who are gone
        if self.named is Said.NOTHING:
            return found.distinct >= BY_VALUES_ALONE_MIN and found.share >= BELIEVED_SHARE
        return found.share >= NAMED_SHARE

    def reference_of(self, table: TableName) -> Reference:
        """As a reference of that table, marked as not declared."""
        return Reference(table, self.step.columns, self.step.to_table, self.step.to_columns, declared=False)

    @property
    def said(self) -> str:
        """What speaks for it, and what was measured."""
        said = {Said.TABLE: "by its name", Said.PERSON: "its name says a person", Said.NOTHING: "by its values alone"}
        text = said[self.named]
        if self.measured is None:
            text += ", not measured"
        elif not self.measured.distinct:
            text += "; there are no values to measure"
        else:
            text += f"; {self.measured.found} of {self.measured.distinct} distinct values sampled are found there"
            if not self.telling and self.measured.complete and self.measured.chance_log10 > CHANCE_LOG10_MAX:
                text += ", which numbers of a key without gaps may be by chance"
        if self.indexed:
            text += "; indexed"
        if self.rival:
            text += f"; all are found in {self.rival} too"
        if self.polymorphic:
            text += f"; {self.polymorphic} seems to say which table is meant, so that no one path fits all rows"
        return text


class Finder:
    """Looks for undeclared references, table by table, in one schema with one subject."""

    def __init__(self, measure: Measure, schema: Schema, subject: TableName, index: NameIndex | None = None) -> None:
        self._measure = measure
        self._schema = schema
        self._subject = schema.tables[subject]
        self._index = index or NameIndex(schema)

    async def find(self, table: Table) -> tuple[Undeclared, ...]:
        """Of one table: one reference a column, the best that is believed."""
        asked = {c.name: pairs for c in self._open_columns(table) if (pairs := self._pairs(table, c))}
        measured = await self._measured(table, [pair for pairs in asked.values() for _, pair in pairs])
        found: list[Undeclared] = []
        for name, pairs in asked.items():
            if (best := await self._best(table, table.column(name), pairs, measured)) is not None:
                found.append(best)
        return (*found, *await self._composite(table, found))

    async def _measured(self, table: Table, pairs: list[Pair]) -> Mapping[Pair, Contained | None]:
        """What is worth measuring, measured; nothing in a table without rows, where only names can be looked at."""
        if not pairs or not table.rows_estimate:
            return {}
        numbers = {p: table.column(p.columns[0]).base_type in ("int2", "int4", "int8") for p in pairs}
        if table.rows_estimate > SMALL_ROWS:
            numbers = {p: numbers[p] for p in await probe(self._measure, table, numbers)}
        return await contained_all(self._measure, table, numbers)

    def _open_columns(self, table: Table) -> Iterable[Column]:
        """Columns that may refer to something: neither declared to, nor a key that a sequence fills."""
        declared = {r.columns[0] for r in table.references if len(r.columns) == 1}
        own_key = table.primary_key if len(table.primary_key) == 1 else ()
        for column in table.columns:
            if column.name in declared or column.generated:
                continue
            is_own = names_table(column.name, table.name.name)
            if column.name in own_key and (column.default_sequence or column.identity or is_own):
                continue
            if column.name in table.primary_key and is_own:
                continue  # order_no, beside the branch
            yield column

    def _pairs(self, table: Table, column: Column) -> list[tuple[Said, Pair]]:
        """What to compare a column with, the likeliest first."""
        meant = [m.table for m in self._index.meant(table, column)[:CANDIDATES_MAX]]
        pairs = [(Said.TABLE, Pair((column.name,), t, (k,))) for t in meant for k in self._keys(column, t)]
        if table.name == self._subject.name or self._subject.name in meant:
            return pairs
        person = says_person(column.name)
        # So few rows cannot show by values alone what their name does not say.
        enough = person or table.rows_estimate >= BY_VALUES_ALONE_MIN
        if enough and (person or is_telling(column) or self._may_identify(table, column)):
            said = Said.PERSON if person else Said.NOTHING
            to_table = self._subject.name
            pairs += [(said, Pair((column.name,), to_table, (k,))) for k in self._keys(column, to_table)]
        return pairs

    def _keys(self, column: Column, to_table: TableName) -> tuple[str, ...]:
        return comparable_keys(column, self._schema.tables[to_table])

    @staticmethod
    def _may_identify(table: Table, column: Column) -> bool:
        return (
            looks_like_identifier(column.name)
            or bool(glued_stem(column.name))
            or column.name in table.primary_key
            or any(p[:1] == (column.name,) for p in table.index_prefixes)
        )

    async def _best(
        self,
        table: Table,
        column: Column,
        pairs: Iterable[tuple[Said, Pair]],
        measured: Mapping[Pair, Contained | None],
    ) -> Undeclared | None:
        found: list[Undeclared] = []
        for named, pair in pairs:
            named_only = not table.rows_estimate and _names_owner(named, column)
            if pair not in measured and not named_only:
                continue  # refuted at a quick look, or nothing to look at
            candidate = await self._candidate(table, column, named, pair, measured.get(pair))
            if candidate.proven:
                return candidate
            if candidate.believed or (named_only and not found):
                found.append(candidate)
        return max(found, key=lambda u: (u.named, u.measured.share if u.measured else 0.0), default=None)

    async def _candidate(
        self, table: Table, column: Column, named: Said, pair: Pair, measured: Contained | None
    ) -> Undeclared:
        rival = None
        if measured and measured.complete and not is_telling(column) and named is not Said.NOTHING:
            rival = await self._rival(table, column, named, pair)
        return Undeclared(
            OwnerStep(pair.columns, Direction.TO, pair.to_table, pair.to_columns),
            named,
            measured,
            telling=is_telling(column),
            indexed=any(p[:1] == (column.name,) for p in table.index_prefixes) or column.name in table.primary_key[:1],
            suffixed=looks_like_identifier(column.name) or bool(glued_stem(column.name)) or says_person(column.name),
            # "room_type" beside "room_id" is the room's own where all values are rooms', and not by chance.
            polymorphic="" if _is_one_table(named, measured, column) else kind_column(table, column.name),
            rival=rival,
            own_key=table.primary_key == (column.name,),
        )

    async def _rival(self, table: Table, column: Column, named: Said, pair: Pair) -> TableName | None:
        """Another table that the name fits as well, and whose keys hold all the numbers too."""
        if named is Said.TABLE:
            meant = self._index.meant(table, column)
            length = next(m.words for m in meant if m.table == pair.to_table)
            # The table beside it is meant, or the subject; else a name in two schemas means either.
            if pair.to_table.schema == table.name.schema or pair.to_table == self._subject.name:
                return None
            rivals = [m.table for m in meant if m.words == length and m.table != pair.to_table]
        else:
            rivals = [t for t in self._persons if t not in (pair.to_table, table.name)]
        pairs = [Pair((column.name,), t, (k,)) for t in rivals[:RIVALS_MAX] for k in self._keys(column, t)[:1]]
        for other in await probe(self._measure, table, dict.fromkeys(pairs, True)):
            measured = await contained(self._measure, table, other)
            if measured is not None and measured.complete:
                return other.to_table
        return None

    @cached_property
    def _persons(self) -> list[TableName]:
        """Tables of people, the largest first; not those that refer to the subject themselves."""
        found = [t for n, t in self._schema.tables.items() if is_about_persons(n) and referable(t)]
        others = [t for t in found if not self._refers_to_subject(t)]
        return [t.name for t in sorted(others, key=lambda t: (-t.rows_estimate, t.name))]

    def _refers_to_subject(self, table: Table) -> bool:
        subject = self._subject.name
        return any(r.to_table == subject for r in table.references) or any(
            m.table == subject for c in table.columns for m in self._index.meant(table, c)[:1]
        )

    @cached_property
    def _composite_keys(self) -> list[tuple[Table, tuple[str, ...]]]:
        return [(t, t.primary_key) for t in self._schema.tables.values() if len(t.primary_key) > 1]

    async def _composite(self, table: Table, found: Iterable[Undeclared]) -> tuple[Undeclared, ...]:
        """References by several columns that are called like another table's key, all of them."""
        names = {c.name for c in table.columns}
        single = {u.step.columns[0] for u in found if u.measured} | {c for r in table.references for c in r.columns}
        pairs = [
            Pair(key, other.name, key)
            for other, key in self._composite_keys
            if other.name != table.name
            and names.issuperset(key)
            and not single.issuperset(key)
            and all(comparable(table.column(c), other.column(c)) for c in key)
        ]
        asked = dict.fromkeys(pairs[:CANDIDATES_MAX], True)
        kept = await probe(self._measure, table, asked) if table.rows_estimate else []
        believed: list[Undeclared] = []
        for pair in kept:
            measured = await contained(self._measure, table, pair)
            step = OwnerStep(pair.columns, Direction.TO, pair.to_table, pair.to_columns)
            indexed = any(set(p[: len(pair.columns)]) == set(pair.columns) for p in table.index_prefixes)
            candidate = Undeclared(step, Said.TABLE, measured, indexed=indexed)
            if candidate.believed:
                believed.append(candidate)
        return tuple(believed)


def _is_one_table(named: Said, measured: Contained | None, column: Column) -> bool:
    if named is not Said.TABLE or measured is None or not measured.complete or measured.distinct < TELLING_MIN:
        return False
    return is_telling(column) or measured.chance_log10 <= CHANCE_LOG10_MAX


def _names_owner(named: Said, column: Column) -> bool:
    """Whether the name alone, of a column without rows, is worth a question: that table, or a person who may be the
    owner."""
    return named is Said.TABLE or (named is Said.PERSON and not acts_on(column.name))


def kind_column(table: Table, name: str) -> str:
    """``commentable_type`` beside ``commentable_id``: the mark of a polymorphic reference."""
    stem = words(name)[:-1]
    glued = {f"{glued_stem(name)}{w}" for w in KIND_WORDS} if glued_stem(name) else set()
    for other in table.columns:
        said = words(other.name)
        apart = bool(stem) and said[:-1] == stem and said[-1] in KIND_WORDS
        if other.name != name and (apart or other.name.lower() in glued) and other.base_type != "bool":
            return other.name
    return ""
