"""What keeps a reference to a second person from having its policy, and the foreign keys that a policy needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domicile.model.datamap import OwnerStep
from domicile.model.schema import Reference, TableName, quote_name


@dataclass(frozen=True, slots=True)
class Obstacle:
    """``why`` in words, and what mends it. Never a value of a row."""

    table: TableName
    why: str
    hint: str


def unproven(table: TableName, step: OwnerStep, found: Sequence[Reference]) -> tuple[str, str]:
    """What is wrong with a step that none of the foreign keys ``found`` for it proves, and what mends it. Pure."""
    for reference in found:
        if not reference.validated and not reference.leaves:
            mend = f"alter table {table} validate constraint {quote_name(reference.name)};"
            return "its foreign key is not validated", mend
    columns, to_columns = (", ".join(map(quote_name, names)) for names in (step.columns, step.to_columns))
    mend = f"alter table {table} add foreign key ({columns}) references {step.to_table} ({to_columns});"
    return "no foreign key of the whole table declares it", mend
