"""What a purge says about erasure: places on disk, what was found there, and how well the search can see.

"Not found" here is always "not found by this method with this sensitivity".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
import struct

START_S_MAX = 60.0  # from the time in postmaster.pid until the server says that it has started


class Place(StrEnum):
    """A class of places where a value can be on a server's disk. The order is that of a report."""

    TABLES = "tables"  # line pointers and tuples, live and dead
    FREED = "freed space in tables"  # what VACUUM has left between a page's pointers and its tuples
    TOAST = "toast"
    INDEXES = "indexes"
    STATISTICS = "statistics"  # pg_statistic
    EXTENDED = "extended statistics"
    MAPS = "space and visibility maps"
    WAL = "wal"
    RECYCLED = "recycled wal"  # old log in files that wait to be written anew
    SLOTS = "slot spill files"
    LOGS = "server logs"
    TEMPORARY = "temporary files"
    KEPT = "archives and backups"
    OTHER = "other files"
    BLOCKS = "free blocks of the file system"  # never read


@dataclass(frozen=True, slots=True)
class Finding:
    """One place. ``values``: different values found there; ``copies``: how often. ``planted``: canaries known to lie
    there when the scanner was tried out, ``seen``: how many of these it found."""

    place: Place
    bytes: int = 0
    values: int = 0
    subjects: int = 0
    copies: int = 0
    planted: int = 0
    seen: int = 0
    not_read: tuple[str, ...] = ()  # sentences: what of this place was not read, and why

    @property
    def sensitivity(self) -> float | None:
        """The part of the planted canaries that was found; None where none could be planted."""
        return self.seen / self.planted if self.planted else None


@dataclass(frozen=True, slots=True)
class Residual:
    """What may still hold values and cannot be removed now. ``expires``: a date, or empty where none is known."""

    place: Place
    what: str
    expires: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """What tells a running server from its clones and standbys, as it says itself. ``started``: POSIX seconds."""

    identifier: int
    started: float
    port: str

    def keeps(self, control: bytes, postmaster: str) -> bool:
        """Whether a data directory with these files (the beginning of ``pg_control``, and ``postmaster.pid``) is this
        server's own. A standby and a clone have the identifier, but not the start and the port."""
        lines = postmaster.splitlines()
        try:
            begun, port = int(lines[2]), lines[3].strip()
        except (ValueError, IndexError):
            return False
        same = control[:8] == struct.pack("=q", self.identifier)
        return same and port == self.port and -1 <= self.started - begun <= START_S_MAX


@dataclass(frozen=True, slots=True)
class ErasureWish:
    """What an operator wants of a purge beyond the deletion: ``rewrite`` tables, each under a lock that stops its
    readers and writers; ``kept``: archives and backups, each a path and the date when it goes (ISO 8601, or empty);
    ``mb_per_s_max``: how fast files are read, 0 for as fast as it goes."""

    rewrite: bool = False
    kept: tuple[tuple[str, str], ...] = ()
    mb_per_s_max: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done so that removed rows are overwritten. ``refused``: why it was not done, or not wholly."""

    name: str
    seconds: float
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A scan on the way: ``values`` found by place, ``seconds`` after the first handover (before the deletion: 0)."""

    name: str
    seconds: float
    values: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What is left at a site after a purge. ``lag_seconds``: by place, from the first handover until a scan found
    nothing there any more; places in which something is left are not in it. ``deleted_after``: seconds from that
    handover to the last deletion."""

    site: str
    method: str
    begun_at: str
    finished_at: str
    searched: int  # values searched for
    too_plain: int  # values of 8 bytes or more, too plain to be searched for
    shared: int  # values that rows of others hold too, in the tables that move: nobody's trace
    findings: tuple[Finding, ...]
    residuals: tuple[Residual, ...]
    steps: tuple[Step, ...]
    scanned: bool  # False: no file of the server could be read
    mb_per_s: float = 0.0
    canaries_left: int = 0  # canaries that were removed like the rows and are found all the same
    not_planted: tuple[str, ...] = ()  # sentences: table, and why no canary could be planted
    closed: bool = False  # nothing is left to wait for
    stages: tuple[Stage, ...] = ()
    lag_seconds: Mapping[str, float] = field(default_factory=dict)
    deleted_after: float = 0.0
    passed_over: int = 0  # values that are more than can be searched for
    scanned_by: str = ""  # account and host of whoever ran the last scan
    waves_unsearched: int = 0  # waves whose rows were deleted without fingerprints of them

    @property
    def sensitivity_min(self) -> float | None:
        """The worst sensitivity over the places where canaries were planted; None where nowhere."""
        return min((s for f in self.findings if (s := f.sensitivity) is not None), default=None)

    @property
    def erasure_lag(self) -> float | None:
        """Seconds from the first handover until nothing was found in any place any more; None while something is."""
        gone = self.scanned and self.lag_seconds and not any(f.values for f in self.findings)
        return max(self.lag_seconds.values()) if gone else None

    @property
    def unlisted(self) -> int:
        """Values found in places that no residual names: what should not be there."""
        listed = {r.place for r in self.residuals}
        return sum(f.values for f in self.findings if f.place not in listed)
