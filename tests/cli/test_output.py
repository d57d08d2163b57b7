"""The two streams: data and talk kept apart, secrets hidden, questions asked only of people."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from rich.text import Text
from tests.cli import examples as ex

from domicile.cli.confirm import confirm
from domicile.cli.main import _bug, _tame_logging
from domicile.cli.output import Output
from domicile.cli.progress import PLAIN_SECONDS, watching
from domicile.model.errors import EXIT_USAGE, DomicileError, ErrorCode
from domicile.model.phase import Status

SECRET = 'hunter"2\\hunter2 é'


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def output(*, terminal: bool = False, **environ: str) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), Terminal() if terminal else io.StringIO()
    return Output({"TERM": "xterm", **environ}, out, err), out, err  # type: ignore[arg-type]


def test_secrets_are_hidden_in_every_way_out() -> None:
    sink, out, err = output()
    sink.hide([SECRET, "abc", ""])
    error = DomicileError(
        ErrorCode.INTERNAL, f"said {SECRET}", facts={"list": [SECRET], "abc": {"k": SECRET}}, hint=SECRET
    )
    sink.result({"a": SECRET}, Text(f"text {SECRET}"))
    sink.raw(f"raw {SECRET}")
    sink.say(Text(f"talk {SECRET}"))
    sink.error(error)
    sink.json_wanted = True
    sink.result({"a": [SECRET], "abc": 1})
    sink.error(error)
    shown = out.getvalue() + err.getvalue()
    assert SECRET not in shown
    assert json.dumps(SECRET)[1:-1] not in shown
    assert json.dumps(SECRET, ensure_ascii=False)[1:-1] not in shown
    assert shown.count("***") >= 9
    assert '"abc": 1' in shown, "too short to be hidden: it would be everywhere"


def test_one_secret_may_hold_another() -> None:
    sink, out, _ = output()
    sink.hide(["pass"])
    sink.hide(["password"])
    sink.raw("password")
    assert out.getvalue() == "***\n"


def test_json_is_one_object_and_text_stays_away() -> None:
    sink, out, err = output()
    sink.json_wanted = True
    sink.result(ex.WHERE, Text("for people"))
    assert json.loads(out.getvalue())["home"] == "singapore"
    assert err.getvalue() == ""


def test_an_error_is_talk_and_with_json_data_too() -> None:
    error = DomicileError(
        ErrorCode.MOVE_UNKNOWN, "there is no move x", facts={"move": "x"}, hint="See: domicile status"
    )
    sink, out, err = output()
    sink.error(error)
    assert out.getvalue() == ""
    assert err.getvalue() == (
        "error[move-unknown]: there is no move x\nsafe: Nothing was changed.\nnext: See: domicile status\n"
    )
    sink.json_wanted = True
    sink.error(error)
    assert json.loads(out.getvalue()) == {
        "error": "move-unknown",
        "message": "there is no move x",
        "facts": {"move": "x"},
        "safe": "Nothing was changed.",
        "hint": "See: domicile status",
    }


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours(environ: dict[str, str], coloured: bool) -> None:
    sink, _, err = output(terminal=True, **environ)
    sink.error(DomicileError(ErrorCode.INTERNAL, "x"))
    assert ("\x1b[1;31m" in err.getvalue()) is coloured
    assert ("\x1b[3" in err.getvalue()) is False or coloured


def test_a_pipe_gets_long_lines_and_no_colour() -> None:
    sink, out, _ = output()
    sink.result({}, Text("word " * 150, style="red"))
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    narrow, out, _ = output(COLUMNS="40")
    narrow.result({}, Text("word " * 23))
    assert out.getvalue().count("\n") == 3


def answering(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    stdin = Terminal(answer)
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " yes \n"])
def test_yes_is_yes(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    sink, out, err = output()
    answering(monkeypatch, answer)
    confirm(sink, "Really?", yes=False)
    assert err.getvalue() == "Really? [y/N] "
    assert out.getvalue() == ""


@pytest.mark.parametrize("answer", ["\n", "n\n", "", "yess\n"])
def test_anything_else_is_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(DomicileError, match="not confirmed") as caught:
        confirm(output()[0], "Really?", yes=False)
    assert caught.value.exit_code == EXIT_USAGE


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(DomicileError, match=r"nobody is there to answer: Really\?") as caught:
        confirm(output()[0], "Really?", yes=False)
    assert caught.value.code is ErrorCode.CONFIRMATION_MISSING
    confirm(output()[0], "Really?", yes=True)


def test_progress_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("domicile.cli.progress.time.monotonic", lambda: now)
    sink, out, err = output()
    with watching(sink, live=True) as show:
        for _ in range(8):
            show(ex.RUNNING)
            now += PLAIN_SECONDS / 2
        show(ex.replace(ex.RUNNING, status=Status.WAITING))
    lines = err.getvalue().splitlines()
    assert len(lines) == 5, "one every PLAIN_SECONDS, and one when the status changes"
    assert lines[0].startswith("store-beijing-singapore-a1b2c3: running  1/40 waves, wave 2: copy; 185,184 rows")
    assert "waiting" in lines[-1]
    assert out.getvalue() == ""


def test_progress_on_a_terminal_leaves_nothing_behind() -> None:
    sink, _, err = output(terminal=True, COLUMNS="60")
    with watching(sink, live=True) as show:
        show(ex.RUNNING)
    shown = err.getvalue()
    assert "185,184 rows" in shown
    assert shown.endswith("\x1b[2K") or shown.rstrip("\n").endswith("\x1b[2K"), "the picture is wiped at the end"


def test_purging_counts_rows_deleted() -> None:
    sink, _, err = output()
    waves = (ex.replace(ex.WAVES[0], rows_purged=1_000),)
    with watching(sink, live=False, purging=True) as show:
        show(ex.replace(ex.RUNNING, waves=waves))
    assert "1,000 rows" in err.getvalue()
    assert "B/s" not in err.getvalue()


def test_an_error_of_our_own_shows_its_place_and_not_its_words() -> None:
    def fail() -> None:
        raise ValueError("Key (email)=(somebody@example.com) already exists")

    try:
        fail()
    except ValueError as error:
        bug, whole = _bug(error, {}), _bug(error, {"DOMICILE_DEBUG": "1"})
    assert bug.exit_code == 1
    assert "ValueError" in bug.message
    assert "somebody" not in repr(whole.as_dict()) + str(whole)
    assert [str(f).split(" in ")[1] for f in whole.facts["at"]] == [  # type: ignore[attr-defined]
        "test_an_error_of_our_own_shows_its_place_and_not_its_words",
        "fail",
    ]
    assert len(bug.facts["at"]) == 1  # type: ignore[arg-type]


def test_log_lines_of_our_own_are_talk_and_others_are_dropped() -> None:
    sink, out, err = output()
    _tame_logging(sink)
    try:
        logging.getLogger("domicile.sites").info("copied the wheel's servers to /var/lib/domicile")
        logging.getLogger("psycopg").warning("a value")
    finally:
        logging.getLogger("domicile").handlers = []
    assert err.getvalue() == "copied the wheel's servers to /var/lib/domicile\n"
    assert out.getvalue() == ""
