"""Named points where a test may kill, stop or fail the mover. Switched on only by DOMICILE_FAILPOINT, which a
face reads.

    DOMICILE_FAILPOINT=copy.chunk_committed:kill        kill -9 this process when the point is reached
    DOMICILE_FAILPOINT=copy.chunk_committed:kill:3      at the third time
    DOMICILE_FAILPOINT=handover.departed:error          raise, as if the site had failed
    DOMICILE_FAILPOINT=verify.before:pause              wait until the process is killed
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
import os
import signal

from domicile.model.errors import DomicileError, ErrorCode

POINTS: tuple[str, ...] = (
    "eject.target_cleaned",
    "eject.source_forgot",
    "prepare.source_registered",
    "prepare.target_registered",
    "prepare.reserved",
    "fence.armed",
    "fence.marked",
    "fence.drained",
    "copy.before",
    "copy.chunk_committed",
    "copy.done",
    "verify.before",
    "verify.done",
    "handover.departed",
    "handover.arrived",
    "handover.published",
    "live.catchup",
    "live.verify",
    "parties.cleared",
    "live.armed",
    "live.closing",
    "live.locked",
    "live.departed",
    "live.arrived",
    "live.published",
    "live.sealed",
    "rollback.prepared",
    "rollback.arrived",
    "rollback.cleared",
    "stepback.target_cleaned",
    "stepback.source_open",
    "parties.written_back",
    "purge.before",
    "erase.values_kept",
    "erase.canaries_found",
    "purge.chunk_committed",
    "purge.deleted",
    "erase.reclaimed",
    "erase.scanned",
    "purge.done",
)
"""Every point there is, in the order a wave meets them. ``docs/reference/failpoints.md`` lists the same."""

PAUSE_SECONDS_MAX = 3_600


@dataclass(slots=True)
class Failpoints:
    """At most one armed point per process: ``spec`` as in the module's docstring, or empty. ValueError for an
    unknown point."""

    spec: str = ""
    _seen: Counter[str] = field(default_factory=Counter)
    _point: str = ""
    _deed: str = ""
    _time: int = 1

    def __post_init__(self) -> None:
        if not self.spec:
            return
        parts = self.spec.split(":")
        self._point, self._deed = parts[0], parts[1] if len(parts) > 1 else "kill"
        self._time = int(parts[2]) if len(parts) > 2 else 1
        if self._point not in POINTS or self._deed not in ("kill", "error", "pause"):
            raise ValueError(f"unknown failpoint {self.spec!r}")

    async def reach(self, point: str) -> None:
        """Say that ``point`` is reached; does nothing unless it is the armed one at its armed time."""
        assert point in POINTS, point
        if point != self._point:
            return
        self._seen[point] += 1
        if self._seen[point] != self._time:
            return
        match self._deed:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "error":
                raise DomicileError(ErrorCode.INTERNAL, f"failpoint {point} raised as ordered")
            case _:
                await asyncio.sleep(PAUSE_SECONDS_MAX)
