"""Where a wave's rows refer to a second person: stubs of those who live elsewhere, made before the references are
proven, and left behind where a person's rows go (docs/decisions/0019). Does nothing for a map without such a policy.
"""

from __future__ import annotations

from psycopg import AsyncConnection, sql

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Reference, TableName
from domicile.move.context import Move
from domicile.postgres import guard_filter, references, stub_registry, stub_rows, stubs
from domicile.postgres.connect import SESSION
from domicile.postgres.failures import told
from domicile.postgres.lease import assert_lease
from domicile.postgres.ownership import column, delete_rows_of_wave, rows_of_wave

_REPLICA = {**SESSION, "session_replication_role": "replica"}
_MAKING, _DROPPING = "making stubs", "removing stubs"


def site_of(move: Move, *, source: bool = False) -> stubs.Site:
    """The move's target as the place of stubs, whose persons live at its source; or the other way round."""
    plan, data_map = move.plan, move.data_map
    if source:
        return stubs.Site(data_map, move.source_schema, plan.dataset, move.source_site, move.target_site)
    return stubs.Site(data_map, move.target_schema, plan.dataset, move.target_site, move.source_site)


async def make(move: Move, wave_id: int) -> int:
    """At the target: stubs of those whom the wave's rows there refer to and who have no row; returns how many.
    Registered first, known to the guard next, then made: a crash leaves no stub without its guard. Idempotent."""
    if not stub_rows.wanted(move.data_map):
        return 0
    site = site_of(move)
    async with move.pool.session(move.target, settings=_REPLICA) as conn:
        with told("target", _MAKING):
            async with conn.transaction():
                await assert_lease(conn, move.move_id, move.generation)
                rowless = await stubs.enroll_missing(conn, site, wave_id)
            if not rowless:
                return 0
            await guard_filter.refresh(conn)
            async with conn.transaction():
                await assert_lease(conn, move.move_id, move.generation)
                return await stubs.insert_missing(conn, site)


async def broken(move: Move, conn: AsyncConnection, wave_id: int) -> dict[str, int]:
    """Of each reference with stubs, the wave's rows at the target that refer to a member of it who is not there."""
    if not stub_rows.wanted(move.data_map):
        return {}
    site = site_of(move)
    return {
        references.shown(r): await stubs.broken(conn, site, r, wave_id)
        for r in stub_rows.parties(move.data_map, site.schema)
    }


async def removal(
    conn: AsyncConnection, site: stubs.Site, table: TableName, wave_id: int, members: tuple[int, int]
) -> sql.Composed:
    """The statement that removes a table's rows of these members at a site; what must stay there as a stub is one by
    then. In the caller's transaction. Tables are removed children before parents, the subject's table last."""
    if table != site.data_map.subject.table or not stub_rows.wanted(site.data_map):
        return delete_rows_of_wave(site.data_map, table, wave_id, *members)
    statement, _ = await stubs.remove_rows(conn, site, wave_id, members)
    return statement


async def settle(conn: AsyncConnection, move: Move, site: stubs.Site) -> int:
    """After rows have been removed at ``conn``'s site: stubs that nothing refers to go, and the guard knows the others.
    Returns how many went. Idempotent."""
    if not await stub_registry.any_here(conn):
        return 0
    async with conn.transaction():
        await assert_lease(conn, move.move_id, move.generation)
        removed = await stubs.drop_unused(conn, site)
    await guard_filter.refresh(conn)
    return removed


async def remains(conn: AsyncConnection, move: Move) -> tuple[str, ...]:
    """What is said of the stubs at the source, where there are any."""
    stubs = await stub_registry.count(conn) if stub_rows.wanted(move.data_map) else 0
    said = f"{stubs} rows of {move.data_map.subject.table} at {move.source_site} are stubs, keys without a value: "
    return (f"{said}rows of those who stay refer to them.",) if stubs else ()


async def rows_left(conn: AsyncConnection, site: stubs.Site, table: TableName, wave_id: int) -> int:
    """Rows of the wave in the table at ``conn``'s site, without stubs."""
    data_map = site.data_map
    statement = sql.SQL("select count(*) {} where m.wave = {}").format(rows_of_wave(data_map, table), wave_id)
    if table == data_map.subject.table and stub_rows.wanted(data_map):
        own = stub_registry.registered(column("t", data_map.subject.key))
        statement += sql.SQL(" and not {}").format(own)
    row = await (await conn.execute(statement)).fetchone()
    assert row is not None
    return int(row[0])


async def require_unneeded(conn: AsyncConnection, move: Move) -> None:
    """Before the source copies go: nobody who stays refers to them but by references with stubs. They may have since
    the plan. Raises reference-missing."""
    _refuse(move, await references.referring_from_stayers(conn, move.data_map, move.source_schema, move.move_id))


async def require_chunk_unneeded(conn: AsyncConnection, move: Move, leaving: references.Leaving) -> None:
    """The same of the members whose rows go in the caller's transaction. From here on nobody can refer to these rows:
    whoever tries waits, and is told by the foreign key. Asks nothing where no reference is refused."""
    refused = references.refused_between(move.data_map, move.source_schema)
    if refused:
        if stub_rows.wanted(move.data_map):  # before locks on rows, as everywhere
            await stub_registry.lock(conn)
        await references.lock_referred(conn, move.data_map, refused, leaving)
        _refuse(move, await references.referring_to_chunk(conn, move.data_map, refused, move.move_id, leaving))


def _refuse(move: Move, found: list[tuple[Reference, int]]) -> None:
    if not found:
        return
    named = ", ".join(f"{rows} of {references.shown(r)}" for r, rows in found)
    raise DomicileError(
        ErrorCode.REFERENCE_MISSING,
        f"rows of subjects who stay at {move.source_site} refer to rows that would go: {named}",
        facts={"references": {references.shown(r): rows for r, rows in found}},
        safe=f"None of the rows referred to was removed; {move.target_site} serves the wave.",
        hint="Remove these references or set them to null there, then run domicile purge again.",
    )
