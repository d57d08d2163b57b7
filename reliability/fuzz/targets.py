"""Everything that is fuzzed, by name."""

from __future__ import annotations

from collections.abc import Mapping

from reliability.fuzz import faces, files, streams
from reliability.fuzz.rule import Target

TARGETS: Mapping[str, Target] = {t.name: t for t in (*files.TARGETS, *streams.TARGETS, *faces.TARGETS)}
