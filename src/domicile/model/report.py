"""What commands return: plain data that every face shows in its own way (text, ``--json``, later the web)."""

from __future__ import annotations

from dataclasses import dataclass

from domicile.model.phase import Phase, Status
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.model.verdict import TableDigest


@dataclass(frozen=True, slots=True)
class WaveStatus:
    """One wave as the control database has it. Rows and bytes are those copied so far."""

    no: int
    phase: Phase
    status: Status
    subjects: int
    rows_planned: int
    bytes_planned: int
    rows_copied: int = 0
    bytes_copied: int = 0
    rows_purged: int = 0
    fence_seconds: float | None = None  # how long the wave's writers were refused
    copy_seconds: float | None = None
    verdict: str = ""  # '', 'clean' or 'discrepancies'
    source_root: str = ""
    target_root: str = ""
    error_code: str = ""
    error_message: str = ""
    error_hint: str = ""


@dataclass(frozen=True, slots=True)
class MoveStatus:
    """One move with its waves. ``runner`` names the process that carries it now, empty when none does."""

    move_id: MoveId
    dataset: DatasetName
    source: SiteName
    target: SiteName
    status: Status
    pause_requested: bool
    abort_requested: bool
    runner: str
    subjects: int
    rows_planned: int
    bytes_planned: int
    created_at: str
    waves: tuple[WaveStatus, ...]
    plan_digest: str
    error_code: str = ""  # of the move's own edges; a wave's error stands with the wave
    error_message: str = ""
    error_hint: str = ""
    safe: str = ""  # one sentence: what is safe now
    next: str = ""  # one sentence: what to do next

    @property
    def rows_copied(self) -> int:
        return sum(w.rows_copied for w in self.waves)

    @property
    def bytes_copied(self) -> int:
        return sum(w.bytes_copied for w in self.waves)


@dataclass(frozen=True, slots=True)
class WaveCheck:
    """What ``verify`` finds for one wave now. ``source_intact``: the source copy still has the root that the
    verdict sealed."""

    no: int
    phase: Phase
    equal: bool
    source_intact: bool
    rows_source: int
    rows_target: int
    rows_differing: int
    discrepancies: tuple[str, ...] = ()  # as text: table, key, difference, columns
    note: str = ""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome of ``domicile verify MOVE``."""

    move_id: MoveId
    clean: bool
    waves: tuple[WaveCheck, ...]


@dataclass(frozen=True, slots=True)
class PurgedTable:
    table: str
    rows: int


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What ``domicile purge MOVE`` removed. It proves no erasure: ``remains`` says what this did not
    touch."""

    move_id: MoveId
    waves: int
    rows: int
    tables: tuple[PurgedTable, ...]
    left_at_source: int  # rows of the purged subjects found at the source afterwards
    seconds: float
    remains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MoveReport:
    """The account of a move, for people: what moved, the verdicts, what stayed and why."""

    status: MoveStatus
    rows: int
    bytes: int
    seconds: float
    rows_per_second: float
    verdict: str
    tables: tuple[TableDigest, ...]
    fence_seconds_median: float | None
    fence_seconds_max: float | None
    stayed: tuple[str, ...]  # sentences: what stayed, and why
    purged: str  # one sentence
    discrepancies: tuple[str, ...]  # of failed waves, kept at the source: table, key, difference, columns


@dataclass(frozen=True, slots=True)
class Presence:
    """What one site itself says of a subject."""

    site: SiteName
    row_present: bool
    mark: str  # '', 'fenced', 'departed', 'arriving', 'resident'
    epoch: int


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The answer of ``domicile where``: the one home, and what each site says. ``home`` is empty between
    homes or when unknown."""

    dataset: DatasetName
    home: SiteName | None
    epoch: int
    basis: str  # 'directory', 'row' (never moved), 'between homes', 'nowhere'
    sites: tuple[Presence, ...]
