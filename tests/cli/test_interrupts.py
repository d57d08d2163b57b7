"""The program meets signals, and other terminals: what it leaves can be gone on with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import psycopg
import pytest
from tests.cli.desk import Desk


def wait_for(process: subprocess.Popen[str], desk: Desk, pattern: str) -> str:
    """Until the process has said so in its progress, which names the move first."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = re.search(rf"^(\S+): .*{pattern}", desk.talk(), re.MULTILINE)
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"it never said {pattern!r} but: {desk.talk()}")


@pytest.mark.parametrize(
    ("cold", "point"),
    [
        ((), "live.verify"),
        pytest.param(("--cold",), "verify.before", marks=pytest.mark.campaign),
    ],
)
def test_the_second_ctrl_c_stops_at_once_and_resume_goes_on(desk: Desk, cold: tuple[str, ...], point: str) -> None:
    process = desk.start("apply", desk.plan(), *cold, "--yes", "--json", DOMICILE_FAILPOINT=f"{point}:pause")
    move = wait_for(process, desk, "wave 1: verify")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first only asks"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping at the next safe point" in desk.talk()
    assert json.loads(out)["error"] == "interrupted"
    resumed = desk.domicile("resume", move, "--json")
    assert (resumed.code, resumed.json["status"]) == (0, "waiting"), resumed.err
    assert desk.at(desk.target) == (40, 2000)


def test_the_first_ctrl_c_ends_after_the_wave_at_work(desk: Desk) -> None:
    process = desk.start("apply", desk.plan(), "--yes", "--json")
    wait_for(process, desk, "[1-9]/6 waves")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    status = json.loads(out)
    assert process.returncode == (130 if status["status"] == "paused" else 0), desk.talk()
    phases = {w["phase"] for w in status["waves"]}
    assert phases <= {"soak", "planned"}, "every wave is whole"
    resumed = desk.domicile("resume", status["move_id"], "--json")
    assert (resumed.code, resumed.json["status"]) == (0, "waiting")


def test_a_command_that_only_looks_ends_at_once(desk: Desk) -> None:
    waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    with psycopg.connect(desk.source) as conn, psycopg.connect(desk.source, autocommit=True) as eye:
        conn.execute("lock table app.note in access exclusive mode")
        process = desk.start("map", "check", "app", "--site", "beijing")
        while eye.execute(waits).fetchone() == (0,) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert desk.talk().startswith("error[interrupted]: stopped\nsafe: Nothing was changed.")


def test_pause_and_abort_from_another_terminal(desk: Desk) -> None:
    process = desk.start("apply", desk.plan(), "--yes", DOMICILE_FAILPOINT="copy.before:pause")
    move = wait_for(process, desk, "wave 1: copy")
    paused = desk.domicile("pause", move, "--json")
    assert (paused.code, paused.json["pause_requested"]) == (0, True)
    process.kill()
    process.communicate()
    assert desk.domicile("abort", move).code == 2
    aborted = desk.domicile("abort", move, "--yes", "--json")
    assert (aborted.code, aborted.json["status"]) == (0, "aborted")
    assert (desk.at(desk.source), desk.at(desk.target)) == ((60, 3000), (0, 0))
