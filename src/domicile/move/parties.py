"""Where a wave's rows refer to a second person: stubs of those who live elsewhere, made before the references are
proven, and left behind where a person's rows go; or references that are cleared (``clearing.py``;
docs/decisions/0019). Does nothing for a map without such a policy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Reference, TableName, quote_name
from domicile.model.site import SiteName
from domicile.move import clearing
from domicile.move.context import Move, WaveAtSites
from domicile.postgres import (
    guard_filter,
    party_nulls,
    references,
    stub_persons,
    stub_registry,
    stub_rows,
    stubs,
)
from domicile.postgres.clearing import leads_to, require_nobody_gone
from domicile.postgres.connect import SESSION
from domicile.postgres.failures import told
from domicile.postgres.lease import assert_lease
from domicile.postgres.ownership import Fragment, column, delete_rows_of_wave, rows_of_wave
from domicile.stream import compare
from domicile.stream.change import Key
from domicile.stream.layout import Layout
from domicile.stream.params import key_arrays
from domicile.stream.pipeline import Statement

_REPLICA = {**SESSION, "session_replication_role": "replica"}
_MAKING = "making stubs"


def site_of(move: Move, *, source: bool = False) -> stubs.Site:
    """The move's target as the place of stubs, whose persons live at its source; or the other way round."""
    plan, data_map = move.plan, move.data_map
    if source:
        return stubs.Site(data_map, move.source_schema, plan.dataset, move.source_site, move.target_site)
    return stubs.Site(data_map, move.target_schema, plan.dataset, move.target_site, move.source_site)


def wanted(data_map: DataMap) -> bool:
    """Whether the map says of any second person what is to be done."""
    return stub_rows.wanted(data_map) or party_nulls.wanted(data_map)


async def make(move: Move, wave: WaveAtSites) -> list[str]:
    """At the target: stubs of those whom the wave's rows there refer to, who have no row there and live elsewhere; and
    of members whom others there refer to and who have deleted themselves at the source. Registered first, known to the
    guard next, then made: a crash leaves no stub without its guard. Returns whom the wave's rows referred to so when it
    began, as keys. Idempotent.

    Raises reference-missing, before anything is changed, where rows at the source refer to somebody who lives nowhere.
    """
    if not stub_rows.wanted(move.data_map):
        return []
    site = site_of(move)
    async with move.pool.session(move.target, settings=_REPLICA) as conn:
        with told("target", _MAKING):
            missing = await stub_persons.missing(conn, site, wave.target_id)
            homes = await _homes(move, conn, wave, missing)
            lost = await _lost(move, conn, wave)
            if not (homes or lost or await stubs.any_rowless(conn, site)):
                return missing
            async with conn.transaction():
                await assert_lease(conn, move.move_id, move.generation)
                rowless = await stubs.enroll_missing(conn, site, homes, lost, wave.epoch + 1)
            if not rowless:
                return missing
            await guard_filter.refresh(conn)
            async with conn.transaction():
                await assert_lease(conn, move.move_id, move.generation)
                await stubs.insert_missing(conn, site)
            return missing


def require_nobody_lost(move: Move, wave: WaveAtSites, layout: Layout, keys: Sequence[Key]) -> list[Statement]:
    """For the arrival: it is refused where one of the subjects with these keys has deleted himself last and is referred
    to there; any of the wave, where the stream names subjects otherwise than by their keys."""
    if not wanted(move.data_map):
        return []
    people = layout.tables[0]
    if people.key != (move.data_map.subject.key,):
        return [Statement(text.as_bytes(None)) for text in _nobody_lost(move, wave)] if keys else []
    params = key_arrays(people, keys, layout.binary)
    listed = compare.listed_keys(people, params, layout.binary, "k")
    values = [param if isinstance(param, bytes) else str(param).encode() for param in params]
    texts = _nobody_lost(move, wave, listed)
    return [Statement(text.as_bytes(None), values, binary=True, keep=True) for text in texts]


