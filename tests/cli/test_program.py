"""The program as its users run it: real processes, real databases, pipes and terminals."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path
import pty
import re
import struct
import subprocess
import termios

import psycopg
from tests.cli.desk import PROGRAM, Desk
from tests.conftest import ROOT


def test_init_writes_what_the_program_reads(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if k != "COLUMNS"}  # a pipe is as wide as its lines
    desk = Desk(tmp_path, "password=xxxxxxxxxx", "password=xxxxxxxxxx", environ)
    first = desk.domicile("init")
    assert (first.code, first.out) == (0, "")
    assert "domicile sites" in first.err
    text = (tmp_path / "domicile.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=domicile.schema.json\n")
    assert (tmp_path / "domicile.schema.json").read_text() == (ROOT / "schemas" / "domicile.schema.json").read_text()
    (tmp_path / "domicile.yaml").write_text("mine")
    again = desk.domicile("init")
    assert again.code == 2
    assert "error[file-exists]" in again.err
    assert (tmp_path / "domicile.yaml").read_text() == "mine"
    assert desk.domicile("--config", "other.yaml", "init").code == 0
    assert desk.domicile("init", "--force").code == 0
    assert (tmp_path / "domicile.yaml").read_text() == text
    unset = desk.domicile("sites")
    assert unset.code == 2
    assert unset.err.count("SINGAPORE_PASSWORD") == 1, "said once"
    assert "domicile.yaml:27:15: sites.singapore.conninfo: the environment variable SINGAPORE_PASSWORD" in unset.err


def test_a_whole_move_from_the_command_line(desk: Desk) -> None:
    sites = desk.domicile("sites", "--json")
    assert sites.code == 0
    assert [s["ready"] for s in sites.json["sites"]] == [True, True]

    draft = desk.domicile("survey", "app", "--site", "beijing")
    assert draft.code == 0
    assert "role: subject" in draft.out
    assert "next:" in draft.err
    assert desk.domicile("survey", "app", "--site", "beijing", "-o", "app.map.yaml").code == 2, "a map is not replaced"
    assert desk.domicile("survey", "app", "--site", "beijing", "--json").json["undecided"] == []

    check = desk.domicile("map", "check", "app", "--site", "beijing", "--json")
    assert (check.code, [f for f in check.json["findings"] if f["level"] == "error"]) == (0, [])

    ask = ("plan", "app", "--from", "beijing", "--to", "singapore", "--where", "market = 'IN'")
    shown = desk.domicile(*ask)
    assert shown.code == 0
    assert "40 subjects" in shown.out
    assert "1 canary" in shown.out
    desk.plan()
    printed = desk.domicile(*ask, "--json")
    (desk.folder / "printed.json").write_text(printed.out)
    assert printed.json["cohort"] == json.loads((desk.folder / "plan.json").read_text())["cohort"]

    refused = desk.domicile("apply", "plan.json")
    assert (refused.code, refused.out) == (2, "")
    assert "error[confirmation-missing]" in refused.err
    assert desk.at(desk.source) == (60, 3000)

    applied = desk.domicile("apply", "printed.json", "--yes", "--json")
    assert applied.code == 0, applied.err
    assert applied.json["status"] == "waiting"
    assert {w["verdict"] for w in applied.json["waves"]} == {"clean"}
    assert desk.at(desk.target) == (40, 2000)
    move = applied.json["move_id"]

    assert desk.domicile("status").out.count(move) == 1
    assert desk.domicile("status", move, "--watch").code == 0
    verified = desk.domicile("verify", move, "--json")
    assert (verified.code, verified.json["clean"]) == (0, True)
    report = desk.domicile("report", move, "--json")
    assert report.json["rows"] == 2040
    where = [desk.domicile("where", "app", key, "--json").json["home"] for key in ("1", "3")]
    assert where == ["singapore", "beijing"]
    assert desk.domicile("purge", move).code == 2
    purged = desk.domicile("purge", move, "--yes", "--json")
    assert (purged.code, purged.json["rows"], purged.json["left_at_source"]) == (0, 2040, 0)
    assert desk.at(desk.source) == (20, 1000)
    assert desk.domicile("status", move).out.splitlines()[1].split() == ["status", "done"]


def test_a_live_move_and_back_from_the_command_line(desk: Desk) -> None:
    desk.plan()
    applied = desk.domicile("apply", "plan.json", "--yes", "--no-watch")
    assert applied.code == 0, applied.err
    assert re.search(
        r"^pause   p50 .* ms, p99 .* ms, max .* ms over 6 waves; round trip .* ms$", applied.out, re.MULTILINE
    )
    assert "domicile rollback" in applied.out
    move = desk.move()
    told = desk.domicile("status", move, "--json").json
    assert (told["mode"], told["pauses"]["waves"]) == ("live", len(told["waves"]))
    assert all(w["live"]["pause_ms"] > 0 for w in told["waves"])
    with psycopg.connect(desk.target) as conn:
        conn.execute("update app.account set email = 'new@example.com' where id = 1")
    assert desk.domicile("rollback", move).code == 2, "asks first"
    back = desk.domicile("rollback", move, "--yes", "--json")
    assert (back.code, back.json["status"]) == (0, "aborted"), back.err
    with psycopg.connect(desk.source) as conn:
        assert conn.execute("select email from app.account where id = 1").fetchone() == ("new@example.com",)
        conn.execute("update app.account set email = 'newer@example.com' where id = 1")
    asked = desk.domicile("purge", move)
    assert asked.code == 2
    assert re.search(r"Delete the copies of 6 waves, about \S+ rows, at singapore\?", asked.err), asked.err
    purged = desk.domicile("purge", move, "--yes")
    assert purged.code == 0, purged.err
    assert re.search(r"^deleted 2,040 rows at singapore of 6 waves that live at beijing", purged.out), purged.out
    assert (desk.at(desk.source), desk.at(desk.target)) == ((60, 3000), (0, 0))


def test_a_source_without_a_change_stream_moves_cold(desk: Desk) -> None:
    with psycopg.connect(desk.source) as conn:
        conn.execute("alter table app.note replica identity nothing")
    made = desk.domicile("plan", *AT, "--where", "market = 'IN'", "-o", "plan.json")
    assert made.code == 0, "the plan can be carried out"
    assert "not live: 1 failed check; apply needs --cold" in made.out
    assert "tables in the change stream (live only)" in made.out
    assert "domicile apply plan.json --cold" in made.err
    live = desk.domicile("apply", "plan.json", "--yes", "--json")
    assert (live.code, live.json["error"]) == (3, "plan-refused")
    assert "--cold" in live.json["hint"]
    assert desk.at(desk.target) == (0, 0)
    cold = desk.domicile("apply", "plan.json", "--cold", "--yes", "--json")
    assert (cold.code, cold.json["mode"], cold.json["pauses"]) == (0, "cold", None), cold.err
    assert desk.at(desk.target) == (40, 2000)
    move = cold.json["move_id"]
    assert "rollback" not in desk.domicile("status", move).out
    back = desk.domicile("rollback", move, "--yes", "--json")
    assert (back.code, back.json["error"]) == (3, "way-back-closed")
    soak = desk.domicile("soak", move, "--json")
    assert (soak.code, soak.json["error"]) == (3, "way-back-closed")


def test_the_embedded_control_database(desk: Desk) -> None:
    text = re.sub("^control:.*\n", "", (desk.folder / "domicile.yaml").read_text(), flags=re.MULTILINE)
    (desk.folder / "embedded.yaml").write_text(text)
    found = desk.domicile("status", "--json", DOMICILE_CONFIG="embedded.yaml", DOMICILE_STATE=str(desk.folder / "st"))
    assert (found.code, found.json) == (0, {"moves": []})
    assert (desk.folder / "st").is_dir()
    assert not (desk.folder / ".domicile").exists()


AT = ("app", "--from", "beijing", "--to", "singapore")
BAD_INPUT = (
    (("status", "nobody"), 2, "move-unknown"),
    (("plan", "shop", *AT[1:], "--where", "true"), 2, "config-invalid"),
    (("plan", "app", "--from", "bejing", "--to", "singapore", "--where", "true"), 2, "config-invalid"),
    (("plan", *AT, "--where", "nonsense"), 2, "condition-invalid"),
    (("plan", *AT, "--where", "market = 'XX'"), 3, "cohort-empty"),
    (("plan", *AT, "--subjects", "none.txt"), 2, "plan-invalid"),
    (("apply", "none.json", "--yes"), 2, "plan-invalid"),
    (("apply", "app.map.yaml", "--yes"), 2, "plan-invalid"),
    (("where", "app", "no number"), 2, "condition-invalid"),
)


def test_bad_input_is_told_on_both_streams(desk: Desk) -> None:
    for arguments, code, error in BAD_INPUT:
        ended = desk.domicile(*arguments, "--json")
        assert ended.code == code, (arguments, ended.err)
        assert f"error[{error}]: " in ended.err
        assert "\nsafe: " in ended.err
        assert "\nnext: " in ended.err
        assert set(ended.json) == {"error", "message", "facts", "safe", "hint"}
        assert ended.json["error"] == error


def test_a_plan_with_failed_checks_is_shown_and_refused(desk: Desk) -> None:
    with psycopg.connect(desk.target) as conn:
        conn.execute("alter table app.note add column more text")
    ask = ("plan", "app", "--from", "beijing", "--to", "singapore", "--where", "true", "-o", "plan.json")
    made = desk.domicile(*ask)
    assert made.code == 3
    assert "FAILED" in made.out
    assert re.search(r"refused: \d failed checks?; apply would not begin", made.out)
    assert "carry it out" not in made.err
    applied = desk.domicile("apply", "plan.json")
    assert applied.code == 3
    assert "error[schemas-differ]" in applied.err


def test_sites_that_cannot_be_reached(desk: Desk) -> None:
    down = desk.domicile("sites", "--json", SITE_PASSWORD="a-wrong-password")
    assert down.code == 4
    assert [s["error_code"] for s in down.json["sites"]] == ["access-denied", "access-denied"]
    assert "a-wrong-password" not in down.out + down.err
    survey = desk.domicile("survey", "app", "--site", "beijing", SITE_PASSWORD="a-wrong-password")
    assert survey.code == 4
    assert "a-wrong-password" not in survey.out + survey.err


def test_usage_errors(desk: Desk) -> None:
    assert desk.domicile("nonsense").code == 2
    text = desk.domicile("status", "nobody")
    assert (text.code, text.out) == (2, ""), "without --json, an error is no data"
    both = ("--where", "true", "--subjects", "x")
    assert "exactly one" in desk.domicile("plan", "app", "--from", "a", "--to", "b", *both).err
    assert desk.domicile("--config", "none.yaml", "sites").err.startswith(
        "error[config-invalid]: there is no none.yaml"
    )
    unknown = desk.domicile("status", DOMICILE_FAILPOINT="no.such.point")
    assert unknown.code == 2
    assert "is no failpoint" in unknown.err
    assert desk.domicile("--version").out.startswith("domicile ")


def test_a_reader_that_goes_away(desk: Desk) -> None:
    """As ``domicile ... | head -1``: no traceback."""
    read, write = os.pipe()
    os.close(read)
    asked = [PROGRAM, "sites", "--json"]
    ended = subprocess.run(
        asked,
        cwd=desk.folder,
        env=desk.environ,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def on_a_terminal(desk: Desk, arguments: tuple[str, ...], answer: bytes = b"", **environ: str) -> tuple[int, str]:
    """Run under a pseudo-terminal of 60 columns, answering its question; the exit code and all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(desk.folder)
        os.execve(PROGRAM, [PROGRAM, *arguments], {**desk.environ, **environ})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # Linux says EIO when the last writer has gone
            break
        shown += part
        if b"[y/N]" in shown and answer:
            os.write(terminal, answer)
            answer = b""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


