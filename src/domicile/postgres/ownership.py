"""Whose row is this? The owner path as SQL: the one definition that copy, verify, purge and the guard
share."""

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

    The joins are inner: a row whose path is broken or null has no owner and is nobody's. The last step to the
    subject's own key needs no join: the referring column is the owner. Aliases ``p1``, ``p2``, ... are taken.
    """
    return _walk(data_map, data_map.path(table), alias, 1)


def rows_of_wave(data_map: DataMap, table: TableName, alias: str = "t") -> Fragment:
    """``from <table> t <joins> join domicile.member m on ...``: the rows of a wave's members, with
    ``m.ordinal`` and ``m.subject``.

    The caller adds ``where m.wave = ...`` (a literal: with parameters, a "%" in a name would be taken for one) and, for
    a chunk, a range of ``m.ordinal``.
    """
    joins, owner = owner_joins(data_map, table, alias)
    return sql.SQL("from {table} as {alias} {joins} join domicile.member as m on m.subject = {owner}").format(
        table=ident(table), alias=sql.Identifier(alias), joins=joins, owner=owner
    )


def delete_rows_of_wave(data_map: DataMap, table: TableName, wave_id: int, first: int, last: int) -> sql.Composed:
    """``delete from <table> as t using ... where <owner predicate> and <wave and range of ordinals>``: the rows of
    members with an ordinal in (first, last].

    No statement of domicile deletes an application's row without this predicate. It has no parameters: with them, a
    "%" in a name would be taken for one.
    """
    path = data_map.path(table)
    first_joins, owner = owner_joins(data_map, table)
    member = sql.SQL("domicile.member as m")
    tail = sql.SQL("m.subject = {} and m.wave = {} and m.ordinal > {} and m.ordinal <= {}").format(
        owner, wave_id, first, last
    )
    head = sql.SQL("delete from {} as t using ").format(ident(table))
    if first_joins == sql.Composed([]):  # the row itself names its owner
        return sql.SQL("{}{} where {}").format(head, member, tail)
    # The target of a DELETE cannot be joined in its USING list: the first step becomes part of WHERE, the
    # rest stay joins.
    step, rest = path[0], path[1:]
    joins, _ = _walk(data_map, rest, "p1", 2)
    return sql.SQL("{}{} as p1 {} cross join {} where {} and {}").format(
        head, ident(step.to_table), joins, member, _condition(step, "t", "p1"), tail
    )


def _walk(data_map: DataMap, path: tuple[OwnerStep, ...], alias: str, first: int) -> tuple[Fragment, Fragment]:
    joins: list[Fragment] = []
    at = alias
    for position, step in enumerate(path):
        if position == len(path) - 1 and step.to_columns == (data_map.subject.key,):
            return sql.SQL(" ").join(joins), column(at, step.columns[0])
        following = f"p{first + position}"
        joins.append(
            sql.SQL("join {} as {} on {}").format(
                ident(step.to_table), sql.Identifier(following), _condition(step, at, following)
            )
        )
        at = following
    return sql.SQL(" ").join(joins), column(at, data_map.subject.key)


def _condition(step: OwnerStep, at: str, following: str) -> Fragment:
    pairs = zip(step.columns, step.to_columns, strict=True)
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(column(following, theirs), column(at, ours)) for ours, theirs in pairs
    )
