"""What commands return: plain data that every face shows in its own way (text, ``--json``, later the web)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from domicile.model.erasure import ErasureReport
from domicile.model.phase import Phase, Status
from domicile.model.plan import Limits, Mode
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.model.verdict import TableDigest

LEFT = "no longer in the cohort"
"""Why members are ejected who do not fit the condition any more, or are gone. If they join again, they are swept."""


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A transaction that a handover waits for. ``pid`` is None for a prepared one, ``age_s`` where it is hidden."""

    pid: int | None
    application: str
    age_s: float | None


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """How a live wave goes: what it lacks, what it costs, and the pause of its handover.

    ``pause_ms`` runs from the moment the mover asked for the wave's lock, so that a writer could begin to wait, until
    the target had answered and the lock was free again: nobody at the source waited longer. Of several tries it is the
    longest. ``round_trip_ms`` is that of the line between the mover and the site that became the home.
    """

    lag_bytes: int | None = None  # of the origin's log, not yet committed at the destination
    lag_seconds: float | None = None  # by the origin's clock
    changes: int = 0  # applied since the copy
    dirty_rows: int | None = None  # touched since they were compared
    dirty_subjects: int | None = None
    blockers: tuple[InTheWay, ...] = ()
    wal_bytes: int | None = None  # kept at the origin for the stream
    probe_p99_ms: float | None = None  # of a write at the site that is worse off, now
    probe_base_ms: float | None = None  # before the move
    slowed: float = 0.0  # share of the time the mover holds itself back, 0 to 1
    tries: int = 0  # handovers tried
    last_try: str = ""  # why the last one stepped back
    seconds_left: float | None = None  # estimate until the handover; None when unknown
    pause_ms: float | None = None
    round_trip_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Pauses:
    """The write pauses of a move's handovers, one a wave, and the median round trip of the line they had to cross."""

    waves: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    round_trip_ms: float | None

    @classmethod
    def of(cls, figures: list[LiveFigures]) -> Pauses | None:
        """None when there was no handover. Percentiles are values that occurred."""
        pauses = sorted(f.pause_ms for f in figures if f.pause_ms is not None)
        lines = sorted(f.round_trip_ms for f in figures if f.pause_ms is not None and f.round_trip_ms is not None)
        if not pauses:
            return None
        p50, p99 = (pauses[ceil(share * len(pauses)) - 1] for share in (0.5, 0.99))
        return cls(len(pauses), p50, p99, pauses[-1], lines[len(lines) // 2] if lines else None)


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
    live: LiveFigures | None = None  # None in a cold move, and before a wave begins
    rolled_back: bool = False  # home at the source again, after it had lived at the target


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody (an account of the operating system) approves the purge of what lives at the target. Times are POSIX
    seconds; ``standing``: it has not expired."""

    person: str
    given_at: int
    expires_at: int
    standing: bool


@dataclass(frozen=True, slots=True)
class NoReturn:
    """The point of no return. Before ``opens_at``, and without the approvals that the plan asks for, each by another
    person, nothing is purged. Times are POSIX seconds of the control database; ``now`` stands still when a purge has
    ``begun`` since the last arrival. ``arrived_first``: the earliest arrival of a wave that lives at the target."""

    opens_at: int
    now: int
    approvals_needed: int
    approvals: tuple[Approval, ...] = ()
    begun: bool = False
    arrived_first: int = 0

    @property
    def standing(self) -> tuple[Approval, ...]:
        """The approvals that count now."""
        return tuple(a for a in self.approvals if a.standing)

    @property
    def seconds_left(self) -> int:
        """Until a purge may begin."""
        return max(0, self.opens_at - self.now)


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
    ordered: str = ""  # what the workers of the source are to carry on: move, purge, or nothing
    mode: Mode = Mode.LIVE
    limits: Limits = field(default_factory=Limits)  # the plan's budgets
    no_return: NoReturn | None = None  # None before the first arrival
    doing: str = ""  # what whoever carries it is at, where that lasts and no figure tells of it

    @property
    def pauses(self) -> Pauses | None:
        """Of the handovers so far; None in a cold move."""
        return Pauses.of([w.live for w in self.waves if w.live is not None])

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
    """What ``domicile purge MOVE`` removed: the copies at ``site`` of waves that live at ``home``. ``remains`` says
    what this did not touch, ``erasure`` what a search of the files found."""

    move_id: MoveId
    site: SiteName  # the move's source; of a move that was rolled back, its target
    home: SiteName
    waves: int
    rows: int
    tables: tuple[PurgedTable, ...]
    left_at_source: int | None  # rows of the purged subjects found there afterwards; None when that is their home
    seconds: float
    remains: tuple[str, ...]
    erasure: ErasureReport | None = None  # what was searched for on disk afterwards, and found


@dataclass(frozen=True, slots=True)
class EjectedCount:
    """How many members of a wave were taken out of it and stay home. Their keys are at the source only."""

    wave: int
    reason: str
    subjects: int


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
    ejected: tuple[EjectedCount, ...] = ()


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
