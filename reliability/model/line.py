"""What is on its way to a site when nobody hears the answer: a whole transaction for the gaining site, or a statement
in the session that has the wave's lock at the losing one. It is carried out late, or never.

And what the sites refuse: another generation of the lease, another term, another position, another mark.
"""

# ruff: noqa: I001
from __future__ import annotations

from collections.abc import Callable

from reliability.model.bounds import Bounds, Flaw
from reliability.model.state import (
    APPLIED, ARRIVAL, ARRIVING, BACK, BATCH, CLOSING, DEPARTED, DIR, EPOCH, FREE, LATE, LATE_DEPART, LATE_LEASE,
    LATE_SITE, LATE_WAVE, LEASE_0, LENGTH, LINE, LINE_DIR, LINE_FROM, LINE_LEASE, LINE_OF, LINE_TERM, LINE_TO,
    LINE_WAVE, LOCKED, MARK, MOVER, NOTHING, OPEN, ORPHAN, PC, RELEASE, RESIDENT, SETTLE_G, STALE, TAIL, TERM, WAVE,
    WORKERS, WORKER_SIZE, WRITERS, WRITER_SIZE,
)  # fmt: skip
from reliability.model.stream import Judged, Stream
from reliability.model.writers import fence_raised

STEP, FAULT, ORDERED = range(3)
Found = list[tuple[int, str, bytes]]
Rule = Callable[[bytes, int, Found], None]
HOLDER = WORKERS[0]  # of the move: its control session lives


def site(x: int) -> str:
    return ("source", "target")[x]


class Broken(Exception):
    """A step that must not be possible: what it would have done."""


