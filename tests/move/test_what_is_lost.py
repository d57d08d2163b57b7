"""What a failover took, told by the marks of both sites. Pure."""

from __future__ import annotations

import pytest

from domicile.model.phase import Phase, Status
from domicile.model.report import WaveStatus
from domicile.move.failover import Lost, what_is_lost


def wave(phase: Phase, *, rolled_back: bool = False) -> WaveStatus:
    return WaveStatus(no=1, phase=phase, status=Status.PENDING, subjects=1, rows_planned=1, bytes_planned=1,
                      rolled_back=rolled_back)  # fmt: skip


SOUND = [
    (Phase.PLANNED, "open", None),
    (Phase.COPY, "open", "arriving"),
    (Phase.HANDOVER, "closing", "arriving"),
    (Phase.HANDOVER, "departed", "arriving"),
    (Phase.HANDOVER, "departed", "resident"),
    (Phase.SOAK, "departed", "resident"),
    (Phase.ROLLBACK, "departed", "resident"),
    (Phase.ROLLBACK, "arriving", "closing"),
    (Phase.ROLLBACK, "arriving", "departed"),
    (Phase.ROLLBACK, "resident", "departed"),
    (Phase.PURGE, "departed", "resident"),
]


@pytest.mark.parametrize(("phase", "source", "target"), SOUND)
def test_nothing_is_mended_that_is_sound(phase: Phase, source: str, target: str | None) -> None:
    assert what_is_lost(wave(phase), source, target, purged=False) is Lost.NOTHING


@pytest.mark.parametrize(
    ("phase", "source", "target", "lost"),
    [
        (Phase.SOAK, "closing", "resident", Lost.DEPARTURE),
        (Phase.HANDOVER, "fenced", "resident", Lost.DEPARTURE),
        (Phase.SOAK, None, "resident", Lost.DEPARTURE),
        (Phase.DONE, "open", "resident", Lost.DEPARTURE),
        (Phase.ROLLBACK, "resident", "closing", Lost.WAY_BACK_DEPARTURE),
        (Phase.PLANNED, "resident", "resident", Lost.WAY_BACK_DEPARTURE),
        (Phase.SOAK, "departed", "arriving", Lost.ARRIVAL),
        (Phase.SOAK, "departed", None, Lost.ARRIVAL),
        (Phase.ROLLBACK, "departed", "arriving", Lost.ARRIVAL),
        (Phase.ROLLBACK, "arriving", "arriving", Lost.ARRIVAL),
        (Phase.ROLLBACK, "resident", None, Lost.ARRIVAL),
        (Phase.SOAK, "departed", "departed", Lost.ARRIVAL),
        (Phase.SOAK, "resident", "departed", Lost.ARRIVAL),
        (Phase.PURGE, "departed", "arriving", Lost.HOME),
        (Phase.DONE, "departed", "resident", Lost.PURGE),
    ],
)
def test_what_was_lost_is_told_by_the_marks(phase: Phase, source: str | None, target: str | None, lost: Lost) -> None:
    assert what_is_lost(wave(phase), source, target, purged=False) is lost


def test_a_try_to_bring_it_back_whose_end_was_lost_is_undone_at_the_target() -> None:
    """It has an arrival, and with it every write since; one that was on its way home without has none."""
    assert what_is_lost(wave(Phase.SOAK), "departed", "departed", arrived=True) is Lost.REOPENING
    assert what_is_lost(wave(Phase.SOAK), "departed", "departed") is Lost.ARRIVAL


def test_a_wave_that_came_home_must_be_there() -> None:
    home = wave(Phase.PLANNED, rolled_back=True)
    assert what_is_lost(home, "resident", "departed", purged=False) is Lost.NOTHING
    assert what_is_lost(home, "arriving", "departed", purged=False) is Lost.HOME
