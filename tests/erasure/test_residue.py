"""What is said of scans: findings are listed or they are not, and a report closes only when nothing is left."""

from __future__ import annotations

from datetime import date

from domicile.model.erasure import ErasureReport, Finding, Place, Residual, Stage, Step
from domicile.move import residue

TODAY = date(2026, 11, 22)
FOUND = (Finding(Place.TABLES, values=2, copies=3), Finding(Place.FREED, values=4, copies=9), Finding(Place.WAL))


def report(found: tuple[Finding, ...], listed: tuple[Residual, ...]) -> ErasureReport:
    return ErasureReport("beijing", "m", "", "", 10, 0, 0, found, listed, (), scanned=True)


def test_a_find_that_nothing_explains_is_not_listed() -> None:
    listed = residue.residuals(FOUND, (), (), (), rewrite=False)
    assert [r.place for r in listed] == [Place.BLOCKS, Place.FREED]
    assert report(FOUND, listed).unlisted == 2
    anew = residue.residuals(FOUND, (), (), (), rewrite=True)
    assert report(FOUND, anew).unlisted == 6


def test_a_step_that_was_refused_explains_it() -> None:
    refused = Step("vacuum public.t", 0.1, "refused with SQLSTATE 55P03")
    listed = residue.residuals(FOUND, (Step("checkpoint", 0.1), refused), (), (), rewrite=True)
    assert report(FOUND, listed).unlisted == 0
    assert "vacuum public.t was refused with SQLSTATE 55P03" in listed[1].what


def test_a_report_closes_when_nothing_is_found_and_the_last_date_has_passed() -> None:
    nothing = (Finding(Place.TABLES), Finding(Place.KEPT))
    kept = residue.residuals(nothing, (), (), (("/backup", "2026-11-23"),), rewrite=True)
    assert not residue.is_closed(nothing, kept, TODAY)
    assert residue.is_closed(nothing, kept, date(2026, 11, 23))
    assert not residue.is_closed(FOUND, kept, date(2027, 1, 1))
    assert not residue.is_closed(residue.unread("why"), (), TODAY)
    undated = residue.residuals(nothing, (), (Residual(Place.WAL, "slot x"),), (), rewrite=True)
    assert not residue.is_closed(nothing, undated, date(2099, 1, 1))


def test_the_lag_of_a_place_ends_with_the_first_of_the_last_scans_that_found_nothing() -> None:
    stages = (
        Stage("before", 0.0, {"tables": 5, "wal": 5, "indexes": 1, "toast": 0}),
        Stage("one", 2.0, {"tables": 0, "wal": 5, "indexes": 0, "toast": 0}),
        Stage("two", 7.0, {"tables": 0, "wal": 0, "indexes": 2, "toast": 0}),
    )
    assert residue.lags(stages) == {"tables": 2.0, "wal": 7.0}


def test_sensitivity_is_the_worst_and_what_was_not_planted_does_not_count() -> None:
    found = (Finding(Place.TABLES, planted=10, seen=9), Finding(Place.WAL, planted=4, seen=4), Finding(Place.SLOTS))
    assert report(found, ()).sensitivity_min == 0.9
    assert report((Finding(Place.SLOTS),), ()).sensitivity_min is None


def test_values_that_stand_in_rows_of_other_tables_are_listed_by_table_and_keep_the_report_open() -> None:
    nothing = (Finding(Place.TABLES),)
    listed = residue.in_rows({3: {"public.audit_log"}, 5: {"public.audit_log", "public.outbox"}})
    assert [(r.place, r.what.partition(",")[0], r.expires) for r in listed] == [
        (Place.TABLES, "2 values of the deleted rows stand in rows of public.audit_log", ""),
        (Place.TABLES, "1 value of the deleted rows stands in rows of public.outbox", ""),
    ]
    assert not residue.is_closed(nothing, listed, date(2099, 1, 1))


def test_nothing_closes_on_a_search_that_was_not_shown_to_see() -> None:
    seen, blind = Finding(Place.TABLES, planted=9, seen=9), Finding(Place.WAL, planted=4, seen=0)
    assert residue.is_shown((seen, Finding(Place.SLOTS)), 0)
    assert not residue.is_shown((seen, blind), 0)
    assert not residue.is_shown((seen,), 1)
    assert not residue.is_shown((Finding(Place.SLOTS),), 0)
