"""How results look: within any width, with every fact that matters, in colour only where colour is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from tests.cli import examples as ex

from domicile.cli import render_move, render_plan, render_sites, units
from domicile.cli.as_json import dumps
from domicile.cli.output import error_text
from domicile.cli.progress import ASCII, Pace, Picture
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.survey.finding import Finding, Level

FINDINGS = (
    Finding(
        Level.ERROR, "store.orders", "12 rows have no owner: user_id names no user_account", "Delete or adopt them."
    ),
    Finding(Level.WARNING, "store.review", "no index on user_id: each wave scans 2,000,000 rows", "create index ..."),
)
ERROR = DomicileError(
    ErrorCode.FENCE_BUDGET,
    "wave 2 could not be fenced within 10 s: two transactions hold locks on its tables",
    facts={"wave": 2, "blockers": [{"pid": 17, "age_s": 120.5}], "seconds": 10.0, "nothing": []},
    safe="The source serves; nothing has changed.",
    hint="Ask the owner of pid 17 to commit, then: domicile resume store-beijing-singapore-a1b2c3",
)


def rendered(width: int) -> dict[str, Iterable[RenderableType]]:
    pace = Pace()
    pace.tell(0.0, 0, 0)
    pace.tell(2.0, 123_456, 45_678_901)
    picture = Picture(ex.RUNNING, pace, 61.0)
    live = Picture(ex.LIVE, pace, 61.0)
    return {
        "sites": render_sites.sites(ex.SITES, width),
        "findings": render_sites.findings(FINDINGS),
        "plan": render_plan.plan(ex.PLAN, width),
        "cold plan": render_plan.plan(ex.ONLY_COLD, width),
        "live move": render_move.move(ex.LIVE, width),
        "cold move": render_move.move(ex.COLD, width),
        "live progress": [live.live(width)],
        "moves": render_move.moves((ex.RUNNING, ex.FAILED), width),
        "no moves": render_move.moves((), width),
        "move": render_move.move(ex.RUNNING, width),
        "failed move": render_move.move(ex.FAILED, width),
        "verify": render_move.verify(ex.VERIFY, width),
        "purge": render_move.purge(ex.PURGE, width),
        "purge after a rollback": render_move.purge(ex.PURGED_BACK, width),
        "report": render_move.report(ex.REPORT, width),
        "where": render_move.where(ex.WHERE, width),
        "progress": [picture.live(width)],
        "error": [error_text(ERROR)],
    }


def printed(parts: Iterable[RenderableType], width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, markup=False, highlight=False)
    for part in parts:
        console.print(part)
    return out.getvalue()


MUST_SHOW = {
    "sites": ["beijing", "singapore", "18.4", "not ready", "unreachable", 'grant create on database "s" to "m";'],
    "findings": ["error", "warning", "1 error, 1 warning", "store.orders", "next: create index"],
    "plan": ["beijing -> singapore", "1.7 GB", "1 canary", "11-39", "FAILED", "schemas equal", "refused"],
    "cold plan": ["FAILED", "change stream at beijing (live only)", "not live: 1 failed check", "--cold"],
    "live move": [
        "pause   p50 3.5 ms, p99 4.0 ms, max 4.0 ms over 10 waves; round trip 0.35 ms",
        "wave 11 now",
        "1.2 MB of log, 840 ms; 1.0 MB allowed at the handover. 987,654 changes applied",
        "312 rows of 40 subjects",
        "1.2 GB of 17.2 GB allowed",
        "holds itself back 40 % of the time; a write takes 31 ms (p99; 8.2 ms before)",
        "in about 12.0 s, try 3 of 20; writers wait 1.0 s at most. Last try: 2 transactions still write",
        "pid 4711 psql 12.4 s, a prepared transaction 3.0 s, pid 4712 billing worker",
        "12-40",
    ],
    "cold move": ["3-40", "fenced", "3.2 s"],
    "live progress": [
        "lag 1.2 MB of 1.0 MB 840 ms",
        "dirty 312 rows of 40 subjects",
        "handover in 12.0 s",
        "987,654 changes applied",
        "try 3 of 20",
        "slowed 40 %",
        "a write takes 31 ms (p99; 8.2 ms before)",
        "log kept 1.2 GB of 17.2 GB",
        "waits for",
        "pid 4711 psql 12.4 s",
        "a prepared transaction 3.0 s",
        "last try: ",
    ],
    "moves": ["store-beijing-singapore-a1b2c3", "running", "failed", "1/40"],
    "no moves": ["domicile plan"],
    "move": ["pause asked for", "copy", "3-40", "safe:", "next:"],
    "failed move": ["wave 2: error[discrepancy]", "3 rows differ"],
    "verify": ["intact", "CHANGED", "missing at the target", "not clean"],
    "purge": ["4,938,240 rows at beijing of 40 waves that live at singapore", "2,469,120", "at beijing", "Backups"],
    "purge after a rollback": ["4,938,240 rows at singapore of 1 wave that lives at beijing", "2,469,120"],
    "report": ["65,843 rows/s", "1.9 s", "3.2 s", "clean: 40 of 40", "left beijing"],
    "where": ["singapore", "directory", "epoch 3", "departed"],
    "progress": ["store: beijing -> singapore", "running", "rows/s", "%"],
    "error": ["error[fence-budget]", "blockers", "120.5", "safe: The source serves", "next: Ask the owner"],
}


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("name", MUST_SHOW)
def test_fits_and_shows_what_matters(name: str, width: int) -> None:
    text = printed(rendered(width)[name], width)
    assert all(cell_len(line) <= width for line in text.splitlines()), text
    flat = "".join(text.split())
    wanted = MUST_SHOW[name] if width >= 60 else MUST_SHOW[name][:1]
    for fact in wanted:
        assert "".join(fact.split()) in flat, f"{fact!r} is not in:\n{text}"
    assert "\x1b" not in text


@pytest.mark.parametrize(("width", "height"), [(40, 15), (60, 11), (80, 9), (120, 7)])
def test_a_live_wave_takes_the_lines_it_needs(width: int, height: int) -> None:
    picture = printed([Picture(ex.LIVE, Pace(), 61.0).live(width)], width)
    assert len(picture.splitlines()) <= height, picture
    assert "…" not in picture or width < 60, "nothing is cut"
    assert "wave 11: handover" in picture
    for fact in MUST_SHOW["live progress"]:
        assert fact in picture, picture


def test_a_live_wave_in_a_log_is_one_line() -> None:
    line = Picture(ex.LIVE, Pace(), 61.0).line()
    assert "\n" not in line
    for fact in ("wave 11: handover", "lag 1.2 MB", "slowed 40 %", "waits for", "last try: 2 transactions"):
        assert fact in line


def test_what_lasts_and_has_no_figure_is_said_in_words() -> None:
    said = "the server's files are searched, 42 %"
    searching = replace(ex.LIVE, doing=said)
    assert f"wave 11: {said}" in Picture(searching, Pace(), 61.0).line()
    assert said in printed([Picture(searching, Pace(), 61.0).live(120)], 120)
    arrived = [replace(wave, phase=Phase.SOAK, status=Status.WAITING) for wave in ex.WAVES[1:3]]
    assert f"2/2 waves, {said}" in Picture(replace(replace_waves(arrived), doing=said), Pace(), 61.0).line()
    assert f"doing   {said}" in printed(render_move.move(searching, 120), 120)


def test_a_wave_that_has_arrived_shows_no_lag() -> None:
    assert "lag" not in printed(render_move.move(replace_live(ex.HANDED_OVER), 120), 120)
    alone = printed(render_move.move(replace_live(ex.HANDED_OVER[:1]), 120), 120)
    assert "pause   3.1 ms in 1 wave; round trip 0.35 ms" in alone
    assert "pause   " not in printed(render_move.move(replace_live(ex.LIVE.waves[-1:]), 120), 120).split("wave")[0]


def replace_live(waves: tuple[ex.WaveStatus, ...]) -> ex.MoveStatus:
    return ex.replace(ex.LIVE, waves=waves)


def test_live_figures_and_budgets_are_in_the_json() -> None:
    told = json.loads(dumps(ex.LIVE))
    assert told["pauses"] == {"waves": 10, "p50_ms": 3.5, "p99_ms": 4.0, "max_ms": 4.0, "round_trip_ms": 0.35}
    assert told["limits"]["handover_tries"] == 20
    assert told["waves"][10]["live"]["blockers"][0] == {"pid": 4711, "application": "psql", "age_s": 12.44}
    assert told["mode"] == "live"


def test_numbers_are_never_broken_in_two() -> None:
    text = printed(render_move.move(ex.RUNNING, 60), 60)
    assert "4,691,328" in text, "the rows of the 38 waiting waves together"


def test_an_error_says_each_thing_once() -> None:
    text = printed([error_text(ERROR)], 120)
    assert text.count("10 s") == 1
    assert "nothing:" not in text, "empty facts are left out"
    bare = DomicileError(ErrorCode.MOVE_UNKNOWN, "there is no move x", facts={"move": "x"}, safe="")
    assert printed([error_text(bare)], 80) == "error[move-unknown]: there is no move x\n"


def test_a_bar_shows_the_least_finished_wave_of_each_cell() -> None:
    done = [ex.wave(n, ex.WAVES[0].phase, ex.WAVES[0].status) for n in range(1, 9)]
    picture = Picture(replace_waves([*done, *ex.WAVES[1:3]]), Pace(), 1.0, ASCII)
    assert picture._bar(10) == "########>."
    assert picture._bar(5) == "####>"
    assert picture._bar(20) == "################>>.."
    assert Picture(replace_waves([*done, ex.FAILED.waves[0]]), Pace(), 1.0, ASCII)._bar(9) == "########x"
    assert Picture(replace_waves([]), Pace(), 1.0, ASCII)._bar(5) == ""


def replace_waves(waves: list[ex.WaveStatus]) -> ex.MoveStatus:
    return ex.replace(ex.RUNNING, waves=tuple(waves))


def test_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.rates() == (0.0, 0.0)
    for second in range(30):
        pace.tell(float(second), 0 if second < 20 else (second - 19) * 100, 0)
    rows, _ = pace.rates()
    assert 90 <= rows <= 100, "the twenty idle seconds are forgotten"
    pace.tell(30.0, 50, 0)
    assert pace.rates() == (0.0, 0.0), "a wave stepped back: a new beginning"


def test_time_left_needs_a_flow() -> None:
    assert Picture(ex.RUNNING, Pace(), 0.0).seconds_left is None
    pace = Pace()
    pace.tell(0.0, 0, 0)
    pace.tell(1.0, 185_184, 0)
    left = Picture(ex.RUNNING, pace, 1.0).seconds_left
    assert left == pytest.approx((ex.RUNNING.rows_planned - 185_184) / 185_184)
    for now in range(11, 31):
        pace.tell(float(now), 185_184, 0)  # nothing is copied while a wave is caught up
    assert pace.rates()[0] == 0.0
    assert Picture(ex.RUNNING, pace, 30.0).seconds_left == pytest.approx(30 * left)


def test_a_live_wave_shows_how_fast_its_stream_is() -> None:
    changes = Pace()
    changes.tell(0.0, 100, 0)
    changes.tell(2.0, 900, 0)
    assert "400 changes/s" in Picture(ex.LIVE, Pace(), 61.0, changes=changes).line()


def test_json_has_fields_and_properties_and_no_hidden_ones() -> None:
    move = json.loads(dumps(ex.RUNNING))
    assert move["rows_copied"] == 185_184
    assert move["waves"][0]["phase"] == "soak"
    assert json.loads(dumps(ex.PLAN))["tables"][0]["table"] == "store.user_account"
    assert json.loads(dumps(ex.SITES))[0]["ready"] is False
    assert json.loads(dumps({"x": float("inf")})) == {"x": None}
    from domicile.model.site import Dataset

    secret = Dataset(ex.STORE, "m", {ex.BEIJING: "password=hunter2"})
    assert json.loads(dumps(secret)) == {"name": "store", "map_path": "m"}


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "unknown"), (0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (99_949, "99.9 kB"), (99_960, "100 kB"),
     (999_499, "999 kB"), (999_500, "1.0 MB"), (12_345_678, "12.3 MB"), (10**18, "1,000 PB")],
)  # fmt: skip
def test_sizes(number: int | None, text: str) -> None:
    assert units.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (float("inf"), "-"), (0, "0 ms"), (0.85, "850 ms"), (0.9996, "1.0 s"), (12.44, "12.4 s"),
     (59.96, "1:00"), (187, "3:07"), (3_723, "1:02:03")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0.351, "0.35 ms"), (0.996, "1.0 ms"), (4.24, "4.2 ms"), (9.96, "10 ms"), (125.4, "125 ms"),
     (999.6, "1.0 s"), (61_000, "1:01")],
)  # fmt: skip
def test_milliseconds(number: float | None, text: str) -> None:
    assert units.milliseconds(number) == text


def test_counts() -> None:
    assert (units.count(1_234_567), units.plural(1, "wave"), units.plural(2_000, "wave")) == (
        "1,234,567",
        "1 wave",
        "2,000 waves",
    )
    assert (units.share(1, 3), units.share(5, 3), units.share(0, 0)) == ("33 %", "100 %", "100 %")
