"""The stream of a wave: whose row is it, has the copy seen it, and what becomes of the rows at the gaining site.

An entry of the log is read, judged and applied in one step: what is in between is in the mover's memory, and lost with
it. A batch of which nobody hears the end is on the line (`state.LINE`); it carries the next entry.
"""

# ruff: noqa: I001
from __future__ import annotations

from enum import Enum

from reliability.model.bounds import Bounds, Flaw
from reliability.model.state import (
    ABSENT, ADD_CHILD, AHEAD, APPLIED, CHILDREN, CONFIRMED, LENGTH, LOG, LOG_MOST, MEMBER, OWN, PARENT, SEEN, WRITERS,
    WRITER_SIZE,
)  # fmt: skip
from reliability.model.writers import seen_now


class Judged(Enum):
    """What became of an entry."""

    DONE = "done"
    REPARENT = "a row comes to another owner: not for a tail"
    NOT_VISIBLE = "what is to be read is not visible yet"
    COLLIDES = "the row is there as another wave's"
    DOUBLED = "a row is inserted that is there, or removed that is not"


class Stream:
    """Rules of stream/filter.py, seam.py, reparent.py and skips.py for the rows that the model has."""

    def __init__(self, bounds: Bounds) -> None:
        self.writers = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        flaws = bounds.flaws
        self.seam_ignored = Flaw.SEAM_IGNORED in flaws
        self.ahead_forgotten = Flaw.AHEAD_FORGOTTEN in flaws
        self.no_owner = Flaw.NO_OWNER in flaws
        self.no_leave = Flaw.NO_LEAVE in flaws
        self.passed_by = Flaw.PASSED_BY in flaws
        self.no_subtree = Flaw.NO_SUBTREE in flaws
        self.unseen_ack = Flaw.UNSEEN_ACK in flaws
        self.by_position = Flaw.SEAM_BY_POSITION in flaws

    def apply(self, n: bytearray, w: int, d: int, *, tail: bool = False) -> Judged:
        """Carry the next entry of site ``d``'s log to the other site, with the position behind it."""
        at = 2 * w + d
        k = n[APPLIED + at]
        op = n[LOG + LOG_MOST * d + k]
        n[APPLIED + at] = k + 1
        if n[SEEN + at] >> k & 1 and not self.seam_ignored:
            return Judged.DONE
        match op & 0xF0:
            case 0x10:  # INSERT
                if op >> 3 & 1 != w:
                    return Judged.DONE
                return _insert(n, OWN + 2 * w + 1 - d, 1 << (op & 7))
            case 0x20:  # DELETE
                if op & 1 != w:
                    return Judged.DONE
                if not n[OWN + 2 * w + 1 - d] & 1:
                    return Judged.DOUBLED
                n[OWN + 2 * w + 1 - d] &= 0xFE
                return Judged.DONE
        return self._shared(n, w, d, k, tail=tail)

    def _shared(self, n: bytearray, w: int, d: int, k: int, *, tail: bool) -> Judged:
        """An entry about the shared row. It was the wave's when it is there as the wave's."""
        op, g = n[LOG + LOG_MOST * d + k], 1 - d
        ours = n[PARENT + g] == MEMBER + w
        covered = ours and n[AHEAD + 2 * w + d] >> k & 1
        if covered:
            return Judged.DONE
        if op & 0xF0 == ADD_CHILD:
            if not ours and not self.no_owner:
                return Judged.DONE
            return _insert(n, CHILDREN + g, 1 << (op & 7))
        new = op & 7
        if ours == (new == MEMBER + w):
            return Judged.DONE
        if tail:
            return Judged.REPARENT
        if ours:
            if not self.no_leave:
                n[PARENT + g] = n[CHILDREN + g] = ABSENT
            return Judged.DONE
        return self._enter(n, w, d, k)

    def _enter(self, n: bytearray, w: int, d: int, k: int) -> Judged:
        """It is read with what hangs from it, unless it has left again, in a snapshot that sees everything up to here:
        what others wrote for it before was an outsider's when the stream passed it by."""
        g = 1 - d
        seen = seen_now(n, d, self.writers)
        wanted = 1 << k if self.passed_by else (1 << k + 1) - 1
        if seen & wanted != wanted:
            return Judged.NOT_VISIBLE
        if n[PARENT + d] != MEMBER + w:
            return Judged.DONE
        if n[PARENT + g] != ABSENT:
            return Judged.COLLIDES
        n[PARENT + g] = MEMBER + w
        n[CHILDREN + g] = 0 if self.no_subtree else n[CHILDREN + d]
        if not self.ahead_forgotten:
            n[AHEAD + 2 * w + d] |= seen
        return Judged.DONE

    def copy(self, n: bytearray, w: int, d: int) -> None:
        """All rows of the wave in one snapshot; the stream begins where the slot does, and skips what that has seen."""
        g, at = 1 - d, 2 * w + d
        n[OWN + 2 * w + g] = n[OWN + 2 * w + d]
        if n[PARENT + d] == MEMBER + w:
            n[PARENT + g], n[CHILDREN + g] = n[PARENT + d], n[CHILDREN + d]
        n[SEEN + at] = (1 << n[LENGTH + d]) - 1 if self.by_position else seen_now(n, d, self.writers)
        n[APPLIED + at] = n[CONFIRMED + d]
        n[AHEAD + at] = 0

    def begin_back(self, n: bytearray, w: int, d: int) -> None:
        """The way back begins at the arrival: what its snapshot has seen is not for it."""
        at, g = 2 * w + 1 - d, 1 - d
        n[SEEN + at] = seen_now(n, g, self.writers)
        n[APPLIED + at] = n[LENGTH + g]
        n[AHEAD + at] = 0

    def may_acknowledge(self, s: bytes, w: int, d: int) -> bool:
        """What is committed at the destination, and seen by every snapshot from now on."""
        applied = s[APPLIED + 2 * w + d]
        every = (1 << applied) - 1
        return applied > s[CONFIRMED + d] and (self.unseen_ack or seen_now(s, d, self.writers) & every == every)


def forget_rows(n: bytearray, w: int, x: int, *, own: bool = True, shared: bool = True) -> None:
    """Remove the wave's rows at a site, by the owner predicate."""
    if own:
        n[OWN + 2 * w + x] = 0
    if shared and n[PARENT + x] == MEMBER + w:
        n[PARENT + x] = n[CHILDREN + x] = ABSENT


def _insert(n: bytearray, at: int, bit: int) -> Judged:
    if n[at] & bit:
        return Judged.DOUBLED
    n[at] |= bit
    return Judged.DONE
