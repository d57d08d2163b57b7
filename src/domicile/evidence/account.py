"""What the statements of a move say together: the rules its acts must follow, figures, and what is not shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from domicile.evidence.statement import (
    Abort,
    Approval,
    Copy,
    Gap,
    Handover,
    Pause,
    Plan,
    Predicate,
    Purge,
    Residual,
    Rollback,
    Scan,
    Statement,
    StepBack,
    Verdict,
)
from domicile.evidence.strict import Malformed

EQUAL = "equal"


@dataclass(slots=True)
class _Wave:
    """How far a wave is, as one log tells."""

    clean: bool = False
    root: str = ""  # of the latest verdict
    purged: bool = False
    lost: Gap | None = None  # the verdict that a failover took, until another one stands
    handovers: list[Handover] = field(default_factory=list)  # not taken back

    @property
    def away(self) -> bool:
        return bool(self.handovers) and not isinstance(self.handovers[-1], Rollback)

    def rests(self, act: Handover) -> bool:
        """Whether a departure rests on an equal verdict, or on one that a failover took."""
        told_lost = self.lost is not None and (self.lost.epoch, self.lost.root) == (act.epoch, act.root)
        return (self.clean and self.root == act.root) or told_lost

    @property
    def epoch(self) -> int:
        return self.handovers[-1].epoch if self.handovers else 0

    @property
    def home(self) -> str:
        return self.handovers[-1].home if self.handovers else ""


def check_acts(origin: str, statements: Sequence[Statement]) -> None:
    """The rules, for one log. Raises Malformed:

    - a log speaks for one site;
    - the epochs of a wave rise with every handover and rollback, those left out that were taken back;
    - a rollback follows a handover; after a purge a wave is neither handed over nor rolled back;
    - whoever a wave leaves has compared it: an ``equal`` verdict, the wave's latest, of the same root; or a gap, of the
      same epoch and root, says that a failover took that;
    - a step back with an epoch takes back the wave's latest departure, of that epoch;
    - a purge follows an ``equal`` verdict, the wave's latest, or a departure behind a gap; and the wave is at home at
      another site;
    - a purge follows approvals of it by as many different people as the log's plan asks for, of several the one that
      asks for the most;
    - a scan and a residual follow a purge.
    """
    waves: dict[int, _Wave] = {}
    asked, approvers = 0, set[str]()
    for place, said in enumerate(statements):
        act = said.predicate
        if act.site != statements[0].predicate.site:
            raise Malformed(f"{origin}, statement {place}: of another site")
        wave = waves.setdefault(getattr(act, "wave", -1), _Wave())
        purged = any(w.purged for w in waves.values())
        match act:
            case Plan():
                asked = max(asked, act.approvals)  # a later plan asks for no less
            case Approval(act="purge"):
                approvers.add(act.approver)
            case Purge() if len(approvers) < asked:
                raise Malformed(f"{origin}, statement {place}: a purge without the approvals that the plan asks for")
        why = f"a {act.kind} before a purge" if isinstance(act, Scan | Residual) and not purged else _breach(act, wave)
        if why:
            raise Malformed(f"{origin}, statement {place}: {why}")


def _breach(act: Predicate, wave: _Wave) -> str:
    match act:
        case Verdict():
            wave.clean = act.outcome == EQUAL and act.differences == 0
            wave.root = act.root
            wave.lost = None
        case Gap():
            wave.lost = act
        case Handover():
            if act.epoch <= wave.epoch:
                return "an epoch that does not rise"
            if wave.purged or (isinstance(act, Rollback) and not wave.away):
                return f"a {act.kind} after a purge, or a rollback of a wave that was not handed over"
            if act.home != act.site and not wave.rests(act):
                return "a departure without an equal verdict of its root before it"
            wave.handovers.append(act)
        case StepBack() if act.epoch:
            if wave.purged or wave.epoch != act.epoch or wave.home == act.site:
                return "a step back from a departure that is not the wave's latest"
            wave.handovers.pop()
        case Purge():
            if wave.home in ("", act.site) or not (wave.clean or wave.rests(wave.handovers[-1])):
                return "a purge without a clean verdict before it, or where the wave is at home"
            wave.purged = True
    return ""


def check_agreement(logs: Sequence[Sequence[Statement]]) -> None:
    """That all logs tell of the same handovers and rollbacks, wave by wave, in the same order; departures that were
    taken back are nobody's business. A gap needs a second log. Raises Malformed."""
    if len(logs) == 1 and any(isinstance(said.predicate, Gap) for said in logs[0]):
        raise Malformed("a verdict was lost in a failover, and no other log bears its departure out")
    told = [_handovers(found) for found in logs]
    for other in told[1:]:
        for wave in sorted(told[0].keys() | other.keys()):
            if told[0].get(wave) != other.get(wave):
                raise Malformed(f"wave {wave}: the logs tell of different handovers")


