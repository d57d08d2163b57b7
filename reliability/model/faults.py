"""What may go wrong, each time once less: a process is killed, a connection breaks with something on its way, the
server ends the session that has the lock, another process takes a move over from one that is only asleep.
"""

# ruff: noqa: I001
from __future__ import annotations

from reliability.model.bounds import Bounds
from reliability.model.line import FAULT, Found, Line
from reliability.model.state import (
    ANSWER, APPLIED, BACK, BATCH, DEPART, DIR, DOUBT, EXPECT, FAULTS, FREE, LATE, LATE_DEPART, LATE_LEASE,
    LATE_REOPEN, LATE_SITE, LATE_WAVE, LEASE_0, LENGTH, LINE, LINE_OF, LOCKED, MOVER, OFF, OPENING, ORPHAN, PC,
    RELEASE, SETTLE_G, STALE, STREAM, TERM, WAVE, WORKERS, WORKER_SIZE,
)  # fmt: skip
from reliability.model.stream import Judged

HOLDER, SLEEPER = WORKERS


class Faults:
    """Every fault that can happen in a state."""

    def __init__(self, bounds: Bounds, line: Line) -> None:
        self.bounds, self.line = bounds, line

    def steps(self, s: bytes, out: Found) -> None:
        pc = s[HOLDER + PC]
        if not s[FAULTS] or pc == OFF:
            return
        for way, sent in self._sent(s):
            n = bytearray(sent)
            n[FAULTS] -= 1
            self._abandon(n)
            killed = bytearray(n)
            self.line.end(killed, HOLDER)
            out.append((FAULT, f"the process is killed{way}", bytes(killed)))
            if OPENING <= pc <= RELEASE:
                n[HOLDER + PC], n[HOLDER + TERM] = SETTLE_G, 0
                out.append((FAULT, f"the connections break{way}", bytes(n)))
        if pc == ANSWER:
            n = bytearray(s)
            n[FAULTS] -= 1
            n[LINE_OF], n[HOLDER + PC] = FREE, DOUBT
            out.append((FAULT, "nobody hears how the arrival ends", bytes(n)))
        if MOVER in s[LOCKED : LOCKED + 4]:
            n = bytearray(s)
            n[FAULTS] -= 1
            self.line.free(n, HOLDER)
            out.append((FAULT, "the server ends the session that has the lock", bytes(n)))
        if self.bounds.stale and s[SLEEPER + PC] == OFF:
            self._fall_asleep(s, out)

    def _sent(self, s: bytes) -> list[tuple[str, bytearray]]:
        """As it is, and with what the process was just about to do on its way to the site."""
        ways = [("", bytearray(s))]
        pc, w, d = s[HOLDER + PC], s[HOLDER + WAVE], s[HOLDER + DIR]
        if pc in (DEPART, BACK) and s[LOCKED + 2 * w + d] == MOVER:
            n = bytearray(s)
            n[LATE], n[LATE_WAVE], n[LATE_SITE] = LATE_DEPART if pc == DEPART else LATE_REOPEN, w, d
            n[LATE_LEASE] = s[HOLDER + LEASE_0 + d]
            ways.append((", its statement on the way", n))
        if STREAM <= pc <= EXPECT and s[APPLIED + 2 * w + d] < s[LENGTH + d] and s[HOLDER + TERM] and not s[LINE]:
            n = bytearray(s)
            if self.line.stream.apply(n, w, d, tail=True) is not Judged.DONE:
                return ways  # what was read for it is of that moment: it is committed at once, or never
            n = bytearray(s)
            self.line.send(n, HOLDER, BATCH)
            ways.append((", its batch on the way", n))
        return ways

    def _abandon(self, n: bytearray) -> None:
        """Its sessions are nobody's: the server has them until it notices."""
        if n[LINE_OF] == MOVER:
            n[LINE_OF] = FREE
        self.line.free(n, HOLDER, ORPHAN)

    def _fall_asleep(self, s: bytes, out: Found) -> None:
        """Its lease is stale, so that another process may begin; what it does when it wakes up is for the sites to
        refuse."""
        n = bytearray(s)
        n[FAULTS] -= 1
        n[SLEEPER : SLEEPER + WORKER_SIZE] = s[HOLDER : HOLDER + WORKER_SIZE]
        n[HOLDER : HOLDER + WORKER_SIZE] = bytes(WORKER_SIZE)
        self.line.free(n, HOLDER, STALE)
        if n[LINE_OF] == MOVER:
            n[LINE_OF] = STALE
        out.append((FAULT, "the process falls asleep, and its lease goes to whoever comes", bytes(n)))
