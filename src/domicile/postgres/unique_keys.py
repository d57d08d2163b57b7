"""What may not be there twice: unique indexes and exclusion constraints, in the catalogue's own words.

Expressions, predicates and operators are taken as PostgreSQL prints them under an empty search_path, that
is, fully qualified: so ``citext`` is compared as citext, and a case-insensitive collation as it collates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.schema import Table, TableKind, TableName
from domicile.postgres.failures import told
from domicile.postgres.ownership import Fragment, ident

_TRUE = sql.SQL("true")

# Per index of the table or of one of its leaves. A leaf's copy of the root's index has a parent and is
# left out; what a leaf has of its own holds for the rows within its bounds alone.
_KEYS = """
select n.nspname, c.relname, ic.relname,
    array(select pg_catalog.pg_get_indexdef(i.indexrelid, k, false)
        from pg_catalog.generate_series(1, i.indnkeyatts::integer) as k order by k),
    array(select 'operator(' || pg_catalog.quote_ident(opn.nspname) || '.' || o.oprname || ')'
        from pg_catalog.generate_series(1, i.indnkeyatts::integer) as k
            left join pg_catalog.pg_opclass as oc on oc.oid = i.indclass[k - 1]
            left join pg_catalog.pg_amop as ao on x.oid is null and ao.amopfamily = oc.opcfamily
                and ao.amoplefttype = oc.opcintype and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 3
            join pg_catalog.pg_operator as o on o.oid = coalesce(x.conexclop[k], ao.amopopr)
            join pg_catalog.pg_namespace as opn on opn.oid = o.oprnamespace
        order by k),
    array(select case when l.collisdeterministic is false
            then pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname) else '' end
        from pg_catalog.generate_series(1, i.indnkeyatts::integer) as k
            left join pg_catalog.pg_collation as l on l.oid = i.indcollation[k - 1]
            left join pg_catalog.pg_namespace as ln on ln.oid = l.collnamespace
        order by k),
    array(select a.atttypid in (20, 21, 23) from pg_catalog.pg_attribute as a
        where a.attrelid = i.indexrelid and a.attnum between 1 and i.indnkeyatts order by a.attnum),
    coalesce(pg_catalog.pg_get_expr(i.indpred, i.indrelid), ''),
    case when c.relispartition
        then coalesce(pg_catalog.pg_get_partition_constraintdef(c.oid), '') else '' end,
    i.indnullsnotdistinct,
    x.oid is not null,
    array(select a.attname from pg_catalog.pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            and (c.relispartition or a.attnum = any(i.indkey) or exists (
                select from pg_catalog.pg_depend as d
                where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = i.indexrelid
                    and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    and d.refobjid = c.oid and d.refobjsubid = a.attnum))
        order by a.attname),
    i.indimmediate
from pg_catalog.pg_index as i
    join pg_catalog.pg_class as c on c.oid = i.indrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    join pg_catalog.pg_class as ic on ic.oid = i.indexrelid
    left join pg_catalog.pg_constraint as x on x.conindid = i.indexrelid and x.contype = 'x'
where (i.indisunique or x.oid is not null) and i.indislive
    and not exists (select from pg_catalog.pg_inherits as h where h.inhrelid = i.indexrelid)
    and (n.nspname, c.relname) in (select * from rows from (
        pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) as wanted (schema_name, table_name))
