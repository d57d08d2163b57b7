"""What passes between the filter and the apply: changes to rows of the wave, and nothing else.

A *field* is one column's value as the stream sent it, behind its length in four bytes (big endian): so it is in binary
COPY, in a binary array and in the stream itself. The bytes are the type's binary form or its text, one or the other for
a whole stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

Field = bytes
NULL: Field = b"\xff\xff\xff\xff"

Key = bytes
"""The fields of a row's identity, one behind the other: hashable, and ready to be sent."""


class Op(IntEnum):
    """What happened to a row."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3


@dataclass(slots=True)
class Change:
    """One row of the wave changed. ``table`` is its number in `Layout.tables`.

    ``key`` is the identity afterwards (for DELETE: the one that goes); ``old_key`` the one before, where an UPDATE
    changed it. ``fields`` is the row afterwards, one per column of the table, None inside for a value that was not sent
    because it did not change (out-of-line values); empty for DELETE.
    """

    table: int
    op: Op
    key: Key
    fields: tuple[Field | None, ...] = ()
    old_key: Key | None = None


@dataclass(slots=True)
class Transaction:
    """One transaction of the origin, of which only the wave's part is left.

    ``position`` is the log position behind its commit record: unique, growing. ``leave`` and ``enter`` name rows that
    came to another owner (by an UPDATE of the row's own owner columns), with everything that hangs from them.
    ``last`` is False for a first part of a transaction too large to be held in memory.
    """

    xid: int  # 32 bits
    position: int
    committed_at: int  # microseconds since 2000-01-01, by the origin's clock
    changes: list[Change] = field(default_factory=list)
    leave: list[tuple[int, Key]] = field(default_factory=list)
    enter: list[tuple[int, Key]] = field(default_factory=list)
    last: bool = True


@dataclass(frozen=True, slots=True)
class Marker:
    """A logical message of ours arrived in the stream: everything committed before it has been read."""

    position: int
    content: bytes
