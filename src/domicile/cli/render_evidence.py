"""How a bundle looks: what it tells, and the verdict on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from domicile.cli import units
from domicile.cli.tables import Col, hanging, table
from domicile.evidence.account import EQUAL
from domicile.evidence.note import Key
from domicile.evidence.statement import (
    Abort,
    Approval,
    Copy,
    Gap,
    Handover,
    Pause,
    Plan,
    Predicate,
    Purge,
    Snapshot,
    StepBack,
    Verdict,
    WaveAct,
)
from domicile.evidence.verify import Check, Outcome, Report

if TYPE_CHECKING:  # verifying needs no database
    from domicile.commands.evidence import Bundle, Told

_SAYS = {
    Outcome.PROVEN: ("proven", "bold green", "every check passed, under {keys}"),
    Outcome.UNANCHORED: ("unanchored", "bold yellow", "the bundle agrees with itself; whose it is, you cannot tell"),
    Outcome.REFUTED: ("refuted", "bold red", "this is no evidence"),
}
_MARKS = {"passed": ("ok", "green"), "failed": ("FAILED", "bold red"), "not reached": ("-", "dim")}


def report(found: Report, width: int, keys: str = "the keys that you brought") -> Iterator[RenderableType]:
    """The verdict, under which keys, the checks, what the bundle tells, what it does not show."""
    word, style, meaning = _SAYS[found.outcome]
    meaning = meaning.format(keys=keys)
    yield Text.assemble((word, style), f": {meaning}")
    yield ""
    yield hanging([(_mark(c), _line(c)) for c in found.checks])
    if found.figures:
        yield ""
        yield hanging([(name, _shown(value)) for name, value in found.figures.items()])
    if found.not_shown:
        yield ""
        yield Text("not shown:", style="bold")
        yield hanging([("-", line) for line in found.not_shown], indent=min(2, width))


def exported(found: Bundle, bundle: Path, page: Path) -> dict[str, object]:
    """The ``--json`` form of an export."""
    return {
        "bundle": str(bundle),
        "certificate": str(page),
        "sha256": found.sha256,
        "bytes": len(found.raw),
        "statements": len(found.statements),
        "logs": sorted({t.log for t in found.statements}),
        "outcome": str(found.report.outcome),
        "not_shown": list(found.report.not_shown),
    }


def export(facts: dict[str, object]) -> Iterator[RenderableType]:
    """Where it is, and what to do with it."""
    logs = facts["logs"]
    assert isinstance(logs, list), "names"
    yield hanging(
        [
            ("bundle", f"{facts['bundle']} ({facts['statements']} statements of {', '.join(logs)})"),
            ("certificate", str(facts["certificate"])),
            ("sha256", str(facts["sha256"])),
        ]
    )
    yield ""
    yield "Give both away, and the keys by another way: domicile evidence keys"


def keys(found: Mapping[str, Sequence[Key]]) -> str:
    """A file of keys, as verifiers read it."""
    return "".join(
        f"# {name}: the log, its witness\n" + "".join(f"{k.text()}\n" for k in v) for name, v in found.items()
    )


def told(found: Bundle) -> dict[str, object]:
    """The ``--json`` form of what a bundle tells."""
    return {
        "statements": [
            {"log": t.log, "place": t.place, "kind": t.said.predicate.kind, **asdict(t.said.predicate)}
            for t in found.statements
        ],
        "report": found.report,
    }


def story(found: Bundle, width: int) -> Iterator[RenderableType]:
    """Statement by statement, in the order of the times, then the verdict."""
    columns = (Col("time (UTC)"), Col("site"), Col("leaf", keep=5, number=True), Col("act"), Col("what"))
    yield table(columns, [_row(t) for t in found.statements], width)
    yield ""
    yield from report(found.report, width, "this installation's own keys")


def _row(one: Told) -> list[str]:
    act = one.said.predicate
    moment = datetime.fromtimestamp(act.time, UTC)
    wave = f" {act.wave}" if isinstance(act, WaveAct) else ""
    return [f"{moment:%m-%d %H:%M:%S}", act.site, str(one.place), f"{act.kind}{wave}", _what(act)]


def _what(act: Predicate) -> str:
    match act:
        case Plan():
            asked = f"; a purge needs {units.plural(act.approvals, 'approval')}" if act.approvals else ""
            who = units.plural(act.subjects, "subject")
            return f"{who} in {units.plural(act.waves, 'wave')} to {act.target}{asked}"
        case Approval():
            return f"of the {act.act}, by {act.approver[:12]}, given {units.moment(act.given)}"
        case Snapshot():
            return f"{units.plural(act.subjects, 'subject')}, read at {act.position} or later"
        case Copy():
            return f"{units.plural(act.rows, 'row')}, {units.size(act.bytes)}"
        case Verdict():
            found = "" if act.outcome == EQUAL else f", {units.plural(act.differences, 'difference')}"
            return f"{act.outcome}: {units.plural(act.rows, 'row')}{found}"
        case Handover():
            return f"{'left for' if act.home != act.site else 'home at'} {act.home}, epoch {act.epoch}"
        case Pause():
            return f"its writers waited {act.pause_us / 1000:,.1f} ms"
        case StepBack():
            return f"the departure of epoch {act.epoch} is taken back" if act.epoch else "it had not departed"
        case Gap():
            return f"a failover took its verdict and its departure, epoch {act.epoch}, from this site"
        case Purge():
            return f"{units.plural(act.rows, 'row')} removed up to {act.position}"
        case Abort():
            return f"{units.plural(act.waves, 'wave')} given up"
        case _:
            own = [f.name for f in fields(act) if f.name not in ("site", "time", "wave")]
            return ", ".join(f"{name} {getattr(act, name)}" for name in own)


def _mark(check: Check) -> Text:
    word, style = _MARKS[check.result]
    return Text(f"{word:6} {check.name:11}", style=style)


def _line(check: Check) -> str:
    return check.why or check.proves


def _shown(value: object) -> str:
    match value:
        case list():
            return "\n".join(_log(v) for v in value)
        case _:
            return str(value)


def _log(facts: dict[str, object]) -> str:
    cosigned = facts["cosigned"]
    assert isinstance(cosigned, dict), "names of witnesses"
    return f"{facts['origin']}: {facts['statements']} of {facts['size']} leaves, cosigned by {', '.join(cosigned)}"
