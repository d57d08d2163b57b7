"""A worker: carries the moves that are ordered of its sites, and takes over those whose runner has died.

DBOS queues give the work out, one queue a site; the lease decides. Several workers of a site, on one machine or many,
share its moves. What nobody carries is seen in the control database every `LOOK_SECONDS` and put into the queue again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
import logging

import psycopg

from domicile.commands.desk import Desk, fit, open_desk, require_shared_control, runner_name
from domicile.control.lease import Lease, hold_lease, living_runner
from domicile.control.moves import MoveRecord
from domicile.control.orders import MOVE, Order
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.site import MoveId, SiteName
from domicile.model.workspace import Workspace
from domicile.move import begin
from domicile.move.carrier import Carrier
from domicile.move.durable import offer
from domicile.move.engine import StoodDown, launched, leave, leaving, queue_of, register_queue
from domicile.postgres.failures import told

LOOK_SECONDS = 2.0  # how often a worker looks for moves that nobody carries
WAIT_SECONDS = 1.0  # between two tries to get the lease of a move that another process holds
ARRIVED = (Phase.SOAK, Phase.PURGE, Phase.DONE)

log = logging.getLogger(__name__)


async def worker(workspace: Workspace, sites: Sequence[str], *, stop: asyncio.Event, moves_max: int = 1) -> int:
    """Carry what is ordered of the workers of ``sites``, up to ``moves_max`` moves of each site at a time, until
    ``stop`` is set: then every move at work comes to its next pause point and is left to other workers. Returns how
    many moves this worker had in hand.

    Raises config-invalid without a control database that others can reach, lease-lost when a move was taken over
    because this process was away, and site-unreachable when the control database is gone.
    """
    require_shared_control(workspace)
    names = [_known(workspace, site) for site in sites]
    me = _Worker(workspace, names)
    async with open_desk(workspace) as desk:
        async with launched(desk.conninfo, runner_name(), [queue_of(n) for n in names], me.board):
            for name in names:
                await register_queue(queue_of(name), moves_max=moves_max)
            log.info("worker %s: moves from %s, %d at a time", runner_name(), ", ".join(names), moves_max)
            with told("control database", "looking for moves to carry"):
                await me.serve(desk, stop)
                await leave()
                if me.loss is None:
                    await me.hand_back(desk)
    if me.loss is not None:
        raise me.loss
    log.info("worker %s: stopped", runner_name())
    return me.taken


@dataclass(slots=True)
class _Worker:
    workspace: Workspace
    sites: Sequence[SiteName]
    taken: int = 0
    loss: DomicileError | None = None
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: dict[MoveId, int] = field(default_factory=dict)  # the moves aboard: waves that live at the target
    left: set[MoveId] = field(default_factory=set)  # given back before they were through

    async def serve(self, desk: Desk, stop: asyncio.Event) -> None:
        """Look for work until ``stop`` is set or a lease is lost."""
        looking = asyncio.create_task(self._look_always(desk))
        ends = [asyncio.create_task(event.wait()) for event in (stop, self.lost)]
        try:
            await asyncio.wait([looking, *ends], return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                looking.result()  # it ends with an error only
        finally:
            for task in (looking, *ends):
                task.cancel()
            await asyncio.wait([looking, *ends])

    async def _look_always(self, desk: Desk) -> None:
        while True:
            await self._look(desk)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, desk: Desk) -> None:
        """Put every order that nobody carries out into the queue, and say how far our own moves are."""
        for order in await desk.orders.standing(self.sites):
            if order.move_id in self.arrived:
                await self._progress(desk, order)
            elif not await living_runner(desk.conn, order.move_id) and await offer(order, desk.orders):
                log.info("move %s: put into the queue of %s", order.move_id, order.source)

    async def hand_back(self, desk: Desk) -> None:
        """What we gave back goes into the queue at once, not when others notice."""
        for order in await desk.orders.standing(self.sites):
            if order.move_id in self.left and not await living_runner(desk.conn, order.move_id):
                await offer(order, desk.orders)

    @asynccontextmanager
    async def board(self, move_id: MoveId, kind: str) -> AsyncIterator[Carrier]:
        """Hold the move's lease while its workflow runs. Stands down when the order was withdrawn, when this worker is
        leaving, and when the move cannot be carried from here, which then stands in its status."""
        try:
            async with AsyncExitStack() as stack:
                desk = await stack.enter_async_context(open_desk(self.workspace))
                lease = await self._lease(stack, desk, move_id, kind)
                carrier = await _ready(desk, move_id, kind, lease)
                self.taken += 1
                self.arrived[move_id] = 0
                yield carrier
                await _say_end(desk, move_id)
        except StoodDown as end:
            self._note(move_id, end.lost)
            raise
        except DomicileError as error:
            if error.code is ErrorCode.LEASE_LOST:
                self.loss = error
                self._note(move_id, True)
            raise
        except psycopg.Error:
            self._note(move_id, True)  # the control database is gone, and the lease with it
            raise StoodDown(lost=True) from None
        finally:
            self.arrived.pop(move_id, None)

    async def _lease(self, stack: AsyncExitStack, desk: Desk, move_id: MoveId, kind: str) -> Lease:
        """The lease, as soon as nobody else holds it, while the order stands."""
        while True:
            former = (await _ordered(desk, move_id, kind)).runner
            try:
                lease = await stack.enter_async_context(hold_lease(desk.conn, desk.conninfo, move_id, runner_name()))
            except DomicileError as error:
                if error.code is not ErrorCode.MOVE_BUSY:
                    raise
                await asyncio.sleep(WAIT_SECONDS)
                continue
            record = await _ordered(desk, move_id, kind)
            if former:
                await desk.journal.event(move_id, None, "taken over", {"from": former, "by": runner_name()})
                log.info("move %s: taken over from %s", move_id, former)
            log.info("move %s: %s from %s to %s", move_id, kind, record.source, record.target)
            return lease

    def _note(self, move_id: MoveId, lost: bool) -> None:
        if not lost:
            if move_id in self.arrived:
                self.left.add(move_id)
                log.info("move %s: left at a pause point for another worker", move_id)
            return
        self.loss = self.loss or DomicileError(
            ErrorCode.LEASE_LOST,
            f"this worker carries move {move_id} no more",
            facts={"move": move_id},
            safe="It stopped before writing anything more; another worker goes on from the last commit.",
            hint="Start the worker again.",
        )
        log.warning("move %s: the lease is lost; nothing more is written", move_id)
        self.lost.set()

    async def _progress(self, desk: Desk, order: Order) -> None:
        waves = await desk.figures.waves(order.move_id)
        arrived = sum(w.phase in ARRIVED for w in waves)
        if order.kind == MOVE and arrived > self.arrived.get(order.move_id, arrived):
            self.arrived[order.move_id] = arrived
            log.info("move %s: %d of %d waves are home", order.move_id, arrived, len(waves))


async def _ordered(desk: Desk, move_id: MoveId, kind: str) -> MoveRecord:
    """The move, while its order stands and this worker is not about to leave."""
    record = await desk.moves.get(move_id)
    if leaving() or record.ordered != kind:
        raise StoodDown(lost=False)
    return record


async def _ready(desk: Desk, move_id: MoveId, kind: str, lease: Lease) -> Carrier:
    """What the phases need, and both sites know this lease. What forbids it fails the move: an operator must act."""
    try:
        carrier = await fit(desk, move_id, lease)
        await begin.enlist(carrier)
    except DomicileError as error:
        if error.code is ErrorCode.LEASE_LOST:
            raise
        await desk.moves.set_status(move_id, Status.FAILED, error)
        await desk.orders.withdraw(move_id)
        log.warning("move %s: cannot be carried from here: %s", move_id, error.message)
        raise StoodDown(lost=False) from None
    if kind == MOVE:
        await desk.moves.set_status(move_id, Status.RUNNING)
    return carrier


async def _say_end(desk: Desk, move_id: MoveId) -> None:
    now = await desk.status(move_id)
    arrived = sum(w.phase in ARRIVED for w in now.waves)
    code = next((w.error_code for w in now.waves if w.error_code), now.error_code)
    why = f" ({code})" if code else ""
    log.info("move %s: %s%s; %d of %d waves are home", move_id, now.status, why, arrived, len(now.waves))


def _known(workspace: Workspace, site: str) -> SiteName:
    name = SiteName(site)
    if name not in workspace.sites:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            f"there is no site {site!r} in the configuration",
            facts={"sites": sorted(workspace.sites)},
            hint="Name one of the sites of domicile.yaml, or add this one.",
        )
    return name
