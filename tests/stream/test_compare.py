"""Which rows need not be compared again: what their hashes at both sites say, by key."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from domicile.postgres.checksum import Part, RowHash
from domicile.stream import compare
from domicile.stream.change import Change, Key, Op, Transaction
from domicile.stream.layout import Identity, Layout

KEYED, KEYLESS = 0, 1
LAYOUT = cast("Layout", SimpleNamespace(tables=[SimpleNamespace(identity=i) for i in (Identity.KEY, Identity.FULL)]))
NAMES = st.integers(0, 5)
ROWS = st.lists(st.tuples(NAMES, st.integers(0, 2)), max_size=6).map(Counter)


def _key(name: int) -> Key:
    return str(name).encode()


@given(st.frozensets(NAMES), ROWS, ROWS)
def test_a_key_is_equal_when_all_its_rows_are(
    asked: frozenset[int], ours: Counter[RowHash], theirs: Counter[RowHash]
) -> None:
    keys = {KEYED: [_key(name) for name in asked]}
    names = {KEYED: {name: _key(name) for name in asked}}
    here, there = (Counter({row: n for row, n in side.items() if row[0] in asked}) for side in (ours, theirs))
    equal = compare.equal(keys, names, [{KEYED: here}, {KEYED: there}]).get(KEYED, [])
    for name in asked:
        alike = [Counter({row: n for row, n in side.items() if row[0] == name}) for side in (here, there)]
        assert (_key(name) in equal) == (alike[0] == alike[1])


def test_a_row_that_differs_under_a_name_nobody_asked_for_leaves_none_equal() -> None:
    """A type may have equal values that are written differently."""
    keys, names = {KEYED: [b"a", b"b"]}, {KEYED: {1: b"a", 2: b"b"}}
    sites = [{KEYED: Counter([(1, 7), (3, 7)])}, {KEYED: Counter([(1, 7), (3, 8)])}]
    assert compare.equal(keys, names, sites) == {}


def test_two_keys_of_one_name_are_compared_again() -> None:
    keys, names = {KEYED: [b"a", b"b", b"c"]}, {KEYED: {1: b"b", 2: b"c"}}
    sites = [{KEYED: Counter([(1, 7), (2, 7)])}, {KEYED: Counter([(1, 7), (2, 8)])}]
    assert compare.equal(keys, names, sites) == {KEYED: [b"b"]}


def test_a_table_without_keys_is_equal_as_a_whole() -> None:
    keys = {KEYLESS: [b"x"]}
    same, other = {KEYLESS: Counter([(2, 99)])}, {KEYLESS: Counter([(2, 98)])}
    assert compare.equal(keys, {}, [same, same]) == keys
    assert compare.equal(keys, {}, [same, other]) == {}


def test_what_is_hashed_is_not_hashed_again() -> None:
    keys = {KEYED: [b"a", b"b"], KEYLESS: [b"x", b"y"]}
    assert compare.without(LAYOUT, keys, {}) == keys
    assert compare.without(LAYOUT, keys, {KEYED: [b"a"]}) == {KEYED: [b"b"], KEYLESS: [b"x", b"y"]}
    assert compare.without(LAYOUT, keys, {KEYLESS: [b"x"]}) == {KEYED: [b"a", b"b"]}
    assert compare.without(LAYOUT, keys, keys) == {}


def test_sums_of_different_rows_add_up() -> None:
    some, others = {KEYED: Part(2, 5)}, {KEYED: Part(1, -7), KEYLESS: Part(1, 1)}
    assert compare.added(some, others) == {KEYED: Part(3, -2), KEYLESS: Part(1, 1)}


def test_the_arrival_compares_what_was_touched_since_it_was_found_equal() -> None:
    """A row that came to another owner may be on its way when the stream is told to hold: it is in no tail, and in no
    list made before."""

    noted = {0: {b"known": 7, b"again": 9, b"late": 9}, 2: {b"entered": 9}}
    equal = {0: {b"known": 7, b"again": 7}, 1: {b"else": 7}}
    tail = [Transaction(1, 10, 0, [Change(1, Op.UPDATE, b"new", old_key=b"old")])]
    last = compare.uncompared(noted, equal, tail)
    assert {no: sorted(keys) for no, keys in last.items()} == {
        0: [b"again", b"late"],
        1: [b"new", b"old"],
        2: [b"entered"],
    }
