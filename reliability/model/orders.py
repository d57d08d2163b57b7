"""What surrounds a live wave's handover: whoever starts and finds out what is to be done, the preparation and the
copy, the step back, the way back and its undoing, the purge. And the operator, who orders.
"""

# ruff: noqa: I001
from __future__ import annotations

from collections.abc import Callable

from reliability.model.bounds import Bounds, Flaw
from reliability.model.line import FAULT, ORDERED, STEP, Found, Line
from reliability.model.state import (
    ANEW, ARRIVING, BEGUN, CHOOSE, CL_ASK, CL_RECORD, CL_ROWS, CONFIRMED, COPY, DEPARTED, DIR, DOUBT, EPOCH, FAILED,
    GOING_BACK, HOME_AGAIN, LENGTH, LOGGED, MARK, MOVE, NONE, NO_ORDER, ON_THE_WAY, OPEN, OPENING, ORDER, ORDERS, PC,
    PG_ASK, PG_CLOSE, PG_DONE, PG_OWN, PG_SHARED, PHASE, PLANNED, PREPARE, PURGE, PURGED, PURGING, RB_RESERVE,
    REGISTER_0, REGISTER_1, RELEASE, RESERVE, RESERVED, RESIDENT, RESUME, ROLLBACK, SB_ASK, SB_CLEAN, SB_FORGET,
    SB_OPEN, SB_RELEASE, SETTLE_G, SLOT, SOAKING, STREAM, TERM, TRIES, UNDO, UNDO_RELEASE, WAVE, WORKERS, WRITERS,
    WRITER_SIZE, W_PC, W_SITE,
)  # fmt: skip
from reliability.model.stream import Stream, forget_rows
from reliability.model.writers import fence_raised

Rule = Callable[[bytes, int, Found], None]
BETWEEN = (BEGUN, ON_THE_WAY, FAILED, GOING_BACK, PURGING)  # somebody must carry it on
HOLDER = WORKERS[0]


