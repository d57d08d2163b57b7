"""A process that carries the move: what move/live.py, live_handover.py, rollback.py, stepback.py and purge.py do, one
commit at a time.

The same steps are those of a process that was taken over and does not know: whatever it does at a site asserts its
lease, and what it writes in the control database ends it, because the session that held the move is gone.
"""

# ruff: noqa: I001
from __future__ import annotations

from domicile.model.handover import Action
from reliability.model.bounds import Bounds, Flaw
from reliability.model.closing import Closing
from reliability.model.line import FAULT, STEP, Broken, Found, Line, Rule, site
from reliability.model.orders import Orders
from reliability.model.recovery import Recovery
from reliability.model.state import (
    ANSWER, APPLIED, ARRIVAL, ARRIVE, BACK, CLOSING, CONFIRMED, COUNT, DEPART, DIR, DOUBT, ENTERED, EXPECT, FREE,
    LENGTH, LINE, LINE_FROM, LINE_OF, LOCK, LOCKED, MARK, MOVER, OFF, PC, READ_TAIL, RELEASE, RESIDENT, SETTLE_G,
    SLOT, STALE, STREAM, TAIL, TERM, WAVE, WORKERS, WRITERS, WRITER_SIZE, W_LOCKS, W_SITE,
)  # fmt: skip
from reliability.model.stream import Judged, Stream


