"""How the demo looks: its stages while it plays (stderr), and its account at the end (stdout)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
import time
from typing import Self

from rich.console import RenderableType
from rich.status import Status as Spinner
from rich.table import Table
from rich.text import Text

from domicile.cli import units
from domicile.cli.output import Output
from domicile.cli.progress import Show, watching
from domicile.cli.tables import Col, table
from domicile.demo.account import Account, Evidence, Stayed
from domicile.demo.customers import Writes
from domicile.demo.events import Built, Event, Moving, Stage, StageDone, StageStarted
from domicile.demo.proof import Statement

MOVING = (Stage.APPLY, Stage.PURGE)


class Teller:
    """Shows the demo's events: one line per stage that ended, and below it, on a terminal, the one at work.

    A context manager, so that the terminal is whole again however the demo ends.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began = time.monotonic()
        self._at_work = ExitStack()
        self._show: Show | None = None
        self._spinner: Spinner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted(stage):
                self._start(stage)
            case StageDone():
                self._done(event)
            case Built() if self._spinner is not None:
                self._spinner.update(f"{Stage.BUILD} ({event.number}/{event.of}: {event.table})")
            case Moving(status=status) if self._show is not None:
                self._show(status)

    def clear(self) -> None:
        """Take the live part off the terminal."""
        self._show = self._spinner = None
        self._at_work.close()

    def _start(self, stage: Stage) -> None:
        self.clear()
        if stage in MOVING:
            self._output.say(self._line("", stage))
            self._show = self._at_work.enter_context(watching(self._output, live=True, purging=stage is Stage.PURGE))
        elif self._output.stderr.is_terminal:
            self._spinner = self._at_work.enter_context(self._output.stderr.status(str(stage)))
        else:
            self._output.say(self._line("", stage))

    def _done(self, event: StageDone) -> None:
        self.clear()
        self._output.say(self._line("done: ", event.stage, f" ({units.duration(event.seconds)})"))
        for said in event.said:
            self._output.say(_hanging("    ", said))

    def _line(self, before: str, stage: Stage, after: str = "") -> Text:
        elapsed = f"{time.monotonic() - self._began:6.1f} s  "
        return Text.assemble((elapsed, "dim"), (before, "green"), (str(stage), "bold"), after)


def account(found: Account, width: int) -> Iterator[RenderableType]:
    """What happened, what stayed and why, and what the demo's own check found."""
    yield Text()
    yield _figures(found)
    yield Text("\nrows per table, before -> after", style="bold")
    yield _tables(found, width)
    yield Text(f"\nwhat stayed at {found.plan.source}, and why", style="bold")
    for part in found.stayed:
        yield _hanging("  ", _stayed(part))
    yield Text("\nchecked without the engine, by what customers were promised and by counting rows", style="bold")
    for statement in found.statements:
        yield _statement(statement)
    yield Text()
    yield Text(_oracle(found), style="bold")
    yield _hanging(Text("evidence     ", style="bold"), _evidence(found.evidence))
    yield _hanging(Text("certificate  ", style="bold"), found.evidence.certificate)
    if found.proven:
        yield Text.assemble(("proven", "bold green"), f" in {units.duration(found.seconds)} in all")
    else:
        yield Text("NOT PROVEN: see above", style="bold red")


