"""Keys that arrive and are taken: found before anything is copied.

The target is full of other users. Every unique index there (primary, unique, partial, on expressions, on a
partition only) and every exclusion constraint is asked whether a row of the wave would meet one that it
holds, by the index' own expressions, operators and predicate. Also counted: rows at the target that belong
to a subject who has not arrived.

Before a copy the columns of those keys travel to a temporary table at the target, as the rows will a
moment later. For a plan, which must not carry personal values, integers travel as they are and everything
else as 64 bits of a SHA-256 keyed with a secret of this run: then equality is that of the values' text,
and exclusion is not asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain
import secrets
import threading

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Schema, Table, TableName
from domicile.postgres import stub_registry
from domicile.postgres.failures import told
from domicile.postgres.ownership import Fragment, column, ident, owner_joins
from domicile.postgres.pipelined import pipelined
from domicile.postgres.transfer import transfer
from domicile.postgres.unique_keys import Key, expression, listed, primary_key_text, read_keys

EXAMPLES_MAX = 5
OWNED = "owner"  # in place of a key's name: rows that belong to the subjects already

_SUBJECTS = TableName("pg_temp", "domicile_subjects")
_MEMBERS = TableName("domicile", "member")
_SECRET = "select pg_catalog.set_config('domicile.secret', %s, false)"
# Null stays null: it equals nothing on the other side either.
_HASHED = """pg_catalog.substr(pg_catalog.sha256(pg_catalog.convert_to(
    pg_catalog.current_setting('domicile.secret') || ({value})::text, 'UTF8')), 1, 8)"""


@dataclass(frozen=True, slots=True)
class Collision:
    """One key of one table that is taken: how many arriving rows, and up to EXAMPLES_MAX primary keys at
    the target.

    ``key`` is the index' name, or `OWNED` for rows that have the owner already.
    """

    table: TableName
    key: str
    count: int
    examples: tuple[tuple[str, ...], ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For facts and ``--json``."""
        return {
            "table": str(self.table),
            "key": self.key,
            "count": self.count,
            "examples": [list(e) for e in self.examples],
        }


@dataclass(frozen=True, slots=True)
class Members:
    """Who arrives: a relation at the source in the shape of ``domicile.member``, and the wave in it."""

    relation: TableName
    wave: int


async def find_for_wave(
    source: AsyncConnection,
    target: AsyncConnection,
    data_map: DataMap,
    target_schema: Schema,
    source_id: int,
    target_id: int,
) -> tuple[Collision, ...]:
    """Every collision of a registered wave, exact at this moment. Leaves nothing behind; may be repeated.

    ``source_id`` and ``target_id`` are the wave's ids at the two sites. Neither connection is in a
    transaction; both are closed when it raises DomicileError (copy-failed and its kin)."""
    at_target = Members(_MEMBERS, target_id)
    stubs = await stub_registry.any_here(target)
    check = _Check(source, target, data_map, target_schema, Members(_MEMBERS, source_id), private=False, stubs=stubs)
    return await _find(check, at_target)


async def find_for_cohort(
    source: AsyncConnection,
    target: AsyncConnection,
    data_map: DataMap,
    target_schema: Schema,
    cohort: Members,
) -> tuple[Collision, ...]:
    """A plan's forecast: only integers and keyed hashes cross. ``cohort`` may be a temporary table of
    ``source``.

    Changes nothing but temporary tables of the target's session, which are dropped.
    """
    secret = secrets.token_hex(16)
    for conn, side in ((source, "source"), (target, "target")):
        with told(side, "key check"):
            await conn.execute(_SECRET, (secret,))
    stubs = await stub_registry.any_here(target)
    check = _Check(source, target, data_map, target_schema, cohort, private=True, stubs=stubs)
    async with _subjects_at_target(check) as at_target:
        return await _find(check, at_target)


@dataclass(frozen=True, slots=True)
class _Check:
    source: AsyncConnection
    target: AsyncConnection
    data_map: DataMap
    target_schema: Schema
    members: Members
    private: bool
    stubs: bool  # there are some at the target: what arrives takes their place

    def rows(self, table: TableName) -> Fragment:
        """``from table as t ... where``: the arriving rows, at the source."""
        joins, owner = owner_joins(self.data_map, table)
        return sql.SQL(
            "from {table} as t {joins} join {members} as m on m.subject = {owner} where m.wave = {wave}"
        ).format(
            table=ident(table),
            joins=joins,
            members=ident(self.members.relation),
            owner=owner,
            wave=sql.Literal(self.members.wave),
        )


@dataclass(frozen=True, slots=True)
class _Question:
    """One thing to be counted at the target; ``shown`` selects examples of it, where rows have a key to be named by."""

    table: TableName
    key: str
    what: str
    count: sql.Composed
    shown: sql.Composed | None


