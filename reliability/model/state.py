"""A state is one string of bytes: this is what stands where in it, and how it is told to a reader.

``x`` is a site (0 the plan's source, 1 its target), ``w`` a wave, ``d`` a direction (0 there, 1 back), which is also
the number of the site that loses the wave.
"""

from __future__ import annotations

from typing import Final

SITES: Final = ("source", "target")

# What domicile.wave says at a site.
NONE, OPEN, CLOSING, FENCED, DEPARTED, ARRIVING, RESIDENT = range(7)
MARKS: Final = ("none", "open", "closing", "fenced", "departed", "arriving", "resident")
ACCEPTS: Final = (False, True, True, False, False, False, True)  # for a subject whom the site knows

# Of each wave at each site, + 2 * w + x.
MARK, EPOCH, LOCKED = 0, 4, 8  # LOCKED: who has the wave's lock for himself
FREE, MOVER, STALE, ORPHAN = range(4)  # an orphan is a session whose process is gone, and which the server still has
# Of each wave and direction, + 2 * w + d: of the stream that carries the wave so.
SEEN, APPLIED, AHEAD = 12, 16, 20  # SEEN and AHEAD: which transactions of the log a snapshot has seen, as bits
# Of each wave.
RESERVED, PHASE, HOME = 24, 26, 28  # HOME: the directory's; site + 2 * epoch
# Data: rows that name a member as their owner (bits, + 2 * w + x), and the shared row with its children, + x.
OWN, PARENT, CHILDREN = 30, 34, 36
ABSENT, OUTSIDER, MEMBER = 0, 1, 2  # of PARENT; MEMBER + w is the member of wave w
# What is committed, in the order of the log, + x.
LENGTH, LOG = 38, 40
LOG_MOST: Final = 5
SLOT, CONFIRMED = 50, 52  # + d
# What the users were promised: they know of no sites.
TRUE_OWN, TRUE_PARENT, TRUE_CHILDREN = 54, 56, 57  # TRUE_PARENT: MEMBER + w, or that of OUTSIDER_AT
OUTSIDER_AT: Final = (1, 4)
# What may still happen.
ORDER, TRIES, FAULTS, GIVES, ORDERS = 58, 59, 60, 61, 62
NO_ORDER, MOVE, ROLLBACK, PURGE, RESUME = range(5)
# A transaction of the mover on its way to the site that gains the wave, sent whole.
LINE, LINE_WAVE, LINE_DIR, LINE_FROM, LINE_TO, LINE_LEASE, LINE_TERM, LINE_OF = range(63, 71)
NOTHING, BATCH, ARRIVAL = range(3)
# A statement on its way to the site that loses it, in the session that has the wave's lock.
LATE, LATE_WAVE, LATE_SITE, LATE_LEASE = range(71, 75)
LATE_DEPART, LATE_REOPEN = 1, 2
# A process that carries the move: the one that holds it, and one that was taken over and does not know.
WORKERS: Final = (75, 85)
WORKER_SIZE: Final = 10
PC, WAVE, DIR, ENTERED, WAITING, LEASE_0, LEASE_1, TERM, TAIL, ANEW = range(WORKER_SIZE)
# A writer, + WRITER_SIZE * number.
WRITERS: Final = 95
WRITER_SIZE: Final = 9
W_PC, W_SITE, W_OP, W_LOCKS, W_MARK_0, W_MARK_1, W_PARENT, W_OLD, W_LEFT = range(WRITER_SIZE)
IDLE, SNAPSHOT, WRITTEN, LOGGED = range(4)  # LOGGED: committed in the log, not yet visible; W_OLD says where

