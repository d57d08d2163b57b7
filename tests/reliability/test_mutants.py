"""The planted bugs themselves: each still applies to the sources as they are, says what it breaks, and names tests
that exist. Whether they are caught is another question, and takes longer (``python -m reliability.mutants``)."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path
import subprocess

import pytest
from reliability.mutants import Mutant, Outcome, Result, Stale

from reliability import mutants, record

ROOT = Path(__file__).resolve().parent.parent.parent
ALL = mutants.read_all()
PLANTED_MIN = 50
PATCH = """\
# what: two is three
# breaks: arithmetic
# tests: tests/model/test_phase.py
--- a/sums.py
+++ b/sums.py
@@ -1,2 +1,2 @@
 one = 1
-two = 2
+two = 3
"""


@cache
def functions(path: Path) -> frozenset[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in found if name.startswith("test_"))


def named(mutant: Mutant) -> pytest.ParameterSet:
    return pytest.param(mutant, id=f"{mutant.no:03d}-{mutant.name}")


def test_there_are_enough_and_each_has_its_number() -> None:
    assert len(ALL) >= PLANTED_MIN
    assert not [no for no, times in Counter(m.no for m in ALL).items() if times > 1]
    assert not [name for name, times in Counter(m.name for m in ALL).items() if times > 1]


@pytest.mark.parametrize("mutant", [named(m) for m in ALL])
def test_it_applies_and_changes_what_is_run(mutant: Mutant) -> None:
    for path, text in mutants.changed(mutant, ROOT).items():
        assert path.startswith(("src/domicile/", "tools/"))
        before = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".py"):
            assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(before)), "nothing but comments has changed"
        else:
            assert text != before


@pytest.mark.parametrize("mutant", [named(m) for m in ALL])
def test_its_header_is_complete_and_its_tests_exist(mutant: Mutant) -> None:
    assert mutant.what
    assert mutant.breaks
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert not name or name.partition("[")[0] in functions(ROOT / path), test


def planted(folder: Path, name: str = "001-sums.patch", text: str = PATCH) -> Mutant:
    """A mutant of a program of two lines."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return mutants.read(folder / name)


def test_a_patch_that_does_not_apply_is_an_error(tmp_path: Path) -> None:
    mutant = planted(tmp_path / "patches")
    with pytest.raises(Stale, match="there is no sums"):
        mutants.changed(mutant, tmp_path)
    for text, times in (("one = 1\ntwo = 4\n", 0), ("one = 1\ntwo = 2\n" * 2, 2)):
        (tmp_path / "sums.py").write_text(text)
        with pytest.raises(Stale, match=f"{times} times"):
            mutants.changed(mutant, tmp_path)
    (tmp_path / "sums.py").write_text("zero = 0\none = 1\ntwo = 2\n")
    assert mutants.changed(mutant, tmp_path) == {"sums.py": "zero = 0\none = 1\ntwo = 3\n"}


def test_it_is_read_as_patch_reads_it(tmp_path: Path) -> None:
    """One of two hunks, in two files, by the tool that everybody has."""
    for mutant in [m for m in ALL if len(m.hunks) > 1][:3]:
        tree = tmp_path / mutant.name
        for hunk in mutant.hunks:
            (tree / hunk.path).parent.mkdir(parents=True, exist_ok=True)
            (tree / hunk.path).write_text((ROOT / hunk.path).read_text())
        patch = mutants.PATCHES / f"{mutant.no:03d}-{mutant.name}.patch"
        subprocess.run(["git", "apply", "--unsafe-paths", f"--directory={tree}", str(patch)], cwd="/", check=True)
        for path, text in mutants.changed(mutant, ROOT).items():
            assert (tree / path).read_text() == text, path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("001-sums.patch", PATCH.replace("# breaks: arithmetic\n", "")),
        ("sums.patch", PATCH),
        ("001.patch", PATCH),
        ("001-sums.patch", PATCH.partition("---")[0]),
    ],
    ids=["no promise", "no number", "no name", "no diff"],
)
def test_what_is_no_mutant_is_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(Stale):
        planted(tmp_path / "patches", name, text)


def test_why_it_does_no_harm_is_read(tmp_path: Path) -> None:
    assert planted(tmp_path).harmless == ""
    assert planted(tmp_path, text="# harmless: nobody asks for two\n" + PATCH).harmless == "nobody asks for two"


def test_a_record_keeps_what_is_still_true(tmp_path: Path) -> None:
    folder, kept_in = tmp_path / "patches", tmp_path / "results"
    one, two = planted(folder), planted(folder, "002-sums-again.patch")
    results = [Result(m.no, m.name, Outcome.CAUGHT, "tests/x.py::test_x", "", 1.0, m.digest) for m in (one, two)]
    mutants.keep(results, 7, kept_in, folder)
    two = planted(folder, "002-sums-again.patch", PATCH.replace("two = 3", "two = 4"))
    mutants.keep([], 8, kept_in, folder)
    found = record.read("mutants", kept_in)
    assert (found["planted"], found["tried"], found["caught"], found["survived"]) == (2, 1, 1, 0)
    assert [(entry["no"], entry["seed"]) for entry in found["mutants"]] == [(1, 7)]
    survived = Result(two.no, two.name, Outcome.SURVIVED, "", "", 1.0, two.digest)
    mutants.keep([survived], 8, kept_in, folder)
    found = record.read("mutants", kept_in)
    assert (found["planted"], found["tried"], found["caught"], found["survived"]) == (2, 2, 1, 1)
