"""Breadth first through every state; then back from the ends, to find states from which there is no way on.

States are remembered by 96 bits of their BLAKE2 digest: of ten million states the odds that two are taken for one are
one in ten to the fifteenth. A trace is made by walking the shortest path once more.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
import sys
import time

from reliability.model.bounds import Bounds
from reliability.model.faults import Faults
from reliability.model.judge import is_end, violation
from reliability.model.line import STEP, Broken, Found, Line
from reliability.model.mover import Mover
from reliability.model.orders import Orders
from reliability.model.state import initial, told
from reliability.model.stream import Stream
from reliability.model.writers import Writers

PROGRESS_STATES = 200_000
DIGEST_BYTES = 12


@dataclass(frozen=True, slots=True)
class Violation:
    """What must never be, and the shortest way to it: a line for each step."""

    what: str
    trace: tuple[str, ...]


@dataclass(slots=True)
class Explored:
    """What an exploration saw. ``complete``: every state within the bounds, none left out."""

    bounds: Bounds
    states: int = 0
    transitions: int = 0
    depth: int = 0
    ends: int = 0
    seconds: float = 0.0
    complete: bool = False
    violation: Violation | None = None

    def figures(self) -> dict[str, object]:
        """For the record."""
        return {
            "name": self.bounds.name,
            "bounds": self.bounds.described(),
            "flaws": sorted(self.bounds.flaws),
            "states": self.states,
            "transitions": self.transitions,
            "depth": self.depth,
            "ends": self.ends,
            "complete": self.complete,
            "seconds": round(self.seconds, 1),
            "violation": self.violation.what if self.violation else "",
        }


class Model:
    """The rules together: what can happen in a state."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        stream = Stream(bounds)
        line = Line(bounds, stream)
        self.line, self.orders = line, Orders(bounds, stream, line)
        self.mover = Mover(bounds, stream, line, self.orders)
        self.writers, self.faults = Writers(bounds), Faults(bounds, line)

    def begin(self) -> bytes:
        b = self.bounds
        return initial(b.waves, b.writers, (b.writes, b.tries, b.faults, b.gives, b.orders))

    def successors(self, s: bytes) -> Found:
        """(kind, what happens, the state then). Raises `Broken` when a step would do what must never be done."""
        out: Found = []
        written: list[tuple[str, bytes]] = []
        self.writers.steps(s, written)
        out.extend((STEP, label, n) for label, n in written)
        self.mover.steps(s, out)
        self.line.steps(s, out)
        self.faults.steps(s, out)
        self.orders.give_up(s, out)
        return out


@dataclass(slots=True)
class _Graph:
    """States by number: whence they were first reached, and where a step without a fault leads."""

    number: dict[bytes, int] = field(default_factory=dict)
    parent: array[int] = field(default_factory=lambda: array("I"))
    steps_from: array[int] = field(default_factory=lambda: array("I"))  # where the steps of a state begin
    steps: array[int] = field(default_factory=lambda: array("I"))
    ends: array[int] = field(default_factory=lambda: array("I"))


def explore(bounds: Bounds, *, states_max: int = 0, liveness: bool = True, quiet: bool = True) -> Explored:
    """Every state within the bounds, or up to ``states_max`` of them; stops at the first violation."""
    model, found, graph = Model(bounds), Explored(bounds), _Graph()
    begun = time.monotonic()
    first = model.begin()
    graph.number[_digest(first)] = 0
    graph.parent.append(0)
    level = [first]
    at = 0
    while level and found.violation is None and not (states_max and len(graph.parent) >= states_max):
        following: list[bytes] = []
        for s in level:
            wrong = _expand(model, s, at, graph, following)
            if wrong:
                found.violation = Violation(wrong, _trace(model, graph, at, wrong))
                break
            if is_end(s, bounds):
                graph.ends.append(at)
            at += 1
        level = following
        found.depth += 1
        if not quiet and len(graph.parent) // PROGRESS_STATES > (len(graph.parent) - len(following)) // PROGRESS_STATES:
            print(f"{bounds.name}: {len(graph.parent):,} states, depth {found.depth}", file=sys.stderr, flush=True)
    found.states, found.transitions, found.ends = len(graph.parent), len(graph.steps), len(graph.ends)
    found.complete = not level and found.violation is None
    if found.complete and liveness:
        stuck = _stuck(graph)
        if stuck is not None:
            what = "there is no way to an end from here, without any further fault"
            found.violation = Violation(what, _trace(model, graph, stuck, what))
    found.seconds = time.monotonic() - begun
    return found


def _expand(model: Model, s: bytes, at: int, graph: _Graph, following: list[bytes]) -> str:
    """Note the state's successors; what is wrong with the state, or with a step from it."""
    graph.steps_from.append(len(graph.steps))
    wrong = violation(s, model.bounds)
    if wrong:
        return wrong
    try:
        reached = model.successors(s)
    except Broken as broken:
        return str(broken)
    number, parent, steps = graph.number, graph.parent, graph.steps
    for kind, _, n in reached:
        digest = blake2b(n, digest_size=DIGEST_BYTES).digest()
        known = number.get(digest)
        if known is None:
            known = number[digest] = len(parent)
            parent.append(at)
            following.append(n)
        if kind == STEP:
            steps.append(known)
    return ""


def _digest(s: bytes) -> bytes:
    return blake2b(s, digest_size=DIGEST_BYTES).digest()


def _stuck(graph: _Graph) -> int | None:
    """The first state from which no end can be reached by steps alone. Where there is none, every set of states that
    cannot be left any more (every terminal component of the graph) has an end in it."""
    count = len(graph.parent)
    graph.steps_from.append(len(graph.steps))
    into = array("I", bytes(4 * (count + 1)))
    for target in graph.steps:
        into[target + 1] += 1
    for n in range(count):
        into[n + 1] += into[n]
    sources, filled = array("I", bytes(4 * len(graph.steps))), array("I", into)
    for n in range(count):
        for edge in range(graph.steps_from[n], graph.steps_from[n + 1]):
            target = graph.steps[edge]
            sources[filled[target]] = n
            filled[target] += 1
    good = bytearray(count)
    waiting = list(graph.ends)
    for n in waiting:
        good[n] = 1
    while waiting:
        n = waiting.pop()
        for edge in range(into[n], into[n + 1]):
            source = sources[edge]
            if not good[source]:
                good[source] = 1
                waiting.append(source)
    stuck = good.find(0)
    return None if stuck < 0 else stuck


def _trace(model: Model, graph: _Graph, at: int, what: str) -> tuple[str, ...]:
    """The shortest way to a state, step by step, in words."""
    path = [at]
    while path[-1]:
        path.append(graph.parent[path[-1]])
    return (*_told(model, graph, path[::-1]), f"VIOLATED: {what}")


def _told(model: Model, graph: _Graph, path: list[int]) -> Iterator[str]:
    s = model.begin()
    yield f"  0. begins: {told(s, model.bounds.waves)}"
    for step, wanted in enumerate(path[1:], start=1):
        for _, label, n in model.successors(s):
            if graph.number[_digest(n)] == wanted:
                yield f"{step:3d}. {label}: {told(n, model.bounds.waves)}"
                s = n
                break
