"""The SQL that the apply says to the destination, one table at a time: for many rows at once, and for one.

Every statement counts what it found and refuses, inside the server, when that is not what was sent: so a whole
transaction can be sent ahead. In the many-row forms a row is found by its key and touched only if its owner path leads
to a member of the wave. The one-row forms go by key alone, once `claim` has locked the rows and seen whose they are: by
then a parent may be gone that the path leads over. An INSERT never overwrites.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.failures import told
from domicile.postgres.ownership import Fragment, column, ident, owner_joins
from domicile.stream.layout import Identity, Layout, StreamTable

_COLUMNS = resources.files(__package__).joinpath("sql/destination.sql").read_text(encoding="utf-8").encode()

_CHECKED = """
    with done as ({statement} returning 1)
    select case when pg_catalog.count(*) <> pg_catalog.cardinality($1) then domicile.refuse('rows', {name}) end
    from done"""
# For one row, found by a unique key: cheaper than counting (measured: a sixth of the whole statement).
_CHECKED_ONE = """
    with done as ({statement} returning 1)
    select domicile.refuse('rows', {name}) where not exists (select from done)"""
_DELETE = "delete from {table} as t using {rows} where {match} and {mine}"
_UPDATE = "update {table} as t set {sets} from {rows} where {match} and {mine}"
_INSERT = "insert into {table} ({columns}) overriding system value select {values} from {rows}"
_CLAIM = """
    with done as materialized (select from {table} as t join {rows} on {match} where {ours} for no key update of t)
    select case when pg_catalog.count(*) <> pg_catalog.cardinality($1) then domicile.refuse('rows', {name}) end
    from done"""
_DELETE_ONE = "delete from {table} as t {using} where {match}"
_UPDATE_ONE = "update {table} as t set {sets} {using} where {match}"
_INSERT_ONE = "insert into {table} ({columns}) overriding system value values ({values})"
# The member is found by the subject alone: of a table that nobody has analyzed, all indexes look alike. OFFSET keeps
# the planner from beginning with the members instead of the row.
_MINE = """exists (
    select from (select) as start {joins} join domicile.member as m on m.subject = {owner}
    where m.wave + 0 = {wave} offset 0)"""
# A row whose parents are gone is nobody's: they went before it in the same transaction.
_NOBODY_ELSES = """not exists (
    select from (select) as start {joins}
    where not exists (select from domicile.member as m where m.subject = {owner} and m.wave + 0 = {wave}) offset 0)"""
# Of rows without a key: one that is equal, and nobody else's.
_SAME = """
    (select x.tableoid as leaf, x.ctid as line from {table} as x
     where {owner_columns} and {same} and {nobody_elses}
     limit 1) as same"""
# Of bool, bytea, "char", name, integers, text, oid, json, char(n), varchar, dates and times, numeric, uuid and jsonb
# there is one form in bytes. Others are equal in their text, which is what the stream has: bytes differ where the row
# was first written (an XML value's declaration, NaN's sign, an array that once had a null).
_ONE_FORM = frozenset({16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950, 3802})
_SAME_BYTES = "pg_catalog.record_image_eq(row({columns}), row({values}))"
_SAME_TEXT = "row({columns})::pg_catalog.text = row({values})::pg_catalog.text"
_SAME_MATCH = "t.ctid = same.line and t.tableoid = same.leaf"


@dataclass(frozen=True, slots=True)
class SiteColumn:
    """One column at the destination. ``type`` is its name there; ``always``: GENERATED ALWAYS AS IDENTITY; ``read``:
    its values are read from their text by the type's own input, for which no cast may stand in."""

    name: str
    oid: int
    type: str
    always: bool
    read: bool


async def read_columns(conn: AsyncConnection[Any], layout: Layout) -> tuple[tuple[SiteColumn, ...], ...]:
    """The layout's columns as they are at this site, table by table, in the layout's order.

    Raises schema-changed when one is missing.
    """
    tables = layout.tables
    arguments = {"schemas": [t.name.schema for t in tables], "names": [t.name.name for t in tables]}
    with told("target", "reading the columns"):
        rows = await (await conn.execute(_COLUMNS, arguments)).fetchall()
    found = {(no - 1, name): SiteColumn(name, *facts) for no, name, *facts in rows}
    for table in tables:
        for name in table.columns:
            if (table.no, name) not in found:
                raise DomicileError(
                    ErrorCode.SCHEMA_CHANGED,
                    f"{table.name} has no column {name} where its changes are to be applied",
                    facts={"table": str(table.name), "column": name},
                    hint="Bring the schemas of both sites together, then plan again.",
                )
    return tuple(tuple(found[table.no, name] for name in table.columns) for table in tables)


