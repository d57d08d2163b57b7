"""Progress of a move on stderr: a small live picture on a terminal, a line every few seconds otherwise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from domicile.cli import render_live, units
from domicile.cli.output import Output
from domicile.cli.render_move import ARRIVED, styled
from domicile.model.phase import Phase, Status
from domicile.model.report import MoveStatus, WaveStatus

WINDOW_SECONDS = 10.0  # the rate is that of the last ten seconds
PLAIN_SECONDS = 3.0
LINE_WIDTH = 200  # of each part of a line for logs
BAR_WIDTH_MIN, BAR_WIDTH_MAX = 8, 40

Show = Callable[[MoveStatus], None]


@dataclass(slots=True)
class Pace:
    """Rows and bytes a second over the last WINDOW_SECONDS, from totals told with their times."""

    _seen: deque[tuple[float, int, int]] = field(default_factory=deque)
    _first: tuple[float, int] | None = None

    def tell(self, now: float, rows: int, size: int) -> None:
        """Totals that fall (a wave has stepped back) begin a new window."""
        if self._seen and rows < self._seen[-1][1]:
            self._seen.clear()
        self._first = self._first or (now, rows)
        self._seen.append((now, rows, size))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_SECONDS:
            self._seen.popleft()

    def rates(self) -> tuple[float, float]:
        """Zero while there is too little to tell."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0, 0.0
        (began, rows, size), (now, rows_now, size_now) = self._seen[0], self._seen[-1]
        return (rows_now - rows) / (now - began), (size_now - size) / (now - began)

    def average(self) -> float:
        """Rows a second since the first total was told."""
        if self._first is None or self._seen[-1][0] <= self._first[0]:
            return 0.0
        return max(0, self._seen[-1][1] - self._first[1]) / (self._seen[-1][0] - self._first[0])


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The cells of the bar."""

    finished: str
    at_work: str
    waiting: str
    failed: str


UNICODE = Glyphs("█", "▓", "░", "✗")
ASCII = Glyphs("#", ">", ".", "x")


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known at one moment, drawn in any width. ``purging`` counts rows deleted instead of rows
    copied.
    """

    status: MoveStatus
    pace: Pace
    elapsed: float
    glyphs: Glyphs = UNICODE
    purging: bool = False
    changes: Pace = field(default_factory=Pace)  # of the stream of the wave at work

    @property
    def rows(self) -> int:
        return sum(w.rows_purged for w in self.status.waves) if self.purging else self.status.rows_copied

    @property
    def finished(self) -> tuple[Phase, ...]:
        """The phases in which a wave is through with this work."""
        return (Phase.DONE,) if self.purging else ARRIVED

    @property
    def seconds_left(self) -> float | None:
        """At the present rate, or at that so far while a wave is caught up and compared; None while nothing flowed."""
        rate = self.pace.rates()[0] or self.pace.average()
        return max(0, self.status.rows_planned - self.rows) / rate if rate > 0 else None

    def wave_at_work(self) -> WaveStatus | None:
        at_work = (w for w in self.status.waves if w.status is Status.RUNNING and w.phase is not Phase.SOAK)
        return next(at_work, None)

    def live(self, width: int) -> RenderableType:
        """Three lines, and some more for a live wave, none wider than ``width``."""
        now, at_work = self.status, self._at_work()
        share = units.share(now.rows_copied, now.rows_planned)
        bar = self._bar(max(BAR_WIDTH_MIN, min(BAR_WIDTH_MAX, width - len(share) - len(at_work) - 3)))
        head = Text(f"{now.dataset}: {now.source} -> {now.target}  ", style="bold")
        lines = [
            Text.assemble(head, styled(now.status), f"  {self._arrived()}"),
            Text(f"{bar} {share}  {at_work}".rstrip()),
            Text(self._figures(width)),
        ]
        if (wave := self.wave_at_work()) is not None:
            lines += [Text(line, style="dim") for line in render_live.lines(wave, now.limits, width)]
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return Group(*lines)

    def line(self) -> str:
        """Everything in one line, for logs."""
        wave = self.wave_at_work()
        live = list(render_live.lines(wave, self.status.limits, LINE_WIDTH)) if wave else []
        stage = ", ".join(filter(None, (self._arrived(), self._at_work())))
        return (
            f"{self.status.move_id}: {'; '.join([f'{self.status.status}  {stage}', self._figures(LINE_WIDTH), *live])}"
        )

    def _arrived(self) -> str:
        arrived = sum(w.phase in self.finished for w in self.status.waves)
        return f"{arrived}/{len(self.status.waves)} waves"

    def _at_work(self) -> str:
        doing = self.status.doing
        if (wave := self.wave_at_work()) is not None:
            return f"wave {wave.no}: {doing or wave.phase}"
        if doing:
            return doing
        waits = next((w for w in self.status.waves if w.status is Status.FAILED), None)
        return f"wave {waits.no} [{waits.error_code}]: {waits.error_hint}" if waits is not None else ""

    def _figures(self, width: int) -> str:
        rows_per_second, bytes_per_second = self.pace.rates()
        elapsed = f"elapsed {units.duration(self.elapsed)}"
        figures = [f"{units.count(self.rows)} rows"]
        if (wave := self.wave_at_work()) is not None and render_live.figures_of(wave) is not None:
            figures.append(f"{units.count(self.changes.rates()[0])} changes/s")  # nothing is being copied
        else:
            figures.append(f"{units.count(rows_per_second)} rows/s")
            if not self.purging:
                figures.append(f"{units.size(bytes_per_second)}/s")
        figures += [f"left {units.duration(self.seconds_left)}", elapsed]
        return render_live.fitted(figures, width)

    def _bar(self, cells: int) -> str:
        """One cell per equal share of the waves, or several cells a wave."""
        waves = self.status.waves
        starts = [i * len(waves) // cells for i in range(cells + 1)]
        shares = (waves[at : max(at + 1, following)] for at, following in pairwise(starts))
        return "".join(self._cell(share) for share in shares) if waves else ""

    def _cell(self, waves: tuple[WaveStatus, ...]) -> str:
        """The least finished wave of the share; a failed one before all."""
        if any(w.status is Status.FAILED for w in waves):
            return self.glyphs.failed
        if all(w.phase in self.finished for w in waves):
            return self.glyphs.finished
        begun = any(w.phase not in (Phase.PLANNED, Phase.SOAK) or w.phase in self.finished for w in waves)
        return self.glyphs.at_work if begun else self.glyphs.waiting


@contextmanager
def watching(output: Output, *, live: bool, purging: bool = False) -> Iterator[Show]:
    """Show what the yielded function is told: live on a terminal, else in lines at most every
    PLAIN_SECONDS.
    """
    glyphs = UNICODE if output.stderr.encoding.lower().startswith("utf") else ASCII
    began, pace, changes = time.monotonic(), Pace(), Pace()

    def picture(status: MoveStatus) -> Picture:
        now = time.monotonic()
        drawn = Picture(status, pace, now - began, glyphs, purging, changes)
        pace.tell(now, drawn.rows, status.bytes_copied)
        wave = drawn.wave_at_work()
        changes.tell(now, wave.live.changes if wave is not None and wave.live is not None else 0, 0)
        return drawn

    if live and output.stderr.is_terminal:
        with _live(output.stderr, picture) as show:
            yield show
    else:
        yield _plain(output, picture)


@contextmanager
def _live(console: Console, picture: Callable[[MoveStatus], Picture]) -> Iterator[Show]:
    with Live(console=console, refresh_per_second=4, transient=True, redirect_stdout=False) as live:

        def show(status: MoveStatus) -> None:
            live.update(picture(status).live(console.width))

        yield show


def _plain(output: Output, picture: Callable[[MoveStatus], Picture]) -> Show:
    last_time, last_state = -PLAIN_SECONDS, ""

    def show(status: MoveStatus) -> None:
        nonlocal last_time, last_state
        drawn = picture(status)
        state = f"{status.status} {sum(w.status is Status.FAILED for w in status.waves)}"
        if time.monotonic() - last_time >= PLAIN_SECONDS or state != last_state:
            last_time, last_state = time.monotonic(), state
            output.say(drawn.line())

    return show
