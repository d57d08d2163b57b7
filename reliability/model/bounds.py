"""What an exploration is bounded by, and the ways in which the protocol can be broken on purpose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Flaw(StrEnum):
    """One rule left out. Each must let the checker find a violation, or it checks nothing."""

    NO_DRAIN = "skip the drain"
    ONE_ROUND = "one round of the drain less than there are joins"
    NO_FENCE_BETWEEN = "no new fence between two rounds of the drain"
    NO_LOCK = "the mover does not wait for the wave's lock"
    EARLY_RELEASE = "the lock is released before the departure"
    NO_SECOND_LOOK = "the mark is not read again under the wave's lock"
    ENTERED_IGNORED = "rows that came in while the fence closed are not counted"
    FENCE_NOT_COMPARED = "an older snapshot is not refused"
    NO_DELETE = "no DELETE in the guard"
    NO_TAIL = "arrive without the tail"
    OPEN_IN_DOUBT = "the source opens without asking how the arrival ended"
    NO_LEASE = "the lease is not checked"
    NO_TERM = "the term is not checked"
    NO_POSITION = "neither the term nor the position that a batch follows is checked"
    EARLY_ACK = "acknowledged before it is committed, and the slot not compared with the position"
    UNSEEN_ACK = "acknowledged before every snapshot sees it"
    SEAM_BY_POSITION = "what the copy has seen is told by positions in the log"
    SEAM_IGNORED = "the stream applies what the copy has seen"
    AHEAD_FORGOTTEN = "what was read ahead of the stream is not kept"
    NO_OWNER = "rows pass the filter whoever owns them"
    NO_LEAVE = "a row that leaves the wave stays at the target"
    NO_SUBTREE = "a row that enters comes without what hangs from it"
    PASSED_BY = "a row that enters is read before all that the stream has passed by is visible"
    DIRECTORY_FIRST = "the directory is told before the target"
    BLIND_STEP_BACK = "the wave steps back without asking the target"
    BLIND_RECOVERY = "recovery opens the source whatever the target says"
    BLIND_PURGE = "the purge does not ask where the wave lives"
    WRONG_COPY = "after a rollback the purge removes the copy at the home"
    LOCK_KEPT = "a try that goes back keeps the lock"


@dataclass(frozen=True, slots=True)
class Bounds:
    """One configuration: what there is, and how often what may happen does.

    Writers: ``writes`` transactions that commit, each. ``gives``: of all these, how many may give the shared row to
    another owner. ``faults``: crashes, cut connections, locks ended by the server, processes that are taken over, taken
    together. ``tries``: how often a try is given up. ``orders``: of the operator, after the move.
    """

    name: str
    waves: int = 1
    writers: int = 2
    writes: int = 1
    gives: int = 0
    own: bool = True
    deletes: bool = False
    snapshots: bool = False  # REPEATABLE READ writers, too
    faults: int = 0
    stale: bool = False
    tries: int = 0
    orders: int = 0
    rollback: bool = True
    purge: bool = True
    flaws: frozenset[Flaw] = frozenset()

    def described(self) -> str:
        """For a figure's line."""
        parts = [f"{self.waves} wave{'s' if self.waves > 1 else ''}", f"{self.writers} writers x {self.writes}"]
        parts += [f"{self.gives} re-parents"] if self.gives else []
        parts += [f"{self.faults} faults"] if self.faults else []
        parts += [word for word, there in (("deletes", self.deletes), ("snapshots", self.snapshots)) if there]
        parts += [word for word, there in (("stale worker", self.stale), ("retry", self.tries > 0)) if there]
        parts += [f"{self.orders} orders"] if self.orders else []
        return ", ".join(parts)


SMALL = (
    Bounds("handover", writes=1, faults=1, tries=1, deletes=True, writers=1),
    Bounds("re-parent", gives=1, own=False),
    Bounds("round trip", writers=1, faults=1, orders=2),
    Bounds("stale worker", writers=0, faults=1, stale=True, orders=2, tries=1),
    Bounds("waves", waves=2, writers=1, orders=1),
)
FULL = (
    *SMALL,
    Bounds("two faults", faults=2, stale=True, writers=1, deletes=True),
    Bounds("two writers", faults=1, stale=True, tries=1, deletes=True),
    Bounds("snapshots", gives=1, own=False, snapshots=True),
    Bounds("snapshots, fault", gives=1, own=False, snapshots=True, faults=1),
    Bounds("two waves", waves=2, gives=1),
    Bounds("back, two faults", writers=1, faults=2, stale=True, orders=2),
    Bounds("everything, once", gives=1, own=False, faults=1, stale=True, orders=2),
)
# Tens of millions of states: hours, and as many gigabytes as there are tens of millions of them times two.
HUGE = (Bounds("everything", gives=1, own=False, faults=2, stale=True, orders=2),)

# Each flaw in the smallest world in which it does harm.
ALONE = Bounds("one writer", writers=1)
GIFTS = Bounds("gifts", gives=1, own=False)
CUT = Bounds("one fault", writers=1, faults=1)
ORDERED = Bounds("there and back", writers=1, orders=2)
CONTROLS: dict[Flaw, Bounds] = {
    Flaw.NO_DRAIN: ALONE,
    Flaw.ONE_ROUND: GIFTS,
    Flaw.NO_FENCE_BETWEEN: replace(GIFTS, snapshots=True),
    Flaw.NO_LOCK: ALONE,
    Flaw.EARLY_RELEASE: ALONE,
    Flaw.NO_SECOND_LOOK: ALONE,
    Flaw.ENTERED_IGNORED: GIFTS,
    Flaw.FENCE_NOT_COMPARED: replace(ALONE, snapshots=True),
    Flaw.NO_DELETE: replace(ALONE, deletes=True),
    Flaw.NO_TAIL: ALONE,
    Flaw.OPEN_IN_DOUBT: CUT,
    Flaw.NO_LEASE: replace(CUT, stale=True),
    Flaw.NO_TERM: CUT,
    Flaw.NO_POSITION: CUT,
    Flaw.EARLY_ACK: CUT,
    Flaw.UNSEEN_ACK: replace(ALONE, waves=2),
    Flaw.SEAM_BY_POSITION: ALONE,
    Flaw.SEAM_IGNORED: ALONE,
    Flaw.AHEAD_FORGOTTEN: GIFTS,
    Flaw.NO_OWNER: GIFTS,
    Flaw.NO_LEAVE: replace(GIFTS, gives=2),
    Flaw.NO_SUBTREE: GIFTS,
    Flaw.PASSED_BY: GIFTS,
    Flaw.DIRECTORY_FIRST: ALONE,
    Flaw.BLIND_STEP_BACK: replace(ALONE, tries=1),
    Flaw.BLIND_RECOVERY: CUT,
    Flaw.BLIND_PURGE: ORDERED,
    Flaw.WRONG_COPY: ORDERED,
    Flaw.LOCK_KEPT: ALONE,
}


def broken(flaw: Flaw) -> Bounds:
    """The world of a control."""
    return replace(CONTROLS[flaw], name=str(flaw), flaws=frozenset({flaw}))
