"""The verdict as a page that a person reads and prints: one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from domicile.evidence.verify import Outcome, Report

MEANING: Mapping[Outcome, str] = {
    Outcome.PROVEN: "Every check passed, under keys that the examiner brought.",
    Outcome.UNANCHORED: "The bundle agrees with itself. Whose it is cannot be told: no key was brought from elsewhere.",
    Outcome.REFUTED: "A check failed. This is no evidence.",
}
RULES = (
    "Each log speaks for one site.",
    "The epochs of a wave rise with every handover and rollback.",
    "A departure follows an equal verdict of the root that it names; a step back takes back the latest departure.",
    "Where a log says that a failover took such a verdict, the other site's log has the arrival.",
    "A rollback follows a handover; after a purge there is neither.",
    "A purge follows an equal verdict, the wave's latest, and the wave is at home at another site by then.",
    "A purge follows approvals of it by as many different people as the plan asks for.",
    "A scan and a residual follow a purge.",
    "All logs tell of the same handovers, with the same epochs, homes and roots.",
)
_STYLE = (
    "body{font:11pt/1.5 Georgia,serif;max-width:46em;margin:2em auto;padding:0 1em;color:#111}"
    "h1{font-size:1.5em}h2{font-size:1.1em;margin-top:1.6em}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.2em .8em .2em 0;border-bottom:1px solid #ccc}"
    "code{font-size:.85em;overflow-wrap:anywhere}.proven{color:#063}.unanchored{color:#850}.refuted{color:#a00}"
    "@media print{body{margin:0;max-width:none}tr{break-inside:avoid}}"
)


OWN = "Every check passed, under the sites' keys of the installation that made the bundle: an examiner brings his own."


def certificate(report: Report, bundle_digest: str, *, by_maker: bool = False) -> str:
    """The page. ``bundle_digest`` is the SHA-256 of the bundle, in hex; ``by_maker``: the keys are the maker's own."""
    meaning = OWN if by_maker and report.outcome is Outcome.PROVEN else MEANING[report.outcome]
    figures = dict(report.figures)
    move, plan, logs = figures.pop("move", ""), figures.pop("plan", ""), figures.pop("logs", [])
    assert isinstance(logs, list), "one entry a log"
    title = f"Evidence of the move {move}" if move else "A bundle of evidence"
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
        f'<p><b class="{report.outcome}">{report.outcome}</b>. {meaning}</p>',
        f"<p>Bundle, SHA-256: <code>{escape(bundle_digest)}</code></p>",
        f"<p>Plan, SHA-256: <code>{escape(str(plan))}</code></p>" if plan else "",
        "<h2>Checks</h2>",
        _table((c.name, c.result, f"{c.proves}. {c.why}" if c.why else c.proves) for c in report.checks),
    ]
    if report.outcome is not Outcome.REFUTED:
        parts += ["<h2>Logs</h2>", _table(map(_log, logs))]
        parts += ["<h2>Figures</h2>", _table((k.replace("_", " "), v) for k, v in figures.items())]
        parts += ["<h2>Not shown</h2>", _bullets(report.not_shown)]
    parts += [
        "<h2>The rules that were checked</h2>",
        _bullets(RULES),
        "<h2>Verify it again</h2>",
        "<p>This page proves nothing: the bundle does. With it, and the sites' keys from elsewhere: ",
        "<code>python3 verify_domicile_bundle.py BUNDLE --key KEYS</code></p></body></html>\n",
    ]
    return "\n".join(p for p in parts if p)


def _log(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    seen = ", ".join(f"{name} at {_moment(time)}" for name, time in facts["cosigned"].items())
    return facts["origin"], f"{facts['statements']} of {facts['size']} leaves", f"cosigned by {seen}"


def _moment(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"second {seconds}"


def _table(rows: Iterable[Iterable[object]]) -> str:
    lines = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _bullets(lines: Iterable[str]) -> str:
    return "<ul>" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
