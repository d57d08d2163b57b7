"""Copy: the wave's rows travel from one snapshot of the source into the target, beside the users who live
there already.

Precondition: the wave is arriving at the target, and (cold) fenced at the source; keys were checked for collisions;
sequences are beyond the wave's. Postcondition: every row of the wave's members is committed at the target, each once,
with one row of ``domicile.progress`` per cell. Reversible: fully; step back deletes the rows by the owner predicate.
Idempotent (cold): cells already in progress are skipped. A live copy is of one snapshot, whose seam is kept at the
target before the first row; cut short, it is cleaned away and begun again (``slices.copy_rows``).

A table's members are cut into *cells*, ranges of ordinals of about ``limits.chunk_rows`` rows; their bounds
follow from the plan alone, so a later process finds the same. A *chunk* is a run of neighbouring cells carried by
one COPY and committed at once. Where an index finds the rows, that is one cell, or over a long line as many as keep
the line busy for many times its round trip. Where PostgreSQL will scan the table (no index on the owner path, or a wave
that is a good part of the table), each chunk costs a scan: there it is a stream's whole share, which the wave's own
limits keep to seconds.

Method: exported snapshot and parallel COPY as in pg_dump -j; progress committed with the rows as in Vitess'
copy_state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
import threading
import time

from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Plan, TablePlan
from domicile.model.schema import Schema, TableName
from domicile.move import parties, shared
from domicile.move.context import Move, ReportRows, WaveAtSites
from domicile.postgres import deferred_keys, snapshots, stubs, waves
from domicile.postgres.brake import Brakes
from domicile.postgres.connect import SESSION
from domicile.postgres.failures import told
from domicile.postgres.lease import assert_lease, lease_lost
from domicile.postgres.rows import copy_in, copy_out
from domicile.postgres.transfer import Transferred, transfer
from domicile.stream.pipeline import REFUSED

_BEGIN = "begin transaction isolation level repeatable read, read only"
_EXPORT = "select pg_catalog.pg_export_snapshot(), pg_catalog.pg_current_snapshot()::text"
_DONE = "select table_name, chunk from domicile.progress where wave = %s"
# Several statements of one message.
_BEGIN_CHUNK = """
    begin;
    select case when not exists (
        select from domicile.move where move_id = {move} and generation = {generation} for share)
    then domicile.refuse('lease') end;
    {copy}"""
_END_CHUNK = """
    insert into domicile.progress (wave, table_name, chunk, rows, bytes)
    select {wave}, {table}, cell, case when cell = {first} then {rows} else 0 end,
           case when cell = {first} then {bytes} else 0 end
    from pg_catalog.generate_series({first}::integer, {last}::integer) as cell;
    commit"""

# A wave of a larger part of a table is read by scanning it: from about here PostgreSQL itself prefers that, even to
# read a single cell (measured: twenty chunks of 5 % each took twice the time of two halves).
SCAN_FROM = 0.05

# Between two chunks a stream's line lies idle for three round trips, and TCP begins slowly again. A chunk of the bytes
# that this speed carries in a round trip makes little of both: 17 MB where it takes 170 ms, one cell on a short line.
CHUNK_BYTES_PER_SECOND = 100_000_000

# Triggers, foreign keys and the guard are switched off for this session alone; unique keys, checks and
# not-null still hold.
_REPLICA = {**SESSION, "session_replication_role": "replica"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Cells ``first_cell..last_cell`` of a table: members with an ordinal in (first_ordinal,
    last_ordinal].
    """

    table: TablePlan
    first_cell: int
    last_cell: int
    first_ordinal: int
    last_ordinal: int


async def run(
    move: Move,
    wave: WaveAtSites,
    report: ReportRows,
    *,
    seam_after: int | None = None,
    brakes: Brakes | None = None,
) -> None:
    """Copy what is not yet there; ``report(rows, bytes)`` after each commit.

    ``seam_after``: the snapshot is written down at the target, for the stream that continues it from that position.
    ``held_back``: asked for the share of the time in which the streams are to rest, by their threads.

    Raises DomicileError, see postgres/failures.py. Cancelled or failed, every stream has stopped and every
    connection is closed when it returns.
    """
    await move.failpoints.reach("copy.before")
    done, highest, round_trip = await _progress(move, wave)
    bytes_min = int(round_trip * CHUNK_BYTES_PER_SECOND)
    todo = list(chunks(move.plan, highest, done, _scanned_tables(move, wave), bytes_min))
    if todo or seam_after is not None:
        streams = max(1, min(move.plan.limits.streams, len(todo)))
        async with _exported_snapshot(move) as (snapshot, seam):
            if seam_after is not None:
                await _keep_seam(move, wave, seam, seam_after)
            levels = _levels(move.data_map, todo)
            job = _Job(move, wave, report, snapshot, levels, asyncio.Barrier(streams), threading.Event(), brakes)
            job = replace(job, stubs=await _stubs_expected(move))
            await _all(_stream(job) for _ in range(streams))
    await _prove_deferrable_keys(move, wave)
    await parties.make(move, wave)
    await shared.make(move, wave)
    await move.failpoints.reach("copy.done")