@dataclass(frozen=True, slots=True)
class Dml:
    """Builds the statements of one table. ``columns`` are named by their places in it."""

    table: StreamTable
    columns: Sequence[SiteColumn]
    data_map: DataMap
    wave_id: int
    binary: bool

    def delete_many(self) -> Fragment:
        """Arrays: the key's columns."""
        statement = sql.SQL(_DELETE).format(
            table=ident(self.table.name), rows=self.rows(self.table.key_at), match=self.match(), mine=self.mine()
        )
        return _checked(statement, _CHECKED, self.table)

    def update_many(self, sets: Sequence[int], guards: Sequence[int]) -> Fragment:
        """Arrays: the key's columns, those to set, those that must be as they are given."""
        key = self.table.key_at
        held = (
            sql.SQL("t.{} is not distinct from {}").format(sql.Identifier(self.columns[at].name), self._given(at, n))
            for n, at in enumerate(guards, len(key) + len(sets) + 1)
        )
        statement = sql.SQL(_UPDATE).format(
            table=ident(self.table.name),
            sets=_sets(self.columns, ((at, self._given(at, n)) for n, at in enumerate(sets, len(key) + 1))),
            rows=self.rows((*key, *sets, *guards)),
            match=sql.SQL(" and ").join([self.match(), *held]),
            mine=self.mine(),
        )
        return _checked(statement, _CHECKED, self.table)

    def insert_many(self) -> Fragment:
        """Arrays: all columns."""
        places = range(len(self.columns))
        statement = sql.SQL(_INSERT).format(
            table=ident(self.table.name),
            columns=sql.SQL(", ").join(sql.Identifier(c.name) for c in self.columns),
            values=sql.SQL(", ").join(self._given(at, at + 1) for at in places),
            rows=self.rows(places),
        )
        return _checked(statement, _CHECKED, self.table)

    def claim(self) -> Fragment:
        """Lock rows, and refuse unless all are there and the wave's. Arrays: the key's columns.

        Or nobody's: one that was read ahead of the stream may stand below a parent whose key the stream has still to
        change."""
        return sql.SQL(_CLAIM).format(
            table=ident(self.table.name),
            rows=self.rows(self.table.key_at),
            match=self.match(),
            ours=self.nobody_elses(),
            name=sql.Literal(str(self.table.name)),
        )

    def delete_one(self) -> Fragment:
        """Values: the key's columns; of a table without a key, all, and one such row goes."""
        using, match = self._found(sql.SQL("using {}"))
        statement = sql.SQL(_DELETE_ONE).format(table=ident(self.table.name), using=using, match=match)
        return _checked(statement, _CHECKED_ONE, self.table)

    def update_one(self, sets: Sequence[int], guards: Sequence[int]) -> Fragment:
        """Values: as for `delete_one`, then as for `update_many`."""
        first = len(self.table.key_at) + 1
        using, match = self._found(sql.SQL("from {}"))
        held = (
            sql.SQL("t.{} is not distinct from {}").format(sql.Identifier(self.columns[at].name), self._value(at, n))
            for n, at in enumerate(guards, first + len(sets))
        )
        statement = sql.SQL(_UPDATE_ONE).format(
            table=ident(self.table.name),
            sets=_sets(self.columns, ((at, self._value(at, n)) for n, at in enumerate(sets, first))),
            using=using,
            match=sql.SQL(" and ").join([match, *held]),
        )
        return _checked(statement, _CHECKED_ONE, self.table)

    def insert_one(self) -> Fragment:
        """Values: all columns."""
        places = range(len(self.columns))
        statement = sql.SQL(_INSERT_ONE).format(
            table=ident(self.table.name),
            columns=sql.SQL(", ").join(sql.Identifier(c.name) for c in self.columns),
            values=sql.SQL(", ").join(self._value(at, at + 1) for at in places),
        )
        return _checked(statement, _CHECKED_ONE, self.table)

    # Parts of statements

    def rows(self, places: Sequence[int]) -> Fragment:
        """``unnest($1::type[], ...) as u (v1, ...)``: arrays as rows. Unqualified, or it takes one array only."""
        numbers = range(1, len(places) + 1)
        arrays = (
            sql.SQL("${}::{}[]").format(sql.Literal(n), sql.SQL(self.columns[at].type if self.binary else "text"))
            for n, at in zip(numbers, places, strict=True)
        )
        return sql.SQL("unnest({}) as u ({})").format(
            sql.SQL(", ").join(arrays), sql.SQL(", ").join(_name(n) for n in numbers)
        )

    def match(self, alias: str = "t") -> Fragment:
        """The row has the key that stands first in ``u``."""
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(column(alias, self.columns[at].name), self._given(at, n))
            for n, at in enumerate(self.table.key_at, 1)
        )

    def mine(self, alias: str = "t") -> Fragment:
        """The row belongs to a member of the wave."""
        joins, owner = owner_joins(self.data_map, self.table.name, alias)
        return sql.SQL(_MINE).format(joins=joins, owner=owner, wave=sql.Literal(self.wave_id))

    def nobody_elses(self, alias: str = "t") -> Fragment:
        """The row belongs to a member of the wave, or to nobody any more."""
        joins, owner = owner_joins(self.data_map, self.table.name, alias)
        return sql.SQL(_NOBODY_ELSES).format(joins=joins, owner=owner, wave=sql.Literal(self.wave_id))

    def _found(self, where: sql.SQL) -> tuple[Fragment, Fragment]:
        """How one row is found: more tables, and the condition."""
        if self.table.identity is Identity.FULL:
            return where.format(self._same()), sql.SQL(_SAME_MATCH)
        pairs = (
            sql.SQL("{} = {}").format(column("t", self.columns[at].name), self._value(at, n))
            for n, at in enumerate(self.table.key_at, 1)
        )
        return sql.SQL(""), sql.SQL(" and ").join(pairs)

    def _same(self) -> Fragment:
        forms: dict[str, list[int]] = {_SAME_BYTES: [], _SAME_TEXT: []}
        for at, col in enumerate(self.columns):
            forms[_SAME_BYTES if col.oid in _ONE_FORM else _SAME_TEXT].append(at)
        same = [
            sql.SQL(form).format(
                columns=sql.SQL(", ").join(column("x", self.columns[at].name) for at in places),
                values=sql.SQL(", ").join(self._value(at, at + 1) for at in places),
            )
            for form, places in forms.items()
            if places
        ]
        return sql.SQL(_SAME).format(
            table=ident(self.table.name),
            # Said again, because an index may find them.
            owner_columns=sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(column("x", self.columns[at].name), self._value(at, at + 1))
                for at in self.table.owner.at
            ),
            same=sql.SQL(" and ").join(same),
            nobody_elses=self.nobody_elses("x"),
        )

    def _given(self, at: int, n: int) -> Fragment:
        """Column ``n`` of ``u`` as the type of the table's column ``at``."""
        value = sql.SQL("u.{}").format(_name(n))
        if self.binary:
            return value
        # There are casts from text that are functions; from bpchar, of the same bytes, there is none.
        text = sql.SQL("{}::pg_catalog.bpchar").format(value) if self.columns[at].read else value
        return sql.SQL("{}::{}").format(text, sql.SQL(self.columns[at].type))

    def _value(self, at: int, n: int) -> Fragment:
        """Parameter ``n`` as the type of the table's column ``at``."""
        return sql.SQL("${}::{}").format(sql.Literal(n), sql.SQL(self.columns[at].type))


def _checked(statement: Fragment, check: str, table: StreamTable) -> Fragment:
    return sql.SQL(check).format(statement=statement, name=sql.Literal(str(table.name)))


def _sets(columns: Sequence[SiteColumn], pairs: Iterable[tuple[int, Fragment]]) -> Fragment:
    return sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(columns[at].name), value) for at, value in pairs)


def _name(n: int) -> sql.Identifier:
    return sql.Identifier(f"v{n}")
