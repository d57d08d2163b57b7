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
from domicile.postgres.failures import told
from domicile.postgres.ownership import Fragment, column, ident, owner_joins
from domicile.postgres.transfer import transfer
from domicile.postgres.unique_keys import Key, expression, listed, primary_key_text, read_keys

EXAMPLES_MAX = 5
OWNED = "owner"  # in place of a key's name: rows that belong to the subjects already

_ARRIVING = TableName("pg_temp", "domicile_arriving")
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
    check = _Check(source, target, data_map, target_schema, Members(_MEMBERS, source_id), private=False)
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
    check = _Check(source, target, data_map, target_schema, cohort, private=True)
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


async def _find(check: _Check, at_target: Members) -> tuple[Collision, ...]:
    found: list[Collision] = []
    for name in check.data_map.in_scope():
        table = check.target_schema.tables[name]
        keys = await read_keys(check.target, table, private=check.private)
        if keys:
            found += await _taken(check, table, keys)
        if not _keyed_by_owner(check.data_map, table):
            found += await _owned(check, table, at_target)
    return tuple(found)


async def _taken(check: _Check, table: Table, keys: Sequence[Key]) -> list[Collision]:
    what = f"key check of {table.name}"
    found = []
    with told("target", what):
        async with check.target.transaction():
            shape, out = _private(check, table.name, keys) if check.private else _plain(check, table.name, keys)
            await check.target.execute(shape)
            take = sql.SQL("copy {} from stdin").format(ident(_ARRIVING))
            await transfer(check.source, check.target, (out, take), threading.Event(), what)
            await check.target.execute(sql.SQL("analyze {}").format(ident(_ARRIVING)))
            for number, key in enumerate(keys):
                sides = _private_sides(table, key, number) if check.private else _plain_sides(table, key)
                if collision := await _compare(check.target, table, key, sides):
                    found.append(collision)
            await check.target.execute(sql.SQL("drop table {}").format(ident(_ARRIVING)))
    return found


def _plain(check: _Check, table: TableName, keys: Sequence[Key]) -> tuple[sql.Composed, sql.Composed]:
    """The columns that the keys are made of, as they are."""
    names = sorted(set(chain.from_iterable(k.columns for k in keys)))
    shape = sql.SQL("create temp table domicile_arriving on commit drop as select {} from {} with no data").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), ident(table)
    )
    out = sql.SQL("copy (select {} {}) to stdout").format(
        sql.SQL(", ").join(column("t", n) for n in names), check.rows(table)
    )
    return shape, out


def _private(check: _Check, table: TableName, keys: Sequence[Key]) -> tuple[sql.Composed, sql.Composed]:
    """The keys' own expressions, computed at the source: integers, and hashes of everything else."""
    columns, values = [], []
    for number, key in enumerate(keys):
        for position, text in enumerate(key.expressions):
            name = _private_name(number, position)
            integer = key.integers[position]
            columns.append(sql.SQL("{} {}").format(name, sql.SQL("bigint" if integer else "bytea")))
            value = _hidden(expression(text), integer=integer)
            values.append(sql.SQL("case when {} then {} end").format(key.condition, value))
    shape = sql.SQL("create temp table domicile_arriving ({}) on commit drop").format(sql.SQL(", ").join(columns))
    # One relation in FROM, under the table's name: so the index' expressions find their columns, and
    # nothing else.
    out = sql.SQL("copy (select {} from (select t.* {}) as {}) to stdout").format(
        sql.SQL(", ").join(values), check.rows(table), sql.Identifier(table.name)
    )
    return shape, out


def _plain_sides(table: Table, key: Key) -> tuple[Fragment, Fragment]:
    arriving = sql.SQL("select {keys} from {relation} as {alias} where {condition}").format(
        keys=listed(map(expression, key.expressions)),
        relation=ident(_ARRIVING),
        alias=sql.Identifier(table.name.name),
        condition=key.condition,
    )
    return arriving, _held(table, key, map(expression, key.expressions))


def _private_sides(table: Table, key: Key, number: int) -> tuple[Fragment, Fragment]:
    names = [_private_name(number, position) for position in range(len(key.expressions))]
    arriving = sql.SQL("select {} from {}").format(listed(names), ident(_ARRIVING))
    hidden = (
        _hidden(expression(text), integer=integer) for text, integer in zip(key.expressions, key.integers, strict=True)
    )
    return arriving, _held(table, key, hidden)


def _held(table: Table, key: Key, values: Iterable[Fragment]) -> Fragment:
    """The rows the target holds under the key, with their primary keys as text."""
    return sql.SQL("select {keys}, {example} as example from {relation} as {alias} where {condition}").format(
        keys=listed(values),
        example=primary_key_text(table),
        relation=key.relation_sql,
        alias=sql.Identifier(table.name.name),
        condition=key.condition,
    )


async def _compare(
    target: AsyncConnection, table: Table, key: Key, sides: tuple[Fragment, Fragment]
) -> Collision | None:
    arriving, held = sides
    meets = key.meets
    count = sql.SQL("select count(*) from ({}) as a where exists (select from ({}) as h where {})").format(
        arriving, held, meets
    )
    row = await (await target.execute(count)).fetchone()
    assert row is not None
    if not row[0]:
        return None
    shown = sql.SQL("select h.example from ({}) as h where exists (select from ({}) as a where {}) limit {}").format(
        held, arriving, meets, sql.Literal(EXAMPLES_MAX)
    )
    rows = await (await target.execute(shown)).fetchall() if table.primary_key else []
    return Collision(table.name, key.name, int(row[0]), tuple(tuple(map(str, r[0])) for r in rows))


def _keyed_by_owner(data_map: DataMap, table: Table) -> bool:
    """The subject table by its own key: a row of the subject is a taken key, and said once."""
    key = (data_map.subject.key,)
    plain = (k.columns for k in table.unique_keys if not (k.partial or k.on_expression))
    return table.name == data_map.subject.table and key in (table.primary_key, *plain)


async def _owned(check: _Check, table: Table, members: Members) -> list[Collision]:
    joins, owner = owner_joins(check.data_map, table.name)
    value = _hidden(owner, integer=_integer_key(check)) if check.private else owner
    rows = sql.SQL("from {table} as t {joins} join {members} as m on m.subject = {value} where m.wave = {wave}").format(
        table=ident(table.name),
        joins=joins,
        members=ident(members.relation),
        value=value,
        wave=sql.Literal(members.wave),
    )
    with told("target", f"owner check of {table.name}"):
        row = await (await check.target.execute(sql.SQL("select count(*) {}").format(rows))).fetchone()
        assert row is not None
        if not row[0]:
            return []
        shown = sql.SQL("select {} {} limit {}").format(primary_key_text(table, "t"), rows, sql.Literal(EXAMPLES_MAX))
        found = await (await check.target.execute(shown)).fetchall() if table.primary_key else []
    return [Collision(table.name, OWNED, int(row[0]), tuple(tuple(map(str, r[0])) for r in found))]


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
