"""The rows of a wave as hashes, read at one site: whole tables, then subjects, then rows, then columns.

Every statement finds the rows by their owner path at that very site, so a row that has another owner there is not
counted for this one. A digest is the sum of the rows' hashes, each bound to its subject: sums do not depend on order,
and unlike xor they see doubled rows. No value leaves the site, only hashes, and the primary keys of rows that differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import hashlib
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.pq import TransactionStatus

from domicile.model.datamap import DataMap
from domicile.model.schema import Column, Schema, Table, TableName
from domicile.postgres import stub_rows
from domicile.postgres.hashing import DEFAULT_MODE, Mode, bound_hash, hashed, row_hash, seed_of
from domicile.postgres.ownership import Fragment, column, rows_of_wave
from domicile.postgres.stub_registry import registered

BEGIN = "begin transaction isolation level repeatable read, read only"
MEMBERS = TableName("domicile", "member")

_WHOLE = """
    select pg_catalog.count(*), coalesce(pg_catalog.sum({bound}), 0) {rows} where m.wave = {wave}"""
_PARTS = """
    select (m.ordinal - 1) / {span}, pg_catalog.count(*), pg_catalog.sum({bound}) {rows}
    where m.wave = {wave} {within}
    group by 1"""
_ROWS = """
    select key, bound from (
        select {key} as key, {bound} as bound {rows}
        where m.wave = {wave} and m.ordinal = any({ordinals}::int[])) as row
    where key & {mask} = {slice}"""
_NAMED = """
    select key, names, columns from (
        select {key} as key, array[{names}]::pg_catalog.text[] as names, array[{columns}] as columns {rows}
        where m.wave = {wave} and m.ordinal = any({ordinals}::int[])) as row
    where key = any({keys}::int8[])"""
_WITHIN = "and (m.ordinal - 1) / {span} = any({groups}::int[])"
_MEMBERS_ROWS = "from domicile.member as m"

RowHash = tuple[int, int]  # hash of the key (of the whole row where a table has none), bound hash of the row


@dataclass(frozen=True, slots=True)
class Part:
    """Rows and sum of their bound hashes: of a table, of some subjects of it, of one subject."""

    rows: int
    digest: int


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row that differs: its primary key as text, and a hash per column of `Shape.columns`."""

    key: tuple[str, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """How the rows of one in-scope table are hashed at one site.

    ``columns`` are the stored ones in the order of their names, so that two sites may have them in different orders.
    Generated columns are left out: each server computes them from the others.
    """

    table: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]  # what rows are told apart by
    named: tuple[str, ...]  # by what a person is told of one: the primary key, whatever else tells rows apart
    rows: Fragment
    mode: Mode

    @classmethod
    def of(cls, data_map: DataMap, table: Table, mode: Mode = DEFAULT_MODE, like: Table | None = None) -> Shape:
        """The shape of ``table``, with the columns and the key of ``like`` (the same table at the other site).

        Raises KeyError when a column of ``like`` is missing.
        """
        like = like or table
        columns = tuple(table.column(name) for name in sorted(c.name for c in like.stored_columns))
        key = like.primary_key
        rows = rows_of_wave(data_map, table.name)
        if table.name == data_map.subject.table and stub_rows.wanted(data_map):
            # A member who has deleted himself may have one: it is no row of the wave.
            rows = sql.SQL("{} and not {}").format(rows, registered(column("t", data_map.subject.key)))
        return cls(table.name, columns, key, key, rows, mode)

    @property
    def bound(self) -> Fragment:
        """The row's hash, bound to its subject."""
        return bound_hash(column("m", "ordinal"), self._hash(self.columns), self.mode)

    @property
    def key_hash(self) -> Fragment:
        """The hash of the key; a table without one is told apart by whole rows."""
        return self._hash([c for c in self.columns if c.name in self.key]) if self.key else self.bound

    @property
    def key_texts(self) -> Fragment:
        """The primary key's columns as text, in key order."""
        return sql.SQL(", ").join(sql.SQL("{}::pg_catalog.text").format(column("t", name)) for name in self.named)

    @property
    def column_hashes(self) -> Fragment:
        """One hash per column, in the order of ``columns``."""
        return sql.SQL(", ").join(self._hash([c]) for c in self.columns)

    def _hash(self, columns: Iterable[Column]) -> Fragment:
        return row_hash([hashed(c, self.mode) for c in columns], seed_of(self.table), self.mode)


