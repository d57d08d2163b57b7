"""References to a second person, or to a row of hers, that the mover sets to null (docs/decisions/0019): which they
are, which can be, and what they name that is not where the rows are to live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap, OwnerStep, PartyPolicy
from domicile.model.schema import Column, Reference, Schema, Table, TableName
from domicile.postgres import party_keys, stub_registry
from domicile.postgres.collisions import Members
from domicile.postgres.ownership import Fragment, column, ident, owner_joins
from domicile.postgres.party_keys import Obstacle
from domicile.postgres.references import KEYS_PER_BATCH, of_scope
from domicile.postgres.waves import table_exists

HINT = "Write stub or refuse under parties in the data map."
_REFUSE = "Write refuse under parties in the data map."
_FAMILIES = tuple(
    frozenset(("pg_catalog", name) for name in names) for names in (("int2", "int4", "int8"), ("text", "varchar"))
)
_ROWS = "from {table} as t {joins} join {members} as m on m.subject = {owner}"
# Nothing of the wave: it arrives with it, and what is missing is a discrepancy.
_NAMED = """
    select t.{column}::pg_catalog.text, pg_catalog.count(*) {rows} where m.wave = {wave} and t.{column} is not null
        and not exists ({own})
    group by 1"""
_OWN_PERSON = "select from {members} as own where own.wave = {wave} and own.subject = t.{column}"
_OWN_ROW = """
    select from {named} as named {joins} join {members} as own on own.subject = {owner}
    where own.wave = {wave} and named.{key} = t.{column}"""
# A stub is nobody; a copy that arrives with another wave may be taken away again.
_ABSENT = """
    select person.text from (
        select text, text::{type} as subject from pg_catalog.unnest({keys}::pg_catalog.text[]) as text) as person
    where not exists (select from {named} as t where t.{key} = person.subject){arriving}"""
_ARRIVING = """ or {stub} or exists (
    select from (
        select w.mark, w.id from domicile.member as m join domicile.wave as w on w.id = m.wave
        where m.subject = person.subject order by w.epoch desc limit 1) as latest
    where latest.mark = 'arriving' and latest.id <> {wave})"""
_ROW_ARRIVING = """ or exists (
    select from {named} as t {joins} cross join lateral ({latest}) as latest
    where t.{key} = person.subject and latest.mark = 'arriving' and latest.wave <> {wave})"""
LATEST = """
    select own.wave, own.ordinal, w.mark from domicile.member as own join domicile.wave as w on w.id = own.wave
    where own.subject = {owner} order by w.epoch desc limit 1"""
"""The wave that decides about an owner now; ``owner``: an expression."""
# Null as the column's own type: a domain may refuse it.
_REFUSED = """
    select exists (select from (select {columns} from {table} as t where t.{column} is not null) as {alias}
        where ({checks}) is false), null::{type}"""
_CHECKS = """
    select pg_catalog.pg_get_expr(c.conbin, c.conrelid) from pg_catalog.pg_constraint as c
    join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = any (c.conkey)
    where c.conrelid = pg_catalog.to_regclass(%s) and a.attname = %s and c.contype = 'c' order by c.conname"""
# Unique indexes and exclusion constraints in which the column has any part, in a predicate too.
_UNIQUE = """
    select distinct ic.relname from pg_catalog.pg_index as i
    join pg_catalog.pg_class as ic on ic.oid = i.indexrelid
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attname = %s
    left join pg_catalog.pg_constraint as x on x.conindid = i.indexrelid and x.contype = 'x'
    where i.indrelid in (
            select relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass(%s))
            union all select pg_catalog.to_regclass(%s))
        and (i.indisunique or x.oid is not null) and i.indislive
        and (a.attnum = any (i.indkey::pg_catalog.int2[]) or exists (
            select from pg_catalog.pg_depend as d
            where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = i.indexrelid
                and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                and d.refobjid = i.indrelid and d.refobjsubid = a.attnum))
    order by 1"""


def parties(data_map: DataMap, schema: Schema) -> tuple[Reference, ...]:
    """The references whose policy is null, as this site declares them."""
    return tuple(r for r in of_scope(data_map, schema) if data_map.policy_of(r) is PartyPolicy.NULL)


def wanted(data_map: DataMap) -> bool:
    """Whether the map has a reference be set to null anywhere."""
    return any(p is PartyPolicy.NULL for rule in data_map.tables.values() for p in rule.parties.values())


def row_key(table: Table) -> tuple[str, ...]:
    """The columns that a note names a row by: the primary key, or a unique key that is never null; empty where there
    is none."""
    if table.primary_key:
        return table.primary_key
    for key in table.unique_keys:
        plain = bool(key.columns) and not (key.partial or key.on_expression)
        if plain and all(table.column(name).not_null for name in key.columns):
            return key.columns
    return ()


def reasons(data_map: DataMap, schema: Schema) -> Iterator[Obstacle]:
    """Why a reference of the map cannot be set to null at a site with this schema. Pure."""
    for name, rule in sorted(data_map.tables.items()):
        table = schema.tables.get(name)
        for step, policy in rule.parties.items():
            if policy is not PartyPolicy.NULL or table is None or not _has(table, step.columns):
                continue
            wanted_at = (step.columns, step.to_table, step.to_columns)
            found = [r for r in table.references if (r.columns, r.to_table, r.to_columns) == wanted_at]
            if why := _leads_astray(data_map, step):
                yield Obstacle(name, f"{step}: {why}", _REFUSE)
            elif not found or not all(r.proves for r in found):
                why, mend = party_keys.unproven(name, step, [r for r in found if not r.proves])
                yield Obstacle(name, f"{step}: {why}", mend)
            elif not _alike(table.column(step.columns[0]), schema.tables[step.to_table].column(step.to_columns[0])):
                yield Obstacle(name, f"{step}: its type is another than the key's", _REFUSE)
            else:
                hint = HINT if _is_person(data_map, step.to_table) else _REFUSE
                yield from (Obstacle(name, f"{step}: {why}", hint) for why in _unfit(data_map, table, step.columns[0]))


async def reasons_of_server(conn: AsyncConnection[Any], data_map: DataMap, schema: Schema) -> list[str]:
    """The same as the server sees it: indexes that must be unique, and checks and types that take no null where a row
    names somebody now. For a map of which `reasons` has none. Changes nothing."""
    found = []
    for reference in parties(data_map, schema):
        name = reference.columns[0]
        one, text = f"{reference.table}({name})", ident(reference.table).as_string()
        rows = await (await conn.execute(_UNIQUE, (name, text, text))).fetchall()
        found += [f"{one}: a part of {index}" for (index,) in rows]
        if why := await _refused(conn, schema.tables[reference.table], name):
            found.append(f"{one}: {why}")
    return found


async def named(
    conn: AsyncConnection[Any], data_map: DataMap, reference: Reference, members: Members
) -> dict[str, int]:
    """What rows of the members name by this reference that is not one of them, or theirs: keys as text, with how many
    rows."""
    parts: dict[str, Fragment] = {
        "column": sql.Identifier(reference.columns[0]),
        "members": ident(members.relation),
        "wave": sql.Literal(members.wave),
    }
    own = sql.SQL(_OWN_PERSON).format(**parts)
    if not _is_person(data_map, reference.to_table):
        own = sql.SQL(_OWN_ROW).format(**parts, **_of_named(data_map, reference, "named"))
    statement = sql.SQL(_NAMED).format(**parts, own=own, rows=_rows(data_map, reference, members))
    return {str(key): int(rows) for key, rows in await (await conn.execute(statement)).fetchall()}


async def absent(
    conn: AsyncConnection[Any],
    data_map: DataMap,
    schema: Schema,
    reference: Reference,
    keys: Iterable[str],
    wave_id: int = 0,
) -> list[str]:
    """Which of the rows that the reference may name (keys as text) are not at this site, or are a stub, or arrive with
    another wave than this, and may be taken away again. Changes nothing."""
    found: list[str] = []
    key = schema.tables[reference.to_table].column(reference.to_columns[0])
    parts: dict[str, Fragment] = {"wave": sql.Literal(wave_id), **_of_named(data_map, reference, "t")}
    arriving: Fragment = sql.SQL("")
    if await table_exists(conn):
        if _is_person(data_map, reference.to_table):
            arriving = sql.SQL(_ARRIVING).format(stub=stub_registry.registered(sql.SQL("person.subject")), **parts)
        else:
            arriving = sql.SQL(_ROW_ARRIVING).format(latest=sql.SQL(LATEST).format(owner=parts["owner"]), **parts)
    for listed in batches(sorted(keys), KEYS_PER_BATCH):
        statement = sql.SQL(_ABSENT).format(
            type=sql.Identifier(key.base_schema, key.base_type), keys=sql.Literal(listed), arriving=arriving, **parts
        )
        found += [str(text) for (text,) in await (await conn.execute(statement)).fetchall()]
    return found


def batches(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    """The keys in order, so many at a time. Pure."""
    return (list(keys[start : start + size]) for start in range(0, len(keys), size))


def _is_person(data_map: DataMap, table: TableName) -> bool:
    return table == data_map.subject.table


def _of_named(data_map: DataMap, reference: Reference, alias: str) -> dict[str, Fragment]:
    """The table that the reference leads to, as ``alias``, and whose its rows are."""
    joins, owner = owner_joins(data_map, reference.to_table, alias)
    key = sql.Identifier(reference.to_columns[0])
    return {"named": ident(reference.to_table), "key": key, "joins": joins, "owner": owner}


def _leads_astray(data_map: DataMap, step: OwnerStep) -> str:
    """Why rows that the step leads to are nobody's whose home is known; '' where they are somebody's."""
    if _is_person(data_map, step.to_table):
        return "" if step.to_columns == (data_map.subject.key,) else "it leads to another key than the subject's"
    if step.to_table not in data_map.in_scope():
        return "it leads to a table whose rows are not owned"
    return ""


def _alike(ours: Column, theirs: Column) -> bool:
    """Whether a value of the one is one of the other, and equal to the same."""
    types = {(column.base_schema, column.base_type) for column in (ours, theirs)}
    return len(types) == 1 or any(types <= family for family in _FAMILIES)


def _has(table: Table, columns: tuple[str, ...]) -> bool:
    return set(columns) <= {c.name for c in table.columns}


def _unfit(data_map: DataMap, table: Table, name: str) -> Iterator[str]:
    """What of the column and its table keeps it from being null."""
    each = table.column(name)
    if each.not_null:
        yield "it is never null"
    if each.generated:
        yield "it is generated"
    if any(name in k.columns for k in table.unique_keys) or name in table.primary_key:
        yield "it is a part of a key"
    if len({(r.columns, r.to_table, r.to_columns) for r in table.references if name in r.columns}) > 1:
        yield "it is a part of another reference, too"
    elif any(name in r.columns and len(r.columns) > 1 for r in table.references):
        yield "it is a part of a reference of several columns"
    owner = data_map.tables[table.name].owner
    led = [r.owner.to_columns for r in data_map.tables.values() if r.owner and r.owner.to_table == table.name]
    if (owner and name in owner.columns) or any(name in columns for columns in led):
        yield "it is a part of an owner path"
    if not row_key(table):
        yield "the table has no key that tells its rows apart"


async def _refused(conn: AsyncConnection[Any], table: Table, name: str) -> str:
    """Which of the table's checks, or whether the column's type, takes no null; empty for none."""
    checks = await (await conn.execute(_CHECKS, (ident(table.name).as_string(), name))).fetchall()
    kind = sql.SQL(table.column(name).type_name)
    columns = [
        sql.SQL("null::{} as {}").format(kind, sql.Identifier(name)) if c.name == name else column("t", c.name)
        for c in table.columns
    ]
    statement = sql.SQL(_REFUSED).format(
        checks=sql.SQL(" and ").join(sql.SQL("({})").format(sql.SQL(each)) for (each,) in checks or [("true",)]),
        columns=sql.SQL(", ").join(columns),
        table=ident(table.name),
        column=sql.Identifier(name),
        alias=sql.Identifier(table.name.name),
        type=kind,
    )
    try:
        async with conn.transaction():
            row = await (await conn.execute(statement)).fetchone()
    except psycopg.Error as error:
        return f"takes no null (SQLSTATE {error.sqlstate})"
    return "a check of the table takes no null there" if row and row[0] else ""


def _rows(data_map: DataMap, reference: Reference, members: Members) -> sql.Composed:
    joins, owner = owner_joins(data_map, reference.table)
    return sql.SQL(_ROWS).format(
        table=ident(reference.table), joins=joins, members=ident(members.relation), owner=owner
    )
