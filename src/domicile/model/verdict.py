"""What verify says of a wave: equal at both sites, or named discrepancies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from domicile.model.schema import TableName

DISCREPANCIES_LISTED_MAX = 100  # more are counted, not listed


class Difference(StrEnum):
    """How one row differs."""

    MISSING = "missing at the target"
    EXTRA = "extra at the target"
    CHANGED = "different at the target"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One row that differs: by table, key and columns, never by value."""

    table: TableName
    key: tuple[str, ...]  # primary key as text, in key order; ctid-free; ("row hash ...",) where a table has no key
    difference: Difference
    columns: tuple[str, ...] = ()  # which columns differ, for CHANGED


@dataclass(frozen=True, slots=True)
class TableDigest:
    """One table's part of a wave at one site: number of rows and order-free sum of row hashes."""

    table: TableName
    rows: int
    digest: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome. ``root`` is the hex hash over the tree of (table, subject) digests; equal roots mean equal
    rows."""

    subjects: int
    rows: int  # at the source
    tables: tuple[TableDigest, ...]  # at the source
    source_root: str
    target_root: str
    discrepancies: tuple[Discrepancy, ...] = ()
    discrepancies_total: int = 0
    rows_target: int = 0
    broken_references: tuple[
        tuple[str, int], ...
    ] = ()  # reference as text -> rows of the wave without their parent at the target
    touched: int = 0  # live: rows written during the comparison; they are compared again until the handover

    @property
    def clean(self) -> bool:
        """True only when every row that nobody touched meanwhile is equal, and every reference holds."""
        equal = self.source_root == self.target_root or self.touched > 0
        return equal and not self.discrepancies_total and not self.broken_references
