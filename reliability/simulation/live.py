"""A live wave in the simulation: the real stream, comparison and handover, opened on simulated lines.

Real: all of `domicile.stream` but its SQL and its socket, `live_handover.attempt` and `recover`, `live_verify` but the
first comparison in full. Mirrored here: move/live_wave.py (`open_live`), the loop of move/live.py, `live_verify.whole`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from copy import copy
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import psycopg

from domicile.directory.directory import Home
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.move import live_handover, live_verify
from domicile.move.live_wave import LiveWave
from domicile.postgres.waves import source_mark, target_mark
from domicile.stream import apply as real_apply
from domicile.stream import catchup as real_catchup
from domicile.stream import compare
from domicile.stream.ahead import kept
from domicile.stream.apply import Apply
from domicile.stream.catchup import CatchUp
from domicile.stream.filter import WaveFilter
from domicile.stream.index import OwnershipIndex, empty_index
from domicile.stream.pipeline import Statement
from domicile.stream.rounds import Rounds
from domicile.stream.seam import Seam
from reliability.simulation import destination, tables
from reliability.simulation.clock import Process, pause
from reliability.simulation.destination import Pipe, Session, does
from reliability.simulation.flaws import Flaw
from reliability.simulation.guard import LOOK_SECONDS, drain
from reliability.simulation.marks import Marks, lease_lost
from reliability.simulation.network import Line
from reliability.simulation.origin import Conn, SimReparent, SimSide, SlotReader, one_snapshot, unreachable
from reliability.simulation.plan import dice
from reliability.simulation.site import Site
from reliability.simulation.tables import DATA_MAP, LAYOUT
from reliability.simulation.world import World

MOVE = "move"
NEAR_SECONDS = 0.0015
UNREACHABLE_SECONDS_MAX = 4.0
FREE_SECONDS = 0.3
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.05, 1.0
LIMITS = SimpleNamespace(
    pause_ms_max=600, lock_timeout_ms=100, fence_seconds_max=1.0, catch_up_seconds_max=8.0, handover_tries=20
)
TRIED_AGAIN = (ErrorCode.FENCE_BUDGET, ErrorCode.PAUSE_BUDGET, ErrorCode.DISCREPANCY)


@contextmanager
def real_code(world: World, marks: Marks) -> Iterator[None]:
    """The real modules speak to this world as long as the context lasts: where they speak SQL, tell the time or draw
    a number."""
    clock = SimpleNamespace(monotonic=world.loop.time)
    numbers = SimpleNamespace(token_hex=lambda _bytes: world.marker())
    sites = SimpleNamespace(find_wave=marks.find_wave, source_mark=source_mark, target_mark=target_mark)
    replaced = (
        (real_catchup, "time", clock), (real_catchup, "ACKNOWLEDGE_SECONDS", 0.25),
        (real_apply, "leave", destination.leave), (real_apply, "gone", destination.gone),
        (live_handover, "time", clock), (live_handover, "secrets", numbers), (live_handover, "waves", sites),
        (live_handover, "guard", SimpleNamespace(set_fence=marks.set_fence)), (live_handover, "_arrive", _arrive),
        (live_handover, "assert_lease", marks.assert_lease), (live_handover, "settle_doubt", marks.settle_doubt),
        (live_handover, "wave_lock", SimpleNamespace(hold=marks.hold)),
        (live_verify, "secrets", numbers), (live_verify, "one_snapshot", one_snapshot),
        (live_verify, "require_same_leaves", _nothing), (compare, "refers", lambda *_: True),
    )  # fmt: skip
    with ExitStack() as stack:
        for module, name, stand_in in replaced:
            stack.enter_context(patch.object(module, name, stand_in))
        yield


def _arrive(live: Any, _wave: int) -> Statement:
    return does(partial(destination.arrive, site=live.move.target_site, epoch=live.wave.epoch))


async def _nothing(_live: object) -> None:
    """Partitions do not come and go here."""


class Crossing:
    """What carries a wave in one direction: a `Carrier` for the real code, and this process's ways to both sites."""

    def __init__(self, world: World, marks: Marks, process: Process, generation: int, *, back: bool) -> None:
        self.world, self.marks, self.process, self.generation = world, marks, process, generation
        ends = [world.sites["source"], world.sites["target"]]
        self.origin, self.destination = reversed(ends) if back else ends
        self.dice = dice(world.plan.seed, 3, generation)
        self.directory = self
        self.evidence = None  # this world has no logs
        self.slot = "back" if back else "there"
        self.move = SimpleNamespace(
            move_id=MOVE, generation=generation, back=back, data_map=DATA_MAP, failpoints=self,
            source_site=self.origin.name, target_site=self.destination.name,
            plan=SimpleNamespace(limits=LIMITS, dataset="shop"),
        )  # fmt: skip

    def reversed(self) -> Crossing:
        return Crossing(self.world, self.marks, self.process, self.generation, back=not self.move.back)

    async def reach(self, name: str) -> None:
        await self.world.reach(self.process, name)

    async def reserved(self, _move_id: str, no: int) -> int:
        control = self.world.control
        return await self.world.ask_control(self.process, lambda: int(no in control.reserved))

    async def publish(self, _dataset: str, _move_id: str, no: int, home: Home) -> None:
        def work() -> None:
            self.world.truth.told(no, self.world.sites[home.site])
            for user in self.world.members[no]:
                self.world.directory[user] = home.site
            self.world.control.reserved.discard(no)

        await self.world.ask_control(self.process, work)

    async def connect(self, site: Site) -> Conn:
        far = NEAR_SECONDS if site.name == "source" else self.world.far
        return Conn(await self.world.network.open(self.process, site, far, self.dice), self.world.loop.time)

    async def connect_all(self, sites: Sequence[Site]) -> list[Conn]:
        return [await self.connect(site) for site in sites]

    @asynccontextmanager
    async def sites(self) -> AsyncIterator[tuple[Conn, Conn]]:
        """A session at each; closed at the end of the block."""
        opened: list[Conn] = []
        try:
            opened += await self.connect_all((self.origin, self.destination))
            yield opened[0], opened[1]
        except psycopg.Error:
            raise unreachable("source or target") from None
        finally:
            for conn in opened:
                conn.line.cut(late=True, notice=0.01)


