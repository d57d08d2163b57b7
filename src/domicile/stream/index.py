"""Whose row is this? Answered for every change in the stream, from memory.

The ownership index holds the wave's subjects and, per table, the keys of the wave's rows that are at the destination at
the stream's position. It is a pure function of the destination's rows: after a crash the same call builds it again.
A row hangs from its parent by the columns that its owner step names; where these are not the parent's key, the index
also remembers their values for each of the parent's rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as empty
from hashlib import blake2b
from typing import Any

from psycopg import AsyncConnection, AsyncCursor, sql

from domicile.model.datamap import DataMap
from domicile.postgres.failures import told
from domicile.postgres.ownership import Fragment, column, rows_of_wave
from domicile.stream.canonical import MASK, Bag, Canon, KeySet, canonical, field, is_integer, key_set, split
from domicile.stream.change import Field, Key
from domicile.stream.layout import Identity, Layout, StreamTable

FETCH_ROWS = 20_000  # at a time: some milliseconds of work
_DIGEST_BYTES = 16

Row = Sequence[Field | None] | Mapping[int, Field | None]
"""Fields by position: those of a whole row, or some."""


@dataclass(slots=True)
class Anchor:
    """Columns of a table to which other tables' rows refer. ``present`` are their values in the wave's rows.

    ``of_key`` is None where these columns are the table's key: then ``present`` is the set of its keys.
    """

    at: tuple[int, ...]
    present: KeySet
    canon: Callable[[Sequence[Field]], Canon]
    of_key: dict[Canon, Canon | None] | None = None

    def of(self, key: Canon) -> Canon | None:
        """What these columns hold in the wave's row with that key."""
        return key if self.of_key is None else self.of_key.get(key)

    def of_fields(self, fields: Row, key: Canon, before: Canon) -> Canon | None:
        """What they hold in a row afterwards; a value that was not sent is the one of the row ``before``."""
        if self.of_key is None:
            return key
        picked = [fields[i] for i in self.at]
        if None in picked:
            return self.of_key.get(before)
        values = [value for value in picked if value is not None]
        return None if any(value[:1] == b"\xff" for value in values) else self.canon(values)


@dataclass(slots=True)
class TableIndex:
    """The wave's rows of one table: ``keys``, and what other tables refer to."""

    table: StreamTable
    keys: KeySet
    canon: Callable[[Sequence[Field]], Canon]
    anchors: list[Anchor] = empty(default_factory=list)

    @property
    def remembered(self) -> tuple[int, ...]:
        """The columns that are needed of a row to note it, by position."""
        return tuple(dict.fromkeys((*self.table.key_at, *(i for a in self.anchors for i in a.at))))

    def canon_of(self, key: Key) -> Canon:
        """The canonical form of a key."""
        return digest(key) if self.table.identity is Identity.FULL else self.canon(tuple(split(key)))

    def add(self, key: Canon, fields: Row, before: Canon | None = None) -> None:
        """Note a row of the wave; ``before`` is the key it had until now, and is forgotten."""
        old = key if before is None else before
        references = [(a, a.of_fields(fields, key, old)) for a in self.anchors if a.of_key is not None]
        if before is not None:
            self.discard(before)
        self.keys.add(key)
        for anchor, value in references:
            assert anchor.of_key is not None
            anchor.of_key[key] = value
            if value is not None:
                anchor.present.add(value)

    def discard(self, key: Canon) -> None:
        """Forget a row; nothing happens where it is not known."""
        self.keys.discard(key)
        for anchor in self.anchors:
            if anchor.of_key is not None and (value := anchor.of_key.pop(key, None)) is not None:
                anchor.present.discard(value)


@dataclass(slots=True)
class OwnershipIndex:
    """The wave's subjects and rows; ``tables`` in the layout's order. Fields and keys are those of the stream: in
    the layout's one form."""

    layout: Layout
    members: KeySet
    tables: tuple[TableIndex, ...]

    def add(self, no: int, key: Key, fields: Row = ()) -> None:
        """A row of the wave is at the destination now. ``fields`` are its columns in the layout's order; they may be
        left out for a table to which nothing refers but by its key."""
        table = self.tables[no]
        assert fields or all(a.of_key is None for a in table.anchors), "other tables refer to more than its key"
        table.add(table.canon_of(key), fields)

    def discard(self, no: int, key: Key) -> None:
        """The row is gone from there, or is nobody's of the wave. Idempotent."""
        table = self.tables[no]
        table.discard(table.canon_of(key))

    def __contains__(self, row: tuple[int, Key]) -> bool:
        table = self.tables[row[0]]
        return table.canon_of(row[1]) in table.keys

    def parents_of(self, table: StreamTable) -> tuple[KeySet, Anchor | None]:
        """Among what the owner columns of a table's row are looked up: members, or an anchor of the parent."""
        if table.owner.parent is None:
            return self.members, None
        at = sorted_step(table)[1]
        anchor = next(a for a in self.tables[table.owner.parent].anchors if a.at == at)
        return anchor.present, anchor


def digest(key: Key) -> bytes:
    """What stands for a row that only all its columns identify."""
    return blake2b(key, digest_size=_DIGEST_BYTES).digest()


