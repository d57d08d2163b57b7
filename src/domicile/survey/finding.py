"""What the map check says: one sentence with its weight, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# What to do about keys in arrays and documents.
COLUMN_NEEDED = (
    "Add a column that holds the key of the owner, or of whom it names: docs/how-to/finish-the-map.md, step 3."
)


class Level(StrEnum):
    """How much a finding matters; the order is that of the report."""

    ERROR = "error"  # a plan would be refused or wrong
    WARNING = "warning"  # rows stay behind, break, or cost more than they should
    INFO = "info"  # worth knowing


@dataclass(frozen=True, slots=True)
class Finding:
    """``table`` as text, ``count`` of rows where rows were counted. Never a value of a row."""

    level: Level
    table: str
    message: str
    hint: str = ""
    count: int = 0
