"""The statements that set references to a second person, or to a row of hers, to null where the row lives, note what it
named, and write the notes back (docs/decisions/0019).

A session that uses these has ``session_replication_role = replica``: neither the application's triggers nor its foreign
keys nor the guard are asked. Transactions and the lease are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import json
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Column, Reference, Schema, TableName
from domicile.postgres.ownership import Fragment, column, ident, owner_joins, rows_of_wave
from domicile.postgres.party_nulls import LATEST, parties, row_key

NOTES = TableName("domicile", "cleared")  # sql/site.sql; they are keys of people
ROWS_PER_BATCH = 2_000  # cleared or written back in one transaction

RowKey = tuple[str, ...]  # as a note names a row: values of its key as text
Version = tuple[RowKey, str]  # a row as it was written last

# With its version: what has another one now was written since.
_LEFT = "select {key}, t.xmin::pg_catalog.text {rows} where m.wave = {wave} and t.{column} in ({persons})"
# The application never waits for long: what it has locked is passed over, and asked for again.
_CLEAR = """
    with chosen as materialized (
        select {listed}, t.{column} as person {rows} where m.wave = {wave} and t.{column} in ({persons})
        limit {batch} for no key update of t skip locked),
    cleared as (
        update {table} as t set {column} = null from chosen
        where {same} and t.{column} = chosen.person
        returning {key} as row_key, chosen.person)
    insert into domicile.cleared (wave, table_name, column_name, row_key, person)
    select {wave}, {name}, {column_name}, row_key, person::pg_catalog.text from cleared
    on conflict (wave, table_name, column_name, row_key) do update set person = excluded.person
    returning row_key"""
_NOTES = "n.wave = {wave} and n.table_name = {name} and n.column_name = {column_name}"
# Not into a row that was given to somebody who is about to leave, or has left.
_WRITABLE = """
    {notes} and exists (select from {named} as s where s.{named_key} = n.person::{type})
        and exists (select from {table} as t where {noted} and t.{column} is null)
        and not exists (
            select from {table} as t {joins} cross join lateral ({latest}) as latest
            where {noted} and latest.mark in ('closing', 'fenced', 'departed', 'arriving')) {stayed}"""
_STAYED = " and not exists (select {rows} where m.wave = {wave} and {noted})"
_PENDING = "select pg_catalog.count(*) from domicile.cleared as n where {writable}"
# The person's row is locked as a foreign key would: whoever deletes it is waited for, or finds the reference. The batch
# is of rows that are locked here: those that others have locked keep none from its turn.
_RESTORE = """
    with chosen as materialized (
        select {listed}, n.row_key, n.person::{column_type} as person
        from domicile.cleared as n join {table} as t on {noted} join {named} as s on s.{named_key} = n.person::{type}
        where {writable} and t.{column} is null
        limit {batch} for no key update of t skip locked for key share of s skip locked),
    restored as (
        update {table} as t set {column} = chosen.person from chosen
        where {same} and t.{column} is null
        returning chosen.row_key)
    delete from domicile.cleared as n using restored where {notes} and n.row_key = restored.row_key"""
# A wave that closes here is waited for, and its lock held, as by any writer.
_ASK = """
    select pg_catalog.count(domicile.guard_ask(
        latest.wave, latest.ordinal, pg_catalog.to_regclass({text})::pg_catalog.oid, false,
        null::pg_catalog.int4)::pg_catalog.text)
    from {table} as x {joins} cross join lateral ({latest}) as latest
    where x.{column} in ({persons}) and latest.wave <> {wave} and latest.mark = any ({asked}::pg_catalog.text[])"""
# With its arguments: a site that was here before has one with others, too.
_GUARD_ASK = "domicile.guard_ask(integer, integer, oid, boolean, integer)"
_COPIES = """exists (
    select from (select) as start {joins} cross join lateral ({latest}) as latest
    where latest.mark in ('departed', 'arriving'))"""
# What is noted of such a row is older than what it named last.
AND_FORGET = """,
    forgotten as (
        delete from domicile.cleared as n using nulled
        where n.table_name = {name} and n.column_name = {column_name} and n.row_key = nulled.row_key)
    select pg_catalog.count(*) from nulled"""
_CLEAR_OTHERS = """
    with nulled as (
        update {table} as x set {column} = null where x.{column} in ({persons}) and not {copies}
        returning {key} as row_key)"""
# Rows that would have to be asked about are left out.
_CLEAR_AHEAD = """
    with chosen as materialized (
        select {listed} from {table} as t
        where t.{column} in ({persons}) and not exists (
            select from (select) as start {joins} cross join lateral ({latest}) as latest
            where latest.mark in ('closing', 'fenced', 'departed', 'arriving'))
        limit {batch} for no key update of t skip locked),
    nulled as (
        update {table} as t set {column} = null from chosen
        where {same} and t.{column} in ({persons})
        returning {key} as row_key)"""
LOCK_TABLE = "lock table {table} in row exclusive mode"
_FORGET_KEYS = """
    delete from domicile.cleared as n
    where n.wave = {wave} and n.table_name = {name} and n.column_name = {column_name}
        and n.row_key in (
            select array(select pg_catalog.json_array_elements_text(one))
            from pg_catalog.unnest({keys}::pg_catalog.json[]) as one)"""
_OF_MEMBERS = "m.wave = {wave} and m.ordinal > {first} and m.ordinal <= {last}"
_LOCK_LEAVING = "select {rows} where {of_members} order by t.{key} for update of t"
_MEMBERS = "select m.subject from domicile.member as m where {of_members}"
_ROWS_OF_MEMBERS = "select t.{key} {rows} where {of_members}"
_FORGET_NAMED = """
    delete from domicile.cleared as n
    where (n.table_name, n.column_name) in ({references})
        and {person} in (select p::{as_type} from ({persons}) as one (p))"""
# Where equal keys may be written in two ways; only notes of these references hold keys of this type.
_TYPED = "case when (n.table_name, n.column_name) in ({references}) then n.person::{type} end"
_ONE_TEXT = frozenset({"int2", "int4", "int8", "uuid", "text", "varchar"})  # for each value
_GONE = """
    select m.subject from domicile.member as m where m.wave = {wave} {among}
        and not exists (select from {subjects} as t where t.{key} = m.subject)"""
_NAMED_GONE = "select gone.subject::pg_catalog.text from ({gone}) as gone where {named}"
_AMONG = " and m.subject in (select {key} from {listed})"
_REQUIRE = "select domicile.refuse('rows without what they refer to', {table}) where exists ({found})"


class Clearing:
    """One reference at one site: its statements, made once."""

    def __init__(self, data_map: DataMap, schema: Schema, reference: Reference, wave_id: int) -> None:
        self.reference, self.wave_id, self._data_map = reference, wave_id, data_map
        table = schema.tables[reference.table]
        names, (joins, owner) = row_key(table), owner_joins(data_map, reference.table)
        every = [(sql.Identifier(n), column("t", n), column("chosen", f"key {i}")) for i, n in enumerate(names)]
        self._parts: dict[str, Fragment] = {
            "table": ident(reference.table),
            "name": sql.Literal(str(reference.table)),
            "column": sql.Identifier(reference.columns[0]),
            "column_name": sql.Literal(reference.columns[0]),
            "named": ident(reference.to_table),
            "named_key": sql.Identifier(reference.to_columns[0]),
            "type": _type_named(schema, reference),
            "column_type": sql.SQL(table.column(reference.columns[0]).type_name),
            "rows": rows_of_wave(data_map, reference.table),
            "joins": joins,
            "latest": sql.SQL(LATEST).format(owner=owner),
            "wave": sql.Literal(wave_id),
            "batch": sql.Literal(ROWS_PER_BATCH),
            "listed": _comma(
                sql.SQL("{} as {}").format(t, sql.Identifier(f"key {i}")) for i, (_, t, _) in enumerate(every)
            ),
            "same": _all(sql.SQL("{} = {}").format(t, chosen) for _, t, chosen in every),
            "key": _key_as_text("t", names),
            "noted": _all(
                sql.SQL("{} = n.row_key[{}]::{}").format(t, sql.Literal(i), sql.SQL(table.column(n).type_name))
                for i, (n, (_, t, _)) in enumerate(zip(names, every, strict=True), 1)
            ),
        }
        self._parts["notes"] = self.compose(_NOTES)

    async def left(self, conn: AsyncConnection[Any], keys: Sequence[str]) -> set[Version]:
        """The rows of the wave that name one of these persons (keys as text)."""
        found = await (await conn.execute(self.compose(_LEFT, persons=self._persons(keys)))).fetchall()
        return {(tuple(key), version) for key, version in found}

    async def clear(self, conn: AsyncConnection[Any], keys: Sequence[str]) -> list[RowKey]:
        """Set the reference to null in a batch of the wave's rows that name one of these persons, and note whom each
        named, in one statement; returns the rows. Rows that somebody has locked are left out."""
        found = await (await conn.execute(self.compose(_CLEAR, persons=self._persons(keys)))).fetchall()
        return [tuple(key) for (key,) in found]

    async def forget(self, conn: AsyncConnection[Any], keys: Iterable[RowKey], wave_id: int) -> None:
        """Forget what is noted here of these rows of the wave, which this site knows as ``wave_id``. Idempotent."""
        await conn.execute(self.compose(_FORGET_KEYS, wave=sql.Literal(wave_id), keys=as_json(keys)))

    async def clear_ahead(self, conn: AsyncConnection[Any], members: tuple[int, int]) -> int:
        """A batch of what `clear_leaving` clears for these members, but for rows that are between two sites, or that
        somebody has locked; returns how many. No row of the members is locked."""
        await conn.execute(self.compose(LOCK_TABLE))
        leaving = _leaving(self._data_map, self.reference, self.wave_id, members)
        return await _count(conn, self.compose(_CLEAR_AHEAD + AND_FORGET, persons=leaving))

    async def restore(self, conn: AsyncConnection[Any], *, stayed: bool) -> int:
        """Write a batch of notes back and forget them; returns how many. Rows that somebody has locked are left out.
        ``stayed``: only into rows that are no member's of the wave any more."""
        return (await conn.execute(self.compose(_RESTORE, writable=self._writable(stayed)))).rowcount

    async def pending(self, conn: AsyncConnection[Any], *, stayed: bool) -> int:
        """How many notes can be written back: the row is there, still holds null, and the person has a row."""
        return await _count(conn, self.compose(_PENDING, writable=self._writable(stayed)))

    def _writable(self, stayed: bool) -> sql.Composed:
        return self.compose(_WRITABLE, stayed=self.compose(_STAYED) if stayed else sql.SQL(""))

    def _persons(self, keys: Sequence[str]) -> sql.Composed:
        return _as_keys(self._parts["type"], keys)

    def compose(self, statement: str, **parts: Fragment) -> sql.Composed:
        """A statement about this reference."""
        return sql.SQL(statement).format(**(self._parts | parts))


