"""What fills the keys of a database: sequences with their limits and how far they are, and the values in use.

Catalogues, sequences and the ends of indexes are read; nothing is changed. Of a partitioned table the leaves'
own defaults count, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import re

from psycopg import AsyncConnection, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.ids import SiteSequence
from domicile.model.schema import Schema, TableName
from domicile.model.site import SiteName
from domicile.postgres.ownership import ident
from domicile.postgres.pipelined import pipelined

PACE_SECONDS_MIN = 3_600  # of statistics, before a pace is taken from them

# Per column of each table, or of one of its leaves, that has a default, an identity or a sequence of its own. A
# sequence that the default names goes before one that the column merely owns.
_GENERATORS = """
select wanted.schema_name, wanted.table_name, a.attname, a.attidentity::text,
    coalesce(pg_catalog.pg_get_expr(ad.adbin, ad.adrelid), ''), s.nspname, s.relname
from rows from (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) as wanted (schema_name, table_name)
    join pg_catalog.pg_namespace as rn on rn.nspname = wanted.schema_name
    join pg_catalog.pg_class as r on r.relnamespace = rn.oid and r.relname = wanted.table_name
    cross join lateral (
        select r.oid union select p.relid::oid from pg_catalog.pg_partition_tree(r.oid) as p) as t (oid)
    join pg_catalog.pg_attribute as a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef as ad on ad.adrelid = a.attrelid and ad.adnum = a.attnum
    left join lateral (
        select n.nspname, c.relname, rank() over (order by d.deptype <> 'i', d.deptype <> 'n') as place
        from pg_catalog.pg_depend as d
            join pg_catalog.pg_class as c on c.relkind = 'S' and c.oid
                = case when d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass then d.objid else d.refobjid end
            join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                and d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.deptype in ('a', 'i'))
            or (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = ad.oid)
        ) as s on s.place = 1
where ad.oid is not null or s.relname is not null
order by 1, 2, 3, 6, 7"""
# With whatever else a sequence fills: by a default that names it, by an identity, or because a column owns it.
_SEQUENCES = """
select n.nspname, c.relname, pg_catalog.format_type(s.seqtypid, null), s.seqincrement, s.seqmin, s.seqmax, s.seqstart,
    s.seqcache, s.seqcycle, pg_catalog.pg_get_userbyid(c.relowner), pg_catalog.pg_has_role(c.relowner, 'usage'),
    pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_sequence_privilege(c.oid, 'select'),
    array(select distinct array[fn.nspname, f.relname]::text[]
        from (
            select ad.adrelid as oid from pg_catalog.pg_depend as d
                join pg_catalog.pg_attrdef as ad on ad.oid = d.objid
            where d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid = c.oid
            union
            select d.refobjid from pg_catalog.pg_depend as d
            where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid
                and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype in ('a', 'i')
            ) as filled (oid)
            join pg_catalog.pg_class as f
                on f.oid = coalesce(pg_catalog.pg_partition_root(filled.oid)::pg_catalog.oid, filled.oid)
            join pg_catalog.pg_namespace as fn on fn.oid = f.relnamespace)
from pg_catalog.pg_sequence as s
    join pg_catalog.pg_class as c on c.oid = s.seqrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where (n.nspname, c.relname) in (select * from rows from (
    pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) as wanted (schema_name, sequence_name))"""
_LAST = "select {number}, last_value, is_called from {sequence}"
# Rows a second since somebody last reset the statistics: without a reset nobody knows since when they count.
_PACE = """
select sum(pg_catalog.pg_stat_get_tuples_inserted(t.oid)) / extract(epoch from pg_catalog.now() - d.stats_reset)
from pg_catalog.pg_stat_database as d, rows from (
        pg_catalog.unnest({schemas}::text[]), pg_catalog.unnest({names}::text[])) as wanted (schema_name, table_name)
    join pg_catalog.pg_namespace as n on n.nspname = wanted.schema_name
    join pg_catalog.pg_class as t on t.relnamespace = n.oid and t.relname = wanted.table_name
where d.datname = pg_catalog.current_database() and d.stats_reset < pg_catalog.now() - {least} * interval '1 second'
group by d.stats_reset"""
_USED = "select min({column})::bigint as low, max({column})::bigint as high from {table} where {column} between {low} and {high} {step}"  # noqa: E501
_NOTHING = "select null::bigint as low, null::bigint as high"
_NEXT = """(select greatest(least(case when is_called then last_value::numeric + {increment} else last_value end,
    9223372036854775807), -9223372036854775808)::bigint from {sequence})"""
_RESIDUE = "and ({column}::numeric - {base}) % {step} = 0"
_PLAIN = re.compile(r"\(?nextval\('(?:[^']|'')+'::regclass\)\)?(?:::[\w\". ]+)?\Z")
_HOLDS = {"int2": 2**15 - 1, "int4": 2**31 - 1, "int8": 2**63 - 1, "numeric": 2**63 - 1}


@dataclass(frozen=True, slots=True)
class Generator:
    """What fills a column: ``sequence``, or an expression that names none. ``plain``: the value is the sequence's."""

    table: TableName
    column: str
    expression: str
    sequence: TableName | None
    plain: bool

    @property
    def key(self) -> str:
        """``schema.table.column``, as it is shown."""
        return column_text(self.table, self.column)


@dataclass(frozen=True, slots=True)
class Window:
    """Values from ``low`` to ``high``; ``step`` above 1: only those that come from ``base`` in that step.

    ``beyond``: only those that this sequence of the same site has not given yet. Its position is read by the statement
    itself, after its snapshot: no row that it sees holds a value that was drawn since."""

    low: int
    high: int
    step: int = 1
    base: int = 0
    beyond: SiteSequence | None = None