async def run(crossing: Crossing, no: int) -> None:
    """As in move/live.py: to the arrival, whatever breaks on the way; raises why it could not be."""
    loop = crossing.world.loop
    lost_since, pause = 0.0, PAUSE_SECONDS_MIN
    while True:
        begun = loop.time()
        try:
            if await live_handover.recover(cast("Any", crossing), no):
                return
            await _carry_over(crossing, no)
        except (DomicileError, psycopg.OperationalError) as trouble:
            why = trouble if isinstance(trouble, DomicileError) else unreachable("site")
            crossing.world.note(f"{crossing.process.name}: {why.code}: {why.message}")
            now = loop.time()
            if not lost_since or now - begun > UNREACHABLE_SECONDS_MAX:
                lost_since, pause = now, PAUSE_SECONDS_MIN
            if why.code is not ErrorCode.SITE_UNREACHABLE or now - lost_since > UNREACHABLE_SECONDS_MAX:
                raise why from None
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)


async def _carry_over(crossing: Crossing, no: int) -> None:
    async with open_live(crossing, no) as live:
        await crossing.reach("live.catchup")
        await live_verify.mark(live)
        await crossing.reach("live.verify")
        await _whole(live)
        await _hand_over(crossing, live, no)


@asynccontextmanager
async def open_live(crossing: Crossing, no: int) -> AsyncIterator[LiveWave]:
    """The wave's stream runs while the block does."""
    conns: list[Conn] = []
    stream: asyncio.Task[None] | None = None
    world, back = crossing.world, crossing.move.back
    here, there = crossing.origin, crossing.destination
    try:
        conns += await crossing.connect_all((here, there, here, here, there, there, here))
        source, target, moving, reading, other, applying, logged = conns
        epoch = await _epoch(crossing, source, target, no)
        record = await target.line.ask(lambda: copy(there.waves.get(no)))
        position = 0 if record is None else record.position
        if record is None or not record.seam or not await _slot_is_at(crossing, source, position):
            raise DomicileError(ErrorCode.STREAM_LOST, "the stream cannot be continued where it stopped")
        index = await target.ask(partial(_index, members=world.members[no]))
        seam = Seam.parse(record.seam)
        wave_filter = WaveFilter(LAYOUT, DATA_MAP, index, seam, position, part_changes=world.parts)
        for ahead in await kept(cast("Any", target), index, no):
            wave_filter.skip(ahead)
        rounds = Rounds(destination.dmls(no), cast("Any", MOVE), crossing.generation, record.term)
        rounds.tables = list(cast("Any", destination.TABLES))
        session = Session(there, no, world.flaws, world.loop.time, world.truth)
        apply = Apply(cast("Any", Pipe(applying.line, session, world.members[no])), rounds, position)
        setattr(apply, "flaws", world.flaws)  # noqa: B010 - for `SimReparent`
        await logged.line.ask(partial(_take_slot, here, crossing, logged.line))
        now = await target.line.ask(lambda: copy(there.waves.get(no)))
        unmoved = now is not None and (now.position, now.term) == (position, record.term)
        if not (unmoved and await _slot_is_at(crossing, source, position)):
            raise lease_lost()
        reader = SlotReader(logged.line, crossing.slot, record.seen if back else 0, world.flaws)
        reparent = SimReparent(LAYOUT, DATA_MAP, index, wave_filter, apply, cast("Any", moving), no)
        horizon = partial(_horizon, moving, world.flaws)
        catchup = CatchUp(cast("Any", reader), wave_filter, apply, reparent, _no_turn, horizon, keeps=back)
        catchup._acknowledged = world.loop.time()  # noqa: SLF001 - its default is the real clock's
        stream = asyncio.create_task(catchup.run())
        crossing.process.tasks.append(stream)
        world.count("streams")
        yield LiveWave(
            cast("Any", crossing), cast("Any", SimpleNamespace(no=no, source_id=no, target_id=no, epoch=epoch)),
            cast("Any", None), LAYOUT, catchup, apply, reparent, cast("Any", source), cast("Any", target),
            cast("Any", (reading, other)), cast("Any", SimSide(here, no)), cast("Any", SimSide(there, no)), "",
            frozenset(), [stream],
        )  # fmt: skip
    except psycopg.Error:
        raise unreachable("site") from None
    finally:
        for conn in conns:
            conn.line.cut(late=True, notice=0.01)
        if stream is not None:
            stream.cancel()
            await asyncio.wait([stream])


