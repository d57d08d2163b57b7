"""References of moving rows, proven by anti-joins: at the target for what arrives, at the source for what stays behind.

The mover writes with foreign keys switched off, so nothing else proves them. Nulls are judged as in MATCH SIMPLE: a
reference with a null in it refers to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap, Direction, OwnerStep, PartyPolicy
from domicile.model.schema import Reference, Schema, TableName, quote_name
from domicile.postgres.collisions import Members
from domicile.postgres.failures import told
from domicile.postgres.ownership import Fragment, column, ident, owner_joins, rows_of_wave

EXAMPLES_MAX = 5
KEYS_PER_BATCH = 10_000
MEMBERS = TableName("domicile", "member")
Leaving = tuple[int, int, int]  # members of a wave (its id here) with an ordinal above the first, up to the last

_BROKEN = """
    select pg_catalog.count(*) {rows} and {given}
    and not exists (select from {parent} as parent where {joined})"""
_REFERRING = """
    select pg_catalog.count(*) from {child} as child where exists (select {rows} and {joined})"""
# Of rows that move, too: those whose owners are not among the ones who leave.
_STAYERS = """
    select pg_catalog.count(*) from {child} as child where exists (
        select from {table} as t {joins} join {members} as m on m.subject = {owner} where {chunk} and {joined})
    and not exists (
        select from (select) as start {own_joins} join {members} as m on m.subject = {own_owner} where {leaving})"""
_LATER = """
    select pg_catalog.count(*) from {child} as child {own_joins} join {members} as c on c.subject = {own_owner}
    where c.wave = {wave} and exists (
        select from {table} as t {joins} join {members} as m on m.subject = {owner}
        where m.wave = {wave} and {joined}
            and pg_catalog.width_bucket(m.ordinal, {ends}) > pg_catalog.width_bucket(c.ordinal, {ends}))"""
_CHUNK = "m.wave = {} and m.ordinal > {} and m.ordinal <= {}"
_DEPARTED = """m.wave in (
    select w.id from domicile.wave as w where w.move_id = {move} and w.mark = 'departed' and w.purged_at is null)"""
_REFERRED = "select distinct {texts} {rows} and {given}"
_STAYS = " and not exists (select {rows} and {joined})"
_PRESENT = " and exists (select from {parent} as parent where {joined})"
_ABSENT = " and not exists (select from {parent} as parent where {joined})"
_MISSING = """
    select {texts} from (select {typed} from rows from ({lists}) as listed ({names})) as key
    where not exists (select from {parent} as parent where {joined})"""
# Only the leaves that declare the foreign key promise anything.
_LEAVES = """ and {alias}.tableoid in (
    select pg_catalog.to_regclass(leaf) from pg_catalog.unnest({leaves}::pg_catalog.text[]) as leaf)"""


@dataclass(frozen=True, slots=True)
class MissingKeys:
    """Rows that the cohort's rows refer to and that the target does not have: how many, and a few of their keys."""

    reference: Reference
    count: int
    examples: tuple[tuple[str, ...], ...]


def shown(reference: Reference) -> str:
    """A reference as a person would write it."""
    columns, to_columns = (", ".join(map(quote_name, names)) for names in (reference.columns, reference.to_columns))
    return f"{reference.table}({columns}) -> {reference.to_table}({to_columns})"


def of_scope(data_map: DataMap, schema: Schema) -> tuple[Reference, ...]:
    """Every reference of the in-scope tables: declared ones, then those that only the map knows."""
    return of_tables(data_map, schema, data_map.in_scope())


def of_tables(data_map: DataMap, schema: Schema, tables: Sequence[TableName]) -> tuple[Reference, ...]:
    """The same of these tables."""
    declared = [r for table in tables if table in schema.tables for r in schema.tables[table].references]
    return (*declared, *_undeclared(data_map, tables))


def to_prove(data_map: DataMap, source: Schema, target: Schema) -> tuple[Reference, ...]:
    """What must hold at the target for arriving rows: the references of either site, each once."""
    found: dict[object, Reference] = {}
    for reference in (*of_scope(data_map, target), *of_scope(data_map, source)):
        found.setdefault((reference.table, reference.columns, reference.to_table, reference.to_columns), reference)
    return tuple(found.values())


def external_references(schema: Schema, data_map: DataMap) -> tuple[Reference, ...]:
    """References from tables that stay into tables that move: their rows would lose what they refer to."""
    scope = set(data_map.in_scope())
    outside = [name for name in sorted(schema.tables) if name not in scope]
    declared = [r for name in outside for r in schema.tables[name].references]
    return tuple(r for r in (*declared, *_undeclared(data_map, outside)) if r.to_table in scope)


