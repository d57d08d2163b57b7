"""What every phase of a wave is given: the move's facts and its ways to the outside. Built once per process
and move."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from domicile.model.datamap import DataMap
from domicile.model.plan import Plan
from domicile.model.schema import Schema
from domicile.model.site import MoveId, SiteName
from domicile.move.failpoints import Failpoints

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

    @property
    def source_site(self) -> SiteName:
        return self.plan.source

    @property
    def target_site(self) -> SiteName:
        return self.plan.target


@dataclass(frozen=True, slots=True)
class WaveAtSites:
    """A wave as registered in both databases: the local ids of ``domicile.wave`` and the number of
    members."""

    no: int
    source_id: int
    target_id: int
    subjects: int
    epoch: int
