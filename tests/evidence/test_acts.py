"""What the acts in a bundle tell must be possible in their order, and in both logs: both verifiers judge it alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from tests.evidence.both import judged
from tests.evidence.story import NOON, SUBJECT, Story, digest

from domicile.evidence import bundle
from domicile.evidence.statement import (
    Approval,
    Copy,
    Gap,
    Handover,
    Plan,
    Predicate,
    Purge,
    Rollback,
    Scan,
    StepBack,
    Verdict,
)
from domicile.evidence.verify import verify

AT = ("us", NOON, 7)
ROOT = digest("root")
CLEAN, AWAY = Verdict(*AT, "equal", 1, 0, ROOT), Handover(*AT, "eu", 3, ROOT)
GONE = Purge(*AT, 1, "0/1", ROOT)


def _told(acts: Sequence[Predicate], change: Callable[[Story], None] = lambda _: None) -> tuple[str, str]:
    """The verdict on a move of whose wave 7 the source tells ``acts``, and the target what fits to them."""
    told = Story(waves=1)
    for act in acts:
        told.us.ledger.record(SUBJECT, act)
        if isinstance(act, Handover) and StepBack(*AT, act.epoch) not in acts:
            if act.home == "us":
                told.eu.ledger.record(SUBJECT, replace(CLEAN, site="eu"))
            told.eu.ledger.record(SUBJECT, replace(act, site="eu"))
    change(told)
    told.cosign()
    return judged(told.bundle(), told.keys)


def test_the_rules_that_acts_follow() -> None:
    back = Rollback(*AT, "us", 4, ROOT)
    again = replace(AWAY, epoch=5)
    refuted = ("refuted", "acts")
    assert _told([CLEAN, AWAY, back, again, GONE]) == ("proven", "")
    assert _told([CLEAN, again, StepBack(*AT, 5), StepBack(*AT, 0), AWAY, GONE]) == ("proven", "")
    assert _told([CLEAN, again, StepBack(*AT, 5)]) == ("proven", "")
    assert _told([CLEAN, AWAY, again, StepBack(*AT, 3)]) == refuted
    assert _told([StepBack(*AT, 3)]) == refuted
    assert _told([CLEAN, AWAY, back, StepBack(*AT, 4)]) == refuted  # it had come home
    assert _told([CLEAN, again, StepBack(*AT, 5), GONE]) == refuted
    assert _told([AWAY]) == refuted
    assert _told([CLEAN, replace(AWAY, root=digest("another"))]) == refuted
    assert _told([CLEAN, replace(AWAY, home="us"), GONE]) == refuted
    assert _told([AWAY, GONE]) == refuted
    assert _told([CLEAN, GONE]) == refuted
    assert _told([CLEAN, AWAY, back, GONE]) == refuted
    assert _told([CLEAN, replace(CLEAN, differences=1), AWAY, GONE]) == refuted
    assert _told([CLEAN, replace(CLEAN, outcome="different"), AWAY, GONE]) == refuted
    assert _told([CLEAN, AWAY, replace(AWAY)]) == refuted
    assert _told([back]) == refuted
    assert _told([CLEAN, AWAY, GONE, back]) == refuted
    assert _told([replace(CLEAN, site="eu")]) == refuted


def test_a_purge_without_the_approvals_that_the_plan_asks_for() -> None:
    """Two people: the same one twice is one, an approval of something else is none, one behind the purge is late."""
    plan = Plan("us", NOON, "orders", "us", "eu", "live", 6, 2, digest("cohort"), 2, 0)
    ana, bo = (Approval("us", NOON, "purge", digest(name), NOON, NOON + 9) for name in ("ana", "bo"))
    moved = [CLEAN, AWAY]

    def told(*acts: Predicate) -> tuple[str, str]:
        story = Story(waves=0, approvals=False)
        for act in acts:
            story.us.ledger.record(SUBJECT, act)
        story.eu.ledger.record(SUBJECT, replace(AWAY, site="eu"))
        story.cosign()
        return judged(story.bundle(), story.keys)

    refuted = ("refuted", "acts")
    assert told(plan, *moved, ana, bo, GONE) == ("proven", "")
    assert told(replace(plan, approvals=0), *moved, GONE) == ("proven", "")
    assert told(plan, *moved, ana, GONE) == refuted
    assert told(plan, *moved, ana, replace(ana, given=NOON + 1), GONE) == refuted
    assert told(plan, *moved, ana, replace(bo, act="rollback"), GONE) == refuted
    assert told(plan, *moved, ana, GONE, bo) == refuted
    assert told(plan, *moved, ana, replace(plan, approvals=0), GONE) == refuted


def test_a_verdict_that_a_failover_took() -> None:
    """A gap excuses one departure: of its epoch and root, which the other log has too."""
    lost = Gap(*AT, 3, ROOT)
    refuted = ("refuted", "acts")
    assert _told([lost, AWAY]) == _told([lost, AWAY, GONE]) == ("proven", "")
    assert _told([replace(CLEAN, outcome="different"), lost, AWAY]) == ("proven", "")
    assert _told([lost, AWAY, Rollback(*AT, "us", 4, ROOT), CLEAN, replace(AWAY, epoch=5), GONE]) == ("proven", "")
    assert _told([replace(lost, epoch=2), AWAY]) == refuted
    assert _told([replace(lost, root=digest("another")), AWAY]) == refuted
    assert _told([AWAY, lost]) == refuted
    assert _told([lost, replace(CLEAN, outcome="different"), AWAY]) == refuted
    assert _told([lost, AWAY, replace(CLEAN, differences=1), GONE]) == refuted
    assert _told([lost, AWAY, Rollback(*AT, "us", 4, ROOT), replace(AWAY, epoch=5)]) == refuted
    assert _told([lost, AWAY, StepBack(*AT, 3), GONE]) == refuted


def test_a_gap_is_named_and_needs_another_log(capsys: pytest.CaptureFixture[str]) -> None:
    told = Story(waves=0)
    for act in (Gap(*AT, 3, ROOT), AWAY):
        told.us.ledger.record(SUBJECT, act)
    told.eu.ledger.record(SUBJECT, replace(AWAY, site="eu"))
    told.cosign()
    raw = told.bundle()
    assert judged(raw, told.keys) == ("proven", "")
    assert "a failover took the verdict of wave 7, epoch 3: NOT shown" in capsys.readouterr().out
    report = verify(raw, told.keys)
    assert report.figures["verdicts_lost"] == 1
    assert any("under which wave 7 departed from us, epoch 3" in line for line in report.not_shown)
    alone = bundle.build(SUBJECT, told.parts()[1:], told.keys, told.us.log_signer)
    assert judged(alone, told.keys) == ("refuted", "agreement")


def test_a_scan_before_any_purge() -> None:
    told = Story(waves=0)
    told.us.ledger.record(SUBJECT, Scan(*AT[:2], "pages", "tables", 0, 1, 1))
    told.eu.ledger.record(SUBJECT, Copy("eu", NOON, 7, 1, 1))
    told.cosign()
    assert judged(told.bundle(), told.keys) == ("refuted", "acts")


def test_logs_that_disagree() -> None:
    def more(told: Story) -> None:
        told.eu.ledger.record(SUBJECT, replace(AWAY, site="eu", epoch=9))

    def other(told: Story) -> None:
        told.eu.ledger.record(SUBJECT, replace(AWAY, site="eu", root=digest("another")))

    assert _told([CLEAN, AWAY], more) == ("refuted", "agreement")
    assert _told([CLEAN], other) == ("refuted", "agreement")