def _until(expires: int) -> str:
    try:
        return f", until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d}" if expires else ""
    except (OverflowError, ValueError, OSError):
        return f", until second {expires}"


def _handovers(statements: Sequence[Statement]) -> dict[int, list[tuple[str, int, str, str]]]:
    found: dict[int, list[tuple[str, int, str, str]]] = {}
    for act in _kept(statements):
        found.setdefault(act.wave, []).append((act.kind, act.epoch, act.home, act.root))
    return found


def _kept(statements: Sequence[Statement]) -> list[Handover]:
    """Handovers and rollbacks of one log, without the departures that were taken back. The acts follow the rules."""
    kept: list[Handover] = []
    for said in statements:
        match said.predicate:
            case Handover() as act:
                kept.append(act)
            case StepBack(wave=wave, epoch=epoch) if epoch:
                kept = [act for act in kept if (act.wave, act.epoch) != (wave, epoch)]
    return kept


@dataclass(frozen=True, slots=True)
class Account:
    """The acts of all logs. ``handovers`` and rollbacks are those that were not taken back."""

    acts: tuple[Predicate, ...]
    handovers: tuple[Handover, ...]

    @classmethod
    def of(cls, logs: Sequence[Sequence[Statement]]) -> Account:
        """Of the statements of each log."""
        acts = tuple(s.predicate for found in logs for s in found)
        return cls(acts, tuple(act for found in logs for act in _kept(found)))

    def figures(self) -> dict[str, object]:
        """What a reader wants to know. Handovers stand in both logs and are counted once."""
        handovers = self.handovers
        scans = [a for a in self.acts if isinstance(a, Scan)]
        purges = [a for a in self.acts if isinstance(a, Purge)]
        plans = [a for a in self.acts if isinstance(a, Plan)]
        return {
            "subjects": max((p.subjects for p in plans), default=0),
            "waves": max((p.waves for p in plans), default=0),
            "approvals_asked": max((p.approvals for p in plans), default=0),
            "approvals": len({a.approver for a in self.acts if isinstance(a, Approval)}),
            "undo_seconds": max((p.undo_seconds for p in plans), default=0),
            "rows_copied": sum(a.rows for a in self.acts if isinstance(a, Copy)),
            "verdicts_equal": sum(isinstance(a, Verdict) and a.outcome == EQUAL for a in self.acts),
            "verdicts_different": sum(isinstance(a, Verdict) and a.outcome != EQUAL for a in self.acts),
            "handovers": len({(h.wave, h.epoch) for h in handovers if not isinstance(h, Rollback)}),
            "rollbacks": len({(h.wave, h.epoch) for h in handovers if isinstance(h, Rollback)}),
            "steps_back": sum(isinstance(a, StepBack) for a in self.acts),
            "verdicts_lost": sum(isinstance(a, Gap) for a in self.acts),
            "waves_given_up": sum(a.waves for a in self.acts if isinstance(a, Abort)),
            "pause_us_max": max((a.pause_us for a in self.acts if isinstance(a, Pause)), default=0),
            "waves_purged": len({p.wave for p in purges}),
            "rows_purged": sum(p.rows for p in purges),
            "scans": len(scans),
            "copies_found": sum(s.copies_found for s in scans),
            "canaries_planted": sum(s.canaries_planted for s in scans),
            "canaries_found": sum(s.canaries_found for s in scans),
            "residuals": sum(isinstance(a, Residual) for a in self.acts),
        }

    def not_shown(self, logs: int) -> list[str]:
        """What a reader might take for shown, and is not."""
        purged = {a.wave for a in self.acts if isinstance(a, Purge)}
        handed = {a.wave for a in self.handovers}
        left = [a for a in self.acts if isinstance(a, Residual)]
        said = ["that the statements are true: they are the sites' own word, bound to their order"]
        if logs == 1:
            said.append("the other site's own account: only one log is here")
        for gap in (a for a in self.acts if isinstance(a, Gap)):
            lost = f"the verdict under which wave {gap.wave} departed from {gap.site}, epoch {gap.epoch}"
            said.append(f"{lost}: a failover took it there; the other site's log bears the handover out")
        if handed - purged:
            said.append(f"a purge of {len(handed - purged)} of {len(handed)} waves: their source copies may stand")
        if purged and not any(isinstance(a, Scan) for a in self.acts):
            said.append("what the purged rows have left on disk: nobody scanned for it")
        if any(a.copies_found or a.canaries_found < a.canaries_planted for a in self.acts if isinstance(a, Scan)):
            said.append("that nothing is left: a scan found copies, or missed a canary")
        said += dict.fromkeys(f"the end of residuals in {a.place}: {a.reason}{_until(a.expires)}" for a in left)
        return said
