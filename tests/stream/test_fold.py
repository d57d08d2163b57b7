"""Folding changes nothing but the number of statements."""

from __future__ import annotations

from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from domicile.stream.change import Change, Field, Key, Op, Transaction
from domicile.stream.fold import Fields, Folded, fold

Rows = dict[Key, tuple[Field, ...]]
K1, K2, K3 = b"k1", b"k2", b"k3"


def insert(key: Key, *values: Field) -> Change:
    return Change(0, Op.INSERT, key, (key, *values))


def update(key: Key, *values: Field | None, old: Key | None = None) -> Change:
    return Change(0, Op.UPDATE, key, (key, *values), old)


def delete(key: Key) -> Change:
    return Change(0, Op.DELETE, key)


def folded(*changes: Change) -> Folded:
    return fold([Transaction(1, n, 0, [change]) for n, change in enumerate(changes)])


def one_by_one(rows: Rows, changes: list[Change]) -> Rows:
    """What the changes do, each by itself, as a database would."""
    found = dict(rows)
    for change in changes:
        match change.op:
            case Op.INSERT:
                assert change.key not in found
                found[change.key] = whole(change.fields, ())
            case Op.DELETE:
                del found[change.key]
            case _:
                row = whole(change.fields, found.pop(change.old_key or change.key))
                assert change.key not in found
                found[change.key] = row
    return found


def at_once(rows: Rows, work: Folded) -> Rows:
    """What the folded changes do, in the order that they promise to be right in."""
    found = dict(rows)
    assert work.plain
    for table in work.tables.values():
        for key in table.deletes:
            del found[key]
        for sent, listed in table.updates.items():
            for key, fields in listed:
                assert (sent or (True,) * len(fields)) == tuple(f is not None for f in fields)
                found[key] = whole(fields, found[key])
        for fields in table.inserts:
            row = whole(fields, ())
            assert row[0] not in found
            found[row[0]] = row
    return found


def whole(fields: Fields, before: Fields) -> tuple[Field, ...]:
    row = tuple(chain(fields)) if None not in fields else tuple(
        b if f is None else f for f, b in zip(fields, before, strict=True)
    )  # fmt: skip
    assert None not in row
    return tuple(f for f in row if f is not None)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Rows, list[Change]]:
    """Rows before, and what one user does to them: each change is possible when its turn comes."""
    keys, texts = [b"k%d" % n for n in range(4)], [b"a", b"b", b"c"]
    rows: Rows = {key: (key, b"a", b"a") for key in draw(st.sets(st.sampled_from(keys)))}
    now, changes = dict(rows), []
    for _ in range(draw(st.integers(0, 14))):
        key = draw(st.sampled_from(keys))
        values = (draw(st.sampled_from(texts)), draw(st.sampled_from(texts)))
        if key not in now:
            change = insert(key, *values)
        elif draw(st.booleans()):
            free = [k for k in keys if k not in now]
            new = draw(st.sampled_from(free)) if free and draw(st.booleans()) else key
            same = zip(values, now[key][1:], strict=True)
            sent = tuple(None if v == was and draw(st.booleans()) else v for v, was in same)
            change = update(new, *sent, old=None if new == key else key)
        else:
            change = delete(key)
        changes.append(change)
        now = one_by_one(now, [change])
    return rows, changes


@settings(max_examples=600, deadline=None)
@given(histories(), st.integers(1, 4))
def test_folded_equals_one_by_one(history: tuple[Rows, list[Change]], per_transaction: int) -> None:
    rows, changes = history
    work = fold(Transaction(n, n, 0, changes[n : n + per_transaction]) for n in range(0, len(changes), per_transaction))
    if not work.plain:
        assert any(change.old_key is not None and None in change.fields for change in changes)
        return
    assert at_once(rows, work) == one_by_one(rows, changes)
    touched = {c.key for c in changes} | {c.old_key for c in changes}
    for table in work.tables.values():
        listed = [key for found in table.updates.values() for key, _ in found]
        assert len(set(listed)) == len(listed)
        assert len(set(table.deletes)) == len(table.deletes)
        assert not set(listed) & set(table.deletes)
        assert {*listed, *table.deletes, *(row[0] for row in table.inserts)} <= touched


CASES: list[tuple[str, list[Change], tuple[list[Key], list[tuple[Key, Fields]], list[Fields]]]] = [
    ("insert, update", [insert(K1, b"a"), update(K1, b"b")], ([], [], [(K1, b"b")])),
    ("insert, unsent", [insert(K1, b"a"), update(K1, None)], ([], [], [(K1, b"a")])),
    ("insert, delete", [insert(K1, b"a"), delete(K1)], ([], [], [])),
    ("update, update", [update(K1, b"a", None), update(K1, None, b"c")], ([], [(K1, (K1, b"a", b"c"))], [])),
    ("update, delete", [update(K1, b"a"), delete(K1)], ([K1], [], [])),
    ("delete, insert", [delete(K1), insert(K1, b"a")], ([K1], [], [(K1, b"a")])),
    ("delete, insert, delete", [delete(K1), insert(K1, b"a"), delete(K1)], ([K1], [], [])),
    ("key change", [update(K2, b"a", old=K1)], ([K1], [], [(K2, b"a")])),
    ("chain", [update(K2, b"a", old=K1), update(K3, b"b", old=K2)], ([K1], [], [(K3, b"b")])),
    ("there and back", [update(K2, b"a", old=K1), update(K1, b"b", old=K2)], ([K1], [], [(K1, b"b")])),
    ("new row, key change, unsent", [insert(K1, b"a"), update(K2, None, old=K1)], ([], [], [(K2, b"a")])),
    ("known row, key change, unsent", [update(K1, b"a"), update(K2, None, old=K1)], ([K1], [], [(K2, b"a")])),
    (
        "swap",
        [update(K3, b"a", old=K1), update(K1, b"b", old=K2), update(K2, b"a", old=K3)],
        ([K1, K2], [], [(K1, b"b"), (K2, b"a")]),
    ),
]


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_cases(changes: list[Change], expected: tuple[object, object, object]) -> None:
    work = folded(*changes)
    assert work.plain
    tables = list(work.tables.values())
    deletes = [key for table in tables for key in table.deletes]
    updates = [item for table in tables for listed in table.updates.values() for item in listed]
    inserts = [fields for table in tables for fields in table.inserts]
    assert (deletes, updates, inserts) == expected


@pytest.mark.parametrize(
    "changes",
    [
        [update(K2, None, old=K1)],
        [update(K1, b"a", None), update(K2, b"b", None, old=K1)],
        [insert(K1, b"a"), insert(K1, b"b")],
        [delete(K1), delete(K1)],
        [delete(K1), update(K1, b"a")],
        [update(K1, b"a"), insert(K1, b"a")],
        [update(K1, b"a"), update(K1, b"a", old=K2)],
    ],
    ids=["unsent", "unsent before", "twice there", "twice gone", "gone", "there", "onto another"],
)
def test_what_is_unsure_is_not_folded(changes: list[Change]) -> None:
    assert not folded(*changes).plain


def test_table_without_key_is_not_folded() -> None:
    change = insert(K1, b"a")
    assert fold([Transaction(1, 1, 0, [change])]).plain
    assert not fold([Transaction(1, 1, 0, [change])], without_key={0}).plain


def test_updates_are_grouped_by_what_was_sent() -> None:
    work = folded(update(K1, b"a", None), update(K2, b"a", b"b"), update(K3, b"c", None))
    groups = {sent: [key for key, _ in listed] for sent, listed in work.tables[0].updates.items()}
    assert groups == {(True, True, False): [K1, K3], None: [K2]}