async def _find(check: _Check, at_target: Members) -> tuple[Collision, ...]:
    """One round trip for what is asked of all tables, not one for each: the line to the target may be long."""
    tables = [check.target_schema.tables[name] for name in check.data_map.in_scope()]
    keys = await read_keys(check.target, tables, private=check.private)
    with told("target", "key check"):
        async with check.target.transaction():
            places = await _bring(check, [(table, keys[table.name]) for table in tables if keys[table.name]])
            questions: list[_Question] = []
            for table in tables:
                for number, key in enumerate(keys[table.name]):
                    place = places[table.name]
                    sides = (
                        _private_sides(check, table, place, (key, number))
                        if check.private
                        else _plain_sides(check, table, place, key)
                    )
                    questions.append(_taken(table, key, sides))
                if not _keyed_by_owner(check.data_map, table):
                    questions.append(_owned(check, table, at_target))
            return await _answers(check.target, questions)


async def _bring(check: _Check, keyed: Sequence[tuple[Table, Sequence[Key]]]) -> dict[TableName, TableName]:
    """What the keys of the arriving rows are made of, in temporary tables of the transaction: each one's name."""
    if not keyed:
        return {}
    places: dict[TableName, TableName] = {}
    shapes: list[sql.Composed] = []
    outs: list[tuple[str, sql.Composed, sql.Composed]] = []
    for number, (table, keys) in enumerate(keyed):
        place = TableName("pg_temp", f"domicile_arriving_{number}")
        compose = _private if check.private else _plain
        shape, out = compose(check, table.name, place, keys)
        places[table.name] = place
        shapes.append(shape)
        outs.append((f"key check of {table.name}", out, sql.SQL("copy {} from stdin").format(ident(place))))
    await check.target.execute(sql.SQL("; ").join(shapes))
    for what, out, take in outs:
        await transfer(check.source, check.target, (out, take), threading.Event(), what)
    await check.target.execute(sql.SQL("analyze {}").format(sql.SQL(", ").join(map(ident, places.values()))))
    return places


async def _answers(target: AsyncConnection, questions: Sequence[_Question]) -> tuple[Collision, ...]:
    """How many rows each question finds, and examples where there are any."""
    counted = await pipelined(target, "target", [(q.what, q.count) for q in questions])
    found = [(q, int(rows[0][0])) for q, rows in zip(questions, counted, strict=True) if rows[0][0]]
    with_examples = [q for q, _ in found if q.shown is not None]
    shown = await pipelined(target, "target", [(q.what, q.shown) for q in with_examples if q.shown is not None])
    examples = dict(zip(map(id, with_examples), shown, strict=True))
    return tuple(
        Collision(q.table, q.key, count, tuple(tuple(map(str, row[0])) for row in examples.get(id(q), ())))
        for q, count in found
    )


def _plain(check: _Check, table: TableName, place: TableName, keys: Sequence[Key]) -> tuple[sql.Composed, sql.Composed]:
    """The columns that the keys are made of, as they are."""
    names = sorted(set(chain.from_iterable(k.columns for k in keys)))
    shape = sql.SQL("create temp table {} on commit drop as select {} from {} with no data").format(
        sql.Identifier(place.name), sql.SQL(", ").join(map(sql.Identifier, names)), ident(table)
    )
    out = sql.SQL("copy (select {} {}) to stdout").format(
        sql.SQL(", ").join(column("t", n) for n in names), check.rows(table)
    )
    return shape, out


def _private(
    check: _Check, table: TableName, place: TableName, keys: Sequence[Key]
) -> tuple[sql.Composed, sql.Composed]:
    """The keys' own expressions, computed at the source: integers, and hashes of everything else."""
    columns, values = [], []
    for number, key in enumerate(keys):
        for position, text in enumerate(key.expressions):
            name = _private_name(number, position)
            integer = key.integers[position]
            columns.append(sql.SQL("{} {}").format(name, sql.SQL("bigint" if integer else "bytea")))
            value = _hidden(expression(text), integer=integer)
            values.append(sql.SQL("case when {} then {} end").format(key.condition, value))
    shape = sql.SQL("create temp table {} ({}) on commit drop").format(
        sql.Identifier(place.name), sql.SQL(", ").join(columns)
    )
    # One relation in FROM, under the table's name: so the index' expressions find their columns, and
    # nothing else.
    out = sql.SQL("copy (select {} from (select t.* {}) as {}) to stdout").format(
        sql.SQL(", ").join(values), check.rows(table), sql.Identifier(table.name)
    )
    return shape, out


