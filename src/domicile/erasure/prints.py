"""Known values as keyed fingerprints, and the search for them in bytes.

A value is held as: a hash of eight of its bytes (the anchor), where in it they stand, its length, and a keyed BLAKE2b
of the whole. The search hashes the eight bytes at every position of what it reads; where that is an anchor, it takes
the BLAKE2b of the bytes around it. Of a long value three pieces are held: each is a find.
Without the key the fingerprints say nothing; with it they can be guessed at, but not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import hashlib

import numpy as np
from numpy.typing import NDArray

LENGTH_MIN = 8  # shorter values are found everywhere
DISTINCT_MIN = 6  # bytes in a value that differ from each other: fewer, and it is filler
WHOLE_MAX = 48  # longer values are searched for by pieces
PIECE = 32
DIGEST_BYTES = 16
PRINTS_MAX = 400_000  # of one wave
CANARY = 1 << 30  # owners from here on are canaries
_BITS = 20
_BLOCK = 1 << 14  # positions hashed at a time: what fits into a processor's cache
_ZEROS = bytes(_BLOCK + 7)
_RECORD = np.dtype([("anchor", "<u8"), ("owner", "<i4"), ("at", "<u2"), ("length", "<u2"), ("digest", "S16")])

Anchors = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Hit:
    """Fingerprint number ``which`` stands at ``at`` in what was searched."""

    which: int
    at: int


class Gatherer:
    """Takes values, keeps fingerprints. ``too_plain`` counts those it did not take, ``passed_over`` those that are more
    than ``most`` fingerprints."""

    def __init__(self, key: bytes, most: int = PRINTS_MAX) -> None:
        self._key = key
        self._most = most
        self._values: dict[bytes, tuple[int, bytes]] = {}
        self.too_plain = 0
        self.passed_over = 0

    def add(self, value: bytes, owner: int) -> None:
        """``owner``: whose value it is, a number below `CANARY`, or a canary's from there on."""
        if len(value) < LENGTH_MIN or len(set(value[:256])) < DISTINCT_MIN:
            self.too_plain += 1
            return
        for piece in _pieces(value):
            if len(self._values) >= self._most:
                self.passed_over += 1
                return
            self._values.setdefault(_digest(self._key, piece), (owner, piece))

    def prints(self) -> Prints:
        """The fingerprints; the values are forgotten."""
        table = np.zeros(len(self._values), _RECORD)
        pieces = [piece for _, piece in self._values.values()]
        for number, ((digest, (owner, piece)), at) in enumerate(
            zip(self._values.items(), _rarest(pieces), strict=True)
        ):
            window = int.from_bytes(piece[at : at + 8], "little")
            table[number] = (window, owner, at, len(piece), digest)
        table["anchor"] = _mix(table["anchor"], self._key)
        self._values = {}
        return Prints(self._key, table)


