"""The handover machine, interrupted after every action: never two homes, always a way on, always an end."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
import pytest

from domicile.model.handover import Action, Facts, SourceMark, TargetMark, next_action
from domicile.model.site import SiteName
from domicile.postgres import waves

COLD = Facts(SourceMark.FENCED, TargetMark.ARRIVING, published=False, fit=True)
LIVE = replace(COLD, source=SourceMark.CLOSING)
STEPS_MAX = 10


def carry_out(facts: Facts, action: Action) -> list[Facts]:
    """Every state a crash can leave while ``action`` runs: before it, and after each of its commits."""
    match action:
        case Action.DEPART:
            return [facts, replace(facts, source=SourceMark.DEPARTED)]
        case Action.ARRIVE:
            return [facts, replace(facts, target=TargetMark.RESIDENT)]
        case Action.PUBLISH:
            return [facts, replace(facts, published=True)]
        case Action.RETURN:  # a live wave is open again at once
            return [facts, replace(facts, source=SourceMark.FENCED), replace(facts, source=SourceMark.OPEN)]
        case Action.STEP_BACK:  # the source opens first, the target forgets after
            opened = replace(facts, source=SourceMark.OPEN)
            return [facts, opened, replace(opened, target=TargetMark.ABSENT)]
        case Action.FINISHED:
            return [facts]


def reachable(start: Facts) -> set[Facts]:
    """All states that crashes, recoveries and a verdict that turns out unfit can lead to."""
    seen: set[Facts] = set()
    waiting = [start]
    while waiting:
        facts = waiting.pop()
        if facts in seen:
            continue
        seen.add(facts)
        waiting += carry_out(facts, next_action(facts))
        # The target says no, an operator aborts, the lock or the tail is lost, at any moment before the arrival.
        waiting.append(replace(facts, fit=False))
        if facts.source is SourceMark.OPEN and facts.target is TargetMark.ARRIVING:
            waiting.append(replace(facts, source=SourceMark.CLOSING, fit=True))  # a live wave is tried again
    return seen


@pytest.mark.parametrize("begun", [COLD, LIVE])
def test_no_reachable_state_has_two_homes(begun: Facts) -> None:
    states = reachable(begun)
    assert len(states) >= 8
    assert not [s for s in states if s.two_homes()]


def test_a_process_without_lock_and_tail_takes_a_live_wave_back() -> None:
    """After a crash the wave's marks alone are known: nothing may depart, nothing arrive."""
    for source in (SourceMark.CLOSING, SourceMark.DEPARTED):
        facts = replace(LIVE, source=source, fit=False)
        assert next_action(facts) in (Action.STEP_BACK, Action.RETURN)


def test_the_check_for_two_homes_can_fail() -> None:
    assert Facts(SourceMark.OPEN, TargetMark.RESIDENT, published=True, fit=True).two_homes()
    assert Facts(SourceMark.CLOSING, TargetMark.RESIDENT, published=True, fit=True).two_homes()


def test_an_uninterrupted_handover_departs_arrives_publishes() -> None:
    for begun in (COLD, LIVE):
        assert uninterrupted(begun) == [Action.DEPART, Action.ARRIVE, Action.PUBLISH]


def uninterrupted(begun: Facts) -> list[Action]:
    facts, actions = begun, []
    while (action := next_action(facts)) is not Action.FINISHED:
        actions.append(action)
        facts = carry_out(facts, action)[-1]
    return actions


@given(st.data())
def test_every_crash_is_recovered_to_one_home(data: st.DataObject) -> None:
    """Interrupted anywhere, any number of times, the wave ends at exactly one home."""
    facts = replace(data.draw(st.sampled_from([COLD, LIVE])), fit=data.draw(st.booleans()))
    for _ in range(STEPS_MAX):
        facts = data.draw(st.sampled_from(carry_out(facts, next_action(facts))))
        assert not facts.two_homes()
    for _ in range(STEPS_MAX):
        action = next_action(facts)
        if action is Action.FINISHED or facts.target is TargetMark.ABSENT:
            break
        facts = carry_out(facts, action)[-1]
    at_target = facts.target is TargetMark.RESIDENT and facts.source is SourceMark.DEPARTED and facts.published
    at_source = facts.target is TargetMark.ABSENT and facts.source is SourceMark.OPEN
    assert at_target != at_source, facts


def test_after_the_arrival_only_forward() -> None:
    for facts in reachable(COLD) | reachable(LIVE):
        if facts.target is TargetMark.RESIDENT:
            assert next_action(facts) in (Action.PUBLISH, Action.FINISHED)


@pytest.mark.parametrize(("source", "target"), list(product(SourceMark, TargetMark)))
def test_every_pair_of_marks_has_an_answer(source: SourceMark, target: TargetMark) -> None:
    for published, fit in product((False, True), repeat=2):
        assert next_action(Facts(source, target, published, fit)) in Action


def test_an_unfit_wave_never_departs_nor_arrives() -> None:
    for source, target in product(SourceMark, TargetMark):
        assert next_action(Facts(source, target, published=False, fit=False)) not in (
            Action.DEPART,
            Action.ARRIVE,
        )


@pytest.mark.parametrize(
    ("mark", "losing", "gaining"),
    [
        (None, SourceMark.OPEN, TargetMark.ABSENT),
        ("open", SourceMark.OPEN, TargetMark.ABSENT),
        ("closing", SourceMark.CLOSING, TargetMark.RESIDENT),  # served until it has departed, on its way back too
        ("departed", SourceMark.DEPARTED, TargetMark.ABSENT),
        ("arriving", SourceMark.DEPARTED, TargetMark.ARRIVING),
        ("resident", SourceMark.OPEN, TargetMark.RESIDENT),
    ],
)
def test_a_site_s_record_is_read_from_either_side(mark: str | None, losing: SourceMark, gaining: TargetMark) -> None:
    record = None if mark is None else waves.WaveRecord(1, mark, SiteName("here"), 1)
    assert (waves.source_mark(record), waves.target_mark(record)) == (losing, gaining)
