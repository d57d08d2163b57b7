"""Checks of the data map and of the two schemas. Pure: they judge what was read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from domicile.model.datamap import DataMap, Role
from domicile.model.errors import ErrorCode
from domicile.model.plan import Check
from domicile.model.schema import (
    Column,
    Persistence,
    Reference,
    Schema,
    Table,
    TableKind,
    TableName,
    UniqueKey,
)
from domicile.planner.facts import Preflight
from domicile.postgres import equality

LISTED_MAX = 20
_MOVABLE = (TableKind.ORDINARY, TableKind.PARTITIONED)


def listed(items: Iterable[object]) -> str:
    """The items, comma-separated; more than ``LISTED_MAX`` are counted, not shown."""
    texts = [str(i) for i in items]
    more = f" and {len(texts) - LISTED_MAX} more" if len(texts) > LISTED_MAX else ""
    return ", ".join(texts[:LISTED_MAX]) + more


def map_complete(p: Preflight) -> Check:
    """Nobody's rows are forgotten: every table has a role."""
    undecided = p.request.data_map.of_role(Role.UNDECIDED)
    unknown = sorted(
        t.name
        for t in p.source_schema.tables.values()
        if t.kind in (*_MOVABLE, TableKind.FOREIGN) and t.name not in p.request.data_map.tables
    )
    found = [f"undecided: {listed(undecided)}"] if undecided else []
    found += [f"not in the map: {listed(unknown)}"] if unknown else []
    return Check(
        "map complete",
        not found,
        "; ".join(found) or f"each of {len(p.request.data_map.tables)} tables has a role",
        hint="Give each of these tables a role in the data map.",
        code=ErrorCode.MAP_INCOMPLETE,
    )


def map_matches(p: Preflight) -> Check:
    """Every table that the map names is there."""
    missing = sorted(t for t in p.request.data_map.tables if t not in p.source_schema.tables)
    return Check(
        "map matches the source",
        not missing,
        f"not at {p.request.source}: {listed(missing)}" if missing else "every table of the map is there",
        hint="Remove these tables from the data map, or correct their names.",
        code=ErrorCode.MAP_INVALID,
    )


def schemas_equal(p: Preflight) -> Check:
    """Tables in which rows arrive mean the same at both sites; only the order of columns may differ."""
    found: list[str] = []
    notes: list[str] = []
    for name in p.written:
        source, target = p.source_schema.tables[name], p.target_schema.tables.get(name)
        if target is None:
            found.append(f"{name} does not exist at {p.request.target}")
            continue
        found += [f"{name}: {d}" for d in differences(source, target)]
        if _order(source) != _order(target):
            notes.append(f"{name} has another column order, which is fine")
    missing, extra = enum_differences(p.source_schema, p.target_schema, p.written)
    found += missing
    return Check(
        "schemas equal",
        not found,
        listed(found or notes + extra) or f"{len(p.written)} tables are the same at both sites",
        hint=f"Bring the schema of {p.request.target} to that of {p.request.source}, then plan again.",
        code=ErrorCode.SCHEMAS_DIFFER,
    )


def differences(source: Table, target: Table) -> Iterator[str]:
    """How the target's table differs in what a move relies on, in words with names."""
    columns = {c.name: c for c in target.columns}
    for column in source.columns:
        if (other := columns.pop(column.name, None)) is None:
            yield f"column {column.name} is missing at the target"
        else:
            yield from (f"column {column.name}: {d}" for d in _column_differences(column, other))
    yield from (f"extra column {name} at the target" for name in columns)
    if source.primary_key != target.primary_key:
        here, there = _names(source.primary_key), _names(target.primary_key)
        yield f"primary key {here} at the source, {there} at the target"
    yield from _missing_and_extra(
        "unique key", (_unique(k) for k in source.unique_keys), (_unique(k) for k in target.unique_keys)
    )
    yield from _missing_and_extra(
        "foreign key", (_reference(r) for r in source.references), (_reference(r) for r in target.references)
    )


def _column_differences(source: Column, target: Column) -> Iterator[str]:
    if source.type_name != target.type_name:
        yield f"type {source.type_name} at the source, {target.type_name} at the target"
    if source.collation != target.collation:
        here, there = source.collation or "default", target.collation or "default"
        yield f"collation {here} at the source, {there} at the target"
    for word, at_source, at_target in (
        ("not null", source.not_null, target.not_null),
        ("generated", source.generated, target.generated),
        ("filled by a sequence", source.default_sequence is not None, target.default_sequence is not None),
        ("always an identity", source.identity == "a", target.identity == "a"),
    ):
        if at_source != at_target:
            yield f"{word} only at the {'source' if at_source else 'target'}"


def enum_differences(source: Schema, target: Schema, tables: Iterable[TableName]) -> tuple[list[str], list[str]]:
    """Labels missing at the target, and (harmless for this direction) labels and orders that only it has."""
    missing, notes = [], []
    for name in sorted(_enums_of(source, tables)):
        here, there = source.enums.get(name, ()), target.enums.get(name, ())
        if absent := [label for label in here if label not in there]:
            missing.append(f"enum {name} has no label {listed(map(repr, absent))} at the target")
        elif tuple(label for label in there if label in here) != here:
            notes.append(f"enum {name} sorts its labels otherwise at the target")
        elif len(there) > len(here):
            notes.append(f"enum {name} has more labels at the target")
    return missing, notes


def _enums_of(schema: Schema, tables: Iterable[TableName]) -> set[str]:
    columns = [c for t in tables for c in schema.tables[t].columns]
    names = {f"{c.base_schema}.{c.base_type}" for c in columns}
    names |= {f"{c.element_schema}.{c.element_type}" for c in columns}
    return names & schema.enums.keys()


