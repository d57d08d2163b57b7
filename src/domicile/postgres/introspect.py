"""Reads a live database into ``model.schema``: catalogue queries in one read-only transaction, no guesses.

Partition leaves are folded into their root: sizes and estimates are added up, a foreign key declared on
leaves only is reported once, on the root, with the leaves that declare it, and an index counts when every
leaf has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
import hashlib
from importlib import resources
import json
import re
from typing import Any, LiteralString, cast

from psycopg import AsyncConnection, sql
from psycopg.pq import TransactionStatus

from domicile.model.schema import (
    Column,
    Persistence,
    Reference,
    Schema,
    Table,
    TableKind,
    TableName,
    Trigger,
    UniqueKey,
)

COUNTED_BYTES_MAX = (
    16 * 1024 * 1024
)  # a table never analyzed is counted up to this size; above it, the planner's guess is taken

_KINDS = {
    "r": TableKind.ORDINARY,
    "p": TableKind.PARTITIONED,
    "v": TableKind.VIEW,
    "m": TableKind.MATERIALIZED_VIEW,
    "f": TableKind.FOREIGN,
}
_PERSISTENCE = {"p": Persistence.PERMANENT, "u": Persistence.UNLOGGED, "t": Persistence.TEMPORARY}

Connection = AsyncConnection[Any]
Rows = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Relation:
    """One row of pg_class, leaf or root. ``rows`` is None where nobody has analyzed it."""

    oid: int
    root: int
    name: TableName
    kind: str
    persistence: str
    row_security: bool
    heap: int
    total: int
    rows: int | None
    readable: bool
    parents: Sequence[int]

    @property
    def is_root(self) -> bool:
        return self.oid == self.root


async def read_schema(conn: Connection) -> Schema:
    """Every table outside the system's and domicile's own schemas, as it is now.

    Row counts are estimates: ANALYZE's density times today's size; a small table never analyzed is counted.
    Needs no right but to connect; a table never analyzed that we may not read counts 0 rows. Changes nothing.
    """
    async with _steady(conn):
        [rows] = await _rows(conn, "relations")
        relations = [_relation(r) for r in rows]
        # One round trip for the rest: a site may be far away.
        found = await _rows(
            conn,
            "columns",
            "indexes",
            "references",
            "triggers",
            "enums",
            "database",
            relations=[r.oid for r in relations],
        )
        columns, indexes, triggers = map(_by_first, (found[0], found[1], found[3]))
        references, enums, [(version, encoding, collation, large_objects)] = found[2], found[4], found[5]
        counted = {r.oid: await _count(conn, r) for r in relations if r.rows is None}

    trees: dict[int, list[_Relation]] = defaultdict(list)
    for relation in relations:
        trees[relation.root].append(relation)
    names = {r.oid: r.name for r in relations}
    referring = _references(relations, references)
    tables = {}
    for root in (r for r in relations if r.is_root):
        tree = trees[root.oid]
        leaves = [r for r in tree if r.kind != "p"]
        tables[root.name] = Table(
            name=root.name,
            kind=_KINDS[root.kind],
            columns=tuple(_column(c) for c in columns[root.oid]),
            primary_key=next((tuple(i[2]) for i in indexes[root.oid] if i[5]), ()),
            unique_keys=tuple(_unique_key(i) for i in indexes[root.oid] if i[4]),
            references=referring[root.name],
            index_prefixes=_prefixes([indexes[leaf.oid] for leaf in leaves or tree]),
            triggers=tuple(sorted({Trigger(t[1], t[2]) for r in tree for t in triggers[r.oid]}, key=_trigger_order)),
            partitions=tuple(leaf.name for leaf in leaves) if root.kind == "p" else (),
            inherits=tuple(names[p] for p in root.parents if p in names),
            persistence=_PERSISTENCE[root.persistence],
            row_security=root.row_security,
            rows_estimate=sum(counted[r.oid] if r.rows is None else r.rows for r in tree),
            bytes_total=sum(r.total for r in tree),
            bytes_heap=sum(r.heap for r in tree),
        )
    return Schema(
        tables=tables,
        server_version=version,
        enums={name: tuple(labels) for name, labels in enums},
        large_objects=large_objects,
        encoding=encoding,
        collation=collation,
    )


def schema_digest(schema: Schema, tables: Iterable[TableName]) -> str:
    """SHA-256 (hex) over the structure of ``tables``: what a move relies on.

    Covers columns in order, keys, references, triggers, enum labels, persistence, row security. Leaves out
    what changes in normal service: sizes, estimates, partitions (new ones come every month) and plain
    indexes. An absent table counts as absent. Pure.
    """
    inherited = schema.inherited
    facts = {
        str(name): _structure(schema, schema.tables.get(name), inherited.get(name, ())) for name in sorted(set(tables))
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _structure(schema: Schema, table: Table | None, heirs: Sequence[TableName]) -> object:
    if table is None:
        return None
    types = {(c.base_schema, c.base_type) for c in table.columns} | {
        (c.element_schema, c.element_type) for c in table.columns
    }
    labels = {name: schema.enums[name] for name in (f"{s}.{t}" for s, t in types) if name in schema.enums}
    return {
        "kind": table.kind,
        "columns": [
            [c.name, c.type_name, c.not_null, c.generated, c.identity, c.collation, c.collation_deterministic]
            for c in table.columns
        ],
        "primary_key": table.primary_key,
        "unique_keys": sorted(k.definition for k in table.unique_keys),
        "references": sorted(
            [r.name, str(r.to_table), *r.columns, *r.to_columns, r.on_delete] for r in table.references
        ),
        "triggers": [[t.name, t.enabled] for t in table.triggers],
        "inherits": [str(t) for t in table.inherits],
        "persistence": table.persistence,
        "row_security": table.row_security,
        "labels": labels,
        # Only where there are any: plans of tables without them keep the digest that they were made with.
        **({"inherited by": [str(t) for t in heirs]} if heirs else {}),
    }


@asynccontextmanager
async def _steady(conn: Connection) -> AsyncIterator[None]:
    """One snapshot and an empty search_path for this transaction; a caller's own transaction keeps its
    snapshot."""
    fresh = conn.info.transaction_status == TransactionStatus.IDLE
    async with conn.transaction():
        async with conn.pipeline():
            if fresh:
                await conn.execute("set transaction isolation level repeatable read, read only")
            await conn.execute("select pg_catalog.set_config('search_path', '', true)")
        yield


async def _rows(conn: Connection, *blocks: str, relations: Sequence[int] = ()) -> list[Rows]:
    """What each of the statements finds; some of them ask about ``relations``."""
    async with AsyncExitStack() as stack:
        cursors = [await stack.enter_async_context(conn.cursor(row_factory=_tuple_row)) for _ in blocks]
        async with conn.pipeline():
            for cursor, block in zip(cursors, blocks, strict=True):
                await cursor.execute(_STATEMENTS[block], {"relations": list(relations)})
        return [await cursor.fetchall() for cursor in cursors]


def _tuple_row(cursor: Any) -> Any:
    """Plain tuples, whatever row factory the caller's connection has."""
    del cursor
    return tuple


