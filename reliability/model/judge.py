"""What must be true of every state, and what makes one an end."""

# ruff: noqa: I001
from __future__ import annotations

from reliability.model.bounds import Bounds
from reliability.model.orders import BETWEEN
from reliability.model.state import (
    ABSENT, ACCEPTS, ADD_CHILD, CHILDREN, CLOSING, DELETE, DEPARTED, EPOCH, HOME, INSERT, LOGGED, MARK, MEMBER,
    NO_ORDER, OFF, ORDER, OUTSIDER, OUTSIDER_AT, OWN, PARENT, PC, PHASE, RESERVED, RESIDENT, TRUE_CHILDREN, TRUE_OWN,
    TRUE_PARENT, WORKERS, WRITERS, WRITER_SIZE, W_OP, W_PC,
)  # fmt: skip


def home(s: bytes, w: int) -> int:
    """The site whose rows of the wave count: between homes, the one that loses it."""
    if s[MARK + 2 * w] == RESIDENT:
        return 0
    return int(s[MARK + 2 * w + 1] in (RESIDENT, CLOSING, DEPARTED))


def violation(s: bytes, bounds: Bounds) -> str:
    """What is wrong with the state; empty when nothing is."""
    for w in range(bounds.waves):
        at = MARK + 2 * w
        if ACCEPTS[s[at]] and ACCEPTS[s[at + 1]]:
            return f"wave {w} has two homes"
        lives = home(s, w)
        promised, there = s[TRUE_OWN + w], s[OWN + 2 * w + lives]
        if promised != there and (promised ^ there) & ~_in_doubt(s, bounds, INSERT + 8 * w, DELETE + w):
            if promised & ~there:
                return f"an acknowledged write for member {w} is lost"
            return f"member {w} has a row that was deleted, or was never written"
        published, epoch = s[HOME + w], s[EPOCH + 2 * w + lives]
        if published >> 1 > epoch or (ACCEPTS[s[at + lives]] and published >> 1 == epoch and published & 1 != lives):
            return f"the directory names a home of wave {w} that it is not"
    return _shared(s, bounds)


def _in_doubt(s: bytes, bounds: Bounds, insert: int, delete: int) -> int:
    """Rows of a table whose transaction is in the log, and not yet visible nor acknowledged."""
    rows = 0
    for number in range(bounds.writers):
        a = WRITERS + WRITER_SIZE * number
        if s[a + W_PC] == LOGGED:
            op = s[a + W_OP]
            rows |= int(op == delete) | (1 << (op & 7) if op & 0xF8 == insert else 0)
    return rows


def _shared(s: bytes, bounds: Bounds) -> str:
    """The same of the row that passes from owner to owner, wherever its owner lives now; and of its children."""
    owner = s[TRUE_PARENT]
    lives = home(s, owner - MEMBER) if owner not in OUTSIDER_AT else int(owner == OUTSIDER_AT[1])
    expected = OUTSIDER if owner in OUTSIDER_AT else owner
    if s[PARENT + lives] != expected:
        return "the shared row is not where its owner lives, or is somebody else's there"
    promised, there = s[TRUE_CHILDREN], s[CHILDREN + lives]
    if promised != there and (promised ^ there) & ~_in_doubt(s, bounds, ADD_CHILD, DELETE + 2):
        if promised & ~there:
            return "an acknowledged child of the shared row is lost"
        return "the shared row has a child that was never written"
    other = 1 - lives
    copy = s[PARENT + other]
    if s[CHILDREN + other] and copy == ABSENT:
        return "rows of an outsider are at the other site"
    if copy >= MEMBER and expected != copy and home(s, copy - MEMBER) == other:
        return "a row that left the wave is at the wave's home"
    return ""


def is_end(s: bytes, bounds: Bounds) -> bool:
    """Nobody has anything to do, and each wave is served at one site, where the directory says so."""
    if s[WORKERS[0] + PC] != OFF or s[ORDER] != NO_ORDER:
        return False
    for w in range(bounds.waves):
        lives = home(s, w)
        if s[PHASE + w] in BETWEEN or s[RESERVED + w] or not ACCEPTS[s[MARK + 2 * w + lives]]:
            return False
        if s[HOME + w] & 1 != lives:
            return False
    return True
