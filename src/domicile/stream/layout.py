"""What the stream relies on of each table: its columns, what tells its rows apart, and where it names its owner.

A layout is made once per wave and direction, from the data map, the plan and the schema of the *origin* (the site
whose changes are read). The filter, the index and the apply at the destination all read the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

from psycopg import AsyncConnection

from domicile.model.datamap import DataMap, Direction, OwnerStep
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Format, TablePlan
from domicile.model.schema import Column, Reference, Schema, Table, TableName
from domicile.postgres.failures import told

_IDENTITIES = resources.files(__package__).joinpath("sql/identities.sql").read_text(encoding="utf-8").encode()
# Types of which two values are equal if and only if their bytes are (in the binary form, and in the text form of
# our sessions). Those of one family may refer to each other: a smallint to a bigint, a varchar to a text.
_FAMILIES: Mapping[str, str] = {
    "int2": "int",
    "int4": "int",
    "int8": "int",
    "text": "text",
    "varchar": "text",
    "bpchar": "bpchar",
    "uuid": "uuid",
    "bytea": "bytea",
    "bool": "bool",
    "date": "date",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
}


class Identity(StrEnum):
    """What tells the rows of a table apart in the stream."""

    KEY = "key"  # a primary key, or another unique key over columns that are never null
    FULL = "full"  # nothing but the whole row: doubles are possible


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """``replica`` is ``pg_class.relreplident``: d, i, f or n; ``x`` where the leaves of a table differ. ``columns`` is
    the key (empty: none), by name; ``whole`` is False when it holds in each partition only."""

    replica: str
    columns: tuple[str, ...] = ()
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Owner:
    """One step towards the subject, in positions of columns. ``parent`` is the number of the table referred to; None:
    the columns are the subject's key itself, to be looked up among the members. ``at`` and ``to`` correspond."""

    at: tuple[int, ...]
    parent: int | None = None
    to: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamTable:
    """One table of the stream. ``columns`` are those that travel, as the plan orders them; all positions count in
    them. ``type_names`` are the origin's, with modifiers. ``families``: whose values may be compared byte by byte with
    whose; empty for columns that cannot be keys.

    ``key`` lists the identity's columns in the order of ``columns``; for FULL it is all of them. ``orphans``: a row
    that goes may leave others behind that hang from it, because no foreign key keeps them together.
    """

    no: int
    name: TableName
    columns: tuple[str, ...]
    type_names: tuple[str, ...]
    families: tuple[str, ...]
    key: tuple[str, ...]
    key_at: tuple[int, ...]
    identity: Identity
    owner: Owner
    replica: str
    partitioned: bool = False
    orphans: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """All tables in scope, parents before children; ``tables[n].no == n``. ``binary``: fields are in the types'
    binary form, else in their text form."""

    tables: tuple[StreamTable, ...]
    binary: bool

    def by_name(self) -> Mapping[TableName, StreamTable]:
        """The same tables by name."""
        return {t.name: t for t in self.tables}


async def read_identities(conn: AsyncConnection[Any], tables: Iterable[TableName]) -> Mapping[TableName, IdentityFacts]:
    """What tells rows apart at this site now, for each of ``tables`` that exists. Raises DomicileError."""
    names = tuple(tables)
    arguments = {"schemas": [t.schema for t in names], "names": [t.name for t in names]}
    with told("origin", "reading the replica identities"):
        rows = await (await conn.execute(_IDENTITIES, arguments)).fetchall()
    found: dict[TableName, IdentityFacts] = {}
    for no, replica, columns, whole in rows:
        name = names[no - 1]
        facts = IdentityFacts(replica, tuple(columns), whole)
        found[name] = facts if found.get(name, facts) == facts else IdentityFacts("x")
    return found


def build_layout(
    data_map: DataMap,
    plan_tables: Sequence[TablePlan],
    schema: Schema,
    identities: Mapping[TableName, IdentityFacts],
) -> Layout:
    """The layout for a stream out of the site with this schema and these identities. Pure.

    Raises DomicileError (plan-refused) for what `live_refusals` names.
    """
    if refused := live_refusals(data_map, schema, identities):
        raise DomicileError(
            ErrorCode.PLAN_REFUSED,
            "; ".join(f"{table}: {reason}" for table, reason in refused),
            facts={"tables": [str(table) for table, _ in refused]},
            hint="Mend the tables, or carry the move out with: domicile apply --cold",
        )
    plans = {p.table: p for p in plan_tables}
    numbers = {name: no for no, name in enumerate(data_map.in_scope())}
    columns = {name: plans[name].columns for name in numbers}
    tables = []
    for name, no in numbers.items():
        facts, found = identities[name], {c.name: c for c in schema.tables[name].columns}
        identity = Identity.KEY if facts.columns else Identity.FULL
        key = tuple(c for c in columns[name] if identity is Identity.FULL or c in facts.columns)
        tables.append(
            StreamTable(
                no=no,
                name=name,
                columns=columns[name],
                type_names=tuple(found[c].type_name for c in columns[name]),
                families=tuple(family(found[c]) for c in columns[name]),
                key=key,
                key_at=tuple(columns[name].index(c) for c in key),
                identity=identity,
                owner=_owner(data_map, name, columns, numbers),
                replica=facts.replica,
                partitioned=bool(schema.tables[name].partitions),
                orphans=_leaves_orphans(data_map, schema, name),
            )
        )
    binary = all(p.format is Format.BINARY for p in plans.values() if p.table in numbers)
    return Layout(tuple(tables), binary and not any(map(_has_array, (schema.tables[n] for n in numbers))))


