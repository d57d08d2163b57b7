"""Tables that stay readable on a narrow terminal: the least important columns go first, then long texts
wrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

GAP = 2


@dataclass(frozen=True, slots=True)
class Col:
    """One column. ``keep`` orders the dropping: the lowest goes first; columns of 9 never go. ``number``
    aligns right.
    """

    name: str
    keep: int = 9
    number: bool = False


def table(columns: Sequence[Col], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """A table without frames that fits into ``width`` cells."""
    kept = _fitting(columns, rows, width)
    result = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    texts = [i for i in kept if not columns[i].number]
    for i in kept:
        column = columns[i]
        # Numbers and the first name never wrap: half a number is a wrong number.
        whole = column.number or (i == texts[0] and len(texts) > 1)
        result.add_column(column.name, justify="right" if column.number else "left", no_wrap=whole, overflow="fold")
    for row in rows:
        result.add_row(*(row[i] for i in kept))
    return result


def hanging(pairs: Iterable[tuple[str | Text, str | Text]], indent: int = 0) -> Table:
    """Pairs of a short lead and a text; where the text wraps, its lines stay right of the lead."""
    result = Table.grid(padding=(0, 1, 0, 0))
    if indent:
        result.add_column(width=indent - 1)
    result.add_column(no_wrap=True)
    result.add_column(overflow="fold")
    for lead, text in pairs:
        result.add_row(*([""] if indent else []), lead, text)
    return result


def _fitting(columns: Sequence[Col], rows: Sequence[Sequence[str | Text]], width: int) -> list[int]:
    widths = [
        max([cell_len(column.name), *(cell_len(str(row[i])) for row in rows)]) for i, column in enumerate(columns)
    ]
    kept = [i for i, column in enumerate(columns) if column.keep == 9 or any(str(row[i]) for row in rows)]
    while sum(widths[i] + GAP for i in kept) - GAP > width:
        droppable = [i for i in kept if columns[i].keep < 9]
        if not droppable:
            break
        kept.remove(min(droppable, key=lambda i: (columns[i].keep, -i)))
    return kept
