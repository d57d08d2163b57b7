"""The figures of a program, kept for the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


def record(name: str, figures: Mapping[str, object]) -> Path:
    """Write ``results/NAME.json``: the figures, with the day on which they were taken."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    dated = {"date": datetime.now(UTC).date().isoformat(), **figures}
    path.write_text(json.dumps(dated, indent=2) + "\n", encoding="utf-8")
    return path
