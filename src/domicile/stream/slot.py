"""The publication and the logical slot of one move at one site: made before the first wave, dropped with the last.

Both bear one name, made from the move and the database, and are never changed in between: what a publication names is
read anew for each transaction that is decoded, so a change under open writers would cut their transactions in two.
Every function here is idempotent and takes a connection in autocommit to the database whose changes are to be read.
What makes or drops something asks for the move's lease first, in the transaction that does it.

The publication also says at which server and on which timeline the slot was made. A slot that is found elsewhere, after
the promotion of a standby that had been given it, is as good as lost: what the stream has read may not have happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
import hashlib
import re
import time
from typing import Any

from psycopg import AsyncConnection, errors, sql

from domicile.model.schema import TableName
from domicile.postgres import failures
from domicile.postgres.drain import Blocker, holders
from domicile.postgres.guard_sql import relations
from domicile.postgres.ownership import ident
from domicile.stream.slot_trouble import blocked, held, mismatch

Connection = AsyncConnection[Any]
Asserted = Callable[[], Awaitable[None]]  # raises lease-lost; in a transaction it holds the lease until that ends

PLUGIN = "pgoutput"
POLL_SECONDS = 0.02
FREE_SECONDS_MAX = 5.0  # for a walsender whose client is gone to notice it; then it is ended
_NAME_MAX = 63
_SIDE = "origin"
# What CREATE PUBLICATION must wait for on a table; it takes ShareUpdateExclusiveLock, which stops no reader or writer.
_IN_THE_WAY = (
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)

_LIMIT = "select pg_catalog.set_config('statement_timeout', %s, true), pg_catalog.set_config('lock_timeout', %s, true)"
_PUBLISHED = """
select n.nspname, c.relname from pg_catalog.pg_publication as p
left join pg_catalog.pg_publication_rel as r on r.prpubid = p.oid
left join pg_catalog.pg_class as c on c.oid = r.prrelid
left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where p.pubname = %s"""
_SEAL = """
select pg_catalog.md5(p.oid || ':' || p.xmin || ':'
                      || pg_catalog.string_agg(r.oid || ':' || r.xmin, ',' order by r.oid))