def references_comparable(p: Preflight) -> Check:
    """Who owns a row, and what it refers to, is found by ``=``."""
    obstacles = [
        o for schema in (p.source_schema, p.target_schema) for o in equality.reasons(p.request.data_map, schema)
    ]
    found = dict.fromkeys(o.why for o in obstacles)
    return Check(
        "references comparable",
        not found,
        listed(found) or "every type in them compares as PostgreSQL's own do",
        hint=obstacles[0].hint if obstacles else "",
    )


def kinds_movable(p: Preflight) -> Check:
    """Only real, logged tables can be moved row by row."""
    found = [f"{t.name} {reason}" for n in p.written if (reason := _immovable(t := p.source_schema.tables[n]))]
    for site, schema in ((p.request.source, p.source_schema), (p.request.target, p.target_schema)):
        inherited = schema.inherited
        found += [
            f"{n} is inherited by {listed(inherited[n])} at {site}, whose rows would move and be removed as its own"
            for n in p.written
            if n in inherited
        ]
    return Check(
        "kinds of tables",
        not found,
        listed(found) or f"{len(p.written)} tables can be moved",
        hint="Give these tables the role local in the data map, or make ordinary logged tables of them, from which "
        "none inherits (alter table ... no inherit ...).",
    )


def _immovable(table: Table) -> str:
    if table.kind not in _MOVABLE:
        return f"is a {table.kind}"
    if table.persistence is not Persistence.PERMANENT:
        return f"is {table.persistence}: its rows do not survive a crash"
    return f"inherits from {listed(table.inherits)}" if table.inherits else ""


def beside_the_tables(p: Preflight) -> Check:
    """What holds data but is no table of the map: named, because it is not moved."""
    views = sorted(t.name for t in p.source_schema.tables.values() if t.kind is TableKind.MATERIALIZED_VIEW)
    found = [f"materialized views to be refreshed at both sites: {listed(views)}"] if views else []
    if p.source_schema.large_objects:
        found.append(f"{p.source_schema.large_objects} large objects, which are not moved")
    return Check("data beside the tables", not found, "; ".join(found) or "none", blocking=False)


def large_objects_unused(p: Preflight) -> Check:
    """A column that may hold a large object's id would arrive pointing at nothing."""
    columns = [
        f"{n}.{c.name}"
        for n in p.written
        for c in p.source_schema.tables[n].columns
        if c.base_type in ("oid", "lo") and p.source_schema.large_objects
    ]
    return Check(
        "large objects",
        not columns,
        f"may hold ids of large objects: {listed(columns)}" if columns else "no in-scope column refers to any",
        hint="Move these contents into bytea columns first: large objects are not moved.",
    )


def tables_have_keys(p: Preflight) -> Check:
    """Without a primary key a differing row can be counted but not named."""
    keyless = [n for n in p.in_scope if not p.source_schema.tables[n].primary_key]
    return Check(
        "primary keys",
        not keyless,
        f"none at {listed(keyless)}: verified by row hashes, differences counted, not named" if keyless else "all",
        hint="Add primary keys.",
        blocking=False,
    )


def triggers_silent(p: Preflight) -> Check:
    """Triggers that fire even for the mover would do their work a second time."""
    found = [
        f"{trigger.name} on {name} at {site}"
        for site, schema in ((p.request.source, p.source_schema), (p.request.target, p.target_schema))
        for name in p.written
        for trigger in (schema.tables[name].triggers if name in schema.tables else ())
        if trigger.enabled in ("A", "R")
    ]
    return Check(
        "triggers",
        not found,
        f"enabled ALWAYS or REPLICA, they fire while rows are moved: {listed(found)}" if found else "none fires",
        hint="For the time of the move: alter table ... enable trigger ... (that is, for applications only).",
    )


def path_is_single(data_map: DataMap, schema: Schema, table: TableName) -> bool:
    """True when keys alone prove that every row of the table has at most one owner."""
    at = table
    for step in data_map.path(table):
        there = schema.tables.get(step.to_table)
        keys = (k.columns for k in there.unique_keys if not k.partial and not k.on_expression) if there else ()
        # A unique key over some of the joined columns already allows one row at most.
        if not any(set(k) <= set(step.to_columns) for k in keys):
            return False
        at = step.to_table
    return at == data_map.subject.table


def path_is_total(data_map: DataMap, schema: Schema, table: TableName) -> bool:
    """True when keys alone prove that every row of the table has an owner."""
    at = table
    for step in data_map.path(table):
        here = schema.tables[at]
        declared = any(
            r.proves_now(here)
            and dict(zip(r.columns, r.to_columns, strict=True)) == dict(zip(step.columns, step.to_columns, strict=True))
            for r in here.references
            if r.to_table == step.to_table
        )
        if not declared or not all(here.column(c).not_null for c in step.columns):
            return False
        at = step.to_table
    return True


def _order(table: Table) -> list[str]:
    return [c.name for c in table.columns]


def _names(columns: tuple[str, ...]) -> str:
    return f"({', '.join(columns)})" if columns else "none"


def _unique(key: UniqueKey) -> str:
    if key.partial or key.on_expression:
        return key.definition.partition(" USING ")[2]  # without the index's name
    return _names(key.columns) + (" nulls not distinct" if key.nulls_not_distinct else "")


def _reference(reference: Reference) -> str:
    return f"{_names(reference.columns)} to {reference.to_table}{_names(reference.to_columns)}"


def _missing_and_extra(word: str, source: Iterable[str], target: Iterable[str]) -> Iterator[str]:
    here, there = set(source), set(target)
    yield from (f"{word} {key} is missing at the target" for key in sorted(here - there))
    yield from (f"extra {word} {key} at the target" for key in sorted(there - here))
