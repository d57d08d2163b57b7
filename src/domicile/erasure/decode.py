"""Values that cannot be read from their bytes: compressed ones, and those cut into TOAST chunks.

They are found by their form and not by following a table's rows, so that a dead row, the remains of one in freed space
and a record of the log are read alike. What has the form by chance does not decompress.
Sources: varatt.h, pg_lzcompress.c, toast_internals.c, htup_details.h of PostgreSQL 15 to 18.
"""

from __future__ import annotations

from collections.abc import Iterator
import struct

import lz4.block

from domicile.erasure.prints import formed

PGLZ, LZ4 = 0, 1
INLINE_MAX = 32_767  # a compressed value that is no chunk lies in one page
CHUNK = 1_996  # bytes of a TOAST chunk that has another behind it, with pages of 8 KiB
RAW_MAX = 64 << 20  # a value that says it is longer is not one
RATIO_MAX = 256
HELD_MAX = 64 << 20  # bytes of unfinished values kept for one file

# A header of four bytes with the mark "compressed", its length below 32 KiB; then the raw length, below 16 MiB, and the
# method in its two upper bits: as eight bytes from the first on.
_INLINE_MASK, _INLINE = 0xBF000000FFFF8003, 0x0000000000000002
# A tuple of three columns without nulls: infomask2, infomask, its head's length and a byte of padding, in a page and in
# the log alike. Behind them chunk_id, chunk_seq, and the head of a chunk, which has four bytes, or one.
_TUPLE_MASK, _TUPLE = 0x0000FFFF000000FF, 0x0000001800000003
_TUPLE_ID, _TUPLE_SEQUENCE = 6, 10
_TUPLE_IN_PAGES = 2, 8  # a tuple begins at a multiple of 8, infomask2 is 18 bytes behind
_TUPLE_HEAD = 14  # from infomask2 to the head of the chunk


def inline(data: bytes, fresh: int = 0, *, pages: bool = False) -> Iterator[tuple[int, bytes]]:
    """Compressed values that stand in ``data`` whole and end behind ``fresh``: where, and decompressed. In ``pages``
    they are aligned."""
    for at in formed(data, _INLINE_MASK, _INLINE, step=4 if pages else 1):
        header, info = struct.unpack_from("<II", data, at)
        end = at + (header >> 2)
        raw, method = info & 0x3FFFFFFF, info >> 30
        packed = end - at - 8
        # Neither method makes more of a byte than this, and what saves too little is not kept compressed.
        if not (8 < packed < raw <= packed * RATIO_MAX and fresh < end <= len(data)):
            continue
        if method == PGLZ and (packed * 4 > raw * 3 + 64 or not _begins(data, at + 8)):
            continue
        if found := decompress(data[at + 8 : end], raw, method):
            yield at, found


def _begins(data: bytes, at: int) -> bool:
    """Whether the first reference back, if it is among the first eight items, refers to something."""
    flags = data[at]
    literals = (flags & -flags).bit_length() - 1 if flags else 8
    if literals == 8:
        return True
    first, second = data[at + 1 + literals], data[at + 2 + literals]
    return not first & 0xF0 and 0 < second <= literals


def decompress(data: bytes, raw: int, method: int, *, partial: bool = False) -> bytes | None:
    """The value, or None where this is no value of that length. ``partial``: as much of it as there is."""
    if not 0 < raw <= RAW_MAX:
        return None
    if method == PGLZ:
        return pglz(data, raw, partial=partial)
    if method != LZ4:
        return None
    try:
        found: bytes = lz4.block.decompress(data, uncompressed_size=raw)
    except lz4.block.LZ4BlockError:
        return None
    return found if len(found) == raw else None


