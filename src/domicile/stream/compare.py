"""Rows with given keys, hashed at one site: what was touched is compared again, and nothing else.

The rows are found by key and kept only if their owner path leads to a member of the wave, at each site by itself: a row
that has another owner there counts as absent. Sums hide neither doubled nor swapped rows (``postgres/hashing.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, LiteralString

from psycopg import AsyncConnection, AsyncRawCursor, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Reference, TableName
from domicile.postgres import checksum
from domicile.postgres.checksum import Part, RowHash, Shape
from domicile.postgres.ownership import Fragment, column
from domicile.postgres.references import broken_among, shown
from domicile.stream.change import Key, Transaction
from domicile.stream.layout import Identity, Layout, StreamTable
from domicile.stream.params import Raw, cast_of, key_arrays
from domicile.stream.pipeline import Statement

Keys = Mapping[int, Sequence[Key]]
"""Keys of rows by the number of their table."""
Touched = Mapping[int, Mapping[Key, int]]
"""By table, keys of rows that were touched, and by which transaction last."""

_SUM = """
    select pg_catalog.count(*), coalesce(pg_catalog.sum({bound}), 0) {rows} where m.wave = {wave} {keyed}"""
_ROWS = "select {key}, {bound} {rows} where m.wave = {wave} {keyed}"
_BELONGING = "select {key}, m.ordinal {rows} where m.wave = {wave} {keyed}"
_REQUIRE = """
    select domicile.refuse('touched rows differ', {table}) from ({sums}) as found (rows, digest)
    where (found.rows, found.digest) is distinct from (({rows}::text)::bigint, ({digest}::text)::numeric)"""
_REFUSE_ORPHANS = """
    select domicile.refuse('rows without what they refer to', {table}) from ({orphans}) as found (rows)
    where found.rows > 0"""
_HASHES = "select {key} from {listed}"
_OWNERS = "select distinct m.ordinal {rows} where m.wave = {wave} {keyed}"
# Few keys against tables that nobody may have analyzed: the planner must not scan.
SETTINGS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}


@dataclass(frozen=True, slots=True)
class Side:
    """A wave at one site, as its touched rows are read there. ``shapes`` by the number of the table. Texts are built
    once: the last comparison happens while writers wait."""

    layout: Layout
    shapes: Sequence[Shape]
    wave_id: int
    data_map: DataMap
    references: Mapping[int, Sequence[Reference]]  # foreign keys to be proven here, by the table that refers
    _texts: dict[tuple[str, int, tuple[bool, ...]], bytes] = field(default_factory=dict)

    def require(self, no: int, keys: Sequence[Key], part: Part) -> Statement:
        """A statement that fails, with reason and table, unless the rows add up to ``part`` at this site."""
        params = self._params(no, keys)

        def build() -> sql.Composed:
            return sql.SQL(_REQUIRE).format(
                table=sql.Literal(str(self.layout.tables[no].name)),
                sums=self._sums(no, params),
                rows=sql.SQL("${}").format(sql.Literal(len(params) + 1)),
                digest=sql.SQL("${}").format(sql.Literal(len(params) + 2)),
            )

        values = [param if isinstance(param, bytes) else str(param).encode() for param in params]
        values += [str(part.rows).encode(), str(part.digest).encode()]
        return Statement(self._text("require", no, params, build), values, binary=True, keep=True)

    def require_parents(self, no: int, keys: Sequence[Key]) -> list[Statement]:
        """Statements that fail unless what these rows refer to is at this site: the mover's writes are not checked."""
        params = self._params(no, keys)
        values = [param if isinstance(param, bytes) else str(param).encode() for param in params]
        statements = []
        for reference in self.references.get(no, ()):
            text = self._text(shown(reference), no, params, partial(self._orphans, no, reference, params, refused=True))
            statements.append(Statement(text, values, binary=True, keep=True))
        return statements

    async def orphans(self, conn: AsyncConnection, keys: Keys) -> dict[int, int]:
        """By table, how many of these rows refer to a row that is not at this site, counted for each foreign key; all
        in one round trip."""
        cursors: list[tuple[int, AsyncRawCursor[Any]]] = []
        async with conn.pipeline():
            for no, listed in keys.items():
                params = self._params(no, listed)
                for reference in self.references.get(no, ()):
                    build = partial(self._orphans, no, reference, params)
                    text = self._text("orphans " + shown(reference), no, params, build)
                    cursors.append((no, await AsyncRawCursor(conn).execute(text, params, prepare=True)))
        found: Counter[int] = Counter()
        for no, cursor in cursors:
            row = await cursor.fetchone()
            assert row is not None
            found[no] += int(row[0])
        return found

    def _orphans(self, no: int, reference: Reference, params: Sequence[Any], *, refused: bool = False) -> sql.Composed:
        orphans = broken_among(self.data_map, reference, self.wave_id, self._keyed(no, params))
        if not refused:
            return orphans
        return sql.SQL(_REFUSE_ORPHANS).format(table=sql.Literal(str(reference.table)), orphans=orphans)

    async def sums(self, conn: AsyncConnection, keys: Keys) -> dict[int, Part]:
        """Count and sum over the rows of the wave with these keys, of all tables named in one round trip. Of a table
        whose rows have none, all its rows of the wave are taken, where it is named with any key at all."""
        if not keys:
            return {}  # a pipeline of nothing is a round trip
        cursors: dict[int, AsyncRawCursor[Any]] = {}
        async with conn.pipeline():
            for no, listed in keys.items():
                params = self._params(no, listed)
                if listed or params:
                    text = self._text("sums", no, params, partial(self._sums, no, params))
                    cursors[no] = await AsyncRawCursor(conn).execute(text, params, prepare=True)
        found = {}
        for no, cursor in cursors.items():
            row = await cursor.fetchone()
            assert row is not None
            found[no] = Part(int(row[0]), int(row[1]))
        return found

    def _sums(self, no: int, params: Sequence[Any]) -> sql.Composed:
        return self._of_wave(_SUM, no, params, bound=self.shapes[no].bound)

    def _text(self, what: str, no: int, params: Sequence[Any], build: Callable[[], sql.Composed]) -> bytes:
        key = (what, no, tuple(isinstance(param, Raw) for param in params))
        if key not in self._texts:
            self._texts[key] = build().as_bytes(None)
        return self._texts[key]

    async def rows(self, conn: AsyncConnection, no: int, keys: Sequence[Key]) -> Counter[RowHash]:
        """Each of these rows as hashes of key and row."""
        params, shape = self._params(no, keys), self.shapes[no]
        statement = self._of_wave(_ROWS, no, params, key=shape.key_hash, bound=shape.bound)
        cursor = await AsyncRawCursor(conn).execute(statement, params)
        return Counter((int(key), int(bound)) for key, bound in await cursor.fetchall())

    async def hashes(self, conn: AsyncConnection, keys: Keys) -> dict[int, Counter[RowHash]]:
        """`rows` of all tables named, in one round trip. Of a table whose rows have no keys, count and sum of all."""
        cursors: dict[int, AsyncRawCursor[Any]] = {}
        async with conn.pipeline():
            for no, listed in keys.items():
                params, shape = self._params(no, listed), self.shapes[no]
                build = partial(self._of_wave, _ROWS, no, params, key=shape.key_hash, bound=shape.bound)
                whole = self.layout.tables[no].identity is Identity.FULL
                text = self._text("rows", no, params, partial(self._sums, no, params) if whole else build)
                cursors[no] = await AsyncRawCursor(conn).execute(text, params, prepare=True)
        return {no: Counter((int(a), int(b)) for a, b in await cursor.fetchall()) for no, cursor in cursors.items()}

    async def belonging(self, conn: AsyncConnection, no: int, keys: Sequence[Key]) -> set[tuple[int, int]]:
        """The hash of each key, with the ordinal of the subject whom the row belongs to; of a table with a key."""
        params = self._params(no, keys)
        statement = self._of_wave(_BELONGING, no, params, key=self.shapes[no].key_hash)
        cursor = await AsyncRawCursor(conn).execute(statement, params)
        return {(int(key), int(ordinal)) for key, ordinal in await cursor.fetchall()}

    async def names(self, conn: AsyncConnection, keys: Keys) -> dict[int, dict[int, Key]]:
        """The hash of each key, as the verifier names rows, of those tables that have keys, in one round trip."""
        cursors: dict[int, AsyncRawCursor[Any]] = {}
        async with conn.pipeline():
            for no, listed in keys.items():
                table = self.layout.tables[no]
                if table.identity is not Identity.FULL:
                    params = key_arrays(table, listed, self.layout.binary)
                    build = partial(_names, table, self.shapes[no], params, self.layout.binary)
                    text = self._text("names", no, params, build)
                    cursors[no] = await AsyncRawCursor(conn).execute(text, params, prepare=True)
        return {
            no: {int(row[0]): key for row, key in zip(await cursor.fetchall(), keys[no], strict=True)}
            for no, cursor in cursors.items()
        }

    async def owners(self, conn: AsyncConnection, keys: Keys) -> set[int]:
        """The ordinals of the subjects whom these rows belong to now."""
        found: set[int] = set()
        for no, listed in keys.items():
            if not listed or self.layout.tables[no].identity is Identity.FULL:
                continue
            params = self._params(no, listed)
            cursor = await AsyncRawCursor(conn).execute(self._of_wave(_OWNERS, no, params), params)
            found.update(row[0] for row in await cursor.fetchall())
        return found

    def _params(self, no: int, keys: Sequence[Key]) -> list[Any]:
        table = self.layout.tables[no]
        return [] if table.identity is Identity.FULL else key_arrays(table, keys, self.layout.binary)

    def _of_wave(self, statement: LiteralString, no: int, params: Sequence[Any], **parts: Fragment) -> sql.Composed:
        """The statement over the table's rows of the wave with the keys in ``params``; over all where it has none."""
        wave, keyed = sql.Literal(self.wave_id), self._keyed(no, params)
        return sql.SQL(statement).format(rows=self.shapes[no].rows, wave=wave, keyed=keyed, **parts)

    def _keyed(self, no: int, params: Sequence[Any]) -> Fragment:
        table = self.layout.tables[no]
        if not params:
            return sql.SQL("")
        return sql.SQL(" and ({}) in (select {} from {})").format(
            sql.SQL(", ").join(column("t", name) for name in table.key),
            sql.SQL(", ").join(column("k", name) for name in table.key),
            listed_keys(table, params, self.layout.binary, "k"),
        )


