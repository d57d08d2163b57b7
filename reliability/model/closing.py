"""A try of the handover, up to the lock: the mark closing, and the drain of those who wrote before it."""

# ruff: noqa: I001
from __future__ import annotations

from reliability.model.bounds import Bounds, Flaw
from reliability.model.line import STEP, Found, Line, Rule, site
from reliability.model.orders import Orders
from reliability.model.state import (
    ADD_CHILD, ARRIVING, CLOSING, COUNT, DIR, DRAIN, DRAIN_AGAIN, ENTERED, EPOCH, EXPECT, HOME, LOCK, MARK, OPEN, PC,
    REFENCE, RESIDENT, SLOT, STREAM, WAITING, WAVE, WRITERS, WRITER_SIZE, WRITTEN, W_OP, W_PC, W_SITE,
)  # fmt: skip
from reliability.model.writers import fence_raised


class Closing:
    """Each commit a step; writers outside the wave are asked nothing."""

    def __init__(self, bounds: Bounds, line: Line, orders: Orders) -> None:
        self.bounds, self.line, self.orders, self.flaws = bounds, line, orders, bounds.flaws
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        self.rules: dict[int, Rule] = {
            STREAM: self._begin_try, COUNT: self._count, DRAIN: self._drain, REFENCE: self._refence,
            DRAIN_AGAIN: self._drain_again, EXPECT: self._expect,
        }  # fmt: skip

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
        out.append((STEP, f"the {site(d)} is closing", bytes(n)))

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
