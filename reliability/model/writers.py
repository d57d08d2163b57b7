"""Writers, and the guard that answers them: what postgres/sql/guard.sql does in each isolation level.

A transaction is one write and its commit. It takes its table lock and asks the guard in one step: what comes between
makes a drain wait longer, and nothing else. Its commit is in the log first and visible after; until then it has its
locks.
"""

# ruff: noqa: I001
from __future__ import annotations

from reliability.model.bounds import Bounds, Flaw
from reliability.model.state import (
    ABSENT, ACCEPTS, ADD_CHILD, CHILDREN, CLOSING, DELETE, DEPARTED, DIR, ENTERED, FREE, GIVE, GIVES, INSERT, LENGTH,
    LOCKED, LOG, LOGGED, LOG_MOST, MARK, MEMBER, NONE, OUTSIDER, OUTSIDER_AT, OWN, PARENT, SITES, SNAPSHOT,
    TRUE_CHILDREN, TRUE_OWN, TRUE_PARENT, WORKERS, WRITERS, WRITER_SIZE, WRITTEN, W_LEFT, W_LOCKS, W_MARK_0, W_MARK_1,
    W_OLD, W_OP, W_PARENT, W_PC, W_SITE, told_op,
)  # fmt: skip

Step = tuple[str, bytes]


class Writers:
    """All that writers can do in a state."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.at = [WRITERS + WRITER_SIZE * number for number in range(bounds.writers)]
        flaws = bounds.flaws
        self.no_delete = Flaw.NO_DELETE in flaws
        self.no_second_look = Flaw.NO_SECOND_LOOK in flaws
        self.not_compared = Flaw.FENCE_NOT_COMPARED in flaws or self.no_second_look

    def steps(self, s: bytes, out: list[Step]) -> None:
        for number, a in enumerate(self.at):
            match s[a + W_PC]:
                case 0 if s[a + W_LEFT]:  # IDLE
                    for site in (0, 1):
                        self._write_all(s, a, number, site, out)
                        if self.bounds.snapshots and s[MARK + site] != NONE:
                            self._take_snapshot(s, a, number, site, out)
                case 1:  # SNAPSHOT
                    self._write_all(s, a, number, s[a + W_SITE], out)
                    out.append((f"writer {number}: rolls back", _ended(s, a)))
                case 2:  # WRITTEN
                    self._commit(s, a, number, out)
                    out.append((f"writer {number}: rolls back", _ended(s, a)))
                case 3:  # LOGGED
                    out.append((f"writer {number}: the commit is visible, and acknowledged", _visible(s, a)))

    def _take_snapshot(self, s: bytes, a: int, number: int, site: int, out: list[Step]) -> None:
        """REPEATABLE READ: from now on the marks and the owner are what they are. W_OLD: a fence came after it."""
        n = bytearray(s)
        n[a + W_PC], n[a + W_SITE] = SNAPSHOT, site
        n[a + W_MARK_0], n[a + W_MARK_1] = s[MARK + site], s[MARK + 2 + site]
        n[a + W_PARENT], n[a + W_OLD] = s[PARENT + site], 0
        out.append((f"writer {number}: takes a snapshot at the {SITES[site]}", bytes(n)))

    def _write_all(self, s: bytes, a: int, number: int, site: int, out: list[Step]) -> None:
        """Whatever can be written here. A writer goes where the subject is known: routers ask the directory."""
        row = 1 + number * self.bounds.writes + self.bounds.writes - s[a + W_LEFT]
        owner = s[a + W_PARENT] if s[a + W_PC] == SNAPSHOT else s[PARENT + site]
        if self.bounds.own:
            for w in range(self.bounds.waves):
                if s[MARK + 2 * w + site] != NONE:
                    self._write(s, (a, number, site), INSERT + 8 * w + row, ((w, False),), out)
                    if self.bounds.deletes and s[OWN + 2 * w + site] & 1 and not self._busy(s, a, site, DELETE + w):
                        self._write(s, (a, number, site), DELETE + w, () if self.no_delete else ((w, False),), out)
        if self.bounds.gives and owner != ABSENT:
            asked = ((owner - MEMBER, False),) if owner >= MEMBER else ()
            self._write(s, (a, number, site), ADD_CHILD + row, asked, out)
            if s[GIVES]:
                self._give(s, (a, number, site), owner, out)

    def _give(self, s: bytes, who: tuple[int, int, int], owner: int, out: list[Step]) -> None:
        a, _, site = who
        if self._busy(s, a, site, GIVE) or owner != s[PARENT + site]:
            return  # it waits for the row; an older snapshot's update of it fails
        before = ((owner - MEMBER, False),) if owner >= MEMBER else ()
        for new in range(OUTSIDER, MEMBER + self.bounds.waves):
            if new == owner or (new >= MEMBER and s[MARK + 2 * (new - MEMBER) + site] == NONE):
                continue
            after = ((new - MEMBER, True),) if new >= MEMBER else ()
            self._write(s, who, GIVE + new, before + after, out)

    def _busy(self, s: bytes, a: int, site: int, kind: int) -> bool:
        """Another transaction has updated the same row and not ended."""
        return any(
            b != a and s[b + W_PC] >= WRITTEN and s[b + W_SITE] == site and (s[b + W_OP] & 0xF0) == (kind & 0xF0)
            for b in self.at
        )

    def _write(
        self, s: bytes, who: tuple[int, int, int], op: int, asked: tuple[tuple[int, bool], ...], out: list[Step]
    ) -> None:
        """The guard's answer for every member who owns the row, before or afterwards: written, refused, or waiting."""
        a, number, site = who
        old = s[a + W_PC] == SNAPSHOT
        if old and s[a + W_OLD] and not self.not_compared:
            out.append((f"writer {number}: 40001, its snapshot is older than a fence", _ended(s, a)))
            return
        locks = counted = 0
        for w, entering in asked:
            mark = s[a + W_MARK_0 + w] if old else s[MARK + 2 * w + site]
            if mark in (CLOSING, DEPARTED):
                if s[LOCKED + 2 * w + site] != FREE:
                    if self.no_second_look and mark == CLOSING and not old:
                        self._take_snapshot(s, a, number, site, out)  # it waits with the answer that it has
                    return  # it waits in the queue, behind the mover
                locks |= 1 << w
                counted |= entering and mark == CLOSING
            if not ACCEPTS[mark]:
                return  # DM001 or DM002: nothing is written
        n = bytearray(s)
        n[a + W_PC], n[a + W_SITE], n[a + W_OP], n[a + W_LOCKS] = WRITTEN, site, op, locks
        n[a + W_MARK_0] = n[a + W_MARK_1] = n[a + W_PARENT] = n[a + W_OLD] = 0
        if counted:
            for b in WORKERS:
                if n[b + DIR] == site:
                    n[b + ENTERED] = 1
        out.append((f"writer {number}: at the {SITES[site]}, {told_op(op)}", bytes(n)))

    def _commit(self, s: bytes, a: int, number: int, out: list[Step]) -> None:
        site, op = s[a + W_SITE], s[a + W_OP]
        length = s[LENGTH + site]
        gift = op & 0xF0 == GIVE
        if length == LOG_MOST or (gift and not s[GIVES]):
            return
        n = bytearray(s)
        n[GIVES] -= gift
        n[LOG + LOG_MOST * site + length] = op
        n[LENGTH + site] = length + 1
        n[a + W_PC], n[a + W_OLD] = LOGGED, length
        out.append((f"writer {number}: its commit is in the log of the {SITES[site]}", bytes(n)))