async def members(conn: AsyncConnection, wave_id: int, mode: Mode) -> Part:
    """The wave's members with their ordinals: both sites must have the same before anything is compared."""
    subject = sql.SQL('({}::pg_catalog.text collate pg_catalog."C")').format(column("m", "subject"))
    bound = bound_hash(column("m", "ordinal"), row_hash([subject], seed_of(MEMBERS), mode), mode)
    statement = sql.SQL(_WHOLE).format(bound=bound, rows=sql.SQL(_MEMBERS_ROWS), wave=wave_id)
    return _part((await _fetch(conn, statement))[0])


async def whole(conn: AsyncConnection, shape: Shape, wave_id: int) -> Part:
    """All rows of the wave in one table, in one pass."""
    return _part((await _fetch(conn, whole_statement(shape, wave_id)))[0])


def whole_statement(shape: Shape, wave_id: int) -> sql.Composed:
    """The statement of `whole`, for the benchmark."""
    return sql.SQL(_WHOLE).format(bound=shape.bound, rows=shape.rows, wave=wave_id)


async def parts(
    conn: AsyncConnection, shape: Shape, wave_id: int, span: int, within: tuple[int, Sequence[int]] | None = None
) -> Mapping[int, Part]:
    """The table by groups of ``span`` subjects: group 0 has ordinals 1 to span. Groups without rows are absent.

    ``within`` (a wider span, its group numbers) limits the rows to those groups.
    """
    limits = sql.SQL(_WITHIN).format(span=within[0], groups=list(within[1])) if within else sql.SQL("")
    statement = sql.SQL(_PARTS).format(bound=shape.bound, rows=shape.rows, wave=wave_id, span=span, within=limits)
    return {int(r[0]): _part(r[1:]) for r in await _fetch(conn, statement)}


async def rows(
    conn: AsyncConnection, shape: Shape, wave_id: int, ordinals: Sequence[int], part: tuple[int, int] = (0, 0)
) -> Counter[RowHash]:
    """Every row of these subjects as hashes, counted. ``part``: (mask, slice), rows with key hash & mask = slice."""
    mask, number = part
    statement = sql.SQL(_ROWS).format(
        key=shape.key_hash,
        bound=shape.bound,
        rows=shape.rows,
        wave=wave_id,
        ordinals=list(ordinals),
        mask=mask,
        slice=number,
    )
    return Counter((r[0], r[1]) for r in await _fetch(conn, statement))


async def named(
    conn: AsyncConnection, shape: Shape, wave_id: int, ordinals: Sequence[int], keys: Sequence[int]
) -> Mapping[int, NamedRow]:
    """Primary key and hash per column of the rows of these subjects whose key has one of these hashes."""
    statement = sql.SQL(_NAMED).format(
        key=shape.key_hash,
        names=shape.key_texts,
        columns=shape.column_hashes,
        rows=shape.rows,
        wave=wave_id,
        ordinals=list(ordinals),
        keys=list(keys),
    )
    return {r[0]: NamedRow(tuple(r[1]), tuple(r[2])) for r in await _fetch(conn, statement)}


async def site_root(
    conn: AsyncConnection,
    data_map: DataMap,
    schema: Schema,
    tables: Iterable[TableName],
    wave_id: int,
    mode: Mode = DEFAULT_MODE,
) -> str:
    """The root of a wave at one site, from one snapshot (the caller's, where a transaction is open)."""
    shapes = [Shape.of(data_map, schema.tables[table], mode) for table in tables]
    own = conn.info.transaction_status is TransactionStatus.IDLE
    if own:
        await conn.execute(BEGIN)
    try:
        who = await members(conn, wave_id, mode)
        digests = {shape.table: await whole(conn, shape, wave_id) for shape in shapes}
    finally:
        if own and not conn.closed:
            await conn.execute("rollback")
    return root(mode, who, digests)


def root(mode: Mode, who: Part, digests: Mapping[TableName, Part]) -> str:
    """SHA-256 over members and tables by name, in hex; modes other than the default say so in front. Pure."""
    lines = [f"domicile-root 1 {mode}", f"members\t{who.rows}\t{who.digest}"]
    lines += [f"{table}\t{part.rows}\t{part.digest}" for table, part in sorted(digests.items())]
    text = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return text if mode is DEFAULT_MODE else f"{mode}:{text}"


def mode_of(sealed: str) -> Mode:
    """In which mode a root was taken."""
    mode, separator, _ = sealed.partition(":")
    return Mode(mode) if separator else DEFAULT_MODE


def _part(row: Sequence[Any]) -> Part:
    return Part(int(row[0]), int(row[1]))


async def _fetch(conn: AsyncConnection, statement: sql.Composed) -> list[tuple[Any, ...]]:
    # Values are literals, not parameters: with parameters a "%" in a column's name would be taken for one.
    return await (await conn.execute(statement)).fetchall()
