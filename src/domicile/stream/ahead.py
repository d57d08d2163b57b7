"""What was read ahead of the stream, and how it is kept at the destination: committed with the rows, so that a stream
which is opened anew behind that commit knows as much as the one before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from domicile.postgres.failures import told
from domicile.stream.change import Field, Key
from domicile.stream.index import OwnershipIndex, Row
from domicile.stream.params import array, field, split
from domicile.stream.pipeline import Statement
from domicile.stream.seam import Seam

_BYTEA_OID = 17
_NUMBER = 4  # bytes of a table's number
_FORGET = b"""
    delete from domicile.ahead
    where wave = $1::integer and until <= (select position from domicile.wave where id = $1::integer)"""
_KEEP = b"""
    insert into domicile.ahead (wave, seam, until, entered, known)
    values ($1::integer, $2::text, $3::pg_lsn, $4::bytea[], $5::bytea[])"""
_KEPT = """
    select a.seam, (a.until - '0/0')::bigint, a.entered, a.known
    from domicile.ahead as a join domicile.wave as w on w.id = a.wave
    where w.id = %s and a.until > w.position order by a.id"""


@dataclass(frozen=True, slots=True)
class Ahead:
    """One reading: the snapshot, a position in the log behind everything that it sees (``pg_current_wal_insert_lsn``,
    asked for after it was taken), and the rows that it brought, by table and key, with at least the columns that the
    index remembers.

    ``known``: rows that it saw as well, but which were the wave's already: the stream carries them.
    """

    seam: Seam
    until: int
    entered: Mapping[tuple[int, Key], Row]
    known: Collection[tuple[int, Key]]


def keep(ahead: Ahead, index: OwnershipIndex, wave_id: int) -> list[Statement]:
    """Write it down, in place of what the stream has passed by. To be committed with the rows."""
    wave = wave_id.to_bytes(4, "big")
    entered = [_element(index, no, fields) for (no, _), fields in ahead.entered.items()]
    known = [field(_number(no) + key) for no, key in ahead.known]
    values = (
        wave,
        str(ahead.seam).encode(),
        ahead.until.to_bytes(8, "big"),
        array(entered, _BYTEA_OID),
        array(known, _BYTEA_OID),
    )
    return [Statement(_FORGET, (wave,), binary=True), Statement(_KEEP, values, binary=True)]


async def kept(conn: AsyncConnection[Any], index: OwnershipIndex, wave_id: int) -> list[Ahead]:
    """What the stream that is opened where it stopped has not passed by yet, in the order in which it was read."""
    with told("destination", "reading what was read ahead of the stream"):
        rows = await (await conn.execute(_KEPT, (wave_id,))).fetchall()
    return [
        Ahead(Seam.parse(seam), until, dict(_row(index, e) for e in entered), [_parts(k) for k in known])
        for seam, until, entered, known in rows
    ]


def _element(index: OwnershipIndex, no: int, fields: Row) -> Field:
    sent = [fields[at] for at in index.tables[no].remembered]
    return field(_number(no) + b"".join(f for f in sent if f is not None))


def _row(index: OwnershipIndex, element: bytes) -> tuple[tuple[int, Key], Row]:
    no, joined = _parts(element)
    table = index.tables[no]
    placed = dict(zip(table.remembered, split(joined, len(table.remembered)), strict=True))
    return (no, b"".join(placed[at] for at in table.table.key_at)), placed


def _number(no: int) -> bytes:
    return no.to_bytes(_NUMBER, "big")


def _parts(element: bytes) -> tuple[int, bytes]:
    return int.from_bytes(element[:_NUMBER], "big"), element[_NUMBER:]