def chunks(
    plan: Plan, highest: int, done: set[tuple[str, int]], scanned: set[TableName], bytes_min: int = 0
) -> Iterable[Chunk]:
    """What is left to copy of a wave whose ordinals end at ``highest``, in table order; each chunk of about
    ``bytes_min`` bytes or more, as far as every stream has one. Pure."""
    for table in plan.tables:
        size = cell_subjects(plan, table)
        cells = -(-highest // size)
        left = [cell for cell in range(1, cells + 1) if (str(table.table), cell) not in done]
        longest = -(-cells // plan.limits.streams)
        if table.table not in scanned:
            cell_bytes = table.bytes * size // plan.cohort.size
            longest = max(1, min(longest, bytes_min // cell_bytes)) if cell_bytes else 1
        for first, last in _runs(left, longest):
            yield Chunk(table, first, last, (first - 1) * size, min(last * size, highest))


def cell_subjects(plan: Plan, table: TablePlan) -> int:
    """Subjects in one cell, so that it holds about ``limits.chunk_rows`` rows.

    From the plan alone: progress is counted in cells, by whichever process.
    """
    if table.rows <= 0:
        return max(1, plan.limits.wave_subjects_max)
    return max(1, plan.limits.chunk_rows * plan.cohort.size // table.rows)


def path_is_indexed(data_map: DataMap, schema: Schema, table: TableName) -> bool:
    """True when the rows of few subjects are found without a scan: every step of the owner path has an
    index.
    """
    at = table
    for step in data_map.path(table):
        prefixes = schema.tables[at].index_prefixes if at in schema.tables else ()
        if not any(set(prefix[: len(step.columns)]) == set(step.columns) for prefix in prefixes):
            return False
        at = step.to_table
    return True


@dataclass(frozen=True, slots=True)
class _Job:
    """What the streams of one run share; all live on one event loop. Whoever is free takes from the level at work.

    A level holds the tables with owner paths of one length; the next begins when every stream is done with it. A
    clean-up after a failure finds rows by their owner path, so a parent must be committed before its children.
    """

    move: Move
    wave: WaveAtSites
    report: ReportRows
    snapshot: str
    levels: Sequence[deque[Chunk]]
    between_levels: asyncio.Barrier
    stop: threading.Event
    brakes: Brakes | None
    stubs: bool = False  # members may have stubs at the target, which their rows replace


async def _stream(job: _Job) -> None:
    async with (
        job.move.pool.session(job.move.source) as source,
        job.move.pool.session(job.move.target, settings=_REPLICA) as target,
    ):
        with told("source", "join the snapshot"):
            await source.execute(_BEGIN)
            await snapshots.join(source, job.snapshot, "source")
        for level in job.levels:
            while level:
                moved = await _copy(job, level.popleft(), source, target)
                await job.report(moved.rows, moved.bytes)
                await job.move.failpoints.reach("copy.chunk_committed")
            await job.between_levels.wait()


async def _copy(job: _Job, chunk: Chunk, source: AsyncConnection, target: AsyncConnection) -> Transferred:
    name = str(chunk.table.table)
    what = f"copy of {name}"
    brake = job.brakes.of(name) if job.brakes else None
    out = copy_out(job.move.data_map, chunk.table, job.wave.source_id, chunk.first_ordinal, chunk.last_ordinal)
    lease = {"move": sql.Literal(job.move.move_id), "generation": sql.Literal(job.move.generation)}
    # Three round trips, whatever the statements: the line lies idle meanwhile.
    placed = job.stubs and chunk.table.table == job.move.data_map.subject.table
    taken = stubs.stage(job.move.data_map, chunk.table) if placed else copy_in(chunk.table)
    begin = sql.SQL(_BEGIN_CHUNK).format(**lease, copy=taken)
    try:
        moved = await transfer(source, target, (out, begin), job.stop, what, brake)
    except DomicileError as error:
        if error.facts.get("sqlstate") == REFUSED:
            raise lease_lost(job.move.move_id, job.move.generation) from None
        raise
    progress = {
        "wave": job.wave.target_id,
        "table": name,
        "first": chunk.first_cell,
        "last": chunk.last_cell,
        "rows": moved.rows,
        "bytes": moved.bytes,
    }
    end = sql.SQL(_END_CHUNK).format(**{field: sql.Literal(value) for field, value in progress.items()})
    with told("target", what):
        if placed:
            await target.execute(stubs.place(job.move.data_map, chunk.table))
        await target.execute(end)
    return moved


async def _stubs_expected(move: Move) -> bool:
    async with move.pool.session(move.target) as target:
        return await stubs.expected(target, move.data_map)


async def _keep_seam(move: Move, wave: WaveAtSites, seam: str, position: int) -> None:
    async with move.pool.session(move.target) as target, target.transaction():
        await assert_lease(target, move.move_id, move.generation)
        await waves.set_seam(target, wave.target_id, seam, position)


async def _prove_deferrable_keys(move: Move, wave: WaveAtSites) -> None:
    async with move.pool.session(move.target) as target:
        found = await deferred_keys.broken(target, move.data_map, move.target_schema, wave.target_id)
    if found:
        raise DomicileError(
            ErrorCode.KEYS_COLLIDE,
            f"{sum(c.count for c in found)} rows of the wave have a deferrable key that another row has too",
            facts={"collisions": [c.as_dict() for c in found]},
            safe="The wave was not handed over; the source serves.",
            hint="Give the rows other keys at one of the sites, then run apply again.",
        )


async def _progress(move: Move, wave: WaveAtSites) -> tuple[set[tuple[str, int]], int, float]:
    """The cells that are at the target, where the wave's ordinals end, and how many seconds such a question takes."""
    async with move.pool.session(move.target) as target:
        with told("target", "read the progress"):
            cursor = await target.execute(_DONE, (wave.target_id,))
            done = {(str(table), int(chunk)) for table, chunk in await cursor.fetchall()}
            begun = time.monotonic()
            return done, await waves.last_ordinal(target, wave.target_id), time.monotonic() - begun


def _scanned_tables(move: Move, wave: WaveAtSites) -> set[TableName]:
    """Tables of which each chunk would read everything."""
    share = wave.subjects / move.plan.cohort.size
    return {
        plan.table
        for plan in move.plan.tables
        if not path_is_indexed(move.data_map, move.source_schema, plan.table)
        or plan.rows * share > SCAN_FROM * move.source_schema.tables[plan.table].rows_estimate
    }


def _levels(data_map: DataMap, todo: Iterable[Chunk]) -> list[deque[Chunk]]:
    """Chunks by the length of their table's owner path, the subject's own table first; table order within."""
    by_length: dict[int, deque[Chunk]] = {}
    for chunk in todo:
        by_length.setdefault(len(data_map.path(chunk.table.table)), deque()).append(chunk)
    return [by_length[length] for length in sorted(by_length)]


def _runs(cells: Sequence[int], longest: int) -> Iterable[tuple[int, int]]:
    """Neighbouring cells joined into runs of at most ``longest``."""
    start = 0
    for position in range(1, len(cells) + 1):
        ended = position == len(cells) or cells[position] != cells[position - 1] + 1
        if ended or position - start >= longest:
            yield cells[start], cells[position - 1]
            start = position


@asynccontextmanager
async def _exported_snapshot(move: Move) -> AsyncIterator[tuple[str, str]]:
    """One snapshot of the source that others may join while the context lasts: its name, and what it sees."""
    async with move.pool.session(move.source) as conn:
        with told("source", "export a snapshot"):
            await conn.execute(_BEGIN)
            row = await (await conn.execute(_EXPORT)).fetchone()
        assert row is not None
        yield str(row[0]), str(row[1])


async def _all(streams: Iterable[Coroutine[None, None, None]]) -> None:
    """Run the streams together; the first failure stops the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream)
    except BaseExceptionGroup as failures:
        raise _first_cause(failures) from None


def _first_cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that made the others stop: they only say that they were interrupted."""
    for failure in failures.exceptions:
        if not (isinstance(failure, DomicileError) and failure.code is ErrorCode.INTERRUPTED):
            return failure
    return failures.exceptions[0]
