"""A process that carries the move: what move/live.py, live_handover.py, rollback.py, stepback.py and purge.py do, one
commit at a time. Its decisions are those of `domicile.model.handover`: the table of them is made by calling it.

The same steps are those of a process that was taken over and does not know: whatever it does at a site asserts its
lease, and what it writes in the control database ends it, because the session that held the move is gone.
"""

# ruff: noqa: I001
from __future__ import annotations

from collections.abc import Callable

from domicile.model.handover import Action, Facts, next_action
from domicile.model.site import SiteName
from domicile.postgres import waves
from reliability.model.bounds import Bounds, Flaw
from reliability.model.line import FAULT, STEP, Broken, Found, Line
from reliability.model.orders import Orders
from reliability.model.state import (
    ADD_CHILD, ANSWER, APPLIED, ARRIVAL, ARRIVE, ARRIVING, BACK, CHOOSE, CLOSING, CONFIRMED, COUNT, DECIDE, DEPART,
    DEPARTED, DIR, DOUBT, DRAIN, DRAIN_AGAIN, ENTERED, EPOCH, EXPECT, FREE, HOME, HOME_AGAIN, LENGTH, LINE, LINE_FROM,
    LINE_OF, LOCK, LOCKED, MARK, MARKS, MOVER, OFF, OPEN, OPENING, PC, PHASE, PUBLISH, READ_TAIL, REFENCE, RELEASE,
    REOPEN, RESERVED, RESIDENT, SETTLE_G, SETTLE_L, SLOT, SOAKING, STALE, STREAM, TAIL, TERM, WAITING, WAVE, WORKERS,
    WRITERS, WRITER_SIZE, WRITTEN, W_LOCKS, W_OP, W_PC, W_SITE,
)  # fmt: skip
from reliability.model.stream import Judged, Stream
from reliability.model.writers import fence_raised

Rule = Callable[[bytes, int, Found], None]


def decisions() -> dict[tuple[int, int, bool, bool], Action]:
    """`next_action` for every pair of marks as the sites have them, published or not, fit or not."""
    table = {}
    for at_losing in range(len(MARKS)):
        for at_gaining in range(len(MARKS)):
            source, target = waves.source_mark(_record(at_losing)), waves.target_mark(_record(at_gaining))
            for published in (False, True):
                for fit in (False, True):
                    facts = Facts(source, target, published=published, fit=fit)
                    table[at_losing, at_gaining, published, fit] = next_action(facts)
    return table


def _record(mark: int) -> waves.WaveRecord | None:
    if mark == 0 or MARKS[mark] == "fenced":  # of a cold move
        return None
    return waves.WaveRecord(1, MARKS[mark], SiteName("here"), 1)