from pg_catalog.pg_publication as p join pg_catalog.pg_publication_rel as r on r.prpubid = p.oid
where p.pubname = %s group by p.oid, p.xmin"""
_CREATE_PUBLICATION = """
create publication {name} for table {tables}
with (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"""
_DROP_PUBLICATION = sql.SQL("drop publication if exists {}")
_CREATE_SLOT = "select pg_catalog.pg_create_logical_replication_slot(%s, %s)"
_DROP_SLOT = "select pg_catalog.pg_drop_replication_slot(%s)"
# The server and its timeline: it has none of its own while it is a standby.
_HERE = """
(select c.system_identifier || '/' || ('x' || pg_catalog.substr(
            pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int
 from pg_catalog.pg_control_system() as c)"""
_ELSEWHERE = """
select case when not pg_catalog.pg_is_in_recovery()
       then pg_catalog.split_part(pg_catalog.obj_description(p.oid, 'pg_publication'), ' ', 1) <> {here} end
from pg_catalog.pg_publication as p where p.pubname = {name}"""
_NOTE_SERVER = "comment on publication {} is {}"
_SEEN = " begun"  # behind the server's name once every snapshot sees what the slot passes by
_UNSEEN = """
select pg_catalog.obj_description(p.oid, 'pg_publication') not like '%%' || %s
from pg_catalog.pg_publication as p where p.pubname = %s"""
_NEXT_XID = "select pg_catalog.pg_current_xact_id()::text"  # a snapshot's xmax may be one that is not visible yet
_ALL_SEEN = "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= %s::text::xid8"
# Some columns came with 16 and 17: as json a missing one is null. A slot that is still being made has no position yet.
_INSPECT = """
select s.active_pid, (s.confirmed_flush_lsn - '0/0')::bigint,
       coalesce(s.wal_status = 'lost', false) or j ->> 'invalidation_reason' is not null
           or coalesce((j ->> 'conflicting')::boolean, false),
       coalesce(j ->> 'invalidation_reason', s.wal_status, ''),
       coalesce(case when not pg_catalog.pg_is_in_recovery()
           then pg_catalog.pg_current_wal_lsn() - s.restart_lsn end, 0)::bigint
from pg_catalog.pg_replication_slots as s, pg_catalog.to_jsonb(s) as j
where s.slot_name = %s"""
_LOG_END = "select (pg_catalog.pg_current_wal_flush_lsn() - '0/0')::bigint"
_END_HOLDER = """
select pg_catalog.pg_terminate_backend(active_pid) from pg_catalog.pg_replication_slots
where slot_name = %s and active_pid is not null"""
# A slot begins once every transaction of the whole server that had an id has ended.
_RUNNING = """
select l.virtualtransaction, l.pid, max(a.application_name),
       max(extract(epoch from pg_catalog.clock_timestamp() - coalesce(a.xact_start, p.prepared)))::float8
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
left join pg_catalog.pg_prepared_xacts as p on p.transaction = l.transactionid
where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
  and l.pid is distinct from pg_catalog.pg_backend_pid()
group by l.virtualtransaction, l.pid
order by 4 desc nulls first"""


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """A slot as the server has it. Positions are in the log's bytes. ``lost``: the log it needs is gone, for the
    ``reason`` that the server names, or it is the log of another timeline."""

    active_pid: int | None
    confirmed: int
    lost: bool
    reason: str
    wal_bytes_kept: int


def stream_name(move_id: str, database: str) -> str:
    """The name of the publication and of the slot: a server's slots share one list, and both sites of a move may be
    databases of one server. The digest keeps names apart that are equal once cut or cleaned."""
    digest = hashlib.sha256(f"{move_id}\0{database}".encode()).hexdigest()[:10]
    plain = re.sub(r"[^a-z0-9]+", "_", move_id.lower()).strip("_")
    return f"domicile_{plain[: _NAME_MAX - len('domicile__') - len(digest)]}_{digest}"


async def nobody_asked() -> None:
    """For who has no lease to lose."""


async def create(
    conn: Connection,
    move_id: str,
    tables: Sequence[TableName],
    *,
    seconds_max: float,
    lease: Asserted = nobody_asked,
) -> None:
    """Make the publication over the tables and then the slot. What is there already is kept.

    Raises stream-blocked after ``seconds_max`` with the transactions in the way, leaving nothing behind; right-missing;
    schema-changed when the slot reads another set of tables; stream-lost when there is a slot without its publication;
    lease-lost.
    Ask `fitness.unfit` before: publishing a table without a replica identity makes the application's own updates fail.
    """
    assert conn.autocommit, "a slot cannot be made in a transaction that may have written"
    name = stream_name(move_id, conn.info.dbname)
    deadline = time.monotonic() + seconds_max
    with failures.told(_SIDE, "making the change stream"):
        await _publish(conn, name, tables, seconds_max, lease)
        try:
            await _begin(conn, move_id, deadline, lease)
        except BaseException:
            if not conn.broken and await inspect(conn, move_id) is None:
                async with conn.transaction():
                    await lease()
                    await conn.execute(_DROP_PUBLICATION.format(sql.Identifier(name)))
            raise


async def drop(
    conn: Connection, move_id: str, *, seconds_max: float = FREE_SECONDS_MAX, lease: Asserted = nobody_asked
) -> None:
    """Drop slot and publication, whatever of them is there. A reader that still holds the slot is given ``seconds_max``
    and then ended. Raises stream-blocked when it does not go, and lease-lost: then the slot may be another process's,
    and neither it nor its reader is touched."""
    name = stream_name(move_id, conn.info.dbname)
    deadline = time.monotonic() + 2 * seconds_max
    with failures.told(_SIDE, "dropping the change stream"):
        # The slot first: a stream whose publication is missing fails or, since 18, silently carries nothing.
        while await wait_free(conn, move_id, seconds_max=seconds_max, lease=lease) is not None:
            try:
                await _drop_slot(conn, name, lease)
            except errors.UndefinedObject:
                break
            except errors.ObjectInUse:  # somebody took it in between
                if time.monotonic() > deadline:
                    raise held(name, None, seconds_max) from None
        async with conn.transaction():
            await lease()
            await conn.execute(_DROP_PUBLICATION.format(sql.Identifier(name)))


async def inspect(conn: Connection, move_id: str) -> SlotFacts | None:
    """The move's slot in this database, None where there is none or it is only being made."""
    facts = await facts_of(conn, stream_name(move_id, conn.info.dbname))
    return facts if facts is not None and (facts.confirmed or facts.lost) else None


async def facts_of(conn: Connection, slot: str) -> SlotFacts | None:
    """A slot by its name; one that is still being made has position 0."""
    with failures.told(_SIDE, "looking at the slot"):
        row = await (await conn.execute(_INSPECT, (slot,))).fetchone()
        if row is None:
            return None
        facts = SlotFacts(row[0], row[1] or 0, *row[2:])
        if not facts.lost and await _elsewhere(conn, slot):
            return replace(facts, lost=True, reason="the server was replaced by a standby")
    return facts


async def replaced(conn: Connection, move_id: str) -> bool:
    """True when the publication was made at another server, or on another timeline: a standby was promoted since, and
    whether the slot came along or not, the stream is lost."""
    with failures.told(_SIDE, "looking at the publication"):
        return await _elsewhere(conn, stream_name(move_id, conn.info.dbname))


async def log_end(conn: Connection) -> int:
    """Up to where the server's log is safe on its disk, in bytes. What it told anybody lies before."""
    with failures.told(_SIDE, "reading the end of the log"):
        row = await (await conn.execute(_LOG_END)).fetchone()
    assert row is not None
    return int(row[0])


async def wait_free(
    conn: Connection, move_id: str, *, seconds_max: float = FREE_SECONDS_MAX, lease: Asserted = nobody_asked
) -> SlotFacts | None:
    """Wait until nobody reads from the slot; after ``seconds_max`` end the session that does, which is ours and dead.
    Returns the slot, None where there is none. Raises stream-blocked when the session stays all the same."""
    name = stream_name(move_id, conn.info.dbname)
    started = time.monotonic()
    ended = False
    while (facts := await facts_of(conn, name)) is not None and facts.active_pid is not None:
        waited = time.monotonic() - started
        if waited > seconds_max and not ended:
            with failures.told(_SIDE, "ending the session that holds the slot"):
                async with conn.transaction():
                    await lease()
                    await conn.execute(_END_HOLDER, (name,))
            ended = True
        if waited > seconds_max + FREE_SECONDS_MAX:
            raise held(name, facts.active_pid, waited)
        await asyncio.sleep(POLL_SECONDS)
    return facts


async def seal(conn: Connection, move_id: str) -> str:
    """Changes when anybody altered the publication since, empty when it is gone.

    The server tells a reader nothing when a table leaves the publication, and since 18 nothing when all of it is
    dropped: changes would be missing silently. Take it after `create`, compare it before a handover.
    """
    with failures.told(_SIDE, "looking at the publication"):
        row = await (await conn.execute(_SEAL, (stream_name(move_id, conn.info.dbname),))).fetchone()
    return "" if row is None else str(row[0])


async def site_identity(conn: Connection) -> str:
    """Server and timeline: another one after a failover, when slot and positions mean nothing any more."""
    with failures.told(_SIDE, "reading the server's identity"):
        row = await (await conn.execute(sql.SQL("select {}").format(sql.SQL(_HERE)))).fetchone()
    assert row is not None
    return str(row[0])


async def _elsewhere(conn: Connection, name: str) -> bool:
    """False where the publication says nothing, and where there is none."""
    query = sql.SQL(_ELSEWHERE).format(here=sql.SQL(_HERE), name=sql.Literal(name))
    row = await (await conn.execute(query)).fetchone()
    return bool(row and row[0])


async def _publish(
    conn: Connection, name: str, tables: Sequence[TableName], seconds_max: float, lease: Asserted
) -> None:
    found = await (await conn.execute(_PUBLISHED, (name,))).fetchall()
    facts = await facts_of(conn, name)
    made = facts is not None and bool(facts.confirmed)
    here = sql.SQL(_NOTE_SERVER).format(sql.Identifier(name), sql.Literal(await site_identity(conn)))
    if found and {TableName(*row) for row in found if row[1] is not None} == set(tables):
        if not made:  # the publication came along with a standby, or its maker died: the slot will be made here
            async with conn.transaction():
                await lease()
                await conn.execute(here)
        return
    if made:
        raise mismatch(name, missing=not found)
    listed = sql.SQL(", ").join(sql.SQL("only {}").format(ident(t)) for t in sorted(set(tables)))
    started = time.monotonic()
    try:
        async with conn.transaction():
            await _limit(conn, seconds_max)
            await lease()
            await conn.execute(_DROP_PUBLICATION.format(sql.Identifier(name)))
            await conn.execute(sql.SQL(_CREATE_PUBLICATION).format(name=sql.Identifier(name), tables=listed))
            await conn.execute(here)
    except (errors.QueryCanceled, errors.LockNotAvailable):
        waiting = await holders(conn, await relations(conn, tables), _IN_THE_WAY)
        raise blocked("the tables cannot be published", waiting, time.monotonic() - started) from None


async def _begin(conn: Connection, move_id: str, deadline: float, lease: Asserted) -> None:
    """The slot, after the publication is committed.

    The order matters. A slot waits until every transaction that runs when it begins has ended, so each transaction it
    ever delivers began after the publication was there, and all of its changes are published; each one that is older
    has ended before the first wave's snapshot is taken, and is in the copy. The other way round a writer between the
    two would be delivered without the changes it made before the publication, and be in neither.

    A commit can stand in the log before the slot's beginning and not be visible for a while (it waits for a standby).
    The slot passes it by, so no snapshot of a wave is taken before everybody sees it (`_until_seen`). A slot whose
    maker died before that is made anew; nobody has read from it.

    The lease is asked for before: a slot cannot be made in the transaction that holds it. One that is made all the same
    by a process that was taken over in between bears the move's name, and is dropped with it.
    """
    name = stream_name(move_id, conn.info.dbname)
    while (facts := await facts_of(conn, name)) is not None:
        if facts.lost or (facts.confirmed and not await _unseen(conn, name)):
            return
        if facts.confirmed:
            await wait_free(conn, move_id, lease=lease)
            await _drop_slot(conn, name, lease)
            continue
        # A mover that died left its session behind, still making the slot. Such a slot goes when its maker does.
        left = max(0.0, min(FREE_SECONDS_MAX, deadline - time.monotonic()))
        await wait_free(conn, move_id, seconds_max=left, lease=lease)
    async with conn.transaction():
        await lease()
    started = time.monotonic()
    try:
        async with conn.transaction():
            await _limit(conn, max(0.01, deadline - started))
            await conn.execute(_CREATE_SLOT, (name, PLUGIN))
    except (errors.QueryCanceled, errors.LockNotAvailable):  # the server has removed the unfinished slot
        running = await (await conn.execute(_RUNNING)).fetchall()
        waited = time.monotonic() - started
        old = [Blocker(t, pid, a or "", age) for t, pid, a, age in running if age is None or age >= waited]
        raise blocked("the change stream cannot begin", old, waited) from None
    await _until_seen(conn, name, deadline, lease)


async def _until_seen(conn: Connection, name: str, deadline: float, lease: Asserted) -> None:
    """Wait until every transaction that ran when the slot was made has ended, for everybody to see; then note it.
    Raises stream-blocked, without the slot."""
    started = time.monotonic()
    row = await (await conn.execute(_NEXT_XID)).fetchone()
    assert row is not None
    while not (seen := await (await conn.execute(_ALL_SEEN, row)).fetchone()) or not seen[0]:
        if time.monotonic() > deadline:
            running = await (await conn.execute(_RUNNING)).fetchall()
            await _drop_slot(conn, name, lease)
            blockers = [Blocker(t, pid, a or "", age) for t, pid, a, age in running]
            raise blocked("the change stream cannot begin", blockers, time.monotonic() - started)
        await asyncio.sleep(POLL_SECONDS)
    noted = sql.SQL(_NOTE_SERVER).format(sql.Identifier(name), sql.Literal(await site_identity(conn) + _SEEN))
    async with conn.transaction():
        await lease()
        await conn.execute(noted)


async def _unseen(conn: Connection, name: str) -> bool:
    """The slot's maker died before every snapshot saw what it passes by."""
    row = await (await conn.execute(_UNSEEN, (_SEEN, name))).fetchone()
    return bool(row and row[0])


async def _drop_slot(conn: Connection, name: str, lease: Asserted) -> None:
    async with conn.transaction():
        await lease()
        await conn.execute(_DROP_SLOT, (name,))


async def _limit(conn: Connection, seconds: float) -> None:
    limit = f"{max(1, round(seconds * 1000))}ms"
    await conn.execute(_LIMIT, (limit, limit))
