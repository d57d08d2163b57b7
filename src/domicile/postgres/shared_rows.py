"""Rows of shared tables that a site lacks and the wave's rows refer to: which they are, and how they come there
(docs/decisions/0019, policy ``copy``). Insert-only: what is at the target already is never changed.

The caller's session at the target has ``session_replication_role = replica``; transactions and the lease are his.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
import threading

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap, OwnerStep, Role, SharedPolicy, TableRule
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import TablePlan
from domicile.model.schema import Reference, Schema, Table, TableName, quote_name
from domicile.postgres import references
from domicile.postgres.ownership import Fragment, column, ident
from domicile.postgres.rows import choose_format, copy_in
from domicile.postgres.transfer import transfer

KEYS_PER_BATCH = references.KEYS_PER_BATCH
LEVELS_MAX = 100  # of shared rows that refer to shared rows; each is a temporary table of one transaction
Key = tuple[str, ...]  # texts

_KEYS = "(select {typed} from rows from ({lists}) as listed ({names}))"
_ONWARD = """
    select distinct {texts} from {keys} as key join {table} as t on {joined} where {given}"""
_COPY_OUT = """
    copy (select {columns} from {keys} as key join {table} as t on {joined}) to stdout (format {format})"""
_STAGE = "create temp table {stage} on commit drop as select {names} from {table} with no data; {copy}"
_INSERT = """
    insert into {table} ({names}) overriding system value
    select {names} from {stage} order by {key} on conflict do nothing"""
_NOT_PLACED = """
    select pg_catalog.count(*) from {stage} as s where not exists (select from {table} as t where {joined})"""
# As a foreign key does it: who removes such a row and has not committed is waited for, who comes later waits. In order,
# here and above: two who want the same keys wait for each other one way only.
_LOCK = """
    select from {parent} as parent where exists (select from {stage} as s where {joined})
    order by {key} for key share of parent"""
_DANGLING = """
    select pg_catalog.count(*) from {stage} as s
    where {given} and not exists (select from {parent} as parent where {joined})"""
_DEFERRABLE = """
    select i.indexrelid::pg_catalog.regclass::pg_catalog.text from pg_catalog.pg_index as i
    where i.indrelid = pg_catalog.to_regclass(%s) and not i.indimmediate order by 1"""


@dataclass(frozen=True, slots=True)
class Level:
    """Keys of ``reference.to_table`` that are needed at the target by this reference, and are not there."""

    reference: Reference
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """The two sites as the copy sees them: from where, and to where."""

    source: AsyncConnection
    target: AsyncConnection
    data_map: DataMap
    source_schema: Schema
    target_schema: Schema


def wanted(data_map: DataMap) -> bool:
    """Whether the map has shared rows be copied."""
    return any(rule.policy is SharedPolicy.COPY for rule in data_map.tables.values())


def needed_by(data_map: DataMap, source: Schema, target: Schema) -> tuple[Reference, ...]:
    """References of tables in scope that lead to copied rows, as either site has them."""
    copied = data_map.copied()
    return tuple(r for r in references.to_prove(data_map, source, target) if r.to_table in copied)


def onward(data_map: DataMap, schema: Schema, table: TableName) -> tuple[Reference, ...]:
    """References of a copied table's rows."""
    return references.of_tables(data_map, schema, (table,))


def reasons(data_map: DataMap, schema: Schema) -> Iterator[tuple[TableName, str]]:
    """Why rows of these tables cannot be copied as the map says; nothing where they can. Pure."""
    scope, copied = data_map.in_scope(), data_map.copied()
    for name in copied:
        if name not in schema.tables:
            continue  # said elsewhere
        rule, table = data_map.tables[name], schema.tables[name]
        if personal := (*rule.personal, *rule.object_keys, *rule.identities):
            yield name, f"its column {quote_name(personal[0])} is somebody's"
        for each in _unclassified(rule, table):
            yield name, f"column {quote_name(each)} is not listed under not_personal"
        for reference in onward(data_map, schema, name):
            if reference.to_table in scope:
                yield name, f"{references.shown(reference)} leads to somebody's rows"
            elif why := _unfit(data_map, reference):
                yield name, f"{references.shown(reference)} {why}"
    needing = references.of_tables(data_map, schema, (*scope, *copied))
    for reference in needing:
        if reference.to_table in copied and reference.to_table in schema.tables:
            keys = [k for k in schema.tables[reference.to_table].unique_keys if not (k.partial or k.on_expression)]
            if not any(set(k.columns) <= set(reference.to_columns) for k in keys):
                yield reference.to_table, f"no unique key finds the row of {references.shown(reference)}"


