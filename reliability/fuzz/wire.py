"""A wave of six tables, and what a source says of them: messages of ``pgoutput`` put together byte by byte, as the
protocol's description has them, by nothing of ours that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
import struct
from typing import Any

from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.stream.filter import WaveFilter
from domicile.stream.index import empty_index
from domicile.stream.layout import Identity, Layout, Owner, StreamTable
from domicile.stream.seam import Seam
from reliability.fuzz.dice import MARKER, one_in

MEMBERS = (1, 2)
_SEAM = Seam(100, 110, frozenset({105}))


@dataclass(frozen=True, slots=True)
class Kind:
    """A column's type: as the server names it, its family in the layout, its oid in the stream."""

    type_name: str
    family: str
    oid: int


BIGINT, INTEGER, SMALLINT = Kind("bigint", "int", 20), Kind("integer", "int", 23), Kind("smallint", "int", 21)
TEXT, STAMP = Kind("text", "text", 25), Kind("timestamp with time zone", "timestamptz", 1184)
UUID, FLAG = Kind("uuid", "uuid", 2950), Kind("boolean", "bool", 16)
MOMENT = Kind("public.moment", "timestamptz", 16_999)  # a domain
MOOD = Kind("public.mood", "public.mood", 17_001)  # an enumeration

TABLES: Mapping[str, Mapping[str, Kind]] = {
    "account": {"id": BIGINT, "email": TEXT, "vip": FLAG},
    "device": {"user_id": BIGINT, "imei": TEXT},
    "moment": {"at": MOMENT, "user_id": BIGINT, "mood": MOOD},
    "orders": {"id": BIGINT, "user_id": INTEGER, "code": TEXT, "at": STAMP},
    "item": {"order_id": BIGINT, "line_no": SMALLINT, "note": TEXT},
    "parcel": {"id": UUID, "code": TEXT},
}
_KEYS = {"account": ("id",), "moment": ("at",), "orders": ("id",), "item": ("order_id", "line_no"), "parcel": ("id",)}
_STEPS = {
    "device": "user_id -> account(id)",
    "moment": "user_id -> account(id)",
    "orders": "user_id -> account(id)",
    "item": "order_id -> orders(id)",
    "parcel": "code -> orders(code)",
}


def _data_map() -> DataMap:
    subject = TableName("public", "account")
    rules = {subject: TableRule(subject, Role.SUBJECT)}
    for name, step in _STEPS.items():
        table = TableName("public", name)
        rules[table] = TableRule(table, Role.OWNED, OwnerStep.parse(step))
    return DataMap(DatasetName("shop"), SubjectRule(subject, "id"), rules)


DATA_MAP = _data_map()


def _owner(name: str, numbers: Mapping[str, int]) -> Owner:
    if name not in _STEPS:
        return Owner((0,))
    step = OwnerStep.parse(_STEPS[name])
    at = (list(TABLES[name]).index(step.columns[0]),)
    if step.to_table.name == "account":
        return Owner(at)
    return Owner(at, numbers[step.to_table.name], (list(TABLES[step.to_table.name]).index(step.to_columns[0]),))


def _layout(*, binary: bool) -> Layout:
    order = DATA_MAP.in_scope()
    numbers = {table.name: no for no, table in enumerate(order)}
    tables = []
    for no, table in enumerate(order):
        columns = TABLES[table.name]
        key = _KEYS.get(table.name, tuple(columns))
        tables.append(
            StreamTable(
                no=no,
                name=table,
                columns=tuple(columns),
                type_names=tuple(kind.type_name for kind in columns.values()),
                families=tuple(kind.family for kind in columns.values()),
                key=key,
                key_at=tuple(list(columns).index(name) for name in key),
                identity=Identity.KEY if table.name in _KEYS else Identity.FULL,
                owner=_owner(table.name, numbers),
                replica="d" if table.name in _KEYS else "f",
            )
        )
    return Layout(tuple(tables), binary)


LAYOUTS = {True: _layout(binary=True), False: _layout(binary=False)}


def wave_filter(*, binary: bool) -> WaveFilter:
    """A filter for a wave of two members, of whom each has an order."""
    index = empty_index(LAYOUTS[binary])
    for member in MEMBERS:
        index.members.add(member)
    return WaveFilter(LAYOUTS[binary], DATA_MAP, index, _SEAM, 0, part_changes=6)


def stream(dice: Random, *, binary: bool) -> list[bytes]:
    """Relations and a few transactions, as a server might send them: odd, but as the protocol has them."""
    names = dice.sample(list(TABLES), dice.randrange(1, 4))
    orders = {name: dice.sample(list(TABLES[name]), len(TABLES[name])) for name in names}
    said = [relation(name, orders[name]) for name in names]
    position = 1_000
    for _ in range(dice.randrange(1, 4)):
        position += 100
        said.append(b"B" + struct.pack("!qqI", position, 0, dice.choice((1, 105, 110, 2**31, 2**32 - 1))))
        for _ in range(dice.randrange(1, 6)):
            name = dice.choice(names)
            said.append(_change(dice, name, orders[name], binary=binary))
        if one_in(dice, 8):
            said.append(_other(dice, position))
        said.append(b"C\0" + struct.pack("!qqq", position, position + 50, 0))
    return said


