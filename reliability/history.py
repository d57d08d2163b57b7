"""Does a history of appends and reads fit an isolation level?

    python -m reliability.history FILE [--level serializable] [--order realtime] [--json]

A transaction appends values to the lists of keys and reads whole lists; no value is appended to a key twice. So a read
shows not only what was there but in which order it came, and the dependencies between transactions can be inferred
instead of guessed: the method of Elle (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental
Observations", VLDB 2020), the names are those of Adya ("Weak Consistency", 1999).

    ww  one appended right behind the other             wr  one read a list that ends with what the other appended
    rw  one read a list to which the other appended next
    order  one was acknowledged before the other began (of anyone: realtime; of the same session: session)

    G0  a circle of ww    G1c  of ww and wr    G-single  with exactly one rw    G2  with more
    G1a a value of a transaction that failed was read      G1b a list was read between two appends of one transaction

A circle that needs an edge of ``order`` says so behind its name ("G0-realtime"). FILE is JSON: ``transactions``, each
with ``ops`` (``["append", key, value]``, ``["read", key, [values]]``), ``outcome``, ``session``, ``begun``, ``ended``;
and optionally ``final``, what each key held at the end, as ``[[key, [values]]]``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
import json
import math
from pathlib import Path
import sys
from types import MappingProxyType
from typing import Any, NamedTuple

from reliability.oracle.cycles import Edge, Graph, add_realtime

EXAMPLES = 20
NO_FINAL: Mapping[Hashable, Sequence[Hashable]] = MappingProxyType({})


class Outcome(StrEnum):
    """What the writer was told."""

    OK = "ok"
    FAILED = "failed"  # nothing of it may ever be seen
    UNKNOWN = "unknown"  # the answer was lost: all of it, or nothing


class Kind(StrEnum):
    """What can be wrong with a history."""

    G0 = "G0"
    G1A = "G1a"
    G1B = "G1b"
    G1C = "G1c"
    G_SINGLE = "G-single"
    G2 = "G2"
    UNCLEAR = "unclear"  # a circle with rw, too large to tell G-single from G2
    INCOMPATIBLE = "incompatible-order"  # of two reads of one key, neither begins with the other
    INTERNAL = "internal"  # a transaction did not read what it had appended itself
    UNREPEATABLE = "unrepeatable"  # a transaction read a key twice, and what it had read first had changed
    LOST = "lost"  # acknowledged, and not in the final list
    DOUBLED = "doubled"  # a value twice in one list
    UNWRITTEN = "unwritten"  # a value that nobody appended


class Level(StrEnum):
    """An isolation level as PostgreSQL has it."""

    READ_COMMITTED = "read committed"
    REPEATABLE_READ = "repeatable read"  # snapshot isolation
    SERIALIZABLE = "serializable"


class Order(StrEnum):
    """What else the transactions' order must agree with."""

    NONE = "none"
    SESSION = "session"
    REALTIME = "realtime"


# Snapshot isolation forbids those circles of G2, too, in which no two rw follow each other; these are not told apart.
PERMITTED: Mapping[Level, frozenset[Kind]] = MappingProxyType(
    {
        Level.READ_COMMITTED: frozenset({Kind.UNREPEATABLE, Kind.G_SINGLE, Kind.G2, Kind.UNCLEAR}),
        Level.REPEATABLE_READ: frozenset({Kind.G2}),
        Level.SERIALIZABLE: frozenset(),
    }
)


class Append(NamedTuple):
    key: Hashable
    value: Hashable


class Read(NamedTuple):
    key: Hashable
    values: Sequence[Hashable]


@dataclass(frozen=True, slots=True)
class Transaction:
    """``begun`` and ``ended`` are of one clock: first sent, answer heard. Reads count only where the answer is OK."""

    ops: Sequence[Append | Read]
    outcome: Outcome = Outcome.OK
    session: Hashable = None
    begun: float = -math.inf
    ended: float = math.inf


@dataclass(frozen=True, slots=True)
class Anomaly:
    """``transactions`` are positions in the history: of a circle in its order. ``kind`` carries the order's suffix."""

    kind: str
    about: str
    transactions: tuple[int, ...] = ()


@dataclass(slots=True)
class Report:
    """``anomalies``: how often each kind was found: of circles, in how many knots of transactions. ``examples``: a few
    of each."""

    transactions: int
    anomalies: Counter[str] = field(default_factory=Counter)
    examples: list[Anomaly] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.anomalies

    def note(self, anomaly: Anomaly) -> None:
        self.anomalies[anomaly.kind] += 1
        if self.anomalies[anomaly.kind] <= EXAMPLES:
            self.examples.append(anomaly)


