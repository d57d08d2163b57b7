"""The guard: row triggers that refuse writes for a subject whose home is not here, in every isolation level.

Installed disabled, so that a move costs nothing until a wave nears its fence; *armed* for the time one needs it.
Sessions of the mover have ``session_replication_role = replica``, in which these triggers rest. What the triggers do is
in ``sql/guard.sql``.

What no trigger can see, and a preflight check must: writers in the replica role themselves (a logical subscription into
these tables), and DDL (DETACH or DROP of a partition).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
import time

from psycopg import DatabaseError, DataError, ProgrammingError, errors, sql
from psycopg.pq import TransactionStatus

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Schema, TableName
from domicile.model.site import SiteName
from domicile.postgres import drain as drains
from domicile.postgres import guard_filter
from domicile.postgres.drain import (
    WRITE_MODES,
    Blocker,
    DrainReport,
    blockers,
    holders,
    over_budget,
)
from domicile.postgres.guard_sql import (
    STATEMENTS,
    TRIGGER,
    TRUNCATE_TRIGGER,
    Connection,
    GuardSql,
    Relation,
    function_name,
    member_collation,
    relations,
)
from domicile.postgres.ownership import ident

__all__ = [
    "Blocker",
    "DrainReport",
    "arm",
    "blockers",
    "disarm",
    "drain",
    "install",
    "remove",
    "set_fence",
    "with_lock",
]

LOCK_TIMEOUT_MS = 100  # how long a try may make other writers queue
SECONDS_MAX = 30.0  # for all tries together, where the caller has no budget of its own
PAUSE_SECONDS_MIN = 0.05  # between tries, doubled each time
PAUSE_SECONDS_MAX = 1.0
NEEDED = "DM003"  # raised by sql/guard.sql, seen by nobody else
# Whatever stands in the way of ALTER TABLE ... ENABLE TRIGGER (SHARE ROW EXCLUSIVE).
_IN_THE_WAY = (*WRITE_MODES, "ShareUpdateExclusiveLock", "ShareLock")

_INSTALL_LOCK = "select pg_catalog.pg_advisory_xact_lock(7237123425614523493)"
_REGISTER = """
    insert into domicile.guarded (relation, table_name, joins) values (%s, %s, %s)
    on conflict (relation) do update set table_name = excluded.table_name, joins = excluded.joins"""
_FENCE = "update domicile.wave set mark = %s, home = %s, epoch = %s where id = %s"
# Autovacuum is asked to give way only when the deadlock check runs, after 1 s by default.
_LIMITS = """
    select pg_catalog.set_config('lock_timeout', {lock}, true);
    select pg_catalog.set_config('deadlock_timeout', {deadlock}, true)
    where pg_catalog.has_parameter_privilege('deadlock_timeout', 'set')"""


async def install(
    conn: Connection, data_map: DataMap, schema: Schema, *, here: SiteName, seconds_max: float = SECONDS_MAX
) -> None:
    """Give every in-scope table its trigger function and its triggers, disabled. Needs the site schema.

    Idempotent: functions are brought up to date, triggers that are there stay as they are, armed or not. Raises
    fence-budget when somebody holds a table too long, right-missing when the role owns a table not, and setting-wrong
    when a trigger of the application's runs after the guard.
    """
    writer = GuardSql(data_map, schema, await member_collation(conn))
    found = await relations(conn, data_map.in_scope())
    await _refuse_later_triggers(conn, found)
    roots = {r.oid: r for r in found if r.oid == r.root}
    async with conn.transaction():
        await conn.execute(_INSTALL_LOCK)
        await conn.execute(writer.functions())
        if (new_filter := writer.filter()) is not None:
            await conn.execute(new_filter)
        for root in roots.values():
            comment = f"Refuses writes to {root.name} at {here} for subjects whose home is elsewhere. Made by domicile."
            await _try_lookup(conn, writer, root.name)
            await conn.execute(writer.trigger_function(root.name, root.oid, comment))
            await conn.execute(_REGISTER, (root.oid, str(root.name), writer.joins(root.name)))
    for relation in found:
        statements = _creation(relation, writer.timing(roots[relation.root].name))
        if statements:
            await with_lock(conn, relation, statements, LOCK_TIMEOUT_MS, time.monotonic() + seconds_max)


async def arm(
    conn: Connection,
    tables: Iterable[TableName],
    *,
    wave_id: int | None = None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    seconds_max: float = SECONDS_MAX,
) -> bool:
    """Enable the guard's triggers on the tables and all their partitions, and let the filter know the members of
    ``wave_id``, which is to be fenced next. Idempotent; what is armed already takes no lock. True when something was
    changed: for a second or two then, every session plans its writes anew.

    One short transaction per relation. A try waits ``lock_timeout_ms`` at most, and is not made while a transaction
    older than that holds the table: other writers queue no longer than one try. Raises fence-budget with the blockers
    after ``seconds_max`` in all.
    """
    deadline = time.monotonic() + seconds_max
    found = await relations(conn, tables)
    changed = False
    if not all(relation.armed for relation in found):
        # Lookups planned when there were no members yet. Later ones are analyzed by whoever stores them.
        await conn.execute("analyze domicile.wave, domicile.member")
    for relation in found:
        if relation.oid == relation.root and TRIGGER not in relation.present:
            raise _not_installed(relation)
        # A partition made since the installation has the row trigger from its root, and no TRUNCATE trigger.
        if TRUNCATE_TRIGGER not in relation.present:
            await with_lock(conn, relation, [_create_truncate(relation)], lock_timeout_ms, deadline)
        off = {TRIGGER, TRUNCATE_TRIGGER} - relation.armed
        statements = [_switch(relation, "enable", trigger) for trigger in sorted(off)]
        if off:
            await with_lock(conn, relation, statements, lock_timeout_ms, deadline)
            changed = True
    return await guard_filter.refresh(conn, wave_id) or changed


async def disarm(
    conn: Connection,
    tables: Iterable[TableName],
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    seconds_max: float = SECONDS_MAX,
) -> None:
    """Disable the guard's triggers, as carefully as `arm` enables them. Idempotent; a table that is gone or has none is
    passed over. Where a wave needs the guard, of this move or another, it stays armed."""
    deadline = time.monotonic() + seconds_max
    for relation in await relations(conn, tables):
        statements = [_switch(relation, "disable", trigger) for trigger in sorted(relation.armed)]
        if not statements:
            continue
        statements.append(sql.SQL(STATEMENTS["refuse_disarm"]).format())
        try:
            await with_lock(conn, relation, statements, lock_timeout_ms, deadline)
        except DatabaseError as error:
            if error.sqlstate != NEEDED:
                raise
            return


async def remove(conn: Connection, tables: Iterable[TableName]) -> None:
    """Take the guard off the tables, functions included. Idempotent. Dropping a trigger takes ACCESS EXCLUSIVE,
    briefly."""
    found = await relations(conn, tables)
    deadline = time.monotonic() + SECONDS_MAX
    for relation in found:
        # The row triggers of partitions go with their root's.
        own = sorted(relation.present if relation.oid == relation.root else relation.present - {TRIGGER})
        statements: list[sql.Composed] = [
            sql.SQL("drop trigger if exists {} on {}").format(sql.Identifier(t), ident(relation.name)) for t in own
        ]
        if statements:
            await with_lock(conn, relation, statements, LOCK_TIMEOUT_MS, deadline)
    async with conn.transaction():
        await conn.execute(_INSTALL_LOCK)
        for (function,) in await (await conn.execute(STATEMENTS["leftovers"])).fetchall():
            await conn.execute(sql.SQL("drop function {}()").format(sql.Identifier("domicile", function)))
        await conn.execute(STATEMENTS["unregister"])


async def drain(conn: Connection, tables: Iterable[TableName], *, seconds_max: float) -> DrainReport:
    """Wait until every writer from before the mark has ended (see `postgres.drain`); then fit the filter to the wave.

    Blocks nobody; idempotent. Raises fence-budget with the blockers, or when another move disarmed the guard meanwhile;
    from now on none can, because the mark is there to see.
    """
    tables = tuple(tables)
    report = await drains.drain(conn, tables, seconds_max=seconds_max)
    disarmed = [r for r in await relations(conn, tables) if TRIGGER not in r.armed]
    if disarmed:
        raise _disarmed(disarmed[0])
    await guard_filter.refresh(conn)
    return report


async def set_fence(conn: Connection, wave_id: int, mark: str, home: str, epoch: int) -> None:
    """Write the wave's mark, home and epoch: from its commit on the guard answers so for all members. Idempotent.

    Its own transaction, or part of the caller's. Where the mark refuses writers, or lets them pass under the wave's
    lock (closing), ``domicile.fence_xid`` is set with it, by the trigger on ``domicile.wave``; fences of one database
    are written one after the other.
    """
    async with conn.transaction():
        cursor = await conn.execute(_FENCE, (mark, home, epoch, wave_id))
        assert cursor.rowcount == 1, f"wave {wave_id} is not registered here"


async def with_lock(
    conn: Connection, relation: Relation, statements: Sequence[sql.Composed], lock_timeout_ms: int, deadline: float
) -> None:
    """Run statements that lock one relation in a transaction of their own, trying until the deadline."""
    assert conn.info.transaction_status == TransactionStatus.IDLE, "a lock would be held until the caller's end"
    started = time.monotonic()
    patient_s = lock_timeout_ms / 1000
    pause = PAUSE_SECONDS_MIN
    while True:
        waiting_for = await holders(conn, [relation], _IN_THE_WAY)
        # Autovacuum gives way to a try; nobody else would within the time that others may be made to queue.
        hopeless = any(not b.autovacuum and (b.pid is None or (b.age_s or 0) > patient_s) for b in waiting_for)
        if not hopeless and await _try(conn, relation, statements, lock_timeout_ms):
            return
        if time.monotonic() + pause > deadline:
            waiting_for = await holders(conn, [relation], _IN_THE_WAY) or waiting_for
            raise over_budget(f"{relation.name} could not be locked", time.monotonic() - started, waiting_for)
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSE_SECONDS_MAX)


async def _try(conn: Connection, relation: Relation, statements: Sequence[sql.Composed], lock_timeout_ms: int) -> bool:
    limits = sql.SQL(_LIMITS).format(
        lock=sql.Literal(f"{lock_timeout_ms}ms"), deadlock=sql.Literal(f"{max(1, lock_timeout_ms // 2)}ms")
    )
    try:
        # One text is one transaction, and one round trip: others may be waiting behind the lock.
        await conn.execute(sql.SQL("; ").join((limits, *statements)))
    except (errors.LockNotAvailable, errors.DeadlockDetected):
        return False
    except errors.InsufficientPrivilege as error:
        raise DomicileError(
            ErrorCode.RIGHT_MISSING,
            f"the role may not change the triggers of {relation.name}: {error.diag.message_primary}",
            facts={"table": str(relation.name)},
            hint=f"alter table {relation.name} owner to ...; or make the mover's role a member of the owner's.",
        ) from error
    return True


def _creation(relation: Relation, timing: sql.SQL) -> list[sql.Composed]:
    """What is missing on a relation. Row triggers are made on roots, and PostgreSQL copies them to partitions;
    TRUNCATE's are not copied."""
    statements: list[sql.Composed] = []
    if relation.oid == relation.root and TRIGGER not in relation.present:
        statements.append(
            sql.SQL("create trigger {} {} insert or update or delete on {} for each row execute function {}()").format(
                sql.Identifier(TRIGGER), timing, ident(relation.name), function_name(relation.oid)
            )
        )
        statements.append(
            sql.SQL("alter table {} disable trigger {}").format(ident(relation.name), sql.Identifier(TRIGGER))
        )
    if TRUNCATE_TRIGGER not in relation.present:
        statements += [_create_truncate(relation), _switch(relation, "disable", TRUNCATE_TRIGGER)]
    return statements