def side(
    layout: Layout,
    data_map: DataMap,
    shapes: Mapping[TableName, Shape],
    wave_id: int,
    references: Sequence[Reference] = (),
) -> Side:
    """The wave at one site; ``shapes`` by table name. ``references`` are those to be proven there; of those that no
    site declares nothing is promised."""
    declared: dict[int, list[Reference]] = {}
    numbers = {table.name: table.no for table in layout.tables}
    for reference in references:
        if reference.declared and reference.table in numbers:
            declared.setdefault(numbers[reference.table], []).append(reference)
    keyed = named_by_stream(layout, shapes)
    return Side(layout, [keyed[table.name] for table in layout.tables], wave_id, data_map, declared)


def named_by_stream(layout: Layout, shapes: Mapping[TableName, Shape]) -> dict[TableName, Shape]:
    """The same shapes, with rows named by what the stream tells them apart by: a table's primary key may be another,
    or there may be none. Pure."""
    keys = {t.name: () if t.identity is Identity.FULL else t.key for t in layout.tables}
    return {name: replace(shape, key=keys[name]) for name, shape in shapes.items()}


def no_rows(layout: Layout) -> Keys:
    """No keys of each table that has any: whoever asks about them has the session plan what it will be asked."""
    return {table.no: () for table in layout.tables if table.identity is not Identity.FULL}


