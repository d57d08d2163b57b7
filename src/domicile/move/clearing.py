"""References to a second person, or to a row of hers, with the policy null: cleared where the row lives, right before
the wave is proven, and written back where the wave stays (docs/decisions/0019). Does nothing for a map without such a
policy.

Every batch is one transaction, which asserts the lease, changes the rows and keeps the notes: neither is ever without
the other. The stream, or the copy, brings the nulls to the other site, as any change of the rows' users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import logging
import time

import psycopg
from psycopg import AsyncConnection, errors

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Schema, TableName
from domicile.model.site import SiteName
from domicile.move.context import Move, WaveAtSites
from domicile.postgres import clearing, dangling, party_nulls
from domicile.postgres.clearing import Clearing, RowKey
from domicile.postgres.collisions import Members
from domicile.postgres.connect import SESSION
from domicile.postgres.failures import told
from domicile.postgres.lease import assert_lease
from domicile.postgres.references import MEMBERS, shown
from domicile.postgres.stubs import Site

log = logging.getLogger(__name__)

PERSONS_PER_BATCH = 1_000  # named in one statement
LOOK_SECONDS = 0.05  # between two looks whether a row is still locked
WRITE_BACK_SECONDS_MAX = 30.0  # for rows that somebody has locked
_REPLICA = {**SESSION, "session_replication_role": "replica"}
_WAIT_A_MOMENT = "set local lock_timeout = '500ms'"
_BETWEEN_SITES = ("DM001", "DM002")  # the guard's answers
_CLEARING = "clearing references"

wanted = party_nulls.wanted


async def run(move: Move, wave: WaveAtSites) -> None:
    """No row of the wave at the source names somebody who will not be at the target, but those which the application
    writes meanwhile; and no row of who lives at the target names a member who has deleted himself. Idempotent.

    Raises lag-budget where rows stay locked for longer than limits.catch_up_seconds_max.
    """
    if not wanted(move.data_map):
        return
    async with (
        move.pool.session(move.source, settings=_REPLICA) as source,
        move.pool.session(move.target, settings=_REPLICA) as target,
    ):
        with told("source", _CLEARING):
            await _clear_named(move, wave, source, target)
        with told("target", _CLEARING):
            await _clear_gone(move, wave, source, target)


async def write_back(move: Move, wave_id: int, *, back: bool = False, stayed: bool = False) -> None:
    """Where the wave lives, at the source, or for ``back`` at the target: what was cleared there is as it was, where
    the row is there and still holds null, and the person has a row. The notes are forgotten. Idempotent.

    ``stayed``: only rows that are no member's of the wave any more. Raises fence-budget where rows stay locked.
    """
    if not wanted(move.data_map):
        return
    schema, conninfo = (move.target_schema, move.target) if back else (move.source_schema, move.source)
    async with move.pool.session(conninfo, settings=_REPLICA) as conn:
        with told("target" if back else "source", "writing references back"):
            if not await clearing.any_noted(conn, wave_id):
                return
            await _write_back(move, conn, schema, wave_id, stayed=stayed)
            if stayed:
                return
            async with conn.transaction():
                await assert_lease(conn, move.move_id, move.generation)
                left = await clearing.forget(conn, wave_id)
    if left:
        log.warning("%s references stay null: row or person is gone, or the row was given another one", left)


@dataclass(frozen=True, slots=True)
class Leaving:
    """Rows that are to go from a site: of these tables, and of members with ordinals in one of the (first, last]."""

    tables: Sequence[TableName]
    wave_id: int
    members: Sequence[tuple[int, int]]


async def removing(
    conn: AsyncConnection, move: Move, site: Site, leaving: Leaving, remove: Callable[[], Awaitable[None]]
) -> None:
    """Carry ``remove`` out, which removes these rows at the site: in one transaction, which asserts the lease. For a
    map with the policy most of what names them is cleared before, in small ones, and whoever waits for the transaction
    does so for a moment: where it would have to wait itself, it ends and is tried again.

    Raises fence-budget where rows stay locked for longer than limits.catch_up_seconds_max.
    """
    deadline = time.monotonic() + move.plan.limits.catch_up_seconds_max
    while True:
        if wanted(site.data_map):
            await _clear_ahead(conn, move, site, leaving)
        try:
            async with conn.transaction():
                await assert_lease(conn, move.move_id, move.generation)
                if wanted(site.data_map):
                    await conn.execute(_WAIT_A_MOMENT)
                return await remove()
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if not wanted(site.data_map):
                raise
        if time.monotonic() > deadline:
            raise DomicileError(
                ErrorCode.FENCE_BUDGET,
                f"rows at {site.here} that refer to rows which go there, or these rows, are locked",
                safe="None of these rows was removed.",
                hint="When these transactions have ended, give the order again.",
            )
        await asyncio.sleep(LOOK_SECONDS)


async def let_go(conn: AsyncConnection, site: Site, table: TableName, wave_id: int, members: tuple[int, int]) -> None:
    """Before rows of these members go from a table at the site: `clearing.clear_leaving`, in the caller's transaction.
    Raises reference-missing where a row that names one is itself between two sites."""
    with _between_sites(site.here, "refer to rows that would go there"):
        await clearing.clear_leaving(conn, site.data_map, site.schema, table, wave_id, members)


async def sweep(move: Move, *, source: bool) -> None:
    """At the source, or at the target: rows that live there name no row that has gone from there with the stream, or
    was given to somebody who lives elsewhere. Whole tables are read. Idempotent.

    Nothing depends on it but these references: what cannot be done is said in the log, and done by the next order.
    Raises lease-lost.
    """
    schema, conninfo = (move.source_schema, move.source) if source else (move.target_schema, move.target)
    here = move.source_site if source else move.target_site
    for one in dangling.to_rows(move.data_map, schema):
        cleared, left = 0, 0
        try:
            async with move.pool.session(conninfo, settings=_REPLICA) as conn:
                while rows := await dangling.find(conn, one):
                    async with conn.transaction():
                        await conn.execute(_WAIT_A_MOMENT)
                        await assert_lease(conn, move.move_id, move.generation)
                        now = await dangling.clear(conn, one, rows)
                    cleared, left = cleared + now, len(rows) - now
                    if left:
                        break
        except (DomicileError, psycopg.Error) as trouble:
            if isinstance(trouble, DomicileError) and trouble.code is ErrorCode.LEASE_LOST:
                raise
            log.warning(
                "%s at %s: what may lead nowhere is left (%s)", shown(one.reference), here, type(trouble).__name__
            )
        if cleared or left:
            log.info("%s at %s led nowhere: %s cleared, %s left", shown(one.reference), here, cleared, left)


async def _clear_named(move: Move, wave: WaveAtSites, source: AsyncConnection, target: AsyncConnection) -> None:
    data_map = move.data_map
    # On a way back: a row that names somebody here is not to name again whom it named at home before.
    noted = await clearing.any_noted(target, wave.target_id)
    members = Members(MEMBERS, wave.source_id)
    for reference in party_nulls.parties(data_map, move.source_schema):
        named = await party_nulls.named(source, data_map, reference, members)
        absent = await party_nulls.absent(target, data_map, move.target_schema, reference, named, wave.target_id)
        one, cleared = Clearing(data_map, move.source_schema, reference, wave.source_id), 0
        for keys in party_nulls.batches(absent, PERSONS_PER_BATCH):
            home = (target, wave.target_id) if noted else None
            cleared += await _clear_persons(move, source, one, keys, sum(named[key] for key in keys), home)
        if cleared:
            log.info("wave %s: %s of %s were cleared at %s", wave.no, cleared, shown(reference), move.source_site)


async def _clear_persons(
    move: Move,
    source: AsyncConnection,
    one: Clearing,
    keys: Sequence[str],
    counted: int,
    home: tuple[AsyncConnection, int] | None,
) -> int:
    """Returns how many references were cleared. What is written while this runs may name one of them when it ends: the
    stream brings it, and it is handled as every row that was touched."""
    cleared, left, rows = 0, None, None
    while True:
        # What was counted before takes its time; it is what comes, or is locked, that has a limit.
        if rows is None or (len(rows) >= clearing.ROWS_PER_BATCH and cleared < counted):
            deadline = time.monotonic() + move.plan.limits.catch_up_seconds_max
        async with source.transaction():
            await assert_lease(source, move.move_id, move.generation)
            rows = await one.clear(source, keys)
            if rows and home:
                await _outdate(move, one, rows, home)
        cleared += len(rows)
        if rows:
            await move.failpoints.reach("parties.cleared")
        if len(rows) >= clearing.ROWS_PER_BATCH and cleared < counted:
            continue
        now = await one.left(source, keys)
        left = now if left is None else left & now
        if not left:
            return cleared
        if time.monotonic() > deadline:
            raise _locked(move, shown(one.reference), len(left))
        if not rows:
            await asyncio.sleep(LOOK_SECONDS)


async def _outdate(move: Move, one: Clearing, rows: Sequence[RowKey], home: tuple[AsyncConnection, int]) -> None:
    """A row that is cleared on the way back named somebody: whom it named at home before, it is not to name again.
    Committed before the clearing, so it holds also where that is never committed."""
    conn, wave_id = home
    async with conn.transaction():
        await assert_lease(conn, move.move_id, move.generation)
        await one.forget(conn, rows, wave_id)


async def _clear_ahead(conn: AsyncConnection, move: Move, site: Site, leaving: Leaving) -> None:
    for reference in party_nulls.parties(site.data_map, site.schema):
        if reference.to_table not in leaving.tables:  # before the copy a row with such a key is somebody else's
            continue
        one = Clearing(site.data_map, site.schema, reference, leaving.wave_id)
        for some in leaving.members:
            rows = clearing.ROWS_PER_BATCH
            while rows >= clearing.ROWS_PER_BATCH:
                async with conn.transaction():
                    await assert_lease(conn, move.move_id, move.generation)
                    rows = await one.clear_ahead(conn, some)


async def _clear_gone(move: Move, wave: WaveAtSites, source: AsyncConnection, target: AsyncConnection) -> None:
    """Who is gone at both sites: a member missing at the target alone is a discrepancy."""
    data_map, schema = move.data_map, move.target_schema
    if not (naming := clearing.leads_to(data_map, schema, data_map.subject.table)):
        return
    keys = await clearing.gone(target, data_map, schema, wave.target_id)
    keys = await party_nulls.absent(source, data_map, move.source_schema, naming[0], keys, wave.source_id)
    if keys:
        with _between_sites(move.target_site, "refer to somebody who is gone"):
            async with target.transaction():
                await assert_lease(target, move.move_id, move.generation)
                await clearing.clear_gone(target, data_map, schema, wave.target_id, keys)


async def _write_back(move: Move, conn: AsyncConnection, schema: Schema, wave_id: int, *, stayed: bool) -> None:
    deadline = time.monotonic() + WRITE_BACK_SECONDS_MAX
    every = [Clearing(move.data_map, schema, r, wave_id) for r in party_nulls.parties(move.data_map, schema)]
    while True:
        rows = 0
        for one in every:
            async with conn.transaction():
                await assert_lease(conn, move.move_id, move.generation)
                rows += await one.restore(conn, stayed=stayed)
        if rows:
            await move.failpoints.reach("parties.written_back")
            continue
        pending = {shown(one.reference): await one.pending(conn, stayed=stayed) for one in every}
        if not any(pending.values()):
            return
        if time.monotonic() > deadline:
            left = ", ".join(f"{rows} of {reference}" for reference, rows in pending.items() if rows)
            raise DomicileError(
                ErrorCode.FENCE_BUDGET,
                f"{left} could not be written back: their rows are locked",
                safe="They are noted; nothing else is missing.",
                hint=f"When these transactions have ended: domicile resume {move.move_id}",
            )
        await asyncio.sleep(LOOK_SECONDS)


@contextmanager
def _between_sites(here: SiteName, what: str) -> Iterator[None]:
    """The guard's answer for a row that is itself between two sites, as reference-missing."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate not in _BETWEEN_SITES:
            raise
        raise DomicileError(
            ErrorCode.REFERENCE_MISSING,
            f"rows that are on their way from or to {here} {what}",
            safe="None of the rows referred to was removed.",
            hint="When the other move's wave has arrived, give the order again.",
        ) from None


def _locked(move: Move, reference: str, rows: int) -> DomicileError:
    seconds = move.plan.limits.catch_up_seconds_max
    return DomicileError(
        ErrorCode.LAG_BUDGET,
        f"{rows} of {reference} could not be cleared within {seconds:g} s: their rows are locked",
        facts={"rows": rows},
        safe=f"The wave steps back; {move.source_site} serves.",
        hint=f"When these transactions have ended, go on with: domicile resume {move.move_id}",
    )
