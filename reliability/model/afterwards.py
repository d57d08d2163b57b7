"""What is ordered of a wave that has moved: the way back, the purge, and the removal of what a rollback has left."""

# ruff: noqa: I001
from __future__ import annotations

from reliability.model.bounds import Bounds, Flaw
from reliability.model.line import HOLDER, STEP, Found, Line, Rule, control
from reliability.model.state import (
    ANEW, ARRIVING, CHOOSE, CL_ASK, CL_RECORD, CL_ROWS, DEPARTED, EPOCH, GOING_BACK, MARK, NONE, NO_ORDER, ORDER, PC,
    PG_ASK, PG_CLOSE, PG_DONE, PG_OWN, PG_SHARED, PHASE, PURGED, PURGING, RB_RESERVE, RESERVED, RESIDENT, SETTLE_G,
    SLOT, SOAKING, UNDO, UNDO_RELEASE, WAVE,
)  # fmt: skip
from reliability.model.stream import forget_rows


class Afterwards:
    """Each commit a step."""

    def __init__(self, bounds: Bounds, line: Line) -> None:
        self.line, self.flaws = line, bounds.flaws
        self.rules: dict[int, Rule] = {
            RB_RESERVE: self._way_back, UNDO: self._undo, UNDO_RELEASE: self._undone, PG_CLOSE: self._close_way_back,
            PG_ASK: self._ask_purge, PG_OWN: self._purge, PG_SHARED: self._purge, PG_DONE: self._purged,
            CL_ASK: self._ask_clear, CL_ROWS: self._clear, CL_RECORD: self._clear,
        }  # fmt: skip

    def _way_back(self, s: bytes, b: int, out: Found) -> None:
        n = control(self.line, s, b, out)
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
        n = control(self.line, s, b, out)
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
        n = control(self.line, s, b, out)
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
        n = control(self.line, s, b, out)
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
