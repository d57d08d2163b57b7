"""What the writers went through: latencies, refusals, pauses. Pure."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from typing import NamedTuple

from domicile.world.ledger import Ledger

MS = 1_000.0


class Met(IntFlag):
    """What a transaction met before it was acknowledged."""

    NOTHING = 0
    MOVED = 1  # DM001
    MOVING = 2  # DM002
    SERIALIZATION = 4  # 40001 or 40P01
    NOBODY = 8  # the user was not at that site
    BROKEN = 16  # a connection broke before the commit was sent


MOVE = Met.MOVED | Met.MOVING


class Transacted(NamedTuple):
    """One acknowledged transaction. ``begun`` is its first try (seconds of the machine's monotonic clock), ``latency``
    runs from there to the acknowledgement, in seconds. ``epoch`` is that of the word which sent it to its site."""

    user: int
    begun: float
    latency: float
    met: Met
    site: int
    epoch: float

    @property
    def acknowledged(self) -> float:
        return self.begun + self.latency


@dataclass(slots=True)
class Timings:
    """Every acknowledged transaction, small enough to be kept: six numbers each."""

    users: array[int] = field(default_factory=lambda: array("q"))
    begun: array[float] = field(default_factory=lambda: array("d"))
    latency: array[float] = field(default_factory=lambda: array("d"))
    met: array[int] = field(default_factory=lambda: array("B"))
    sites: array[int] = field(default_factory=lambda: array("B"))
    epochs: array[float] = field(default_factory=lambda: array("d"))

    def add(self, one: Transacted) -> None:
        self.users.append(one.user)
        self.begun.append(one.begun)
        self.latency.append(one.latency)
        self.met.append(one.met)
        self.sites.append(one.site)
        self.epochs.append(one.epoch)

    def __len__(self) -> int:
        return len(self.users)

    def __iter__(self) -> Iterator[Transacted]:
        columns = (self.users, self.begun, self.latency, self.met, self.sites, self.epochs)
        for user, begun, latency, met, site, epoch in zip(*columns, strict=True):
            yield Transacted(user, begun, latency, Met(met), site, epoch)


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles, in milliseconds; all None where there was nothing."""

    count: int = 0
    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, milliseconds: Iterable[float]) -> Spread:
        ordered = sorted(milliseconds)
        if not ordered:
            return cls()
        return cls(len(ordered), *(round(percentile(ordered, p), 3) for p in (0.5, 0.99, 1.0)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return ordered[max(0, min(len(ordered) - 1, int(-(-len(ordered) * share // 1)) - 1))]


@dataclass(slots=True)
class Account:
    """One run of the writers.

    ``refused`` counts tries by SQLSTATE, each of which was tried again (DM001, DM002, 40001, 40P01); ``failures`` what
    was not; ``given_up`` transactions that had become pointless (the user is gone, an order's two users live apart, or
    the writers were stopped): nothing of them was kept.
    """

    ledger: Ledger
    sites: tuple[str, ...]
    timings: Timings = field(default_factory=Timings)
    refused: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)
    began: float = 0.0
    ended: float = 0.0

    @property
    def acknowledged(self) -> int:
        return self.ledger.acknowledged

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def transactions(self) -> int:
        """Acknowledged while the writers ran: those by which they settled afterwards are left out."""
        return sum(begun < self.ended for begun in self.timings.begun)

    @property
    def tps(self) -> float:
        """Transactions a second while they ran."""
        return round(self.transactions / self.seconds, 1) if self.seconds else 0.0

    def latency(self, after: float = 0.0, before: float = float("inf")) -> Spread:
        """Of transactions first tried in that window."""
        pairs = zip(self.timings.begun, self.timings.latency, strict=True)
        return Spread.of(s * MS for begun, s in pairs if after <= begun < before)

    def handovers(self, waves: Mapping[int, int]) -> tuple[tuple[float, ...], ...]:
        """Per handover, how long each transaction took that met it, in ms: one that was told to wait (DM002), or sent
        on (DM001) when it had been tried before the new home had acknowledged a write for anyone of the wave. ``waves``
        says which users moved together; each epoch of a wave is a handover of its own, and who waited without ever
        being told of one stands under epoch 0. Empty where nobody was in flight.
        """
        met: dict[tuple[int, float], list[Transacted]] = defaultdict(list)
        first: dict[tuple[int, float], float] = {}
        for one in self.timings:
            wave = waves.get(one.user)
            if wave is None or (one.epoch <= 0 and not one.met & Met.MOVING):
                continue
            key = wave, max(0.0, one.epoch)
            first[key] = min(first.get(key, one.acknowledged), one.acknowledged)
            if one.met & MOVE:
                met[key].append(one)
        return tuple(
            tuple(one.latency * MS for one in met[key] if one.met & Met.MOVING or one.begun < first[key])
            for key in sorted(first)
        )

    def pauses(self, waves: Mapping[int, int]) -> Spread:
        """Of each handover that met anybody the longest that a transaction took."""
        return Spread.of(max(met) for met in self.handovers(waves) if met)

    def as_dict(self) -> dict[str, object]:
        """The figures, for ``--json``."""
        latency = self.latency()
        return {
            "acknowledged": self.acknowledged,
            "unknown": self.ledger.unknown,
            "refused": dict(self.refused),
            "failures": dict(self.failures),
            "given_up": dict(self.given_up),
            "seconds": round(self.seconds, 3),
            "tps": self.tps,
            "latency_ms": {"p50": latency.p50, "p99": latency.p99, "max": latency.max},
        }
