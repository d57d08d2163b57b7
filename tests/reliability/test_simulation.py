"""The simulation: nothing is found in a hundred runs, what is planted is, and a run is the same everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
from reliability.simulation.__main__ import main, together
from reliability.simulation.controls import ALL, Control, found_by
from reliability.simulation.flaws import Flaw
from reliability.simulation.plan import Fault, plan_of
from reliability.simulation.run import run
from reliability.simulation.shrink import kind_of, shrunk

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(1, 101)
QUICK = (
    "outsiders' rows pass the filter",
    "a row that leaves is not seen",
    "the arrival has no tail",
    "what was applied is not skipped",
    str(Flaw.NO_LOCK),
    str(Flaw.NO_DELETE),
    str(Flaw.BLIND_PURGE),
    str(Flaw.BLIND_STEP_BACK),
    str(Flaw.DIRECTORY_FIRST),
)
_TELL = """
import hashlib
from reliability.simulation.plan import plan_of
from reliability.simulation.run import run
said = "\\n".join(line for seed in range(1, 13) for line in run(plan_of(seed), quiet=False).history)
print(len(said), hashlib.sha256(said.encode()).hexdigest())
"""


def test_nothing_is_found_and_everything_happens() -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        outcome = run(plan_of(seed))
        assert not outcome.found, f"python -m reliability.simulation --seed {seed}: {outcome.found}"
        counts.update(outcome.counts)
    missing = [str(kind) for kind in Fault if not counts[f"fault: {kind}"]]
    assert not missing
    for what in ("handovers", "rollbacks", "step backs", "purges", "DM001", "DM002", "40001", "crossed"):
        assert counts[what] > 0, what
    assert counts["acknowledged"] > 20 * len(SEEDS)


def test_what_was_read_ahead_is_nobodys_key_any_more_behind_the_arrival() -> None:
    """In this run such a row is given to a resident of the new home, before the wave goes back and its copy is
    removed."""
    outcome = run(plan_of(200440))
    assert not outcome.found, outcome.found


@pytest.mark.parametrize("seed", [20252, 38219, 123881, 134843, 180792, 303004, 310151, 310934, 332220])
def test_what_a_campaign_found(seed: int) -> None:
    """A step back that was cut goes on; a row that was read ahead below a key that is still to come is the wave's; what
    a former mover applied is compared when it is visible, on the way back too; only what is sent as one message comes
    late as a whole; what the mover writes waits for a row that an application has locked; a deletion takes a child that
    got another key meanwhile along; what was read ahead of a stream that has ended is known to the wave."""
    outcome = run(plan_of(seed))
    assert not outcome.found, outcome.found


def test_a_run_is_the_same_in_another_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", _TELL],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashing},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashing in ("1", "2")
    }
    assert len(told) == 1
    assert int(told.pop().split()[0]) > 1_000


@pytest.mark.parametrize("control", [c for c in ALL if c.name in QUICK], ids=lambda c: c.name)
def test_a_planted_defect_is_found(control: Control) -> None:
    seed, runs, what = found_by(control)
    assert seed, f"not found in {runs} runs"
    assert what


def test_a_failing_run_becomes_a_small_one() -> None:
    [control] = [c for c in ALL if c.name == str(Flaw.NO_DELETE)]
    seed, _, what = found_by(control)
    outcome, tried = shrunk(plan_of(seed), control.flaws, runs_max=150)
    assert kind_of(outcome.found) == kind_of(what)
    assert tried > 1
    assert outcome.plan.writes < plan_of(seed).writes
    assert outcome.history[-1].endswith(outcome.found)
    assert run(outcome.plan, control.flaws).found == outcome.found  # it replays


def test_the_program_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "12", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["seeds"] == 12
    assert figures["acknowledged"] > 0
    assert figures["found"] == []
    assert set(figures["faults"]) == set(map(str, Fault))


def test_the_program_fails_when_it_has_found_something(capsys: pytest.CaptureFixture[str]) -> None:
    [control] = [c for c in ALL if c.name == "outsiders' rows pass the filter"]
    with control.in_place():
        assert main(["--seeds", "12", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["found"]


def test_a_plan_with_less_in_it_is_a_part_of_the_same_run() -> None:
    """What a transaction does is its own: it does not change when others are left out."""
    whole = plan_of(7)
    part = replace(whole, mishaps=(), transactions=3, skipped=frozenset({(0, 0)}))
    assert run(part).found == ""
    assert part.writes == part.writers * 3 - 1


def test_a_campaign_goes_on_behind_the_seeds_that_are_on_record(capsys: pytest.CaptureFixture[str]) -> None:
    def campaign(first: int, seeds: int) -> dict[str, Any]:
        assert main(["--first", str(first), "--seeds", str(seeds), "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    pieces, whole = together(together({}, campaign(1, 2)), campaign(3, 4)), campaign(1, 6)
    [said] = pieces.pop("campaigns")
    assert (said["first"], said["seeds"]) == (1, 6)
    timed = ("seconds", "seeds_per_minute")
    assert {k: v for k, v in pieces.items() if k not in timed} == {k: v for k, v in whole.items() if k not in timed}


def test_a_seed_is_not_put_on_record_twice() -> None:
    with pytest.raises(SystemExit):
        main(["--first", "5", "--record"])
