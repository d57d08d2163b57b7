"""How a table that does not move differs between two sites, and which rows that moving rows refer to are others there.

Rows are hashed where they are; hashes travel to a temporary table at the target, where they are compared. So memory is
bounded by a write, and no value leaves its site.

A row is told by the key that is referred to. Where the same values of another unique key stand under another key at
the other site, the two sites number their rows differently: what refers to such a row would mean another one there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import threading

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Column, Reference, Schema, Table, TableName
from domicile.postgres.collisions import Members
from domicile.postgres.failures import told
from domicile.postgres.hashing import Mode, hashed, row_hash, seed_of
from domicile.postgres.ownership import Fragment, column, ident, owner_joins
from domicile.postgres.references import of_tables
from domicile.postgres.transfer import transfer

ROWS_MAX = 1_000_000  # of larger tables only the rows that are referred to are compared
HASHES_PER_SCAN = 100_000  # looked for in one statement

_HERE = TableName("pg_temp", "domicile_here")
_THERE = TableName("pg_temp", "domicile_there")
_READABLE = """
    select pg_catalog.has_table_privilege({name}, 'select') and not pg_catalog.row_security_active({name})"""
_DIGEST = "select pg_catalog.count(*), coalesce(pg_catalog.sum({row}), 0) from {table} as t"
_HASHES = """
    select {key} as k, array[{unique}]::pg_catalog.int8[] as u, array[{columns}]::pg_catalog.int8[] as c"""
_SOURCE = "{hashes}, array[{referred}]::pg_catalog.bool[] as r from {table} as t {joins} {only}"
# They are there for the sake of their keys: r is null, and they are neither counted nor compared.
_FURTHER = "{hashes}, null::pg_catalog.bool[] as r from {table} as t where {hash} = any({standing}::pg_catalog.int8[])"
# What stands at the target under a key that is referred to, and is not among what the source sent.
_STANDING = """
    select distinct there.u[{number}] from {there} as there
    where there.u[{number}] is not null and there.k in (select k from {here} where r is not null)
        and not exists (select from {here} as here where here.u[{number}] = there.u[{number}])"""
_REFERRED = "left join ({held}) as {alias} on {joined}"
_HELD = """
    select {columns} from {table} as t {joins} join {members} as m on m.subject = {owner}
    where m.wave = {wave} and {given}"""
_HELD_BY_COPIED = "select {columns} from {table} as t join ({held}) as n on {joined} where {given}"
_TAKE = """
    create temp table {here} (
        k pg_catalog.int8, u pg_catalog.int8[], c pg_catalog.int8[], r pg_catalog.bool[]);
    {more}"""
_MORE = "copy {here} from stdin (format binary)"
_THERE_TOO = "create temp table {there} as {hashes} from {table} as t {only}"
_ONLY = "where {key} in (select k from {here}) {unique}"
_ONLY_UNIQUE = "or {hash} in (select u[{number}] from {here})"
_COUNTS = """
    select pg_catalog.count(*) filter (where there.k is null), pg_catalog.count(*) filter (where here.k is null),
        pg_catalog.count(*) filter (where here.k is not null and there.k is not null and here.c <> there.c)
    from (select * from {here} where r is not null) as here full join {there} as there on there.k = here.k"""
_COLUMNS = """
    select number, pg_catalog.count(*)
    from {here} as here join {there} as there on there.k = here.k
    cross join lateral pg_catalog.generate_subscripts(here.c, 1) as number
    where here.r is not null and here.c[number] <> there.c[number] group by number order by number"""
_ANOTHER_KEY = """
    select pg_catalog.count(distinct here.k)
    from {here} as here join {there} as there on there.u[{number}] = here.u[{number}]
    where there.k <> here.k"""
# The row is under another key at the target, or what is under its key there is under another one at the source.
_OTHERS = """
    select pg_catalog.count(*) from {here} as here where here.r[{reference}] and (
        here.k in (
            select one.k from {here} as one join {there} as there on there.u[{number}] = one.u[{number}]
            where there.k <> one.k)
        or here.k in (
            select there.k from {there} as there join {here} as one on one.u[{number}] = there.u[{number}]
            where there.k <> one.k))"""


@dataclass(frozen=True, slots=True)
class Other:
    """Rows at both sites with the same values in ``columns`` (a unique key) and another key."""

    columns: tuple[str, ...]
    rows: int
    referred: Mapping[Reference, int] = field(default_factory=dict)  # keys that moving rows refer to, and mean others


@dataclass(frozen=True, slots=True)
class Drift:
    """What was found of one table, in rows. ``whole``: all of it was compared, else what moving rows refer to."""

    table: TableName
    whole: bool
    only_source: int = 0
    only_target: int = 0
    different: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)  # rows in which this one differs
    others: tuple[Other, ...] = ()

    @property
    def any(self) -> bool:
        """Whether the sites differ."""
        return bool(self.only_source or self.only_target or self.different or self.others)


@dataclass(frozen=True, slots=True)
class Pair:
    """A table at two sites: the target's session is in autocommit and may make temporary tables."""

    source: AsyncConnection
    target: AsyncConnection
    data_map: DataMap
    source_schema: Schema
    target_schema: Schema
    members: Members
    mode: Mode