async def _slot_is_at(crossing: Crossing, source: Conn, position: int) -> bool:
    """Where the stream stopped, or before it."""
    slot = await source.line.ask(lambda: copy(source.site.slots.get(crossing.slot)))
    return slot is not None and (slot.confirmed <= position or Flaw.EARLY_ACK in crossing.world.flaws)


async def _take_slot(site: Site, crossing: Crossing, line: Line) -> None:
    """One session reads from a slot. Whoever has the lease ends one that is silent."""
    waited = 0.0
    while (slot := site.slots.get(crossing.slot)) is not None and isinstance(slot.reader, Line) and slot.reader.served:
        if waited > FREE_SECONDS and site.generation == crossing.generation:
            slot.reader.cut(late=False, notice=0.0)
            slot.reader.end()
        elif waited > 2 * FREE_SECONDS:
            raise DomicileError(ErrorCode.STREAM_BLOCKED, "another session reads from the slot")
        await pause(LOOK_SECONDS)
        waited += LOOK_SECONDS
    if slot is not None and line.served:
        slot.reader = line


async def _epoch(crossing: Crossing, source: Conn, target: Conn, no: int) -> int:
    """As `Carrier.wave_at_sites`: the wave is served here and expected there. Returns the epoch of its arrival."""
    at_source = await crossing.marks.find_wave(source, MOVE, no)
    at_target = await crossing.marks.find_wave(target, MOVE, no)
    there = (TargetMark.ARRIVING, TargetMark.ABSENT) if crossing.move.back else (TargetMark.ARRIVING,)
    served = at_source is not None and source_mark(at_source) is SourceMark.OPEN
    if not served or at_target is None or target_mark(at_target) not in there:
        raise DomicileError(ErrorCode.PHASE_FORBIDS, f"wave {no} is not on its way between the sites")
    return at_target.epoch + (target_mark(at_target) is TargetMark.ABSENT)


def _index(rows: tables.Tables, members: frozenset[int]) -> OwnershipIndex:
    """As `load`: from the rows at the destination."""
    index = empty_index(LAYOUT)
    index.members.update(members)
    for no, table in enumerate(rows):
        for key, row in table.items():
            if tables.owner_in(rows, no, row) in members:
                index.add(no, key, row)
    return index


async def _horizon(source: Conn, flaws: frozenset[Flaw]) -> int:
    if Flaw.UNSEEN_ACK in flaws:
        return 1 << 62
    return int((await (await source.execute("pg_snapshot_xmin")).fetchall())[0][0])


