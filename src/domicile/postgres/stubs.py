"""Stubs at a site: made, left behind, replaced by the row, removed (docs/decisions/0019).

A session that calls these has ``session_replication_role = replica``: neither the application's triggers nor foreign
keys nor the guard are asked. Transactions and the lease are the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.plan import TablePlan
from domicile.model.schema import Reference, Schema
from domicile.model.site import DatasetName, SiteName
from domicile.postgres import stub_registry, stub_rows
from domicile.postgres.ownership import Fragment, column, delete_rows_of_wave, ident, owner_joins, rows_of_wave
from domicile.postgres.stub_registry import MOVE_ID, registered

# Temporary tables.
ARRIVING = "domicile_arriving"
UNUSED = "domicile_unused"

_ROWLESS_OF = """
    select {chosen} from pg_catalog.unnest({keys}::pg_catalog.text[]) as key (text)
    where not exists (select from {subjects} as t where t.{key} = key.text::{type})"""
_BROKEN = """
    select count(*) {rows} where m.wave = {wave} and t.{column} is not null
        and not exists (select from {subjects} as parent where parent.{key} = t.{column})
        and exists (select from domicile.member as own where own.wave = {wave} and own.subject = t.{column})"""
_ROWLESS = """
    from domicile.member as person join domicile.wave as stubs on stubs.id = person.wave
    where stubs.move_id = {move} and not exists (select from {subjects} as t where t.{key} = person.subject)"""
_INSERT = """
    insert into {subjects} ({names}) overriding system value
    select {values} {rowless}"""
# Rows that a member of the wave owns are about to go, or have gone: they do not count.
_REFERRED = """exists (
    select from {child} as x where x.{column} = {key} and not exists (
        select from (select) as start {joins} join domicile.member as own on own.subject = {owner}
        where own.wave = {wave}))"""
# Whoever refers to one of them and has not committed yet is waited for, and whoever comes later waits.
_LOCK_LEAVING = """
    select from {subjects} as t join domicile.member as m on m.subject = t.{key}
    where m.wave = {wave} and m.ordinal > {first} and m.ordinal <= {last}
    order by t.{key} for update of t"""
_LEFT = """
    select m.subject from domicile.member as m
    where m.wave = {wave} and m.ordinal > {first} and m.ordinal <= {last} and ({referred})"""
# Members who have deleted themselves where they live, and whom rows of others name. First who is gone: those are few.
# One who was a stub here before is still, under an epoch below that of the wave, which would decide.
_LOST = """
    with gone as materialized (
        select m.subject from domicile.member as m where m.wave = {wave} {among} and (
            not exists (select from {subjects} as t where t.{key} = m.subject)
            or exists (
                select from domicile.member as stub join domicile.wave as stubs on stubs.id = stub.wave
                where stubs.move_id = {move} and stubs.epoch < {epoch} and stub.subject = m.subject)))
    select m.subject::pg_catalog.text from gone as m where {referred}"""
_AMONG = " and m.subject in (select {key} from {listed})"
_REQUIRE_NOBODY_LOST = """
    select domicile.refuse('rows without what they refer to', {table}) where exists ({lost})"""
_ENROLLED_BEFORE = """
    delete from domicile.member as person using domicile.wave as stubs
    where stubs.id = person.wave and stubs.move_id = {move} and stubs.epoch < {epoch}
        and person.subject in ({keys})
    returning person.subject::pg_catalog.text"""
_EMPTY = """
    update {subjects} as t set {sets}
    from domicile.member as person
    where person.wave = {wave} and person.ordinal > {first} and person.ordinal <= {last}
        and t.{key} = person.subject and {registered}"""
# Nobody's row goes who is home here, whatever the registry says. The latest epoch decides, as for the guard: it is the
# registry's for who has deleted himself while away.
_HOME = """exists (
    select from (
        select w.mark from domicile.member as own join domicile.wave as w on w.id = own.wave
        where own.subject = t.{key} order by w.epoch desc limit 1) as latest
    where latest.mark = 'resident')"""
_UNUSED = "select t.{key} from {subjects} as t where {registered} and {unused} and not {home}"
_LOCK_UNUSED = """
    create temp table {locked} on commit drop as
    select t.{key} from {subjects} as t where t.{key} in ({unused}) order by t.{key} for update of t"""
_DROP = (
    """
    delete from {subjects} as t using {locked} as locked
    where locked.{key} = t.{key} and {registered} and {unused} and not {home}""",
    """
    delete from domicile.member as person using domicile.wave as stubs
    where stubs.id = person.wave and stubs.move_id = {move}
        and not exists (select from {subjects} as t where t.{key} = person.subject)""",
)
_STAGE = """
    create temp table {arriving} on commit drop as select {names} from {subjects} with no data;
    copy {arriving} ({names}) from stdin (format {format})"""
# Each statement has a snapshot of its own, so what follows the lock sees who was registered before.
_PLACE = (
    "{lock}",
    "update {subjects} as t set {sets} from {arriving} as s where t.{key} = s.{key} and {registered}",
    """
    insert into {subjects} ({names}) overriding system value
    select {values} from {arriving} as s
    where not (exists (select from {subjects} as t where t.{key} = s.{key}) and {registered})""",
    """
    delete from domicile.member as person using {arriving} as s, domicile.wave as stubs
    where person.wave = stubs.id and stubs.move_id = {move} and person.subject = s.{key}""",
    "{retire}",
)


@dataclass(frozen=True, slots=True)
class Site:
    """A site as its stubs see it. ``home``: where the persons live for whom stubs are made here now."""

    data_map: DataMap
    schema: Schema
    dataset: DatasetName
    here: SiteName
    home: SiteName

    def compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        """The statement with the subject's table, its key and the registry's move filled in."""
        subject = self.data_map.subject
        known = {"subjects": ident(subject.table), "key": sql.Identifier(subject.key), "move": sql.Literal(MOVE_ID)}
        return sql.SQL(statement).format(**(known | parts))

    def of_reference(self, statement: str, reference: Reference, wave_id: int, **parts: sql.Composable) -> sql.Composed:
        """A statement about the wave's rows that have this reference."""
        rows, name = rows_of_wave(self.data_map, reference.table), sql.Identifier(reference.columns[0])
        return self.compose(statement, column=name, rows=rows, wave=sql.Literal(wave_id), **parts)