def rehearsal(at: Side) -> list[Statement]:
    """`Side.require` and `Side.require_parents` about no rows."""
    tables = no_rows(at.layout)
    nothing = checksum.Part(0, 0)
    equal = [at.require(no, keys, nothing) for no, keys in tables.items()]
    return [*equal, *(one for no, keys in tables.items() for one in at.require_parents(no, keys))]


def refers(at: Side, no: int, to: Iterable[int]) -> bool:
    """The table refers to one of these, as far as `Side.require_parents` proves it."""
    names = {at.layout.tables[one].name for one in to}
    return any(reference.to_table in names for reference in at.references.get(no, ()))


def uncompared(noted: Touched, equal: Touched, tail: Iterable[Transaction]) -> Keys:
    """What is to be compared by the arrival: the rows of the tail, and of those ``noted`` as touched all that were not
    found ``equal``, or were touched again since. Pure."""
    keys: dict[int, dict[Key, None]] = {}
    for no, touched in noted.items():
        known = equal.get(no, {})
        keys[no] = {key: None for key, xid in touched.items() if known.get(key) != xid}
    for transaction in tail:
        for change in transaction.changes:
            these = keys.setdefault(change.table, {})
            these[change.key] = None
            if change.old_key is not None:
                these[change.old_key] = None
    return {no: list(these) for no, these in keys.items() if these}


