"""The guard as SQL: the statements of ``sql/guard.sql``, and the trigger function that finds the owners of one table's
rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
import re
from typing import Any, LiteralString, cast

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap, OwnerStep
from domicile.model.schema import Column, Reference, Schema, TableKind, TableName
from domicile.postgres.ownership import column, ident

TRIGGER = "zz_domicile_guard"  # sorts last, so that it sees the row as the application's own triggers leave it
TRUNCATE_TRIGGER = "zz_domicile_guard_truncate"

# The types the filter can take, as format_type writes them.
KEY_TYPES: Mapping[str, sql.SQL] = {
    "bigint": sql.SQL("pg_catalog.int8"),
    "text": sql.SQL("pg_catalog.text"),
    "uuid": sql.SQL("pg_catalog.uuid"),
}

# The first key of a wave's advisory lock ("domi" read as a number); the second is the wave's id.
LOCK_CLASS = 0x646F6D69
_NO, _YES, _NOWHERE = sql.SQL("false"), sql.SQL("true"), sql.SQL("null")

Connection = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Relation:
    """A guarded table or one of its partitions. ``present`` and ``armed`` are the guard's triggers on it."""

    oid: int
    root: int
    name: TableName
    present: frozenset[str]
    armed: frozenset[str]


@dataclass(frozen=True, slots=True)
class GuardSql:
    """Writes one database's trigger functions. ``collation`` is that of ``domicile.member.subject``, empty where its
    type has none."""

    data_map: DataMap
    schema: Schema
    collation: str

    def functions(self) -> sql.Composed:
        """The functions that all tables share."""
        return sql.SQL(STATEMENTS["functions"]).format(
            equals=_operator(self._subject_key()), lock=sql.Literal(LOCK_CLASS)
        )

    def trigger_function(self, table: TableName, oid: int, comment: str) -> sql.Composed:
        """The function of one table's row trigger."""
        same = sql.SQL(" and ").join(
            sql.SQL("{} {} {}").format(
                column("new", c), _operator(self.schema.tables[table].column(c)), column("old", c)
            )
            for c in self._own_columns(table)
        )
        links, certain = self._links(table)
        return sql.SQL(STATEMENTS["trigger_function"]).format(
            function=function_name(oid),
            find_old=self._find(table, "old", self._relinked(table, links), _NOWHERE),
            # Found through other tables, the owner before may be another's by now: then it says nothing.
            find_new=self._find(
                table, "new", _YES if links else _NO, _NOWHERE if self.joins(table) else sql.SQL("came_from")
            ),
            find_added=self._find(table, "new", _NO if certain else _YES, _NOWHERE),
            unseen=self._unseen(table),
            same_owner=same,
            comment=sql.Literal(comment),
            fast_path=self._fast_path(table, same),
        )

    def filter(self) -> sql.Composed | None:
        """The filter that lets nobody through unasked, for a kind of key that has one."""
        kind = _kind(self._subject_key())
        if kind is None:
            return None
        return sql.SQL(STATEMENTS["filter"]).format(type=KEY_TYPES[kind], body=sql.Literal("select true"))

    def _fast_path(self, table: TableName, same_owner: sql.Composed) -> sql.Composable:
        """Nothing where owners are found through other tables, or the filter could take equal keys for different."""
        own = self._own_columns(table)[0]
        kind = _kind(self._subject_key())
        if self.joins(table) or kind is None or kind != _kind(self.schema.tables[table].column(own)):
            return sql.SQL("")
        return sql.SQL(STATEMENTS["fast_path"]).format(
            same_owner=same_owner, owner=column("new", own), type=KEY_TYPES[kind]
        )

    def lookup(self, table: TableName) -> sql.Composed:
        """The search for owners as a statement that only a plan is asked for, with the table in the record's place."""
        tables, condition = self._owners(table, "new")
        return sql.SQL("explain select m.wave, m.ordinal from {} as new, {} where {}").format(
            ident(table), tables, condition
        )

    def timing(self, table: TableName) -> sql.SQL:
        """BEFORE, so that a refusal comes ahead of what a stale copy of the rows would object to; AFTER where the owner
        is in a generated column, which has no value yet before."""
        rows = self.schema.tables[table]
        late = any(rows.column(c).generated for c in self._own_columns(table))
        return sql.SQL("after") if late else sql.SQL("before")

    def joins(self, table: TableName) -> int:
        """How many other tables are read to find the owner of a row."""
        return len(self._joined_steps(table))

    def _own_columns(self, table: TableName) -> tuple[str, ...]:
        path = self.data_map.path(table)
        return path[0].columns if path else (self.data_map.subject.key,)

    def _find(self, table: TableName, record: str, entering: sql.Composable, came_from: sql.Composable) -> sql.Composed:
        """The question that meets each member who owns the record."""
        return sql.SQL(
            "pg_catalog.max(domicile.guard_ask(m.wave, m.ordinal, tg_relid, {}, {})) from {} where {}"
        ).format(entering, came_from, *self._owners(table, record))

    def _links(self, table: TableName) -> tuple[frozenset[str], bool]:
        """The columns through which other tables' rows find their owner in this one; and whether a row added here can
        bring its owner no row that is there already, because a foreign key demands the parent first."""
        columns: set[str] = set()
        # A partitioned table's keys are asked with a newer snapshot (`RI_FKey_check`) than the guard, to which an old
        # transaction's own does not show the owner.
        certain = self.schema.tables[table].kind is not TableKind.PARTITIONED
        for child in self.data_map.in_scope():
            steps = self._joined_steps(child)
            if not steps or steps[0].to_table != table:
                continue
            columns.update(steps[0].to_columns)
            certain &= any(_demands(r, steps[0]) for r in self.schema.tables[child].references)
        return frozenset(columns), certain or not columns

    def _relinked(self, table: TableName, links: frozenset[str]) -> sql.Composable:
        """True where an UPDATE leads other rows to this one."""
        changed = [
            sql.SQL("({new} {equals} {old}) is not true and ({new} is not null or {old} is not null)").format(
                new=column("new", c), old=column("old", c), equals=_operator(self.schema.tables[table].column(c))
            )
            for c in sorted(links)
        ]
        if not changed:
            return _NO
        return sql.SQL("tg_op operator(pg_catalog.=) 'UPDATE' and ({})").format(sql.SQL(" or ").join(changed))

    def _unseen(self, table: TableName) -> sql.Composable:
        """Counts a row whose owner is found through another one that nobody sees yet. Where a row may be there before
        that one, it is the writer of that one who is counted (`_links`)."""
        steps = self._joined_steps(table)
        if not steps or not self._links(steps[0].to_table)[1]:
            return sql.SQL("")
        parent, leads = _step(self.schema, steps[0], ("new", table), "p1")
        linked = sql.SQL(" and ").join(sql.SQL("{} is not null").format(column("new", c)) for c in steps[0].columns)
        return sql.SQL(STATEMENTS["unseen"]).format(linked=linked, tables=parent, leads=sql.SQL(" and ").join(leads))

    def _owners(self, table: TableName, record: str) -> tuple[sql.Composed, sql.Composed]:
        """The tables and the condition that lead from the record through the owner path to ``domicile.member as m``."""
        tables: list[sql.Composable] = []
        conditions: list[sql.Composable] = []
        at, at_table = record, table
        path = self.data_map.path(table)
        for position, step in enumerate(self._joined_steps(table), start=1):
            following = f"p{position}"
            next_table, leads = _step(self.schema, step, (at, at_table), following)
            tables.append(next_table)
            conditions += leads
            at, at_table = following, step.to_table
        last = path[-1].columns[0] if len(tables) < len(path) else self.data_map.subject.key
        owner = self.schema.tables[at_table].column(last)
        value = _collated(column(at, last), owner.collation, self.collation)
        tables.append(sql.SQL("domicile.member as m"))
        conditions.append(sql.SQL("m.subject {} {}").format(_operator(self._subject_key()), value))
        return sql.SQL(", ").join(tables), sql.SQL(" and ").join(conditions)

    def _joined_steps(self, table: TableName) -> Sequence[Any]:
        """The path without a last step to the subject's own key: there the referring column is the owner already."""
        path = self.data_map.path(table)
        return path[:-1] if path and path[-1].to_columns == (self.data_map.subject.key,) else path

    def _subject_key(self) -> Column:
        return self.schema.tables[self.data_map.subject.table].column(self.data_map.subject.key)