class Mover:
    """The live wave, from the settling of doubts to the publication, in either direction."""

    def __init__(self, bounds: Bounds, stream: Stream, line: Line, orders: Orders) -> None:
        self.bounds, self.stream, self.line, self.orders = bounds, stream, line, orders
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        self.decide_by = decisions()
        self.flaws = bounds.flaws
        self.leased = line.leased
        self.blind = Flaw.BLIND_RECOVERY in self.flaws
        self.rules: dict[int, Rule] = {
            SETTLE_G: self._settle_gaining, SETTLE_L: self._settle_losing, DECIDE: self._decide, REOPEN: self._reopen,
            PUBLISH: self._publish, OPENING: self._open, STREAM: self._begin_try, COUNT: self._count,
            DRAIN: self._drain, REFENCE: self._refence, DRAIN_AGAIN: self._drain_again, EXPECT: self._expect,
            LOCK: self._lock, DEPART: self._depart, READ_TAIL: self._read_tail, ARRIVE: self._arrive,
            DOUBT: self._doubt, BACK: self._back, RELEASE: self._release, **orders.rules,
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

    def _settle_gaining(self, s: bytes, b: int, out: Found) -> None:
        """Nothing is under way there any more, and what is on the line is of a former term."""
        n = bytearray(s)
        if self.leased(s, b, 1 - s[b + DIR]):
            self.line.raise_term(n, 1 - s[b + DIR])
        n[b + PC] = SETTLE_L
        out.append((STEP, f"settles doubts at the {_site(1 - s[b + DIR])}", bytes(n)))

    def _settle_losing(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        if self.leased(s, b, s[b + DIR]):
            self.line.raise_term(n, s[b + DIR])
        n[b + PC] = DECIDE
        out.append((STEP, f"settles doubts at the {_site(s[b + DIR])}", bytes(n)))

    def _decide(self, s: bytes, b: int, out: Found) -> None:
        """`recover`: no lock and no tail, so the wave is not fit."""
        n = bytearray(s)
        w, d = s[b + WAVE], s[b + DIR]
        action = self._action(s, b, fit=False)
        if self.blind and s[MARK + 2 * w + d] == DEPARTED:
            action = Action.RETURN
        match action:
            case Action.PUBLISH:
                n[b + PC] = PUBLISH
            case Action.FINISHED:
                n[b + PC] = CHOOSE
                if b == WORKERS[0]:
                    n[PHASE + w] = HOME_AGAIN if d else SOAKING
                else:
                    self.line.end(n, b)
            case _ if s[MARK + 2 * w + d] in (CLOSING, DEPARTED):
                n[b + PC] = REOPEN
            case _:
                n[b + PC] = self.orders.after_recovery(s, b)
        out.append((STEP, f"recovers: {action}", bytes(n)))

    def _action(self, s: bytes, b: int, *, fit: bool) -> Action:
        w, d = s[b + WAVE], s[b + DIR]
        return self.decide_by[s[MARK + 2 * w + d], s[MARK + 2 * w + 1 - d], not s[RESERVED + w], fit]

    def _reopen(self, s: bytes, b: int, out: Found) -> None:
        w, d = s[b + WAVE], s[b + DIR]
        n = self.line.write(s, b, d, out)
        if n is not None:
            self._open_mark(n, w, d)
            n[b + PC] = self.orders.after_recovery(s, b)
            out.append((STEP, f"the {_site(d)} serves again", bytes(n)))

    def _open_mark(self, n: bytearray, w: int, d: int) -> None:
        """What a step back returns to: open, or resident under the epoch before. Nothing, where it is so already."""
        if n[MARK + 2 * w + d] in (CLOSING, DEPARTED):
            n[MARK + 2 * w + d] = RESIDENT if d else OPEN
            n[EPOCH + 2 * w + d] = 1 if d else 0

    def _publish(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        if b != WORKERS[0]:
            self.line.end(n, b)
            out.append((STEP, "cannot publish: its control session is gone", bytes(n)))
            return
        w, d = s[b + WAVE], s[b + DIR]
        home = 1 - d + 2 * s[EPOCH + 2 * w + 1 - d]
        if home >> 1 > s[HOME + w] >> 1:
            n[HOME + w] = home
        n[RESERVED + w] = 0
        n[b + PC] = DECIDE
        out.append((STEP, "publishes", bytes(n)))

    def _open(self, s: bytes, b: int, out: Found) -> None:
        """The stream begins where it stopped, in the term of now."""
        w, d = s[b + WAVE], s[b + DIR]
        n = bytearray(s)
        behind = s[CONFIRMED + d] > s[APPLIED + 2 * w + d] and Flaw.EARLY_ACK not in self.flaws
        served = s[MARK + 2 * w + d] == (RESIDENT if d else OPEN)
        coming = s[MARK + 2 * w + 1 - d] in ((ARRIVING, DEPARTED) if d else (ARRIVING,))
        if not s[SLOT + d] or behind or not served or not coming:
            self.orders.fail(n, b)
            out.append((STEP, "the stream cannot be continued", bytes(n)))
            return
        if Flaw.EARLY_ACK in self.flaws:  # the server gives nothing that was acknowledged
            n[APPLIED + 2 * w + d] = max(s[APPLIED + 2 * w + d], s[CONFIRMED + d])
        n[b + TERM], n[b + PC] = 1, STREAM
        out.append((STEP, "opens the stream", bytes(n)))

    def _apply(self, s: bytes, b: int, out: Found) -> None:
        """The next entry of the log, while the tail is not held; now and then the slot is told how far it is."""
        w, d = s[b + WAVE], s[b + DIR]
        k = s[APPLIED + 2 * w + d]
        if k < s[LENGTH + d] and s[SLOT + d]:
            n = self.line.write(s, b, 1 - d, out, term=True)
            if n is not None:
                judged = self.stream.apply(n, w, d)
                if judged is Judged.DOUBLED:
                    raise Broken(f"entry {k} of the {_site(d)}'s log: {judged.value}")
                if judged is Judged.DONE:
                    out.append((STEP, f"carries entry {k} of the {_site(d)}'s log", bytes(n)))
        if d == 0 and self.stream.may_acknowledge(s, w, d):
            n = bytearray(s)
            n[CONFIRMED + d] = k
            out.append((STEP, f"acknowledges up to entry {k}", bytes(n)))
        if Flaw.EARLY_ACK in self.flaws and k < s[LENGTH + d] and s[CONFIRMED + d] <= k:
            n = bytearray(s)
            n[CONFIRMED + d] = k + 1
            out.append((STEP, f"acknowledges entry {k}, which it has only read", bytes(n)))

    def _begin_try(self, s: bytes, b: int, out: Found) -> None:
        """The mark closing, which is a fence. One that is closing already only drains again."""
        w, d = s[b + WAVE], s[b + DIR]
        if not s[SLOT + d]:
            over = bytearray(s)
            self.orders.fail(over, b)
            out.append((STEP, "the stream is lost", bytes(over)))
            return
        n = self.line.write(s, b, d, out)
        if n is None:
            return
        if s[MARK + 2 * w + d] != CLOSING:
            n[MARK + 2 * w + d], n[EPOCH + 2 * w + d] = CLOSING, 1 + d
            if s[MARK + 2 * w + d] in (OPEN, RESIDENT):  # what was departed is looked at already
                fence_raised(n, d, self.writers)
        n[b + PC] = COUNT
        if Flaw.DIRECTORY_FIRST in self.flaws:
            n[HOME + w] = 1 - d + 2 * (1 + d)
        out.append((STEP, f"the {_site(d)} is closing", bytes(n)))

    def _count(self, s: bytes, b: int, out: Found) -> None:
        """Reads domicile.entered, and who writes now."""
        n = bytearray(s)
        n[b + ENTERED] = 0
        n[b + WAITING] = self._writing(s, s[b + DIR], joined=False)
        n[b + PC] = EXPECT if Flaw.NO_DRAIN in self.flaws else DRAIN
        out.append((STEP, "reads what has entered, and who writes", bytes(n)))

    def _writing(self, s: bytes, site: int, *, joined: bool) -> int:
        """Who holds a table lock; of the tables whose owner is found through another one, if so asked."""
        return sum(
            1 << number
            for number, a in enumerate(self.writers)
            if s[a + W_PC] >= WRITTEN and s[a + W_SITE] == site and (not joined or s[a + W_OP] & 0xF0 == ADD_CHILD)
        )

    def _ended(self, n: bytearray, s: bytes, b: int) -> bool:
        """Those of them who have ended are waited for no more."""
        waiting = s[b + WAITING]
        for number, a in enumerate(self.writers):
            if s[a + W_PC] < WRITTEN or s[a + W_SITE] != s[b + DIR]:
                waiting &= ~(1 << number)
        n[b + WAITING] = waiting
        return waiting == 0

    def _drain(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        if self._ended(n, s, b):
            joins = self.bounds.gives and Flaw.ONE_ROUND not in self.flaws
            n[b + PC] = REFENCE if joins else EXPECT
            out.append((STEP, "everybody who wrote before has ended", bytes(n)))
        elif n[b + WAITING] != s[b + WAITING]:
            out.append((STEP, "one who wrote before has ended", bytes(n)))

    def _refence(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        if Flaw.NO_FENCE_BETWEEN not in self.flaws:
            fence_raised(n, s[b + DIR], self.writers)
        n[b + WAITING] = self._writing(s, s[b + DIR], joined=True)
        n[b + PC] = DRAIN_AGAIN
        out.append((STEP, "a new fence, and who writes where owners are found by joins", bytes(n)))

    def _drain_again(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        if self._ended(n, s, b):
            n[b + PC] = EXPECT
            out.append((STEP, "they have ended, too", bytes(n)))
        elif n[b + WAITING] != s[b + WAITING]:
            out.append((STEP, "one of them has ended", bytes(n)))

    def _expect(self, s: bytes, b: int, out: Found) -> None:
        """A copy to which the wave comes back refuses its writers from now on. Then the tail is held."""
        w, d = s[b + WAVE], s[b + DIR]
        n = self.line.write(s, b, 1 - d, out) if d else bytearray(s)
        if n is None:
            return
        if d:
            n[MARK + 2 * w + 1 - d], n[EPOCH + 2 * w + 1 - d] = ARRIVING, 1 + d
        n[b + PC] = LOCK
        out.append((STEP, "holds what comes as the tail", bytes(n)))

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
        n[b + PC] = DEPART if self._action(s, b, fit=True) is Action.DEPART else BACK
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
        out.append((STEP, f"departs at the {_site(d)}", bytes(n)))

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
        n[b + PC] = ARRIVE if self._action(s, b, fit=fit) is Action.ARRIVE else BACK
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
        out.append((STEP, f"asks the {_site(1 - d)} how the arrival ended", bytes(n)))

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
        out.append((STEP, f"goes back: the {_site(d)} serves on", bytes(n)))

    def _release(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        self.line.free(n, b)
        n[b + PC], n[b + TERM] = SETTLE_G, 0
        out.append((STEP, "releases the lock", bytes(n)))


def _site(x: int) -> str:
    return ("source", "target")[x]