def check(
    history: Sequence[Transaction],
    level: Level = Level.SERIALIZABLE,
    order: Order = Order.NONE,
    final: Mapping[Hashable, Sequence[Hashable]] = NO_FINAL,
) -> Report:
    """What in the history the level forbids. ``final`` is what keys held when all had ended; of other keys nothing can
    be lost. Raises ValueError when a value is appended to a key twice."""
    end = Transaction([Read(key, tuple(values)) for key, values in final.items()], begun=math.inf)
    return _Check([*history, end], level, order, final).run()


@dataclass(slots=True)
class _Check:
    """One check; the last transaction of ``history`` is the final read."""

    history: Sequence[Transaction]
    level: Level
    order: Order
    finals: Mapping[Hashable, Sequence[Hashable]]
    report: Report = field(init=False)
    writers: dict[Hashable, dict[Hashable, int]] = field(default_factory=dict)
    several: dict[tuple[int, Hashable], list[Hashable]] = field(default_factory=dict)  # appends of one to one key
    versions: dict[Hashable, tuple[Hashable, ...]] = field(default_factory=dict)
    unseen: dict[Hashable, list[int]] = field(default_factory=dict)
    graph: Graph = field(init=False)

    def __post_init__(self) -> None:
        self.report = Report(len(self.history) - 1)
        self.graph = Graph(len(self.history))

    def run(self) -> Report:
        self._index()
        self._judge_versions()
        with_rw = self.level is not Level.READ_COMMITTED
        for no, one in enumerate(self.history):
            if one.outcome is Outcome.OK:
                self._judge_reads(no, one, with_rw)
        self._write_edges()
        match self.order:
            case Order.REALTIME:
                times = [(t.begun, t.ended if t.outcome is Outcome.OK else math.inf) for t in self.history]
                add_realtime(self.graph, times, [t.outcome is not Outcome.FAILED for t in self.history])
            case Order.SESSION:
                self._add_sessions()
        for found in self.graph.circles():
            suffix = f"-{self.order}" if found.ordered else ""
            self._note(Kind(found.kind), suffix, found.about(self.order), found.nodes)
        return self.report

    def _note(self, kind: Kind, suffix: str, about: str, nodes: tuple[int, ...] = ()) -> None:
        if kind not in PERMITTED[self.level]:
            self.report.note(Anomaly(f"{kind}{suffix}", about, nodes))

    def _index(self) -> None:
        """Who appended what, and of each key the longest list that anybody read."""
        versions = self.versions
        for no, one in enumerate(self.history):
            heard = one.outcome is Outcome.OK
            appended: dict[Hashable, list[Hashable]] = {}
            for op in one.ops:
                if isinstance(op, Read):
                    if heard and len(op.values) > len(versions.get(op.key, ())):
                        versions[op.key] = tuple(op.values)
                    continue
                values = self.writers.setdefault(op.key, {})
                if op.value in values:
                    raise ValueError(f"{op.value!r} is appended to {op.key!r} twice")
                values[op.value] = no
                appended.setdefault(op.key, []).append(op.value)
            for key, mine in appended.items():
                if len(mine) > 1:
                    self.several[no, key] = mine

    def _judge_versions(self) -> None:
        """What stands in the longest list of each key, and what should."""
        for key, values in self.versions.items():
            writers = self.writers.get(key, {})
            for value, count in Counter(values).items():
                if count > 1:
                    self._note(Kind.DOUBLED, "", f"{value!r} stands {count} times in {key!r}")
                self._judge_value(key, value, writers.get(value))
            if len(set(values)) < len(values):
                self.versions[key] = tuple(dict.fromkeys(values))
        for key, final in self.finals.items():
            there = set(final)
            for value, no in self.writers.get(key, {}).items():
                if value not in there and self.history[no].outcome is Outcome.OK:
                    self._note(Kind.LOST, "", f"{value!r} of {key!r}", (no,))

    def _judge_value(self, key: Hashable, value: Hashable, writer: int | None) -> None:
        if writer is None:
            self._note(Kind.UNWRITTEN, "", f"{value!r} in {key!r}")
        elif self.history[writer].outcome is Outcome.FAILED:
            self._note(Kind.G1A, "", f"{value!r} in {key!r}", (writer,))

    def _judge_reads(self, no: int, one: Transaction, with_rw: bool) -> None:
        """What one acknowledged transaction read: judged by itself, and as edges."""
        known: dict[Hashable, tuple[tuple[Hashable, ...] | None, list[Hashable]]] = {}
        several = len(one.ops) > 1
        for op in one.ops:
            if isinstance(op, Append):
                if several:
                    known.setdefault(op.key, (None, []))[1].append(op.value)
                continue
            values = tuple(op.values)
            if several:
                self._judge_inside(no, op.key, values, known.get(op.key))
                known[op.key] = values, []
            longest = self.versions.get(op.key, ())
            if values == longest[: len(values)]:
                self._read_edges(no, op.key, values, longest, with_rw)
            elif len(set(values)) == len(values):  # else it is doubled, which was said
                self._note(Kind.INCOMPATIBLE, "", f"of {op.key!r}", (no,))
            else:
                self._note(Kind.DOUBLED, "", f"in a read of {op.key!r}", (no,))

    def _judge_inside(
        self,
        no: int,
        key: Hashable,
        values: tuple[Hashable, ...],
        known: tuple[tuple[Hashable, ...] | None, list[Hashable]] | None,
    ) -> None:
        """A read against what the same transaction has read and appended before."""
        if known is None:
            return
        before, mine = known
        if mine and list(values[-len(mine) :]) != mine:
            self._note(Kind.INTERNAL, "", f"{key!r} does not end with the transaction's own {mine!r}", (no,))
        elif before is not None and (*before, *mine) != values:
            self._note(Kind.UNREPEATABLE, "", f"{key!r} changed from {before!r} to {values!r}", (no,))

    def _read_edges(
        self, no: int, key: Hashable, values: tuple[Hashable, ...], longest: tuple[Hashable, ...], with_rw: bool
    ) -> None:
        writers = self.writers.get(key, {})
        end = len(values)
        while end and writers.get(values[end - 1]) == no:
            end -= 1
        if end and (writer := writers.get(values[end - 1])) is not None:
            if self.several.get((writer, key), values[end - 1 :])[-1] != values[end - 1] and end == len(values):
                self._note(Kind.G1B, "", f"{values[end - 1]!r} of {key!r}", (no, writer))
            self.graph.add(writer, no, Edge.WR)
        if not with_rw or end < len(values):  # what follows its own append does so by ww
            return
        if len(values) < len(longest):
            following = writers.get(longest[len(values)])
            if following is not None and following != no:
                self.graph.add(no, following, Edge.RW)
        else:
            for following in self._unseen(key):
                if following != no:
                    self.graph.add(no, following, Edge.RW)

    def _write_edges(self) -> None:
        for key, values in self.versions.items():
            writers = self.writers.get(key, {})
            before: int | None = None
            for value in values:
                writer = writers.get(value)
                if writer is not None and before is not None and writer != before:
                    self.graph.add(before, writer, Edge.WW)
                before = writer if writer is not None else before
            if before is not None:
                for writer in self._unseen(key):
                    if writer != before:
                        self.graph.add(before, writer, Edge.WW)

    def _unseen(self, key: Hashable) -> list[int]:
        """Writers of values that nobody has read: they stand behind all that was. Where the final list is known there
        are none: what is not in it is lost."""
        if key in self.finals:
            return []
        found = self.unseen.get(key)
        if found is None:
            seen = set(self.versions.get(key, ()))
            found = self.unseen[key] = [
                no
                for value, no in self.writers.get(key, {}).items()
                if value not in seen and self.history[no].outcome is Outcome.OK
            ]
        return found

    def _add_sessions(self) -> None:
        """Of each session what was acknowledged before what followed; by position in the history."""
        last: dict[Hashable, int] = {}
        for no, one in enumerate(self.history):
            if one.session is None or one.outcome is Outcome.FAILED:
                continue
            if one.session in last:
                self.graph.add(last[one.session], no, Edge.ORDER)
            if one.outcome is Outcome.OK:
                last[one.session] = no


