"""Cut a cohort into waves: a small canary first, then waves bounded by subjects, rows, bytes and seconds,
whichever is met first.

Pure. Subjects come in key order, one weight each; memory does not grow with the cohort. A bound may be
passed only by a wave of one subject that alone is too big for it: a subject is never split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from domicile.model.plan import Limits, WavePlan
from domicile.planner.estimate import LAB_RATES, Rates

CANARY_SHARE = 100  # the canary holds at most one subject in this many, but at least one


@dataclass(frozen=True, slots=True)
class Weight:
    """What one subject brings along, its own row included."""

    rows: int
    bytes: int


def canary_size(subjects: int, limits: Limits) -> int:
    """How many subjects the first wave may hold: about one per cent, within its limit, at least one.

    A limit of 0 makes the first wave like any other, for subjects who refer to each other and must move together.
    """
    if not limits.canary_subjects_max:
        return limits.wave_subjects_max
    return max(1, min(limits.canary_subjects_max, limits.wave_subjects_max, subjects // CANARY_SHARE))


@dataclass(slots=True)
class WaveCutter:
    """Takes one weight after the other and gives back each wave as it is full; ``finish`` gives the last
    one.
    """

    subjects_total: int
    limits: Limits
    rates: Rates = LAB_RATES
    _no: int = 1
    _first: int = 0
    _subjects: int = 0
    _rows: int = 0
    _bytes: int = 0
    _canary: int = field(init=False)

    def __post_init__(self) -> None:
        self._canary = canary_size(self.subjects_total, self.limits)

    def add(self, weight: Weight) -> WavePlan | None:
        """Count the next subject in; returns the wave that this subject closes by no longer fitting into
        it.
        """
        full = self._close() if self._subjects and not self._fits(weight) else None
        self._subjects += 1
        self._rows += weight.rows
        self._bytes += weight.bytes
        return full

    def finish(self) -> WavePlan | None:
        """The last wave, or None when nobody is left."""
        return self._close() if self._subjects else None

    def _fits(self, weight: Weight) -> bool:
        limits = self.limits
        subjects, rows, size = self._subjects + 1, self._rows + weight.rows, self._bytes + weight.bytes
        return (
            subjects <= (self._canary if self._no == 1 else limits.wave_subjects_max)
            and rows <= limits.wave_rows_max
            and size <= limits.wave_bytes_max
            and self.rates.wave_seconds(rows, size) <= limits.wave_seconds_max
        )

    def _close(self) -> WavePlan:
        wave = WavePlan(
            no=self._no,
            first=self._first,
            last=self._first + self._subjects,
            subjects=self._subjects,
            rows=self._rows,
            bytes=self._bytes,
            seconds_estimate=round(self.rates.wave_seconds(self._rows, self._bytes), 3),
        )
        self._no += 1
        self._first = wave.last
        self._subjects = self._rows = self._bytes = 0
        return wave


def cut(weights: Iterable[Weight], subjects_total: int, limits: Limits, rates: Rates = LAB_RATES) -> Iterator[WavePlan]:
    """All waves of a cohort whose weights are at hand."""
    cutter = WaveCutter(subjects_total, limits, rates)
    for weight in weights:
        if (wave := cutter.add(weight)) is not None:
            yield wave
    if (last := cutter.finish()) is not None:
        yield last
