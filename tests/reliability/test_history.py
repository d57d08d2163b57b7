"""The checker of histories: clean for what is sound, and each anomaly found as its kind."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
import json
from pathlib import Path
import random
import re

import pytest
from reliability.history import (
    PERMITTED,
    Anomaly,
    Append,
    Kind,
    Level,
    Order,
    Outcome,
    Read,
    Report,
    Transaction,
    check,
    main,
)
from reliability.oracle import __main__ as validation
from reliability.oracle import cycles
from reliability.oracle.cycles import Edge, Graph, components
from reliability.oracle.executor import REVEALED, Fault, make

Final = dict[Hashable, Sequence[Hashable]]  # what keys held at the end

SEEDS = 60
LONG = 5_000  # deeper than Python's own recursion goes


def transaction(text: str) -> Transaction:
    """``ax1`` appends 1 to x, ``ry12`` reads 1 and 2 in y, ``ry`` nothing; behind ``!`` it failed, behind ``?`` nobody
    knows. ``@`` gives session and times: ``@1:10-20``."""
    body, _, placed = text.partition("@")
    session, _, times = placed.partition(":")
    begun, _, ended = times.partition("-")
    outcome = {"!": Outcome.FAILED, "?": Outcome.UNKNOWN}.get(body.strip()[-1], Outcome.OK)
    ops: list[Append | Read] = []
    for kind, key, values in re.findall(r"([ar])([a-z])(\d*)", body):
        marks = tuple(map(int, values))
        ops += [Read(key, marks)] if kind == "r" else [Append(key, mark) for mark in marks]
    if not times:
        return Transaction(ops, outcome, session or None)
    return Transaction(ops, outcome, session or None, float(begun), float(ended))


def found(*texts: str, level: Level = Level.SERIALIZABLE, order: Order = Order.NONE, **final: str) -> dict[str, int]:
    """The anomalies of a history, with what keys held at the end."""
    ends: Final = {key: tuple(map(int, values)) for key, values in final.items()}
    return dict(check([transaction(text) for text in texts], level, order, ends).anomalies)


SOUND = {
    "nothing": [],
    "an empty read": ["rx"],
    "reads grow": ["rx", "ax1", "rx1", "ax2", "rx12"],
    "nobody reads": ["ax1", "ax2", "ax3"],
    "a transaction sees its own": ["ax1", "ax2 rx12 ax3 rx123"],
    "one aborted": ["ax1", "ax9 ry!", "rx1"],
    "unheard, and there": ["ax1?", "rx1"],
    "unheard, and not there": ["ax1?", "rx", "ax2", "rx2"],
    "what the unheard read counts not": ["ax2 ry?", "ax1 ay1", "rx12 ry1"],
    "the unseen come last": ["rx", "ax1", "ax2"],
    # Adya, Liskov and O'Neil, "Generalized Isolation Level Definitions" (2000), figure 3.
    "a serializable history of Adya's": ["az1 ax1 ay1", "rx1 ay2", "ry12 az3", "rz13"],
}
ANOMALIES = {
    "dirty write": (["ax1 ay1", "ax2 ay2", "rx12 ry21"], {"G0"}),
    "aborted read": (["ax1!", "rx1"], {"G1a"}),
    "aborted read, further back": (["ax1!", "ax2", "rx12"], {"G1a"}),
    "intermediate read": (["ax1 ax2", "rx1", "rx12"], {"G1b", "G-single"}),
    "circular flow": (["ax1 ry1", "ax2 ay1", "rx12"], {"G1c"}),
    "circular flow of reads alone": (["ax1 ry1", "ay1 rx1"], {"G1c"}),
    "one behind and one ahead": (["ax1 ay1", "ax2 ry", "rx12"], {"G-single"}),
    "a lost update": (["rx ax1", "rx ax2", "rx12"], {"G-single"}),
    "a read that is torn": (["ax1 ay1", "rx1 ry", "ry1"], {"G-single"}),
    "write skew": (["rx ay1", "ry ax1", "rx1 ry1"], {"G2"}),
    "write skew without a witness": (["rx ay1", "ry ax1"], {"G2"}),
    "a long fork": (["ax1", "ay1", "rx1 ry", "rx ry1"], {"G2"}),
    # These shapes are published as files with Elle: there, too, a level of snapshots is not refuted by the first.
    "a circle without G-single": (["ax2", "az1 rx", "rw rz ax5", "aw2 rx2"], {"G2"}),
    "a lost update without a witness": (["ax1", "rx1 ax2", "rx1 ax3"], {"G2"}),
    "a dirty update": (["ax1!", "ax2", "rx12"], {"G1a"}),
    "two orders, after nothing": (["rx", "rx", "ax1", "ax2", "rx12", "rx21"], {"incompatible-order"}),
    "two orders": (["ax1", "ax2", "rx12", "rx21"], {"incompatible-order"}),
    "not its own": (["ax1 rx"], {"internal"}),
    "another's behind its own": (["ax2", "ax1 rx12"], {"internal", "G1c"}),
    "it changed": (["rx ry rx1", "ax1"], {"unrepeatable", "G-single"}),
    "twice": (["ax1", "rx11"], {"doubled"}),
    "from nowhere": (["ax1", "rx13"], {"unwritten"}),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_history_is_clean(name: str) -> None:
    for level in Level:
        for order in Order:
            assert found(*SOUND[name], level=level, order=order) == {}


@pytest.mark.parametrize("name", ANOMALIES)
def test_an_anomaly_is_found_as_its_kind(name: str) -> None:
    texts, kinds = ANOMALIES[name]
    assert set(found(*texts)) == kinds
    assert {kind for _, kinds in ANOMALIES.values() for kind in kinds} >= {str(k) for k in Kind} - {"lost", "unclear"}


@pytest.mark.parametrize("name", ANOMALIES)
def test_a_level_forbids_what_it_promises(name: str) -> None:
    texts, kinds = ANOMALIES[name]
    for level in Level:
        forbidden = {kind for kind in kinds if Kind(kind) not in PERMITTED[level]}
        assert set(found(*texts, level=level)) == forbidden


def test_the_example_of_elles_paper() -> None:
    """T3 read 8 at the end of 255, which T4 did not see; T4 appended to 256 behind T3."""
    texts = [
        "ax134 ay2345 az12",
        "ay8 rx134",
        "az4 ry23458 rz124 rx134",
        "aw1 rx134 ry2345 az3",
        "rz1243",
    ]
    assert found(*texts) == {"G-single": 1}
    assert found(*texts[:3], texts[3].replace("ry2345 ", "ry23458 "), texts[4]) == {}


def test_the_final_read_shows_what_is_lost() -> None:
    assert found("ax1", "ax2", x="12") == {}
    assert found("ax1", "ax2", x="2") == {"lost": 1}
    assert found("ax1?", "ax2!", x="") == {}
    assert found("ax1", "ax2!", x="12") == {"G1a": 1}
    assert found("ax1", "ax2", "rx12", x="21") == {"incompatible-order": 1}
    assert set(found("ax1", "ax2", "rx12", x="1")) == {"lost"}


def test_real_time_is_kept() -> None:
    stale = ["ax1@1:0-1", "rx@2:2-3"]
    assert found(*stale) == {}
    assert found(*stale, order=Order.SESSION) == {}
    assert found(*stale, order=Order.REALTIME) == {"G-single-realtime": 1}
    assert found("ax1@1:0-2", "rx@2:1-3", order=Order.REALTIME) == {}, "they overlap"
    swapped = ["ax1@1:0-1", "ax2@2:2-3"]
    assert found(*swapped, order=Order.REALTIME, x="21") == {"G0-realtime": 1}
    assert found(*swapped, order=Order.REALTIME, level=Level.READ_COMMITTED, x="21") == {"G0-realtime": 1}
    assert found(*swapped, order=Order.REALTIME, x="12") == {}
    future = ["rx1@1:0-1", "ax1@2:2-3"]
    assert found(*future, order=Order.REALTIME) == {"G1c-realtime": 1}
    assert found("ax1?@1:0-1", "rx@2:2-3", order=Order.REALTIME) == {}, "it may come later, or never"


def test_a_session_sees_what_it_did() -> None:
    assert found("ax1@1", "rx@1", order=Order.SESSION) == {"G-single-session": 1}
    assert found("ax1@1", "rx@2", order=Order.SESSION) == {}
    assert found("ax1@1", "ax2@1", order=Order.SESSION, x="21") == {"G0-session": 1}


def test_a_circle_is_named_without_an_order_where_it_needs_none() -> None:
    texts = ["rx ay1@1:0-3", "ry ax1@2:1-2", "rx1 ry1@1:4-5"]
    assert found(*texts, order=Order.REALTIME) == {"G2": 1}
    report = check([transaction(text) for text in texts], order=Order.REALTIME)
    assert set(report.examples[0].transactions) == {0, 1}
    assert re.fullmatch(r"T(0|1) -rw-> T(1|0) -rw-> T\1", report.examples[0].about)


def test_a_value_appended_twice_is_no_history() -> None:
    with pytest.raises(ValueError, match="twice"):
        found("ax1", "ax1")


def test_a_circle_may_be_long() -> None:
    """A chain of one list, whose last transaction comes before its first in another."""
    chain = [Transaction([Append("x", no)]) for no in range(LONG)]
    chain[0] = Transaction([Append("x", 0), Append("y", 2)])
    chain[-1] = Transaction([Append("x", LONG - 1), Append("y", 1)])
    ends: Final = {"x": tuple(range(LONG)), "y": (1, 2)}
    assert dict(check(chain, final=ends).anomalies) == {"G0": 1}
    assert check(chain, final={**ends, "y": (2, 1)}).clean


def test_a_search_that_grows_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "STEPS_MAX", 0)
    for level in (Level.REPEATABLE_READ, Level.SERIALIZABLE):
        assert found("rx ay1", "ry ax1", level=level) == {"unclear": 1}


def test_components_are_those_of_the_definition() -> None:
    """Against reachability, on small random graphs."""
    dice = random.Random(7)
    for _ in range(200):
        count = dice.randint(1, 9)
        graph = Graph(count)
        for _ in range(dice.randint(0, 2 * count)):
            graph.add(dice.randrange(count), dice.randrange(count), Edge.WW)
        reach = [_reachable(graph, node) for node in range(count)]
        mutual = {frozenset(b for b in range(count) if b in reach[a] and a in reach[b]) for a in range(count)}
        assert {frozenset(c) for c in components(range(count), graph.out)} == {c for c in mutual if len(c) > 1}
        assert bool(list(graph.circles())) == any(len(c) > 1 for c in mutual)


def _reachable(graph: Graph, start: int) -> set[int]:
    seen, left = {start}, [start]
    while left:
        for edge in graph.out[left.pop()]:
            if edge >> 2 not in seen:
                seen.add(edge >> 2)
                left.append(edge >> 2)
    return seen


def test_histories_of_a_correct_database_are_clean() -> None:
    for seed in range(SEEDS):
        assert validation.accused(make(seed, 120)) == [], f"seed {seed}"


@pytest.mark.parametrize("fault", REVEALED)
def test_each_fault_is_found_as_its_kind(fault: Fault) -> None:
    for seed in range(SEEDS // 3):
        assert validation.overlooked(make(seed, 120, fault), fault) == [], f"seed {seed}"


def test_the_validation_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checker that sees nothing is found out, and so is one that accuses everybody."""
    sound, broken = make(1, 60), make(1, 60, Fault.LOST_APPEND)
    blind = Report(1)
    monkeypatch.setattr(validation, "check", lambda *_: blind)
    assert validation.overlooked(broken, Fault.LOST_APPEND) == list(Level)
    blind.note(Anomaly(Kind.G0, ""))
    assert validation.accused(sound) == ["G0"] * len(Level) * len(Order)


def test_a_large_history_takes_seconds() -> None:
    figures = validation.speed(1)
    assert figures["large_clean"]
    assert float(str(figures["large_seconds"])) < 20, "a slow machine's seconds, but never minutes"


def test_a_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skew = [{"ops": [["read", "x", []], ["append", "y", 1]]}, {"ops": [["read", "y", []], ["append", "x", 1]]}]
    file = tmp_path / "history.json"
    file.write_text(json.dumps({"transactions": skew, "final": [["x", [1]]]}))
    assert main([str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"transactions": 2, "anomalies": {"G2": 1}}
    assert main([str(file), "--level", "repeatable read"]) == 0
    file.write_text(json.dumps({"transactions": [{"ops": [["steal", "x", 1]]}]}))
    with pytest.raises(ValueError, match="neither"):
        main([str(file)])
