"""Pairs such as (``commentable_type``, ``commentable_id``): which tables the rows mean, with containment for each.

The kinds are matched on the server against the names of the schema's own tables, so that no value leaves it. Kinds that
are numbers mean nothing here: such a pair is named, and a person must say what its rows mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from domicile.model.schema import Column, Table, TableName
from domicile.postgres.ownership import column, ident
from domicile.survey.measure import SAMPLE_ROWS_MAX, sample
from domicile.survey.names import NameIndex, comparable_keys, glued_stem
from domicile.survey.state import State
from domicile.survey.undeclared import kind_column
from domicile.survey.words import comparable, is_textual, looks_like_identifier, singular, words

TABLES_MAX = 6  # that are said of one pair
_CODES = frozenset({"int2", "int4", "int8", "numeric", "uuid", "char"})  # kinds that only the application can read
_SMALL = frozenset({"int2", "int4"})
# The generic relation of a common framework, and its table of kinds.
_GENERIC_KIND, _GENERIC_ID, _KIND_PARTS = "content_type_id", "object_id", frozenset({"app_label", "model"})


def pairs_of(table: Table) -> tuple[tuple[str, str], ...]:
    """(kind, id) columns of a table that mean rows of one of several tables.

    Not a key of the table itself: ``media_id`` beside ``media_type`` says which medium the row is.
    """
    declared = {c for r in table.references for c in r.columns}
    identifying = [c.name for c in table.columns if looks_like_identifier(c.name) or glued_stem(c.name)]
    found = [(kind_column(table, name), name) for name in identifying]
    names = [c.name for c in table.columns]
    generic = [(f"{n.removesuffix(_GENERIC_ID)}{_GENERIC_KIND}", n) for n in names if n.endswith(_GENERIC_ID)]
    found += [pair for pair in generic if pair[0] in names]  # with a prefix too: target_object_id
    return tuple((kind, name) for kind, name in found if kind and name not in declared and not _is_own(table, name))


def _is_own(table: Table, name: str) -> bool:
    """The column names the row: it is unique, or called after the table and a part of what is."""
    called_after = name.removesuffix("_id") in table.name.name.split("_")
    return any(name in k.columns and (len(k.columns) == 1 or called_after) and not k.partial for k in table.unique_keys)


async def report_polymorphic(state: State, table: Table) -> list[str]:
    """One line for each pair, and one for each table that rows mean."""
    said = []
    proven = {u.step.columns for u in state.proven.get(table.name, ())}
    for kind, name in pairs_of(table):
        if (name,) in proven:
            continue  # all its values are one table's keys
        meant = await _meant(state, table, kind, table.column(name))
        if meant is None:
            continue
        said.append(_said(kind, name, meant))
    return said


def pairs_by_name(state: State, index: NameIndex, table: Table) -> list[str]:
    """The same of a table without rows, where only names and types speak: a type in words or small numbers beside an id
    that could be a key of some table, and is called after none. Pure."""
    return [
        _said(kind, name, ["there are no rows to look at, so only the names say so"])
        for kind, name in pairs_of(table)
        if _is_type(state, table, kind) and _may_lead_anywhere(state, index, table, table.column(name))
    ]


def _is_type(state: State, table: Table, kind: str) -> bool:
    of_kind = table.column(kind)
    if not is_textual(of_kind) and of_kind.base_type not in _SMALL:
        return False
    if any(kind in r.columns for r in table.references):
        return _table_of_kinds(state, table, kind) is not None
    return words(kind)[-1:] == ("type",) or kind.endswith(_GENERIC_KIND)


def _may_lead_anywhere(state: State, index: NameIndex, table: Table, identifier: Column) -> bool:
    if words(identifier.name)[-1:] != ("id",) or index.meant(table, identifier):
        return False
    return any(comparable_keys(identifier, t) for n, t in state.schema.tables.items() if n != table.name)


def _said(kind: str, name: str, meant: Sequence[str]) -> str:
    of = f": {'; '.join(meant)}" if meant else ""
    return f"{kind} and {name} seem to refer to rows of several tables, which no owner path can follow{of}"


async def _meant(state: State, table: Table, kind: str, identifier: Column) -> list[str] | None:
    """What rows of the pair mean, the most frequent first; None: this is no such pair."""
    expression = _kind_text(state, table, kind)
    if expression is None:
        if not _is_coded(table, kind, identifier):
            return None
        return [f"only the application knows what each value of {kind} means"]
    targets = [n for n, t in sorted(state.schema.tables.items()) if comparable_keys(identifier, t) and n != table.name]
    labels = [(label, number) for number, n in enumerate(targets) for label in _labels(n)]
    row = await state.measure.row(
        sql.SQL(_KINDS).format(
            kind=expression,
            sample=sample(table, [sql.SQL("*")], SAMPLE_ROWS_MAX),
            most=sql.Literal(TABLES_MAX),
            labels=sql.Literal([label for label, _ in labels]),
            numbers=sql.Literal([number for _, number in labels]),
        )
    )
    if row is None:
        return []
    said = []
    for number, rows in row[0] or []:
        found = await _found(state, table, expression, identifier, targets[number])
        measured = "not measured" if found is None else f"{found} of {rows} rows looked at are found there"
        said.append(f"{targets[number]} ({measured})")
    return said


def _is_coded(table: Table, kind: str, identifier: Column) -> bool:
    """Not the type of a telephone number or of a document, which a table of types explains, or which says nothing of
    where the number leads."""
    explained = any(kind in r.columns for r in table.references)
    leads = identifier.name.lower().endswith(("id", "key"))
    return table.column(kind).base_type in _CODES and leads and not explained


async def _found(
    state: State, table: Table, expression: sql.Composable, identifier: Column, to_table: TableName
) -> int | None:
    [key, *_] = comparable_keys(identifier, state.table(to_table))
    row = await state.measure.row(
        sql.SQL(_FOUND).format(
            kind=expression,
            sample=sample(table, [sql.SQL("*")], SAMPLE_ROWS_MAX),
            to=ident(to_table),
            key=sql.Identifier(key),
            name=column("t", identifier.name),
            labels=sql.Literal(list(_labels(to_table))),
        )
    )
    return None if row is None else int(row[0])


def _kind_text(state: State, table: Table, kind: str) -> sql.Composable | None:
    """The kind of a row as text: the column, or what it names in a table of kinds."""
    if is_textual(table.column(kind)) or table.column(kind).base_kind == "e":
        return sql.SQL("{}::text").format(column("t", kind))
    if (known := _table_of_kinds(state, table, kind)) is None:
        return None
    kinds, key = known
    return sql.SQL("(select k.app_label || k.model from {} as k where {} = {})").format(
        ident(kinds), column("k", key), column("t", kind)
    )


def _table_of_kinds(state: State, table: Table, kind: str) -> tuple[TableName, str] | None:
    """The table that a kind's number refers to, and its key there: by a reference, or by its name where there is but
    one such table."""
    tables = {n: t for n, t in state.schema.tables.items() if {c.name for c in t.columns} >= _KIND_PARTS}
    for reference in state.references(table.name):
        if reference.columns == (kind,) and reference.to_table in tables:
            return reference.to_table, reference.to_columns[0]
    if kind.endswith(_GENERIC_KIND) and len(tables) == 1:
        [(name, kinds)] = tables.items()
        if len(kinds.primary_key) == 1 and comparable(table.column(kind), kinds.column(kinds.primary_key[0])):
            return name, kinds.primary_key[0]
    return None


def _labels(name: TableName) -> Sequence[str]:
    """How a kind may call the table, in small letters without separators: blogpost, blogposts."""
    said = words(name.name)
    one = (*said[:-1], singular(said[-1])) if said else ()
    return tuple(dict.fromkeys(("".join(said), "".join(one))))


# The kind without separators, whole and after its last namespace: Forum::Post is forumpost, and post.
_KINDS = """
select json_agg(json_build_array(m.no, m.rows) order by m.rows desc, m.no) from (
    select l.no, sum(s.rows)::int8 as rows
    from (select {kind} as kind, count(*) as rows from {sample} as t group by 1) as s
    join unnest({labels}::text[], {numbers}::int8[]) as l (label, no)
      on l.label in (lower(regexp_replace(s.kind, '[^A-Za-z0-9]', '', 'g')),
                     lower(regexp_replace(regexp_replace(s.kind, '^.*[^A-Za-z0-9_]', ''), '_', '', 'g')))
    group by l.no order by 2 desc, l.no limit {most}) as m
"""
_FOUND = """
with s as materialized (select {kind} as kind, {name} as id from {sample} as t),
meant as (
    select k.kind from (select distinct kind from s) as k
    where lower(regexp_replace(k.kind, '[^A-Za-z0-9]', '', 'g')) = any({labels}::text[])
       or lower(regexp_replace(regexp_replace(k.kind, '^.*[^A-Za-z0-9_]', ''), '_', '', 'g')) = any({labels}::text[])
)
select count(*) from s where s.kind in (select kind from meant)
   and exists (select from {to} as o where o.{key} = s.id)
"""