def sorted_step(table: StreamTable) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The owner step's columns, here and at the parent, in the order in which the parent's stand in its rows."""
    assert table.owner.parent is not None
    pairs = sorted(zip(table.owner.to, table.owner.at, strict=True))
    return tuple(ours for _, ours in pairs), tuple(theirs for theirs, _ in pairs)


def empty_index(layout: Layout) -> OwnershipIndex:
    """An index of nobody: members and rows are added. Pure."""
    subject = layout.tables[0]
    tables = tuple(_empty_table(layout, table) for table in layout.tables)
    return OwnershipIndex(layout, key_set([subject.families[i] for i in subject.owner.at]), tables)


async def load(conn: AsyncConnection[Any], layout: Layout, data_map: DataMap, wave_id: int) -> OwnershipIndex:
    """Read the index from the destination, whose number of the wave is ``wave_id``. Nothing is written; rows come in
    portions, so that other work goes on beside. Raises DomicileError."""
    index = empty_index(layout)
    where = sql.SQL("where m.wave = {}").format(sql.Literal(wave_id))
    members = sql.SQL("select m.subject from domicile.member as m {}").format(where)
    subject = layout.tables[0]
    families = [subject.families[i] for i in subject.owner.at]
    with told("destination", "reading the wave's keys"):
        async with conn.transaction():
            await conn.execute("set local cursor_tuple_fraction = 1")
            if is_integer(families):
                await _load_integers(conn, layout, members, index.members)
            else:
                canon = canonical(families, binary=layout.binary)
                async for portion in _fields(conn, layout, members):
                    index.members.update(map(canon, portion))
            for table in index.tables:
                rows = rows_of_wave(data_map, table.table.name)
                await _load_table(conn, layout, table, sql.SQL("{} {}").format(rows, where))
    return index


async def _load_table(conn: AsyncConnection[Any], layout: Layout, index: TableIndex, rows: Fragment) -> None:
    table = index.table
    others = [a for a in index.anchors if a.of_key is not None]
    wanted = index.remembered
    columns = sql.SQL(", ").join(column("t", table.columns[i]) for i in wanted)
    statement = sql.SQL("select {} {}").format(columns, rows)
    if table.identity is Identity.FULL:
        async for portion in _fields(conn, layout, statement):
            index.keys.update(digest(b"".join(row)) for row in portion)
    elif others:
        async for portion in _fields(conn, layout, statement):
            for row in portion:
                placed = dict(zip(wanted, row, strict=True))
                index.add(index.canon([placed[i] for i in table.key_at]), placed)
    elif is_integer([table.families[i] for i in table.key_at]):
        await _load_integers(conn, layout, statement, index.keys)
    else:
        async for portion in _fields(conn, layout, statement):
            index.keys.update(map(index.canon, portion))


async def _load_integers(conn: AsyncConnection[Any], layout: Layout, statement: sql.Composed, into: KeySet) -> None:
    async for cursor in _portions(conn, layout, statement):
        into.update([value & MASK for (value,) in await cursor.fetchall()])


async def _fields(
    conn: AsyncConnection[Any], layout: Layout, statement: sql.Composed
) -> AsyncIterator[Iterable[tuple[Field, ...]]]:
    """Rows as fields, in the form that the stream has them in, untouched by psycopg's own types."""
    async for cursor in _portions(conn, layout, statement):
        result = cursor.pgresult
        assert result is not None
        get, columns = result.get_value, range(result.nfields)
        yield [tuple([field(get(row, at)) for at in columns]) for row in range(result.ntuples)]


async def _portions(
    conn: AsyncConnection[Any], layout: Layout, statement: sql.Composed
) -> AsyncIterator[AsyncCursor[Any]]:
    fetch = sql.SQL("fetch {} from domicile_index").format(sql.Literal(FETCH_ROWS))
    async with conn.cursor(binary=layout.binary) as cursor:
        async with conn.pipeline():  # mostly the first portion is all: one round trip
            await conn.execute("close all")  # the table's before this one
            await conn.execute(sql.SQL("declare domicile_index no scroll cursor for {}").format(statement))
            await cursor.execute(fetch)
        while cursor.rowcount:
            yield cursor
            if cursor.rowcount < FETCH_ROWS:
                return
            await cursor.execute(fetch)


def _empty_table(layout: Layout, table: StreamTable) -> TableIndex:
    full = table.identity is Identity.FULL
    families = [table.families[i] for i in table.key_at]
    keys: KeySet = Bag() if full else key_set(families)
    canon = canonical(families, binary=layout.binary)
    asked = {sorted_step(t)[1] for t in layout.tables if t.owner.parent == table.no}
    anchors = [_anchor(layout, table, at, keys) for at in sorted(asked)]
    return TableIndex(table, keys, canon, anchors)


def _anchor(layout: Layout, table: StreamTable, at: tuple[int, ...], keys: KeySet) -> Anchor:
    families = [table.families[i] for i in at]
    canon = canonical(families, binary=layout.binary)
    if at == table.key_at:
        return Anchor(at, keys, canon)
    return Anchor(at, key_set(families), canon, {})
