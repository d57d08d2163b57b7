"""A live wave while a process carries it: its stream at work, and its ways to both sites.

Everything in it can be made again after a crash: the index from the rows at the target, the position from what was
committed with them, the slot at the source. It holds nothing that must not be lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.move import verify
from domicile.move.carrier import APPLICATION_NAME, Carrier
from domicile.move.context import Move, WaveAtSites
from domicile.postgres import references, storage, waves
from domicile.postgres.connect import SESSION
from domicile.postgres.hashing import Mode as HashMode
from domicile.postgres.hashing import common_mode, probe
from domicile.postgres.lease import assert_lease, lease_lost
from domicile.postgres.storage import Leaf
from domicile.stream import compare, slot
from domicile.stream.ahead import kept
from domicile.stream.anew import AnewFilter
from domicile.stream.apply import Apply
from domicile.stream.catchup import CatchUp
from domicile.stream.change import Key
from domicile.stream.compare import Keys, Side
from domicile.stream.filter import WaveFilter
from domicile.stream.index import load as load_index
from domicile.stream.layout import Layout, build_layout, read_identities
from domicile.stream.reader import open_reader
from domicile.stream.reparent import Reparent
from domicile.stream.seam import Seam

_XMIN = "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text"

T = TypeVar("T")


@dataclass(slots=True)
class LiveWave:
    """``source`` and ``target`` are sessions for questions, in autocommit, fit for joins with a few keys; ``here`` and
    ``there`` are how touched rows are read in them. ``reading`` are two more, for snapshots of both sites."""

    carrier: Carrier
    wave: WaveAtSites
    mode: HashMode
    layout: Layout
    catchup: CatchUp
    apply: Apply
    reparent: Reparent
    source: AsyncConnection
    target: AsyncConnection
    reading: tuple[AsyncConnection, AsyncConnection]
    here: Side
    there: Side
    seal: str  # of the publication, which nobody may change under the stream
    leaves: frozenset[Leaf]  # of the tables at the source, when the wave was last compared in full
    closed: bool = field(default=False, init=False)  # the session at the target was given up, to know where it stands
    looking: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)  # held while the monitor asks the sites
    waited_ms: float = field(default=0.0, init=False)  # the longest that a writer may have waited
    root: str = field(default="", init=False)  # of the verdict
    watched: list[asyncio.Task[None]] = field(repr=False)  # the stream, and the monitor: they do not end by themselves

    @property
    def move(self) -> Move:
        return self.carrier.move

    def raise_failure(self) -> None:
        """Raise why the stream or the monitor is over, if one is: the wave must be opened anew, or ends."""
        for task in self.watched:
            if task.done():
                task.result()

    async def beside(self, work: Awaitable[T]) -> T:
        """``work``, unless the stream or the monitor fails before: then that failure, and the work is cancelled."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, *self.watched], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.raise_failure()
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """The monitor asks nothing while the block runs: somebody waits, and it can ask later."""
        await self.beside(self.looking.acquire())
        try:
            yield
        finally:
            self.looking.release()

    def waited(self, milliseconds: float) -> None:
        """A writer of the wave may have waited for so long."""
        self.waited_ms = max(self.waited_ms, milliseconds)

    def touched(self) -> dict[int, dict[Key, int]]:
        """Keys of the rows that were touched since they were compared, each with the short id of the transaction that
        did it last."""
        return {no: dict(keys) for no, keys in self.apply.dirty.items() if keys}

    def dirty(self) -> Keys:
        """Their keys alone."""
        return {no: list(keys) for no, keys in self.touched().items()}

    def dirty_rows(self) -> int:
        """How many they are."""
        return sum(map(len, self.apply.dirty.values()))


