"""The phases of a wave before it is live: the preparation and the copy; and the step back, which undoes them."""

# ruff: noqa: I001
from __future__ import annotations

from reliability.model.bounds import Bounds, Flaw
from reliability.model.line import HOLDER, STEP, Found, Line, Rule, control
from reliability.model.state import (
    ARRIVING, CHOOSE, CONFIRMED, COPY, EPOCH, MARK, NONE, ON_THE_WAY, OPEN, PC, PHASE, PLANNED, PREPARE, RESERVE,
    RESERVED, RESIDENT, SB_ASK, SB_CLEAN, SB_FORGET, SB_OPEN, SB_RELEASE, SETTLE_G, SLOT, WAVE, WRITERS, WRITER_SIZE,
)  # fmt: skip
from reliability.model.stream import Stream, forget_rows
from reliability.model.writers import fence_raised


class Phases:
    """Each commit a step."""

    def __init__(self, bounds: Bounds, stream: Stream, line: Line) -> None:
        self.stream, self.line, self.flaws = stream, line, bounds.flaws
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        self.rules: dict[int, Rule] = {
            PREPARE: self._prepare, RESERVE: self._reserve, COPY: self._copy, SB_ASK: self._ask,
            SB_OPEN: self._open_source, SB_CLEAN: self._clean, SB_FORGET: self._clean, SB_RELEASE: self._stepped_back,
        }  # fmt: skip

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
        n = control(self.line, s, b, out)
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
        n = control(self.line, s, b, out)
        if n is not None:
            n[RESERVED + s[b + WAVE]], n[PHASE + s[b + WAVE]] = 0, PLANNED
            n[SLOT] = n[CONFIRMED] = 0
            n[b + PC] = CHOOSE
            out.append((STEP, "the wave has stepped back, the slot is given up", bytes(n)))
