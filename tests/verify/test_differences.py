"""The pure parts of the descent."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from domicile.model.verdict import Difference
from domicile.move.differences import SLICE_ROWS, _batches, classify

hashes = st.integers(0, 3)
tables = st.lists(st.tuples(hashes, hashes), max_size=12).map(Counter)


@given(tables, tables)
def test_classification_accounts_for_every_row(
    ours: Counter[tuple[int, int]], theirs: Counter[tuple[int, int]]
) -> None:
    keys = classify(ours, theirs)
    changed, missing, extra = (len(keys[d]) for d in (Difference.CHANGED, Difference.MISSING, Difference.EXTRA))
    assert changed + missing == (ours - theirs).total()
    assert changed + extra == (theirs - ours).total()
    assert not set(keys[Difference.MISSING]) & set(keys[Difference.EXTRA])
    assert (changed + missing + extra == 0) == (ours == theirs)


@given(st.dictionaries(st.integers(1, 1000), st.integers(1, SLICE_ROWS * 3), max_size=30))
def test_batches_hold_every_subject_once_in_bounded_slices(rows_of: dict[int, int]) -> None:
    batches = list(_batches(rows_of))
    assert [ordinal for ordinals, _ in batches for ordinal in ordinals] == list(rows_of)
    for ordinals, slices in batches:
        assert slices & (slices - 1) == 0, "the mask of a slice needs a power of two"
        assert sum(rows_of[o] for o in ordinals) <= slices * SLICE_ROWS
        assert slices == 1 or len(ordinals) == 1
