"""Holding a stream of blocks back to a share of its own natural speed, evenly.

Why not "sleep as long as the write took": between the mover and both servers lie megabytes of buffers. Held back, a
write is taken by a buffer at once, so that what it took says nothing of what the servers can do, and sleeping as long
again holds nobody back. So the natural time of a byte is learnt while nothing is held back, and kept.
"""

from __future__ import annotations

from collections.abc import Callable

LEARN_SECONDS = 0.25  # of work that tell how long a byte takes
WAITED_SHARE_MAX = 0.1  # of the time in which they may do so: else buffers are measured
SLOWER_MAX = 1.25  # a step of learning that it takes longer: a lock that was waited for says nothing of the speed
BUSY_SECONDS_MAX = 0.1  # of one block, for the same reason
WAIT_SECONDS_MIN, WAIT_SECONDS_MAX = 0.001, 0.5  # a shorter wait is saved up, a longer one is taken in turns
HELD_BACK_MAX = 0.99


class Brake:
    """One stream's. ``held_back`` tells the share of the time to be held back now, 0 to below 1; it is called from the
    stream's thread."""

    def __init__(self, held_back: Callable[[], float]) -> None:
        self._held_back = held_back
        self._natural: float | None = None  # seconds a byte
        self._owed = 0.0
        self._size = 0
        self._busy = 0.0
        self._waited = 0.0

    def wait(self, size: int, busy: float) -> float:
        """Seconds to wait after a block of ``size`` bytes that took ``busy`` seconds, earlier waits left out."""
        busy = min(busy, BUSY_SECONDS_MAX)
        self._size += size
        self._busy += busy
        wait = self._wait(size, busy)
        self._waited += wait
        self._learn()
        return wait

    def _wait(self, size: int, busy: float) -> float:
        share = min(self._held_back(), HELD_BACK_MAX)
        if share <= 0 or self._natural is None:
            self._owed = 0.0
            return 0.0
        self._owed = max(0.0, self._owed + size * self._natural / (1 - share) - busy)
        if self._owed < WAIT_SECONDS_MIN:
            return 0.0
        wait = min(self._owed, WAIT_SECONDS_MAX)
        self._owed -= wait
        return wait

    def _learn(self) -> None:
        if self._busy + self._waited < LEARN_SECONDS:
            return
        if self._waited <= WAITED_SHARE_MAX * (self._busy + self._waited):
            now = self._busy / self._size
            known = now if self._natural is None else self._natural
            self._natural = min((known + now) / 2, known * SLOWER_MAX)
        self._size, self._busy, self._waited = 0, 0.0, 0.0
