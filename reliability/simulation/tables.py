"""The world's tables: users, their orders, and what hangs from an order by its key (items) and by its code (parcels).

Rows are tuples of fields as the stream has them, so nothing is converted between a simulated site and the real code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import struct

from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.stream.change import NULL, Field
from domicile.stream.layout import Identity, Layout, Owner, StreamTable

Row = tuple[Field, ...]
Tables = tuple[dict[Field, Row], ...]
"""Rows by key, table by table."""
USERS, ORDERS, ITEMS, PARCELS = range(4)
NAMES = ("users", "orders", "items", "parcels")
COLUMNS = (
    ("id", "name"),
    ("id", "user_id", "code", "note", "n"),
    ("id", "order_id", "n"),
    ("id", "code", "n"),
)
ID, USER_ID, CODE, NOTE, N = range(5)
ORDER_ID = PARCEL_CODE = 1
COUNTER = {ORDERS: N, ITEMS: 2, PARCELS: 2}
LARGE = 24
"""A text of so many bytes is kept out of line, and not sent when an update leaves it as it is."""
CHILDREN: Mapping[int, Sequence[tuple[int, int, int]]] = {
    USERS: ((ORDERS, USER_ID, ID),),
    ORDERS: ((ITEMS, ORDER_ID, ID), (PARCELS, PARCEL_CODE, CODE)),
}
"""Of a table: who refers to it, by which column, to which column."""
_STEPS = {"orders": "user_id -> users(id)", "items": "order_id -> orders(id)", "parcels": "code -> orders(code)"}
_OID = 16_400
_BIGINT, _TEXT = 20, 25
_U16, _U32 = struct.Struct("!H").pack, struct.Struct("!I").pack


def number(value: int) -> Field:
    """A bigint."""
    return b"\0\0\0\x08" + value.to_bytes(8, "big", signed=True)


def value_of(field: Field) -> int:
    return int.from_bytes(field[4:], "big", signed=True)


def text(value: str) -> Field:
    """A text."""
    written = value.encode()
    return len(written).to_bytes(4, "big") + written


def _data_map() -> DataMap:
    subject = TableName("public", "users")
    rules = {subject: TableRule(subject, Role.SUBJECT)}
    for name, step in _STEPS.items():
        table = TableName("public", name)
        rules[table] = TableRule(table, Role.OWNED, OwnerStep.parse(step))
    return DataMap(DatasetName("shop"), SubjectRule(subject, "id"), rules)


DATA_MAP = _data_map()
_OWNERS = (Owner((0,)), Owner((USER_ID,)), Owner((1,), ORDERS, (ID,)), Owner((1,), ORDERS, (CODE,)))


def _is_text(column: str) -> bool:
    return column in ("name", "code", "note")


def _layout() -> Layout:
    tables = tuple(
        StreamTable(
            no=no,
            name=TableName("public", name),
            columns=COLUMNS[no],
            type_names=tuple("text" if _is_text(c) else "bigint" for c in COLUMNS[no]),
            families=tuple("text" if _is_text(c) else "int" for c in COLUMNS[no]),
            key=("id",),
            key_at=(0,),
            identity=Identity.KEY,
            owner=_OWNERS[no],
            replica="d",
        )
        for no, name in enumerate(NAMES)
    )
    assert tuple(table.name for table in tables) == DATA_MAP.in_scope()
    return Layout(tables, binary=True)


LAYOUT = _layout()


def _relation(no: int) -> bytes:
    columns = b"".join(
        struct.pack("!B", c == "id") + c.encode() + b"\0" + struct.pack("!Ii", _TEXT if _is_text(c) else _BIGINT, -1)
        for c in COLUMNS[no]
    )
    return b"R" + _U32(_OID + no) + b"public\0" + NAMES[no].encode() + b"\0d" + _U16(len(COLUMNS[no])) + columns


RELATIONS = tuple(map(_relation, range(len(NAMES))))
_HEADS = tuple(_U32(_OID + no) for no in range(len(NAMES)))


def change_message(no: int, old: Row | None, new: Row | None) -> bytes:
    """What pgoutput says of a change: of a deletion only the key, of an update the former key where it is another."""
    if new is None:
        assert old is not None
        return b"D" + _HEADS[no] + b"K" + _tuple((old[0], *(NULL for _ in old[1:])))
    if old is None:
        return b"I" + _HEADS[no] + b"N" + _tuple(new)
    before = b"" if old[0] == new[0] else b"K" + _tuple((old[0], *(NULL for _ in old[1:])))
    return b"U" + _HEADS[no] + before + b"N" + _tuple(new, old)


def _tuple(row: Row, before: Row | None = None) -> bytes:
    parts = [_U16(len(row))]
    for at, field in enumerate(row):
        if field == NULL:
            parts.append(b"n")
        elif before is not None and before[at] == field and len(field) > LARGE:
            parts.append(b"u")
        else:
            parts.append(b"b" + field)
    return b"".join(parts)


def table_of(message: bytes) -> int | None:
    """Which table a message is about; None for one that is about none."""
    return int.from_bytes(message[1:5], "big") - _OID if message[0] in b"IUD" else None


def begin_message(record: int, at: float, xid: int) -> bytes:
    return b"B" + struct.pack("!qqI", record, int(at * 1_000_000), xid & 0xFFFFFFFF)


def commit_message(record: int, end: int, at: float) -> bytes:
    return b"C\0" + struct.pack("!qqq", record, end, int(at * 1_000_000))


def marker_message(position: int, content: bytes) -> bytes:
    return b"M\x01" + struct.pack("!q", position) + b"domicile\0" + _U32(len(content)) + content


def owner_in(tables: Tables, no: int, row: Row) -> int | None:
    """The user whose row it is by these tables; None when its parent is not there."""
    match no:
        case 0:
            return value_of(row[ID])
        case 1:
            return value_of(row[USER_ID])
        case 2:
            parent = tables[ORDERS].get(row[ORDER_ID])
            return None if parent is None else value_of(parent[USER_ID])
    found = next((order for order in tables[ORDERS].values() if order[CODE] == row[PARCEL_CODE]), None)
    return None if found is None else value_of(found[USER_ID])