async def forget(conn: AsyncConnection[Any], wave_id: int) -> int:
    """Forget what is noted of the wave; returns how many notes there were. Idempotent."""
    return (await conn.execute("delete from domicile.cleared where wave = %s", (wave_id,))).rowcount


async def any_noted(conn: AsyncConnection[Any], wave_id: int) -> bool:
    """Whether anything is noted of the wave."""
    row = await (
        await conn.execute("select exists (select from domicile.cleared where wave = %s)", (wave_id,))
    ).fetchone()
    return bool(row and row[0])


def leads_to(data_map: DataMap, schema: Schema, table: TableName) -> tuple[Reference, ...]:
    """The references with the policy that name rows of this table. Pure."""
    return tuple(r for r in parties(data_map, schema) if r.to_table == table)


async def clear_leaving(
    conn: AsyncConnection[Any],
    data_map: DataMap,
    schema: Schema,
    table: TableName,
    wave_id: int,
    members: tuple[int, int],
) -> int:
    """Before rows of these members (ordinals in (first, last]) go from the table: rows of who lives here refer to none
    of them any more, and no note names them. They are locked first: who refers to one and has not committed is waited
    for, and who comes later is told by the foreign key. Returns how many references were cleared. Idempotent."""
    cleared, locked = 0, False
    for reference in leads_to(data_map, schema, table):
        if not locked:
            parts = {"rows": rows_of_wave(data_map, table), "key": sql.Identifier(reference.to_columns[0])}
            await conn.execute(_of_wave(_LOCK_LEAVING, wave_id, members, **parts))
            locked = True
        persons = _leaving(data_map, reference, wave_id, members)
        cleared += await _clear_others(conn, data_map, schema, reference, wave_id, persons)
        # Behind the rows: who has cleared one meanwhile has noted it by now.
        await conn.execute(_forget_named(schema, reference, persons))
    return cleared