def live_refusals(
    data_map: DataMap, schema: Schema, identities: Mapping[TableName, IdentityFacts]
) -> list[tuple[TableName, str]]:
    """What a live move cannot carry (``--cold`` can): table and reason, in plain words; empty when it can. Pure."""
    refused: list[tuple[TableName, str]] = []
    for name in data_map.in_scope():
        table = schema.tables.get(name)
        if table is None:
            refused.append((name, "the table does not exist"))
            continue
        reasons = (*_unfit_identity(table, identities.get(name)), *_unfit_step(data_map, schema, identities, name))
        refused += [(name, reason) for reason in dict.fromkeys(reasons)]
    return refused


def family(column: Column) -> str:
    """Which columns its values may be compared with, byte by byte; empty: with none."""
    if column.base_kind == "e":
        return f"{column.base_schema}.{column.base_type}"
    if column.base_schema != "pg_catalog" or not column.collation_deterministic:
        return ""
    return _FAMILIES.get(column.base_type, "")


def _unfit_identity(table: Table, facts: IdentityFacts | None) -> Iterable[str]:
    match facts:
        case None:
            yield "the change stream cannot tell its rows apart (is it an ordinary or a partitioned table?)"
        case IdentityFacts("x"):
            yield "its partitions have different replica identities"
        case IdentityFacts("n"):
            yield "its replica identity is NOTHING"
        case IdentityFacts("d", ()):
            yield "it has no primary key, and its replica identity is DEFAULT"
        case IdentityFacts("i", ()):
            yield "the index of its replica identity is gone"
        case IdentityFacts(_, columns, False):
            yield f"its key ({', '.join(columns)}) holds in each partition only"
        case IdentityFacts(_, columns):
            for column in map(table.column, columns):
                yield from _unfit_column(column, "its key has")


def _unfit_column(column: Column, what: str) -> Iterable[str]:
    if column.generated:
        yield f"{what} column {column.name}, which is generated"
    elif not family(column):
        yield f"{what} column {column.name} of type {column.type_name}, of which equal values may differ in bytes"


def _unfit_step(
    data_map: DataMap, schema: Schema, identities: Mapping[TableName, IdentityFacts], name: TableName
) -> Iterable[str]:
    table = schema.tables[name]
    path = data_map.path(name)
    if not path:
        yield from _unfit_column(table.column(data_map.subject.key), "the subject's key is")
        return
    step, parent = path[0], schema.tables.get(path[0].to_table)
    if step.direction is Direction.FROM:
        yield f"its owner is found against the arrow ({step})"
        return
    if parent is None:
        return  # said of the parent itself
    for ours, theirs in zip(map(table.column, step.columns), map(parent.column, step.to_columns), strict=True):
        yield from _unfit_column(ours, "its owner is in")
        yield from _unfit_column(theirs, f"its owner is named by {step.to_table}'s")
        if family(ours) != family(theirs):
            yield f"column {ours.name} and {step.to_table}'s column {theirs.name} are of different types"
    facts = identities.get(step.to_table)
    if facts is not None and facts.replica == "f" and not facts.columns and not _names_the_subject(data_map, path):
        yield f"its rows hang from {step.to_table}, which has no key"


def _names_the_subject(data_map: DataMap, path: Sequence[OwnerStep]) -> bool:
    return len(path) == 1 and path[0].to_columns == (data_map.subject.key,)


def _owner(
    data_map: DataMap,
    name: TableName,
    columns: Mapping[TableName, tuple[str, ...]],
    numbers: Mapping[TableName, int],
) -> Owner:
    path = data_map.path(name)
    if not path:
        return Owner((columns[name].index(data_map.subject.key),))
    at = tuple(columns[name].index(c) for c in path[0].columns)
    if _names_the_subject(data_map, path):  # as in postgres/ownership: the referring column is the owner
        return Owner(at)
    to = path[0].to_table
    return Owner(at, numbers[to], tuple(columns[to].index(c) for c in path[0].to_columns))


def _leaves_orphans(data_map: DataMap, schema: Schema, name: TableName) -> bool:
    """Some rows find their owner in this table without a foreign key that leads there."""
    steps = ((child, path[0]) for child in data_map.in_scope() if (path := data_map.path(child)))
    return any(
        step.to_table == name
        and not _names_the_subject(data_map, data_map.path(child))
        and not any(_same(reference, step) for reference in schema.tables[child].references)
        for child, step in steps
    )


def _same(reference: Reference, step: OwnerStep) -> bool:
    """The foreign key, which holds for every row of the table, is over the columns of the step."""
    ours, theirs = ({*zip(one.columns, one.to_columns, strict=True)} for one in (reference, step))
    return reference.to_table == step.to_table and reference.proves and ours == theirs


def _has_array(table: Table) -> bool:
    return any(c.element_type for c in table.stored_columns)
