"""How the verdict on a bundle looks."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from domicile.cli.tables import hanging
from domicile.evidence.verify import Check, Outcome, Report

_SAYS = {
    Outcome.PROVEN: ("proven", "bold green", "every check passed, under the keys that you brought"),
    Outcome.UNANCHORED: ("unanchored", "bold yellow", "the bundle agrees with itself; whose it is, you cannot tell"),
    Outcome.REFUTED: ("refuted", "bold red", "this is no evidence"),
}
_MARKS = {"passed": ("ok", "green"), "failed": ("FAILED", "bold red"), "not reached": ("-", "dim")}


def report(found: Report, width: int) -> Iterator[RenderableType]:
    """The verdict, the checks, what the bundle tells, what it does not show."""
    word, style, meaning = _SAYS[found.outcome]
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