def _unfit(data_map: DataMap, reference: Reference) -> str:
    """Why a row that refers there, to no table in scope, may not cross; empty where it may. Pure."""
    to = data_map.tables.get(reference.to_table)
    if to is None or to.role in (Role.LOCAL, Role.UNDECIDED):
        return "leads to rows of this site alone"
    if {*reference.to_columns} & {*to.personal, *to.object_keys, *to.identities}:
        return "holds what is personal there"
    return ""


async def deferrable_keys(conn: AsyncConnection, table: TableName) -> list[str]:
    """Unique keys and exclusion constraints that are judged at the commit: they keep no row out of an insertion."""
    rows = await (await conn.execute(_DEFERRABLE, (ident(table).as_string(),))).fetchall()
    return [str(name) for (name,) in rows]


async def batches(conn: AsyncConnection, statement: sql.Composed) -> AsyncIterator[list[Key]]:
    """The keys of a statement, `KEYS_PER_BATCH` at a time. In a transaction; other questions may come in between."""
    async with conn.cursor(name="domicile_shared") as cursor:
        await cursor.execute(statement)
        while keys := await cursor.fetchmany(KEYS_PER_BATCH):
            yield [tuple(map(str, key)) for key in keys]


async def levels(site: Site, first: Level) -> list[Level]:
    """These keys, and those of further shared rows that their rows at the source refer to and that the target has not,
    level by level. Raises reference-missing where there is no end to it."""
    found, frontier = [first], [first]
    known: dict[tuple[TableName, tuple[str, ...]], set[Key]] = {}
    known[first.reference.to_table, first.reference.to_columns] = set(first.keys)
    copied = site.data_map.copied()
    for _ in range(LEVELS_MAX):
        following: dict[Reference, tuple[Key, ...]] = {}
        for level in frontier:
            for reference in onward(site.data_map, site.source_schema, level.reference.to_table):
                if reference.to_table not in copied:
                    continue
                seen = known.setdefault((reference.to_table, reference.to_columns), set())
                keys = [k for k in await referred_by(site, level, reference) if k not in seen]
                missing = await absent(site, reference, keys)
                seen.update(missing)
                if missing:
                    following[reference] = (*following.get(reference, ()), *missing)
        if not following:
            return found
        frontier = [Level(reference, keys) for reference, keys in following.items()]
        found += frontier
    raise DomicileError(
        ErrorCode.REFERENCE_MISSING,
        f"shared rows refer to shared rows, more than {LEVELS_MAX} in a row: {references.shown(first.reference)}",
        facts={"reference": references.shown(first.reference), "levels_max": LEVELS_MAX},
        safe="The source serves; none of these rows was copied.",
        hint="Bring these rows to the target by other means, with the policy present in the data map.",
    )


async def referred_by(site: Site, level: Level, reference: Reference) -> list[Key]:
    """The keys to which the rows of the ``level`` at the source refer by one of their own references."""
    table = site.source_schema.tables[reference.table]
    statement = sql.SQL(_ONWARD).format(
        texts=_listed(sql.SQL("{}::pg_catalog.text").format(column("t", name)) for name in reference.columns),
        keys=_keys(table, level),
        table=ident(table.name),
        joined=_same("key", "t", level.reference.to_columns),
        given=_given("t", reference),
    )
    return [tuple(map(str, key)) for key in await (await site.source.execute(statement)).fetchall()]


async def absent(site: Site, reference: Reference, keys: Sequence[Key]) -> list[Key]:
    """Those of these keys that no row at the target has."""
    found: list[Key] = []
    for start in range(0, len(keys), KEYS_PER_BATCH):
        batch = keys[start : start + KEYS_PER_BATCH]
        found += await references.absent(site.target, site.source_schema, reference, batch)
    return found


async def place(site: Site, found: Sequence[Level]) -> tuple[int, list[Key]]:
    """Bring the rows of these levels to the target, in the transactions of both sessions; how many were new there, and
    which keys of the first level no row at the source has.

    Raises keys-collide where another row at the target holds a unique value of one, reference-missing where one refers
    to what is not there; both connections are closed when a COPY fails.
    """
    rows = 0
    for number, level in enumerate(found):
        rows += await _insert(site, level, _stage(number))
    for number, level in enumerate(found):
        await _require_placed(site, level, _stage(number))
    for number, level in enumerate(found):
        for reference in onward(site.data_map, site.target_schema, level.reference.to_table):
            await _require_parents(site, reference, _stage(number))
    return rows, await absent(site, found[0].reference, found[0].keys)


