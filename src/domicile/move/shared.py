"""Where a wave's rows refer to rows of shared tables that the site lacks: these are copied there, before references are
proven (docs/decisions/0019, policy ``copy``). Does nothing for a map without such a table.

Precondition: rows of the wave are at the target. Postcondition: what they refer to by such a reference is there, as far
as the source has it. Never reversed: a shared row is nobody's, and stays at both sites. Idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
import time

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Mode
from domicile.model.schema import Reference, TableName
from domicile.move.context import Move, WaveAtSites
from domicile.postgres import references, sequences, shared_rows
from domicile.postgres.checksum import BEGIN
from domicile.postgres.collisions import Members
from domicile.postgres.connect import SESSION
from domicile.postgres.drift import Pair, compare
from domicile.postgres.failures import told
from domicile.postgres.hashing import common_mode, probe
from domicile.postgres.lease import assert_lease
from domicile.postgres.shared_rows import Key, Level, Site

LOCK_TIMEOUT = "2s"  # for one lock; meanwhile who wants a row that is being inserted waits, too
LOOK_SECONDS = 0.05  # between two tries to get such a lock
_REPLICA = {**SESSION, "session_replication_role": "replica"}
_COPYING = "copying shared rows"
_LOCKED = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_LIMIT = "select pg_catalog.set_config('lock_timeout', %s, true)"


@dataclass(slots=True)
class _Patience:
    """Seconds that are left to wait for locks, of all chunks together."""

    seconds: float


async def make(
    move: Move, wave: WaveAtSites, tables: Collection[TableName] | None = None
) -> set[tuple[Reference, Key]]:
    """Copy the shared rows that the wave's rows at the target refer to and that are not there, chunk by chunk, each
    committed with what it refers to; ``tables``: only of the wave's rows in these. Returns keys, by reference, of which
    the source has no row either: rows that were deleted since they were referred to, or dangle there.

    Raises keys-collide, reference-missing (see `shared_rows.place`), lease-lost; and where somebody at the target holds
    what must be locked, lag-budget after limits.catch_up_seconds_max, fence-budget of a cold wave after
    limits.fence_seconds_max.
    """
    found: set[tuple[Reference, Key]] = set()
    if not shared_rows.wanted(move.data_map):
        return found
    patience = _Patience(_seconds_max(move))
    async with move.pool.session(move.target) as reading:
        for reference in shared_rows.needed_by(move.data_map, move.source_schema, move.target_schema):
            if tables is not None and reference.table not in tables:
                continue
            members = Members(references.MEMBERS, wave.target_id)
            statement = references.referred_keys(move.data_map, reference, members, absent=True)
            with told("target", _COPYING):
                async with reading.transaction():
                    async for keys in shared_rows.batches(reading, statement):
                        lacking = await _in_time(move, Level(reference, tuple(keys)), patience)
                        found |= {(reference, key) for key in lacking}
    return found


async def _in_time(move: Move, first: Level, patience: _Patience) -> list[Key]:
    """`_carry`, again while somebody holds what it must lock: nothing of a try that failed is left."""
    while True:
        begun = time.monotonic()
        try:
            return await _carry(move, first)
        except DomicileError as error:
            if error.facts.get("sqlstate") not in _LOCKED:
                raise
        await asyncio.sleep(LOOK_SECONDS)
        patience.seconds -= time.monotonic() - begun
        if patience.seconds <= 0:
            raise _locked(move, first)


async def _carry(move: Move, first: Level) -> list[Key]:
    """One chunk; returns those of its keys that the source has not. What one chunk or another mover has brought since
    they were read is passed over."""
    async with (
        move.pool.session(move.source) as source,
        move.pool.session(move.target, settings=_REPLICA) as target,
    ):
        schemas = (move.source_schema, move.target_schema)
        # An id that comes to the target is never given there again.
        await sequences.advance(source, target, *schemas, move.data_map.copied())
        site = Site(source, target, move.data_map, *schemas)
        with told("source", _COPYING):
            await source.execute(BEGIN)
        with told("target", _COPYING):
            return await _in_transaction(move, site, source, first)


async def _in_transaction(move: Move, site: Site, source: AsyncConnection, first: Level) -> list[Key]:
    async with site.target.transaction():
        await assert_lease(site.target, move.move_id, move.generation)
        await site.target.execute(_LIMIT, (LOCK_TIMEOUT,))
        found = await shared_rows.levels(site, first)
        _, lacking = await shared_rows.place(site, found)
    await source.commit()
    return lacking


async def differing(
    move: Move, source: AsyncConnection, target: AsyncConnection, wave_id: int
) -> dict[tuple[TableName, tuple[str, ...]], int]:
    """Of each copied table, by the key that is referred to: how many rows that the wave of this id at the source refers
    to are at both sites and not the same there. Changes nothing but temporary tables of the target's session."""
    found: dict[tuple[TableName, tuple[str, ...]], int] = {}
    if not shared_rows.wanted(move.data_map):
        return found
    schemas = (move.source_schema, move.target_schema)
    mode = common_mode(await probe(source), await probe(target))
    pair = Pair(source, target, move.data_map, *schemas, Members(references.MEMBERS, wave_id), mode)
    needed = shared_rows.needed_by(move.data_map, *schemas)
    for table, key in dict.fromkeys((r.to_table, r.to_columns) for r in needed):
        by = [r for r in needed if (r.to_table, r.to_columns) == (table, key)]
        drift = await compare(pair, table, key, by, whole=False)
        if drift.different:
            found[table, key] = drift.different
    return found


def _seconds_max(move: Move) -> float:
    """A live wave's users go on meanwhile; a cold wave is fenced."""
    limits = move.plan.limits
    return limits.catch_up_seconds_max if move.mode is Mode.LIVE else limits.fence_seconds_max


def _locked(move: Move, first: Level) -> DomicileError:
    table = first.reference.to_table
    return DomicileError(
        ErrorCode.LAG_BUDGET if move.mode is Mode.LIVE else ErrorCode.FENCE_BUDGET,
        f"shared rows of {table}, or what they refer to, could not be copied within {_seconds_max(move):g} s: somebody "
        f"at {move.target_site} holds locks on their keys",
        facts={"table": str(table), "reference": references.shown(first.reference)},
        safe=f"The wave steps back; {move.source_site} serves, and none of these rows was copied.",
        hint=f"When these transactions have ended, go on with: domicile resume {move.move_id}",
    )