def _create_truncate(relation: Relation) -> sql.Composed:
    return sql.SQL(
        "create trigger {} before truncate on {} for each statement execute function domicile.guard_truncate()"
    ).format(sql.Identifier(TRUNCATE_TRIGGER), ident(relation.name))


def _switch(relation: Relation, how: str, trigger: str) -> sql.Composed:
    """ONLY: each partition is switched by itself, so that no transaction holds the locks of all."""
    verb = sql.SQL("enable") if how == "enable" else sql.SQL("disable")
    return sql.SQL("alter table only {} {} trigger {}").format(ident(relation.name), verb, sql.Identifier(trigger))


async def _try_lookup(conn: Connection, writer: GuardSql, table: TableName) -> None:
    """PL/pgSQL looks at its statements when they run, which is in the application's transactions: too late."""
    try:
        async with conn.transaction():
            await conn.execute(writer.lookup(table))
    except errors.InsufficientPrivilege:
        raise
    except (ProgrammingError, DataError) as error:
        raise DomicileError(
            ErrorCode.MAP_INVALID,
            f"owners of {table} cannot be looked up: {error.diag.message_primary}",
            facts={"table": str(table), "sqlstate": error.sqlstate},
            hint="Correct the owner path of the table in the data map, then run: domicile map check",
        ) from error


