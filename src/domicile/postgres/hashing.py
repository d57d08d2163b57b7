"""How a row becomes 64 bits: per column, the SQL expression that is hashed, and what makes the hash trustworthy.

PostgreSQL's own hashes follow its equality, which is coarser than a copy must be. Found by measurement (15 to 18):

- ``hash_numeric`` ignores sign and scale, and gives NaN and both infinities one value; ``jsonb``'s hash inherits
  that, and does not see where a nested array ends: ``[[1], 2]`` and ``[[1, 2]]`` are alike.
- -0.0 = 0.0, 24 hours = 1 day, ``'a ' = 'a'`` as bpchar; arrays leave out their bounds; an enum hashes its OID.
- ``hash_record_extended`` adds up its columns (times powers of 31), so the sum over rows adds up per column: two rows
  that swap a value keep their sum. `bound_hash` puts a last step after it that does not add up.
- With seed 0 the float zero hashes like null: seeds are never 0.
- An 8-byte integer or timestamp is folded to 32 bits first: -1 and 4294967295 are alike.

So a column goes in natively only where its hash sees every bit of it; others go in as the bytes of their send function,
or as text. Cost on the row of `benchmarks/verify.py`: a third more than the native hash of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
import hashlib
from types import MappingProxyType

from psycopg import AsyncConnection, sql

from domicile.model.schema import Column, TableName
from domicile.postgres.ownership import Fragment, column

CATALOG = "pg_catalog"


class Mode(StrEnum):
    """How much a hash sees, and what it costs."""

    EXACT = "exact"  # every bit; the default
    NATIVE = "native"  # PostgreSQL's hash for jsonb and 8-byte types: faster, with the blind spots above
    AUDIT = "audit"  # SHA-256 of text forms: no trust in PostgreSQL's hash functions or in equal architectures


DEFAULT_MODE = Mode.EXACT

# The hash of these sees all their bytes, and is the same in every supported version.
_NATIVE = frozenset(
    {"bool", "int2", "int4", "oid", "char", "name", "text", "varchar", "bytea"}
    | {"date", "uuid", "inet", "cidr", "macaddr", "macaddr8"}
)
_COLLATED = frozenset({"text", "varchar", "name"})
# These lose something in their hash that their send function keeps.
_SENT: Mapping[str, str] = MappingProxyType(
    {
        "int8": "int8send",
        "time": "time_send",
        "timestamp": "timestamp_send",
        "timestamptz": "timestamptz_send",
        "pg_lsn": "pg_lsn_send",
        "jsonb": "jsonb_send",
        "numeric": "numeric_send",
        "float4": "float4send",
        "float8": "float8send",
        "interval": "interval_send",
        "timetz": "timetz_send",
        "bpchar": "bpcharsend",
        "money": "cash_send",
        "bit": "bit_send",
        "varbit": "varbit_send",
        "json": "json_send",
    }
)
_FAST = frozenset({"int8", "time", "timestamp", "timestamptz", "pg_lsn", "jsonb"})

# A record of every type that enters natively. Both servers must agree on its hash, and on the encoding of text.
_PROBE = """
    select pg_catalog.getdatabaseencoding(), pg_catalog.hash_record_extended(row(
        true, 7::int2, -7::int4, 7000000000::int8, 42::oid, 'c'::"char", 'name'::name, 'text ÿ'::text,
        'varchar'::varchar, '\\x00ff'::bytea, '2026-02-28'::date, '23:59:59.000001'::time,
        '2026-02-28 23:59:59.000001'::timestamp, '1999-12-31 23:59:59.000001+00'::timestamptz,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'fe80::1/64'::inet, '10.0.0.0/8'::cidr,
        '08:00:2b:01:02:03'::macaddr, '08:00:2b:01:02:03:04:05'::macaddr8, '16/B374D848'::pg_lsn,
        null::text, pg_catalog.numeric_send(-1.50), pg_catalog.jsonb_send('{"a": [-1.50, null]}')), 7)"""


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
    builtin = col.base_type if col.base_schema == CATALOG and not col.element_type else ""
    sent = _SENT.get(builtin)
    if mode is Mode.AUDIT and builtin != "bpchar":  # whose cast to text drops trailing blanks
        return sql.SQL("{}::pg_catalog.text").format(value)
    if mode is Mode.NATIVE and builtin in _FAST:
        return value
    if sent is not None:
        return sql.SQL("{}({})").format(sql.Identifier(CATALOG, sent), value)
    if builtin not in _NATIVE:
        # Arrays, enums, ranges, composites, types of extensions, reg* names, points, xml, text search.
        return sql.SQL('({}::pg_catalog.text collate pg_catalog."C")').format(value)
    if builtin in _COLLATED and not col.collation_deterministic:
        return sql.SQL('({} collate pg_catalog."C")').format(value)
    return value


def row_hash(values: Sequence[Fragment], seed: int, mode: Mode) -> Fragment:
    """A bigint over the values in their order; null, empty and each other position differ."""
    listed = sql.SQL(", ").join(values)
    if mode is not Mode.AUDIT:
        return sql.SQL("pg_catalog.hash_record_extended(row({}), {})").format(listed, sql.Literal(seed))
    return _sha256(sql.SQL("row({}, {})").format(sql.Literal(str(seed)), listed))


def bound_hash(ordinal: Fragment, inner: Fragment, mode: Mode) -> Fragment:
    """The row's hash bound to its subject's ordinal, mixed so that sums of it hide nothing.

    ``inner`` is a `row_hash`; it becomes the seed of an integer's hash, whose 64 bits it all reaches.
    """
    if mode is not Mode.AUDIT:
        return sql.SQL("pg_catalog.hashint4extended({}, {})").format(ordinal, inner)
    return _sha256(sql.SQL("row({}, {})").format(ordinal, inner))


def _sha256(record: Fragment) -> Fragment:
    """The first 64 bits of SHA-256 over the record's text in UTF-8. SHA-256, because FIPS builds have no MD5."""
    return sql.SQL(
        "('x' || pg_catalog.encode(pg_catalog.substr(pg_catalog.sha256("
        "pg_catalog.convert_to({}::pg_catalog.text, 'UTF8')), 1, 8), 'hex'))::pg_catalog.bit(64)::pg_catalog.int8"
    ).format(record)
