"""The command and the single file, as an examiner runs them: another process, no configuration, no database."""

from __future__ import annotations

from html import escape
import json
from pathlib import Path
import subprocess
import sys

import pytest
from tests.evidence.both import PATH, key_file
from tests.evidence.story import SITES, Story

from domicile.evidence.verify import CHECKS

STORY = Story()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "good").write_bytes(STORY.bundle())
    (tmp_path / "bad").write_bytes(STORY.bundle()[:-1])
    (tmp_path / "keys").write_bytes(b"# of the sites\n\n" + key_file(STORY.keys))
    (tmp_path / "late").write_text(STORY.notes[SITES[1]][-1].encode(), encoding="utf-8")
    (tmp_path / "short").write_bytes(Story(waves=1).bundle())
    return tmp_path


def run(desk: Path, *arguments: str) -> tuple[int, str, int]:
    """Exit code and output of the command, and the exit code of the single file."""
    env = {"PATH": "/nowhere", "COLUMNS": "80"}
    ours = subprocess.run(
        [sys.executable, "-m", "domicile", "evidence", "verify", *arguments],
        cwd=desk,
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )
    plain = [a for a in arguments if a != "--json"]
    theirs = subprocess.run(
        [sys.executable, "-I", str(PATH), *plain], cwd=desk, env=env, check=False, capture_output=True, text=True
    )
    assert "Traceback" not in ours.stderr + theirs.stderr
    return ours.returncode, ours.stdout + ours.stderr, theirs.returncode


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["good", "--key", "keys", "--seen", "late"], 0, "proven: "),
        (["good"], 3, "unanchored: "),
        (["bad", "--key", "keys"], 1, "FAILED container"),
        (["short", "--key", "keys", "--seen", "late"], 1, "rolled back"),
        (["missing"], 2, "error[evidence-invalid]"),
        (["good", "--key", "good"], 2, "error[evidence-invalid]"),
        (["good", "--key", "keys", "--seen", "keys"], 2, "error[evidence-invalid]"),
    ],
)
def test_what_an_examiner_sees(desk: Path, arguments: list[str], code: int, said: str) -> None:
    ours, text, theirs = run(desk, *arguments)
    assert (ours, theirs) == (code, code), text
    assert said in text
    assert max(map(len, text.splitlines())) <= 80


def test_as_json(desk: Path) -> None:
    code, text, _ = run(desk, "good", "--key", "keys", "--json")
    found = json.loads(text)
    assert (code, found["outcome"], found["failed"]) == (0, "proven", "")
    assert {c["result"] for c in found["checks"]} == {"passed"}
    assert found["figures"]["handovers"] == 2
    assert found["not_shown"]


def test_a_page_to_print(desk: Path) -> None:
    code, text, _ = _page(desk, "good", "--key", "keys")
    assert code == 0
    assert '<b class="proven">proven</b>' in text
    for line in ("Evidence of the move spring", *CHECKS.values(), "rows purged", "Not shown", SITES[1], "2026-01-01"):
        assert escape(line) in text
    assert "http" not in text  # it loads nothing
    assert "<script" not in text
    again = _page(desk, "good", "--key", "keys")
    assert again[0] == 2  # file-exists
    assert _page(desk, "bad", "--force")[0] == 1
    assert "refuted" in (desk / "page.html").read_text(encoding="utf-8")


def _page(desk: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "domicile", "evidence", "verify", *arguments, "--html", "page.html"],
        cwd=desk,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, (desk / "page.html").read_text(encoding="utf-8"), done.stderr


def test_the_single_file_shares_nothing() -> None:
    source = PATH.read_text(encoding="utf-8")
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names