async def broken(conn: AsyncConnection, data_map: DataMap, reference: Reference, wave_id: int) -> int:
    """How many rows of the wave refer to a row that is not at this site."""
    statement = sql.SQL(_BROKEN).format(
        rows=_rows(data_map, reference.table, Members(MEMBERS, wave_id), reference),
        given=_given(reference),
        parent=ident(reference.to_table),
        joined=_joined(reference, "t", "parent"),
    )
    return await _count(conn, statement)


def broken_among(data_map: DataMap, reference: Reference, wave_id: int, keyed: Fragment) -> sql.Composed:
    """The statement of `broken`, over the wave's rows that ``keyed`` (``and ...`` about ``t``) leaves."""
    return sql.SQL(_BROKEN).format(
        rows=_rows(data_map, reference.table, Members(MEMBERS, wave_id), reference) + keyed,
        given=_given(reference),
        parent=ident(reference.to_table),
        joined=_joined(reference, "t", "parent"),
    )


def referred_keys(data_map: DataMap, reference: Reference, members: Members, *, absent: bool) -> sql.Composed:
    """The statement for the keys, as texts, that the members' rows refer to; only those ``absent`` from this site, or
    only those present."""
    condition = sql.SQL(_ABSENT if absent else _PRESENT).format(
        parent=ident(reference.to_table), joined=_joined(reference, "t", "parent")
    )
    statement = sql.SQL(_REFERRED).format(
        texts=_texts("t", reference.columns),
        rows=_rows(data_map, reference.table, members, reference),
        given=_given(reference),
    )
    return statement + condition


async def referring_rows(conn: AsyncConnection, data_map: DataMap, reference: Reference, members: Members) -> int:
    """How many rows of a table that stays refer to rows of the members: one of `external_references`."""
    statement = sql.SQL(_REFERRING).format(
        child=ident(reference.table),
        rows=_rows(data_map, reference.to_table, members),
        joined=_joined(reference, "child", "t"),
    )
    return await _count(conn, statement + _leaves(reference, "child"))


async def referring_from_others(
    conn: AsyncConnection, data_map: DataMap, schema: Schema, members: Members
) -> list[tuple[Reference, int]]:
    """Foreign keys by which rows of subjects who are not ``members`` refer to rows of those who are, with how many
    rows."""
    leaving = sql.SQL("m.wave = {}").format(sql.Literal(members.wave))
    found = [
        (r, await _stayers(conn, data_map, r, members.relation, leaving)) for r in _between_subjects(data_map, schema)
    ]
    return [(reference, rows) for reference, rows in found if rows]


async def referring_from_stayers(
    conn: AsyncConnection, data_map: DataMap, schema: Schema, move_id: str
) -> list[tuple[Reference, int]]:
    """The same of everybody whom the move has taken away from here and whose copy is there; without references for
    which stubs stay behind."""
    leaving = sql.SQL(_DEPARTED).format(move=sql.Literal(move_id))
    found = [(r, await _stayers(conn, data_map, r, MEMBERS, leaving)) for r in refused_between(data_map, schema)]
    return [(reference, rows) for reference, rows in found if rows]


def refused_between(data_map: DataMap, schema: Schema) -> tuple[Reference, ...]:
    """Foreign keys between subjects' rows for which no stub stays behind. Pure."""
    between = _between_subjects(data_map, schema)
    return tuple(r for r in between if data_map.policy_of(r) is PartyPolicy.REFUSE)


async def lock_referred(
    conn: AsyncConnection, data_map: DataMap, references: Iterable[Reference], leaving: Leaving
) -> None:
    """Lock the members' rows that these references may lead to: who refers to one and has not committed is waited for,
    and who comes later waits. A statement of its own, so that the next one sees what was waited for."""
    for table in sorted({r.to_table for r in references}):
        rows = sql.SQL("select {}").format(rows_of_wave(data_map, table))
        await conn.execute(sql.SQL("{} where {} for update of t").format(rows, sql.SQL(_CHUNK).format(*leaving)))


async def referring_to_chunk(
    conn: AsyncConnection, data_map: DataMap, references: Iterable[Reference], move_id: str, leaving: Leaving
) -> list[tuple[Reference, int]]:
    """`referring_from_stayers` of these members alone, after `lock_referred`."""
    departed, chunk = sql.SQL(_DEPARTED).format(move=sql.Literal(move_id)), sql.SQL(_CHUNK).format(*leaving)
    found = [(r, await _stayers(conn, data_map, r, MEMBERS, departed, chunk)) for r in references]
    return [(reference, rows) for reference, rows in found if rows]