order by not i.indisprimary, ic.relname"""


@dataclass(frozen=True, slots=True)
class Key:
    """One of them. ``relation`` is the table or the leaf that has it; ``immediate`` is False for a
    deferrable one.
    """

    name: str
    relation: TableName
    only: bool
    expressions: tuple[str, ...]
    operators: tuple[str, ...]
    collations: tuple[str, ...]
    integers: tuple[bool, ...]
    predicate: str
    bounds: str
    nulls_equal: bool
    exclusion: bool
    columns: tuple[str, ...]
    immediate: bool

    @property
    def relation_sql(self) -> Fragment:
        """For FROM; children by inheritance have indexes of their own."""
        return sql.SQL("only {}").format(ident(self.relation)) if self.only else ident(self.relation)

    @property
    def condition(self) -> Fragment:
        """Which rows it holds for, over the relation's columns by their bare names."""
        parts = [expression(p) for p in (self.predicate, self.bounds) if p]
        return sql.SQL(" and ").join(parts) if parts else _TRUE

    @property
    def meets(self) -> Fragment:
        """When an arriving row ``a`` and a held row ``h`` cannot both be, over ``k1, k2, ...``."""
        if self.nulls_equal:
            # Records compare nulls as equal, by each type's own equality, and can be hashed: an OR could not.
            sides = [
                sql.SQL("row({})::record").format(sql.SQL(", ").join(_side(side, n) for n in self._positions))
                for side in "ah"
            ]
            return sql.SQL("{} operator(pg_catalog.=) {}").format(*sides)
        return sql.SQL(" and ").join(
            sql.SQL("{} {} {}").format(_side("a", n), trusted(operator), self._collated(n))
            for n, operator in zip(self._positions, self.operators, strict=True)
        )

    @property
    def _positions(self) -> range:
        return range(1, len(self.expressions) + 1)

    def _collated(self, position: int) -> Fragment:
        collation = self.collations[position - 1]
        if not collation:
            return _side("h", position)
        return sql.SQL("({} collate {})").format(_side("h", position), trusted(collation))


async def read_keys(
    target: AsyncConnection, tables: Sequence[Table], *, private: bool
) -> dict[TableName, tuple[Key, ...]]:
    """Each table's keys with those of its leaves, read in one round trip. ``private``: only what hashes of values can
    be compared by.
    """
    root_of = {name: table for table in tables for name in (table.name, *table.partitions)}
    names = sorted(root_of)
    with told("target", "keys of the tables"):
        rows = await (await target.execute(_KEYS, ([n.schema for n in names], [n.name for n in names]))).fetchall()
    found: dict[TableName, list[Key]] = {table.name: [] for table in tables}
    for row in rows:
        relation = TableName(row[0], row[1])
        table = root_of[relation]
        key = _key(row, relation, only=table.kind is TableKind.ORDINARY)
        if not private or _hashable(key):
            found[table.name].append(_of_hashes(key) if private else key)
    return {name: tuple(keys) for name, keys in found.items()}


def _key(row: Sequence[Any], relation: TableName, *, only: bool) -> Key:
    return Key(
        name=row[2],
        relation=relation,
        only=only,
        expressions=tuple(row[3]),
        operators=tuple(row[4]),
        collations=tuple(row[5]),
        integers=tuple(row[6]),
        predicate=row[7],
        bounds=row[8],
        nulls_equal=row[9],
        exclusion=row[10],
        columns=tuple(row[11]),
        immediate=row[12],
    )


def expression(text: str) -> Fragment:
    """An expression of the catalogue, in parentheses."""
    return sql.SQL("({})").format(trusted(text))


def listed(values: Iterable[Fragment]) -> Fragment:
    """``value as k1, value as k2, ...``: the names under which `Key.meets` compares."""
    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(value, sql.Identifier(f"k{position}"))
        for position, value in enumerate(values, start=1)
    )


def primary_key_text(table: Table, alias: str = "") -> Fragment:
    """The primary key of a row as an array of texts, empty where there is none."""
    names = [(alias, name) if alias else (name,) for name in table.primary_key]
    return sql.SQL("array[{}]::text[]").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(*name)) for name in names)
    )


def trusted(text: str) -> sql.SQL:
    """SQL that PostgreSQL itself printed: from its catalogue, not from anybody's input."""
    return sql.SQL(text)


def _side(side: str, position: int) -> sql.Identifier:
    return sql.Identifier(side, f"k{position}")


def _of_hashes(key: Key) -> Key:
    """The same over hashes of the values, which have neither the values' operators nor their collations."""
    return replace(
        key, operators=("operator(pg_catalog.=)",) * len(key.operators), collations=("",) * len(key.collations)
    )


def _hashable(key: Key) -> bool:
    # A hash partition's bounds name the object id of its root, which means nothing at the source. Where nulls are
    # equal, a row outside the predicate (sent as nulls) could not be told from one that holds nulls.
    confused = key.nulls_equal and bool(key.predicate or key.bounds)
    return not (key.exclusion or confused or "satisfies_hash_partition" in key.bounds)