@asynccontextmanager
async def open_live(carrier: Carrier, no: int, *, soaking: bool = False, anew: bool = False) -> AsyncIterator[LiveWave]:
    """The wave's stream runs while the block does. Raises stream-lost when it cannot go on where it stopped.

    ``soaking``: to a copy that stays closed, not to a site where the wave is to arrive. ``anew``: new rows are read as
    they are by now.
    """
    move = carrier.move
    async with AsyncExitStack() as stack:
        source, target, moving, *reading = [
            await stack.enter_async_context(session(move, conninfo))
            for conninfo in (move.source, move.target, move.source, move.source, move.target)
        ]
        wave = await carrier.wave_at_sites(source, target, no, soaking=soaking)
        record = await waves.stream_record(target, wave.target_id)
        await _require_slot(source, move, record)
        tables = move.data_map.in_scope()
        layout = await stream_layout(move, source)
        index = await load_index(target, layout, move.data_map, wave.target_id)
        filtering = AnewFilter if anew else WaveFilter
        wave_filter = filtering(layout, move.data_map, index, Seam.parse(record.seam), record.position)
        for ahead in await kept(target, index, wave.target_id):
            wave_filter.skip(ahead)
        name = slot.stream_name(move.stream_name, source.info.dbname)
        # From where every snapshot sees all, which is where the slot stands, but that of a way back: it keeps its whole
        # log. Of commits behind it, though applied or passed by before, it must be known whether they are visible.
        start = record.seen if move.back else 0
        reader = await stack.enter_async_context(open_reader(move.source, name, name, start, binary=layout.binary))
        apply = await stack.enter_async_context(
            Apply.open(move.target, layout, move.data_map, move.move_id, move.generation, wave.target_id)
        )
        await _require_unmoved(source, move, record, apply)
        reparent = Reparent(layout, move.data_map, index, wave_filter, apply, moving, wave.source_id)
        # The way back is read once for every wave, each from its own arrival on: none may let go of the log.
        horizon = partial(_horizon, moving)
        catchup = CatchUp(reader, wave_filter, apply, reparent, carrier.pacing.turn, horizon, keeps=move.back)
        mode = common_mode(await probe(source), await probe(target))
        stream = asyncio.create_task(catchup.run())
        try:
            yield LiveWave(
                carrier, wave, mode, layout, catchup, apply, reparent, source, target, (reading[0], reading[1]),
                compare.side(layout, move.data_map, verify.shapes(move, move.source_schema, mode), wave.source_id),
                compare.side(
                    layout, move.data_map, verify.shapes(move, move.target_schema, mode), wave.target_id,
                    references.to_prove(move.data_map, move.source_schema, move.target_schema),
                ),
                await slot.seal(source, move.stream_name), await storage.leaves(source, tables), [stream],
            )  # fmt: skip
        finally:
            stream.cancel()
            await asyncio.wait([stream])
            stream.cancelled() or stream.exception()  # behind the arrival its failure is nobody's business


async def stream_layout(move: Move, source: AsyncConnection) -> Layout:
    """How the stream out of the source names rows. Raises plan-refused when its tables can be streamed no longer."""
    identities = await read_identities(source, move.data_map.in_scope())
    return build_layout(move.data_map, move.plan.tables, move.source_schema, identities)


@asynccontextmanager
async def session(move: Move, conninfo: str) -> AsyncIterator[AsyncConnection]:
    """A session in autocommit, fit for joins with a few keys, for one block."""
    settings = {**SESSION, **compare.SETTINGS}
    async with move.pool.session(conninfo, application_name=APPLICATION_NAME, settings=settings) as conn:
        conn.prepared_max = None  # a rehearsed statement that others push out would be planned while writers wait
        yield conn


async def _horizon(source: AsyncConnection) -> int:
    """Every transaction below this id is visible to every snapshot from now on, or was rolled back."""
    row = await (await source.execute(_XMIN)).fetchone()
    assert row is not None
    return int(row[0])


async def _require_slot(source: AsyncConnection, move: Move, record: waves.StreamRecord) -> None:
    """The slot is where the stream stopped, or before it: otherwise changes would be missing."""
    lease = partial(assert_lease, source, move.move_id, move.generation)
    facts = await slot.wait_free(source, move.stream_name, lease=lease)
    if facts is not None and not facts.lost and record.seam and facts.confirmed <= record.position:
        return
    raise DomicileError(
        ErrorCode.STREAM_LOST,
        "the change stream at the source cannot be continued where it stopped",
        facts={"slot": facts is not None, "lost": facts.reason if facts else ""},
        safe="The wave steps back; the source serves and nothing has changed.",
        hint=f"Begin the wave again with: domicile resume {move.move_id}",
    )


async def _require_unmoved(source: AsyncConnection, move: Move, record: waves.StreamRecord, apply: Apply) -> None:
    """Nobody has carried the wave on while this stream was opened; now nobody else can, because the slot is ours.

    A process that slept on the way, and was taken over, has read an index that is too old: with it the filter would
    take rows that others have been given since for the wave's, and send them.
    """
    facts = await slot.inspect(source, move.stream_name)
    unmoved = (apply.position, apply.rounds.term) == (record.position, record.term)
    if not unmoved or facts is None or facts.confirmed > record.position:
        raise lease_lost(move.move_id, move.generation)
