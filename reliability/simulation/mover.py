"""A process that carries the move: the phases around a live wave, wave by wave, in either direction; and the purge.

Mirrors move/run.py, copy.py, stepback.py, rollback.py, purge.py and streams.py, one commit at a time: they are SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import psycopg

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import ORDER, Phase
from domicile.move import live_handover
from domicile.postgres.waves import target_mark
from domicile.stream import ahead
from domicile.stream.index import empty_index
from domicile.stream.seam import Seam
from reliability.simulation import live, tables
from reliability.simulation.clock import Killed, Process, pause
from reliability.simulation.flaws import Flaw
from reliability.simulation.guard import LOOK_SECONDS
from reliability.simulation.live import MOVE, Crossing
from reliability.simulation.marks import Marks, free, lease_lost
from reliability.simulation.origin import Conn, unreachable
from reliability.simulation.site import Event, Record, Site, Slot, Snapshot
from reliability.simulation.tables import LAYOUT, NAMES
from reliability.simulation.world import World

RETRY_SECONDS = 0.3
HANDED_OVER = (Phase.SOAK, Phase.ROLLBACK, Phase.PURGE, Phase.DONE)


async def carry(world: World, marks: Marks, process: Process, generation: int) -> None:
    """Carry out what is ordered, until there is nothing more, or this process can do no more."""
    mover = Mover(world, marks, process, generation)
    try:
        await mover.run()
    except (DomicileError, psycopg.OperationalError) as why:
        world.note(f"{process.name} ends: {why}")
    except (Killed, asyncio.CancelledError):
        world.note(f"{process.name} is no more")
    finally:
        if not process.dead:
            world.kill(process)


class _Hands:
    """What every phase does: a commit in the control database, one at a site."""

    def __init__(self, world: World, marks: Marks, process: Process, generation: int) -> None:
        self.world, self.marks, self.process, self.generation = world, marks, process, generation
        self.there = Crossing(world, marks, process, generation, back=False)
        self.back = self.there.reversed()

    async def _register(self, site: Site) -> None:
        """The lease is taken over: whoever had it ends first."""
        await free(site)
        site.generation = max(site.generation, self.generation)

    async def _control(self, what: Callable[[], Any]) -> Any:
        return await self.world.ask_control(self.process, what)

    async def _enter(self, no: int, phase: Phase) -> None:
        await self._control(lambda: self.world.control.enter(no, phase))

    def _no_order(self) -> None:
        self.world.control.order = ""

    async def _write_rows(self, conn: Conn, wave: int, term: int, events: list[Event]) -> None:
        """One transaction, begun in the term: who settles a doubt waits for its end, and it cannot commit later."""

        def work(site: Site) -> None:
            if wave not in site.waves or site.waves[wave].term != term:
                raise lease_lost()
            codes = {row[tables.CODE] for row in site.rows[tables.ORDERS].values()}
            for no, _, new in events:
                if new is not None and (new[0] in site.rows[no] or (no == tables.ORDERS and new[tables.CODE] in codes)):
                    raise DomicileError(ErrorCode.KEYS_COLLIDE, f"a row of {NAMES[no]} is there already")
            site.commit_now(events, self.world.loop.now)

        await self.marks.write(conn, self.generation, work)

    async def _clean(self, conn: Conn, no: int) -> None:
        """Remove the wave's rows and its record from a site where it is not home."""
        await self._remove(conn, no)

        def forget(site: Site) -> None:
            site.waves.pop(no, None)
            site.members.pop(no, None)

        await self.marks.write(conn, self.generation, forget)

    async def _remove(self, conn: Conn, no: int) -> None:
        """What is the wave's at a site where it is not home; what was read ahead of its stream, too."""

        kept = await ahead.kept(cast("Any", conn), empty_index(LAYOUT), no)
        read = [row for one in kept for row in one.entered]

        def events(site: Site) -> list[Event]:
            there = [(table, key) for table, key in read if key in site.rows[table]]
            listed = dict.fromkeys([*there, *site.owned(no)]) if no in site.members else ()
            return [(table, site.rows[table][key], None) for table, key in listed]

        async def work(site: Site) -> None:
            life = site.life
            while site.held(removed := events(site)):  # an application that is about to be refused
                await pause(LOOK_SECONDS)
            if site.life != life:
                raise psycopg.OperationalError
            self.world.truth.removed(site, [(table, old[0]) for table, old, _ in removed if old is not None])
            site.commit_now(removed, self.world.loop.now)

        await self.marks.write(conn, self.generation, work)


