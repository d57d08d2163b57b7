"""The COPY statements that carry a wave's rows, and the format in which each table travels.

Rows are chosen by ``postgres/ownership`` alone: nothing else decides what may leave the source.
"""

from __future__ import annotations

from psycopg import sql

from domicile.model.datamap import DataMap, Direction
from domicile.model.plan import Format, TablePlan
from domicile.model.schema import Column, Table, TableName
from domicile.postgres.ownership import Fragment, column, ident, owner_joins, rows_of_wave

_SYSTEM = "pg_catalog"
_BINARY_KINDS = frozenset("be")  # base types, and enums, whose binary form is the label
# PostgreSQL sends their empty values in a binary form that it does not take back (15 to 18).
_HALF_BINARY = frozenset({"tsquery", "int2vector", "oidvector"})


def copy_out(data_map: DataMap, table: TablePlan, wave_id: int, first_ordinal: int, last_ordinal: int) -> sql.Composed:
    """COPY TO of the rows whose owner has an ordinal in (first, last] of the wave. No order is promised."""
    chunk = sql.SQL("m.wave = {} and m.ordinal > {} and m.ordinal <= {}").format(
        sql.Literal(wave_id), sql.Literal(first_ordinal), sql.Literal(last_ordinal)
    )
    return sql.SQL("copy (select {columns} {rows}) to stdout (format {format})").format(
        columns=sql.SQL(", ").join(column("t", name) for name in table.columns),
        rows=_once_each(data_map, table.table, chunk),
        format=sql.SQL(table.format.value),
    )


def copy_in(table: TablePlan) -> sql.Composed:
    """The COPY FROM at the target: columns by name, so their order may differ between the sites."""
    return sql.SQL("copy {table} ({columns}) from stdin (format {format})").format(
        table=ident(table.table),
        columns=sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        format=sql.SQL(table.format.value),
    )


def choose_format(source: Table, target: Table) -> tuple[Format, str]:
    """Binary where it is certain to mean the same at both sites, else text with the reason, for the plan."""
    for ours in source.stored_columns:
        if why := _needs_text(ours):
            return Format.TEXT, f"column {ours.name}: {why}"
        theirs = next((c for c in target.columns if c.name == ours.name), None)
        if theirs is not None and (theirs.type_name, theirs.base_type) != (ours.type_name, ours.base_type):
            return Format.TEXT, f"column {ours.name} is {ours.type_name} here and {theirs.type_name} there"
    return Format.BINARY, ""


def _once_each(data_map: DataMap, table: TableName, chunk: Fragment) -> Fragment:
    """From and where: each row once, even where the path meets it several times.

    A step against the arrow may lead to many rows of one subject (two attachments of one file), and a join
    would double the row."""
    if all(step.direction is Direction.TO for step in data_map.path(table)):
        return sql.SQL("{} where {}").format(rows_of_wave(data_map, table), chunk)
    joins, owner = owner_joins(data_map, table)
    return sql.SQL(
        "from {table} as t where exists (select from (select) as start {joins}"
        " join domicile.member as m on m.subject = {owner} where {chunk})"
    ).format(table=ident(table), joins=joins, owner=owner, chunk=chunk)


def _needs_text(column: Column) -> str:
    """Why this column's binary form may not mean the same in another cluster; empty when it does."""
    if not column.has_binary:
        return f"{column.type_name} has no binary form"
    if not _HALF_BINARY.isdisjoint({column.base_type, column.element_type}):
        return f"an empty {column.type_name} has no binary form that can be read"
    if column.element_type and column.element_schema != _SYSTEM:
        return f"the binary form of {column.type_name} holds the object id of its element type"
    if column.element_type.startswith("reg") or _holds_object_ids(column):
        return f"{column.type_name} holds object ids, which differ between clusters"
    if column.base_schema != _SYSTEM and column.base_kind == "b":
        return f"the binary form of {column.type_name} belongs to its extension and may change with its version"
    if column.base_schema != _SYSTEM and column.base_kind not in _BINARY_KINDS:
        return f"the binary form of {column.type_name} may hold object ids, which differ between clusters"
    return ""


def _holds_object_ids(column: Column) -> bool:
    return column.base_schema == _SYSTEM and column.base_type.startswith("reg")