async def referring_to_later(
    conn: AsyncConnection, data_map: DataMap, schema: Schema, members: Members, ends: Sequence[int]
) -> list[tuple[Reference, int]]:
    """References by which rows of members refer to rows of members whose ordinals lie behind the next of these
    ``ends`` (the last ordinal of each portion), and that no stub can stand for; with how many rows."""
    scope, found = data_map.in_scope(), []
    borders = sql.SQL("{}::integer[]").format(sql.Literal([end + 1 for end in ends]))
    for reference in of_scope(data_map, schema):
        if reference.to_table not in scope or _is_owner_step(data_map, reference):
            continue
        if data_map.policy_of(reference) is PartyPolicy.STUB:
            continue
        joins, owner = owner_joins(data_map, reference.to_table)
        own_joins, own_owner = owner_joins(data_map, reference.table, "child")
        statement = sql.SQL(_LATER).format(
            child=ident(reference.table),
            own_joins=own_joins,
            own_owner=own_owner,
            table=ident(reference.to_table),
            joins=joins,
            owner=owner,
            members=ident(members.relation),
            wave=sql.Literal(members.wave),
            joined=_joined(reference, "child", "t"),
            ends=borders,
        )
        if rows := await _count(conn, statement + _leaves(reference, "child")):
            found.append((reference, rows))
    return found


async def missing_reference_rows(
    source: AsyncConnection,
    target: AsyncConnection,
    data_map: DataMap,
    source_schema: Schema,
    members: Members,
    without: Collection[TableName] = (),
) -> tuple[MissingKeys, ...]:
    """Keys that the members' rows refer to, that do not move with them, and that the target does not have.

    They are those of reference, shared and local rows, and of rows of subjects who stay. Only these keys travel,
    in batches. Changes nothing; works in read-only transactions. Of a reference that only the map knows, keys
    that dangle at the source already do not count, and rows of tables ``without`` which it is asked.
    """
    found = []
    for reference in of_scope(data_map, source_schema):
        if _is_owner_step(data_map, reference) or reference.to_table in without:
            continue
        with told("source", f"references of {reference.table}"):
            keys = await _referred(source, data_map, reference, members)
        missing: list[tuple[str, ...]] = []
        with told("target", f"references of {reference.table}"):
            for start in range(0, len(keys), KEYS_PER_BATCH):
                batch = keys[start : start + KEYS_PER_BATCH]
                missing += await absent(target, source_schema, reference, batch)
        if missing:
            found.append(MissingKeys(reference, len(missing), tuple(sorted(missing)[:EXAMPLES_MAX])))
    return tuple(found)


async def _referred(
    conn: AsyncConnection, data_map: DataMap, reference: Reference, members: Members
) -> list[tuple[str, ...]]:
    statement = sql.SQL(_REFERRED).format(
        texts=_texts("t", reference.columns),
        rows=_rows(data_map, reference.table, members, reference),
        given=_given(reference),
    )
    if reference.to_table in data_map.in_scope():
        # Inside, t is the row referred to; the aliases of its own path hide those of the outer one.
        inner = _rows(data_map, reference.to_table, members, alias="parent")
        statement += sql.SQL(_STAYS).format(rows=inner, joined=_joined(reference, "t", "parent"))
    if not reference.declared:
        joined = _joined(reference, "t", "parent")
        statement += sql.SQL(_PRESENT).format(parent=ident(reference.to_table), joined=joined)
    return await (await conn.execute(statement)).fetchall()