class _There(_Hands):
    """A wave on its way, or back to where nothing has happened."""

    async def _move(self, no: int) -> None:
        phase = self.world.control.phase[no]
        try:
            # Of a copy that was cut nothing is kept; and a step back that was cut goes on.
            if phase in (Phase.PREPARE, Phase.COPY) or no in self.world.control.failed:
                await self._step_back(no)
                return
            if phase is Phase.PLANNED:
                await self._prepare(no)
                await self._copy(no)
                await self._enter(no, Phase.CATCHUP)
            await live.run(self.there, no)
            for following in (Phase.VERIFY, Phase.HANDOVER, Phase.SOAK):
                if ORDER.index(self.world.control.phase[no]) < ORDER.index(following):
                    await self._enter(no, following)
        except DomicileError as why:
            if why.code is ErrorCode.LEASE_LOST:
                raise
            self.world.failed(self.process, why)
            await self._control(lambda: self.world.control.failed.add(no))
            await self._step_back(no)
            await asyncio.sleep(RETRY_SECONDS)

    async def _prepare(self, no: int) -> None:
        await self._enter(no, Phase.PREPARE)
        world, members = self.world, self.world.members[no]
        await self._control(lambda: world.control.reserved.add(no))
        async with self.there.sites() as (source, target):
            await self._make_slot(source, "there")
            if not any(phase in HANDED_OVER for phase in world.control.phase.values()):
                await self._make_slot(target, "back")
            for conn, mark in ((source, "open"), (target, "arriving")):
                await self.marks.write(conn, self.generation, partial(_insert_wave, no=no, mark=mark, members=members))

    async def _make_slot(self, conn: Conn, name: str) -> None:
        """As `slot.create`: nothing is copied before everybody sees what the slot passes by."""
        if not await conn.line.ask(partial(_make_slot, conn.site, name)):
            return
        if Flaw.PASSED_BY not in self.world.flaws:
            await conn.line.ask(partial(_until_seen, conn.site))
        await self.marks.write(conn, self.generation, partial(_note_begun, name=name))

    async def _copy(self, no: int) -> None:
        """One snapshot; its seam is kept before the first row."""
        await self._enter(no, Phase.COPY)
        async with self.there.sites() as (source, target):
            confirmed = await source.line.ask(lambda: _confirmed(source.site))
            await source.execute("begin")
            await source.ask(lambda _rows: None)
            snapshot = cast("Snapshot", source.snapshot)
            seam = snapshot.seam
            if Flaw.SEAM_BY_POSITION in self.world.flaws:
                seam = Seam(source.site.next_xid, source.site.next_xid, frozenset())
            term = await self.marks.write(target, self.generation, partial(_keep_seam, no=no, seam=seam, at=confirmed))
            members = self.world.members[no]
            for table in range(len(NAMES)):
                listed = [r for r in snapshot.rows[table].values() if self._is_mine(snapshot, table, r, members)]
                for row in listed:
                    self.world.truth.crosses(table, row, members)
                await source.execute("pg_current_snapshot")  # the rows take their time
                events: list[Event] = [(table, None, row) for row in listed]
                await self._write_rows(target, no, term, events)
                await self.there.reach("copy.chunk")

    def _is_mine(self, snapshot: Snapshot, table: int, row: tables.Row, members: frozenset[int]) -> bool:
        return tables.owner_in(snapshot.rows, table, row) in members

    async def _step_back(self, no: int) -> None:
        """The source opens first, the target is cleaned after; a wave that is home there goes forward."""
        async with self.there.sites() as (source, target):
            await self.marks.settle_doubt(target, MOVE, self.generation)
            record = await self.marks.find_wave(target, MOVE, no)
            if target_mark(record) is TargetMark.RESIDENT and Flaw.BLIND_STEP_BACK not in self.world.flaws:
                await self._control(lambda: self.world.control.failed.discard(no))
                return
            await self.marks.settle_doubt(source, MOVE, self.generation)
            there = await self.marks.find_wave(source, MOVE, no)
            if there is not None and there.mark != SourceMark.OPEN:
                await self.marks.assert_lease(source, MOVE, self.generation)
                await self.marks.set_fence(source, no, SourceMark.OPEN, "source", 0)
            await self.there.reach("stepback.source_open")
            if record is not None:
                await self._clean(target, no)
            await source.line.ask(lambda: source.site.slots.pop("there", None))

        def stepped_back() -> None:
            self.world.control.failed.discard(no)
            self.world.control.reserved.discard(no)
            self.world.control.enter(no, Phase.PLANNED)

        await self._control(stepped_back)
        self.world.count("step backs")


