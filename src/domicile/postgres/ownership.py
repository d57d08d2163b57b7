"""Whose row is this? The owner path as SQL: the one definition that copy, verify, purge and the guard share."""

from __future__ import annotations

from psycopg import sql

from domicile.model.datamap import DataMap, OwnerStep
from domicile.model.schema import TableName

Fragment = sql.Composable


def ident(table: TableName) -> sql.Identifier:
    """The table's qualified, quoted identifier."""
    return sql.Identifier(table.schema, table.name)


def column(alias: str, name: str) -> sql.Identifier:
    """``alias.name``, quoted."""
    return sql.Identifier(alias, name)


def owner_joins(data_map: DataMap, table: TableName, alias: str = "t") -> tuple[Fragment, Fragment]:
    """The joins from ``table`` (as ``alias``) along its owner path, and the expression of the owner's key.

    The joins are inner: a row whose path is broken or null has no owner and is nobody's. The last step to the subject's own key needs no
    join: the referring column is the owner. Aliases ``p1``, ``p2``, ... are taken.
    """
    joins: list[Fragment] = []
    at = alias
    path = data_map.path(table)
    for position, step in enumerate(path, start=1):
        if position == len(path) and step.to_columns == (data_map.subject.key,):
            return sql.SQL(" ").join(joins), column(at, step.columns[0])
        following = f"p{position}"
        joins.append(_join(step, at, following))
        at = following
    return sql.SQL(" ").join(joins), column(at, data_map.subject.key)


def rows_of_wave(data_map: DataMap, table: TableName, alias: str = "t") -> Fragment:
    """``from <table> t <joins> join domicile.member m on ...``: the rows of a wave's members, with ``m.ordinal`` and ``m.subject``.

    The caller adds ``where m.wave = %s`` and, for a chunk, a range of ``m.ordinal``.
    """
    joins, owner = owner_joins(data_map, table, alias)
    return sql.SQL("from {table} as {alias} {joins} join domicile.member as m on m.subject = {owner}").format(
        table=ident(table), alias=sql.Identifier(alias), joins=joins, owner=owner
    )


def _join(step: OwnerStep, at: str, following: str) -> Fragment:
    pairs = zip(step.columns, step.to_columns, strict=True)
    condition = sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(column(following, theirs), column(at, ours)) for ours, theirs in pairs
    )
    return sql.SQL("join {} as {} on {}").format(ident(step.to_table), sql.Identifier(following), condition)
