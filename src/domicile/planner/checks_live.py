"""Checks that only a live move needs: what its change stream asks of the servers and of the tables.

Where one fails, the plan can still be carried out with ``--cold``. Writes are streamed from the source, and from the
target too where the plan keeps a way back.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection, sql

from domicile.model.errors import ErrorCode
from domicile.model.plan import Check, Mode, WayBack
from domicile.model.schema import Schema, TableName
from domicile.planner.checks_schema import listed
from domicile.planner.facts import Preflight, SiteFacts
from domicile.postgres.site_probe import Lack, Weight
from domicile.stream import fitness
from domicile.stream.layout import live_refusals, read_identities

# Of the whole server: the stream begins when all transactions of that moment have ended, in whichever database.
_PREPARED = """
    select count(*), coalesce(extract(epoch from pg_catalog.clock_timestamp() - min(prepared)), 0)::float
    from pg_catalog.pg_prepared_xacts
    where prepared < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %s)"""
_END_THEM = "Commit or roll them back: select * from pg_prepared_xacts;"
_COLD = "or carry the plan out with: domicile apply --cold"
_ONLY_BACK = " (which only the way back needs: not with --way-back none)"


async def run_all(p: Preflight) -> tuple[Check, ...]:
    """Each check, for every site that has a stream."""
    streams = [(p.source, p.source_facts)]
    if p.request.way_back is not WayBack.NONE:
        streams.append((p.target, p.target_facts))
    servers = [await _server(conn, facts) for conn, facts in streams]
    return (*servers, await _tables(p), await _prepared(p, streams))


async def _server(conn: AsyncConnection, facts: SiteFacts) -> Check:
    """Log level, slots, walsenders and the role's rights."""
    lacks = await fitness.shortcomings(conn)
    return Check(
        f"change stream at {facts.site}",
        not lacks,
        "; ".join(lack.what for lack in lacks) or f"{facts.site} can give one",
        hint=f"{' '.join(_mend(lack, facts) for lack in lacks)} {_COLD}",
        blocking=any(lack.weight is Weight.BLOCKS for lack in lacks),
        code=ErrorCode.SETTING_WRONG,
        mode=Mode.LIVE,
    )


def _mend(lack: Lack, facts: SiteFacts) -> str:
    role, database = (sql.Identifier(name).as_string() for name in (facts.rights.role, facts.database))
    filled = lack.mend.replace("role ...", f"role {role}").replace("database ...", f"database {database}")
    return filled.replace("to ...", f"to {role}")


async def _tables(p: Preflight) -> Check:
    """Whether the log tells which row was changed, and the stream whose it is."""
    found = await _unfit(p, p.source, p.source_schema, p.in_scope)
    shown = [f"{table}: {reason}" for table, reason in found.items()]
    if p.request.way_back is not WayBack.NONE:
        there = await _unfit(p, p.target, p.target_schema, p.at_both)
        shown += [f"{t} at {p.request.target}: {reason}" for t, reason in there.items() if t not in found]
    return Check(
        "tables in the change stream",
        not shown,
        listed(shown) or f"the rows of {len(p.in_scope)} tables can be told apart",
        hint=f"Mend the tables{'' if found else _ONLY_BACK}, {_COLD}",
        mode=Mode.LIVE,
    )


async def _unfit(
    p: Preflight, conn: AsyncConnection, schema: Schema, tables: tuple[TableName, ...]
) -> dict[TableName, str]:
    """Why each of these tables cannot be streamed; the reason that says how to mend it, where there are several."""
    found: dict[TableName, str] = {}
    for table, reason in await fitness.unfit(conn, tables):
        found.setdefault(table, reason)
    for table, reason in live_refusals(p.request.data_map, schema, await read_identities(conn, p.in_scope)):
        if table in tables:
            found.setdefault(table, reason)
    return found


async def _prepared(p: Preflight, streams: Sequence[tuple[AsyncConnection, SiteFacts]]) -> Check:
    """One that nobody ends keeps the stream from beginning, and no wave is handed over past it."""
    seconds = p.request.limits.fence_seconds_max
    found = []
    for conn, facts in streams:
        row = await (await conn.execute(_PREPARED, (seconds,))).fetchone()
        assert row is not None
        if row[0]:
            found.append(f"{row[0]} at {facts.site}, the oldest for {row[1]:.0f} s")
    return Check(
        "forgotten prepared transactions",
        not found,
        listed(found) or f"none open for longer than {seconds:g} s on the whole server",
        hint=f"{_END_THEM} {_COLD}",
        mode=Mode.LIVE,
    )