async def _no_turn() -> None:
    """Nobody holds the stream back here."""


async def _whole(live: LiveWave) -> None:
    """As `live_verify.whole`: every row of the wave, one snapshot of each site; what was touched since is excused."""
    await live_verify.visible(live)
    async with one_snapshot("source", live.reading[0]) as at_source:
        seam = Seam.parse(await at_source.ask("", live_verify._seen))  # noqa: SLF001 - the real question
        await live_verify.mark(live)
        async with one_snapshot("target", live.reading[1]) as at_target:
            members = cast("Crossing", live.carrier).world.members[live.wave.no]
            ours, theirs = [
                await sessions.ask("", partial(_of_wave, members=members)) for sessions in (at_source, at_target)
            ]
            await live_verify._note_unclear(live, seam, (at_source, at_target))  # noqa: SLF001
            excused = {(no, key) for no, keys in live_verify.unseen(live, seam).items() for key in keys}
            if {row for row in ours.items() ^ theirs.items() if row[0] not in excused}:
                raise DomicileError(ErrorCode.DISCREPANCY, "the wave is not at the destination what it is here")
    live_verify._compared(live, seam)  # noqa: SLF001


async def _of_wave(conn: Conn, members: frozenset[int]) -> dict[tuple[int, bytes], object]:
    def work(rows: tables.Tables) -> dict[tuple[int, bytes], object]:
        return {
            (no, key): (row, owner)
            for no, table in enumerate(rows)
            for key, row in table.items()
            if (owner := tables.owner_in(rows, no, row)) in members
        }

    found: dict[tuple[int, bytes], object] = await conn.ask(work)
    return found


async def _hand_over(crossing: Crossing, live: LiveWave, no: int) -> None:
    """As in move/live.py: try until it succeeds or the tries are used up."""
    world, pause = crossing.world, PAUSE_SECONDS_MIN
    asking, locking = await crossing.connect(crossing.origin), await crossing.connect(crossing.origin)
    try:
        for number in range(1, LIMITS.handover_tries + 1):
            await live_verify.mark(live)
            await live_verify.until_few(live)
            world.count("tries")
            try:
                entered = await live.beside(_close(crossing, live, asking, no))
                equal = await live.beside(live_verify.equal_rows(live))
                if Flaw.DIRECTORY_FIRST in world.flaws:
                    await crossing.publish("", MOVE, no, Home(crossing.move.target_site, live.wave.epoch))
                drains = live_handover.Drains(
                    entered, lambda: asking.line.ask(lambda: crossing.origin.entered), partial(_drain, crossing, asking)
                )
                await live_handover.attempt(live, drains, cast("Any", locking), equal)
                world.count("rollbacks" if crossing.move.back else "handovers")
                return
            except DomicileError as why:
                world.note(f"{crossing.process.name}: try {number}: {why.code}: {why.message}")
                if why.code not in TRIED_AGAIN or number == LIMITS.handover_tries:
                    raise
                live.raise_failure()
                if live.closed:
                    raise unreachable("target") from why
                if why.code is ErrorCode.DISCREPANCY:
                    await live_verify.touched_rows(live)
            await live.beside(asyncio.sleep(pause))
            pause = min(pause * 2, PAUSE_SECONDS_MAX)
    finally:
        asking.line.cut(late=True, notice=0.01)
        locking.line.cut(late=True, notice=0.01)


async def _close(crossing: Crossing, live: LiveWave, asking: Conn, no: int) -> int:
    """The wave is closing, and its writers from before have ended."""
    record = await crossing.marks.find_wave(asking, MOVE, no)
    assert record is not None
    if record.mark != SourceMark.CLOSING:
        await crossing.marks.assert_lease(asking, MOVE, crossing.generation)
        await crossing.marks.set_fence(asking, no, SourceMark.CLOSING, crossing.move.source_site, live.wave.epoch)
    await crossing.reach("live.closing")
    return await _drain(crossing, asking)


async def _drain(crossing: Crossing, asking: Conn) -> int:
    entered = await asking.line.ask(partial(drain, crossing.origin, LIMITS.fence_seconds_max, crossing.world.flaws))
    if entered is None:
        raise DomicileError(ErrorCode.FENCE_BUDGET, "the fence cannot close")
    return int(entered)