class Line:
    """The lines to both sites, and what a site asks of whatever comes along one."""

    def __init__(self, bounds: Bounds, stream: Stream) -> None:
        self.stream = stream
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        flaws = bounds.flaws
        self.no_lease = Flaw.NO_LEASE in flaws
        self.no_position = Flaw.NO_POSITION in flaws
        self.no_term = Flaw.NO_TERM in flaws or self.no_position
        self.no_tail = Flaw.NO_TAIL in flaws

    def leased(self, s: bytes, b: int, x: int) -> bool:
        """The site knows this process as the holder of the lease."""
        return bool(s[b + LEASE_0 + x]) or self.no_lease

    def write(self, s: bytes, b: int, x: int, out: Found, *, term: bool = False) -> bytearray | None:
        """A copy of the state for a commit of this process at a site; None when that refuses it."""
        n = bytearray(s)
        if not self.leased(s, b, x):
            self.end(n, b)
            out.append((STEP, "is refused: another process has the lease", bytes(n)))
            return None
        if term and not (s[b + TERM] or self.no_term):
            n[b + PC] = SETTLE_G
            out.append((STEP, "is refused: its stream is of a former term", bytes(n)))
            return None
        return n

    def end(self, n: bytearray, b: int) -> None:
        """The process is over: nothing of it is left but its sessions' locks, which go with it."""
        self.free(n, b)
        if n[LINE_OF] == (MOVER if b == WORKERS[0] else STALE):
            n[LINE_OF] = FREE
        n[b : b + WORKER_SIZE] = bytes(WORKER_SIZE)

    def free(self, n: bytearray, b: int, into: int = FREE) -> None:
        """The locks of a process are free, or in the hands of a session without one."""
        whose = MOVER if b == WORKERS[0] else STALE
        for at in range(LOCKED, LOCKED + 4):
            if n[at] == whose:
                n[at] = into

    def raise_term(self, n: bytearray, x: int) -> None:
        """From now on what streams into a site had sent before is refused there."""
        for b in WORKERS:
            if n[b + DIR] == 1 - x:
                n[b + TERM] = 0
        if n[LINE] and n[LINE_DIR] == 1 - x:
            n[LINE_TERM] = 0
            self._forget_refused(n)

    def take_over(self, n: bytearray, x: int) -> None:
        """A site learns of a new holder of the lease: whatever others sent is refused."""
        n[WORKERS[0] + LEASE_0 + x], n[WORKERS[1] + LEASE_0 + x] = 1, 0
        if n[LINE] and n[LINE_DIR] == 1 - x:
            n[LINE_LEASE] = 0
            self._forget_refused(n)
        if n[LATE] and n[LATE_SITE] == x:
            n[LATE_LEASE] = 0

    def _forget_refused(self, n: bytearray) -> None:
        """What will be refused, and answered to nobody, is as good as lost."""
        refused = not (n[LINE_LEASE] or self.no_lease) or not (n[LINE_TERM] or self.no_term)
        if refused and n[LINE_OF] == FREE:
            self.clear(n)

    def clear(self, n: bytearray) -> None:
        n[LINE : LINE_OF + 1] = bytes(LINE_OF + 1 - LINE)

    def send(self, n: bytearray, b: int, kind: int) -> None:
        """Put a transaction on the line; one that nobody waits for any more is lost."""
        w, d = n[b + WAVE], n[b + DIR]
        k = n[APPLIED + 2 * w + d]
        n[LINE], n[LINE_WAVE], n[LINE_DIR], n[LINE_FROM] = kind, w, d, k
        n[LINE_TO] = n[b + TAIL] if kind == ARRIVAL else k + 1
        n[LINE_LEASE], n[LINE_TERM] = n[b + LEASE_0 + 1 - d], n[b + TERM]
        n[LINE_OF] = MOVER if b == WORKERS[0] else STALE

    def depart(self, n: bytearray, w: int, d: int) -> None:
        n[MARK + 2 * w + d], n[EPOCH + 2 * w + d] = DEPARTED, 1 + d
        fence_raised(n, d, self.writers)

    def turn_back(self, n: bytearray, w: int, d: int) -> None:
        """turn_wave: a departure that is undone is a fence, too."""
        at = MARK + 2 * w + d
        if n[at] == DEPARTED:
            fence_raised(n, d, self.writers)
        n[at], n[EPOCH + 2 * w + d] = (RESIDENT, 1) if d else (OPEN, 0)

    def steps(self, s: bytes, out: Found) -> None:
        """What comes late, or never; and sessions that the server ends."""
        if s[LINE] != NOTHING:
            self._deliver(s, out)
        for at in range(LOCKED, LOCKED + 4):
            if s[at] in (ORPHAN, STALE):
                n = bytearray(s)
                n[at] = FREE
                if s[at] == ORPHAN:
                    n[LATE : LATE_LEASE + 1] = bytes(LATE_LEASE + 1 - LATE)
                out.append((STEP, "the server ends a silent session, and with it the wave's lock", bytes(n)))
        if s[LATE] != NOTHING:
            self._late(s, out)

    def _deliver(self, s: bytes, out: Found) -> None:
        w, d, waits = s[LINE_WAVE], s[LINE_DIR], s[LINE_OF]
        n = bytearray(s)
        self.clear(n)
        if waits == FREE:
            out.append((STEP, "what was on the line is lost", bytes(n)))
        else:
            m = bytearray(n)
            m[WORKERS[waits - 1] + PC] = BACK
            out.append((FAULT, "the target says no", bytes(m)))
        leased, current = s[LINE_LEASE] or self.no_lease, s[LINE_TERM] or self.no_term
        followed = s[APPLIED + 2 * w + d] == s[LINE_FROM] or self.no_position
        coming = s[LINE] == BATCH or s[MARK + 2 * w + 1 - d] == ARRIVING
        accepted = leased and current and followed and coming
        if accepted:
            self._carry_out(s, n, w, d)
        if waits != FREE:
            b = WORKERS[waits - 1]
            if not accepted and not leased:
                self.end(n, b)
            else:
                n[b + PC] = RELEASE if accepted else BACK
        what = "the batch" if s[LINE] == BATCH else "the arrival"
        late = " late" if waits == FREE else ""
        out.append((STEP, f"{what} is {'committed' if accepted else 'refused'}{late}", bytes(n)))

    def _carry_out(self, s: bytes, n: bytearray, w: int, d: int) -> None:
        at = 2 * w + d
        n[APPLIED + at] = s[LINE_FROM]
        last = min(s[LINE_TO], s[LENGTH + d])
        while n[APPLIED + at] < last:
            if self.no_tail and s[LINE] == ARRIVAL:
                break
            judged = self.stream.apply(n, w, d, tail=s[LINE] == ARRIVAL)
            if judged is Judged.DOUBLED:
                raise Broken(f"what came late: {judged.value}")
        n[APPLIED + at] = last
        if s[LINE] == ARRIVAL:
            n[MARK + 2 * w + 1 - d], n[EPOCH + 2 * w + 1 - d] = RESIDENT, 1 + d
            self.raise_term(n, 1 - d)
            self.stream.begin_back(n, w, d)

    def _late(self, s: bytes, out: Found) -> None:
        """The orphaned session carries out what it was sent last."""
        w, x = s[LATE_WAVE], s[LATE_SITE]
        n = bytearray(s)
        n[LATE : LATE_LEASE + 1] = bytes(LATE_LEASE + 1 - LATE)
        mark = s[MARK + 2 * w + x]
        if s[LATE_LEASE] or self.no_lease:
            if s[LATE] == LATE_DEPART and mark == CLOSING:
                self.depart(n, w, x)
                out.append((STEP, "the departure is committed late", bytes(n)))
                return
            if s[LATE] != LATE_DEPART and mark in (CLOSING, DEPARTED):
                self.turn_back(n, w, x)
                out.append((STEP, "the return is committed late", bytes(n)))
                return
        out.append((STEP, "what the lock's session was sent last is refused", bytes(n)))


def control(line: Line, s: bytes, b: int, out: Found) -> bytearray | None:
    """A copy of the state for a commit in the control database, which only the holder of the move makes."""
    n = bytearray(s)
    if b == HOLDER:
        return n
    line.end(n, b)
    out.append((STEP, "ends: its control session is gone", bytes(n)))
    return None