async def enroll_missing(
    conn: AsyncConnection[Any], site: Site, homes: Mapping[SiteName, Sequence[str]], lost: Sequence[str], epoch: int
) -> bool:
    """Register who lives elsewhere and has no row here, by home (keys as text); and the members who are ``lost``, with
    this epoch, so that it decides, and not their wave's. Returns whether anybody registered has no row, since now or
    since a mover that died.

    The first of three steps; then the guard's filter is refreshed, and `insert_missing` makes the rows. Idempotent.
    """
    await stub_registry.lock(conn)
    for home, keys in homes.items():
        await stub_registry.enroll(conn, site.dataset, site.here, home, _rowless(site, keys))
    if lost:
        before = site.compose(_ENROLLED_BEFORE, keys=_listed(site, lost), epoch=sql.Literal(epoch))
        again = await (await conn.execute(before)).fetchall()
        new = sql.SQL("{} union all {}").format(_rowless(site, lost), _listed(site, [key for (key,) in again]))
        await stub_registry.enroll(conn, site.dataset, site.here, site.home, new, epoch)
    return await any_rowless(conn, site)


async def any_rowless(conn: AsyncConnection[Any], site: Site) -> bool:
    """Whether anybody registered has no row."""
    anybody = sql.SQL("select exists (select {})").format(site.compose(_ROWLESS))
    row = await (await conn.execute(anybody)).fetchone()
    return bool(row and row[0])


async def lost(conn: AsyncConnection[Any], site: Site, wave_id: int, epoch: int) -> list[str]:
    """Keys of members of the wave who have no row here, or a stub under an epoch below this one, and whom rows here
    name that are no member's."""
    return [key for (key,) in await (await conn.execute(_lost(site, wave_id, epoch))).fetchall()]


async def rowless(conn: AsyncConnection[Any], site: Site, keys: Sequence[str]) -> list[str]:
    """Those of these persons who have no row here; keys as text."""
    return [key for (key,) in await (await conn.execute(_rowless(site, keys, texts=True))).fetchall()]


