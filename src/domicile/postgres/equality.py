"""References over types that compare in their own way: citext, and what other extensions bring.

Every statement of domicile runs under an empty ``search_path``, where ``=`` of such a type is that of another type it
can be taken for (of citext: text's), or none at all. Unique keys are compared by the operators of their indexes; rows
are found by what they refer to with ``=``, so such a reference is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from domicile.model.datamap import DataMap
from domicile.model.schema import Column, Reference, Schema
from domicile.postgres.party_keys import Obstacle
from domicile.postgres.references import external_references, of_step, of_tables, shown

_HINT = (
    "Refer by another key; or give the columns of both tables a type whose equal values are equal texts: "
    "text with a check (value = lower(value)), or text with a nondeterministic collation."
)


def is_own(column: Column) -> bool:
    """Whether the column's type has an ``=`` of its own; those of arrays, enums, ranges and rows ask their parts."""
    return column.base_kind == "b" and column.base_schema != "pg_catalog" and not column.element_type


def reasons(data_map: DataMap, schema: Schema) -> Iterator[Obstacle]:
    """The references from, to and between rows that may move, or be copied, over columns of such types. Pure."""
    scope = data_map.in_scope()
    owners = [of_step(name, step) for name in scope if (step := data_map.tables[name].owner)]
    others = of_tables(data_map, schema, (*scope, *sorted(data_map.copied())))
    for reference in dict.fromkeys((*owners, *others, *external_references(schema, data_map))):
        for column in _columns(schema, reference):
            if is_own(column):
                why = f"{shown(reference)}: {column.type_name} compares in its own way"
                yield Obstacle(reference.table, why, _HINT)
                break


def _columns(schema: Schema, reference: Reference) -> Iterator[Column]:
    for name, columns in ((reference.table, reference.columns), (reference.to_table, reference.to_columns)):
        if table := schema.tables.get(name):
            yield from (c for c in table.columns if c.name in columns)
