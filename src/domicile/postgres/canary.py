"""Canaries: made-up values in tables that are like the wave's, so that a search can be tried out before it is trusted.

The application's own tables are not touched: for each a twin in schema ``domicile`` is made, with the same columns,
storage, compression, indexes and statistics, and without its constraints, triggers and readers. What a twin cannot
show is how full or how old the application's table is; decision 0018.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
import hashlib

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from domicile.model.erasure import Place
from domicile.model.schema import TableName
from domicile.postgres.ownership import ident

LIVE_ROWS, DEAD_ROWS = 3, 3
SQUEEZED_CHARS, LONG_CHARS = 6_000, 24_000
TOKEN_CHARS = 28
_TWIN = "create table {} (like {} including storage including compression including indexes including statistics)"
_TEXTS, _TEXT_ARRAYS = ("text", "varchar", "bpchar", "citext", "name"), ("_text", "_varchar")
_DATES = ("date", "timestamp", "timestamptz")
_NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8", "oid")
_COLUMNS = """
select a.attname, t.typname, a.atttypmod, a.attstorage::text,
       coalesce((select pg_catalog.bool_or(i.indisprimary) from pg_catalog.pg_index as i
                 where i.indrelid = a.attrelid and a.attnum = any (i.indkey::int2[])), false),
       coalesce((select pg_catalog.array_agg(distinct m.amname::text) from pg_catalog.pg_index as i
                 join pg_catalog.pg_class as c on c.oid = i.indexrelid join pg_catalog.pg_am as m on m.oid = c.relam
                 where i.indrelid = a.attrelid and i.indpred is null
                 and a.attnum = any (i.indkey::int2[])), '{}'),
       exists (select from pg_catalog.pg_index as i where i.indrelid = a.attrelid
               and (a.attnum = any (i.indkey::int2[]) or i.indexprs is not null)),
       exists (select from pg_catalog.pg_statistic_ext as s where s.stxrelid = a.attrelid
               and 'm' = any (s.stxkind) and a.attnum = any (s.stxkeys::int2[]))
from pg_catalog.pg_attribute as a join pg_catalog.pg_type as d on d.oid = a.atttypid
join pg_catalog.pg_type as t on t.oid = coalesce(nullif(d.typbasetype, 0), d.oid)
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum"""
_MARK = sql.SQL("%s")
_MARKS = {
    "json": sql.SQL("%s::json"),
    "tsvector": sql.SQL("%s::tsvector"),
    "_text": sql.SQL("%s::text[]"),
    "_varchar": sql.SQL("%s::varchar[]"),
    "uuid": sql.SQL("%s::uuid"),
}
_LOG = "begin raise log 'domicile canary {}'; end"
_TWINS = """
select c.relname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = 'domicile' and c.relname ~ '^canary_[0-9]+$' and c.relkind = 'r'"""


@dataclass(frozen=True, slots=True)
class Canary:
    """One planted value as it stands on disk, and where it must be found."""

    value: bytes
    places: frozenset[Place]


@dataclass(slots=True)
class Planted:
    """``refused``: sentences, for tables in which none could be planted."""

    canaries: list[Canary] = field(default_factory=list)
    tables: list[TableName] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    limit: int  # characters; -1 for none
    storage: str
    primary: bool
    methods: tuple[str, ...]
    indexed: bool
    extended: bool

    @property
    def takes_text(self) -> bool:
        """True for a column whose value can be, or hold, a token."""
        if self.type in _TEXTS:
            return self.limit < 0 or self.limit >= TOKEN_CHARS
        return self.type in ("jsonb", "json", "bytea", "tsvector", *_TEXT_ARRAYS)

    @property
    def takes_length(self) -> bool:
        """True for one that takes a value of any length."""
        long = self.type in ("text", "varchar", "citext", "jsonb", "json", "bytea") and self.limit < 0
        return long and not self.indexed and self.storage in "xem"


async def plant(conn: AsyncConnection, tables: Sequence[TableName], key: bytes) -> Planted:
    """Make the twins, fill them, remove some rows again as a purge would. Idempotent: twins that are there are
    made anew.

    ``key`` makes the values: the same key, the same canaries.
    """
    await uproot(conn)
    planted = Planted()
    for number, table in enumerate(tables):
        twin = TableName("domicile", f"canary_{number}")
        try:
            async with conn.transaction():
                found = await _plant(conn, table, twin, key)
        except psycopg.Error as error:
            if conn.broken:
                raise
            planted.refused.append(f"{table}: its twin could not be made or filled (SQLSTATE {error.sqlstate})")
            continue
        if not found:
            planted.refused.append(f"{table}: no column of it can hold a canary")
        planted.canaries += found
        planted.tables.append(twin)
        await _remove_some(conn, twin)
    token = _token(key, "log")
    try:
        await conn.execute(sql.SQL("do {}").format(sql.Literal(_LOG.format(token))))
        planted.canaries.append(Canary(token.encode(), frozenset({Place.LOGS})))
    except psycopg.Error as error:
        planted.refused.append(f"the server's log: SQLSTATE {error.sqlstate}")
    return planted


async def remove(conn: AsyncConnection, tables: Sequence[TableName]) -> None:
    """Delete every canary row, as a purge deletes the wave's."""
    for table in tables:
        await conn.execute(sql.SQL("delete from {}").format(ident(table)))


