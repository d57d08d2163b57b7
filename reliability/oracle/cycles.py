"""Circles in a graph of dependencies between transactions: found, and named after the kinds of their edges.

A sound history has none, and that is found in one pass: nodes that nothing leads to are taken away until none is left.
Only what remains is looked at closer, one strongly connected component (a *knot*) after the other. No recursion: a knot
may have a million nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
import math

STEPS_MAX = 5_000_000  # of the search for circles with exactly one rw in one knot


class Edge(IntEnum):
    """Why one transaction comes before another."""

    WW = 0
    WR = 1
    RW = 2
    ORDER = 3


_BITS, _MASK = 2, 3  # an edge is kept as one number: target * 4 + kind
_WW, _WR, _RW, _ORDER = (1 << kind for kind in Edge)
_DEPENDS = _WW | _WR


@dataclass(frozen=True, slots=True)
class Circle:
    """``kind`` is Adya's name. ``steps``: the edge from each node to the next, from the last to the first."""

    kind: str
    nodes: tuple[int, ...]
    steps: tuple[Edge, ...]

    @property
    def ordered(self) -> bool:
        return Edge.ORDER in self.steps

    def about(self, order: str) -> str:
        """The circle as a line of text."""
        names = {Edge.ORDER: order}
        parts = [
            f"T{node} -{names.get(step, step.name.lower())}->"
            for node, step in zip(self.nodes, self.steps, strict=True)
        ]
        return f"{' '.join(parts)} T{self.nodes[0]}"


@dataclass(slots=True)
class Graph:
    """The first ``transactions`` nodes are transactions; the others are moments, through which real time passes."""

    transactions: int
    out: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.out = [[] for _ in range(self.transactions)]

    def add(self, before: int, after: int, kind: Edge) -> None:
        self.out[before].append(after << _BITS | kind)

    def moment(self) -> int:
        """A new node."""
        self.out.append([])
        return len(self.out) - 1

    def circles(self) -> Iterator[Circle]:
        """Of each knot at most one of each name, with as few edges as the search finds."""
        for knot in components(self._unpeeled(), self.out):
            yield from _Knot(self, knot).circles()

    def _unpeeled(self) -> list[int]:
        """What is left when nodes that nothing leads to are taken away again and again: empty in an acyclic graph."""
        out = self.out
        coming = [0] * len(out)
        for edges in out:
            for edge in edges:
                coming[edge >> _BITS] += 1
        free = [node for node, count in enumerate(coming) if not count]
        for node in free:  # grows while it is read
            for edge in out[node]:
                target = edge >> _BITS
                coming[target] -= 1
                if not coming[target]:
                    free.append(target)
        return [node for node, count in enumerate(coming) if count]


def add_realtime(graph: Graph, times: Sequence[tuple[float, float]], took_part: Sequence[bool]) -> None:
    """Whoever was acknowledged comes before whoever began later. A chain of moments carries it: one edge from each end
    and to each beginning, instead of one for each pair."""
    beginnings = sorted((n for n, part in enumerate(took_part) if part), key=lambda n: times[n][0])
    ends = sorted((n for n in beginnings if times[n][1] < math.inf), key=lambda n: times[n][1])
    moment = -1
    at = 0
    for node in beginnings:
        ended = at
        while at < len(ends) and times[ends[at]][1] < times[node][0]:
            at += 1
        if at > ended:
            following = graph.moment()
            if moment >= 0:
                graph.add(moment, following, Edge.ORDER)
            for one in ends[ended:at]:
                graph.add(one, following, Edge.ORDER)
            moment = following
        if moment >= 0:
            graph.add(moment, node, Edge.ORDER)


def components(nodes: Iterable[int], out: Sequence[Sequence[int]] | Mapping[int, Sequence[int]]) -> list[list[int]]:
    """The strongly connected components of more than one node among these nodes (Tarjan 1972, without recursion)."""
    within = set(nodes)
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    stacked: set[int] = set()
    found: list[list[int]] = []
    for root in within:
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = []
        entered: int | None = root
        while True:
            if entered is not None:
                index[entered] = low[entered] = len(index)
                stack.append(entered)
                stacked.add(entered)
                work.append((entered, iter(out[entered])))
                entered = None
            node, edges = work[-1]
            for edge in edges:
                target = edge >> _BITS
                if target not in within:
                    continue
                if target not in index:
                    entered = target
                    break
                if target in stacked:
                    low[node] = min(low[node], index[target])
            if entered is not None:
                continue
            work.pop()
            if low[node] == index[node]:
                found.append(_popped(stack, stacked, node))
            if not work:
                break
            low[work[-1][0]] = min(low[work[-1][0]], low[node])
    return [one for one in found if len(one) > 1]


def _popped(stack: list[int], stacked: set[int], down_to: int) -> list[int]:
    at = len(stack) - 1
    while stack[at] != down_to:
        at -= 1
    component = stack[at:]
    del stack[at:]
    stacked.difference_update(component)
    return component