def require_nobody_lost(site: Site, wave_id: int, epoch: int, listed: Fragment | None = None) -> sql.Composed:
    """A statement that fails where somebody is `lost`: who has deleted himself just now. ``listed``: a relation that
    has the keys of whom it may be."""
    table = sql.Literal(str(site.data_map.subject.table))
    return sql.SQL(_REQUIRE_NOBODY_LOST).format(table=table, lost=_lost(site, wave_id, epoch, listed))


async def insert_missing(conn: AsyncConnection[Any], site: Site) -> int:
    """A row for each registered subject who has none; returns how many. Idempotent."""
    await stub_registry.lock(conn)
    filled = await _filled(conn, site)
    plain = {name: filling for name, filling in filled.items() if not filling.default}
    names = [sql.Identifier(site.data_map.subject.key), *map(sql.Identifier, plain)]
    values = [stub_rows.KEY, *(filling.sql for filling in plain.values())]
    statement = site.compose(
        _INSERT, names=sql.SQL(", ").join(names), values=sql.SQL(", ").join(values), rowless=site.compose(_ROWLESS)
    )
    return (await conn.execute(statement)).rowcount


async def broken(conn: AsyncConnection[Any], site: Site, reference: Reference, wave_id: int) -> int:
    """Rows of the wave that refer to a member of it who is not here: no stub may hide that."""
    row = await (await conn.execute(site.of_reference(_BROKEN, reference, wave_id))).fetchone()
    assert row is not None
    return int(row[0])


async def remove_rows(
    conn: AsyncConnection[Any], site: Site, wave_id: int, members: tuple[int, int]
) -> tuple[sql.Composed, int]:
    """Before rows of the subject's table go: those of members with an ordinal in (first, last] to which others' rows
    refer become stubs. Returns the statement that removes the rest, and how many stayed. Idempotent.

    The rows are locked before they are judged: whoever refers to one meanwhile waits, and is told by the foreign key.
    """
    first, last = members
    subject = site.data_map.subject
    deletion = delete_rows_of_wave(site.data_map, subject.table, wave_id, first, last)
    if not (referring := stub_rows.parties(site.data_map, site.schema)):
        return deletion, 0
    await stub_registry.lock(conn)
    bounds = {"wave": sql.Literal(wave_id), "first": sql.Literal(first), "last": sql.Literal(last)}
    await conn.execute(site.compose(_LOCK_LEAVING, **bounds))
    referred = sql.SQL(" or ").join(_referred(site, r, column("m", "subject"), wave_id) for r in referring)
    left = site.compose(_LEFT, referred=referred, **bounds)
    row = await (await conn.execute(sql.SQL("select count(*) from ({}) as found").format(left))).fetchone()
    assert row is not None
    if row[0]:
        await stub_registry.enroll(conn, site.dataset, site.here, site.home, left)
        sets = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), filling.sql)
            for name, filling in (await _filled(conn, site)).items()
        )
        await conn.execute(site.compose(_EMPTY, sets=sets, registered=registered(stub_rows.KEY), **bounds))
        await insert_missing(conn, site)  # who has deleted himself meanwhile
    own = column("t", subject.key)
    return sql.SQL("{} and not {}").format(deletion, registered(own)), int(row[0])


async def drop_unused(conn: AsyncConnection[Any], site: Site) -> int:
    """Remove the stubs to which nothing refers any more, and the registry where it is empty; returns how many went.

    Their rows are locked, and those judged again by a later snapshot: whoever refers to one meanwhile waits, and is
    told by the foreign key. Idempotent.
    """
    await stub_registry.lock(conn)
    own = registered(column("t", site.data_map.subject.key))
    used = [
        sql.SQL("exists (select from {} as x where {})").format(
            ident(r.table),
            sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(column("x", ours), column("t", theirs))
                for ours, theirs in zip(r.columns, r.to_columns, strict=True)
            ),
        )
        for table in site.schema.tables.values()
        for r in table.references
        if r.to_table == site.data_map.subject.table
    ]
    unused = sql.SQL("not ({})").format(sql.SQL(" or ").join(used) if used else sql.SQL("false"))
    parts = {"registered": own, "unused": unused, "home": site.compose(_HOME)}
    locked = sql.Identifier("pg_temp", UNUSED)
    await conn.execute(site.compose(_LOCK_UNUSED, locked=locked, unused=site.compose(_UNUSED, **parts)))
    removed = (await conn.execute(site.compose(_DROP[0], locked=locked, **parts))).rowcount
    await conn.execute(site.compose(_DROP[1]))
    await stub_registry.retire(conn)
    return removed


