"""Changes as statements: folded, table by table; or one by one, in the source's order. Lazy, so that who sends them can
let others run in between. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from domicile.stream.change import Change, Key, Op
from domicile.stream.fold import Folded
from domicile.stream.pipeline import Statement
from domicile.stream.statements import TableStatements

Tables = Sequence[TableStatements]
"""By the number of the table: parents before children."""


def folded(work: Folded, tables: Tables) -> Iterator[Statement]:
    """Children are deleted before the parents that say whose they are, and inserted after them."""
    assert work.plain
    for no in sorted(work.tables, reverse=True):
        yield from tables[no].delete_many(work.tables[no].deletes)
    for no in sorted(work.tables):
        for sent, rows in work.tables[no].updates.items():
            yield from tables[no].update_many(sent, rows)
    for no in sorted(work.tables):
        yield from tables[no].insert_many(work.tables[no].inserts)


def one_by_one(changes: Sequence[Change], tables: Tables, first: Iterable[Statement] = ()) -> Iterator[Statement]:
    """Each change by itself, in order, once every row that was there before is claimed; ``first`` between the two."""
    for no, keys in _there_before(changes, tables).items():
        yield from tables[no].claim(keys)
    yield from first
    yield from chain.from_iterable(_one(change, tables[change.table]) for change in changes)


def hold_back(
    changes: Iterable[Change], held: dict[tuple[int, Key], None], parents: frozenset[int]
) -> Iterator[Change]:
    """Of a transaction that comes in parts: deletions of parents are put into ``held`` until the end, because rows that
    hang from them may be deleted in a later part, and are found to be the wave's through them. When a key that is held
    comes again, what is held is let go before it."""
    for change in changes:
        if change.op is Op.DELETE and change.table in parents:
            held[change.table, change.key] = None
            continue
        if (change.table, change.key) in held:
            yield from (Change(no, Op.DELETE, key) for no, key in sorted(held, key=lambda item: -item[0]))
            held.clear()
        yield change


def let_go(held: Iterable[tuple[int, Key]], tables: Tables) -> Iterator[Statement]:
    """The deletions that were held back, children first."""
    keys: dict[int, list[Key]] = {}
    for no, key in held:
        keys.setdefault(no, []).append(key)
    for no in sorted(keys, reverse=True):
        yield from tables[no].delete_many(keys[no])


def _there_before(changes: Iterable[Change], tables: Tables) -> dict[int, list[Key]]:
    """The keys, by table, of rows that the first change to them takes for granted."""
    made: set[tuple[int, Key]] = set()
    found: dict[int, dict[Key, None]] = {}
    for change in changes:
        if tables[change.table].keyless:
            continue
        if change.op is not Op.INSERT:
            before = change.key if change.old_key is None else change.old_key
            if (change.table, before) not in made:
                found.setdefault(change.table, {})[before] = None
        if change.op is Op.INSERT or change.old_key is not None:
            made.add((change.table, change.key))
    return {no: list(keys) for no, keys in found.items()}


def _one(change: Change, table: TableStatements) -> list[Statement]:
    match change.op:
        case Op.INSERT:
            return [table.insert(change.fields)]
        case Op.DELETE:
            return [table.delete(change.key)]
    before = change.key if change.old_key is None else change.old_key
    unwritable = table.has_guards or (change.old_key is not None and table.key_fixed)
    if unwritable and None not in change.fields:
        return [table.delete(before), table.insert(change.fields)]
    return table.update(before, change.fields, None if change.old_key is None else change.key)
