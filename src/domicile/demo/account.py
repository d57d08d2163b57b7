"""What happened in a demo: everything that its faces show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from domicile.demo.customers import Writes
from domicile.demo.proof import Statement, TableCount
from domicile.evidence.verify import Outcome
from domicile.model.plan import Plan
from domicile.model.report import MoveReport, PurgeReport, VerifyReport

MB = 1_000_000
CERTIFICATE = "move.bundle.html"


@dataclass(frozen=True, slots=True)
class World:
    """What was generated. ``scale`` 1 is 20,000 users at the source."""

    scale: float
    users: int
    orders: int
    rows: int
    residents: int  # users who always lived at the target
    postgres: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A table on which the survey's draft and the committed data map differ."""

    table: str
    drafted: str
    decided: str
    owner: str  # as owner-step text, where it is owned


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The survey's draft: tables per role, and what the committed map decides otherwise."""

    roles: Mapping[str, tuple[str, ...]]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Stayed:
    """What stayed at the source, and why."""

    what: str
    users: int
    rows: int
    why: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """``other`` is the single-file verifier's word, empty where it is not at hand. ``folder`` stays when the demo is
    gone."""

    statements: int
    outcome: str
    other: str
    folder: str

    @property
    def proven(self) -> bool:
        """True when every verifier that was asked says so."""
        return self.outcome == Outcome.PROVEN and self.other in ("", str(Outcome.PROVEN))

    @property
    def certificate(self) -> str:
        """Where the page is."""
        return str(Path(self.folder) / CERTIFICATE)


@dataclass(frozen=True, slots=True)
class Account:
    """The account of one demo. ``stages`` are seconds; ``moving_seconds`` are those of apply, copies and proofs
    together."""

    world: World
    surveyed: Surveyed
    plan: Plan
    report: MoveReport
    verify: VerifyReport
    purge: PurgeReport
    stayed: tuple[Stayed, ...]
    writes: Writes
    evidence: Evidence
    statements: tuple[Statement, ...]
    tables: tuple[TableCount, ...]
    stages: Mapping[str, float]
    moving_seconds: float
    seconds: float

    @property
    def proven(self) -> bool:
        """True when the engine's verdicts and the demo's own statements all hold."""
        engine = self.verify.clean and self.writes.found.clean and not self.purge.left_at_source
        return engine and self.evidence.proven and all(s.holds for s in self.statements)

    @property
    def rows_per_second(self) -> float:
        """Rows moved over the whole time of apply: fences, copies and proofs included."""
        return self.report.rows / self.moving_seconds if self.moving_seconds else 0.0

    def as_dict(self) -> dict[str, object]:
        """The ``--json`` form."""
        status = self.report.status
        return {
            "proven": self.proven,
            "verdict": self.report.verdict,
            "users": sum(w.subjects for w in status.waves),
            "rows": self.report.rows,
            "mb": round(self.report.bytes / MB, 3),
            "seconds": round(self.moving_seconds, 3),
            "rows_per_s": round(self.rows_per_second),
            "rows_per_s_copying": round(self.report.rows_per_second),
            "fence_seconds": {
                "median": self.report.fence_seconds_median,
                "max": self.report.fence_seconds_max,
            },
            "traffic": self.writes.as_dict(),
            "world": asdict(self.world),
            "survey": {"roles": dict(self.surveyed.roles), "decisions": [asdict(d) for d in self.surveyed.decisions]},
            "plan": self._plan(),
            "move": {"id": status.move_id, "status": status.status, "waves": [asdict(w) for w in status.waves]},
            "verify": asdict(self.verify),
            "purge": asdict(self.purge),
            "evidence": {**asdict(self.evidence), "certificate": self.evidence.certificate},
            "stayed": [asdict(s) for s in self.stayed],
            "check": {
                "passed": all(s.holds for s in self.statements),
                "statements": [asdict(s) for s in self.statements],
                "tables": [asdict(t) for t in self.tables],
            },
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
            "total_seconds": round(self.seconds, 3),
        }

    def _plan(self) -> dict[str, object]:
        plan = self.plan
        return {
            "dataset": plan.dataset,
            "source": plan.source,
            "target": plan.target,
            "where": plan.cohort.where,
            "users": plan.cohort.size,
            "cohort_digest": plan.cohort.digest,
            "digest": plan.digest,
            "waves": len(plan.waves),
            "rows": plan.rows,
            "bytes": plan.bytes,
            "seconds_estimate": round(plan.seconds_estimate, 3),
            "checks_passed": sum(c.passed for c in plan.checks),
            "checks_failed": sum(not c.passed for c in plan.checks),
        }