def oid_of(name: str) -> int:
    """The object id of a table, as the source has it."""
    return 20_000 + list(TABLES).index(name)


def relation(name: str, order: Sequence[str]) -> bytes:
    """A Relation message with the columns in this order."""
    keys = _KEYS.get(name, tuple(TABLES[name]))
    columns = b"".join(
        struct.pack("!B", column in keys) + column.encode() + b"\0" + struct.pack("!Ii", TABLES[name][column].oid, -1)
        for column in order
    )
    letter = b"d" if name in _KEYS else b"f"
    head = b"R" + struct.pack("!I", oid_of(name)) + b"public\0" + name.encode() + b"\0" + letter
    return head + struct.pack("!H", len(order)) + columns


def _change(dice: Random, name: str, order: Sequence[str], *, binary: bool) -> bytes:
    head = struct.pack("!I", oid_of(name))
    key = _KEYS.get(name, ())
    row = _row(dice, name, binary=binary)
    match dice.randrange(4):
        case 0 | 1:
            return b"I" + head + b"N" + _tuple(order, row, binary=binary)
        case 2:
            before = {c: row[c] if c in key else None for c in order} if key else row
            return b"D" + head + (b"K" if key else b"O") + _tuple(order, before, binary=binary)
    old = _row(dice, name, binary=binary)
    told = b""
    if not key or one_in(dice, 3):
        before = {c: old[c] if c in key else None for c in order} if key else old
        told = (b"K" if key else b"O") + _tuple(order, before, binary=binary)
    unsent = {c for c in order if TABLES[name][c] is TEXT and c not in key and one_in(dice, 4)}
    return b"U" + head + told + b"N" + _tuple(order, row, unsent, binary=binary)


def _other(dice: Random, position: int) -> bytes:
    """A truncation, a logical message, an origin, a type."""
    prefix = dice.choice((b"domicile", b"other", b""))
    content = dice.choice((b"", b"1", b"\xff\0", MARKER.encode()))
    message = struct.pack("!Bq", dice.randrange(2), position) + prefix + b"\0" + struct.pack("!I", len(content))
    return dice.choice(
        (
            b"M" + message + content,
            b"T" + struct.pack("!IBI", 1, 0, oid_of(dice.choice(list(TABLES)))),
            b"O" + struct.pack("!q", 1) + b"elsewhere\0",
            b"Y" + struct.pack("!I", MOOD.oid) + b"public\0mood\0",
        )
    )


def _row(dice: Random, name: str, *, binary: bool) -> dict[str, bytes | None]:
    key = _KEYS.get(name, ())
    return {
        column: None if column not in key and one_in(dice, 8) else _value(dice, kind, binary=binary)
        for column, kind in TABLES[name].items()
    }


def _value(dice: Random, kind: Kind, *, binary: bool) -> bytes:
    """A value of the type as a server sends it. The instants go as far as PostgreSQL's do."""
    texts = (b"", b"a", MARKER.encode(), '"\\{}, ü'.encode(), b"NULL", b"x" * 300)
    match kind.family:
        case "int":
            width = {20: 8, 23: 4, 21: 2}[kind.oid]
            edge = 1 << (8 * width - 1)
            number = dice.choice((1, 2, 3, 4, 1, 2, 0, -1, edge - 1, -edge))
            return number.to_bytes(width, "big", signed=True) if binary else str(number).encode()
        case "timestamptz":
            if not binary:
                return dice.choice((b"2026-01-01 00:00:00+00", b"infinity", b"-infinity", b"4713-01-01 00:00:00+00 BC"))
            # 2000-01-01, the ends of time, the year 9999 and what is behind it, the year 1 and what is before it.
            years = (0, 2**63 - 1, -(2**63), 252_455_615_999_999_999, 252_455_616_000_000_000, -63_082_281_600_000_000)
            return dice.choice((*years, -63_082_281_600_000_001)).to_bytes(8, "big", signed=True)
        case "uuid":
            return bytes(15) + dice.choice((b"\1", b"\2")) if binary else b"00000000-0000-0000-0000-000000000001"
        case "bool":
            return dice.choice((b"\0", b"\1")) if binary else dice.choice((b"t", b"f"))
        case "public.mood":
            return dice.choice((b"glad", 'träge, "so"'.encode()))
        case _:
            return dice.choice(texts)


def _tuple(order: Sequence[str], row: Mapping[str, bytes | None], unsent: Iterable[str] = (), *, binary: bool) -> bytes:
    kind = b"b" if binary else b"t"
    done = struct.pack("!H", len(order))
    left_out = set(unsent)
    for column in order:
        value: Any = row[column]
        if column in left_out:
            done += b"u"
        elif value is None:
            done += b"n"
        else:
            done += kind + struct.pack("!I", len(value)) + value
    return done