def _nobody_lost(move: Move, wave: WaveAtSites, listed: Fragment | None = None) -> Iterator[sql.Composed]:
    site = site_of(move)
    if stub_rows.wanted(site.data_map):
        yield stubs.require_nobody_lost(site, wave.target_id, wave.epoch + 1, listed)
    if party_nulls.wanted(site.data_map):
        yield require_nobody_gone(site.data_map, site.schema, wave.target_id, listed)


async def broken(move: Move, conn: AsyncConnection, wave_id: int, missing: Collection[str]) -> dict[str, int]:
    """Of each reference with stubs, or that is cleared, the wave's rows at the target that refer to a member of it who
    is not there, or to one of the ``missing``, for whom there should have been a stub. Whom else a row names there that
    is to be cleared, it has named since it was: it is touched."""
    if not wanted(move.data_map):
        return {}
    site = site_of(move)
    named = await stub_persons.naming(conn, site, wave_id, [*missing])
    nulls = party_nulls.parties(site.data_map, site.schema)
    to_people = [r for r in nulls if r.to_table == site.data_map.subject.table]
    found = {
        references.shown(r): await stubs.broken(conn, site, r, wave_id) + named.get(r, 0)
        for r in (*stub_rows.parties(site.data_map, site.schema), *to_people)
    }
    # A row of the wave that is not there has been missed as a row.
    return {references.shown(r): 0 for r in nulls} | found


async def removal(
    conn: AsyncConnection, site: stubs.Site, table: TableName, wave_id: int, members: tuple[int, int]
) -> sql.Composed:
    """The statement that removes a table's rows of these members at a site; what must stay there as a stub is one by
    then, and what is to be cleared is. In the caller's transaction. Tables are removed children before parents, the
    subject's table last. Raises reference-missing."""
    people, has_stubs = table == site.data_map.subject.table, stub_rows.wanted(site.data_map)
    named = bool(leads_to(site.data_map, site.schema, table))
    if has_stubs and (people or named):  # before locks on rows, as everywhere
        await stub_registry.lock(conn)
    if named:
        await clearing.let_go(conn, site, table, wave_id, members)
    if not (people and has_stubs):
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


async def _homes(
    move: Move, target: AsyncConnection, wave: WaveAtSites, missing: Sequence[str]
) -> Mapping[SiteName, Sequence[str]]:
    """Where these persons live. Raises reference-missing of who lives nowhere and is referred to at the source."""
    if not missing:
        return {}
    async with move.pool.session(move.source) as source:
        with told("source", _MAKING):
            found = await stub_persons.homes(source, target, site_of(move), missing)
            named = await stub_persons.naming(source, site_of(move, source=True), wave.source_id, found.nowhere)
    if named:
        raise _nowhere(move, named)
    return found.elsewhere


async def _lost(move: Move, target: AsyncConnection, wave: WaveAtSites) -> list[str]:
    """Members whom others at the target refer to, and who have no row at either site."""
    if not (keys := await stubs.lost(target, site_of(move), wave.target_id, wave.epoch + 1)):
        return []
    async with move.pool.session(move.source) as source:
        with told("source", _MAKING):
            return await stubs.rowless(source, site_of(move, source=True), keys)


def _nowhere(move: Move, found: Mapping[Reference, int]) -> DomicileError:
    named = ", ".join(f"{rows} of {references.shown(r)}" for r, rows in found.items())
    first = next(iter(found))
    one = quote_name(first.columns[0])
    clear = f"update {first.table} set {one} = null where {one} = ..."  # noqa: S608 - to be read
    return DomicileError(
        ErrorCode.REFERENCE_MISSING,
        f"rows of the wave refer to somebody who is not at {move.target_site} any more: {named}",
        facts={"references": {references.shown(r): rows for r, rows in found.items()}},
        safe=f"{move.source_site} serves the wave, and nothing was changed there.",
        hint=f"At {move.source_site}, clear these references ({clear}) or remove the rows, then give the order again. "
        "How to find them: docs/reference/data-map.md",
    )


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
