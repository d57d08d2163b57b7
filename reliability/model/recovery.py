"""From the settling of doubts to the stream: what is found at the sites, the decision, the publication. The decisions
are those of `domicile.model.handover`: the table of them is made by calling it.
"""

# ruff: noqa: I001
from __future__ import annotations

from domicile.model.handover import Action, Facts, next_action
from domicile.model.site import SiteName
from domicile.postgres import waves
from reliability.model.bounds import Bounds, Flaw
from reliability.model.line import STEP, Found, Line, Rule, site
from reliability.model.orders import Orders
from reliability.model.state import (
    APPLIED, ARRIVING, CHOOSE, CLOSING, CONFIRMED, DECIDE, DEPARTED, DIR, EPOCH, HOME, HOME_AGAIN, MARK, MARKS, OPEN,
    OPENING, PC, PHASE, PUBLISH, REOPEN, RESERVED, RESIDENT, SETTLE_G, SETTLE_L, SLOT, SOAKING, STREAM, TERM, WAVE,
    WORKERS,
)  # fmt: skip


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


class Recovery:
    """Whoever comes begins here, and so does each try that has ended."""

    def __init__(self, bounds: Bounds, line: Line, orders: Orders) -> None:
        self.line, self.orders, self.flaws = line, orders, bounds.flaws
        self.decide_by = decisions()
        self.leased = line.leased
        self.blind = Flaw.BLIND_RECOVERY in self.flaws
        self.rules: dict[int, Rule] = {
            SETTLE_G: self._settle_gaining, SETTLE_L: self._settle_losing, DECIDE: self._decide, REOPEN: self._reopen,
            PUBLISH: self._publish, OPENING: self._open,
        }  # fmt: skip

    def _settle_gaining(self, s: bytes, b: int, out: Found) -> None:
        """Nothing is under way there any more, and what is on the line is of a former term."""
        n = bytearray(s)
        if self.leased(s, b, 1 - s[b + DIR]):
            self.line.raise_term(n, 1 - s[b + DIR])
        n[b + PC] = SETTLE_L
        out.append((STEP, f"settles doubts at the {site(1 - s[b + DIR])}", bytes(n)))

    def _settle_losing(self, s: bytes, b: int, out: Found) -> None:
        n = bytearray(s)
        if self.leased(s, b, s[b + DIR]):
            self.line.raise_term(n, s[b + DIR])
        n[b + PC] = DECIDE
        out.append((STEP, f"settles doubts at the {site(s[b + DIR])}", bytes(n)))

    def _decide(self, s: bytes, b: int, out: Found) -> None:
        """`recover`: no lock and no tail, so the wave is not fit."""
        n = bytearray(s)
        w, d = s[b + WAVE], s[b + DIR]
        action = self.action(s, b, fit=False)
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

    def action(self, s: bytes, b: int, *, fit: bool) -> Action:
        w, d = s[b + WAVE], s[b + DIR]
        return self.decide_by[s[MARK + 2 * w + d], s[MARK + 2 * w + 1 - d], not s[RESERVED + w], fit]

    def _reopen(self, s: bytes, b: int, out: Found) -> None:
        w, d = s[b + WAVE], s[b + DIR]
        n = self.line.write(s, b, d, out)
        if n is not None:
            self._open_mark(n, w, d)
            n[b + PC] = self.orders.after_recovery(s, b)
            out.append((STEP, f"the {site(d)} serves again", bytes(n)))

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