def _figures(found: Account) -> RenderableType:
    status, plan, report, purge = found.report.status, found.plan, found.report, found.purge
    fences = [w.fence_seconds for w in status.waves if w.fence_seconds is not None]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("store", _store(found))
    moved = units.plural(sum(w.subjects for w in status.waves), "user")
    grid.add_row("moved", f"{moved} ({plan.cohort.where}), {plan.source} -> {plan.target}")
    grid.add_row("data", f"{units.plural(report.rows, 'row')}, {units.size(report.bytes)}")
    grid.add_row("time", f"{units.duration(found.moving_seconds)}, proofs included")
    grid.add_row(
        "speed",
        f"{units.count(found.rows_per_second)} rows/s, {units.count(report.rows_per_second)} while copying",
    )
    if fences:
        grid.add_row(
            "fenced",
            f"{units.duration(report.fence_seconds_median)} a wave (median), "
            f"{units.duration(report.fence_seconds_max)} at most, "
            f"{units.duration(sum(fences))} in {units.plural(len(status.waves), 'wave')} together",
        )
    grid.add_row("customers", _customers(found.writes))
    grid.add_row("pause", _pause(found.writes))
    grid.add_row("verdict", report.verdict)
    grid.add_row(
        "purged",
        f"{units.plural(purge.rows, 'row')} at {plan.source} in {units.duration(purge.seconds)}, "
        f"{units.count(purge.left_at_source or 0)} left of them",
    )
    return grid


def _customers(writes: Writes) -> str:
    each = writes.transactions / writes.seconds if writes.seconds else 0.0
    return (
        f"{units.plural(writes.transactions, 'write')} in {units.duration(writes.seconds)} ({each:,.0f}/s), "
        f"p50 {_ms(writes.latency.p50)}, p99 {_ms(writes.latency.p99)}"
    )


def _pause(writes: Writes) -> str:
    """As the writers saw it: of each handover, how long the one who waited longest did."""
    pause = writes.pause
    if not pause.count:
        return "nobody wrote during a handover"
    return (
        f"p50 {_ms(pause.p50)}, p99 {_ms(pause.p99)}, max {_ms(pause.max)}, as customers saw "
        f"{units.plural(pause.count, 'handover')}"
    )


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:,.0f} ms"


def _oracle(found: Account) -> str:
    verdict, writes = found.writes.found, found.writes
    refused = "refused only with DM001/DM002" if writes.politely else "NOT refused only with DM001/DM002"
    return (
        f"acknowledged writes {verdict.acknowledged:,}, lost {verdict.lost:,}, doubled {verdict.doubled:,}, {refused}, "
        f"rows of outsiders at the target {verdict.foreign:,}"
    )


def _evidence(found: Evidence) -> str:
    other = f"; the single file that shares no code with it: {found.other}" if found.other else ""
    return f"{units.plural(found.statements, 'statement')} of both sites' logs. domicile: {found.outcome}{other}"


def _store(found: Account) -> str:
    world, plan = found.world, found.plan
    at_source = (
        units.plural(world.users, "user"),
        units.plural(world.orders, "order"),
        units.plural(world.rows, "row"),
    )
    at_target = units.plural(world.residents, "other user")
    return f"{', '.join(at_source)} at {plan.source}; {at_target} at {plan.target}; PostgreSQL {world.postgres}"


def _tables(found: Account, width: int) -> RenderableType:
    plan = found.plan
    columns = (Col("table"), Col(str(plan.source), number=True), Col(str(plan.target), number=True))
    rows = [
        [
            t.table.partition(".")[2],
            _change(t.source_before, t.source_after),
            _change(t.target_before, t.target_after),
        ]
        for t in found.tables
    ]
    return table(columns, rows, width)


def _change(before: int, after: int) -> str:
    return units.count(after) if before == after else f"{units.count(before)} -> {units.count(after)}"


def _stayed(part: Stayed) -> str:
    users = f"{units.plural(part.users, 'user')}, " if part.users else ""
    return f"{part.what}: {users}{units.plural(part.rows, 'row')}; {part.why}"


def _statement(statement: Statement) -> RenderableType:
    mark = Text("  yes  ", style="green") if statement.holds else Text("  NO   ", style="bold red")
    seen = f" ({units.plural(statement.rows, 'row')})" if statement.rows else ""
    differing = f"; see {', '.join(statement.differing)}" if statement.differing else ""
    return _hanging(mark, f"{statement.text}{seen}{differing}")


def _hanging(before: str | Text, text: str) -> RenderableType:
    """A text whose further lines begin under its first one."""
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(before, text)
    return grid
