"""Bad input ends in a typed error: some of every kind, everything that was ever found, and a judge that can see."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from random import Random
import subprocess
import sys
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest
from reliability.fuzz import found
from reliability.fuzz.child import dice_of
from reliability.fuzz.dice import MARKER, Fed
from reliability.fuzz.rule import ACCEPTED, Broken, Input, Target, judge
from reliability.fuzz.shrink import shrink
from reliability.fuzz.targets import TARGETS
from tests.conftest import ROOT

from domicile.model.errors import DomicileError, ErrorCode

# Seconds a target gets here, of about twenty; the campaign is: python -m reliability.fuzz
SECONDS = {"arguments": 3.0, "calls": 5.0}
SECONDS_DEFAULT = 1.2
ENOUGH = 20  # however slow the machine is
FEW = 5_000  # may end alike
WHATEVER_COMES = settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_every_input_is_accepted_or_refused(target: Target, seed: int) -> None:
    target.prepare()
    codes, number = set[str](), 0
    deadline = time.monotonic() + SECONDS.get(target.name, SECONDS_DEFAULT)
    while number < ENOUGH or time.monotonic() < deadline:
        outcome = judge(target, target.make(dice_of(seed, target.name, number)))
        assert not outcome.fault, (
            f"{outcome.fault}; again: python -m reliability.fuzz --target {target.name} --seed {seed} --show {number}\n"
            f"{outcome.about}"
        )
        codes.add(outcome.code)
        number += 1
    assert len(codes) > 1 or number < FEW, f"all of these inputs ended alike: {codes}"


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in SECONDS])
def test_hypothesis_finds_nothing(name: str) -> None:
    target = TARGETS[name]

    @WHATEVER_COMES
    @given(st.randoms(use_true_random=False))
    def whatever_comes(dice: Random) -> None:
        tried = target.make(dice)
        outcome = judge(target, tried)
        assert not outcome.fault, f"{outcome.fault}: {tried!r}\n{outcome.about}"

    whatever_comes()


@pytest.mark.parametrize("path", sorted(found.FOLDER.glob("*.json")), ids=lambda p: p.stem)
def test_what_was_found_is_mended(path: Path) -> None:
    one = found.read(path)
    target = TARGETS[one.target]
    target.prepare()
    outcome = judge(target, one.given)
    assert not outcome.fault, f"{outcome.fault}\n{outcome.about}"


def _crash(_: Input) -> str:
    raise KeyError("a")


def _leak(_: Input) -> str:
    raise DomicileError(ErrorCode.PLAN_INVALID, f"not known: {MARKER}")


def _leak_by_its_chain(_: Input) -> str:
    try:
        raise ValueError(MARKER)
    except ValueError as error:
        raise DomicileError(ErrorCode.PLAN_INVALID, "not known") from error


def _dawdle(_: Input) -> str:
    end = time.process_time() + 10
    while time.process_time() < end:
        pass
    return ACCEPTED


def _exhaust(_: Input) -> str:
    raise MemoryError


def _change(_: Input) -> str:
    raise Broken("it does not come back: at all")


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (_crash, "KeyError in no module of ours"),
        (_leak, "leak in plan-invalid"),
        (_leak_by_its_chain, "leak in plan-invalid"),
        (_dawdle, "out of time"),
        (_exhaust, "out of memory"),
        (_change, "broken: it does not come back"),
    ],
)
def test_the_judge_sees_a_planted_fault(run: Callable[[Input], str], fault: str) -> None:
    assert judge(Target("planted", lambda _: "", run, 1), "x").fault == fault


def test_the_judge_lets_a_refusal_pass() -> None:
    def refuse(_: Input) -> str:
        raise DomicileError(ErrorCode.MAP_INVALID, "not a map")

    outcome = judge(Target("planted", lambda _: "", refuse, 1), "x")
    assert (outcome.code, outcome.fault) == ("map-invalid", "")


def test_memory_is_bounded() -> None:
    """In a process of its own, as in a campaign: the bound stays."""
    script = """
from reliability.fuzz.child import MEMORY_BYTES, bound_memory
from reliability.fuzz.rule import Target, judge
bound_memory()
for size in (MEMORY_BYTES // 4, 2 * MEMORY_BYTES):
    print(judge(Target("planted", lambda _: "", lambda _: str(len(bytearray(size))), 1), "x").fault or "fits")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["fits", "out of memory"]


def test_the_program_says_what_it_tried() -> None:
    command = [
        sys.executable,
        "-m",
        "reliability.fuzz",
        "--inputs",
        "400",
        "--target",
        "detail",
        "--seed",
        "3",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    assert (result["seed"], result["inputs"], result["targets"]["detail"]["inputs"]) == (3, 400, 400)
    assert done.returncode == (1 if result["faults"] else 0)


def test_an_input_shrinks_to_what_matters() -> None:
    assert shrink("abc!defgh" * 50 + "?", lambda one: "!" in one and "?" in one) == "!?"
    assert shrink((b"12", "3x4", b"5"), lambda one: any("x" in str(part) for part in one)) == ("x",)


def test_an_input_is_kept_as_it_was(tmp_path: Path) -> None:
    for tried in ("\ud800\0ä", b"\xff\0", ("a", b"b"), "x" * 10_000, b"y" * 10_000):
        one = found.Found("plan", "a fault", tried, 1, 2, "about")
        assert found.read(one.write(tmp_path)) == one


def test_the_same_seed_makes_the_same_input() -> None:
    for target in TARGETS.values():
        assert target.make(dice_of(7, target.name, 3)) == target.make(dice_of(7, target.name, 3))
        assert len({repr(target.make(dice_of(7, target.name, number))) for number in range(20)}) > 5
        target.make(Fed(b""))  # ends though nothing chooses
