"""The real command, as a process of its own: it moves, proves, and leaves nothing behind, whenever it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import pytest

from domicile.evidence.note import parse_keys
from domicile.evidence.verify import verify

SCALE = "0.02"  # 400 users
COMMAND = [sys.executable, "-m", "domicile", "demo", "--scale", SCALE]
INTERRUPTED = 130
TAIL_S = 20.0  # for the last processes of a server to leave


@pytest.fixture
def tmpdir_of_demo() -> Iterator[Path]:
    """The demo's own place for temporary files, which a server's account can enter."""
    with tempfile.TemporaryDirectory(prefix="domicile-test-demo-") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


def start(place: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *options],
        env={**os.environ, "TMPDIR": str(place), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        start_new_session=True,  # a group of its own, as a shell makes one: Ctrl-C reaches all of it
    )


def nothing_is_left(place: Path) -> None:
    assert list(place.iterdir()) == []
    deadline = time.monotonic() + TAIL_S
    while left := processes_of(place):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes_of(place: Path) -> list[str]:
    """Processes that name this place: postmasters and initdb in their command line, their children by environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            line = read(entry / "cmdline")
            if bytes(place) in line + read(entry / "environ"):
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def read(path: Path) -> bytes:
    """Empty when the process has ended, or root may not look into another account's process here."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_it_moves_everybody_outside_the_mainland_and_proves_it(tmp_path: Path) -> None:
    """All that one demo says: a fixture for several tests would run it once in each of xdist's processes."""
    with tempfile.TemporaryDirectory(prefix="domicile-test-demo-") as name:
        place = Path(name)
        place.chmod(0o711)
        process = start(place, "--json", "--evidence", str(tmp_path))
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        nothing_is_left(place)
    account = json.loads(out)
    both_verifiers_agree(account, tmp_path)
    everybody_moved(account)
    customers_lost_nothing(account)
    rows_are_counted_before_and_after(account)
    what_a_person_decided_is_shown(account, err)


def both_verifiers_agree(account: dict[str, Any], folder: Path) -> None:
    evidence = account["evidence"]
    assert (evidence["outcome"], evidence["other"]) == ("proven", "proven")
    assert evidence["statements"] > 3 * len(account["move"]["waves"])
    assert evidence["certificate"] == str(folder / "move.bundle.html")
    assert "proven" in (folder / "move.bundle.html").read_text()
    raw, keys = (folder / "move.bundle").read_bytes(), parse_keys((folder / "keys").read_bytes())
    assert verify(raw, keys).figures["rows_purged"] == account["purge"]["rows"]


def everybody_moved(account: dict[str, Any]) -> None:
    world, check = account["world"], account["check"]
    assert account["proven"] is True
    assert check["passed"] is True
    assert [s["text"] for s in check["statements"] if not s["holds"]] == []
    assert account["stayed"][0]["users"] > 0
    cohort = account["plan"]["users"]
    assert 0 < 0.9 * cohort < account["users"] < 1.5 * cohort, "who joined it late came along, who left did not"
    assert world["users"] == 400
    assert account["verdict"].startswith("clean")
    assert account["verify"]["clean"] is True
    assert account["purge"]["rows"] > 0
    assert account["purge"]["left_at_source"] == 0
    assert account["move"]["status"] == "done"
    assert len(account["move"]["waves"]) >= account["plan"]["waves"] > 1
    assert sum(w["rows_copied"] for w in account["move"]["waves"]) > 0
    assert account["rows"] > 0, "those copied, and those written meanwhile"
    assert account["rows_per_s"] > 0
    assert account["mb"] > 0


def customers_lost_nothing(account: dict[str, Any]) -> None:
    traffic = account["traffic"]
    oracle = traffic["oracle"]
    assert oracle["clean"] is True
    assert oracle["acknowledged"] > traffic["transactions"] / 2 > 100
    assert (oracle["lost"], oracle["doubled"], oracle["foreign"]) == (0, 0, 0)
    assert traffic["failures"] == {}
    assert traffic["refused"]["DM001"] > 0
    pause = traffic["pause_ms"]
    assert 0 < pause["handovers"] <= len(account["move"]["waves"])
    assert 0 < pause["p50"] <= pause["p99"] <= pause["max"]


def rows_are_counted_before_and_after(account: dict[str, Any]) -> None:
    tables = {t["table"]: t for t in account["check"]["tables"]}
    users, orders = tables["store.user_account"], tables["store.orders"]
    assert users["source_before"] == 400
    assert users["source_after"] < users["source_before"]
    assert users["target_after"] > users["target_before"]
    assert orders["source_after"] < orders["source_before"]
    assert tables["store.product"]["source_before"] == tables["store.product"]["target_after"] > 0


def what_a_person_decided_is_shown(account: dict[str, Any], talk: str) -> None:
    roles = account["survey"]["roles"]
    assert roles["subject"] == ["store.user_account"]
    assert {"store.orders", "store.payment"} <= set(roles["owned"])
    decisions = {d["table"]: d for d in account["survey"]["decisions"]}
    for table in roles.get("undecided", []):
        assert decisions[table]["decided"] != "undecided"
        assert table in talk


@pytest.mark.campaign
@pytest.mark.parametrize("columns", [60, 120])
def test_text_fits_the_terminal(tmpdir_of_demo: Path, tmp_path: Path, columns: int) -> None:
    process = start(tmpdir_of_demo, "--evidence", str(tmp_path), COLUMNS=str(columns))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert [line for line in out.splitlines() if len(line.rstrip()) > columns] == []
    assert "NO " not in out
    assert "proven" in out
    assert "users of mainland China" in " ".join(out.split())
    nothing_is_left(tmpdir_of_demo)


@pytest.mark.parametrize(
    ("after_s", "number"),
    [
        (0.6, signal.SIGINT),
        pytest.param(1.5, signal.SIGTERM, marks=pytest.mark.campaign),
        pytest.param(3.0, signal.SIGINT, marks=pytest.mark.campaign),
        (6.0, signal.SIGTERM),
        pytest.param(9.0, signal.SIGINT, marks=pytest.mark.campaign),
    ],
)
def test_stopped_at_any_moment_it_leaves_nothing(tmpdir_of_demo: Path, after_s: float, number: signal.Signals) -> None:
    process = start(tmpdir_of_demo, "--json")
    deadline = time.monotonic() + 60
    while not list(tmpdir_of_demo.iterdir()):  # its directory is there: from here on there is something to remove
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(after_s)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert json.loads(out)["error"] == "interrupted"
    assert "Traceback" not in err
    nothing_is_left(tmpdir_of_demo)


def test_a_scale_out_of_bounds_is_refused_at_once(tmpdir_of_demo: Path) -> None:
    process = start(tmpdir_of_demo, "--scale", "0")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert "scale" in err
