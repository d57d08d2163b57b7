"""How scans and erasure look: what was found where, how well it was looked for, what remains and until when."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor

from rich.console import RenderableType
from rich.text import Text

from domicile.cli import units
from domicile.cli.tables import Col, hanging, table
from domicile.erasure.agent import Result
from domicile.model.erasure import ErasureReport, Finding


def scan(result: Result, width: int) -> Iterator[RenderableType]:
    """One scan: a line per place, then what was not read."""
    columns = (Col("place"), Col("read", 1, number=True), Col("values", number=True), Col("copies", number=True))
    read = {place: tally for place, tally in result.tallies.items() if tally.files}
    rows: list[list[str | Text]] = [
        [str(place), units.size(t.bytes), _count(len(t.found)), _count(sum(t.found.values()))]
        for place, t in read.items()
    ]
    yield table(columns, rows, width)
    different = len({which for tally in result.tallies.values() for which in tally.found})
    yield Text(f"{units.plural(different, 'value')} found; {units.size(result.bytes)} read, {result.mb_per_s:.0f} MB/s")
    notes = [(str(p), f"{why} ({times})") for p, t in result.tallies.items() for why, times in t.not_read.items()]
    if notes:
        yield Text("\nnot read:", style="bold")
        yield hanging(((f"{place}:", why) for place, why in notes), indent=2)


def erasure(report: ErasureReport, width: int) -> Iterator[RenderableType]:
    """What is left on disk after a purge."""
    yield Text(f"\nerasure at {report.site}", style="bold")
    if (lag := report.erasure_lag) is not None:
        behind = units.duration(max(0.0, lag - report.deleted_after))
        said = f"erasure lag {units.duration(lag)}, from the first handover to the last byte"
        yield Text(f"{said}; {behind} of it behind the deletion", style="bold")
    if report.scanned:
        yield Text(
            f"searched for {units.plural(report.searched, 'value')} by {report.method}, {report.mb_per_s:.0f} MB/s,"
            f" as {report.scanned_by}"
        )
        columns = (
            Col("place"),
            Col("read", 1, number=True),
            Col("found", number=True),
            Col("sensitivity", number=True),
            Col("gone after", 2, number=True),
        )
        yield table(columns, [_row(f, report) for f in report.findings if f.bytes or f.planted], width)
        yield Text("sensitivity: of the canaries planted in such a place, how many the same search had found there")
    else:
        yield Text("no file of the server was read: nothing is known of what is left on disk")
    lines = [
        *(("not searched for:", text) for text in _left_out(report)),
        *((f"{f.place}: not read:", why) for f in report.findings for why in f.not_read if report.scanned),
        *(("not read:", why) for why in {w for f in report.findings for w in f.not_read} if not report.scanned),
        *(("no canary:", why) for why in report.not_planted),
        *(("not done:", f"{s.name}: {s.refused}") for s in report.steps if s.refused),
    ]
    if report.canaries_left:
        lines.append(("still found:", f"{report.canaries_left} of the canaries, which were deleted like the rows"))
    if lines:
        yield hanging(lines, indent=2)
    yield Text("\nwhat remains:", style="bold")
    yield hanging(
        ((f"{r.place}:", f"{r.what}{f' (until {r.expires})' if r.expires else ''}") for r in report.residuals), indent=2
    )
    yield Text(_verdict(report), style="bold")


def _left_out(report: ErasureReport) -> Iterator[str]:
    if report.waves_unsearched:
        yield f"{units.plural(report.waves_unsearched, 'wave')} deleted before this was ordered, or with its key lost"
    if report.too_plain:
        yield f"{units.plural(report.too_plain, 'value')} too plain to be known again"
    if report.passed_over:
        yield f"{units.plural(report.passed_over, 'value')} beyond the number that can be searched for"
    if report.shared:
        yield f"{units.plural(report.shared, 'value')} that rows of others hold too, in the tables that move"
    yield "values under 8 bytes, and other types than texts, bytea, uuid and bigint: not counted"


def _row(found: Finding, report: ErasureReport) -> list[str | Text]:
    sensitivity = "not shown" if found.sensitivity is None else f"{found.seen}/{found.planted}"
    lag = report.lag_seconds.get(str(found.place))
    values: str | Text = "-"
    if found.values:
        values = Text(units.count(found.values), style="yellow")
    return [str(found.place), units.size(found.bytes), values, sensitivity, units.duration(lag) if lag else "-"]


def _verdict(report: ErasureReport) -> str:
    if not report.scanned:
        return "not shown: the server's files were not read"
    if report.unlisted:
        return f"{units.plural(report.unlisted, 'find')} in places where nothing should be: see the table"
    lowest = report.sensitivity_min
    said = "with a sensitivity that was not shown"
    if lowest is not None:
        at_least = "100 %" if lowest >= 1 else f"{floor(lowest * 100)} % or more"
        said = f"with a sensitivity of {at_least} in the places where it was shown"
    found = "not found" if not any(f.values for f in report.findings) else "not found but for what is listed"
    return f"{found}, by this method, {said}"


def _count(number: int) -> str:
    return units.count(number) if number else "-"