class _Back(_There):
    """The way back, and what comes after."""

    async def _roll_back(self, no: int) -> None:
        async with self.back.sites() as (losing, gaining):
            if await losing.line.ask(lambda: "back" not in losing.site.slots):
                await self._control(self._no_order)
                return
            await self._control(lambda: self._going_back(no))
            await self.marks.write(gaining, self.generation, partial(_begin_back, losing=losing.site, no=no))
            await self.back.reach("rollback.prepared")
        try:
            await live.run(self.back, no)
        except DomicileError as why:
            if why.code is ErrorCode.LEASE_LOST:
                raise
            self.world.failed(self.process, why, back=True)
            await self._control(self._no_order)
        await self._settle_rollback(no)

    def _going_back(self, no: int) -> None:
        self.world.control.enter(no, Phase.ROLLBACK)
        self.world.control.reserved.add(no)

    async def _settle_rollback(self, no: int) -> None:
        """The wave lives at one site again, and its phase says where."""
        control = self.world.control
        if await live_handover.recover(cast("Any", self.back), no):

            def is_home() -> None:
                control.enter(no, Phase.PLANNED)
                control.home_again.add(no)

            await self._control(is_home)
            return
        async with self.back.sites() as (_, gaining):
            await self.marks.settle_doubt(gaining, MOVE, self.generation)
            record = await self.marks.find_wave(gaining, MOVE, no)
            assert record is not None
            if record.mark == TargetMark.ARRIVING:
                await self.marks.assert_lease(gaining, MOVE, self.generation)
                await self.marks.set_fence(gaining, no, SourceMark.DEPARTED, "target", record.epoch - 1)

        def lives_on() -> None:
            control.reserved.discard(no)
            control.enter(no, Phase.SOAK)

        await self._control(lives_on)

    async def _purge(self, no: int) -> None:
        """The way back is closed first; then the source is asked whose copy this is."""
        async with self.there.sites() as (source, target):
            await target.line.ask(lambda: target.site.slots.pop("back", None))
            at_source = await self.marks.find_wave(source, MOVE, no)
            at_target = await self.marks.find_wave(target, MOVE, no)
            lives_there = at_source is not None and at_source.mark == SourceMark.DEPARTED
            if not (lives_there and target_mark(at_target) is TargetMark.RESIDENT):
                if Flaw.BLIND_PURGE not in self.world.flaws:
                    await self._control(self._no_order)
                    return
            elif self.world.control.phase[no] is Phase.SOAK:
                await self._enter(no, Phase.PURGE)
            await self._remove(source, no)
            await self.there.reach("purge.chunk")
        self.world.count("purges")
        await self._control(partial(self._purged, no))

    def _purged(self, no: int) -> None:
        control = self.world.control
        control.home_again.discard(no)
        if control.phase[no] is Phase.PURGE:
            control.enter(no, Phase.DONE)

    async def _clear(self, no: int) -> None:
        """What a rollback left at the target."""
        async with self.there.sites() as (source, target):
            home = await self.marks.find_wave(source, MOVE, no)
            copy = await self.marks.find_wave(target, MOVE, no)
            if copy is None or copy.mark != SourceMark.DEPARTED or target_mark(home) is not TargetMark.RESIDENT:
                raise unreachable("target")
            await self._clean(target, no)
        self.world.count("purges")


