"""Values of the stream as parameters of a statement: bytes that nobody decodes on their way.

A field is one value behind its length, and so is an element of a binary array: an array is a header and its fields
joined. In a stream of text the fields hold text, and the arrays are arrays of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
import re
import struct
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

from domicile.stream.change import NULL, Field, Key
from domicile.stream.layout import StreamTable

TEXT_OID = 25
# Dimensions, a flag for nulls (PostgreSQL looks for itself), oid of the elements; then the length and lower bound.
_HEADER = struct.Struct("!iiIii")
_EMPTY = struct.Struct("!iiI")

# Types whose oid is the same in every database, of those that keys may have.
_KEY_OIDS = {
    "boolean": 16,
    "bytea": 17,
    "bigint": 20,
    "smallint": 21,
    "integer": 23,
    "text": TEXT_OID,
    "character": 1042,
    "character varying": 1043,
    "date": 1082,
    "timestamp without time zone": 1114,
    "timestamp with time zone": 1184,
    "uuid": 2950,
}
_MODIFIER = re.compile(r"\(\d+\)")
_DAY_ZERO = 2451545  # 2000-01-01 as a Julian day
_MICROSECOND_ZERO = datetime(2000, 1, 1, tzinfo=UTC)
_DAY_MICROSECONDS = 86_400_000_000
# The ends of time, by width in bytes: dates and instants know them, Python's do not.
_ENDLESS = {
    (width, sign * ((1 << (8 * width - 1)) - (sign > 0))): text
    for width in (4, 8)
    for sign, text in ((1, "infinity"), (-1, "-infinity"))
}


class Raw(bytes):
    """A parameter for psycopg that is in binary form already; the statement casts it to its type."""

    __slots__ = ()


class RawDumper(Dumper):
    """Sends `Raw` as it is."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Raw) -> bytes:
        """The bytes themselves."""
        return obj


psycopg.adapters.register_dumper(Raw, RawDumper)  # for connections that are opened from now on


def array(fields: Sequence[Field], element: int) -> bytes:
    """A one-dimensional binary array. ``element`` is the oid of the element's type in the database that reads it."""
    if not fields:
        return _EMPTY.pack(0, 0, element)
    return _HEADER.pack(1, 0, element, len(fields), 1) + b"".join(fields)


def split(key: Key, count: int) -> tuple[Field, ...]:
    """The ``count`` fields of a key."""
    if count == 1:
        return (key,)
    fields: list[Field] = []
    at = 0
    for _ in range(count):
        head = key[at : at + 4]
        end = at + 4 if head == NULL else at + 4 + int.from_bytes(head, "big")
        fields.append(key[at:end])
        at = end
    assert at == len(key), "a key of another table"
    return tuple(fields)


def by_column(keys: Sequence[Key], count: int) -> list[Sequence[Field]]:
    """The keys' fields column by column."""
    if count == 1:
        return [keys]
    fields = list(chain.from_iterable(split(key, count) for key in keys))
    return [fields[at::count] for at in range(count)]


def values(fields: Iterable[Field]) -> list[bytes | None]:
    """Fields as parameters of their own: without their lengths."""
    return [None if field == NULL else field[4:] for field in fields]


def field(value: bytes | None) -> Field:
    """A value as the server answers it, as a field."""
    return NULL if value is None else len(value).to_bytes(4, "big") + value


def cast_of(table: StreamTable, name: str, binary: bool) -> sql.SQL:
    """The type of one column, or text where the stream has text: what elements of `key_arrays` are."""
    return sql.SQL(table.type_names[table.columns.index(name)] if binary else "text")


def key_arrays(table: StreamTable, keys: Sequence[Key], binary: bool) -> list[Any]:
    """One array per column of the key, for psycopg, to be cast to arrays of `cast_of`; at either site.

    Not for tables without a key.
    """
    columns = by_column(keys, len(table.key))
    if not binary:
        return [Raw(array(fields, TEXT_OID)) for fields in columns]
    return [_array_of(table, at, fields) for at, fields in zip(table.key_at, columns, strict=True)]


def _array_of(table: StreamTable, at: int, fields: Sequence[Field]) -> object:
    oid = _KEY_OIDS.get(_MODIFIER.sub("", table.type_names[at]))
    if oid is not None:
        return Raw(array(fields, oid))
    # A domain or an enum has another oid at each site: it goes as an array's text, which needs none.
    family = table.families[at]
    return "{" + ",".join(_quoted(_text(family, field[4:])) for field in fields) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(family: str, value: bytes) -> str:
    """A value's text, from the binary form that its family has."""
    match family:
        case "int":
            return str(int.from_bytes(value, "big", signed=True))
        case "uuid":
            return value.hex()
        case "bytea":
            return "\\x" + value.hex()
        case "bool":
            return "t" if value == b"\x01" else "f"
        case "date":
            days = int.from_bytes(value, "big", signed=True)
            return _ENDLESS.get((4, days)) or f"J{_DAY_ZERO + days}"
        case "timestamp" | "timestamptz":
            moment = int.from_bytes(value, "big", signed=True)
            days, microseconds = divmod(moment, _DAY_MICROSECONDS)
            clock = (_MICROSECOND_ZERO + timedelta(microseconds=microseconds)).time().isoformat()
            return _ENDLESS.get((8, moment)) or f"J{_DAY_ZERO + days} {clock}+00"
    return value.decode()  # texts and enums


def position_text(position: int) -> bytes:
    """A log position as ``pg_lsn`` reads it."""
    return b"%X/%X" % (position >> 32, position & 0xFFFFFFFF)


def position_of(text: str) -> int:
    """A log position from the text of a ``pg_lsn``."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