async def clear_gone(
    conn: AsyncConnection[Any], data_map: DataMap, schema: Schema, wave_id: int, keys: Sequence[str]
) -> int:
    """The same for members (keys as text) who have no row here any more."""
    cleared = 0
    for reference in leads_to(data_map, schema, data_map.subject.table):
        persons = _as_keys(_type_named(schema, reference), keys)
        cleared += await _clear_others(conn, data_map, schema, reference, wave_id, persons)
    return cleared


async def gone(conn: AsyncConnection[Any], data_map: DataMap, schema: Schema, wave_id: int) -> list[str]:
    """Keys of members of the wave who have no row here, and whom rows of those name who live here."""
    found = await (await conn.execute(_named_gone(data_map, schema, wave_id, None))).fetchall()
    return [str(key) for (key,) in found]


def require_nobody_gone(
    data_map: DataMap, schema: Schema, wave_id: int, listed: Fragment | None = None
) -> sql.Composed:
    """A statement that fails where somebody is `gone`. ``listed``: a relation that has the keys of whom it may be."""
    table = sql.Literal(str(data_map.subject.table))
    return sql.SQL(_REQUIRE).format(table=table, found=_named_gone(data_map, schema, wave_id, listed))


def _named_gone(data_map: DataMap, schema: Schema, wave_id: int, listed: Fragment | None) -> sql.Composed:
    subject = {"subjects": ident(data_map.subject.table), "key": sql.Identifier(data_map.subject.key)}
    among = sql.SQL(_AMONG).format(key=subject["key"], listed=listed) if listed else sql.SQL("")
    names = [
        sql.SQL("exists (select from {} as x where x.{} = gone.subject and not {})").format(
            ident(r.table), sql.Identifier(r.columns[0]), _copies(data_map, r)
        )
        for r in leads_to(data_map, schema, data_map.subject.table)
    ]
    return sql.SQL(_NAMED_GONE).format(
        gone=sql.SQL(_GONE).format(wave=sql.Literal(wave_id), among=among, **subject),
        named=sql.SQL(" or ").join(names) if names else sql.SQL("false"),
    )


