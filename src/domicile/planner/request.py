"""What a plan is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from domicile.model.datamap import DataMap
from domicile.model.plan import Limits, SignUps, WayBack
from domicile.model.site import DatasetName, SiteName
from domicile.planner.estimate import LAB_RATES, Rates


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Who moves from where to where, and within which limits.

    Exactly one of ``where`` (a condition on the subject's columns or ``market``) and ``subjects`` (the
    lines of ``subjects_file``, one key each, empty lines kept so that line numbers are right) says who.
    ``made_at`` is ISO 8601, given by the caller: planning reads no clock.
    """

    dataset: DatasetName
    source: SiteName
    target: SiteName
    source_conninfo: str = field(repr=False)  # libpq conninfo: may hold a secret
    target_conninfo: str = field(repr=False)
    data_map: DataMap
    config_digest: str
    made_at: str
    where: str = ""
    subjects: Sequence[str] | None = field(default=None, repr=False)
    subjects_file: str = ""
    limits: Limits = field(default_factory=Limits)
    rates: Rates = LAB_RATES
    way_back: WayBack = WayBack.HOLD
    sign_ups: SignUps = SignUps.REFUSE
