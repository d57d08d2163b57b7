"""What planning knows of the two sites, gathered once; the checks judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from domicile.model.plan import WavePlan
from domicile.model.schema import Schema, TableName
from domicile.model.site import SiteName
from domicile.planner.request import PlanRequest
from domicile.planner.weigh import TableWeight
from domicile.postgres.site_probe import Rights, Server, SiteReport

_DATABASE = """
    select
        (select count(*) from pg_prepared_xacts where database = current_database()),
        concat_ws('/', pg_postmaster_start_time(), inet_server_port(),
            (select oid from pg_database where datname = current_database())),
        current_database()"""
_TABLES = """
    select n.nspname, c.relname, pg_has_role(c.relowner, 'usage'), pg_get_userbyid(c.relowner),
        has_table_privilege(c.oid, 'select'), row_security_active(c.oid)
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where (n.nspname, c.relname) in (select * from unnest(%s::text[], %s::text[]))
    order by n.nspname, c.relname"""
_SEQUENCES = """
    select s.seqcache from pg_sequence as s
        join pg_class as c on c.oid = s.seqrelid join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %s and c.relname = %s"""
_PARTITION_BOUNDS = """
    select pg_get_expr(c.relpartbound, c.oid)
    from pg_class as t join pg_namespace as n on n.oid = t.relnamespace
        cross join lateral pg_partition_tree(t.oid) as p
        join pg_class as c on c.oid = p.relid and c.relispartition
    where n.nspname = %s and t.relname = %s"""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """One site as the mover's role sees it."""

    site: SiteName
    server: Server
    rights: Rights
    database: str
    identity: str  # equal for two conninfos exactly when they lead to the same database
    prepared_transactions: int
    not_owned: tuple[TableName, ...]
    owners: tuple[str, ...]  # the roles that own those
    not_readable: tuple[TableName, ...]
    row_security: tuple[TableName, ...]  # tables whose policies would filter the mover


@dataclass(frozen=True, slots=True)
class Preflight:
    """Everything a check may look at. ``source`` is inside the plan's snapshot and holds the cohort's
    table.
    """

    request: PlanRequest
    source: AsyncConnection
    target: AsyncConnection
    source_schema: Schema
    target_schema: Schema
    source_facts: SiteFacts
    target_facts: SiteFacts
    subjects: int
    weights: tuple[TableWeight, ...]
    waves: tuple[WavePlan, ...]

    @property
    def in_scope(self) -> tuple[TableName, ...]:
        return self.request.data_map.in_scope()

    @property
    def written(self) -> tuple[TableName, ...]:
        """Tables in which a move writes rows; without copied ones that the source has not."""
        return tuple(t for t in self.request.data_map.written() if t in self.source_schema.tables)

    @property
    def at_both(self) -> tuple[TableName, ...]:
        """In-scope tables that exist at both sites: what can be compared at all."""
        return tuple(t for t in self.in_scope if t in self.target_schema.tables)

    @property
    def written_at_both(self) -> tuple[TableName, ...]:
        """The same of all tables in which a move writes."""
        return tuple(t for t in self.written if t in self.target_schema.tables)


async def read_site(conn: AsyncConnection, report: SiteReport, tables: Sequence[TableName]) -> SiteFacts:
    """Add to a site's probe what concerns these tables. Needs no right but to connect; changes nothing."""
    assert report.server is not None
    assert report.rights is not None
    row = await (await conn.execute(_DATABASE)).fetchone()
    assert row is not None
    prepared, identity, database = row
    names = ([t.schema for t in tables], [t.name for t in tables])
    found = await (await conn.execute(_TABLES, names)).fetchall()
    rights = [(TableName(schema, name), *facts) for schema, name, *facts in found]
    return SiteFacts(
        site=report.site,
        server=report.server,
        rights=report.rights,
        database=database,
        identity=identity,
        prepared_transactions=prepared,
        not_owned=tuple(t for t, owned, _, _, _ in rights if not owned),
        owners=tuple(sorted({owner for _, owned, owner, _, _ in rights if not owned})),
        not_readable=tuple(t for t, _, _, readable, _ in rights if not readable),
        row_security=tuple(t for t, _, _, _, filtered in rights if filtered),
    )


async def sequence_cache(conn: AsyncConnection, sequence: TableName) -> int:
    """How many values a session takes of the sequence at once; 1 when it is not there."""
    row = await (await conn.execute(_SEQUENCES, (sequence.schema, sequence.name))).fetchone()
    return int(row[0]) if row else 1


async def partition_bounds(conn: AsyncConnection, tables: Sequence[TableName]) -> Mapping[TableName, frozenset[str]]:
    """The bounds of every partition of each table, as PostgreSQL writes them."""
    found = {}
    for table in tables:
        rows = await (await conn.execute(_PARTITION_BOUNDS, (table.schema, table.name))).fetchall()
        found[table] = frozenset(bound for (bound,) in rows)
    return found