async def _clear_others(
    conn: AsyncConnection[Any],
    data_map: DataMap,
    schema: Schema,
    reference: Reference,
    wave_id: int,
    persons: Fragment,
) -> int:
    """A copy is left alone: it lives elsewhere, where its own wave clears the reference. Where this copy goes for good,
    one that arrives is an obstacle: it may have been proven by now."""
    row = await (await conn.execute("select mark from domicile.wave where id = %s", (wave_id,))).fetchone()
    asked = ["closing", "fenced", *(["arriving"] if row and row[0] == "departed" else [])]
    joins, owner = owner_joins(data_map, reference.table, "x")
    parts: dict[str, Fragment] = {
        "table": ident(reference.table),
        "column": sql.Identifier(reference.columns[0]),
        "persons": persons,
    }
    noted: dict[str, Fragment] = {
        "name": sql.Literal(str(reference.table)),
        "column_name": sql.Literal(reference.columns[0]),
        "key": _key_as_text("x", row_key(schema.tables[reference.table])),
        "copies": _copies(data_map, reference),
    }
    if await _exists(conn, _GUARD_ASK):
        ask = sql.SQL(_ASK).format(
            **parts,
            text=sql.Literal(ident(reference.table).as_string()),
            joins=joins,
            latest=sql.SQL(LATEST).format(owner=owner),
            wave=sql.Literal(wave_id),
            asked=sql.Literal(asked),
        )
        # First the table's lock: whoever puts up a fence behind the question waits for this transaction.
        await conn.execute(sql.SQL(LOCK_TABLE).format(table=parts["table"]))
        await conn.execute(ask)
    return await _count(conn, sql.SQL(_CLEAR_OTHERS + AND_FORGET).format(**parts, **noted))


