"""What every phase of a wave is given: the move's facts and its ways to the outside. Built once per process
and move."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from domicile.model.datamap import DataMap
from domicile.model.plan import Mode, Plan
from domicile.model.schema import Schema
from domicile.model.site import MoveId, SiteName
from domicile.move.failpoints import Failpoints
from domicile.postgres.pool import SessionPool

ReportRows = Callable[[int, int], Awaitable[None]]  # (rows, bytes) done since the last call


@dataclass(frozen=True, slots=True)
class Move:
    """One move as its phases see it. ``generation`` is this process's lease; both sites refuse writes under
    an older one."""

    move_id: MoveId
    plan: Plan
    data_map: DataMap
    source: str = field(repr=False)  # libpq conninfo: may hold a secret
    target: str = field(repr=False)
    source_schema: Schema
    target_schema: Schema
    generation: int
    failpoints: Failpoints
    mode: Mode = Mode.LIVE
    pool: SessionPool = field(default_factory=SessionPool, repr=False, compare=False)
    back: bool = False  # a rollback: source and target are exchanged, the wave leaves the plan's target

    @property
    def source_site(self) -> SiteName:
        return self.plan.source

    @property
    def target_site(self) -> SiteName:
        return self.plan.target

    @property
    def stream_name(self) -> str:
        """What slot and publication at the source are named after: one for each direction."""
        return f"{self.move_id}-back" if self.back else self.move_id

    def reversed(self) -> Move:
        """The same move in the other direction: what carries a wave there also carries it back."""
        return replace(
            self,
            plan=replace(self.plan, source=self.plan.target, target=self.plan.source),
            source=self.target,
            target=self.source,
            source_schema=self.target_schema,
            target_schema=self.source_schema,
            back=not self.back,
        )


@dataclass(frozen=True, slots=True)
class WaveAtSites:
    """A wave as registered in both databases: the local ids of ``domicile.wave`` and the number of
    members."""

    no: int
    source_id: int
    target_id: int
    subjects: int
    epoch: int