class _Knot:
    """One strongly connected component, and the circles in it."""

    def __init__(self, graph: Graph, nodes: Sequence[int]) -> None:
        within = set(nodes)
        self._graph = graph
        self._out = {node: [e for e in graph.out[node] if e >> _BITS in within] for node in nodes}
        kinds = {edge & _MASK for edges in self._out.values() for edge in edges}
        self._orders = (0, _ORDER) if Edge.ORDER in kinds else (0,)
        self._steps_left = STEPS_MAX

    def circles(self) -> Iterator[Circle]:
        """Each name at most once: without ``order`` where that is possible, else with it."""
        for kind, wanted, allowed in (("G0", Edge.WW, _WW), ("G1c", Edge.WR, _DEPENDS)):
            for order in self._orders:
                found = self._through(wanted, allowed | order)
                if found is not None:
                    yield self._circle(kind, found)
                    break
        before = ""
        for order in self._orders:
            name, edges = self._with_rw(_DEPENDS | order)
            if name and name != before:
                yield self._circle(name, edges)
            if name == "G-single":
                break
            before = name  # a level may permit G2: then it must not hide a G-single
        if self._steps_left <= 0:
            yield Circle("unclear", tuple(sorted(n for n in self._out if n < self._graph.transactions)[:1]), (Edge.RW,))

    def _through(self, wanted: Edge, allowed: int) -> list[int] | None:
        """A circle of edges allowed, one of them wanted; as edges, the first of them with its origin before it."""
        part = self._parts(allowed)
        for node, edges in self._out.items():
            for edge in edges:
                if edge & _MASK == wanted and node in part and part[node] == part.get(edge >> _BITS):
                    return [node, edge, *(self._path(edge >> _BITS, node, allowed, None) or ())]
        return None

    def _with_rw(self, depends: int) -> tuple[str, list[int]]:
        """A circle with exactly one rw if there is one, else one with more, else none: an empty name."""
        part = self._parts(depends | _RW)
        rank = self._rank(depends)
        more: tuple[int, int] | None = None
        for node, edges in self._out.items():
            for edge in edges:
                target = edge >> _BITS
                if edge & _MASK != Edge.RW or node not in part or part[node] != part.get(target):
                    continue
                if self._steps_left <= 0:
                    return "", []
                back = self._path(target, node, depends, rank)
                if back is not None:
                    return "G-single", [node, edge, *back]
                more = more or (node, edge)
        if more is None:
            return "", []
        return "G2", [*more, *(self._path(more[1] >> _BITS, more[0], depends | _RW, None) or ())]

    def _parts(self, allowed: int) -> dict[int, int]:
        """Each node's component in the graph of these edges, where that has others, too."""
        out = {node: [e for e in edges if allowed >> (e & _MASK) & 1] for node, edges in self._out.items()}
        return {node: no for no, nodes in enumerate(components(out, out)) for node in nodes}

    def _rank(self, allowed: int) -> dict[int, int] | None:
        """Positions of which each edge allowed leads to a higher one; None where there can be none."""
        coming = dict.fromkeys(self._out, 0)
        for edges in self._out.values():
            for edge in edges:
                if allowed >> (edge & _MASK) & 1:
                    coming[edge >> _BITS] += 1
        free = deque(node for node, count in coming.items() if not count)
        rank: dict[int, int] = {}
        while free:
            node = free.popleft()
            rank[node] = len(rank)
            for edge in self._out[node]:
                if allowed >> (edge & _MASK) & 1:
                    coming[edge >> _BITS] -= 1
                    if not coming[edge >> _BITS]:
                        free.append(edge >> _BITS)
        return rank if len(rank) == len(coming) else None

    def _path(self, start: int, goal: int, allowed: int, rank: Mapping[int, int] | None) -> list[int] | None:
        """A shortest path as edges; None when there is none, or the search has become too long."""
        if start == goal:
            return []
        came: dict[int, tuple[int, int]] = {start: (start, 0)}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for edge in self._out[node]:
                target = edge >> _BITS
                if not allowed >> (edge & _MASK) & 1 or target in came:
                    continue
                if rank is not None and rank[target] > rank[goal]:
                    continue
                came[target] = node, edge
                if target == goal:
                    self._steps_left -= len(came)
                    return _walked(came, start, goal)
                queue.append(target)
        self._steps_left -= len(came)
        return None

    def _circle(self, kind: str, found: list[int]) -> Circle:
        """``found`` is the first node, then edges back to it; moments are left out, as order is one edge."""
        nodes: list[int] = [found[0]]
        steps: list[Edge] = []
        for edge in found[1:]:
            if nodes[-1] < self._graph.transactions:
                steps.append(Edge(edge & _MASK))
            else:
                nodes.pop()
            nodes.append(edge >> _BITS)
        return Circle(kind, tuple(nodes[:-1]), tuple(steps))


def _walked(came: Mapping[int, tuple[int, int]], start: int, goal: int) -> list[int]:
    edges: list[int] = []
    node = goal
    while node != start:
        node, edge = came[node]
        edges.append(edge)
    return edges[::-1]
