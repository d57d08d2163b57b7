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


class Mode(StrEnum):
    """How waves are carried."""

    LIVE = "live"  # users write all the while, but for the pause of the handover
    COLD = "cold"  # a wave is fenced while it is copied


class WayBack(StrEnum):
    """What may cross back from the target after a wave's handover: the policy of the soak."""

    STREAM = "stream"  # the source copy is kept current
    HOLD = "hold"  # nothing, unless a rollback is ordered
    NONE = "none"  # nothing, ever: no rollback


class SignUps(StrEnum):
    """What happens to new subjects who fit the plan's condition once the move has begun."""

    REFUSE = "refuse"  # the source answers DM001 and names the target
    ACCEPT = "accept"  # they begin at the source and are swept by the last wave


@dataclass(frozen=True, slots=True)
class Question:
    """What an operator asks to be planned: who (a condition, or a file of subject keys), from where to
    where."""

    dataset: str
    source: str
    target: str
    where: str = ""
    subjects_file: str = ""
    way_back: WayBack = WayBack.HOLD
    sign_ups: SignUps = SignUps.REFUSE  # without a condition there is nobody to refuse


@dataclass(frozen=True, slots=True)
class Check:
    """One preflight check. ``detail`` says what was found; ``hint`` what to do when ``passed`` is False."""

    name: str
    passed: bool
    detail: str
    hint: str = ""
    blocking: bool = True  # False: a warning, printed but not refused
    code: str = "plan-refused"  # the ErrorCode that apply raises for it
    mode: Mode | None = None  # a check that only this way of carrying needs; None: both


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
    pause_ms_max: int = (
        1_000  # of a handover, as writers of the wave see it; beyond it the wave steps back and tries again
    )
    handover_tries: int = 20
    wave_tries: int = 3  # of a live wave that uses a budget up
    wave_retry_seconds: float = 60.0  # until the second try; twice as long until each further one
    settle_seconds: float = (
        2.0  # behind a change of the guard, in which sessions plan their writes anew; a quarter after a handover
    )
    catch_up_seconds_max: float = 600.0  # for the stream to catch up, and again until a try of the handover begins
    lag_bytes_max: int = 1024 * 1024  # how far behind a wave may be when its handover begins
    wal_bytes_max: int = 16 * 1024 * 1024 * 1024  # that the source keeps for the stream
    probe_p99_ratio_max: float = 1.5  # of a probe write at either site against its measure before; beyond it: slower
    probe_p99_ms_min: float = 5.0  # below it nobody is slowed down, whatever the ratio
    undo_hours: float = 0.0  # from the last arrival on, in which nothing is purged
    purge_approvals: int = 0  # how many different people must approve a purge
    approval_hours_max: float = 72.0  # how long an approval counts


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
    way_back: WayBack = WayBack.HOLD
    sign_ups: SignUps = SignUps.REFUSE
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
        """The checks that stop this plan, however it is carried out."""
        return tuple(c for c in self.checks if c.blocking and not c.passed and c.mode is None)

    def refusals_of(self, mode: Mode) -> tuple[Check, ...]:
        """The checks that stop this plan when it is carried out so."""
        return tuple(c for c in self.checks if c.blocking and not c.passed and c.mode in (None, mode))
