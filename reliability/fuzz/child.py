"""One process of a campaign: so many inputs for one target, its memory bounded, its findings shrunk.

    python -m reliability.fuzz.child TARGET SEED FIRST COUNT FILE

FILE holds the number of the input being tried, so that who waits knows which one ended this process. One JSON object on
stdout says what became of them all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
import json
import mmap
from pathlib import Path
from random import Random
import resource
import sys

from reliability.fuzz import found
from reliability.fuzz.rule import Input, Outcome, Target, judge
from reliability.fuzz.shrink import shrink
from reliability.fuzz.targets import TARGETS

MEMORY_BYTES = 768 * 1024 * 1024  # of address space, beyond what the program itself has
_PAGE = resource.getpagesize()


@dataclass(slots=True)
class Tally:
    """What became of some inputs. ``faults``: kind, how often, and the first of them."""

    target: str
    inputs: int = 0
    bytes: int = 0
    cpu_seconds: float = 0.0
    slowest_seconds: float = 0.0
    memory_mb: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Take another process's."""
        self.inputs += other.inputs
        self.bytes += other.bytes
        self.cpu_seconds += other.cpu_seconds
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.memory_mb = max(self.memory_mb, other.memory_mb)
        self.codes.update(other.codes)
        self.faults.update(other.faults)
        self.files = {**other.files, **self.files}

    def text(self) -> str:
        """As JSON, for the process that waits."""
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)})

    @classmethod
    def of(cls, text: str) -> Tally:
        """From the JSON of a process."""
        content = json.loads(text)
        content["codes"], content["faults"] = Counter(content["codes"]), Counter(content["faults"])
        return cls(**content)


def dice_of(seed: int, target: str, number: int) -> Random:
    """The dice of one input: the same whichever process tries it."""
    return Random(f"{seed}/{target}/{number}")


def work(target: Target, seed: int, numbers: range, at: mmap.mmap | None = None) -> Tally:
    """Try these inputs in this process."""
    tally = Tally(target.name)
    for number in numbers:
        if at is not None:
            at[:8] = number.to_bytes(8, "big")
        given = target.make(dice_of(seed, target.name, number))
        outcome = judge(target, given)
        tally.inputs += 1
        tally.bytes += _size(given)
        tally.cpu_seconds += outcome.cpu_seconds
        tally.slowest_seconds = max(tally.slowest_seconds, outcome.cpu_seconds)
        tally.codes[outcome.code] += 1
        if outcome.fault:
            tally.faults[outcome.fault] += 1
            if outcome.fault not in tally.files:
                tally.files[outcome.fault] = _keep(target, seed, number, given, outcome).name
    tally.memory_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return tally


def _keep(target: Target, seed: int, number: int, given: Input, outcome: Outcome) -> Path:
    """Shrink it and write it down, unless one of its kind is there already and still to be seen."""
    one = found.Found(target.name, outcome.fault, given, seed, number, "")
    if one.path.exists() and judge(target, found.read(one.path).given).fault == outcome.fault:
        return one.path
    smaller = shrink(given, lambda one: judge(target, one).fault == outcome.fault)
    about = found.without_places(judge(target, smaller).about or outcome.about)
    return found.Found(target.name, outcome.fault, smaller, seed, number, about).write()


def _size(given: Input) -> int:
    return sum(map(len, given)) if isinstance(given, tuple) else len(given)


def bound_memory() -> None:
    """From here on more memory than that is an error."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * _PAGE + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """For `campaign`."""
    name, seed, first, count, path = sys.argv[1:]
    target = TARGETS[name]
    target.prepare()
    bound_memory()
    numbers = range(int(first), int(first) + int(count))
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 8) as at:
        print(work(target, int(seed), numbers, at).text())


if __name__ == "__main__":
    main()