async def absent(
    conn: AsyncConnection, schema: Schema, reference: Reference, keys: Sequence[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Which of these keys (texts) no row of the parent has."""
    parent = schema.tables[reference.to_table]
    names = reference.to_columns
    types = [parent.column(name) for name in names]
    statement = sql.SQL(_MISSING).format(
        texts=_texts("key", names),
        typed=_listed(
            # Without the modifier: a cast to varchar(5) would cut.
            sql.SQL("{0}::{1} as {0}").format(sql.Identifier(n), sql.Identifier(c.base_schema, c.base_type))
            for n, c in zip(names, types, strict=True)
        ),
        lists=_listed(
            sql.SQL("pg_catalog.unnest({}::pg_catalog.text[])").format(list(texts)) for texts in zip(*keys, strict=True)
        ),
        names=_listed(map(sql.Identifier, names)),
        parent=ident(reference.to_table),
        joined=_all(_equal("key", n, "parent", n) for n in names),
    )
    return await (await conn.execute(statement)).fetchall()


def _between_subjects(data_map: DataMap, schema: Schema) -> list[Reference]:
    """Foreign keys between tables in scope that are no steps to an owner."""
    scope = data_map.in_scope()
    declared = (r for table in scope if table in schema.tables for r in schema.tables[table].references)
    return [r for r in declared if r.to_table in scope and not _is_owner_step(data_map, r)]


async def _stayers(
    conn: AsyncConnection,
    data_map: DataMap,
    reference: Reference,
    members: TableName,
    leaving: Fragment,
    chunk: Fragment | None = None,
) -> int:
    """Rows of nobody ``leaving`` that refer to rows of the ``chunk``, by default of everybody leaving."""
    joins, owner = owner_joins(data_map, reference.to_table)
    own_joins, own_owner = owner_joins(data_map, reference.table, "child")
    statement = sql.SQL(_STAYERS).format(
        child=ident(reference.table),
        table=ident(reference.to_table),
        joins=joins,
        owner=owner,
        members=ident(members),
        leaving=leaving,
        chunk=chunk or leaving,
        joined=_joined(reference, "child", "t"),
        own_joins=own_joins,
        own_owner=own_owner,
    )
    return await _count(conn, statement + _leaves(reference, "child"))


def _undeclared(data_map: DataMap, tables: Iterable[TableName]) -> list[Reference]:
    found: list[Reference] = []
    for table in tables:
        rule = data_map.tables.get(table)
        found += [of_step(table, OwnerStep.parse(text)) for text in (rule.references if rule else ())]
    return found


def of_step(table: TableName, step: OwnerStep) -> Reference:
    """A step that the map says, as a reference. Pure."""
    here, there = (table, step.columns), (step.to_table, step.to_columns)
    child, parent = (here, there) if step.direction is Direction.TO else (there, here)
    return Reference(*child, *parent, declared=False)


def _is_owner_step(data_map: DataMap, reference: Reference) -> bool:
    """True when the reference is the table's own way to its owner: what it refers to moves along."""
    owner = data_map.tables[reference.table].owner
    return owner == OwnerStep(reference.columns, Direction.TO, reference.to_table, reference.to_columns)


def _rows(
    data_map: DataMap, table: TableName, members: Members, reference: Reference | None = None, alias: str = "t"
) -> sql.Composed:
    """``from table as t ... where m.wave = ...``; of the reference's own leaves only, where it names some."""
    joins, owner = owner_joins(data_map, table, alias)
    rows = sql.SQL(
        "from {table} as {alias} {joins} join {members} as m on m.subject = {owner} where m.wave = {wave}"
    ).format(
        table=ident(table),
        alias=sql.Identifier(alias),
        joins=joins,
        members=ident(members.relation),
        owner=owner,
        wave=sql.Literal(members.wave),
    )
    return rows + _leaves(reference, alias) if reference else rows


def _leaves(reference: Reference, alias: str) -> Fragment:
    if not reference.leaves:
        return sql.SQL("")
    return sql.SQL(_LEAVES).format(alias=sql.Identifier(alias), leaves=sql.Literal(list(reference.leaves)))


def _given(reference: Reference) -> Fragment:
    return _all(sql.SQL("{} is not null").format(column("t", name)) for name in reference.columns)


def _joined(reference: Reference, child: str, parent: str) -> Fragment:
    pairs = zip(reference.columns, reference.to_columns, strict=True)
    return _all(_equal(child, ours, parent, theirs) for ours, theirs in pairs)


def _equal(alias: str, name: str, other: str, its_name: str) -> Fragment:
    return sql.SQL("{} = {}").format(column(other, its_name), column(alias, name))


def _texts(alias: str, names: Iterable[str]) -> Fragment:
    return _listed(sql.SQL("{}::pg_catalog.text").format(column(alias, name)) for name in names)


def _listed(parts: Iterable[Fragment]) -> Fragment:
    return sql.SQL(", ").join(parts)


def _all(parts: Iterable[Fragment]) -> Fragment:
    return sql.SQL(" and ").join(parts)


async def _count(conn: AsyncConnection, statement: sql.Composed) -> int:
    row = await (await conn.execute(statement)).fetchone()
    assert row is not None
    return int(row[0])