def _copies(data_map: DataMap, reference: Reference) -> sql.Composed:
    joins, owner = owner_joins(data_map, reference.table, "x")
    return sql.SQL(_COPIES).format(joins=joins, latest=sql.SQL(LATEST).format(owner=owner))


def _leaving(data_map: DataMap, reference: Reference, wave_id: int, members: tuple[int, int]) -> sql.Composed:
    """What the reference may name of these members: themselves, whether they have rows or not, or rows of theirs."""
    if reference.to_table == data_map.subject.table:
        return _of_wave(_MEMBERS, wave_id, members)
    rows = {"rows": rows_of_wave(data_map, reference.to_table), "key": sql.Identifier(reference.to_columns[0])}
    return _of_wave(_ROWS_OF_MEMBERS, wave_id, members, **rows)


def _forget_named(schema: Schema, reference: Reference, persons: Fragment) -> sql.Composed:
    """Notes of this reference, and of every other to the same key."""
    named = (reference.to_table, reference.to_columns)
    every = (r for table in schema.tables.values() for r in table.references)
    alike = {(str(r.table), r.columns[0]) for r in every if (r.to_table, r.to_columns) == named}
    listed = _comma(sql.SQL("({}, {})").format(*map(sql.Literal, one)) for one in sorted(alike))
    kind, as_type = _key_named(schema, reference), sql.Identifier("pg_catalog", "text")
    person: Fragment = sql.SQL("n.person")
    if kind.base_schema != "pg_catalog" or kind.base_type not in _ONE_TEXT or not kind.collation_deterministic:
        as_type = _type_named(schema, reference)
        person = sql.SQL(_TYPED).format(references=listed, type=as_type)
    return sql.SQL(_FORGET_NAMED).format(references=listed, person=person, as_type=as_type, persons=persons)


def _key_named(schema: Schema, reference: Reference) -> Column:
    return schema.tables[reference.to_table].column(reference.to_columns[0])


def _type_named(schema: Schema, reference: Reference) -> sql.Identifier:
    kind = _key_named(schema, reference)
    return sql.Identifier(kind.base_schema, kind.base_type)


def _of_wave(statement: str, wave_id: int, members: tuple[int, int], **parts: Fragment) -> sql.Composed:
    of_members = sql.SQL(_OF_MEMBERS).format(
        wave=sql.Literal(wave_id), first=sql.Literal(members[0]), last=sql.Literal(members[1])
    )
    return sql.SQL(statement).format(of_members=of_members, **parts)


async def _exists(conn: AsyncConnection[Any], function: str) -> bool:
    row = await (await conn.execute("select pg_catalog.to_regprocedure(%s) is not null", (function,))).fetchone()
    return bool(row and row[0])


async def _count(conn: AsyncConnection[Any], statement: sql.Composed) -> int:
    row = await (await conn.execute(statement)).fetchone()
    assert row is not None
    return int(row[0])


def _key_as_text(alias: str, names: Iterable[str]) -> sql.Composed:
    texts = (sql.SQL("{}::pg_catalog.text").format(column(alias, name)) for name in names)
    return sql.SQL("array[{}]").format(_comma(texts))


def as_json(rows: Iterable[Sequence[str]]) -> sql.Literal:
    """Keys of rows, as statements take them apart again. Pure."""
    return sql.Literal([json.dumps(key, ensure_ascii=False) for key in rows])


def _as_keys(kind: Fragment, texts: Sequence[str]) -> sql.Composed:
    listed = sql.SQL("select text::{} from pg_catalog.unnest({}::pg_catalog.text[]) as text")
    return listed.format(kind, sql.Literal(list(texts)))


def _all(parts: Iterable[Fragment]) -> sql.Composed:
    return sql.SQL(" and ").join(parts)


def _comma(parts: Iterable[Fragment]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
