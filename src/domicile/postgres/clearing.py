"""The statements that set references to a second person to null where the row lives, note whom it named, and write the
notes back (docs/decisions/0019).

A session that uses these has ``session_replication_role = replica``: neither the application's triggers nor its foreign
keys nor the guard are asked. Transactions and the lease are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import json
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.schema import Reference, Schema, TableName
from domicile.postgres.ownership import Fragment, column, ident, owner_joins, rows_of_wave
from domicile.postgres.party_nulls import parties, row_key

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
    select {wave}, {name}, {column_name}, row_key, person from cleared
    on conflict (wave, table_name, column_name, row_key) do update set person = excluded.person
    returning row_key"""
_NOTES = "n.wave = {wave} and n.table_name = {name} and n.column_name = {column_name}"
# Not into a row that was given to somebody who is about to leave, or has left.
_WRITABLE = """
    {notes} and exists (select from {subjects} as s where s.{subject_key} = n.person)
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
        select {listed}, n.row_key, n.person
        from domicile.cleared as n join {table} as t on {noted} join {subjects} as s on s.{subject_key} = n.person
        where {writable} and t.{column} is null
        limit {batch} for no key update of t skip locked for key share of s skip locked),
    restored as (
        update {table} as t set {column} = chosen.person from chosen
        where {same} and t.{column} is null
        returning chosen.row_key)
    delete from domicile.cleared as n using restored where {notes} and n.row_key = restored.row_key"""
_LATEST = """
    select own.wave, own.ordinal, w.mark from domicile.member as own join domicile.wave as w on w.id = own.wave
    where own.subject = {owner} order by w.epoch desc limit 1"""
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
_AND_FORGET = """,
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
_LOCK_TABLE = "lock table {table} in row exclusive mode"
_FORGET_KEYS = """
    delete from domicile.cleared as n
    where n.wave = {wave} and n.table_name = {name} and n.column_name = {column_name}
        and n.row_key in (
            select array(select pg_catalog.json_array_elements_text(one))
            from pg_catalog.unnest({keys}::pg_catalog.json[]) as one)"""
_LOCK_LEAVING = """
    select from {subjects} as t join domicile.member as m on m.subject = t.{key}
    where m.wave = {wave} and m.ordinal > {first} and m.ordinal <= {last}
    order by t.{key} for update of t"""
_MEMBERS = (
    "select m.subject from domicile.member as m where m.wave = {wave} and m.ordinal > {first} and m.ordinal <= {last}"
)
_FORGET_PERSONS = "delete from domicile.cleared as n where n.person in ({persons})"
_GONE = """
    select m.subject from domicile.member as m where m.wave = {wave} {among}
        and not exists (select from {subjects} as t where t.{key} = m.subject)"""
_NAMED_GONE = "select gone.subject::pg_catalog.text from ({gone}) as gone where {named}"
_AMONG = " and m.subject in (select {key} from {listed})"
_REQUIRE = "select domicile.refuse('rows without what they refer to', {table}) where exists ({found})"


class Clearing:
    """One reference at one site: its statements, made once."""

    def __init__(self, data_map: DataMap, schema: Schema, reference: Reference, wave_id: int) -> None:
        self.reference, self.wave_id = reference, wave_id
        table, subject = schema.tables[reference.table], data_map.subject
        names, (joins, owner) = row_key(table), owner_joins(data_map, reference.table)
        kind = schema.tables[subject.table].column(subject.key)
        self._type = sql.Identifier(kind.base_schema, kind.base_type)
        every = [(sql.Identifier(n), column("t", n), column("chosen", f"key {i}")) for i, n in enumerate(names)]
        self._parts: dict[str, Fragment] = {
            "table": ident(reference.table),
            "name": sql.Literal(str(reference.table)),
            "column": sql.Identifier(reference.columns[0]),
            "column_name": sql.Literal(reference.columns[0]),
            "subjects": ident(subject.table),
            "subject_key": sql.Identifier(subject.key),
            "rows": rows_of_wave(data_map, reference.table),
            "joins": joins,
            "latest": sql.SQL(_LATEST).format(owner=owner),
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
        self._parts["notes"] = self._sql(_NOTES)

    async def left(self, conn: AsyncConnection[Any], keys: Sequence[str]) -> set[Version]:
        """The rows of the wave that name one of these persons (keys as text)."""
        found = await (await conn.execute(self._sql(_LEFT, persons=self._persons(keys)))).fetchall()
        return {(tuple(key), version) for key, version in found}

    async def clear(self, conn: AsyncConnection[Any], keys: Sequence[str]) -> list[RowKey]:
        """Set the reference to null in a batch of the wave's rows that name one of these persons, and note whom each
        named, in one statement; returns the rows. Rows that somebody has locked are left out."""
        found = await (await conn.execute(self._sql(_CLEAR, persons=self._persons(keys)))).fetchall()
        return [tuple(key) for (key,) in found]

    async def forget(self, conn: AsyncConnection[Any], keys: Iterable[RowKey], wave_id: int) -> None:
        """Forget what is noted here of these rows of the wave, which this site knows as ``wave_id``. Idempotent."""
        listed = sql.Literal([json.dumps(key, ensure_ascii=False) for key in keys])
        await conn.execute(self._sql(_FORGET_KEYS, wave=sql.Literal(wave_id), keys=listed))

    async def clear_ahead(self, conn: AsyncConnection[Any], members: tuple[int, int]) -> int:
        """A batch of what `clear_leaving` clears for these members, but for rows that are between two sites, or that
        somebody has locked; returns how many. No row of the members is locked."""
        await conn.execute(self._sql(_LOCK_TABLE))
        return await _count(
            conn, self._sql(_CLEAR_AHEAD + _AND_FORGET, persons=_of_wave(_MEMBERS, self.wave_id, members))
        )

    async def restore(self, conn: AsyncConnection[Any], *, stayed: bool) -> int:
        """Write a batch of notes back and forget them; returns how many. Rows that somebody has locked are left out.
        ``stayed``: only into rows that are no member's of the wave any more."""
        return (await conn.execute(self._sql(_RESTORE, writable=self._writable(stayed)))).rowcount

    async def pending(self, conn: AsyncConnection[Any], *, stayed: bool) -> int:
        """How many notes can be written back: the row is there, still holds null, and the person has a row."""
        return await _count(conn, self._sql(_PENDING, writable=self._writable(stayed)))

    def _writable(self, stayed: bool) -> sql.Composed:
        return self._sql(_WRITABLE, stayed=self._sql(_STAYED) if stayed else sql.SQL(""))

    def _persons(self, keys: Sequence[str]) -> sql.Composed:
        listed = sql.SQL("select text::{} from pg_catalog.unnest({}::pg_catalog.text[]) as text")
        return listed.format(self._type, sql.Literal(list(keys)))

    def _sql(self, statement: str, **parts: Fragment) -> sql.Composed:
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


