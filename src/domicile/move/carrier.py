"""What carries a move: the move's facts, the control database and the directory. One per process and move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import AsyncConnection

from domicile.control.figures import Figures
from domicile.control.lease import Lease
from domicile.control.membership import Membership
from domicile.control.moves import Moves
from domicile.control.orders import Orders
from domicile.directory.directory import Directory
from domicile.ledger.evidence import Evidence
from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import Facts, SourceMark, TargetMark
from domicile.model.plan import Mode, Plan
from domicile.model.site import MoveId, SiteName
from domicile.move.context import Move, WaveAtSites
from domicile.move.pace import Pacing
from domicile.postgres import waves
from domicile.postgres.failures import explain, refusal_of, told

APPLICATION_NAME = "domicile mover"
# Registers a wave of late joiners at the source, by its number; who joins is the planner's business, which the mover
# does not know. (source, plan, map, move, number, generation) -> members, 0 when there is nobody.
Sweep = Callable[[AsyncConnection, Plan, DataMap, MoveId, int, int], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Carrier:
    """Given to every phase."""

    move: Move
    moves: Moves
    figures: Figures
    directory: Directory
    orders: Orders
    lease: Lease
    membership: Membership
    sweep: Sweep
    pacing: Pacing = field(default_factory=Pacing)
    evidence: Evidence | None = None  # what the sites' logs are told; None in a world without logs
    agents: Mapping[SiteName, Sequence[str]] = field(default_factory=dict)  # programs that scan beside a site's server

    @asynccontextmanager
    async def sites(self) -> AsyncIterator[tuple[AsyncConnection, AsyncConnection]]:
        """A connection to the source and one to the target (autocommit), for the block alone."""
        async with self.source() as source, self.target() as target:
            try:
                yield source, target
            except psycopg.Error as error:
                side = "source" if source.broken else "target" if target.broken else "source or target"
                raise explain(refusal_of(error), side, "carrying the wave") from None

    @asynccontextmanager
    async def source(self) -> AsyncIterator[AsyncConnection]:
        """A connection to the source."""
        async with self.move.pool.session(self.move.source, application_name=APPLICATION_NAME) as connection:
            with told("source", "carrying the wave"):
                yield connection

    @asynccontextmanager
    async def target(self) -> AsyncIterator[AsyncConnection]:
        """A connection to the target."""
        async with self.move.pool.session(self.move.target, application_name=APPLICATION_NAME) as connection:
            with told("target", "carrying the wave"):
                yield connection

    def reversed(self) -> Carrier:
        """What carries the move's waves back."""
        return replace(self, move=self.move.reversed())

    async def facts(self, source: AsyncConnection, target: AsyncConnection, no: int) -> Facts:
        """Both sites' marks of a wave, and whether it is published and fit."""
        move_id = self.move.move_id
        at_source = await waves.find_wave(source, move_id, no)
        at_target = await waves.find_wave(target, move_id, no)
        wave = await self.figures.wave(move_id, no)
        return Facts(
            source=waves.source_mark(at_source),
            target=waves.target_mark(at_target),
            published=await self.directory.reserved(move_id, no) == 0,
            fit=wave.verdict == "clean",
        )

    async def wave_at_sites(
        self, source: AsyncConnection, target: AsyncConnection, no: int, *, soaking: bool = False
    ) -> WaveAtSites:
        """The wave as both sites have it: arriving at the target (``soaking``: or gone from there, its copy closed); at
        the source fenced (cold) or served (live). Raises phase-forbids."""
        move_id = self.move.move_id
        at_source = await waves.find_wave(source, move_id, no)
        at_target = await waves.find_wave(target, move_id, no)
        expected = SourceMark.FENCED if self.move.mode is Mode.COLD else SourceMark.OPEN
        there = (TargetMark.ARRIVING, TargetMark.ABSENT) if soaking else (TargetMark.ARRIVING,)
        if (
            at_source is None
            or at_target is None
            or waves.source_mark(at_source) is not expected
            or waves.target_mark(at_target) not in there
        ):
            raise DomicileError(
                ErrorCode.PHASE_FORBIDS,
                f"wave {no} is not on its way between the sites",
                facts={
                    "source": waves.source_mark(at_source),
                    "target": waves.target_mark(at_target),
                },
                safe="The wave steps back; the source serves and nothing has changed.",
                hint=f"Begin the wave again with: domicile resume {move_id}",
            )
        subjects = await waves.count_members(source, at_source.id)
        epoch = at_target.epoch + (waves.target_mark(at_target) is TargetMark.ABSENT)  # under which it would arrive
        return WaveAtSites(no, at_source.id, at_target.id, subjects, epoch)
