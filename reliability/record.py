"""What a program saw, kept for the page that shows it: ``reliability/results/NAME.json``, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
import json
from pathlib import Path
import subprocess
from typing import Any

import domicile

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "reliability" / "results"


def write(name: str, figures: Mapping[str, object], folder: Path = RESULTS) -> Path:
    """Keep the figures, with the day and the version of domicile that they were taken of; returns the file.

    What was on record by this name is replaced. Keys are sorted, so that two runs differ where their figures do.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    dated = {**figures, "date": today(), "version": domicile.__version__, "commit": commit()}
    path.write_text(json.dumps(dated, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What is on record by this name; nothing of a program that was not run yet."""
    path = folder / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def read_all(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Everything on record, by name."""
    return {path.stem: read(path.stem, folder) for path in sorted(folder.glob("*.json"))}


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def commit(root: Path = ROOT) -> str | None:
    """The commit that was tried, with a plus where src/ differs from it; None outside a repository of our own."""
    if not (root / ".git").exists():
        return None
    short = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", "src")
    return None if short is None else short + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None when it is not there or has nothing to say. It takes no lock: others may work beside us."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