def load(text: str) -> tuple[list[Transaction], dict[Hashable, Sequence[Hashable]]]:
    """A history and its final lists from JSON. Raises ValueError and KeyError for what is not one."""
    given = json.loads(text)
    history = [
        Transaction(
            [_op(op) for op in one["ops"]],
            Outcome(one.get("outcome", Outcome.OK)),
            one.get("session"),
            one.get("begun", -math.inf),
            one.get("ended", math.inf),
        )
        for one in given["transactions"]
    ]
    return history, {key: tuple(values) for key, values in given.get("final", [])}


def _op(given: Sequence[Any]) -> Append | Read:
    match given:
        case ["append", key, value]:
            return Append(key, value)
        case ["read", key, list(values)]:
            return Read(key, tuple(values))
    raise ValueError(f"neither an append nor a read: {given!r}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.history", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, help="the history, as JSON")
    parser.add_argument("--level", type=Level, choices=list(Level), default=Level.SERIALIZABLE)
    parser.add_argument("--order", type=Order, choices=list(Order), default=Order.NONE)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args(arguments)
    history, final = load(options.file.read_text(encoding="utf-8"))
    report = check(history, options.level, options.order, final)
    if options.json:
        print(json.dumps({"transactions": report.transactions, "anomalies": dict(report.anomalies)}))
    else:
        for one in report.examples:
            print(f"{one.kind}: {one.about}")
        print(f"{report.transactions} transactions, {report.anomalies.total()} anomalies", file=sys.stderr)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