async def _insert(site: Site, level: Level, stage: TableName) -> int:
    name = level.reference.to_table
    here, there = site.source_schema.tables[name], site.target_schema.tables[name]
    how, _ = choose_format(here, there)
    names = tuple(c.name for c in here.stored_columns)
    listed = _listed(map(sql.Identifier, names))
    out = sql.SQL(_COPY_OUT).format(
        columns=_listed(column("t", each) for each in names),
        keys=_keys(here, level),
        table=ident(name),
        joined=_same("key", "t", level.reference.to_columns),
        format=sql.SQL(how.value),
    )
    taken = copy_in(TablePlan(stage, names, 0, 0, how))
    begin = sql.SQL(_STAGE).format(stage=ident(stage), names=listed, table=ident(name), copy=taken)
    await transfer(site.source, site.target, (out, begin), threading.Event(), f"copy of shared rows of {name}")
    key = _listed(map(sql.Identifier, level.reference.to_columns))
    insert = sql.SQL(_INSERT).format(table=ident(name), names=listed, stage=ident(stage), key=key)
    return (await site.target.execute(insert)).rowcount


async def _require_placed(site: Site, level: Level, stage: TableName) -> None:
    table, columns = level.reference.to_table, level.reference.to_columns
    statement = sql.SQL(_NOT_PLACED).format(stage=ident(stage), table=ident(table), joined=_same("s", "t", columns))
    if rows := await _count(site.target, statement):
        raise DomicileError(
            ErrorCode.KEYS_COLLIDE,
            f"{rows} shared rows of {table} have a unique value that another row at the target holds",
            facts={"table": str(table), "rows": rows, "reference": references.shown(level.reference)},
            safe="The source serves; none of these rows was copied.",
            hint="Give the rows one key at both sites, then plan again: its checks show how many differ.",
        )


async def _require_parents(site: Site, reference: Reference, stage: TableName) -> None:
    if not reference.declared:
        return  # it may dangle at the source, too
    joined = _all(
        sql.SQL("{} = {}").format(column("parent", theirs), column("s", ours))
        for ours, theirs in zip(reference.columns, reference.to_columns, strict=True)
    )
    parts = {
        "parent": ident(reference.to_table),
        "stage": ident(stage),
        "joined": joined,
        "given": _given("s", reference),
    }
    if reference.to_table in site.data_map.copied():  # of others a lock may not be the role's to take
        key = _listed(column("parent", name) for name in reference.to_columns)
        await site.target.execute(sql.SQL(_LOCK).format(**parts, key=key))
    if rows := await _count(site.target, sql.SQL(_DANGLING).format(**parts)):
        raise DomicileError(
            ErrorCode.REFERENCE_MISSING,
            f"{rows} shared rows refer to rows that the target lacks: {references.shown(reference)}",
            facts={"references": {references.shown(reference): rows}},
            safe="The source serves; none of these rows was copied.",
            hint="Bring what they refer to to the target, or give that table the policy copy, then plan again.",
        )


def _unclassified(rule: TableRule, table: Table) -> Iterator[str]:
    """Columns that nobody has said anything of; what a reference leads to is classified where it stands. Pure."""
    steps = [OwnerStep.parse(text) for text in rule.references]
    elsewhere = {c for step in steps for c in step.columns}.union(*(r.columns for r in table.references))
    for each in table.columns:
        listed = rule.others_not_personal or each.name in (rule.not_personal or ())
        if not listed and each.name not in elsewhere:
            yield each.name


def refused(data_map: DataMap, reference: Reference) -> bool:
    """Whether the map refuses that a row refers there."""
    rule = data_map.tables.get(reference.to_table)
    return rule is not None and rule.role is Role.SHARED and rule.policy is SharedPolicy.REFUSE


def _stage(number: int) -> TableName:
    return TableName("pg_temp", f"domicile_shared_{number}")


def _keys(table: Table, level: Level) -> sql.Composed:
    """The keys of a level as a relation."""
    names = level.reference.to_columns
    return sql.SQL(_KEYS).format(
        typed=_listed(
            sql.SQL("{0}::{1} as {0}").format(sql.Identifier(c.name), sql.Identifier(c.base_schema, c.base_type))
            for c in map(table.column, names)
        ),
        lists=_listed(
            sql.SQL("pg_catalog.unnest({}::pg_catalog.text[])").format(list(texts))
            for texts in zip(*level.keys, strict=True)
        ),
        names=_listed(map(sql.Identifier, names)),
    )


def _same(alias: str, other: str, names: Iterable[str]) -> sql.Composed:
    return _all(sql.SQL("{} = {}").format(column(other, name), column(alias, name)) for name in names)


def _given(alias: str, reference: Reference) -> sql.Composed:
    return _all(sql.SQL("{} is not null").format(column(alias, name)) for name in reference.columns)


def _listed(parts: Iterable[Fragment]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _all(parts: Iterable[Fragment]) -> sql.Composed:
    return sql.SQL(" and ").join(parts)


async def _count(conn: AsyncConnection, statement: sql.Composed) -> int:
    row = await (await conn.execute(statement)).fetchone()
    assert row is not None
    return int(row[0])
