"""Where two sites differ: from the table whose sums differ down to rows and columns, asking less at each level.

    table -> groups of subjects -> subjects -> rows (hash of key, hash of row) -> key and columns of rows that differ

Only what differed above is asked for below; rows come in slices of bounded size. All of it in the snapshots in
which the sums were taken. Rows that were touched between two snapshots of a live wave are left out: *excused*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from psycopg import AsyncConnection

from domicile.model.schema import TableName
from domicile.model.verdict import DISCREPANCIES_LISTED_MAX, Difference, Discrepancy
from domicile.move.reader import Reader, together
from domicile.postgres import checksum
from domicile.postgres.checksum import NamedRow, Part, RowHash, Shape

GROUPS = 256
SLICE_ROWS = 50_000  # rows of both sites compared at once: about 20 MB here
OWNER = "(owner)"  # in place of a column: the row is the same, but another subject of the wave has it

Keys = Mapping[Difference, list[int]]  # hashes of keys
Excused = Mapping[TableName, frozenset[int] | None]  # hashes of keys; None: the whole table
NOBODY: Excused = MappingProxyType({})
T = TypeVar("T")


@dataclass(slots=True)
class Findings:
    """Discrepancies as they are found: all are counted, the first ones are named."""

    excused: Excused
    total: int = 0
    named: list[Discrepancy] = field(default_factory=list)

    def first(self, keys: Keys) -> Keys:
        """Of these, as many as there is room to name."""
        room = DISCREPANCIES_LISTED_MAX - len(self.named)
        shown: dict[Difference, list[int]] = {}
        for difference, listed in keys.items():
            shown[difference] = listed[:room]
            room -= len(shown[difference])
        return shown


async def find(
    source: Reader, target: Reader, tables: Sequence[TableName], subjects: int, excused: Excused = NOBODY
) -> tuple[tuple[Discrepancy, ...], int]:
    """Discrepancies in ``tables``, whose sums differ, and how many there are in all. ``subjects``: size of the wave."""
    findings = Findings(excused)
    for table in tables:
        if excused.get(table, frozenset()) is None:
            continue
        differing = await _differing_subjects(source, target, table, subjects)
        for ordinals, slices in _batches(differing):
            for part in range(slices):
                await _compare_rows(source, target, table, ordinals, (slices - 1, part), findings)
    return tuple(findings.named), findings.total


async def _differing_subjects(source: Reader, target: Reader, table: TableName, subjects: int) -> Mapping[int, int]:
    """Ordinals whose sums differ, with their rows at the fuller site."""
    span = max(1, -(-subjects // GROUPS))
    groups = _unequal(*await _both(source, target, table, partial(checksum.parts, span=span)))
    within = (span, sorted(groups))
    found = _unequal(*await _both(source, target, table, partial(checksum.parts, span=1, within=within)))
    return {number + 1: rows for number, rows in found.items()}


def _unequal(source: Mapping[int, Part], target: Mapping[int, Part]) -> Mapping[int, int]:
    nothing = Part(0, 0)
    pairs = {n: (source.get(n, nothing), target.get(n, nothing)) for n in source.keys() | target.keys()}
    return {n: max(s.rows, t.rows) for n, (s, t) in sorted(pairs.items()) if s != t}


def _batches(rows_of: Mapping[int, int]) -> Iterator[tuple[list[int], int]]:
    """Ordinals together while their rows fit one slice; a subject that is larger alone comes in 2^n slices."""
    batch: list[int] = []
    size = 0
    for ordinal, rows in rows_of.items():
        if batch and size + rows > SLICE_ROWS:
            yield batch, _slices(size)
            batch, size = [], 0
        batch.append(ordinal)
        size += rows
    if batch:
        yield batch, _slices(size)


def _slices(rows: int) -> int:
    count = 1
    while rows > count * SLICE_ROWS:
        count *= 2
    return count


async def _compare_rows(
    source: Reader,
    target: Reader,
    table: TableName,
    ordinals: Sequence[int],
    part: tuple[int, int],
    findings: Findings,
) -> None:
    ours, theirs = await _both(source, target, table, partial(checksum.rows, ordinals=ordinals, part=part))
    touched = findings.excused.get(table) or frozenset()
    keys = {d: [k for k in listed if k not in touched] for d, listed in classify(ours, theirs).items()}
    findings.total += sum(map(len, keys.values()))
    shown = findings.first(keys)
    if not any(shown.values()):
        return
    if not source.shapes[table].key:
        findings.named += [Discrepancy(table, (_hex(k),), d) for d, listed in shown.items() for k in listed]
        return
    wanted = sorted({k for listed in shown.values() for k in listed})
    here, there = await _both(source, target, table, partial(checksum.named, ordinals=ordinals, keys=wanted))
    columns = [c.name for c in source.shapes[table].columns]
    findings.named += _discrepancies(table, shown, (here, there), columns)


def classify(ours: Counter[RowHash], theirs: Counter[RowHash]) -> Keys:
    """The key hash of each row that differs, by difference. Pure.

    A key that lost a row and gained another was changed; what is left over is missing or extra.
    """
    lost = Counter(key for key, _ in (ours - theirs).elements())
    gained = Counter(key for key, _ in (theirs - ours).elements())
    changed = lost & gained
    return {
        Difference.CHANGED: sorted(changed.elements()),
        Difference.MISSING: sorted((lost - changed).elements()),
        Difference.EXTRA: sorted((gained - changed).elements()),
    }


def _discrepancies(
    table: TableName,
    shown: Keys,
    rows: tuple[Mapping[int, NamedRow], Mapping[int, NamedRow]],
    columns: Sequence[str],
) -> list[Discrepancy]:
    here, there = rows
    found = []
    for key in shown[Difference.CHANGED]:
        pairs = zip(columns, here[key].columns, there[key].columns, strict=True)
        differing = tuple(name for name, ours, theirs in pairs if ours != theirs) or (OWNER,)
        found.append(Discrepancy(table, here[key].key, Difference.CHANGED, differing))
    found += [Discrepancy(table, here[key].key, Difference.MISSING) for key in shown[Difference.MISSING]]
    found += [Discrepancy(table, there[key].key, Difference.EXTRA) for key in shown[Difference.EXTRA]]
    return sorted(found, key=lambda d: d.key)


def _hex(key: int) -> str:
    return f"row hash {key & (1 << 64) - 1:016x}"


async def _both(
    source: Reader, target: Reader, table: TableName, question: Callable[[AsyncConnection, Shape, int], Awaitable[T]]
) -> tuple[T, T]:
    """The same question at both sites at once."""
    ours, theirs = await together([source.ask(table, question), target.ask(table, question)])
    return ours, theirs
