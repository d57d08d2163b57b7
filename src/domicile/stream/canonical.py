"""Keys as the index compares them: one value for one key, however its columns are typed.

An integer of any width is one integer (two's complement in 64 bits, as a bitmap holds it), so that an ``int4`` finds
the ``int8`` that it refers to. Everything else is its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, cast

from pyroaring import BitMap64

from domicile.stream.change import NULL, Field, Key

Canon = int | bytes
MASK = (1 << 64) - 1
_Part = Callable[[Field], Canon]


class KeySet(Protocol):
    """A set of canonical keys, all integers or all bytes."""

    def add(self, key: Canon, /) -> None: ...
    def discard(self, key: Canon, /) -> None: ...
    def update(self, keys: Iterable[Canon], /) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...


class Bag:
    """Keys with how often each is there: rows that nothing tells apart."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[Canon, int] = {}

    def add(self, key: Canon, /) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1

    def update(self, keys: Iterable[Canon], /) -> None:
        for key in keys:
            self.add(key)

    def discard(self, key: Canon, /) -> None:
        """One of them."""
        left = self._counts.get(key, 0) - 1
        if left > 0:
            self._counts[key] = left
        else:
            self._counts.pop(key, None)

    def __contains__(self, key: object, /) -> bool:
        return key in self._counts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bag) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __len__(self) -> int:
        return sum(self._counts.values())


def is_integer(families: Sequence[str]) -> bool:
    """Whether keys over columns of these families are integers."""
    return tuple(families) == ("int",)


def key_set(families: Sequence[str]) -> KeySet:
    """An empty set for keys over columns of these families."""
    if is_integer(families):
        return cast("KeySet", BitMap64())  # of integers alone, which only the families say
    return set[Canon]()


def canonical(families: Sequence[str], *, binary: bool) -> Callable[[Sequence[Field]], Canon]:
    """The function from a key's fields (all sent, none null) to its canonical form."""
    parts = tuple(_part(name, binary=binary) for name in families)
    if len(parts) == 1:
        [only] = parts
        return lambda fields: only(fields[0])

    def several(fields: Sequence[Field]) -> bytes:
        return b"".join(_framed(part(field)) for part, field in zip(parts, fields, strict=True))

    return several


def split(key: Key) -> Iterator[Field]:
    """A key's fields."""
    at = 0
    while at < len(key):
        end = at + 4 + int.from_bytes(key[at : at + 4], "big")
        yield key[at:end]
        at = end


def field(value: bytes | None) -> Field:
    """A value as a field; None is null."""
    return NULL if value is None else len(value).to_bytes(4, "big") + value


def _part(name: str, *, binary: bool) -> _Part:
    match name:
        case "int" if binary:
            return lambda f: int.from_bytes(f[4:], "big", signed=True) & MASK
        case "int":
            return lambda f: int(f[4:]) & MASK
        case "bpchar":  # blanks at the end mean nothing
            return lambda f: f[4:].rstrip(b" ")
    return lambda f: f[4:]


def _framed(part: Canon) -> bytes:
    if isinstance(part, int):
        return part.to_bytes(8, "big")
    return len(part).to_bytes(4, "big") + part
