"""A table's structure as people read it: columns and keys, by the catalogue. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from domicile.model.schema import Table, quote_name
from domicile.survey.state import step_to


@dataclass(frozen=True, slots=True)
class OutlinedColumn:
    name: str
    type: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Outline:
    """``keys`` in words: the primary key, unique ones, foreign keys. No definitions, which may hold values."""

    columns: tuple[OutlinedColumn, ...]
    keys: tuple[str, ...]


def outline(table: Table) -> Outline:
    """The columns in their order, and the keys."""
    columns = (OutlinedColumn(c.name, c.type_name, nullable=not c.not_null) for c in table.columns)
    return Outline(tuple(columns), tuple(_keys(table)))


def _keys(table: Table) -> Iterator[str]:
    if table.primary_key:
        yield f"primary key ({_listed(table.primary_key)})"
    for key in table.unique_keys:
        if not key.primary:
            what = f"unique ({_listed(key.columns)})" if key.columns else "unique"
            yield what + (", on an expression" if key.on_expression else "") + (", some rows" if key.partial else "")
    for reference in table.references:
        where = f", on {len(reference.leaves)} of {len(table.partitions)} partitions" if reference.leaves else ""
        yield f"foreign key {step_to(reference)}{where}{'' if reference.validated else ', not validated'}"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(quote_name, names))