class Mover:
    """The live wave, from the settling of doubts to the publication, in either direction."""

    def __init__(self, bounds: Bounds, stream: Stream, line: Line, orders: Orders) -> None:
        self.stream, self.line, self.orders = stream, line, orders
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        self.flaws = bounds.flaws
        self.leased = line.leased
        recovery = Recovery(bounds, line, orders)
        self.action = recovery.action
        self.rules: dict[int, Rule] = {
            LOCK: self._lock, DEPART: self._depart, READ_TAIL: self._read_tail, ARRIVE: self._arrive,
            DOUBT: self._doubt, BACK: self._back, RELEASE: self._release,
            **recovery.rules, **Closing(bounds, line, orders).rules, **orders.rules,
        }  # fmt: skip

    def steps(self, s: bytes, out: Found) -> None:
        """All that either process can do."""
        for b in WORKERS:
            pc = s[b + PC]
            if pc == OFF:
                if b == WORKERS[0]:
                    self.orders.begin(s, out)
                continue
            rule = self.rules.get(pc)
            if rule is not None:
                rule(s, b, out)
            if STREAM <= pc <= EXPECT:
                self._apply(s, b, out)

    def _apply(self, s: bytes, b: int, out: Found) -> None:
        """The next entry of the log, while the tail is not held; now and then the slot is told how far it is."""
        w, d = s[b + WAVE], s[b + DIR]
        k = s[APPLIED + 2 * w + d]
        if k < s[LENGTH + d] and s[SLOT + d]:
            n = self.line.write(s, b, 1 - d, out, term=True)
            if n is not None:
                judged = self.stream.apply(n, w, d)
                if judged is Judged.DOUBLED:
                    raise Broken(f"entry {k} of the {site(d)}'s log: {judged.value}")
                if judged is Judged.DONE:
                    out.append((STEP, f"carries entry {k} of the {site(d)}'s log", bytes(n)))
        if d == 0 and self.stream.may_acknowledge(s, w, d):
            n = bytearray(s)
            n[CONFIRMED + d] = k
            out.append((STEP, f"acknowledges up to entry {k}", bytes(n)))
        if Flaw.EARLY_ACK in self.flaws and k < s[LENGTH + d] and s[CONFIRMED + d] <= k:
            n = bytearray(s)
            n[CONFIRMED + d] = k + 1
            out.append((STEP, f"acknowledges entry {k}, which it has only read", bytes(n)))

    def _lock(self, s: bytes, b: int, out: Found) -> None:
        """Writers in flight end first. It gives up after a while; then it is tried again."""
        w, d = s[b + WAVE], s[b + DIR]
        n = bytearray(s)
        n[b + PC] = STREAM
        out.append((FAULT, "cannot have the lock within its budget", bytes(n)))
        shared = any(s[a + W_LOCKS] >> w & 1 and s[a + W_SITE] == d for a in self.writers)
        if (shared or s[LOCKED + 2 * w + d] != FREE) and Flaw.NO_LOCK not in self.flaws:
            return
        n = bytearray(s)
        if s[b + ENTERED] and Flaw.ENTERED_IGNORED not in self.flaws:
            n[b + PC] = COUNT
            out.append((STEP, "rows have entered: it drains once more", bytes(n)))
            return
        if Flaw.NO_LOCK not in self.flaws and Flaw.EARLY_RELEASE not in self.flaws:
            n[LOCKED + 2 * w + d] = MOVER if b == WORKERS[0] else STALE
        n[b + PC] = DEPART if self.action(s, b, fit=True) is Action.DEPART else BACK
        out.append((STEP, "has the lock for itself", bytes(n)))

    def _depart(self, s: bytes, b: int, out: Found) -> None:
        w, d = s[b + WAVE], s[b + DIR]
        if not self._has_lock(s, b):
            self._lost(s, b, out)
            return
        n = self.line.write(s, b, d, out)
        if n is None:
            return
        if s[MARK + 2 * w + d] != CLOSING:
            self._lost(s, b, out)
            return
        self.line.depart(n, w, d)
        n[b + TAIL] = s[LENGTH + d]
        n[b + PC] = READ_TAIL
        out.append((STEP, f"departs at the {site(d)}", bytes(n)))

    def _has_lock(self, s: bytes, b: int) -> bool:
        if Flaw.NO_LOCK in self.flaws or Flaw.EARLY_RELEASE in self.flaws:
            return True
        return s[LOCKED + 2 * s[b + WAVE] + s[b + DIR]] == (MOVER if b == WORKERS[0] else STALE)

    def _lost(self, s: bytes, b: int, out: Found) -> None:
        """Its session with the lock is gone, or the mark is another: it begins anew from the marks."""
        n = bytearray(s)
        self.line.free(n, b)
        n[b + PC], n[b + TERM] = SETTLE_G, 0
        out.append((STEP, "the handover's session is of no use", bytes(n)))

    def _read_tail(self, s: bytes, b: int, out: Found) -> None:
        """All that was committed up to the departure; a row that comes to another owner is not for a pause."""
        w, d = s[b + WAVE], s[b + DIR]
        n = bytearray(s)
        n[b + PC] = BACK
        out.append((FAULT, "the pause would be too long", bytes(n)))
        scratch = bytearray(s)
        fit = bool(s[SLOT + d])
        while fit and scratch[APPLIED + 2 * w + d] < s[b + TAIL]:
            # Whether a row is where it should be is for the target to say.
            fit = self.stream.apply(scratch, w, d, tail=True) is not Judged.REPARENT
        n = bytearray(s)
        n[b + PC] = ARRIVE if self.action(s, b, fit=fit) is Action.ARRIVE else BACK
        out.append((STEP, "has the tail" if fit else "has no tail that could be handed over", bytes(n)))

    def _arrive(self, s: bytes, b: int, out: Found) -> None:
        if s[LINE] and s[LINE_OF] != FREE:
            return  # two arrivals at once are one behind the other: the line of the model has room for one
        n = bytearray(s)
        self.line.send(n, b, ARRIVAL)
        n[b + PC] = ANSWER
        out.append((STEP, f"sends the tail and the arrival, from entry {n[LINE_FROM]} on", bytes(n)))

    def _doubt(self, s: bytes, b: int, out: Found) -> None:
        """Nobody heard how the arrival ended: the target is asked, in a new term."""
        w, d = s[b + WAVE], s[b + DIR]
        n = bytearray(s)
        if self.leased(s, b, 1 - d):
            self.line.raise_term(n, 1 - d)
        arrived = s[MARK + 2 * w + 1 - d] == RESIDENT and Flaw.OPEN_IN_DOUBT not in self.flaws
        n[b + PC] = RELEASE if arrived else BACK
        out.append((STEP, f"asks the {site(1 - d)} how the arrival ended", bytes(n)))

    def _back(self, s: bytes, b: int, out: Found) -> None:
        """departed -> as it was, still under the lock."""
        w, d = s[b + WAVE], s[b + DIR]
        if not self._has_lock(s, b):
            self._lost(s, b, out)
            return
        n = self.line.write(s, b, d, out)
        if n is None:
            return
        self.line.turn_back(n, w, d)
        if Flaw.LOCK_KEPT not in self.flaws:
            self.line.free(n, b)
        n[b + PC] = STREAM if s[b + TERM] else SETTLE_G
        out.append((STEP, f"goes back: the {site(d)} serves on", bytes(n)))

    def _release(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        self.line.free(n, b)
        n[b + PC], n[b + TERM] = SETTLE_G, 0
        out.append((STEP, "releases the lock", bytes(n)))
