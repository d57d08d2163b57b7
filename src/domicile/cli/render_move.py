"""How moves look: their status, verdicts, what was purged, the account of a whole move, and where somebody
lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import RenderableType
from rich.text import Text

from domicile.cli import render_erasure, render_live, units
from domicile.cli.tables import Col, hanging, table
from domicile.model.phase import Phase, Status
from domicile.model.plan import Limits, Mode
from domicile.model.report import MoveReport, MoveStatus, PurgeReport, VerifyReport, WaveStatus, Whereabouts

WAVES_SHOWN_MAX = 20  # of more waves, neighbours in the same state share a line
STYLES = {
    Status.RUNNING: "cyan",
    Status.WAITING: "green",
    Status.DONE: "green",
    Status.FAILED: "bold red",
    Status.ABORTED: "red",
    Status.PAUSED: "yellow",
}
ARRIVED = (Phase.SOAK, Phase.PURGE, Phase.DONE)


def moves(found: Sequence[MoveStatus], width: int) -> Iterator[RenderableType]:
    """A line per move."""
    if not found:
        yield Text("No moves yet. Make a plan with: domicile plan")
        return
    columns = (
        Col("move"),
        Col("dataset", 2),
        Col("from", 3),
        Col("to", 3),
        Col("status"),
        Col("waves", number=True),
        Col("rows", 5, number=True),
        Col("begun", 1),
    )
    rows: list[list[str | Text]] = [
        [
            m.move_id,
            m.dataset,
            m.source,
            m.target,
            styled(m.status),
            f"{sum(w.phase in ARRIVED for w in m.waves)}/{len(m.waves)}",
            units.count(m.rows_copied),
            m.created_at[:16],
        ]
        for m in found
    ]
    yield table(columns, rows, width)


def move(now: MoveStatus, width: int) -> Iterator[RenderableType]:
    """One move: how far, how it goes, its waves, what is safe and what comes next."""
    yield Text.assemble((f"{now.dataset}: {now.source} -> {now.target}", "bold"), f"  move {now.move_id}")
    asked = " (pause asked for)" if now.pause_requested else " (abort asked for)" if now.abort_requested else ""
    alone = " (nobody carries it now)" if now.status is Status.RUNNING else ""
    alone = f", waits for a worker of {now.source}" if now.ordered else alone
    runner = f", carried by {now.runner}" if now.runner else alone
    yield Text.assemble("status  ", styled(now.status), f"{asked}{runner}")
    arrived = sum(w.subjects for w in now.waves if w.phase in ARRIVED)
    yield Text(
        f"moved   {units.count(arrived)} of {units.plural(now.subjects, 'subject')},"
        f" {units.count(now.rows_copied)} of {units.plural(now.rows_planned, 'row')},"
        f" {units.size(now.bytes_copied)}"
    )
    if now.pauses is not None:
        yield Text(f"pause   {render_live.pauses(now.pauses)}")
    if line := _no_return(now):
        yield Text(f"purge   {line}")
    if now.doing:
        yield Text(f"doing   {now.doing}")
    yield Text()
    yield _waves(now, width)
    for wave in now.waves:
        yield from _live(wave, now.limits)
    yield from _error("move", now)
    for wave in now.waves:
        yield from _error(f"wave {wave.no}", wave)
    yield Text()
    yield hanging(
        pair
        for pair in ((Text("safe:", style="bold green"), now.safe), (Text("next:", style="bold"), now.next))
        if pair[1]
    )


def _no_return(now: MoveStatus) -> str:
    """From when on a purge may begin, and who has approved it; empty where nothing was asked for."""
    found = now.no_return
    if found is None or not (found.approvals_needed or found.approvals or found.seconds_left):
        return ""
    said = []
    if found.seconds_left:
        said.append(f"from {units.moment(found.opens_at)} on, in {units.duration(found.seconds_left)}")
    standing = [f"{a.person} (until {units.moment(a.expires_at)})" for a in found.standing]
    counted = f"{len(standing)} of {found.approvals_needed}" if found.approvals_needed else len(standing)
    said.append(f"approvals {counted}{': ' if standing else ''}{', '.join(standing)}")
    expired = [a.person for a in found.approvals if not a.standing]
    if expired:
        said.append(f"expired: {', '.join(expired)}")
    return "; ".join(said)


def _error(where: str, failed: MoveStatus | WaveStatus) -> Iterator[RenderableType]:
    if failed.error_code:
        yield Text.assemble((f"{where}: error[{failed.error_code}]", "bold red"), f": {failed.error_message}")
        if failed.error_hint:
            yield Text(f"  next: {failed.error_hint}")


def styled(status: Status) -> Text:
    """The status in its colour."""
    return Text(str(status), style=STYLES.get(status, ""))


def _live(wave: WaveStatus, limits: Limits) -> Iterator[RenderableType]:
    if pairs := tuple(render_live.block(wave, limits)):
        yield Text(f"\nwave {wave.no} now", style="bold")
        yield hanging(pairs, indent=2)


def _waves(now: MoveStatus, width: int) -> RenderableType:
    cold = now.mode is Mode.COLD
    columns = (
        Col("wave"),
        Col("phase"),
        Col("status"),
        Col("subjects", 4, number=True),
        Col("rows", number=True),
        Col("size", 3, number=True),
        Col("speed", 1, number=True),
        Col("fenced" if cold else "pause", 6, number=True),
        Col("verdict", 5),
    )
    waves = now.waves
    groups = [[w] for w in waves]
    if len(waves) > WAVES_SHOWN_MAX:
        groups = [list(g) for _, g in groupby(waves, lambda w: (w.phase, w.status, w.verdict, w.error_code))]
    return table(columns, [_wave(group, cold=cold) for group in groups], width)


def _wave(group: Sequence[WaveStatus], *, cold: bool) -> list[str | Text]:
    first, last = group[0], group[-1]
    fences = [w.fence_seconds for w in group if w.fence_seconds is not None]
    pauses = [w.live.pause_ms for w in group if w.live is not None and w.live.pause_ms is not None]
    closed = units.duration(max(fences, default=None)) if cold else units.milliseconds(max(pauses, default=None))
    timed = [(w.bytes_copied, w.copy_seconds) for w in group if w.copy_seconds]
    seconds = sum(s for _, s in timed)
    return [
        str(first.no) if first is last else f"{first.no}-{last.no}",
        str(first.phase),
        styled(first.status),
        units.count(sum(w.subjects for w in group)),
        units.count(sum(w.rows_copied or w.rows_planned for w in group)),
        units.size(sum(w.bytes_copied or w.bytes_planned for w in group)),
        f"{units.size(sum(size for size, _ in timed) / seconds)}/s" if seconds else "",
        closed,
        first.verdict,
    ]


def verify(found: VerifyReport, width: int) -> Iterator[RenderableType]:
    """The comparison made now, a line per wave, then the rows that differ."""
    columns = (
        Col("wave"),
        Col("phase", 2),
        Col("source copy"),
        Col("both sites"),
        Col("rows at source", 4, number=True),
        Col("rows at target", 4, number=True),
        Col("subjects differing", 5, number=True),
    )
    rows: list[list[str | Text]] = [
        [
            str(w.no),
            str(w.phase),
            Text("intact", style="green") if w.source_intact else Text("CHANGED", style="bold red"),
            Text("equal", style="green") if w.equal else Text("differ", style="yellow"),
            units.count(w.rows_source),
            units.count(w.rows_target),
            units.count(w.rows_differing),
        ]
        for w in found.waves
    ]
    if rows:
        yield table(columns, rows, width)
    for wave in found.waves:
        for line in (*wave.discrepancies, *filter(None, [wave.note])):
            yield Text(f"wave {wave.no}: {line}")
    if not found.waves:
        yield Text("No wave lives at the target with its source copy still there: nothing to compare.")
    elif found.clean:
        yield Text.assemble(("clean", "bold green"), ": every source copy is as it was when its verdict was sealed")
    else:
        yield Text.assemble(("not clean", "bold red"), ": a source copy is no longer what its verdict sealed")


def purge(done: PurgeReport, width: int) -> Iterator[RenderableType]:
    """What was deleted, what is left, and what this did not touch."""
    whose = f"{units.plural(done.waves, 'wave')} that live{'' if done.waves > 1 else 's'} at {done.home}"
    rows = units.plural(done.rows, "row")
    yield Text(f"deleted {rows} at {done.site} of {whose}, in {units.duration(done.seconds)}")
    yield table((Col("table"), Col("rows", number=True)), [[t.table, units.count(t.rows)] for t in done.tables], width)
    if done.left_at_source is not None:
        yield Text(f"rows of these subjects found at {done.site} afterwards: {units.count(done.left_at_source)}")
    yield from _sentences("not touched by this:", done.remains)
    if done.erasure is not None:
        yield from render_erasure.erasure(done.erasure, width)


def report(account: MoveReport, width: int) -> Iterator[RenderableType]:
    """The account of a move."""
    yield from move(account.status, width)
    yield Text()
    speed = f"{units.count(account.rows_per_second)} rows/s" if account.rows_per_second else "-"
    yield Text(
        f"copied  {units.plural(account.rows, 'row')}, {units.size(account.bytes)}"
        f" in {units.duration(account.seconds)} ({speed})"
    )
    if account.fence_seconds_max is not None:
        yield Text(
            f"fenced  {units.duration(account.fence_seconds_median)} a wave (median),"
            f" {units.duration(account.fence_seconds_max)} at most"
        )
    yield Text(f"verdict {account.verdict}")
    yield Text(f"purged  {account.purged}\n")
    rows = [[str(t.table), units.count(t.rows)] for t in account.tables]
    yield table((Col("table"), Col("rows", number=True)), rows, width)
    yield from _sentences("what differed in waves that failed:", account.discrepancies)
    yield from _sentences("what stayed:", account.stayed)
    taken_out = tuple(f"wave {e.wave}: {units.plural(e.subjects, 'subject')}, {e.reason}" for e in account.ejected)
    yield from _sentences("who was taken out of a wave and stayed:", taken_out)


def where(found: Whereabouts, width: int) -> Iterator[RenderableType]:
    """The home, how that is known, and what each site says itself. The subject's key is not repeated."""
    home = found.home or found.basis
    since = f", epoch {found.epoch}" if found.epoch else ""
    yield Text.assemble("home  ", (home, "bold"), f"  (known from: {found.basis}{since})" if found.home else since)
    columns = (Col("site"), Col("row"), Col("mark"), Col("epoch", number=True))
    rows = [
        [p.site, "present" if p.row_present else "absent", p.mark or "none", str(p.epoch) if p.epoch else "-"]
        for p in found.sites
    ]
    yield table(columns, rows, width)


def _sentences(title: str, sentences: Sequence[str]) -> Iterator[RenderableType]:
    if sentences:
        yield Text(f"\n{title}", style="bold")
        yield hanging((("-", sentence) for sentence in sentences), indent=2)
