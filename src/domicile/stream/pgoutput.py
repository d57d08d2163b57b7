"""The messages of PostgreSQL's ``pgoutput`` (protocol 1), as bytes: what each says, and where its tuples are.

Changes to rows are not decoded into objects here: there are a hundred thousand a second, most of them of other users'
rows. Source: "Logical Replication Message Formats" in PostgreSQL's documentation, versions 15 to 18.
"""

from __future__ import annotations

from dataclasses import dataclass
import struct

from domicile.stream.change import NULL, Field

# First byte of a message.
BEGIN, COMMIT, ORIGIN, RELATION, TYPE, TRUNCATE, MESSAGE = b"BCORYTM"
INSERT, UPDATE, DELETE = b"IUD"
# What a tuple is: the row afterwards, the key before, the whole row before.
NEW, OLD_KEY, OLD_ROW = b"NKO"
# What a column of a tuple is.
IS_NULL, UNCHANGED, TEXT, BINARY = b"nutb"
SENT = frozenset((TEXT, BINARY))
# INSERT, or UPDATE without a tuple before: tag, relation, "N", number of columns. DELETE has "K" or "O" instead.
FIRST_COLUMN = 8

_BEGIN = struct.Struct("!xqqI").unpack
_COMMIT = struct.Struct("!xxqqq").unpack
_RELATION = struct.Struct("!xI").unpack_from
_COLUMN = struct.Struct("!Ii").unpack_from
_TRUNCATE = struct.Struct("!xIB").unpack_from
_MESSAGE = struct.Struct("!xBq").unpack_from
_U32 = struct.Struct("!I").unpack_from


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """One published column. ``in_key``: part of the replica identity."""

    name: str
    type_oid: int
    in_key: bool
    modifier: int


@dataclass(frozen=True, slots=True)
class Relation:
    """What a table looks like in the changes that follow. ``replica`` is its ``relreplident``."""

    oid: int
    schema: str
    name: str
    replica: str
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A logical message. ``position`` is that of the message itself, not of its transaction's commit."""

    transactional: bool
    position: int
    prefix: str
    content: bytes


def begin(payload: bytes) -> tuple[int, int, int]:
    """Position of the commit record, time of the commit (microseconds since 2000-01-01), xid of 32 bits."""
    position, committed_at, xid = _BEGIN(payload)
    return position, committed_at, xid


def commit(payload: bytes) -> int:
    """The position behind the commit record."""
    end: int = _COMMIT(payload)[1]
    return end


def relation(payload: bytes) -> Relation:
    """A Relation message."""
    (oid,) = _RELATION(payload)
    schema, at = _text(payload, 5)
    name, at = _text(payload, at)
    replica, count = chr(payload[at]), int.from_bytes(payload[at + 1 : at + 3], "big")
    at += 3
    columns = []
    for _ in range(count):
        flags = payload[at]
        column, at = _text(payload, at + 1)
        type_oid, modifier = _COLUMN(payload, at)
        columns.append(RelationColumn(column, type_oid, bool(flags & 1), modifier))
        at += 8
    return Relation(oid, schema or "pg_catalog", name, replica, tuple(columns))


def truncated(payload: bytes) -> tuple[int, ...]:
    """The object ids of the relations that a Truncate message names."""
    count, _ = _TRUNCATE(payload)
    return struct.unpack_from(f"!{count}I", payload, 6)


def message(payload: bytes) -> Message:
    """A logical message."""
    flags, position = _MESSAGE(payload)
    prefix, at = _text(payload, 10)
    (length,) = _U32(payload, at)
    return Message(bool(flags & 1), position, prefix, payload[at + 4 : at + 4 + length])


def fields(payload: bytes, at: int) -> tuple[list[Field | None], int]:
    """The columns of the tuple whose first column begins at ``at``, as fields in their order (None: not sent,
    unchanged), and where the tuple ends."""
    found: list[Field | None] = []
    add = found.append
    for _ in range(payload[at - 2] << 8 | payload[at - 1]):
        kind = payload[at]
        if kind in SENT:
            end = at + 5 + _U32(payload, at + 1)[0]
            add(payload[at + 1 : end])
            at = end
        else:
            add(NULL if kind == IS_NULL else None)
            at += 1
    if at > len(payload):
        raise IndexError("a value ends behind its message")
    return found, at


def behind(payload: bytes, at: int) -> int:
    """Where the tuple ends whose first column begins at ``at``."""
    for _ in range(payload[at - 2] << 8 | payload[at - 1]):
        kind = payload[at]
        at += 5 + _U32(payload, at + 1)[0] if kind in SENT else 1
    return at


def _text(payload: bytes, at: int) -> tuple[str, int]:
    end = payload.index(0, at)
    return payload[at:end].decode(), end + 1
