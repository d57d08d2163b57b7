"""The write-ahead log as bytes without its page headers, so that a value that crosses a page is in one piece; and the
full page images in it, decompressed.

A file of the log may hold old log: PostgreSQL renames files it no longer needs and writes them anew. A page tells its
own address, so the two are told apart. Sources: xlog_internal.h, xlogrecord.h of PostgreSQL 15 to 18.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
import re
import struct

from domicile.erasure.decode import LZ4, PGLZ, decompress

PAGE = 8_192
WINDOW_PAGES = 1_024  # read at a time
CARRY = 32_768  # bytes of what came before, for what crosses the boundary of two readings
NAME = re.compile(r"^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?$")

_MAGIC = 0xD1  # the upper byte of every version's page magic
_LONG_HEADER = 0x02
_HAS_IMAGE, _HAS_DATA, _SAME_REL = 0x10, 0x20, 0x80
_HAS_HOLE, _PGLZ, _LZ4, _ZSTD = 0x01, 0x04, 0x08, 0x10
_IMAGE_INFO_MAX = 0x1F
_PADDING = bytes(2)  # in a record's header, before its checksum
_EMPTY = bytes(PAGE)
_BLOCK_ID_MAX = 32
_RECORD_HEADER = 24


@dataclass(frozen=True, slots=True)
class Stretch:
    """Log without page headers. The first ``carried`` bytes were in the stretch before. ``start``: where in ``data`` a
    record begins, -1 where that is not known."""

    data: bytes
    carried: int
    recycled: bool
    start: int


class Reader:
    """Reads files of the log one after another. What crosses from one into the next is in one piece where they follow
    each other in the log (`first_address`)."""

    def __init__(self) -> None:
        self._carry = b""
        self._expected = -1
        self._unfinished = 0  # bytes of a record that goes on in what follows

    def stretches(self, path: Path) -> Iterator[Stretch]:
        """What one file holds. The `images` of each are to be read before the next. OSError when it cannot be read."""
        with path.open("rb") as file:
            first = _named_address(path.name, file.read(PAGE))
            file.seek(0)
            offset = 0
            while raw := file.read(PAGE * WINDOW_PAGES):
                for run in _runs(raw, first + offset if first >= 0 else -1):
                    before = self._carry if run.address == self._expected else b""
                    start = run.start + len(before) if run.start >= 0 else -1
                    if 0 < self._unfinished <= len(before):
                        start = len(before) - self._unfinished
                    self._unfinished = 0
                    yield Stretch(before + run.data, len(before), run.old, start)
                    self._carry, self._expected = (before + run.data)[-CARRY:], run.following
                offset += len(raw)

    def images(self, stretch: Stretch) -> Iterator[bytes | None]:
        """Compressed images of pages, decompressed; None for one that cannot be read here (zstd)."""
        data, at = stretch.data, stretch.start
        while 0 <= at <= len(data) - _RECORD_HEADER:
            length = int.from_bytes(data[at : at + 4], "little")
            # Old log ends where newer log begins, within a record: what follows its length there is no header.
            if length < _RECORD_HEADER or length > 1 << 30 or data[at + 18 : at + 20] != _PADDING:
                return
            if at + length > len(data):
                break
            if length > _RECORD_HEADER + 50:
                yield from _images_of(data[at : at + length])
            at += (length + 7) & ~7
        self._unfinished = max(0, len(data) - at) if at >= 0 else 0


def first_address(path: Path) -> int:
    """Where in the log its first page stood when it was written: a file of old log bears the name of one to come. -1
    for a file that does not begin with a page of the log, or cannot be read."""
    try:
        with path.open("rb") as file:
            return _address(file.read(16))
    except OSError:
        return -1


def _named_address(name: str, page: bytes) -> int:
    """Where in the log a file of this name begins; -1 where the name does not say."""
    match = NAME.match(name)
    if match is None or len(page) < 40 or not int.from_bytes(page[2:4], "little") & _LONG_HEADER:
        return -1
    size = int.from_bytes(page[32:36], "little")
    if size < 1 << 20 or size & (size - 1):
        return -1
    return (int(match[2], 16) << 32) + int(match[3], 16) * size


def _address(page: bytes) -> int:
    """What a page's header says; -1 for one that has none."""
    return int.from_bytes(page[8:16], "little") if len(page) >= 16 and page[1] == _MAGIC else -1


@dataclass(slots=True)
class _Run:
    """Neighbouring pages of one kind: their bytes, their first address and the one behind them."""

    address: int
    old: bool
    following: int = -1
    start: int = -1
    data: bytearray = field(default_factory=bytearray)


def _runs(raw: bytes, expected: int) -> Iterator[_Run]:
    run: _Run | None = None
    for at in range(0, len(raw), PAGE):
        page = raw[at : at + PAGE]
        if page[40:] == _EMPTY[: len(page) - 40]:  # not written yet, or filled up by a switch
            continue
        address = _address(page) if len(page) == PAGE else -1
        sound = address >= 0
        old = not sound or (expected >= 0 and address != expected + at)
        if run is not None and (old != run.old or address != run.following):
            yield run
            run = None
        run = run or _Run(address, old)
        run.following = address + PAGE if sound else -1
        if not sound:
            run.data += page
            continue
        info, rest = struct.unpack_from("<H12xI", page, 2)
        header = 40 if info & _LONG_HEADER else 24
        if run.start < 0 and rest < PAGE - header:
            run.start = len(run.data) + ((rest + 7) & ~7)
        run.data += page[header:]
    if run is not None:
        yield run


def _images_of(record: bytes) -> Iterator[bytes | None]:
    """Walks the headers of a record's blocks; what is not understood ends the walk."""
    at, sizes, held = _RECORD_HEADER, [], 0
    while at + 4 <= len(record) - held and record[at] <= _BLOCK_ID_MAX:
        flags = record[at + 1]
        data_length = int.from_bytes(record[at + 2 : at + 4], "little")
        at += 4
        length, info, hole = 0, 0, 0
        if flags & _HAS_IMAGE:
            if at + 5 > len(record):
                return
            length, _, info = struct.unpack_from("<HHB", record, at)
            at += 5
            packed = info & (_PGLZ | _LZ4 | _ZSTD)
            if length > PAGE or info > _IMAGE_INFO_MAX or packed & (packed - 1):
                return
            if packed and info & _HAS_HOLE:
                hole = int.from_bytes(record[at : at + 2], "little")
                at += 2
        at += (0 if flags & _SAME_REL else 12) + 4
        sizes.append((length, info, hole, data_length))
        held += length + data_length
    if not sizes:
        return
    if at < len(record) - held and record[at] in (255, 254):  # the record's own data, at its end
        at += 2 if record[at] == 255 else 5
    for length, info, hole, data_length in sizes:
        if length and info & (_PGLZ | _LZ4 | _ZSTD):
            yield _image(record[at : at + length], info, PAGE - hole)
        at += length + data_length


def _image(packed: bytes, info: int, raw: int) -> bytes | None:
    if info & _PGLZ:
        return decompress(packed, raw, PGLZ, partial=True)
    if info & _LZ4:
        return decompress(packed, raw, LZ4)
    return None
