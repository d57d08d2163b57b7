"""The ways in which the simulation's own part of the protocol can be broken on purpose."""

from __future__ import annotations

from enum import StrEnum


class Flaw(StrEnum):
    """One rule left out of what is mirrored here."""

    NO_DRAIN = "skip the drain"
    ONE_ROUND = "one round of the drain less than there are joins"
    NO_LOCK = "the mover does not wait for the wave's lock"
    NO_SECOND_LOOK = "the mark is not read again under the wave's lock"
    ENTERED_IGNORED = "rows that came in while the fence closed are not counted"
    OLD_SNAPSHOT_PASSES = "an older snapshot is not refused"
    NO_DELETE = "no DELETE in the guard"
    NO_LEASE = "the lease is not checked"
    NO_TERM = "neither the term nor the position is checked"
    DIRECTORY_FIRST = "the directory is told before the target"
    EARLY_ACK = "acknowledged when read"
    UNSEEN_ACK = "acknowledged before every snapshot sees it"
    BLIND_STEP_BACK = "the wave steps back without asking the target"
    BLIND_PURGE = "the purge does not ask where the wave lives"
    SEAM_BY_POSITION = "what the copy has seen is told by positions in the log"
    NO_SUBTREE = "a row that enters comes without what hangs from it"
    AHEAD_FORGOTTEN = "what was read ahead of the stream is not kept"
    UNSEEN_PARENT = "a row below one that nobody sees yet is not counted"
    PASSED_BY = "the copy does not wait until everybody sees what the slot passes by"
    LEAVE_ALONE = "a row that leaves goes without what hangs from it"
