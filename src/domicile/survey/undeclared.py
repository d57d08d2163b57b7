"""References that no foreign key declares: found by name and type, believed only as far as values were
found."""

from __future__ import annotations

from dataclasses import dataclass

from domicile.model.datamap import Direction, OwnerStep
from domicile.model.schema import Column, Schema, Table, TableName
from domicile.survey.measure import Contained, Measure
from domicile.survey.subject import single_key
from domicile.survey.words import comparable, looks_like_identifier, names_table, words

BELIEVED_SHARE = 0.95
BY_VALUES_ALONE_MIN = 20  # fewer distinct values are contained in any dense key by chance
CANDIDATES_MAX = 3


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A column that may refer to another table's key. ``measured`` is None where nothing could be
    measured."""

    step: OwnerStep
    by_name: bool
    measured: Contained | None
    polymorphic: str = ""  # the column that says which table is meant, where there is one

    @property
    def said(self) -> str:
        """What speaks for it."""
        said = "by its name" if self.by_name else "by its values alone"
        if self.measured is None:
            said += ", not measured"
        elif not self.measured.distinct:
            said += "; there are no values to measure"
        else:
            said += f"; {self.measured.found} of {self.measured.distinct} distinct values sampled are found there"
        if self.polymorphic:
            said += f"; {self.polymorphic} seems to say which table is meant, so that no one path fits all rows"
        return said


async def find(measure: Measure, schema: Schema, table: Table, subject: TableName) -> tuple[Undeclared, ...]:
    """Undeclared references of one table: to tables its columns name, else to the subject. Believed ones
    only."""
    declared = {r.columns[0] for r in table.references if len(r.columns) == 1}
    own_key = table.primary_key if len(table.primary_key) == 1 else ()
    found: list[Undeclared] = []
    for column in table.columns:
        if column.name in declared or column.generated:
            continue
        if column.name in own_key and (
            column.default_sequence or column.identity or names_table(column.name, table.name.name)
        ):
            continue
        found += await _of_column(measure, schema, table, column, subject)
    return tuple(found)


def polymorphic(table: Table) -> tuple[tuple[str, str], ...]:
    """Pairs of columns, such as (``commentable_type``, ``commentable_id``), that refer to one of several tables."""
    declared = {c for r in table.references for c in r.columns}
    pairs = ((_kind_column(table, c), c.name) for c in table.columns if looks_like_identifier(c.name))
    return tuple((kind, name) for kind, name in pairs if kind and name not in declared)


async def _of_column(
    measure: Measure, schema: Schema, table: Table, column: Column, subject: TableName
) -> list[Undeclared]:
    named = _named_tables(schema, table, column)
    targets = named or ([subject] if _could_be_subject(schema, table, column, subject) else [])
    found: list[Undeclared] = []
    for to_table in targets[:CANDIDATES_MAX]:
        key = single_key(schema.tables[to_table])
        assert key is not None, to_table
        measured = await measure.contained(table, column.name, to_table, key)
        step = OwnerStep((column.name,), Direction.TO, to_table, (key,))
        candidate = Undeclared(step, bool(named), measured, _kind_column(table, column))
        if _believed(candidate):
            found.append(candidate)
    return found


def _believed(candidate: Undeclared) -> bool:
    measured = candidate.measured
    if measured is None or not measured.distinct:
        return candidate.by_name
    if candidate.polymorphic:
        return measured.found > 0
    enough = candidate.by_name or measured.distinct >= BY_VALUES_ALONE_MIN
    return enough and measured.share >= BELIEVED_SHARE


def _named_tables(schema: Schema, table: Table, column: Column) -> list[TableName]:
    """Tables that the column's name says, with a comparable key, the longest name (the closest match)
    first."""
    matches = []
    for name, other in schema.tables.items():
        key = single_key(other)
        if key is None or name == table.name or not names_table(column.name, name.name):
            continue
        # A column that is just called "order" says a position, not an order.
        if comparable(column, other.column(key)) and words(column.name) != ("order",):
            matches.append(name)
    return sorted(matches, key=lambda t: (t.schema != table.name.schema, -len(words(t.name)), t))


def _could_be_subject(schema: Schema, table: Table, column: Column, subject: TableName) -> bool:
    key = single_key(schema.tables[subject])
    assert key is not None, subject
    return (
        table.name != subject
        and comparable(column, schema.tables[subject].column(key))
        and (looks_like_identifier(column.name) or column.base_type == "uuid")
    )


def _kind_column(table: Table, column: Column) -> str:
    """``commentable_type`` beside ``commentable_id``: the mark of a polymorphic reference."""
    stem = words(column.name)[:-1]
    for other in table.columns:
        said = words(other.name)
        if said[:-1] == stem and said[-1:] in {("type",), ("kind",), ("class",)} and stem:
            return other.name
    return ""
