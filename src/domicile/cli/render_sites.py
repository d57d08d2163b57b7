"""How sites and the findings of a map check look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from domicile.cli import units
from domicile.cli.tables import Col, hanging, table
from domicile.postgres.site_probe import Lack, SiteReport, Weight

if TYPE_CHECKING:  # the survey is imported by the commands that run it
    from domicile.commands.maps import PlacedFinding

_WEIGHTS = {
    Weight.BLOCKS: ("blocks", "red"),
    Weight.LIVE: ("live", "yellow"),
    Weight.WARNS: ("note", "yellow"),
}
_LEVELS = {"error": "bold red", "warning": "yellow", "info": "dim"}
_COLUMNS = (
    Col("site"),
    Col("dataset"),
    Col("PostgreSQL", 6),
    Col("wal_level", 2),
    Col("role", 1),
    Col("round trip", 5, number=True),
    Col("clock", 3, number=True),
    Col("disk free", 4, number=True),
    Col("state"),
)


def sites(reports: Sequence[SiteReport], width: int) -> Iterator[RenderableType]:
    """A line per dataset and site, then what each lacks with the SQL that mends it."""
    yield table(_COLUMNS, [_row(r) for r in reports], width)
    for report in reports:
        if report.error:
            yield Text.assemble("\n", (f"{report.site}, {report.dataset}: ", "bold"), report.error)
            yield Text.assemble(("next: ", "bold"), report.hint)
        elif report.lacks:
            yield Text.assemble("\n", (f"{report.site}, {report.dataset} lacks:", "bold"))
            yield hanging((pair for lack in report.lacks for pair in _lack(lack)), indent=2)


def _lack(lack: Lack) -> Iterator[tuple[Text, str]]:
    word, style = _WEIGHTS[lack.weight]
    yield Text(word, style=style), lack.what
    yield Text(), f"{lack.mend}  -- as {lack.who}" if ";" in lack.mend else lack.mend


def findings(found: Sequence[PlacedFinding]) -> Iterator[RenderableType]:
    """What the map check found, worst first as it comes, each with what to do."""
    yield hanging(pair for finding in found for pair in _finding(finding))
    errors = sum(str(f.level) == "error" for f in found)
    warnings = sum(str(f.level) == "warning" for f in found)
    yield Text(f"{units.plural(errors, 'error')}, {units.plural(warnings, 'warning')}")


def _finding(finding: PlacedFinding) -> Iterator[tuple[Text, Text]]:
    level = str(finding.level)
    yield Text(level, style=_LEVELS[level]), Text.assemble((f"{finding.table}: ", "bold"), finding.message)
    if finding.hint:
        yield Text(), Text(f"next: {finding.hint}")


def _row(report: SiteReport) -> list[str | Text]:
    server, rights = report.server, report.rights
    if server is None or rights is None:
        return [report.site, report.dataset, "", "", "", "", "", "", Text("unreachable", style="red")]
    state = Text("ready", style="green") if report.ready else Text("not ready", style="red")
    return [
        report.site,
        report.dataset,
        server.version.split(" ")[0],
        server.wal_level,
        rights.role,
        f"{server.round_trip_ms:.1f} ms",
        f"{round(server.clock_offset_ms):+d} ms",
        units.size(server.disk_free_bytes),
        state,
    ]