async def twins(conn: AsyncConnection) -> list[TableName]:
    """The twins there are."""
    return [TableName("domicile", name) for (name,) in await (await conn.execute(_TWINS)).fetchall()]


async def uproot(conn: AsyncConnection) -> None:
    """Drop every twin. Idempotent."""
    for twin in await twins(conn):
        await conn.execute(sql.SQL("drop table {}").format(ident(twin)))


async def _plant(conn: AsyncConnection, table: TableName, twin: TableName, key: bytes) -> list[Canary]:
    await conn.execute(sql.SQL(_TWIN).format(ident(twin), ident(table)))
    await conn.execute(sql.SQL("alter table {} set (autovacuum_enabled = false)").format(ident(twin)))
    columns = await _columns(conn, twin)
    for column in columns:
        if not column.primary:
            await conn.execute(
                sql.SQL("alter table {} alter column {} drop not null").format(ident(twin), sql.Identifier(column.name))
            )
    plain = [c for c in columns if c.type in _TEXTS and c.takes_text]
    if plain and not any("btree" in c.methods for c in plain):
        await conn.execute(sql.SQL("create index on {} ({})").format(ident(twin), sql.Identifier(plain[0].name)))
        columns = await _columns(conn, twin)
    found: list[Canary] = []
    for number, kind in enumerate(_kinds()):
        values: dict[str, object] = {}
        for column in columns:
            token = _token(key, f"{twin.name}/{column.name}/{number}")
            value, places = _value(column, kind, token, number)
            if value is not None:
                values[column.name] = value
            if places:
                raw = bytes.fromhex(token_uuid(token)) if column.type == "uuid" else token.encode()
                found.append(Canary(raw, places))
        await _insert(conn, twin, values, columns)
    return found


def _kinds() -> Iterator[str]:
    """Rows that stay, then those that are removed before the first scan."""
    yield from ["live"] * LIVE_ROWS
    yield from ("squeezed", "long", "plain")
    yield from ["dead"] * DEAD_ROWS


async def _remove_some(conn: AsyncConnection, twin: TableName) -> None:
    """The dead rows go the way of removed rows: their bytes stay in space that VACUUM has freed."""
    count = sql.Literal(DEAD_ROWS)
    await conn.execute(
        sql.SQL("delete from {0} where ctid in (select ctid from {0} order by ctid desc limit {1})").format(
            ident(twin), count
        )
    )
    await conn.execute(sql.SQL("vacuum (analyze, truncate false) {}").format(ident(twin)))


