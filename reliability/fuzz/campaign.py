"""Many inputs for many targets, in processes of their own; one that dies of an input is a finding like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import os
from pathlib import Path
import subprocess
import sys
import tempfile

from reliability.fuzz import found
from reliability.fuzz.child import Tally, dice_of
from reliability.fuzz.targets import TARGETS

CHUNK_SECONDS = 600.0  # for one process: far more than its inputs may take, unless they hang
_ROOT = Path(__file__).resolve().parent.parent.parent
_CHUNK = {"arguments": 1_000, "calls": 1_000, "map": 5_000, "config": 5_000}
_CHUNK_DEFAULT = 20_000


@dataclass(frozen=True, slots=True)
class _Chunk:
    target: str
    first: int
    count: int


def shares(inputs: int, only: str = "") -> dict[str, int]:
    """How many inputs each target gets."""
    if only:
        return {only: inputs}
    whole = sum(target.share for target in TARGETS.values())
    return {name: max(1, inputs * target.share // whole) for name, target in TARGETS.items()}


def run(counts: Mapping[str, int], seed: int, workers: int, say: Callable[[str], object]) -> dict[str, Tally]:
    """Try so many inputs of each target; returns what became of them."""
    chunks = [
        _Chunk(name, first, min(_CHUNK.get(name, _CHUNK_DEFAULT), count - first))
        for name, count in counts.items()
        for first in range(0, count, _CHUNK.get(name, _CHUNK_DEFAULT))
    ]
    tallies = {name: Tally(name) for name in counts}
    with ThreadPoolExecutor(workers) as pool:
        for chunk, tally in zip(chunks, pool.map(lambda one: _carry_out(one, seed), chunks), strict=True):
            tallies[chunk.target].add(tally)
            said = f"; {sum(tally.faults.values())} faults" if tally.faults else ""
            say(f"{chunk.target}: {tallies[chunk.target].inputs:,} of {counts[chunk.target]:,}{said}")
    return tallies


def _carry_out(chunk: _Chunk, seed: int) -> Tally:
    """Run one process; when an input ends it, note that and go on behind the input."""
    total, first, end = Tally(chunk.target), chunk.first, chunk.first + chunk.count
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    while first < end:
        with tempfile.NamedTemporaryFile() as at:
            at.write(first.to_bytes(8, "big"))
            at.flush()
            arguments = [chunk.target, str(seed), str(first), str(end - first), at.name]
            command = [sys.executable, "-m", "reliability.fuzz.child", *arguments]
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                    env=environ,
                    timeout=CHUNK_SECONDS,
                )
                ended, said = done.returncode, done.stderr
            except subprocess.TimeoutExpired:
                ended, said = -1, "no end in sight"
            number = int.from_bytes(Path(at.name).read_bytes()[:8], "big")
        if ended == 0:
            total.add(Tally.of(done.stdout))
            return total
        total.add(_death(chunk.target, seed, number, f"exit {ended}", said))
        first = number + 1
    return total


def _death(name: str, seed: int, number: int, ended: str, said: str) -> Tally:
    given = TARGETS[name].make(dice_of(seed, name, number))
    fault = f"the process died: {ended}"
    path = found.Found(name, fault, given, seed, number, found.without_places(said)).write()
    tally = Tally(name, inputs=1)
    tally.codes["died"] += 1
    tally.faults[fault] += 1
    tally.files[fault] = path.name
    return tally
