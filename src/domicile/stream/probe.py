"""Reading two things out of a change without decoding it: the row's key, and whom it names as its owner.

A probe is compiled once per table, when the stream describes it. Where the columns up to the last one wanted have
types of fixed width, one ``unpack`` fetches all; else the tuple is walked up to there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
import struct
from typing import Any, Final

from domicile.stream.canonical import MASK, Canon, canonical
from domicile.stream.change import NULL, Field
from domicile.stream.pgoutput import BINARY, IS_NULL, SENT, fields

_U32 = struct.Struct("!I").unpack_from
# Types of fixed width in binary form, by oid: bool int8 int2 int4 float4 float8 date time timestamp timestamptz uuid.
_WIDTHS = {16: 1, 20: 8, 21: 2, 23: 4, 700: 4, 701: 8, 1082: 4, 1083: 8, 1114: 8, 1184: 8, 2950: 16}
_INTEGERS = {8: "q", 4: "i", 2: "h"}
_FIXED_COLUMNS_MAX = 8  # of a prefix read at once


class _Unsent:
    """A value that the stream left out because it did not change."""

    def __repr__(self) -> str:
        return "UNSENT"


UNSENT: Final = _Unsent()

Probe = Callable[[bytes, int], Any]
"""Of a payload, and where its tuple's first column begins: what was wanted of the tuple."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Columns that make one key, by position in the stream's tuples, and their families."""

    at: tuple[int, ...]
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prober:
    """Makes probes for one relation: ``types`` are its columns' type oids."""

    types: tuple[int, ...]
    binary: bool

    def one(self, wanted: Wanted) -> Probe:
        """A probe for the canonical form of one key: None where a part is null, UNSENT where one was not sent."""
        walk = _walker((wanted,), self.binary)

        def slow(payload: bytes, at: int) -> Any:
            return walk(payload, at)[0]

        return self._fast((wanted,), slow) or slow

    def two(self, first: Wanted, second: Wanted) -> Probe:
        """A probe for a pair of them."""
        slow = _walker((first, second), self.binary)
        return self._fast((first, second), slow) or slow

    def _fast(self, wanted: tuple[Wanted, ...], slow: Probe) -> Probe | None:
        count = max(i for w in wanted for i in w.at) + 1
        types = self.types[:count]
        if not (self.binary and count <= _FIXED_COLUMNS_MAX and set(types) <= _WIDTHS.keys()):
            return None
        widths = [_WIDTHS[oid] for oid in types]
        integers = {i for w in wanted for i, family in zip(w.at, w.families, strict=True) if family == "int"}
        if any(len(w.at) > 1 for w in wanted) or any(widths[i] < 8 for i in integers):
            return _assembled(wanted, widths, integers, slow)
        chosen = {w.at[0] for w in wanted}
        shape, kinds, place = "!", [], {}
        size = 0
        for i, width in enumerate(widths):
            shape += "B4x"
            kinds.append(size)
            size += 1
            if i in chosen:
                shape += "Q" if i in integers else f"{width}s"  # a bigint's bits are what a bitmap holds
                place[i] = size
                size += 1
            else:
                shape += f"{width}x"
        return _fixed(struct.Struct(shape), kinds, [place[w.at[0]] for w in wanted], slow)


def _fixed(shape: struct.Struct, kinds: Sequence[int], values: Sequence[int], slow: Probe) -> Probe:
    unpack = shape.unpack_from
    kinds_of, expected = itemgetter(*kinds), (BINARY if len(kinds) == 1 else (BINARY,) * len(kinds))
    values_of = itemgetter(*values)

    # A null is one byte instead of its width: then the kinds, or the end of the message, are not where they should be.
    def fixed(payload: bytes, at: int) -> Any:
        try:
            found = unpack(payload, at)
        except struct.error:
            return slow(payload, at)
        return values_of(found) if kinds_of(found) == expected else slow(payload, at)

    return fixed


