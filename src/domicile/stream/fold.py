"""Many changes of one row become at most two statements: what a batch does in the end, table by table.

Promise: deleting ``deletes``, then writing ``updates``, then inserting ``inserts`` leaves the same rows as the changes
one by one, as long as ``plain`` is True. It is False where that cannot be told without the database (a value that was
not sent is needed, a table whose rows have no key, changes that contradict each other); then only the source's order is
right. Unique values that pass from row to row may object to the folded order; the caller falls back then, too. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from domicile.stream.change import Change, Field, Key, Op, Transaction

Fields = tuple[Field | None, ...]
Sent = tuple[bool, ...] | None
"""Which columns an update writes; None stands for all of them."""


class _Is(IntEnum):
    """What a row is at the end of the batch, against what it was before."""

    NEW = 1
    CHANGED = 2
    GONE = 3
    REPLACED = 4  # gone, and another one under the same key


# Names of their own: an enumeration's member is looked up anew each time.
_INSERT, _DELETE = Op.INSERT, Op.DELETE
_NEW, _CHANGED, _GONE = _Is.NEW, _Is.CHANGED, _Is.GONE
_FIRST = {Op.INSERT: _NEW, Op.UPDATE: _CHANGED, Op.DELETE: _GONE}


@dataclass(slots=True)
class FoldedTable:
    """What happens to one table."""

    deletes: list[Key] = field(default_factory=list)
    updates: dict[Sent, list[tuple[Key, Fields]]] = field(default_factory=dict)
    inserts: list[Fields] = field(default_factory=list)


@dataclass(slots=True)
class Folded:
    """What happens to each table, by its number."""

    tables: dict[int, FoldedTable]
    plain: bool


def fold(transactions: Iterable[Transaction], without_key: Collection[int] = ()) -> Folded:
    """Fold whole transactions; ``without_key`` are the tables whose rows have none."""
    work = Fold(without_key)
    for transaction in transactions:
        work.add(transaction.changes)
    return work.result()


class Fold:
    """`fold` in slices, for who must not hold up others."""

    def __init__(self, without_key: Collection[int] = ()) -> None:
        self._without_key = without_key
        self._tables: dict[int, dict[Key, tuple[_Is, Fields]]] = {}
        self._plain = True

    def add(self, changes: Iterable[Change]) -> None:
        """Take the next changes, in the source's order."""
        if not self._plain:
            return
        table, rows = -1, None
        for change in changes:
            if change.table != table:
                table = change.table
                if table in self._without_key:
                    self._plain = False
                    return
                rows = self._tables.setdefault(table, {})
            assert rows is not None
            op, key = change.op, change.key
            if change.old_key is not None:
                certain = _rekey(rows, change.old_key, key, change.fields)
            elif key not in rows and (op is not _INSERT or None not in change.fields):
                rows[key] = (_FIRST[op], change.fields)  # almost always
                continue
            elif op is _INSERT:
                certain = _insert(rows, key, change.fields)
            elif op is _DELETE:
                certain = _delete(rows, key)
            else:
                certain = _update(rows, key, change.fields)
            if not certain:
                self._plain = False
                return

    def result(self) -> Folded:
        """What came out; the end of it."""
        if not self._plain:
            return Folded({}, False)
        return Folded({table: _sorted(rows) for table, rows in self._tables.items() if rows}, True)


def _insert(rows: dict[Key, tuple[_Is, Fields]], key: Key, fields: Fields) -> bool:
    was = rows.get(key)
    if was is None:
        rows[key] = (_Is.NEW, fields)
        return None not in fields
    if was[0] is _Is.GONE:
        rows[key] = (_Is.REPLACED, fields)
        return None not in fields
    return False


def _delete(rows: dict[Key, tuple[_Is, Fields]], key: Key) -> bool:
    was = rows.get(key)
    if was is None or was[0] in (_Is.CHANGED, _Is.REPLACED):
        rows[key] = (_Is.GONE, ())
    elif was[0] is _Is.NEW:
        del rows[key]
    else:
        return False
    return True


def _update(rows: dict[Key, tuple[_Is, Fields]], key: Key, fields: Fields) -> bool:
    was = rows.get(key)
    if was is None:
        rows[key] = (_Is.CHANGED, fields)
    elif was[0] is _Is.GONE:
        return False
    else:
        rows[key] = (was[0], _over(was[1], fields))
    return True


def _rekey(rows: dict[Key, tuple[_Is, Fields]], old: Key, new: Key, fields: Fields) -> bool:
    """The row goes under its old key and comes under its new one: it must be known whole."""
    was = rows.get(old)
    if was is not None and was[0] is not _Is.GONE:
        fields = _over(was[1], fields)
    return None not in fields and _delete(rows, old) and _insert(rows, new, fields)


def _over(old: Fields, new: Fields) -> Fields:
    """The newer values, and the older ones where none was sent."""
    if None not in new:
        return new
    return tuple(o if n is None else n for o, n in zip(old, new, strict=True))


def _sorted(rows: dict[Key, tuple[_Is, Fields]]) -> FoldedTable:
    table = FoldedTable()
    for key, (state, fields) in rows.items():
        if state is _CHANGED:
            sent = tuple(f is not None for f in fields) if None in fields else None
            table.updates.setdefault(sent, []).append((key, fields))
            continue
        if state is not _NEW:
            table.deletes.append(key)
        if state is not _GONE:
            table.inserts.append(fields)
    return table