class Mover(_Back):
    """One process, with its lease's generation."""

    async def run(self) -> None:
        async with self.there.sites() as sites:
            for conn in sites:
                await conn.line.ask(partial(self._register, conn.site))
        while (todo := await self._control(self._choose)) is not None:
            what, no = todo
            self.world.note(f"{self.process.name}: {what.__name__} wave {no}")
            await what(no)

    def _choose(self) -> tuple[Callable[[int], Any], int] | None:
        control = self.world.control
        for no, phase in control.phase.items():
            if phase is Phase.ROLLBACK:
                return self._settle_rollback, no
        waves = list(control.phase.items())
        for no, phase in reversed(waves) if control.order == "rollback" else waves:
            match control.order:
                case "move" if phase not in HANDED_OVER and no not in control.home_again:
                    return self._move, no
                case "rollback" if phase is Phase.SOAK:
                    return self._roll_back, no
                case "purge" if phase in (Phase.SOAK, Phase.PURGE):
                    return self._purge, no
                case "purge" if no in control.home_again and no in self.world.sites["target"].waves:
                    return self._purge if Flaw.BLIND_PURGE in self.world.flaws else self._clear, no
        control.order = ""
        return None


async def _make_slot(site: Site, name: str) -> bool:
    """It begins when every transaction of this moment has ended. A server does not wait for one that begins, and whose
    commit is in the log, meanwhile: neither the slot nor a snapshot taken at once has it. False where it is there."""
    if name in site.slots and site.slots[name].begun:
        return False
    site.slots.pop(name, None)  # its maker died on the way, and nobody has read from it
    running = [txn for txn in site.active.values() if txn.xid]
    life = site.life
    while any(not txn.over for txn in running):
        await pause(LOOK_SECONDS)
    if site.life != life:
        raise psycopg.OperationalError
    site.slots.setdefault(name, Slot(site.end_of_log, site.end_of_log))
    return True


async def _until_seen(site: Site) -> None:
    now, life = site.next_xid, site.life
    while site.horizon() < now:
        await pause(LOOK_SECONDS)
    if site.life != life:
        raise psycopg.OperationalError


def _note_begun(site: Site, name: str) -> None:
    if name in site.slots:
        site.slots[name].begun = True


def _confirmed(site: Site) -> int:
    if "there" not in site.slots:
        raise DomicileError(ErrorCode.STREAM_LOST, "the slot is gone")
    return site.slots["there"].confirmed


def _insert_wave(site: Site, no: int, mark: str, members: frozenset[int]) -> None:
    if no in site.waves:
        return
    epoch = 1 if mark == TargetMark.ARRIVING else 0
    site.waves[no], site.members[no] = Record(no, mark, "source", epoch), members
    if epoch:
        site.raise_fence()


def _keep_seam(site: Site, no: int, seam: Seam, at: int) -> int:
    """Returns the wave's term."""
    if no not in site.waves:
        raise lease_lost()
    site.waves[no].seam, site.waves[no].position = str(seam), at
    return site.waves[no].term


def _begin_back(site: Site, losing: Site, no: int) -> None:
    """As `rollback.begin_stream`: from the arrival on, whose own transaction counts as seen."""
    record = site.waves[no]
    if not record.seam:
        snapshot, own, position = losing.waves[no].arrival.split()
        record.seam = str(Seam.parse(snapshot).with_seen(int(own)))
        record.position = record.seen = int(position)
