"""How a row becomes 64 bits: the bytes that a binary copy of it would carry, hashed once.

PostgreSQL's own hashes follow its equality, which is coarser than a copy must be. Found by measurement (15 to 18):
``hash_numeric`` ignores sign and scale, and gives NaN and both infinities one value; ``jsonb``'s hash inherits that,
and does not see where a nested array ends; -0.0 = 0.0, 24 hours = 1 day, ``'a ' = 'a'`` as bpchar; arrays leave out
their bounds; an enum hashes its OID; an 8-byte integer is folded to 32 bits first. And ``hash_record_extended`` adds up
its columns, so that two rows which swap a value keep their sum.

So a row is hashed as the bytes of ``record_send``: every bit of every column, with null and the columns' borders told
apart. Types whose bytes hold object ids, which differ between clusters, enter as text. Cost on the row of
``benchmarks/verify.py``: half as much again as the native hash, for jsonb must be written out to be seen exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
import hashlib

from psycopg import AsyncConnection, sql

from domicile.model.schema import Column, TableName
from domicile.postgres.ownership import Fragment, column

CATALOG = "pg_catalog"
OBJECT_NAMES = ("reg", "_reg")  # types whose values are object ids shown as names


class Mode(StrEnum):
    """How a hash is made, and what is trusted for it."""

    EXACT = "exact"  # the bytes of record_send, by PostgreSQL's hash of bytes
    AUDIT = "audit"  # SHA-256 of text forms: no trust in PostgreSQL's hash functions or in equal architectures


DEFAULT_MODE = Mode.EXACT

# Without the flag that there may be nulls: it outlives them (``update ... set a[1] = 'x'``), and no copy keeps it. That
# an element is null is said by the element itself.
_ARRAY = "pg_catalog.overlay(pg_catalog.array_send({}), '\\x00000000'::pg_catalog.bytea, 5, 4)"

# A record of every type that enters natively. Both servers must agree on its hash, and on the encoding of text.
_PROBE = """
    select pg_catalog.getdatabaseencoding(), pg_catalog.hash_record_extended(row(pg_catalog.record_send(row(
        true, 7::int2, -7::int4, 7000000000::int8, 42::oid, 'c'::"char", 'name'::name, 'text ÿ'::text,
        'varchar'::varchar, '\\x00ff'::bytea, '2026-02-28'::date, '23:59:59.000001'::time,
        '2026-02-28 23:59:59.000001'::timestamp, '1999-12-31 23:59:59.000001+00'::timestamptz,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'fe80::1/64'::inet, '10.0.0.0/8'::cidr,
        '08:00:2b:01:02:03'::macaddr, '08:00:2b:01:02:03:04:05'::macaddr8, '16/B374D848'::pg_lsn,
        null::text, -1.50::numeric, '{"a": [-1.50, null]}'::jsonb, array[1, null], '-1.5'::float8,
        '1 day 24:00:00'::interval, int4range(1, 5), '[1]'::json, '101'::bit(3)))), 7)"""


async def probe(conn: AsyncConnection) -> tuple[str, int]:
    """What this server makes of a fixed record, and its encoding."""
    row = await (await conn.execute(_PROBE)).fetchone()
    assert row is not None
    return str(row[0]), int(row[1])


def common_mode(source: tuple[str, int], target: tuple[str, int]) -> Mode:
    """The mode in which two servers can be compared: the default, or AUDIT where their probes differ. Pure."""
    return DEFAULT_MODE if source == target else Mode.AUDIT


def seed_of(table: TableName) -> int:
    """A table's own seed, never 0: equal rows of two tables must not look alike."""
    digest = hashlib.sha256(str(table).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True) or 1


def hashed(col: Column, mode: Mode, alias: str = "t") -> Fragment:
    """The expression that stands for the column in a hash. Null stays null."""
    value = column(alias, col.name)
    if mode is Mode.AUDIT and col.base_type != "bpchar":  # whose cast to text drops trailing blanks
        return sql.SQL("{}::pg_catalog.text").format(value)
    if means_the_same(col):
        # The cast changes nothing but a domain, whose own id would be in the bytes.
        plain = sql.SQL("{}::{}").format(value, sql.Identifier(CATALOG, col.base_type))
        return sql.SQL(_ARRAY).format(plain) if col.element_type else plain
    # Enums, composites, arrays of user types, types of extensions, reg* names; a text's collation is not in its bytes.
    return sql.SQL("{}::pg_catalog.text").format(value)


def means_the_same(col: Column) -> bool:
    """True when the column's binary form has the same bytes for the same value in every cluster."""
    if col.base_schema != CATALOG or not col.has_binary or col.base_type.startswith(OBJECT_NAMES):
        return False
    return not col.element_type or (col.element_schema == CATALOG and not col.element_type.startswith("reg"))


def row_hash(values: Sequence[Fragment], seed: int, mode: Mode) -> Fragment:
    """A bigint over the values in their order; null, empty and each other position differ."""
    listed = sql.SQL(", ").join(values)
    if mode is Mode.EXACT:
        # A hash of bytes that SQL may call exists from 18 on; as the only column of a record they are hashed alike.
        return sql.SQL("pg_catalog.hash_record_extended(row(pg_catalog.record_send(row({}))), {})").format(
            listed, sql.Literal(seed)
        )
    return _sha256(sql.SQL("row({}, {})").format(sql.Literal(str(seed)), listed))


def bound_hash(ordinal: Fragment, inner: Fragment, mode: Mode) -> Fragment:
    """The row's hash bound to its subject's ordinal, mixed so that sums of it hide nothing.

    ``inner`` is a `row_hash`; it becomes the seed of an integer's hash, whose 64 bits it all reaches.
    """
    if mode is Mode.EXACT:
        return sql.SQL("pg_catalog.hashint4extended({}, {})").format(ordinal, inner)
    return _sha256(sql.SQL("row({}, {})").format(ordinal, inner))


def _sha256(record: Fragment) -> Fragment:
    """The first 64 bits of SHA-256 over the record's text in UTF-8. SHA-256, because FIPS builds have no MD5."""
    return sql.SQL(
        "('x' || pg_catalog.encode(pg_catalog.substr(pg_catalog.sha256("
        "pg_catalog.convert_to({}::pg_catalog.text, 'UTF8')), 1, 8), 'hex'))::pg_catalog.bit(64)::pg_catalog.int8"
    ).format(record)