async def readable(conn: AsyncConnection, table: TableName) -> bool:
    """Whether the session may read the table, and no policy hides rows of it."""
    name = sql.Literal(ident(table).as_string())
    row = await (await conn.execute(sql.SQL(_READABLE).format(name=name))).fetchone()
    return bool(row and row[0])


async def compare(
    pair: Pair, table: TableName, key: tuple[str, ...], referring: Sequence[Reference], *, whole: bool
) -> Drift:
    """Compare the table at both sites by this key, which both have. ``referring``: references to this key by which
    moving rows refer to it. Changes nothing but temporary tables, which are dropped."""
    tables = pair.source_schema.tables[table], pair.target_schema.tables[table]
    shape = _Shape.of(*tables, key, pair.mode)
    if whole:
        ours, theirs = (
            await _digest(pair.source, "source", tables[0], shape),
            await _digest(pair.target, "target", tables[1], shape),
        )
        if ours == theirs:
            return Drift(table, whole=True)
        whole = max(ours[0], theirs[0]) <= ROWS_MAX
    try:
        await _bring(pair, tables[0], shape, referring, whole=whole)
        with told("target", f"drift of {table}"):
            await _lay_beside(pair, tables[1], shape, whole=whole)
            if not whole:
                await _bring_standing(pair, tables[0], shape)
            return await _judge(pair, table, shape, referring, whole=whole)
    finally:
        if not pair.target.closed:
            drop = sql.SQL("drop table if exists {}, {}").format(ident(_HERE), ident(_THERE))
            await pair.target.execute(drop)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How rows are hashed, at one site and at the other: columns that both have, by name."""

    names: tuple[str, ...]
    as_text: frozenset[str]  # of another type at the other site
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...]
    mode: Mode

    @classmethod
    def of(cls, here: Table, there: Table, key: tuple[str, ...], mode: Mode) -> _Shape:
        ours, theirs = ({c.name: c for c in table.stored_columns} for table in (here, there))
        names = tuple(sorted(ours.keys() & theirs.keys()))
        as_text = frozenset(n for n in names if ours[n].type_name != theirs[n].type_name)
        surrogate = {frozenset(key), frozenset(here.primary_key)}
        unique = {
            k.columns
            for k in here.unique_keys
            if not (k.partial or k.on_expression) and set(k.columns) <= set(names) and set(k.columns) not in surrogate
        }
        return cls(names, as_text, key, tuple(sorted(unique)), mode)

    def hash(self, table: Table, names: Sequence[str]) -> Fragment:
        return row_hash([self._value(table.column(n)) for n in names], seed_of(table.name), self.mode)

    def unique_hashes(self, table: Table) -> list[Fragment]:
        """Null where a column is null: then it is nobody's value."""
        return [
            sql.SQL("case when {} then {} end").format(
                sql.SQL(" and ").join(sql.SQL("{} is not null").format(column("t", n)) for n in names),
                self.hash(table, names),
            )
            for names in self.unique
        ]

    def hashes(self, table: Table) -> sql.Composed:
        return sql.SQL(_HASHES).format(
            key=self.hash(table, self.key),
            unique=_listed(self.unique_hashes(table)),
            columns=_listed([self.hash(table, (n,)) for n in self.names]),
        )

    def _value(self, col: Column) -> Fragment:
        if col.name in self.as_text:
            return sql.SQL("{}::pg_catalog.text").format(column("t", col.name))
        return hashed(col, self.mode)