def _value(column: _Column, kind: str, token: str, number: int) -> tuple[object, frozenset[Place]]:
    """What goes into the column of a row of that kind, and where it must be found; None and nowhere for one that is
    left empty."""
    none: frozenset[Place] = frozenset()
    if column.type == "uuid":
        return token_uuid(token), _inline(column, kind)
    if column.primary and column.type in _NUMBERS:
        return number + 1, none
    if column.primary and column.type in _DATES:
        return f"2000-01-{number + 1:02}", none
    if not column.takes_text:
        return None, none
    if kind in ("live", "dead"):
        return _shaped(column, token, ""), _inline(column, kind)
    if not column.takes_length:
        return (_shaped(column, token, ""), frozenset({Place.WAL})) if column.primary else (None, none)
    if kind == "squeezed":
        squeezed = column.storage in "xm"
        return (_shaped(column, token, "all work and no play " * (SQUEEZED_CHARS // 21)) if squeezed else None), (
            frozenset({Place.TABLES, Place.WAL}) if squeezed else none
        )
    filler = _words(token) if kind == "long" else _noise(token)
    return _shaped(column, token, filler), frozenset({Place.TOAST, Place.WAL})


def _inline(column: _Column, kind: str) -> frozenset[Place]:
    if kind == "dead":
        return frozenset({Place.FREED, Place.WAL})
    places = {Place.TABLES, Place.WAL}
    if "btree" in column.methods or ("gin" in column.methods and column.type in ("tsvector", *_TEXT_ARRAYS)):
        places.add(Place.INDEXES)
    if column.type in _TEXTS or column.type == "uuid":
        places.add(Place.STATISTICS)
        if column.extended:
            places.add(Place.EXTENDED)
    return frozenset(places)


def _shaped(column: _Column, token: str, filler: str) -> object:
    text = f"{token} {filler}" if filler else token
    match column.type:
        case "jsonb" | "json":
            return Jsonb({"canary": token, "filler": filler})
        case "bytea":
            return text.encode()
        case "tsvector" | "name":
            return token
        case kind if kind in _TEXT_ARRAYS:
            return [token]
        case _:
            return text


async def _insert(
    conn: AsyncConnection, twin: TableName, values: dict[str, object], columns: Sequence[_Column]
) -> None:
    if not values:
        return
    kinds = {c.name: c.type for c in columns}
    marks = [_MARKS.get(kinds[name], _MARK) for name in values]
    statement = sql.SQL("insert into {} ({}) values ({})").format(
        ident(twin), sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(marks)
    )
    await conn.execute(statement, list(values.values()))


async def _columns(conn: AsyncConnection, twin: TableName) -> list[_Column]:
    name = sql.Identifier(twin.schema, twin.name).as_string(conn)
    found = await (await conn.execute(_COLUMNS, (name,))).fetchall()
    return [
        _Column(column, kind, limit - 4 if limit >= 0 else -1, storage, primary, tuple(methods), indexed, extended)
        for column, kind, limit, storage, primary, methods, indexed, extended in found
    ]


def _token(key: bytes, what: str) -> str:
    """Letters and digits that no row holds by chance; one word for a full-text index."""
    raw = hashlib.blake2b(what.encode(), digest_size=16, key=key).digest()
    return "c4" + base64.b32encode(raw).decode().strip("=").lower()


def token_uuid(token: str) -> str:
    """32 hex digits made of a token."""
    return hashlib.blake2b(token.encode(), digest_size=16).hexdigest()


def _words(seed: str) -> str:
    """Text that compresses to less than half, and to more than a page."""
    pool = [hashlib.blake2b(f"{seed}{n}".encode(), digest_size=4).hexdigest() for n in range(64)]
    order = hashlib.shake_256(seed.encode()).digest(LONG_CHARS // 9)
    return " ".join(pool[b & 63] for b in order)


def _noise(seed: str) -> str:
    """Text that does not compress."""
    return base64.b85encode(hashlib.shake_256(seed.encode()).digest(LONG_CHARS // 3)).decode()
