"""The seam between a copy and the stream: a transaction is applied if and only if the copy's snapshot does not see it.

Never compare log positions for this: commit order in the log is not visibility order. Source: Debezium's DDD-8,
``pg_current_snapshot`` and ``XidInMVCCSnapshot`` in PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass

_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Seam:
    """One snapshot: every transaction below ``xmin`` is seen, none from ``xmax`` on, between them all but those in
    ``running``. Numbers are full 64-bit transaction ids."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Seam:
        """Read ``pg_current_snapshot()::text``: ``xmin:xmax:xip,xip``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())

    def with_seen(self, xid: int) -> Seam:
        """The same, but for the transaction that took the snapshot and that counts as seen: every number up to its own
        that the snapshot did not know of belongs to one that runs."""
        if xid < self.xmax:
            return Seam(self.xmin, self.xmax, self.running - {xid})
        return Seam(min(self.xmin, xid), xid + 1, self.running | set(range(self.xmax, xid)))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"

    def sees(self, xid: int) -> bool:
        """True when the snapshot sees the transaction; ``xid`` has 64 bits. Only transactions that committed are asked
        about."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    def sees_short(self, xid: int) -> bool:
        """The same for an xid of 32 bits, as the stream has it: within two thousand million of the snapshot, as all
        that the log can still hold are."""
        return self.sees(self.widen(xid))

    def widen(self, xid: int) -> int:
        """The 64-bit number of a 32-bit xid near this snapshot."""
        full = self.xmax - self.xmax % _WRAP + xid
        if full > self.xmax + _WRAP // 2:
            full -= _WRAP
        elif full < self.xmax - _WRAP // 2:
            full += _WRAP
        return full
