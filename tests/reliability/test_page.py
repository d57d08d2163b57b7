"""The page of figures is what is on record, all of it, and nothing else; and what is kept on record comes back."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess

import pytest

import domicile
from reliability import page, record

FIGURES = {
    "model": {
        "bounds": "small", "states": 1234, "controls": 1, "controls_found": 1,
        "configurations": [
            {"name": "round trip", "bounds": "1 wave", "flaws": [], "states": 1234, "complete": True, "violation": ""},
            {"name": "no|lock", "bounds": "1 wave", "flaws": ["NO_LOCK"], "states": 56, "violation": "a write is lost"},
        ],
    },
    "chaos": {"minutes": 7, "seed": 20261121, "injections": {"kill": 40}, "resume_seconds": {"p50": 1.5, "max": 9.25}},
    "simulation_controls": {"controls": 1, "runs": [{"control": "no drain", "seed": 1007, "what": "a write is lost"}]},
    "mutants": {
        "planted": 3, "tried": 2, "caught": 1, "survived": 1,
        "mutants": [
            {"no": 1, "name": "drain-skipped", "outcome": "caught", "by": "tests/x.py::test_x[pg18]"},
            {"no": 2, "name": "lock-shared", "outcome": "survived", "why": ""},
        ],
    },
}  # fmt: skip


def test_the_committed_page_is_what_the_results_give() -> None:
    assert page.PAGE.read_text() == page.render(record.read_all()), "run: python -m reliability.page"


def test_figures_are_shown_and_what_was_not_run_is_said_to_be() -> None:
    text = page.render(FIGURES)
    assert text.count("Not run yet.") == len(page.SECTIONS) - len(FIGURES)
    for line in (
        "| states | 1,234 |",
        "| round trip | 1 wave | 1,234 |  |  |  | yes |  |",
        "| no\\|lock | 56 | a write is lost |",
        "`python -m reliability.chaos --minutes 7 --seed 20261121`",
        "| kill | 40 |",
        "| no drain | 1007 | a write is lost |",
        "| p50 | 1.5 |",
        "| max | 9.25 |",
        "| caught share | 50.0 % |",
        "Not tried yet: 1.",
        "| 2 | lock-shared | survived |  |",
        "| 1 | drain-skipped | tests/x.py::test_x |  |",
    ):
        assert line in text, line


def test_a_result_that_no_section_shows_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="shows hearsay"):
        page.render({"hearsay": {}})


def test_a_page_that_is_not_what_is_on_record_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, text = tmp_path / "results", tmp_path / "page.md"
    record.write("chaos", FIGURES["chaos"], results)
    assert page.main(["--check"], text, results) == 1
    assert page.main([], text, results) == 0
    assert page.main(["--check", "--json"], text, results) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["shown"] == ["chaos"]
    record.write("chaos", {**FIGURES["chaos"], "minutes": 8}, results)
    assert page.main(["--check"], text, results) == 1


def test_what_is_kept_comes_back_with_its_day_and_version(tmp_path: Path) -> None:
    assert record.read("chaos", tmp_path) == {}
    path = record.write("chaos", {"b": 1, "a": {"z": 1, "y": "ÿ"}}, tmp_path)
    assert path == tmp_path / "chaos.json"
    found = record.read_all(tmp_path)["chaos"]
    assert list(found) == sorted(found)
    assert (found["a"], found["b"], found["version"]) == ({"z": 1, "y": "ÿ"}, 1, domicile.__version__)
    assert found["date"] == record.today()


def test_the_commit_is_named_and_so_is_that_the_sources_differ_from_it(tmp_path: Path) -> None:
    assert record.commit(tmp_path) is None

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "a")
    clean = record.commit(tmp_path)
    assert clean is not None
    assert len(clean) == 12
    (tmp_path / "notes").write_text("of no interest")
    assert record.commit(tmp_path) == clean
    (tmp_path / "src" / "a.py").write_text("a = 2\n")
    assert record.commit(tmp_path) == clean + "+"