async def _refuse_later_triggers(conn: Connection, found: Sequence[Relation]) -> None:
    cursor = await conn.execute(STATEMENTS["later_triggers"], {"relations": [r.oid for r in found]})
    later = [row[0] for row in await cursor.fetchall()]
    if later:
        raise DomicileError(
            ErrorCode.SETTING_WRONG,
            f"{len(later)} triggers run after the guard and could give a row another owner unseen",
            facts={"triggers": later},
            hint=f"Give each a name that sorts before {TRIGGER}: alter trigger ... on ... rename to ...;",
        )


def _disarmed(relation: Relation) -> DomicileError:
    return DomicileError(
        ErrorCode.FENCE_BUDGET,
        f"the guard of {relation.name} was disarmed while the fence closed, by another move that ended",
        facts={"table": str(relation.name)},
        safe="The wave is not fenced; the source serves.",
        hint="Go on with: domicile resume",
    )


def _not_installed(relation: Relation) -> DomicileError:
    return DomicileError(
        ErrorCode.SCHEMA_CHANGED,
        f"{relation.name} has no guard: its triggers were dropped, or the table was made anew",
        facts={"table": str(relation.name)},
        safe="The wave is not fenced; the source serves.",
        hint="Check the table, then go on with: domicile resume",
    )
