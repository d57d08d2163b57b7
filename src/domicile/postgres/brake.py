"""Holding streams of blocks back to a share of their own natural speed, evenly.

Why not "sleep as long as the write took": between the mover and both servers lie megabytes of buffers. Held back, a
write is taken by a buffer at once, so that what it took says nothing of what the servers can do, and sleeping as long
again holds nobody back. So the natural time of a byte is learnt, table by table, while the servers are what the stream
waits for. A table of which nothing is known yet is free for its first half second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import threading

LEARN_SECONDS = 0.25  # of work that tell how long a byte takes
WAITED_SHARE_MAX = 0.1  # of it that the stream was held back, or else
BLOCKED_SHARE_MIN = 0.2  # of it that the stream waited for the servers nevertheless: else buffers are measured
SHARE_CHANGE_MAX = 0.1  # meanwhile: a larger one begins a new measure
BUSY_SECONDS_MAX = 0.1  # of one block: a lock that was waited for says nothing of the speed
WAIT_SECONDS_MIN, WAIT_SECONDS_MAX = 0.001, 0.5  # a shorter wait is saved up, a longer one is taken in turns
HELD_BACK_MAX = 0.99


@dataclass(slots=True)
class _Speed:
    """What is known of one table, and what was measured since it was learnt."""

    natural: float | None = None  # seconds a byte
    share: float = 0.0
    size: int = 0
    busy: float = 0.0
    blocked: float = 0.0
    waited: float = 0.0
    was_honest: bool = False

    def tell(self, share: float, size: int, busy: float, blocked: float, waited: float) -> None:
        """What one block took."""
        if abs(share - self.share) > SHARE_CHANGE_MAX:
            self._measure_anew(share)
        self.size += size
        self.busy += busy
        self.blocked += blocked
        self.waited += waited
        seconds = self.busy + self.waited
        if seconds >= LEARN_SECONDS:
            honest = self.waited <= WAITED_SHARE_MAX * seconds or self.blocked >= BLOCKED_SHARE_MIN * seconds
            if honest and self.was_honest:  # the first such measure began with buffers that had room
                self.natural = seconds / self.size
            self._measure_anew(share)
            self.was_honest = honest

    def _measure_anew(self, share: float) -> None:
        self.share, self.size, self.was_honest = share, 0, False
        self.busy = self.blocked = self.waited = 0.0


@dataclass(slots=True)
class Brakes:
    """What the streams of a process have learnt together. ``held_back`` tells the share of the time to be held back
    now, 0 to below 1; it is called from the streams' threads."""

    held_back: Callable[[], float]
    lock: threading.Lock = field(default_factory=threading.Lock)
    _speeds: dict[str, _Speed] = field(default_factory=dict)

    def of(self, table: str) -> Brake:
        """For one stream of rows of that table."""
        with self.lock:
            return Brake(self, self._speeds.setdefault(table, _Speed()))


class Brake:
    """One stream's."""

    def __init__(self, brakes: Brakes, speed: _Speed) -> None:
        self._brakes = brakes
        self._speed = speed
        self._owed = 0.0

    def wait(self, size: int, busy: float, blocked: float) -> float:
        """Seconds to wait after a block of ``size`` bytes that took ``busy`` seconds, ``blocked`` of them waiting for
        the servers; what was waited here is not among them."""
        share = min(self._brakes.held_back(), HELD_BACK_MAX)
        busy = min(busy, BUSY_SECONDS_MAX)
        wait = self._wait(share, size, busy)
        with self._brakes.lock:
            self._speed.tell(share, size, busy, min(blocked, busy), wait)
        return wait

    def _wait(self, share: float, size: int, busy: float) -> float:
        natural = self._speed.natural
        if share <= 0 or natural is None:
            self._owed = 0.0
            return 0.0
        self._owed = max(0.0, self._owed + size * natural / (1 - share) - busy)
        if self._owed < WAIT_SECONDS_MIN:
            return 0.0
        wait = min(self._owed, WAIT_SECONDS_MAX)
        self._owed -= wait
        return wait
