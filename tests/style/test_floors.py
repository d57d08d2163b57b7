"""The floors hold, and the contract that says so would notice a breach."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Called as a function: the `lint-imports` script puts its own directory first in sys.path, not the one to
# check.
LINT = """
import sys
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename="pyproject.toml", no_cache=True))
"""


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "src"),
        "COLUMNS": "200",
        "XDG_RUNTIME_DIR": str(root),
    }
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=root, env=environment, check=False, capture_output=True, text=True
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package with every floor's directory at hand."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "domicile", tmp_path / "src" / "domicile", ignore=ignore)
    return tmp_path


def test_floors_hold(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("model/planted.py", "import domicile.sites.embedded"),  # upward
        ("postgres/planted.py", "from domicile.sites import binaries"),  # a sibling
        ("sites/planted.py", "from domicile.postgres import connect"),  # the other way round
        ("surprise/__init__.py", ""),  # a package that no floor knows
    ],
)
def test_a_breach_is_noticed(tree: Path, place: str, line: str) -> None:
    planted = tree / "src" / "domicile" / place
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(line + "\n")
    done = lint(tree)
    assert done.returncode != 0, done.stdout
    assert planted.parent.name in done.stdout