def pglz(data: bytes, raw: int, *, partial: bool = False) -> bytes | None:
    """PostgreSQL's own compression: a byte of flags, then eight items, each a literal or (length, distance)."""
    out = bytearray()
    at, end = 0, len(data)
    while at < end and len(out) < raw:
        flags = data[at]
        at += 1
        if not flags:  # eight literals
            taken = data[at : at + min(8, raw - len(out))]
            out += taken
            at += len(taken)
            continue
        for _ in range(8):
            if at >= end or len(out) >= raw:
                break
            if not flags & 1:
                out.append(data[at])
                at += 1
            else:
                if at + 1 >= end:
                    return bytes(out) if partial else None
                length, distance = (data[at] & 15) + 3, (data[at] & 0xF0) << 4 | data[at + 1]
                at += 2
                if length == 18 and at < end:
                    length += data[at]
                    at += 1
                if not 0 < distance <= len(out):
                    return None
                length = min(length, raw - len(out))
                piece = out[-distance:]
                out += piece[:length] if length <= distance else (piece * (length // distance + 1))[:length]
            flags >>= 1
    return bytes(out) if partial or (len(out) == raw and at == end) else None


class Chunks:
    """Puts TOAST values of one file together. Of one whose end never came, what is there is read, but for values under
    lz4: ``broken`` counts them."""

    def __init__(self) -> None:
        self._parts: dict[bytes, dict[int, bytes]] = {}
        self._ends: dict[bytes, int] = {}  # the number of a value's last chunk, where that has come
        self._held = 0
        self.broken = 0

    def add(self, data: bytes, fresh: int = 0, *, pages: bool = False) -> Iterator[bytes]:
        """Values that are complete with the chunks in ``data``: as they are kept, and decompressed. In ``pages``
        they are aligned."""
        for at in formed(data, _TUPLE_MASK, _TUPLE, *(_TUPLE_IN_PAGES if pages else ())):
            name = data[at + _TUPLE_ID : at + _TUPLE_SEQUENCE]
            sequence = data[at + _TUPLE_SEQUENCE : at + _TUPLE_HEAD]
            chunk = _chunk(data, at + _TUPLE_HEAD, fresh)
            if chunk is None or sequence[2:] != b"\0\0":
                continue
            number, last = int.from_bytes(sequence, "little"), len(chunk) < CHUNK
            if number == 0 and last:  # in one piece: only what it says when it is opened is new
                yield from _opened(chunk)
                continue
            parts = self._parts.setdefault(name, {})
            if number not in parts:
                parts[number] = chunk
                self._held += len(chunk)
            if last:
                self._ends[name] = number
            if self._ends.get(name) == len(parts) - 1:
                yield from self._take(name)
            if self._held > HELD_MAX:
                yield from self._take(next(iter(self._parts)))

    def rest(self) -> Iterator[bytes]:
        """What there is of the values that are not complete."""
        for name in list(self._parts):
            yield from self._take(name)

    def _take(self, name: bytes) -> Iterator[bytes]:
        parts = self._parts.pop(name)
        self._ends.pop(name, None)
        self._held -= sum(map(len, parts.values()))
        self.broken += len(parts) <= max(parts) and 0 in parts and _packed_by(parts[0]) == LZ4
        run = bytearray()
        for number in sorted(parts):
            if number and number - 1 not in parts:
                yield from (bytes(run), *_opened(bytes(run), whole=False))
                run = bytearray()
            run += parts[number]
        yield from (bytes(run), *_opened(bytes(run), whole=False))


def _chunk(data: bytes, at: int, fresh: int) -> bytes | None:
    """The chunk whose head is at ``at``, if there is one that ends behind ``fresh``."""
    if at + 4 > len(data):
        return None
    if data[at] & 1:
        start, end = at + 1, at + (data[at] >> 1)
    else:
        size = int.from_bytes(data[at : at + 4], "little")
        if size & 3:
            return None
        start, end = at + 4, at + (size >> 2)
    return data[start:end] if 0 < end - start <= CHUNK and fresh < end <= len(data) else None


def _packed_by(kept: bytes) -> int | None:
    """The method that a value's beginning names; None where it was kept as it is."""
    info = int.from_bytes(kept[:4], "little")
    return info >> 30 if len(kept) > 8 and 0 < info & 0x3FFFFFFF <= RAW_MAX and info >> 30 in (PGLZ, LZ4) else None


def _opened(kept: bytes, *, whole: bool = True) -> Iterator[bytes]:
    """What a value says that was kept compressed."""
    method = _packed_by(kept)
    raw = int.from_bytes(kept[:4], "little") & 0x3FFFFFFF
    if method is not None and raw > len(kept) - 4 and (found := decompress(kept[4:], raw, method, partial=not whole)):
        yield found