def _step(
    schema: Schema, step: OwnerStep, at: tuple[str, TableName], following: str
) -> tuple[sql.Composed, list[sql.Composed]]:
    """The table that the step leads to, as ``following``, and the conditions for its row. ``at``: a name of the row
    that it leads from, and its table."""
    conditions = []
    for ours, theirs in zip(step.columns, step.to_columns, strict=True):
        wanted = schema.tables[step.to_table].column(theirs)
        given = schema.tables[at[1]].column(ours)
        value = _collated(column(at[0], ours), given.collation, wanted.collation)
        conditions.append(sql.SQL("{} {} {}").format(column(following, theirs), _operator(wanted), value))
    return sql.SQL("{} as {}").format(ident(step.to_table), sql.Identifier(following)), conditions


def _demands(reference: Reference, step: OwnerStep) -> bool:
    """True when no row takes the step before the row that it leads to is there, but for one whose statement has begun
    before, and whose writer is counted himself (`GuardSql._unseen`)."""
    pairs = set(zip(step.columns, step.to_columns, strict=True))
    immediate = reference.proves and not reference.deferrable
    return (
        immediate
        and reference.to_table == step.to_table
        and set(zip(reference.columns, reference.to_columns, strict=True)) <= pairs
    )


def _kind(of: Column) -> str | None:
    """The key of KEY_TYPES under which equal values of the column have equal hashes; None for other types."""
    if of.base_schema != "pg_catalog" or not of.collation_deterministic:
        return None
    return {
        "int2": "bigint",
        "int4": "bigint",
        "int8": "bigint",
        "text": "text",
        "varchar": "text",
        "uuid": "uuid",
    }.get(of.base_type)