async def _digest(conn: AsyncConnection, side: str, table: Table, shape: _Shape) -> tuple[int, int]:
    statement = sql.SQL(_DIGEST).format(row=shape.hash(table, shape.names), table=ident(table.name))
    with told(side, f"drift of {table.name}"):
        row = await (await conn.execute(statement)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


async def _bring(pair: Pair, table: Table, shape: _Shape, referring: Sequence[Reference], *, whole: bool) -> None:
    """The source's rows, as hashes, to the target."""
    joins: list[Fragment] = []
    flags: list[Fragment] = []
    for number, reference in enumerate(referring):
        alias = f"r{number}"
        pairs = zip(reference.columns, reference.to_columns, strict=True)
        joined = sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(column("t", theirs), column(alias, ours)) for ours, theirs in pairs
        )
        held = sql.SQL("select distinct * from ({}) as held").format(_held(pair, reference))
        joins.append(sql.SQL(_REFERRED).format(held=held, alias=sql.Identifier(alias), joined=joined))
        flags.append(sql.SQL("{} is not null").format(column(alias, reference.columns[0])))
    only = sql.SQL("") if whole else sql.SQL("where {}").format(sql.SQL(" or ").join(flags or [sql.SQL("false")]))
    rows = sql.SQL(_SOURCE).format(
        hashes=shape.hashes(table),
        referred=_listed(flags),
        table=ident(table.name),
        joins=sql.SQL(" ").join(joins),
        only=only,
    )
    out = sql.SQL("copy ({}) to stdout (format binary)").format(rows)
    more = sql.SQL(_MORE).format(here=ident(_HERE))
    take = sql.SQL(_TAKE).format(here=ident(_HERE), more=more)
    await transfer(pair.source, pair.target, (out, take), threading.Event(), f"drift of {table.name}")


def _held(pair: Pair, reference: Reference, path: tuple[TableName, ...] = ()) -> sql.Composed:
    """What moving rows hold in the columns of a reference; rows of copied tables move if a member's row refers to
    them, or a row of another such table that moves. No table is twice on that ``path``."""
    data_map, names, path = pair.data_map, reference.columns, (*path, reference.table)
    parts = {
        "columns": _listed([column("t", name) for name in names]),
        "table": ident(reference.table),
        "given": sql.SQL(" and ").join(sql.SQL("{} is not null").format(column("t", n)) for n in names),
    }
    if reference.table in data_map.in_scope():
        joins, owner = owner_joins(data_map, reference.table)
        members = {"members": ident(pair.members.relation), "wave": sql.Literal(pair.members.wave)}
        return sql.SQL(_HELD).format(**parts, **members, joins=joins, owner=owner)
    found: list[Fragment] = []
    for by in of_tables(data_map, pair.source_schema, data_map.written()):
        if by.to_table == reference.table and by.table not in path and _known(pair.source_schema, by):
            held = sql.SQL("select distinct * from ({}) as held").format(_held(pair, by, path))
            joined = sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(column("t", theirs), column("n", ours))
                for ours, theirs in zip(by.columns, by.to_columns, strict=True)
            )
            found.append(sql.SQL(_HELD_BY_COPIED).format(**parts, held=held, joined=joined))
    nothing = sql.SQL("select {columns} from {table} as t where false").format(**parts)
    return sql.SQL(" union all ").join(found or [nothing])