def _plain_sides(check: _Check, table: Table, place: TableName, key: Key) -> tuple[Fragment, Fragment]:
    arriving = sql.SQL("select {keys} from {relation} as {alias} where {condition}").format(
        keys=listed(map(expression, key.expressions)),
        relation=ident(place),
        alias=sql.Identifier(table.name.name),
        condition=key.condition,
    )
    return arriving, _held(check, table, key, map(expression, key.expressions))


def _private_sides(
    check: _Check, table: Table, place: TableName, numbered: tuple[Key, int]
) -> tuple[Fragment, Fragment]:
    key, number = numbered
    names = [_private_name(number, position) for position in range(len(key.expressions))]
    arriving = sql.SQL("select {} from {}").format(listed(names), ident(place))
    hidden = (
        _hidden(expression(text), integer=integer) for text, integer in zip(key.expressions, key.integers, strict=True)
    )
    return arriving, _held(check, table, key, hidden)


def _held(check: _Check, table: Table, key: Key, values: Iterable[Fragment]) -> Fragment:
    """The rows the target holds under the key, with their primary keys as text; without stubs."""
    subject = check.data_map.subject
    held = sql.SQL("select {keys}, {example} as example from {relation} as {alias} where {condition}").format(
        keys=listed(values),
        example=primary_key_text(table),
        relation=key.relation_sql,
        alias=sql.Identifier(table.name.name),
        condition=key.condition,
    )
    if not check.stubs or table.name != subject.table:
        return held
    return sql.SQL("{} and not {}").format(held, stub_registry.registered(column(table.name.name, subject.key)))


def _taken(table: Table, key: Key, sides: tuple[Fragment, Fragment]) -> _Question:
    arriving, held = sides
    count = sql.SQL("select count(*) from ({}) as a where exists (select from ({}) as h where {})").format(
        arriving, held, key.meets
    )
    shown = sql.SQL("select h.example from ({}) as h where exists (select from ({}) as a where {}) limit {}").format(
        held, arriving, key.meets, sql.Literal(EXAMPLES_MAX)
    )
    return _Question(table.name, key.name, f"key check of {table.name}", count, shown if table.primary_key else None)


def _keyed_by_owner(data_map: DataMap, table: Table) -> bool:
    """The subject table by its own key: a row of the subject is a taken key, and said once."""
    key = (data_map.subject.key,)
    plain = (k.columns for k in table.unique_keys if not (k.partial or k.on_expression))
    return table.name == data_map.subject.table and key in (table.primary_key, *plain)


def _owned(check: _Check, table: Table, members: Members) -> _Question:
    joins, owner = owner_joins(check.data_map, table.name)
    value = _hidden(owner, integer=_integer_key(check)) if check.private else owner
    rows = sql.SQL("from {table} as t {joins} join {members} as m on m.subject = {value} where m.wave = {wave}").format(
        table=ident(table.name),
        joins=joins,
        members=ident(members.relation),
        value=value,
        wave=sql.Literal(members.wave),
    )
    count = sql.SQL("select count(*) {}").format(rows)
    shown = sql.SQL("select {} {} limit {}").format(primary_key_text(table, "t"), rows, sql.Literal(EXAMPLES_MAX))
    return _Question(table.name, OWNED, f"owner check of {table.name}", count, shown if table.primary_key else None)


@asynccontextmanager
async def _subjects_at_target(check: _Check) -> AsyncIterator[Members]:
    """The cohort's keys, hidden where they are no integers, in a temporary table of the target."""
    integer = _integer_key(check)
    shape = sql.SQL("create temp table domicile_subjects (wave integer, subject {})").format(
        sql.SQL("bigint" if integer else "bytea")
    )
    out = sql.SQL("copy (select 0, {} from {} as m where m.wave = {}) to stdout").format(
        _hidden(sql.SQL("m.subject"), integer=integer),
        ident(check.members.relation),
        sql.Literal(check.members.wave),
    )
    take = sql.SQL("copy {} from stdin").format(ident(_SUBJECTS))
    with told("target", "owner check"):
        await check.target.execute(shape)
    await transfer(check.source, check.target, (out, take), threading.Event(), "owner check")
    with told("target", "owner check"):
        await check.target.execute(sql.SQL("analyze {}").format(ident(_SUBJECTS)))
    yield Members(_SUBJECTS, 0)
    with told("target", "owner check"):
        await check.target.execute(sql.SQL("drop table {}").format(ident(_SUBJECTS)))


def _integer_key(check: _Check) -> bool:
    subject = check.data_map.subject
    return check.target_schema.tables[subject.table].column(subject.key).base_type in ("int2", "int4", "int8")


def _hidden(value: Fragment, *, integer: bool) -> Fragment:
    return sql.SQL("({})::bigint" if integer else _HASHED).format(value, value=value)


def _private_name(number: int, position: int) -> sql.Identifier:
    return sql.Identifier(f"k{number}_{position}")
