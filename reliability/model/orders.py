"""Around a live wave: whoever starts and finds out what is to be done, and the operator, who orders."""

# ruff: noqa: I001
from __future__ import annotations

from reliability.model.afterwards import Afterwards
from reliability.model.bounds import Bounds, Flaw
from reliability.model.line import FAULT, HOLDER, ORDERED, STEP, Found, Line, Rule, control
from reliability.model.phases import Phases
from reliability.model.state import (
    ANEW, BEGUN, CHOOSE, CL_ASK, CONFIRMED, DIR, DOUBT, FAILED, GOING_BACK, HOME_AGAIN, LENGTH, LOGGED, MARK, MOVE,
    NONE, NO_ORDER, ON_THE_WAY, OPENING, ORDER, ORDERS, PC, PG_ASK, PG_CLOSE, PHASE, PREPARE, PURGE, PURGING,
    RB_RESERVE, REGISTER_0, REGISTER_1, RELEASE, RESUME, ROLLBACK, SB_ASK, SETTLE_G, SLOT, SOAKING, STREAM, TERM,
    TRIES, UNDO, WAVE, WRITERS, WRITER_SIZE, W_PC, W_SITE,
)  # fmt: skip
from reliability.model.stream import Stream


BETWEEN = (BEGUN, ON_THE_WAY, FAILED, GOING_BACK, PURGING)  # somebody must carry it on


class Orders:
    """What is to be done next, and by whom; each commit a step."""

    def __init__(self, bounds: Bounds, stream: Stream, line: Line) -> None:
        self.bounds, self.line = bounds, line
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        self.flaws = bounds.flaws
        self.rules: dict[int, Rule] = {
            REGISTER_0: self._register, REGISTER_1: self._register, CHOOSE: self._choose,
            **Phases(bounds, stream, line).rules, **Afterwards(bounds, line).rules,
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

    def _register(self, s: bytes, b: int, out: Found) -> None:
        n = control(self.line, s, b, out)
        if n is None:
            return
        x = s[b + PC] - REGISTER_0
        self.line.take_over(n, x)
        n[b + PC] = s[b + PC] + 1
        out.append((STEP, f"takes the lease over at the {('source', 'target')[x]}", bytes(n)))

    def _choose(self, s: bytes, b: int, out: Found) -> None:
        """Waves on their way back first; then what is ordered, wave by wave, a rollback from the last one on."""
        n = control(self.line, s, b, out)
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
