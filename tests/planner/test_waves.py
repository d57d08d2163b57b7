"""Cutting a cohort into waves: everybody once, in order, within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from domicile.model.plan import Limits
from domicile.planner.estimate import LAB_RATES
from domicile.planner.waves import Weight, canary_size, cut

WEIGHTS = st.lists(st.builds(Weight, rows=st.integers(1, 50), bytes=st.integers(1, 5_000)), min_size=1, max_size=300)
LIMITS = st.builds(
    Limits,
    wave_subjects_max=st.integers(1, 50),
    wave_rows_max=st.integers(1, 400),
    wave_bytes_max=st.integers(1, 40_000),
    wave_seconds_max=st.floats(1.5, 10),
    canary_subjects_max=st.integers(1, 5),
)


@given(WEIGHTS, LIMITS)
def test_everybody_is_in_exactly_one_wave(weights: list[Weight], limits: Limits) -> None:
    waves = list(cut(weights, len(weights), limits))
    assert [w.no for w in waves] == list(range(1, len(waves) + 1))
    assert [w.first for w in waves] == [0, *(w.last for w in waves[:-1])]
    assert waves[-1].last == len(weights)
    for wave in waves:
        members = weights[wave.first : wave.last]
        assert wave.subjects == len(members)
        assert wave.rows == sum(m.rows for m in members)
        assert wave.bytes == sum(m.bytes for m in members)


@given(WEIGHTS, LIMITS)
def test_bounds_hold_unless_one_subject_alone_passes_them(weights: list[Weight], limits: Limits) -> None:
    waves = list(cut(weights, len(weights), limits))
    assert waves[0].subjects <= canary_size(len(weights), limits)
    for wave in waves:
        assert wave.subjects <= limits.wave_subjects_max
        within = (
            wave.rows <= limits.wave_rows_max
            and wave.bytes <= limits.wave_bytes_max
            and LAB_RATES.wave_seconds(wave.rows, wave.bytes) <= limits.wave_seconds_max
        )
        assert within or wave.subjects == 1


@given(WEIGHTS, LIMITS)
def test_a_wave_ends_only_where_the_next_subject_would_not_fit(weights: list[Weight], limits: Limits) -> None:
    for wave in list(cut(weights, len(weights), limits))[1:-1]:
        extended = weights[wave.first : wave.last + 1]
        rows, size = sum(w.rows for w in extended), sum(w.bytes for w in extended)
        assert (
            len(extended) > limits.wave_subjects_max
            or rows > limits.wave_rows_max
            or size > limits.wave_bytes_max
            or LAB_RATES.wave_seconds(rows, size) > limits.wave_seconds_max
        )


def test_the_canary_is_about_one_per_cent() -> None:
    limits = Limits(canary_subjects_max=100)
    assert [canary_size(n, limits) for n in (1, 99, 250, 5_000, 10_000, 1_000_000)] == [1, 1, 2, 50, 100, 100]


def test_one_subject_is_one_wave() -> None:
    [wave] = cut([Weight(10**9, 10**12)], 1, Limits())
    assert (wave.no, wave.first, wave.last) == (1, 0, 1)


def test_an_earlier_move_corrects_the_estimate() -> None:
    rows, size = 1_000_000, 350_000_000
    slower = LAB_RATES.scaled(rows, size, 60.0, "move m1")
    assert abs(slower.wave_seconds(rows, size) - slower.seconds_per_wave - 60.0) < 1e-6
    assert "move m1" in slower.basis
    assert LAB_RATES.for_streams(1).wave_seconds(rows, size) > LAB_RATES.wave_seconds(rows, size)