class Orders:
    """The phases around the handover, each commit a step."""

    def __init__(self, bounds: Bounds, stream: Stream, line: Line) -> None:
        self.bounds, self.stream, self.line = bounds, stream, line
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        self.flaws = bounds.flaws
        self.rules: dict[int, Rule] = {
            REGISTER_0: self._register, REGISTER_1: self._register, CHOOSE: self._choose, PREPARE: self._prepare,
            RESERVE: self._reserve, COPY: self._copy, SB_ASK: self._ask, SB_OPEN: self._open_source,
            SB_CLEAN: self._clean, SB_FORGET: self._clean, SB_RELEASE: self._stepped_back, RB_RESERVE: self._way_back,
            UNDO: self._undo, UNDO_RELEASE: self._undone, PG_CLOSE: self._close_way_back, PG_ASK: self._ask_purge,
            PG_OWN: self._purge, PG_SHARED: self._purge, PG_DONE: self._purged, CL_ASK: self._ask_clear,
            CL_ROWS: self._clear, CL_RECORD: self._clear,
        }  # fmt: skip

    def begin(self, s: bytes, out: Found) -> None:
        """Nobody carries the move: somebody will, when there is an order; and the operator may give another."""
        phases = s[PHASE : PHASE + self.bounds.waves]
        if s[ORDER] != NO_ORDER or any(phase in BETWEEN for phase in phases):
            n = bytearray(s)
            n[ORDER] = s[ORDER] or RESUME
            n[HOLDER + PC] = REGISTER_0
            out.append((STEP, "a process takes the move", bytes(n)))
        if not s[ORDERS] or s[ORDER] in (MOVE, RESUME) or any(p in (BEGUN, ON_THE_WAY, FAILED) for p in phases):
            return
        back = any(phase in (SOAKING, GOING_BACK) for phase in phases) and PURGING not in phases
        left = any(p == HOME_AGAIN and s[MARK + 2 * w + 1] != NONE for w, p in enumerate(phases))
        purge = GOING_BACK not in phases and (left or SOAKING in phases or PURGING in phases)
        for order, wanted, there in (
            (ROLLBACK, self.bounds.rollback, back),
            (PURGE, self.bounds.purge, purge),
        ):
            if wanted and there and order != s[ORDER]:
                n = bytearray(s)
                n[ORDERS] -= 1
                n[ORDER] = order
                out.append((ORDERED, "the operator orders " + ("rollback" if order == ROLLBACK else "purge"), bytes(n)))

    def after_recovery(self, s: bytes, b: int) -> int:
        """The losing site serves: on with the stream, or back to where the wave lives."""
        return UNDO if s[b + DIR] and s[b + ANEW] else OPENING

    def fail(self, n: bytearray, b: int) -> None:
        """A try is over: the wave steps back, or stays where it lives."""
        self.line.free(n, b)
        n[b + TERM] = 0
        if b != HOLDER:
            return self.line.end(n, b)  # it cannot write it down
        if n[b + DIR]:
            n[ORDER] = NO_ORDER
            n[b + ANEW], n[b + PC] = 1, SETTLE_G
        else:
            n[PHASE + n[b + WAVE]] = FAILED
            n[b + PC] = SB_ASK
        return None

    def give_up(self, s: bytes, out: Found) -> None:
        """A budget is used up, rows differ, an operator aborts, a site cannot be reached for too long."""
        if s[TRIES] and s[HOLDER + PC] in (STREAM, SETTLE_G, DOUBT, RELEASE) and not s[HOLDER + ANEW]:
            n = bytearray(s)
            n[TRIES] -= 1
            self.fail(n, HOLDER)
            out.append((FAULT, "gives the try up", bytes(n)))

    def _control(self, s: bytes, b: int, out: Found) -> bytearray | None:
        """A copy of the state for a commit in the control database, which only the holder of the move makes."""
        n = bytearray(s)
        if b == HOLDER:
            return n
        self.line.end(n, b)
        out.append((STEP, "ends: its control session is gone", bytes(n)))
        return None

    def _register(self, s: bytes, b: int, out: Found) -> None:
        n = self._control(s, b, out)
        if n is None:
            return
        x = s[b + PC] - REGISTER_0
        self.line.take_over(n, x)
        n[b + PC] = s[b + PC] + 1
        out.append((STEP, f"takes the lease over at the {('source', 'target')[x]}", bytes(n)))

    def _choose(self, s: bytes, b: int, out: Found) -> None:
        """Waves on their way back first; then what is ordered, wave by wave, a rollback from the last one on."""
        n = self._control(s, b, out)
        if n is None:
            return
        n[b + TERM] = 0
        phases = s[PHASE : PHASE + self.bounds.waves]
        if GOING_BACK in phases:
            n[b + WAVE], n[b + DIR], n[b + ANEW], n[b + PC] = phases.index(GOING_BACK), 1, 1, SETTLE_G
            out.append((STEP, "settles a way back that was cut", bytes(n)))
            return
        found = self._next(s, phases)
        if found is None:
            leases = n[HOLDER + 5 : HOLDER + 7]
            self.line.end(n, b)
            n[HOLDER + 5 : HOLDER + 7] = leases
            n[ORDER] = NO_ORDER
            out.append((STEP, "the order is carried out", bytes(n)))
            return
        w, pc = found
        n[b + WAVE], n[b + DIR], n[b + ANEW], n[b + PC] = w, int(pc == RB_RESERVE), 0, pc
        if pc == PREPARE:
            self._begin_wave(s, n, w, out)
            return
        out.append((STEP, f"goes on with wave {w}", bytes(n)))

    def _begin_wave(self, s: bytes, n: bytearray, w: int, out: Found) -> None:
        """A slot that was given up is made anew: it begins when every transaction of that moment has ended."""
        if s[TRIES] < self.bounds.tries:
            m = bytearray(s)
            self.line.end(m, HOLDER)
            m[ORDER] = NO_ORDER
            out.append((ORDERED, "the wave is not tried again", bytes(m)))
        if not s[SLOT]:
            if any(s[a + W_PC] == LOGGED and s[a + W_SITE] == 0 for a in self.writers):
                return
            n[SLOT], n[CONFIRMED] = 1, s[LENGTH]
        n[PHASE + w] = BEGUN
        out.append((STEP, f"begins wave {w}", bytes(n)))

    def _next(self, s: bytes, phases: bytes) -> tuple[int, int] | None:
        order = s[ORDER]
        blind = Flaw.BLIND_PURGE in self.flaws
        waves = list(enumerate(phases))
        for w, phase in reversed(waves) if order == ROLLBACK else waves:
            match phase:
                case 0 if order in (MOVE, RESUME) and not (order == RESUME and s[TRIES] < self.bounds.tries):
                    return w, PREPARE
                case 1:
                    return w, PREPARE
                case 2:
                    return w, SETTLE_G
                case 3:
                    return w, SB_ASK
                case 4 if order == ROLLBACK:
                    return w, RB_RESERVE
                case 4 if order == PURGE:
                    return w, PG_CLOSE if s[SLOT + 1] else PG_ASK
                case 6:
                    return w, PG_ASK
                case 8 if order == PURGE and blind and s[54 + w] and s[30 + 2 * w]:
                    return w, PG_ASK
                case 8 if order == PURGE and s[MARK + 2 * w + 1] != NONE:
                    return w, CL_ASK
        return None

    def _prepare(self, s: bytes, b: int, out: Found) -> None:
        """The target knows who comes, and refuses them from now on."""
        n = self.line.write(s, b, 1, out)
        if n is None:
            return
        at = 2 * s[b + WAVE] + 1
        if s[MARK + at] == NONE:
            n[MARK + at], n[EPOCH + at] = ARRIVING, 1
            fence_raised(n, 1, self.writers)
        n[b + PC] = RESERVE
        out.append((STEP, "the target expects the wave", bytes(n)))

    def _reserve(self, s: bytes, b: int, out: Found) -> None:
        n = self._control(s, b, out)
        if n is not None:
            n[RESERVED + s[b + WAVE]] = 1
            n[b + PC] = COPY
            out.append((STEP, "reserves the wave", bytes(n)))

    def _copy(self, s: bytes, b: int, out: Found) -> None:
        """Cut short it is cleaned away and begun again, so it is one step here; then the phase."""
        w = s[b + WAVE]
        n = self.line.write(s, b, 1, out)
        if n is None:
            return
        forget_rows(n, w, 1)
        self.stream.copy(n, w, 0)
        if b == HOLDER:
            n[PHASE + w], n[b + PC] = ON_THE_WAY, SETTLE_G
        else:
            self.line.end(n, b)
        out.append((STEP, "copies the wave", bytes(n)))

    def _ask(self, s: bytes, b: int, out: Found) -> None:
        """A wave that is home at the target cannot step back: only forward is right."""
        w = s[b + WAVE]
        n = bytearray(s)
        if self.line.leased(s, b, 1):
            self.line.raise_term(n, 1)
        if s[MARK + 2 * w + 1] == RESIDENT and Flaw.BLIND_STEP_BACK not in self.flaws:
            if b != HOLDER:
                self.line.end(n, b)
            else:
                n[PHASE + w], n[b + PC] = ON_THE_WAY, SETTLE_G
            out.append((STEP, "cannot step back: the wave is home at the target", bytes(n)))
            return
        n[b + PC] = SB_OPEN
        out.append((STEP, "asks the target before it steps back", bytes(n)))

    def _open_source(self, s: bytes, b: int, out: Found) -> None:
        at = 2 * s[b + WAVE]
        n = self.line.write(s, b, 0, out)
        if n is not None:
            n[MARK + at], n[EPOCH + at] = OPEN, 0
            n[b + PC] = SB_CLEAN
            out.append((STEP, "the source opens", bytes(n)))

    def _clean(self, s: bytes, b: int, out: Found) -> None:
        n = self.line.write(s, b, 1, out)
        if n is None:
            return
        w = s[b + WAVE]
        if s[b + PC] == SB_CLEAN:
            forget_rows(n, w, 1)
        else:
            n[MARK + 2 * w + 1] = n[EPOCH + 2 * w + 1] = NONE
            for field in (12, 16, 20):  # SEEN, APPLIED, AHEAD: they are of the record
                n[field + 2 * w] = 0
        n[b + PC] = s[b + PC] + 1
        out.append((STEP, "the target forgets the " + ("rows" if s[b + PC] == SB_CLEAN else "wave"), bytes(n)))

    def _stepped_back(self, s: bytes, b: int, out: Found) -> None:
        n = self._control(s, b, out)
        if n is not None:
            n[RESERVED + s[b + WAVE]], n[PHASE + s[b + WAVE]] = 0, PLANNED
            n[SLOT] = n[CONFIRMED] = 0
            n[b + PC] = CHOOSE
            out.append((STEP, "the wave has stepped back, the slot is given up", bytes(n)))

    def _way_back(self, s: bytes, b: int, out: Found) -> None:
        n = self._control(s, b, out)
        if n is None:
            return
        if not s[SLOT + 1]:
            n[ORDER] = NO_ORDER
            n[b + PC] = CHOOSE
            out.append((STEP, "the way back is closed", bytes(n)))
            return
        n[PHASE + s[b + WAVE]], n[RESERVED + s[b + WAVE]] = GOING_BACK, 1
        n[b + PC] = SETTLE_G
        out.append((STEP, "reserves the way back", bytes(n)))

    def _undo(self, s: bytes, b: int, out: Found) -> None:
        at = 2 * s[b + WAVE]
        n = self.line.write(s, b, 0, out)
        if n is not None:
            if s[MARK + at] == ARRIVING:
                n[MARK + at], n[EPOCH + at] = DEPARTED, 1
            n[b + PC] = UNDO_RELEASE
            out.append((STEP, "the source's copy is closed as before", bytes(n)))

    def _undone(self, s: bytes, b: int, out: Found) -> None:
        n = self._control(s, b, out)
        if n is not None:
            n[RESERVED + s[b + WAVE]], n[PHASE + s[b + WAVE]] = 0, SOAKING
            n[b + ANEW], n[b + PC] = 0, CHOOSE
            out.append((STEP, "the wave lives on at the target", bytes(n)))

    def _close_way_back(self, s: bytes, b: int, out: Found) -> None:
        """No lease is asked for here, as in stream/slot.py."""
        n = bytearray(s)
        n[SLOT + 1] = 0
        if b == HOLDER:
            n[b + PC] = PG_ASK
        else:
            self.line.end(n, b)
        out.append((STEP, "closes the way back", bytes(n)))

    def _ask_purge(self, s: bytes, b: int, out: Found) -> None:
        n = self._control(s, b, out)
        if n is None:
            return
        at = 2 * s[b + WAVE]
        lives_there = s[MARK + at] == DEPARTED and s[MARK + at + 1] == RESIDENT
        if lives_there or Flaw.BLIND_PURGE in self.flaws:
            n[PHASE + s[b + WAVE]] = PURGING
            n[b + PC] = PG_OWN
        else:
            n[ORDER] = NO_ORDER
            self.line.end(n, b)
        out.append((STEP, "purges the source copy" if lives_there else "does not live at the target", bytes(n)))

    def _purge(self, s: bytes, b: int, out: Found) -> None:
        n = self.line.write(s, b, 0, out)
        if n is not None:
            own = s[b + PC] == PG_OWN
            forget_rows(n, s[b + WAVE], 0, own=own, shared=not own)
            n[b + PC] = s[b + PC] + 1
            out.append((STEP, "removes " + ("the members' rows" if own else "the shared rows"), bytes(n)))

    def _purged(self, s: bytes, b: int, out: Found) -> None:
        n = self._control(s, b, out)
        if n is not None:
            n[PHASE + s[b + WAVE]], n[b + PC] = PURGED, CHOOSE
            out.append((STEP, "the wave is purged", bytes(n)))

    def _ask_clear(self, s: bytes, b: int, out: Found) -> None:
        """What a rollback left at the target."""
        at = 2 * s[b + WAVE]
        n = bytearray(s)
        if s[MARK + at] == RESIDENT and s[MARK + at + 1] == DEPARTED:
            n[b + PC] = CL_ROWS
        else:
            self.line.end(n, b)
        out.append((STEP, "asks where the wave lives", bytes(n)))

    def _clear(self, s: bytes, b: int, out: Found) -> None:
        n = self.line.write(s, b, 1, out)
        if n is None:
            return
        w = s[b + WAVE]
        if s[b + PC] == CL_ROWS:
            forget_rows(n, w, 0 if Flaw.WRONG_COPY in self.flaws else 1)
            n[b + PC] = CL_RECORD
        else:
            n[MARK + 2 * w + 1] = n[EPOCH + 2 * w + 1] = NONE
            n[b + PC] = CHOOSE
        out.append((STEP, "removes what the rollback left at the target", bytes(n)))