class Prints:
    """A set of fingerprints, ready to be searched for. Numbers are positions in it."""

    def __init__(self, key: bytes, table: NDArray[np.void]) -> None:
        self.key = key
        self.table = table
        order = np.argsort(table["anchor"], kind="stable")
        self._order = order
        self._anchors: Anchors = table["anchor"][order]
        self._seen = np.zeros(1 << _BITS, np.bool_)
        self._seen[(self._anchors >> np.uint64(64 - _BITS)).astype(np.int64)] = True
        self._factor = _factor(key)
        self._digests = [bytes(d).ljust(DIGEST_BYTES, b"\0") for d in table["digest"]]
        self._at = table["at"].tolist()
        self.lengths: list[int] = table["length"].tolist()
        self.owners: list[int] = table["owner"].tolist()

    @classmethod
    def unpack(cls, key: bytes, raw: bytes) -> Prints:
        """What `pack` wrote. ValueError when it is something else."""
        return cls(key, np.frombuffer(raw, _RECORD).copy())

    def pack(self) -> bytes:
        """As bytes, without the key."""
        return self.table.tobytes()

    def joined(self, others: Iterable[Prints]) -> Prints:
        """These and the others, under one key; these keep their numbers."""
        return Prints(self.key, np.concatenate([self.table, *(o.table for o in others)]))

    def without(self, numbers: Iterable[int]) -> Prints:
        """All but some."""
        return Prints(self.key, np.delete(self.table, sorted(numbers)))

    def beside(self, others: Prints) -> Prints:
        """Those that the others, under the same key, do not have."""
        return self.without(np.flatnonzero(np.isin(self.table["digest"], others.table["digest"])).tolist())

    def parts(self, most: int) -> Iterator[Prints]:
        """In their order, ``most`` at a time; one part where there are none."""
        for first in range(0, max(1, len(self)), most):
            yield Prints(self.key, self.table[first : first + most])

    def __len__(self) -> int:
        return len(self.table)

    def search(self, data: bytes | bytearray) -> Iterator[Hit]:
        """Every place in ``data`` where one of the values stands."""
        if not len(self.table):
            return
        end = len(data) - LENGTH_MIN + 1
        for start in range(0, end, _BLOCK):
            count = min(_BLOCK, end - start)
            if data[start : start + count + 7] == _ZEROS[: count + 7]:
                continue
            mixed = windows(data, start, count)
            mixed *= self._factor
            places = np.flatnonzero(self._seen.take((mixed >> np.uint64(64 - _BITS)).view(np.int64)))
            if len(places):
                yield from self._confirmed(data, start, places, mixed[places])

    def _confirmed(
        self, data: bytes | bytearray, start: int, places: NDArray[np.int64], mixed: Anchors
    ) -> Iterator[Hit]:
        first = np.searchsorted(self._anchors, mixed, "left")
        last = np.searchsorted(self._anchors, mixed, "right")
        for which in np.flatnonzero(last > first).tolist():
            window = start + int(places[which])
            for position in range(int(first[which]), int(last[which])):
                number = int(self._order[position])
                at, length = window - self._at[number], self.lengths[number]
                if at >= 0 and _digest(self.key, bytes(data[at : at + length])) == self._digests[number]:
                    yield Hit(number, at)


def windows(data: bytes | bytearray, start: int, count: int, step: int = 1) -> Anchors:
    """The eight bytes at each of ``count`` positions, as numbers."""
    found: Anchors = np.array(np.ndarray((count,), "<u8", data, start, (step,)))
    return found


def formed(data: bytes, mask: int, form: int, first: int = 0, step: int = 1) -> Iterator[int]:
    """The positions whose eight bytes are ``form`` where ``mask`` has bits; only ``first`` and every ``step``-th behind
    it are looked at."""
    positions = range(first, len(data) - 7, step)
    for number in range(0, len(positions), _BLOCK):
        block = positions[number : number + _BLOCK]
        found = windows(data, block.start, len(block), step) & np.uint64(mask)
        for at in np.flatnonzero(found == np.uint64(form)).tolist():
            yield block[at]


def _pieces(value: bytes) -> Iterator[bytes]:
    if len(value) <= WHOLE_MAX:
        yield value
        return
    for at in (0, (len(value) - PIECE) // 2, len(value) - PIECE):
        piece = value[at : at + PIECE]
        if len(set(piece)) >= DISTINCT_MIN:
            yield piece


def _rarest(pieces: list[bytes]) -> list[int]:
    """For each piece the place of the eight bytes that the fewest others have: what many values begin or end with would
    be an anchor that is met everywhere."""
    count: dict[bytes, int] = {}
    for piece in pieces:
        for at in _places(piece):
            window = piece[at : at + 8]
            count[window] = count.get(window, 0) + 1
    return [min(_places(piece), key=lambda at: count[piece[at : at + 8]]) for piece in pieces]


def _places(piece: bytes) -> tuple[int, ...]:
    return (0, (len(piece) - 8) // 2, len(piece) - 8)


def _digest(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=DIGEST_BYTES, key=key).digest()


def _factor(key: bytes) -> np.uint64:
    """An odd secret number: multiplying by one is the cheapest hash of eight bytes whose upper bits are good."""
    return np.uint64(int.from_bytes(hashlib.blake2b(b"anchors", digest_size=8, key=key).digest(), "little") | 1)


def _mix(found: Anchors, key: bytes) -> Anchors:
    mixed: Anchors = found * _factor(key)
    return mixed