def _statements(text: str) -> Mapping[str, LiteralString]:
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    # The file is part of the package: as trustworthy as a literal.
    return {name: cast("LiteralString", body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


_STATEMENTS = _statements(resources.files(__package__).joinpath("sql/introspect.sql").read_text(encoding="utf-8"))


def _by_first(rows: Rows) -> Mapping[int, list[tuple[Any, ...]]]:
    grouped: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        grouped[row[0]].append(row)
    return grouped


def _relation(row: tuple[Any, ...]) -> _Relation:
    oid, root, schema, name, *rest = row
    return _Relation(oid, root, TableName(schema, name), *rest)


async def _count(conn: Connection, relation: _Relation) -> int:
    """Rows of a table that was never analyzed: counted when small, else the planner's guess from its size."""
    if not relation.readable:
        return 0
    table = sql.Identifier(relation.name.schema, relation.name.name)
    async with conn.cursor(row_factory=_tuple_row) as cursor:
        if relation.heap <= COUNTED_BYTES_MAX:
            await cursor.execute(sql.SQL("select count(*) from only {}").format(table))
            [(rows,)] = await cursor.fetchall()
            return int(rows)
        await cursor.execute(sql.SQL("explain (format json) select 1 from only {}").format(table))
        [(plan,)] = await cursor.fetchall()
        return int(plan[0]["Plan"]["Plan Rows"])


def _column(row: tuple[Any, ...]) -> Column:
    _, *facts, sequence_schema, sequence = row
    facts.append(TableName(sequence_schema, sequence) if sequence else None)
    return Column(*facts)


def _unique_key(row: tuple[Any, ...]) -> UniqueKey:
    _, name, columns, _, _, primary, partial, on_expression, nulls_not_distinct, definition, _ = row
    return UniqueKey(name, tuple(columns), primary, partial, on_expression, nulls_not_distinct, definition)


def _prefixes(indexes_of_leaves: Sequence[Rows]) -> tuple[tuple[str, ...], ...]:
    """The column lists that a usable index leads with, in every one of the leaves."""
    usable = [{tuple(i[2])[: i[3]] for i in indexes if i[10] and not i[6] and i[3]} for indexes in indexes_of_leaves]
    return tuple(sorted(set.intersection(*usable))) if usable else ()


def _trigger_order(trigger: Trigger) -> tuple[str, str]:
    return trigger.name, trigger.enabled


def _references(relations: Sequence[_Relation], rows: Rows) -> Mapping[TableName, tuple[Reference, ...]]:
    """Foreign keys by root table. One declared on several leaves becomes one reference that names them."""
    by_oid = {r.oid: r for r in relations}
    merged: dict[tuple[object, ...], Reference] = {}
    for referring, referred, columns, to_columns, name, on_delete, deferrable, validated in rows:
        at, to = by_oid[referring], by_oid.get(referred)
        if to is None:
            continue  # a table of the system's or domicile's own
        table, to_table = by_oid[at.root].name, by_oid[to.root].name
        same = (table, tuple(columns), to_table, tuple(to_columns))
        # A constraint of the root has its own entry; those of leaves share one.
        key = (*same, name) if at.is_root else same
        before = merged.get(key)
        leaves = () if at.is_root else (*(before.leaves if before else ()), str(at.name))
        merged[key] = Reference(
            *same,
            name=before.name if before else name,
            on_delete=on_delete,
            deferrable=deferrable,
            leaves=tuple(sorted(leaves)),
            validated=validated and (before is None or before.validated),
        )
    grouped: dict[TableName, tuple[Reference, ...]] = defaultdict(tuple)
    for reference in sorted(merged.values(), key=lambda r: (r.columns, str(r.to_table), r.name)):
        grouped[reference.table] += (reference,)
    return grouped
