"""A plan: what a move would do, as data. A dry run prints this object; apply carries out this object."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from domicile.model.schema import TableName
from domicile.model.site import DatasetName, SiteName

PLAN_VERSION = 1


class Format(StrEnum):
    """How a table's rows travel."""

    BINARY = "binary"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Question:
    """What an operator asks to be planned: who (a condition, or a file of subject keys), from where to
    where."""

    dataset: str
    source: str
    target: str
    where: str = ""
    subjects_file: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One preflight check. ``detail`` says what was found; ``hint`` what to do when ``passed`` is False."""

    name: str
    passed: bool
    detail: str
    hint: str = ""
    blocking: bool = True  # False: a warning, printed but not refused
    code: str = "plan-refused"  # the ErrorCode that apply raises for it


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What moves of one in-scope table. ``why`` explains a text format."""

    table: TableName
    columns: tuple[str, ...]
    rows: int
    bytes: int
    format: Format
    why: str = ""


@dataclass(frozen=True, slots=True)
class WavePlan:
    """One wave: the subjects whose position in key order is in (first, last], 1-based. Wave 1 is the
    canary."""

    no: int
    first: int
    last: int
    subjects: int
    rows: int
    bytes: int
    seconds_estimate: float


@dataclass(frozen=True, slots=True)
class Cohort:
    """Who moves together. ``digest`` is the SHA-256 over the subjects' keys as text, in byte order, one a
    line."""

    where: str
    subjects_file: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a wave and of its waits; each has a unit in its name."""

    wave_subjects_max: int = 5_000
    wave_rows_max: int = 1_000_000
    wave_bytes_max: int = 512 * 1024 * 1024
    wave_seconds_max: float = 60.0
    canary_subjects_max: int = 100
    chunk_rows: int = 50_000
    streams: int = 2
    fence_seconds_max: float = 10.0
    lock_timeout_ms: int = 100
    purge_chunk_rows: int = 20_000


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan. ``digest`` covers everything in it; a change of config, map, schemas or cohort makes it
    stale."""

    version: int
    dataset: DatasetName
    source: SiteName
    target: SiteName
    cohort: Cohort
    tables: tuple[TablePlan, ...]
    waves: tuple[WavePlan, ...]
    checks: tuple[Check, ...]
    limits: Limits
    config_digest: str
    map_digest: str
    source_schema_digest: str
    target_schema_digest: str
    estimate_basis: str
    made_at: str  # ISO 8601, for people; nothing is ordered by it
    digest: str = ""

    @property
    def rows(self) -> int:
        return sum(t.rows for t in self.tables)

    @property
    def bytes(self) -> int:
        return sum(t.bytes for t in self.tables)

    @property
    def seconds_estimate(self) -> float:
        return sum(w.seconds_estimate for w in self.waves)

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that stop this plan."""
        return tuple(c for c in self.checks if c.blocking and not c.passed)