def without(layout: Layout, keys: Keys, known: Keys) -> Keys:
    """The keys that are not known. Of a table whose rows have none, it is known as a whole, or not at all. Pure."""
    rest = {}
    for no, listed in keys.items():
        before = set(known.get(no, ()))
        whole = bool(before) and layout.tables[no].identity is Identity.FULL
        rest[no] = [] if whole else [key for key in listed if key not in before]
    return {no: listed for no, listed in rest.items() if listed}


def added(some: Mapping[int, Part], others: Mapping[int, Part]) -> dict[int, Part]:
    """The sums over other rows added. Pure."""
    nothing = Part(0, 0)
    both = {no: (some.get(no, nothing), others.get(no, nothing)) for no in some.keys() | others.keys()}
    return {no: Part(one.rows + other.rows, one.digest + other.digest) for no, (one, other) in both.items()}


def differing(ours: Mapping[int, Part], theirs: Mapping[int, Part]) -> list[int]:
    """The tables whose sums differ. Pure."""
    nothing = checksum.Part(0, 0)
    return [no for no in sorted(ours.keys() | theirs.keys()) if ours.get(no, nothing) != theirs.get(no, nothing)]


def equal(
    keys: Keys, names: Mapping[int, Mapping[int, Key]], sites: Sequence[Mapping[int, Counter[RowHash]]]
) -> dict[int, list[Key]]:
    """The keys whose rows are the same at both ``sites``, or absent at both; ``names``: their hashes. A table without
    keys has none, and is equal as a whole or not at all. Pure."""
    ours, theirs = sites
    found: dict[int, list[Key]] = {}
    for no, listed in keys.items():
        differing = {name for name, _ in (ours[no] - theirs[no]) + (theirs[no] - ours[no])}
        if not differing:
            found[no] = list(listed)
        elif differing <= names.get(no, {}).keys():  # or rows are named otherwise than they were asked for
            found[no] = [key for name, key in names[no].items() if name not in differing]
    return found


def anybody_gone(keys: Keys, rows: int) -> bool:
    """Of the subjects' own rows with these keys there are only so many. Pure."""
    return len(keys.get(0, ())) > rows


def count(keys: Keys) -> int:
    """How many rows these are."""
    return sum(map(len, keys.values()))


def _names(table: StreamTable, shape: Shape, params: Sequence[Any], binary: bool) -> sql.Composed:
    return sql.SQL(_HASHES).format(key=shape.key_hash, listed=listed_keys(table, params, binary, "t"))


def listed_keys(table: StreamTable, params: Sequence[Any], binary: bool, alias: str) -> sql.Composed:
    """``(select k1::type as k1, ... from rows from (unnest($1), ...)) as alias``: keys as rows, in the order given.
    ``params`` are those of `key_arrays`, for a cursor that takes ``$1``."""
    arrays = [
        sql.SQL(
            "pg_catalog.unnest(${}::{}[])"
            if isinstance(param, Raw)
            else "pg_catalog.unnest((${}::pg_catalog.text)::{}[])"
        ).format(sql.Literal(number), cast_of(table, name, binary))
        for number, (name, param) in enumerate(zip(table.key, params, strict=True), start=1)
    ]
    # With a schema's name before it, unnest takes one array.
    return sql.SQL("(select {typed} from rows from ({arrays}) as listed ({names})) as {alias}").format(
        typed=sql.SQL(", ").join(
            sql.SQL("{0}::{1} as {0}").format(sql.Identifier(name), cast_of(table, name, True)) for name in table.key
        ),
        arrays=sql.SQL(", ").join(arrays),
        names=sql.SQL(", ").join(map(sql.Identifier, table.key)),
        alias=sql.Identifier(alias),
    )