async def expected(conn: AsyncConnection[Any], data_map: DataMap) -> bool:
    """Whether who arrives here may have a stub, or be given one meanwhile: by this map, or by that of another move."""
    return stub_rows.wanted(data_map) or await stub_registry.any_here(conn)


def stage(data_map: DataMap, table: TablePlan) -> sql.Composed:
    """Two statements: the COPY of arriving subjects of whom some may have stubs, into a temporary table of the
    transaction. `place` follows it."""
    return sql.SQL(_STAGE).format(
        arriving=sql.Identifier("pg_temp", ARRIVING),
        names=sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        subjects=ident(data_map.subject.table),
        format=sql.SQL(table.format.value),
    )


def place(data_map: DataMap, table: TablePlan) -> sql.Composed:
    """Statements: stubs become the rows that have arrived, in place; the others are inserted. Nobody registers one of
    them meanwhile, and the registry goes with its last."""
    key = data_map.subject.key
    others = [name for name in table.columns if name != key]
    sets = [sql.SQL("{} = {}").format(sql.Identifier(name), column("s", name)) for name in others] or [
        sql.SQL("{0} = {0}").format(sql.Identifier(key))
    ]
    return sql.SQL("; ").join(
        sql.SQL(statement).format(
            subjects=ident(data_map.subject.table),
            arriving=sql.Identifier("pg_temp", ARRIVING),
            key=sql.Identifier(key),
            move=sql.Literal(MOVE_ID),
            registered=registered(column("s", key)),
            names=sql.SQL(", ").join(map(sql.Identifier, table.columns)),
            values=sql.SQL(", ").join(column("s", name) for name in table.columns),
            sets=sql.SQL(", ").join(sets),
            lock=stub_registry.LOCK,
            retire=stub_registry.RETIRE,
        )
        for statement in _PLACE
    )


def _lost(site: Site, wave_id: int, epoch: int, listed: Fragment | None = None) -> sql.Composed:
    referred = [
        _referred(site, r, column("m", "subject"), wave_id) for r in stub_rows.parties(site.data_map, site.schema)
    ]
    return site.compose(
        _LOST,
        referred=sql.SQL(" or ").join(referred),
        wave=sql.Literal(wave_id),
        epoch=sql.Literal(epoch),
        among=site.compose(_AMONG, listed=listed) if listed else sql.SQL(""),
    )


def _listed(site: Site, keys: Sequence[str]) -> sql.Composed:
    """Persons by the text of their keys."""
    key = site.schema.tables[site.data_map.subject.table].column(site.data_map.subject.key)
    kind = sql.Identifier(key.base_schema, key.base_type)
    return sql.SQL("select text::{} from pg_catalog.unnest({}::pg_catalog.text[]) as text").format(
        kind, sql.Literal(list(keys))
    )


def _rowless(site: Site, keys: Sequence[str], *, texts: bool = False) -> sql.Composed:
    key = site.schema.tables[site.data_map.subject.table].column(site.data_map.subject.key)
    kind = sql.Identifier(key.base_schema, key.base_type)
    chosen = sql.SQL("key.text") if texts else sql.SQL("key.text::{}").format(kind)
    return site.compose(_ROWLESS_OF, chosen=chosen, keys=sql.Literal(list(keys)), type=kind)


def _referred(site: Site, reference: Reference, key: Fragment, wave_id: int) -> sql.Composed:
    joins, owner = owner_joins(site.data_map, reference.table, "x")
    return sql.SQL(_REFERRED).format(
        child=ident(reference.table),
        column=sql.Identifier(reference.columns[0]),
        key=key,
        joins=joins,
        owner=owner,
        wave=sql.Literal(wave_id),
    )


async def _filled(conn: AsyncConnection[Any], site: Site) -> dict[str, stub_rows.Filling]:
    rules = await stub_rows.rules(conn, site.data_map.subject.table)
    found = stub_rows.fillings(site.data_map, site.schema, rules)
    assert None not in found.values(), "the plan refuses a table of which no stub can be made"
    return {name: filling for name, filling in found.items() if filling is not None}