def column_text(table: TableName, column: str) -> str:
    """How a column of a key is named everywhere."""
    return f"{table}.{column}"


async def read_generators(conn: AsyncConnection, tables: Iterable[TableName]) -> tuple[Generator, ...]:
    """What fills columns of these tables, in their order. Tables that do not exist are passed by."""
    names = list(tables)
    rows = await (await conn.execute(_GENERATORS, _parted(names))).fetchall()
    return tuple(
        dict.fromkeys(
            Generator(
                TableName(schema, table),
                column,
                expression,
                TableName(at, sequence) if sequence else None,
                bool(identity) or not expression or _PLAIN.match(expression) is not None,
            )
            for schema, table, column, identity, expression, at, sequence in rows
        )
    )


async def read_sequences(
    conn: AsyncConnection, site: SiteName, schema: Schema, filled: Mapping[TableName, Sequence[Generator]]
) -> tuple[SiteSequence, ...]:
    """These sequences, each with the columns it fills. ``outside``: every table that it fills besides.

    Raises DomicileError (right-missing) where the role may not read one."""
    if not filled:
        return ()
    facts = await (await conn.execute(_SEQUENCES, _parted(filled))).fetchall()
    hidden = [str(TableName(f[0], f[1])) for f in facts if not f[11]]
    if hidden:
        raise DomicileError(
            ErrorCode.RIGHT_MISSING,
            f"the role may not read sequences at {site}: {', '.join(hidden)}",
            facts={"site": site, "sequences": hidden},
            hint=f"As their owner at {site}: grant select on the sequences (and usage on their schemas) to the role.",
        )
    last = await _last(conn, [TableName(f[0], f[1]) for f in facts])
    found = []
    for number, row in enumerate(facts):
        name = TableName(row[0], row[1])
        columns = filled[name]
        tables = {c.table for c in columns}
        type_name, increment, lowest, highest, start, cache, cycle, owner, owned = row[2:11]
        value, called = last[number]
        sequence = SiteSequence(
            site=site,
            name=name,
            columns=tuple(dict.fromkeys(c.key for c in columns)),
            type_name=type_name,
            increment=increment,
            lowest=lowest,
            highest=highest,
            start=start,
            last=value,
            called=called,
            cache=cache,
            cycle=cycle,
            owner=owner,
            owned=owned,
            column_highest=min(_holds(schema, c) for c in columns),
            plain=all(c.plain for c in columns),
            outside=tuple(sorted(str(t) for t in {TableName(*names) for names in row[12]} - tables)),
        )
        found.append(sequence)
    return tuple(found)


async def paces(
    conn: AsyncConnection, site: SiteName, schema: Schema, asked: Sequence[Iterable[TableName]]
) -> list[float | None]:
    """For each group of tables the rows that they take in a second, by the server's statistics; None where nobody
    knows since when these count. One round trip."""
    statements = []
    for tables in asked:
        names = [part for t in sorted(tables) for part in (schema.tables[t].partitions or (t,))]
        schemas, tables_ = _parted(names)
        values = {
            "schemas": sql.Literal(schemas),
            "names": sql.Literal(tables_),
            "least": sql.Literal(PACE_SECONDS_MIN),
        }
        statements.append(("statistics", sql.SQL(_PACE).format(**values)))
    rows = await pipelined(conn, site, statements)
    return [float(found[0][0]) if found and found[0][0] else None for found in rows]


async def used(
    conn: AsyncConnection, site: SiteName, asked: Sequence[tuple[Sequence[Generator], Window]]
) -> list[tuple[int, int] | None]:
    """For each question the lowest and the highest value that rows hold in any of the columns within the window; None
    without any. One round trip."""
    statements = []
    for columns, window in asked:
        parts = [_used(c, window) for c in columns] if window.low <= window.high else []
        query = sql.SQL(" union all ").join(parts) if parts else sql.SQL(_NOTHING)
        what = f"values of {', '.join(c.key for c in columns)}"
        statements.append((what, sql.SQL("select min(low), max(high) from ({}) as found").format(query)))
    rows = await pipelined(conn, site, statements)
    return [None if found[0][0] is None else (int(found[0][0]), int(found[0][1])) for found in rows]


def _used(generator: Generator, window: Window) -> sql.Composed:
    column = sql.Identifier(generator.column)
    low: sql.Composable = sql.Literal(window.low)
    high: sql.Composable = sql.Literal(window.high)
    if (own := window.beyond) is not None:
        following = sql.SQL(_NEXT).format(sequence=ident(own.name), increment=sql.Literal(own.increment))
        if own.sign > 0:
            low = sql.SQL("greatest({}, {})").format(low, following)
        else:
            high = sql.SQL("least({}, {})").format(high, following)
    step = sql.SQL(_RESIDUE).format(column=column, base=sql.Literal(window.base), step=sql.Literal(window.step))
    return sql.SQL(_USED).format(
        column=column,
        table=ident(generator.table),
        low=low,
        high=high,
        step=step if window.step > 1 else sql.SQL(""),
    )


async def _last(conn: AsyncConnection, names: Sequence[TableName]) -> list[tuple[int, bool]]:
    parts = [sql.SQL(_LAST).format(number=sql.Literal(n), sequence=ident(name)) for n, name in enumerate(names)]
    rows = await (await conn.execute(sql.SQL(" union all ").join(parts))).fetchall()
    return [(value, called) for _, value, called in sorted(rows)]


def _holds(schema: Schema, generator: Generator) -> int:
    base = schema.tables[generator.table].column(generator.column).base_type
    return _HOLDS.get(base, _HOLDS["int8"]) if generator.plain else _HOLDS["int8"]


def _parted(names: Iterable[TableName]) -> tuple[list[str], list[str]]:
    listed = list(names)
    return [n.schema for n in listed], [n.name for n in listed]