def _assembled(wanted: Sequence[Wanted], widths: Sequence[int], integers: Collection[int], slow: Probe) -> Probe:
    """The same for keys of several columns and for narrow integers, which are put together from what was fetched."""
    # Of each column its kind, and its value: an integer's number, or the bytes behind their length.
    shape = ("4x" + _INTEGERS[width] if i in integers else f"{width + 4}s" for i, width in enumerate(widths))
    unpack = struct.Struct("!" + "".join("B" + value for value in shape)).unpack_from
    expected = (BINARY,) * len(widths)
    makers = [_maker(w, widths, integers) for w in wanted]
    first, second = makers[0], makers[-1]

    def one(payload: bytes, at: int) -> Any:
        try:
            found = unpack(payload, at)
        except struct.error:
            return slow(payload, at)
        return first(found) if found[::2] == expected else slow(payload, at)

    def two(payload: bytes, at: int) -> Any:
        try:
            found = unpack(payload, at)
        except struct.error:
            return slow(payload, at)
        return (first(found), second(found)) if found[::2] == expected else slow(payload, at)

    return one if len(makers) == 1 else two


def _maker(wanted: Wanted, widths: Sequence[int], integers: Collection[int]) -> Callable[[tuple[Any, ...]], Canon]:
    """One key from what `_assembled` fetched, as `canonical` would make it."""
    places = [2 * i + 1 for i in wanted.at]
    if len(places) == 1:
        [place] = places
        if wanted.at[0] in integers:
            return lambda found: found[place] & MASK
        return lambda found: found[place][4:]
    pack = struct.Struct("!" + "".join("q" if i in integers else f"{widths[i] + 4}s" for i in wanted.at)).pack
    parts_of = itemgetter(*places)
    return lambda found: pack(*parts_of(found))


def row_reader(types: Sequence[int], *, binary: bool) -> Probe:
    """Reads all columns of a tuple, as `pgoutput.fields` does; those of fixed width at the beginning at once."""
    count = 0
    while binary and count < len(types) and types[count] in _WIDTHS:
        count += 1
    if count < 2:
        return lambda payload, at: tuple(fields(payload, at)[0])
    shape = struct.Struct("!" + "".join(f"B{_WIDTHS[oid] + 4}s" for oid in types[:count]))
    unpack, size, expected = shape.unpack_from, shape.size, (BINARY,) * count
    lengths = struct.Struct("!" + "".join(f"xI{_WIDTHS[oid]}x" for oid in types[:count])).unpack_from
    widths = tuple(_WIDTHS[oid] for oid in types[:count])
    rest = range(len(types) - count)

    def read(payload: bytes, at: int) -> tuple[Field | None, ...]:
        try:
            found = unpack(payload, at)
        except struct.error:
            return tuple(fields(payload, at)[0])
        if found[::2] != expected or lengths(payload, at) != widths:
            return tuple(fields(payload, at)[0])
        row: list[Field | None] = [*found[1::2]]
        at += size
        for _ in rest:
            kind = payload[at]
            if kind in SENT:
                end = at + 5 + _U32(payload, at + 1)[0]
                row.append(payload[at + 1 : end])
                at = end
            else:
                row.append(NULL if kind == IS_NULL else None)
                at += 1
        if at > len(payload):
            raise IndexError("a value ends behind its message")
        return tuple(row)

    return read


def _walker(wanted: tuple[Wanted, ...], binary: bool) -> Probe:
    """The probe that works for every tuple; gives one value per key wanted."""
    steps = tuple(sorted({i for w in wanted for i in w.at}))
    chosen = tuple(i in steps for i in range(steps[-1] + 1))
    makers = tuple((tuple(map(steps.index, w.at)), canonical(w.families, binary=binary)) for w in wanted)

    def walk(payload: bytes, at: int) -> tuple[Any, ...]:
        picked: list[Field | None] = []
        for want in chosen:
            kind = payload[at]
            if kind in SENT:
                end = at + 5 + _U32(payload, at + 1)[0]
                if want:
                    picked.append(payload[at + 1 : end])
                at = end
            else:
                if want:
                    picked.append(NULL if kind == IS_NULL else None)
                at += 1
        return tuple([key_of([picked[i] for i in places], make) for places, make in makers])

    return walk


def key_of(fields: Sequence[Field | None], make: Callable[[Sequence[Field]], Canon]) -> Canon | _Unsent | None:
    """The canonical form of these fields: None where one is null, else UNSENT where one was not sent."""
    sent = [f for f in fields if f is not None]
    if NULL in sent:
        return None
    return make(sent) if len(sent) == len(fields) else UNSENT
