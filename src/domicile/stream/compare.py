"""Rows with given keys, hashed at one site: what was touched is compared again, and nothing else.

The rows are found by key and kept only if their owner path leads to a member of the wave, at each site by itself: a row
that has another owner there counts as absent. Sums hide neither doubled nor swapped rows (``postgres/hashing.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor, sql

from domicile.model.schema import TableName
from domicile.postgres import checksum
from domicile.postgres.checksum import Part, RowHash, Shape
from domicile.postgres.ownership import Fragment, column
from domicile.stream.change import Key
from domicile.stream.layout import Identity, Layout, StreamTable
from domicile.stream.params import Raw, cast_of, key_arrays
from domicile.stream.pipeline import Statement

Keys = Mapping[int, Sequence[Key]]
"""Keys of rows by the number of their table."""

_SUM = """
    select pg_catalog.count(*), coalesce(pg_catalog.sum({bound}), 0) {rows} where m.wave = {wave} {keyed}"""
_ROWS = "select {key}, {bound} {rows} where m.wave = {wave} {keyed}"
_REQUIRE = """
    select domicile.refuse({reason}, {table}) from ({sums}) as found (rows, digest)
    where (found.rows, found.digest) is distinct from ({rows}, {digest}::numeric)"""
_HASHES = "select {key} from {listed}"
_OWNERS = "select distinct m.ordinal {rows} where m.wave = {wave} {keyed}"
# Few keys against tables that nobody may have analyzed: the planner must not scan.
SETTINGS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}


@dataclass(frozen=True, slots=True)
class Side:
    """A wave at one site, as its touched rows are read there. ``shapes`` by the number of the table."""

    layout: Layout
    shapes: Sequence[Shape]
    wave_id: int

    def sum_statement(self, no: int, keys: Sequence[Key]) -> tuple[sql.Composed, list[Any]]:
        """Count and sum over the table's rows of the wave that have one of these keys.

        Of a table without a key: over all its rows of the wave.
        """
        keyed, params = self._keyed(no, keys)
        shape = self.shapes[no]
        return (
            sql.SQL(_SUM).format(bound=shape.bound, rows=shape.rows, wave=sql.Literal(self.wave_id), keyed=keyed),
            params,
        )

    def require(self, conn: AsyncConnection, no: int, keys: Sequence[Key], part: Part) -> Statement:
        """A statement that fails, with reason and table, unless the rows add up to ``part`` at this site."""
        statement, params = self.sum_statement(no, keys)
        table = self.layout.tables[no].name
        text = sql.SQL(_REQUIRE).format(
            reason=sql.Literal("touched rows differ"),
            table=sql.Literal(str(table)),
            sums=statement,
            rows=sql.Literal(part.rows),
            digest=sql.Literal(part.digest),
        )
        values = [param if isinstance(param, bytes) else str(param).encode() for param in params]
        return Statement(text.as_bytes(conn), values, binary=True)

    async def sums(self, conn: AsyncConnection, keys: Keys) -> dict[int, Part]:
        """The sums of all tables named, in one round trip. Tables without keys are left out."""
        cursors: dict[int, AsyncRawCursor[Any]] = {}
        async with conn.pipeline():
            for no, listed in keys.items():
                if listed:
                    cursors[no] = AsyncRawCursor(conn)
                    await cursors[no].execute(*self.sum_statement(no, listed))
        found = {}
        for no, cursor in cursors.items():
            row = await cursor.fetchone()
            assert row is not None
            found[no] = Part(int(row[0]), int(row[1]))
        return found

    async def rows(self, conn: AsyncConnection, no: int, keys: Sequence[Key]) -> Counter[RowHash]:
        """Each of these rows as hashes of key and row."""
        keyed, params = self._keyed(no, keys)
        shape = self.shapes[no]
        statement = sql.SQL(_ROWS).format(
            key=shape.key_hash, bound=shape.bound, rows=shape.rows, wave=sql.Literal(self.wave_id), keyed=keyed
        )
        cursor = await AsyncRawCursor(conn).execute(statement, params)
        return Counter((int(key), int(bound)) for key, bound in await cursor.fetchall())

    async def key_hashes(self, conn: AsyncConnection, no: int, keys: Sequence[Key]) -> dict[int, Key]:
        """The hash of each key, as the verifier names rows; only of tables with a key."""
        table = self.layout.tables[no]
        shape = self.shapes[no]
        listed, params = listed_keys(table, keys, self.layout.binary, "t")
        statement = sql.SQL(_HASHES).format(key=shape.key_hash, listed=listed)
        cursor = await AsyncRawCursor(conn).execute(statement, params)
        return {int(row[0]): key for row, key in zip(await cursor.fetchall(), keys, strict=True)}

    async def owners(self, conn: AsyncConnection, keys: Keys) -> set[int]:
        """The ordinals of the subjects whom these rows belong to now."""
        found: set[int] = set()
        for no, listed in keys.items():
            if not listed or self.layout.tables[no].identity is Identity.FULL:
                continue
            keyed, params = self._keyed(no, listed)
            statement = sql.SQL(_OWNERS).format(rows=self.shapes[no].rows, wave=sql.Literal(self.wave_id), keyed=keyed)
            cursor = await AsyncRawCursor(conn).execute(statement, params)
            found.update(row[0] for row in await cursor.fetchall())
        return found

    def _keyed(self, no: int, keys: Sequence[Key]) -> tuple[Fragment, list[Any]]:
        table = self.layout.tables[no]
        if table.identity is Identity.FULL:
            return sql.SQL(""), []
        columns = sql.SQL(", ").join(column("t", name) for name in table.key)
        wanted = sql.SQL(", ").join(column("k", name) for name in table.key)
        listed, params = listed_keys(table, keys, self.layout.binary, "k")
        return sql.SQL("and ({}) in (select {} from {})").format(columns, wanted, listed), params


def side(layout: Layout, shapes: Mapping[TableName, Shape], wave_id: int) -> Side:
    """The wave at one site; ``shapes`` by table name."""
    return Side(layout, [shapes[table.name] for table in layout.tables], wave_id)


def differing(ours: Mapping[int, Part], theirs: Mapping[int, Part]) -> list[int]:
    """The tables whose sums differ. Pure."""
    nothing = checksum.Part(0, 0)
    return [no for no in sorted(ours.keys() | theirs.keys()) if ours.get(no, nothing) != theirs.get(no, nothing)]


def merged(one: Keys, other: Keys) -> dict[int, list[Key]]:
    """Both, each key once."""
    return {no: list({*one.get(no, ()), *other.get(no, ())}) for no in one.keys() | other.keys()}


def count(keys: Keys) -> int:
    """How many rows these are."""
    return sum(map(len, keys.values()))


def listed_keys(table: StreamTable, keys: Sequence[Key], binary: bool, alias: str) -> tuple[sql.Composed, list[Any]]:
    """``(select k1::type as k1, ... from unnest($1, ...)) as alias``: the keys as rows, in the order given, and the
    parameters, for a cursor that takes ``$1``."""
    params = key_arrays(table, keys, binary)
    arrays = [
        sql.SQL("${}::{}[]" if isinstance(param, Raw) else "(${}::pg_catalog.text)::{}[]").format(
            sql.SQL(str(number)), cast_of(table, name, binary)
        )
        for number, (name, param) in enumerate(zip(table.key, params, strict=True), start=1)
    ]
    statement = sql.SQL("(select {typed} from pg_catalog.unnest({arrays}) as listed ({names})) as {alias}").format(
        typed=sql.SQL(", ").join(
            sql.SQL("{0}::{1} as {0}").format(sql.Identifier(name), cast_of(table, name, True)) for name in table.key
        ),
        arrays=sql.SQL(", ").join(arrays),
        names=sql.SQL(", ").join(map(sql.Identifier, table.key)),
        alias=sql.Identifier(alias),
    )
    return statement, params
