"""What a change stream needs of a database: read before anything is made, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import AsyncConnection

from domicile.model.schema import TableName
from domicile.postgres.site_probe import OPERATOR, Lack, Weight

GENERATED_CHECKED_SINCE = 180_000

# Each table or, where it is partitioned, each of its leaves: there the rows are, and their identity counts. The index
# of a primary key serves only when it is valid and not deferrable.
_LEAVES = """
select w.schema, w.name, l.nspname, l.relname, l.relkind, l.relpersistence, l.relreplident,
       exists (select from pg_catalog.pg_index as i where i.indrelid = l.oid and i.indisvalid and i.indimmediate
               and case l.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end),
       exists (select from pg_catalog.pg_attribute as a where a.attrelid = l.oid and a.attgenerated <> ''
               and not a.attisdropped and (l.relreplident = 'f' or exists (
                   select from pg_catalog.pg_index as i where i.indrelid = l.oid and a.attnum = any(i.indkey)
                   and case l.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end)))
from rows from (pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(names)s::text[])) as w (schema, name)
left join pg_catalog.pg_namespace as n on n.nspname = w.schema
left join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = w.name
left join lateral (
    select x.oid, m.nspname, x.relname, x.relkind, x.relpersistence, x.relreplident
    from (select c.oid union select t.relid::oid from pg_catalog.pg_partition_tree(c.oid) as t) as tree
    join pg_catalog.pg_class as x on x.oid = tree.oid join pg_catalog.pg_namespace as m on m.oid = x.relnamespace
    where x.relkind <> 'p') as l on true
where c.oid is null or l.oid is not null
order by w.schema, w.name, l.nspname, l.relname"""

_SETTINGS = """
select current_setting('wal_level'), pg_catalog.pg_is_in_recovery(),
       current_setting('max_replication_slots')::int, (select count(*)::int from pg_catalog.pg_replication_slots),
       current_setting('max_wal_senders')::int, (select count(*)::int from pg_catalog.pg_stat_get_wal_senders()),
       (select r.rolsuper or r.rolreplication from pg_catalog.pg_roles as r where r.rolname = current_user),
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
       '*' = any(pg_catalog.regexp_split_to_array(current_setting('synchronous_standby_names'), '[\\s(),]+')),
       (select s.setting::bigint from pg_catalog.pg_settings as s where s.name = 'max_slot_wal_keep_size'),
       coalesce((select s.setting::bigint from pg_catalog.pg_settings as s
                 where s.name = 'idle_replication_slot_timeout'), 0),
       case when current_setting('synchronous_standby_names') = '' then
           (select count(*)::int from pg_catalog.pg_stat_get_wal_senders() as w where not exists (
               select from pg_catalog.pg_replication_slots as s where s.active_pid = w.pid and s.slot_type = 'logical'))
       else 0 end"""


async def unfit(conn: AsyncConnection[Any], tables: Sequence[TableName]) -> list[tuple[TableName, str]]:
    """The tables that must not be published, each with the reason, which says how to mend it; empty when all may be.

    To publish such a table would be to break it: PostgreSQL refuses each UPDATE and DELETE, the application's own, of a
    published table whose old row the stream cannot name.
    """
    names = sorted(set(tables))
    cursor = await conn.execute(_LEAVES, {"schemas": [t.schema for t in names], "names": [t.name for t in names]})
    found: list[tuple[TableName, str]] = []
    for schema, name, leaf_schema, leaf_name, *facts in await cursor.fetchall():
        if leaf_name is None:
            found.append((TableName(schema, name), "the table is not there"))
        elif reason := _reason(*facts, version=conn.info.server_version):
            leaf = TableName(leaf_schema, leaf_name)
            found.append((TableName(schema, name), reason.replace("...", str(leaf))))
    return found


async def shortcomings(conn: AsyncConnection[Any]) -> list[Lack]:
    """What the server and the role lack for one more slot and one more reader of it, in this database."""
    row = await (await conn.execute(_SETTINGS)).fetchone()
    assert row is not None
    return list(_lacks(*row))


def _reason(kind: str, persistence: str, identity: str, indexed: bool, generated: bool, *, version: int) -> str:
    if kind != "r":
        return "... is no table of this server's own: its changes are not in the log"
    if persistence != "p":
        return "... is unlogged or temporary: its changes are not in the log"
    if identity != "f" and not indexed:
        return (
            "... has no usable replica identity: alter table ... add a primary key that is not deferrable, or"
            " replica identity using a unique index of columns that are not null, or replica identity full"
        )
    if generated and version >= GENERATED_CHECKED_SINCE:
        return (
            "... has a generated column in its replica identity: alter table ... replica identity using another index"
        )
    return ""


def _lacks(
    level: str, standby: bool, slots_max: int, slots: int, senders_max: int, senders: int, *more: Any
) -> Iterator[Lack]:
    replication, create, synchronous, keep_mb, idle_s, asynchronous = more
    if standby:
        yield Lack("the server is a standby: the stream is read at the primary", Weight.BLOCKS, "", OPERATOR)
    if level != "logical":
        mend = "alter system set wal_level = 'logical'; -- then restart the server"
        yield Lack(f"wal_level is {level}: no change stream", Weight.BLOCKS, mend)
    if slots >= slots_max:
        mend = "-- raise max_replication_slots and restart, or drop a slot that nobody needs"
        yield Lack(f"all {slots_max} replication slots are taken", Weight.BLOCKS, mend)
    if senders >= senders_max:
        mend = "-- raise max_wal_senders and restart"
        yield Lack(f"all {senders_max} walsenders are taken", Weight.BLOCKS, mend)
    if not replication:
        yield Lack("the role has no replication right: no change stream", Weight.BLOCKS, "alter role ... replication;")
    if not create:
        mend = "grant create on database ... to ...;"
        yield Lack("the role may not create a publication", Weight.BLOCKS, mend, "the database's owner")
    if synchronous:
        mend = "-- name the standbys in synchronous_standby_names"
        what = "synchronous_standby_names has '*': commits would wait for the change stream too"
        yield Lack(what, Weight.BLOCKS, mend)
    if asynchronous:
        what = f"{asynchronous} standbys follow and none is synchronous: one that is promoted may have lost a departure"
        mend = "-- name the standbys in synchronous_standby_names: see docs/how-to/fail-over.md"
        yield Lack(what, Weight.WARNS, mend)
    if keep_mb >= 0:
        what = f"max_slot_wal_keep_size is {keep_mb} MB: a stream that falls behind by more is lost"
        yield Lack(what, Weight.WARNS, "-- raise it for the time of the move")
    if idle_s > 0:
        what = f"idle_replication_slot_timeout is {idle_s} s: a move that pauses for longer loses its stream"
        yield Lack(what, Weight.WARNS, "-- set it to 0 for the time of the move")