def _ended(s: bytes, a: int) -> bytes:
    n = bytearray(s)
    _idle(n, a)
    return bytes(n)


def _idle(n: bytearray, a: int) -> None:
    left = n[a + W_LEFT]
    n[a : a + WRITER_SIZE] = bytes(WRITER_SIZE)
    n[a + W_LEFT] = left


def _visible(s: bytes, a: int) -> bytes:
    """From here on everybody sees it, and whoever wrote it was told so."""
    n = bytearray(s)
    site, op = s[a + W_SITE], s[a + W_OP]
    n[a + W_LEFT] -= 1
    match op & 0xF0:
        case 0x10:  # INSERT
            w, bit = op >> 3 & 1, 1 << (op & 7)
            n[OWN + 2 * w + site] |= bit
            n[TRUE_OWN + w] |= bit
        case 0x20:  # DELETE
            w = op & 1
            n[OWN + 2 * w + site] &= 0xFE
            n[TRUE_OWN + w] &= 0xFE
        case 0x30:  # ADD_CHILD
            n[CHILDREN + site] |= 1 << (op & 7)
            n[TRUE_CHILDREN] |= 1 << (op & 7)
        case _:  # GIVE
            new = op & 7
            n[PARENT + site] = new
            n[TRUE_PARENT] = new if new >= MEMBER else OUTSIDER_AT[site]
    _idle(n, a)
    return bytes(n)


def seen_now(s: bytes | bytearray, site: int, writers: list[int]) -> int:
    """The log's transactions that a snapshot taken now at the site sees, as bits."""
    seen = (1 << s[LENGTH + site]) - 1
    for a in writers:
        if s[a + W_PC] == LOGGED and s[a + W_SITE] == site:
            seen &= ~(1 << s[a + W_OLD])
    return seen


def fence_raised(n: bytearray, site: int, writers: list[int]) -> None:
    """domicile.fence_xid: from now on these snapshots are too old."""
    for a in writers:
        if n[a + W_PC] == SNAPSHOT and n[a + W_SITE] == site:
            n[a + W_OLD] = 1