def _known(schema: Schema, reference: Reference) -> bool:
    """Whether the columns are there of which the map, or a foreign key, says that they refer."""
    ends = ((reference.table, reference.columns), (reference.to_table, reference.to_columns))
    return all(t in schema.tables and {*names} <= {c.name for c in schema.tables[t].columns} for t, names in ends)


async def _lay_beside(pair: Pair, table: Table, shape: _Shape, *, whole: bool) -> None:
    """The target's rows; those alone that may be meant, where the source's are."""
    only: Fragment = sql.SQL("")
    if not whole:
        unique = [
            sql.SQL(_ONLY_UNIQUE).format(hash=hash_, number=sql.Literal(number), here=ident(_HERE))
            for number, hash_ in enumerate(shape.unique_hashes(table), 1)
        ]
        key = shape.hash(table, shape.key)
        only = sql.SQL(_ONLY).format(key=key, here=ident(_HERE), unique=sql.SQL(" ").join(unique))
    statement = sql.SQL(_THERE_TOO).format(
        there=ident(_THERE), hashes=shape.hashes(table), table=ident(table.name), only=only
    )
    await pair.target.execute(statement)
    await pair.target.execute(sql.SQL("analyze {}, {}").format(ident(_HERE), ident(_THERE)))


async def _bring_standing(pair: Pair, table: Table, shape: _Shape) -> None:
    """Of the source's rows those, too, that stand at the target under a key which means another row here: few, where
    the sites do not number apart."""
    take = sql.SQL(_MORE).format(here=ident(_HERE))
    for number, hash_ in enumerate(shape.unique_hashes(table), 1):
        standing = [value for (value,) in await _ask(pair, _STANDING, number=number)]
        for start in range(0, len(standing), HASHES_PER_SCAN):
            rows = sql.SQL(_FURTHER).format(
                hashes=shape.hashes(table),
                table=ident(table.name),
                hash=hash_,
                standing=sql.Literal(standing[start : start + HASHES_PER_SCAN]),
            )
            out = sql.SQL("copy ({}) to stdout (format binary)").format(rows)
            await transfer(pair.source, pair.target, (out, take), threading.Event(), f"drift of {table.name}")


async def _judge(pair: Pair, table: TableName, shape: _Shape, referring: Sequence[Reference], *, whole: bool) -> Drift:
    [counts] = await _ask(pair, _COUNTS)
    columns = {shape.names[number - 1]: int(rows) for number, rows in await _ask(pair, _COLUMNS)}
    others = []
    for number, names in enumerate(shape.unique, 1):
        [(rows,)] = await _ask(pair, _ANOTHER_KEY, number=number)
        referred: dict[Reference, int] = {}
        for position, reference in enumerate(referring, 1):
            [(keys,)] = await _ask(pair, _OTHERS, number=number, reference=position)
            referred |= {reference: int(keys)} if keys else {}
        others += [Other(names, int(rows), referred)] if rows or referred else []
    only_source, only_target, different = (int(n) for n in counts)
    return Drift(table, whole, only_source, only_target if whole else 0, different, columns, tuple(others))


async def _ask(pair: Pair, statement: str, **numbers: int) -> list[tuple[int, ...]]:
    literals = {name: sql.Literal(number) for name, number in numbers.items()}
    composed = sql.SQL(statement).format(here=ident(_HERE), there=ident(_THERE), **literals)
    return await (await pair.target.execute(composed)).fetchall()


def _listed(parts: Sequence[Fragment]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