# Where a worker stands: each is one commit, one statement or one decision away from the next.
STEPS: Final = (
    "off",
    "register at the source",
    "register at the target",
    "choose",
    "prepare",
    "reserve",
    "copy",
    "settle at the gaining site",
    "settle at the losing site",
    "decide",
    "reopen",
    "publish",
    "open the stream",
    "stream",
    "read what has entered",
    "drain",
    "second fence",
    "drain again",
    "expect",
    "lock",
    "depart",
    "tail",
    "arrive",
    "answer",
    "doubt",
    "go back",
    "release",
    "step back: ask",
    "step back: open the source",
    "step back: clean the target",
    "step back: forget",
    "step back: release",
    "reserve the way back",
    "undo",
    "undo: release",
    "close the way back",
    "purge: ask",
    "purge own rows",
    "purge shared rows",
    "purged",
    "clear: ask",
    "clear the rows",
    "clear the record",
)
(
    OFF, REGISTER_0, REGISTER_1, CHOOSE, PREPARE, RESERVE, COPY, SETTLE_G, SETTLE_L, DECIDE, REOPEN, PUBLISH, OPENING,
    STREAM, COUNT, DRAIN, REFENCE, DRAIN_AGAIN, EXPECT, LOCK, DEPART, READ_TAIL, ARRIVE, ANSWER, DOUBT, BACK, RELEASE,
    SB_ASK, SB_OPEN, SB_CLEAN, SB_FORGET, SB_RELEASE, RB_RESERVE, UNDO, UNDO_RELEASE, PG_CLOSE, PG_ASK, PG_OWN,
    PG_SHARED, PG_DONE, CL_ASK, CL_ROWS, CL_RECORD,
) = range(len(STEPS))  # fmt: skip

# How far the control database says a wave is.
PLANNED, BEGUN, ON_THE_WAY, FAILED, SOAKING, GOING_BACK, PURGING, PURGED, HOME_AGAIN = range(9)
PHASES: Final = (
    "planned", "begun", "on the way", "failed", "soaking", "going back", "purging", "purged", "home again",
)  # fmt: skip

# What a transaction does, as the log has it.
INSERT, DELETE, ADD_CHILD, GIVE = 0x10, 0x20, 0x30, 0x40  # + 8 * w + row; + w; + row; + the new owner


def told_op(op: int) -> str:
    """A transaction in words."""
    match op & 0xF0:
        case 0x10:
            return f"insert row {op & 7} of member {op >> 3 & 1}"
        case 0x20:
            return f"delete row 0 of member {op & 1}"
        case 0x30:
            return f"insert child {op & 7} of the shared row"
        case _:
            return f"give the shared row to {owner(op & 7)}"


def owner(code: int) -> str:
    """Of the shared row."""
    return ("nobody", "an outsider", "member 0", "member 1", "an outsider at the target")[code]


def told(state: bytes, waves: int) -> str:
    """What a reader of a trace wants to know of a state: marks, data, what was promised."""
    parts = []
    for w in range(waves):
        marks = "/".join(f"{MARKS[state[MARK + 2 * w + x]]}@{state[EPOCH + 2 * w + x]}" for x in (0, 1))
        rows = "/".join(f"{state[OWN + 2 * w + x]:b}" for x in (0, 1))
        parts.append(f"{marks} rows {rows} of {state[TRUE_OWN + w]:b}")
    shared = "/".join(f"{owner(state[PARENT + x])}+{state[CHILDREN + x]:b}" for x in (0, 1))
    parts.append(f"shared {shared} of {owner(state[TRUE_PARENT])}+{state[TRUE_CHILDREN]:b}")
    return "; ".join(parts)


def initial(waves: int, writers: int, budget: tuple[int, int, int, int, int]) -> bytes:
    """Nobody has moved: each member has one row, an outsider the shared row. ``budget``: writes of each writer, tries,
    faults, gives, orders."""
    state = bytearray(WRITERS + WRITER_SIZE * writers)
    writes, state[TRIES], state[FAULTS], state[GIVES], state[ORDERS] = budget
    for w in range(waves):
        state[MARK + 2 * w] = OPEN
        state[OWN + 2 * w] = state[TRUE_OWN + w] = 1
    state[PARENT] = OUTSIDER
    state[TRUE_PARENT] = OUTSIDER_AT[0]
    state[SLOT] = state[SLOT + 1] = 1
    state[ORDER] = MOVE
    for number in range(writers):
        state[WRITERS + WRITER_SIZE * number + W_LEFT] = writes
    return bytes(state)
