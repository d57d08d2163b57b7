"""One sequence given another range or another step: a transaction of one round trip, under the lock that nextval
respects.

ALTER SEQUENCE waits for every transaction that has drawn a value, and every nextval waits behind it: so it is tried
for a short time, and again. Under its lock it is asserted that the sequence is as it was read, and that it has not come
farther than the plan bears (`Change.until`); then nothing can begin anew twice, or too late, and the statements may be
repeated. Values that a session took in advance (CACHE > 1) are dropped: the
sequence gets a new file, which the session notices when its next transaction draws."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection, errors, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.ids import Change, SiteSequence
from domicile.model.site import SiteName
from domicile.postgres.failures import code_of, refusal_of, told
from domicile.postgres.ownership import ident

LOCK_TIMEOUT_MS = 100  # so long at most does anybody's nextval wait for us
LOCK_TRIES_MAX = 100
LOCK_PAUSE_S = 0.1
_ONE_AT_A_TIME = 7237123425614523501  # advisory, per database: two of us must not begin a sequence anew

_BEGIN = "set local lock_timeout = {timeout}"
# The increment is set to what it is: the statement is there for its lock. What follows it reads under that lock.
_LOCK = "alter sequence {sequence} increment by {increment}"
_ASSERT = """select 1 / count(*) as unchanged from pg_catalog.pg_sequence
    where seqrelid = {name} and seqincrement = {increment} and seqmin = {lowest} and seqmax = {highest}
        and seqcycle = {cycle} {position}"""
# The position is read from the sequence itself. One that was not drawn from yet has reached the value before.
_POSITION = """and (select {sign} * (case when is_called then last_value else last_value - {increment} end::numeric)
        <= {sign} * ({until}::numeric) from {sequence})"""
_ALTER = (
    "alter sequence {sequence} increment by {increment} minvalue {lowest} maxvalue {highest} "
    "start with {start}{restart} {cycle}"
)
_BEYOND = """select pg_catalog.setval({name},
        (reached + pg_catalog.ceil(({beyond} - reached) / {increment}) * {increment})::bigint)
    from (select case when is_called then last_value else last_value - {increment} end::numeric as reached
        from {sequence}) as now
    where {increment} * ({beyond} - reached) > 0"""
# It is not as it was read, or its writers came farther than it is to end.
_OTHERWISE = (errors.DivisionByZero, errors.InvalidParameterValue, errors.NumericValueOutOfRange, errors.UndefinedTable)
_HOLDERS = """
    select l.pid, coalesce(a.application_name, ''),
        pg_catalog.round(extract(epoch from pg_catalog.clock_timestamp() - a.xact_start), 1)::float8
    from pg_catalog.pg_locks as l left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
    where l.relation = {name} and l.granted and l.pid <> pg_catalog.pg_backend_pid()
    order by 3 desc nulls last, 1"""


def statements(change: Change) -> tuple[sql.Composed, ...]:
    """What carries the change out, to be run in one transaction. Run again it fails at the assertion, or changes
    nothing."""
    before = change.before
    values = {
        "sequence": ident(before.name),
        "name": _literal(before),
        "timeout": sql.Literal(f"{LOCK_TIMEOUT_MS}ms"),
        **{k: sql.Literal(getattr(change, k)) for k in ("increment", "lowest", "highest", "start")},
        "restart": sql.SQL("" if change.restart is None else " restart with {}").format(sql.Literal(change.restart)),
        "beyond": sql.SQL("({})::bigint").format(sql.Literal(change.beyond)),
        "until": sql.SQL("({})").format(sql.Literal(change.until)),
        "sign": sql.Literal(before.sign),
    }
    was = {
        **values,
        **{k: sql.Literal(getattr(before, k)) for k in ("increment", "lowest", "highest")},
        "cycle": sql.Literal(before.cycle),
    }
    was["position"] = sql.SQL("") if change.until is None else sql.SQL(_POSITION).format(**was)
    parts = [
        sql.SQL(_BEGIN).format(**values),
        sql.SQL(_LOCK).format(**was),
        sql.SQL(_ASSERT).format(**was),
        sql.SQL(_ALTER).format(**values, cycle=sql.SQL("no cycle")),
    ]
    if change.beyond is not None:
        parts.append(sql.SQL(_BEYOND).format(**values))
    return tuple(parts)


def way_back(change: Change) -> sql.Composed:
    """What gives a sequence that was changed its step and its limits back, for a person to run. Its position stays: to
    go back to it would give values again that rows may have. Fails, and changes nothing, where the position is outside
    of the old limits."""
    before = change.before
    return sql.SQL(_ALTER).format(
        sequence=ident(before.name),
        restart=sql.SQL(""),
        **{k: sql.Literal(getattr(before, k)) for k in ("increment", "lowest", "highest", "start")},
        cycle=sql.SQL("cycle" if before.cycle else "no cycle"),
    )


async def carry_out(conn: AsyncConnection, change: Change) -> bool:
    """Change the sequence; False when it is no longer what it was when it was read, or has come too far. The connection
    is in autocommit.

    Raises DomicileError: right-missing; fence-budget when transactions keep it locked, which names them."""
    batch = sql.SQL("; ").join(statements(change))
    what = f"sequence {change.before.name}"
    for _ in range(LOCK_TRIES_MAX):
        try:
            await conn.execute(batch)  # several statements in one call are one transaction
            return True
        except errors.LockNotAvailable:
            await asyncio.sleep(LOCK_PAUSE_S)
        except _OTHERWISE:
            return False
        except errors.Error as error:
            raise _refused(error, change) from None
    with told(change.before.site, what):
        rows = await (await conn.execute(sql.SQL(_HOLDERS).format(name=_literal(change.before)))).fetchall()
    raise DomicileError(
        ErrorCode.FENCE_BUDGET,
        f"{what} at {change.before.site} was in use by open transactions at each of {LOCK_TRIES_MAX} tries",
        facts={
            "site": change.before.site,
            "sequence": str(change.before.name),
            "blockers": [{"pid": pid, "application": name, "age_s": age} for pid, name, age in rows],
        },
        safe="This sequence is as it was; what was changed before it stays changed, and is right by itself.",
        hint="End the transactions that are named, then give the same order again: it goes on where it stopped.",
    )


@asynccontextmanager
async def alone(conn: AsyncConnection, site: SiteName) -> AsyncIterator[None]:
    """Be the only one who changes ranges in this database. Raises DomicileError (move-busy)."""
    with told(site, "sequences"):
        row = await (await conn.execute("select pg_catalog.pg_try_advisory_lock(%s)", (_ONE_AT_A_TIME,))).fetchone()
    if row is None or not row[0]:
        raise DomicileError(
            ErrorCode.MOVE_BUSY,
            f"another process changes the sequences at {site}",
            facts={"site": site},
            hint="Wait until it has ended, then look again with: domicile ids",
        )
    try:
        yield
    finally:
        if not conn.closed:
            await conn.execute("select pg_catalog.pg_advisory_unlock(%s)", (_ONE_AT_A_TIME,))


def _refused(error: errors.Error, change: Change) -> DomicileError:
    refusal, site, name = refusal_of(error), change.before.site, str(change.before.name)
    if isinstance(error, errors.InsufficientPrivilege):
        return DomicileError(
            ErrorCode.RIGHT_MISSING,
            f"the role does not own sequence {name} at {site}",
            facts={"site": site, "sequence": name, "owner": change.before.owner},
            safe="This sequence is as it was.",
            hint=f"Run it as {change.before.owner}, or make the role a member of {change.before.owner}.",
        )
    return DomicileError(
        code_of(refusal.sqlstate),
        f"sequence {name} could not be changed at {site}"
        + (f": SQLSTATE {refusal.sqlstate}" if refusal.sqlstate else ": the connection was lost"),
        facts={"site": site, "sequence": name, "sqlstate": refusal.sqlstate},
        safe="A sequence is changed as a whole or not at all; domicile ids shows which were.",
        hint="Mend the cause, then give the same order again: it goes on where it stopped.",
    )


def _literal(sequence: SiteSequence) -> sql.Composed:
    """The sequence as a regclass argument: quoted as an identifier, then as text."""
    return sql.SQL("{}::pg_catalog.regclass").format(sql.Literal(ident(sequence.name).as_string(None)))