def function_name(oid: int) -> sql.Identifier:
    """By oid: a table's name may be as long as an identifier can be."""
    return sql.Identifier("domicile", f"guard_{oid}")


async def relations(conn: Connection, tables: Iterable[TableName]) -> list[Relation]:
    """The tables and their partitions that exist now, each root before its leaves."""
    names = sorted(set(tables))
    cursor = await conn.execute(
        STATEMENTS["relations"], {"schemas": [t.schema for t in names], "names": [t.name for t in names]}
    )
    return [
        Relation(oid, root, TableName(schema, name), frozenset(present), frozenset(armed))
        for oid, root, schema, name, present, armed in await cursor.fetchall()
    ]


async def member_collation(conn: Connection) -> str:
    """The collation of ``domicile.member.subject`` as ``model.schema.Column`` writes it."""
    row = await (await conn.execute(STATEMENTS["member_collation"])).fetchone()
    assert row is not None, "the site schema is installed before the guard"
    schema, name = row
    if name is None or name == "default":
        return ""
    return str(name) if schema == "pg_catalog" else f"{schema}.{name}"


def _operator(of: Column) -> sql.Composed:
    """Equality, of the schema that the type brings it from (citext has its own)."""
    schema = "pg_catalog" if of.base_kind != "b" else of.base_schema
    return sql.SQL("operator({}.=)").format(sql.Identifier(schema))


def _collated(value: sql.Composable, given: str, wanted: str) -> sql.Composable:
    """Two different collations are an error in a comparison: the side that has the index decides."""
    if given == wanted:
        return value
    schema, _, name = (wanted or "default").rpartition(".")
    return sql.SQL("({} collate {})").format(value, sql.Identifier(schema or "pg_catalog", name))


def named_statements(text: str) -> Mapping[str, LiteralString]:
    """The blocks of a ``.sql`` file of ours, by the names in its ``-- name:`` lines."""
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    # The file is part of the package: as trustworthy as a literal.
    return {name: cast("LiteralString", body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


STATEMENTS = named_statements(resources.files(__package__).joinpath("sql/guard.sql").read_text(encoding="utf-8"))