async def test_a_narrow_terminal_asks_and_draws(desk: Desk) -> None:
    desk.plan()
    code, shown = await asyncio.to_thread(on_a_terminal, desk, ("apply", "plan.json"), b"y\n")
    assert code == 0, shown
    assert "Move them from beijing to singapore? They write all the while. [y/N]" in " ".join(shown.split())
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "rows/s" in plain
    assert "█" in plain or "▓" in plain
    assert max(len(line) for part in plain.splitlines() for line in part.split("\r")) <= 60
    assert "\x1b[1;32msafe:" in shown
    code, shown = await asyncio.to_thread(on_a_terminal, desk, ("status", desk.move()), NO_COLOR="1")
    assert code == 0
    assert "safe:" in shown
    assert "\x1b[3" not in shown
    assert ";3" not in shown
    code, shown = await asyncio.to_thread(on_a_terminal, desk, ("purge", desk.move()), b"no\n")
    assert code == 2
    code, shown = await asyncio.to_thread(on_a_terminal, desk, ("purge", desk.move()), b"\x03")
    assert code == 130
    assert "stopped before it began" in shown
    assert desk.at(desk.source) == (60, 3000)


def test_completion_knows_the_configuration(desk: Desk) -> None:
    asked = {"_DOMICILE_COMPLETE": "complete_bash", "COMP_WORDS": "domicile plan ", "COMP_CWORD": "2"}
    assert desk.domicile(**asked).out.split() == ["app"]
    asked |= {"COMP_WORDS": "domicile plan app --from ", "COMP_CWORD": "4"}
    assert desk.domicile(**asked).out.split() == ["beijing", "singapore"]
    (desk.folder / "domicile.yaml").write_text("broken")
    ended = desk.domicile(**asked)
    assert (ended.out.split(), ended.err) == ([], "")
