"""How a plan looks before anybody says yes."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from domicile.cli import units
from domicile.cli.tables import Col, hanging, table
from domicile.model.plan import Check, Mode, Plan, WavePlan

WAVES_SHOWN_MAX = 12  # more are folded into one line; --json and the file have them all


def plan(made: Plan, width: int) -> Iterator[RenderableType]:
    """Who, what, in which waves, how long about, which checks passed, and what can be undone until when."""
    yield headline(made)
    who = f"where {made.cohort.where}" if made.cohort.where else f"named in {made.cohort.subjects_file}"
    yield hanging(
        [
            ("cohort", f"{units.plural(made.cohort.size, 'subject')}, {who}"),
            ("digest", f"{made.cohort.digest[:16]} (cohort), {made.digest[:16]} (plan)"),
            ("time", f"about {units.duration(made.seconds_estimate)}: {made.estimate_basis}"),
        ]
    )
    yield Text()
    yield _tables(made, width)
    yield Text()
    yield _waves(made, width)
    yield Text()
    yield from _checks(made)
    if made.refusals:
        failed = units.plural(len(made.refusals), "failed check")
        yield Text.assemble(("\nrefused: ", "bold red"), f"{failed}; apply would not begin.")
    elif live := made.refusals_of(Mode.LIVE):
        failed = units.plural(len(live), "failed check")
        yield Text.assemble(
            ("\nnot live: ", "bold yellow"),
            f"{failed}; apply needs --cold, which closes each wave to writes while it is copied.",
        )


def headline(made: Plan) -> Text:
    """``store: beijing -> singapore, 1,234 subjects, ...`` in one line."""
    return Text.assemble(
        (f"{made.dataset}: {made.source} -> {made.target}", "bold"),
        f"  {units.plural(made.cohort.size, 'subject')}, {units.plural(made.rows, 'row')},"
        f" {units.size(made.bytes)}, {units.plural(len(made.waves), 'wave')}",
    )


def _tables(made: Plan, width: int) -> RenderableType:
    columns = (
        Col("table"),
        Col("rows", number=True),
        Col("size", number=True),
        Col("format", 4),
        Col("why", 2),
    )
    rows = [[str(t.table), units.count(t.rows), units.size(t.bytes), str(t.format), t.why] for t in made.tables]
    return table(columns, rows, width)


def _waves(made: Plan, width: int) -> RenderableType:
    columns = (
        Col("wave"),
        Col("subjects", number=True),
        Col("rows", number=True),
        Col("size", 3, number=True),
        Col("about", 5, number=True),
    )
    return table(columns, [_wave(group) for group in _folded(made.waves)], width)


def _folded(waves: tuple[WavePlan, ...]) -> list[tuple[WavePlan, ...]]:
    if len(waves) <= WAVES_SHOWN_MAX:
        return [(w,) for w in waves]
    head, tail = waves[: WAVES_SHOWN_MAX - 2], waves[-1]
    return [*((w,) for w in head), waves[WAVES_SHOWN_MAX - 2 : -1], (tail,)]


def _wave(group: tuple[WavePlan, ...]) -> list[str]:
    first, last = group[0], group[-1]
    name = f"{first.no}-{last.no}" if first is not last else f"{first.no} canary" if first.no == 1 else str(first.no)
    return [
        name,
        units.count(sum(w.subjects for w in group)),
        units.count(sum(w.rows for w in group)),
        units.size(sum(w.bytes for w in group)),
        units.duration(sum(w.seconds_estimate for w in group)),
    ]


def _checks(made: Plan) -> Iterator[RenderableType]:
    passed = [c for c in made.checks if c.passed]
    yield Text.assemble(("checks", "bold"), f"  {len(passed)} of {len(made.checks)} passed")
    yield hanging((pair for check in made.checks for pair in _check(check)), indent=2)


def _check(check: Check) -> Iterator[tuple[Text, str]]:
    only = f" ({check.mode} only)" if check.mode else ""
    if check.passed:
        word, style = "passed", "green"
    elif not check.blocking:
        word, style = "note", "yellow"
    else:
        word, style = "FAILED", "bold yellow" if check.mode else "bold red"
    yield Text(word, style=style), f"{check.name}{only}: {check.detail}"
    if check.hint and not check.passed:
        yield Text(), f"next: {check.hint}"