async def clear_leaving(
    conn: AsyncConnection[Any], data_map: DataMap, schema: Schema, wave_id: int, members: tuple[int, int]
) -> int:
    """Before rows of these members (ordinals in (first, last]) go: rows of who lives here refer to none of them any
    more, and no note names them. They are locked first: who refers to one and has not committed is waited for, and who
    comes later is told by the foreign key. Returns how many references were cleared. Idempotent."""
    subject = {"subjects": ident(data_map.subject.table), "key": sql.Identifier(data_map.subject.key)}
    await conn.execute(_of_wave(_LOCK_LEAVING, wave_id, members, **subject))
    persons = _of_wave(_MEMBERS, wave_id, members)
    cleared = await _clear_others(conn, data_map, schema, wave_id, persons)
    # Behind the rows: who has cleared one meanwhile has noted it by now.
    await conn.execute(sql.SQL(_FORGET_PERSONS).format(persons=persons))
    return cleared


async def clear_gone(
    conn: AsyncConnection[Any], data_map: DataMap, schema: Schema, wave_id: int, keys: Sequence[str]
) -> int:
    """The same for members (keys as text) who have no row here any more."""
    key = schema.tables[data_map.subject.table].column(data_map.subject.key)
    persons = sql.SQL("select text::{} from pg_catalog.unnest({}::pg_catalog.text[]) as text").format(
        sql.Identifier(key.base_schema, key.base_type), sql.Literal(list(keys))
    )
    return await _clear_others(conn, data_map, schema, wave_id, persons)


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
        for r in parties(data_map, schema)
    ]
    return sql.SQL(_NAMED_GONE).format(
        gone=sql.SQL(_GONE).format(wave=sql.Literal(wave_id), among=among, **subject),
        named=sql.SQL(" or ").join(names) if names else sql.SQL("false"),
    )


async def _clear_others(
    conn: AsyncConnection[Any], data_map: DataMap, schema: Schema, wave_id: int, persons: Fragment
) -> int:
    """A copy is left alone: it lives elsewhere, where its own wave clears the reference. Where this copy goes for good,
    one that arrives is an obstacle: it may have been proven by now."""
    row = await (await conn.execute("select mark from domicile.wave where id = %s", (wave_id,))).fetchone()
    asked = ["closing", "fenced", *(["arriving"] if row and row[0] == "departed" else [])]
    guarded = await _exists(conn, _GUARD_ASK)
    cleared = 0
    for reference in parties(data_map, schema):
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
        if guarded:
            ask = sql.SQL(_ASK).format(
                **parts,
                text=sql.Literal(ident(reference.table).as_string()),
                joins=joins,
                latest=sql.SQL(_LATEST).format(owner=owner),
                wave=sql.Literal(wave_id),
                asked=sql.Literal(asked),
            )
            # First the table's lock: whoever puts up a fence behind the question waits for this transaction.
            await conn.execute(sql.SQL(_LOCK_TABLE).format(table=parts["table"]))
            await conn.execute(ask)
        cleared += await _count(conn, sql.SQL(_CLEAR_OTHERS + _AND_FORGET).format(**parts, **noted))
    return cleared


def _copies(data_map: DataMap, reference: Reference) -> sql.Composed:
    joins, owner = owner_joins(data_map, reference.table, "x")
    return sql.SQL(_COPIES).format(joins=joins, latest=sql.SQL(_LATEST).format(owner=owner))


def _of_wave(statement: str, wave_id: int, members: tuple[int, int], **parts: Fragment) -> sql.Composed:
    bounds = zip(("wave", "first", "last"), (wave_id, *members), strict=True)
    return sql.SQL(statement).format(**{name: sql.Literal(value) for name, value in bounds}, **parts)


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


def _all(parts: Iterable[Fragment]) -> sql.Composed:
    return sql.SQL(" and ").join(parts)


def _comma(parts: Iterable[Fragment]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
