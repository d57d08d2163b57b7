"""Planted defects: rules left out of what is mirrored here, and of the real code. Each must be found.

A simulation that overlooks one of them is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from domicile.model.handover import Action, Facts, SourceMark, TargetMark
from domicile.move import live_handover
from domicile.stream import apply, catchup, fold, index, reparent, rows, seam, skips
from domicile.stream import filter as stream_filter
from domicile.stream.change import Change, Op, Transaction
from domicile.stream.pgoutput import FIRST_COLUMN
from domicile.stream.probe import UNSENT
from reliability.simulation.flaws import Flaw
from reliability.simulation.plan import LASTS, Fault, Mishap, Plan, dice, plan_of
from reliability.simulation.run import run

Planted = tuple[object, str, Any]
"""Where, which name, and what stands there instead."""


GIFTS = frozenset({Flaw.ONE_ROUND, Flaw.ENTERED_IGNORED})
"""What takes orders that pass from hand to hand."""


@dataclass(frozen=True, slots=True)
class Control:
    """One defect. ``seeds``: within how many it must be found. ``fault``: what brings it to light, and after which step
    of the mover; it happens in every run, in place of the plan's own."""

    name: str
    seeds: int
    flaws: frozenset[Flaw] = frozenset()
    planted: Callable[[], list[Planted]] = list
    fault: tuple[Fault, str] | None = None
    lasts: tuple[float, ...] = (0.2, 0.6)

    def plan(self, seed: int) -> Plan:
        """The run in which it is looked for."""
        plan = plan_of(seed)
        if self.flaws & GIFTS:
            plan = replace(plan, gifts=True, subjects=1, outsiders=1, writers=5, rollback=False, purge=False)
        if self.fault is None:
            return plan
        kind, step = self.fault
        throw = dice(seed, 7)
        return replace(plan, mishaps=(Mishap(kind, throw.random() ** 2 * 0.08, throw.choice(self.lasts), step),))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        replaced = [patch.object(where, name, stand_in) for where, name, stand_in in self.planted()]
        for one in replaced:
            one.start()
        try:
            yield
        finally:
            for one in replaced:
                one.stop()


_NO_EVIDENCE = ("TypeError", "AttributeError", "NameError")  # what was planted does not fit the code any more


def found_by(control: Control, first: int = 1) -> tuple[int, int, str]:
    """The first seed that finds the defect, how many were run, and what was seen; seed 0 when none does. What is found
    without it, too, is no evidence."""
    for seed in range(first, first + control.seeds):
        with control.in_place():
            outcome = run(control.plan(seed), control.flaws)
        assert not outcome.found.startswith(_NO_EVIDENCE), f"{control.name}: {outcome.found}"
        if outcome.found and not run(control.plan(seed)).found:
            return seed, seed - first + 1, outcome.found
    return 0, control.seeds, ""


_FAULTS = {
    Flaw.NO_LEASE: (Fault.FREEZE, "copy.chunk"),
    Flaw.NO_TERM: (Fault.CUT_LATE, "live.verify"),
    Flaw.AHEAD_FORGOTTEN: (Fault.CUT, "live.verify"),
    Flaw.UNSEEN_ACK: (Fault.LATE, "copy.chunk"),
    Flaw.SEAM_BY_POSITION: (Fault.LATE, ""),
    Flaw.BLIND_STEP_BACK: (Fault.TARGET, "live.arrived"),
    Flaw.ONE_ROUND: (Fault.HANG, "live.verify"),
    Flaw.ENTERED_IGNORED: (Fault.HANG, "live.closing"),
    Flaw.NO_DRAIN: (Fault.HANG, "copy.chunk"),
    Flaw.UNSEEN_PARENT: (Fault.HANG, "copy.chunk"),
    Flaw.PASSED_BY: (Fault.LATE, ""),
}


def _flaw(flaw: Flaw) -> Control:
    lasts = LASTS[-2:] if flaw is Flaw.BLIND_STEP_BACK else (0.2, 0.6)
    seeds = 20_000 if flaw is Flaw.UNSEEN_PARENT else 3_000  # one run in two thousand
    return Control(str(flaw), seeds, frozenset({flaw}), fault=_FAULTS.get(flaw), lasts=lasts)


def _running_ignored() -> list[Planted]:
    return [(seam.Seam, "sees", lambda self, xid: xid < self.xmax)]


def _one_too_far() -> list[Planted]:
    return [
        (
            seam.Seam,
            "sees",
            lambda self, xid: xid < self.xmin or (xid <= self.xmax and xid not in self.running),
        )
    ]


def _wrapped() -> list[Planted]:
    return [(seam.Seam, "widen", lambda self, xid: self.xmax - self.xmax % (1 << 32) + xid)]


def _leave_unseen() -> list[Planted]:
    real = rows.RowFilter._changed  # noqa: SLF001

    def changed(self: Any, key: Any, sent: Any, row: Any, owner: Any) -> None:
        real(self, key, sent, row, UNSENT if owner is not None else owner)

    return [(rows.RowFilter, "_changed", changed)]


def _applied_again() -> list[Planted]:
    real = stream_filter.WaveFilter.__init__

    def begin(self: Any, layout: Any, data_map: Any, index: Any, seam: Any, start: int, **more: Any) -> None:
        real(self, layout, data_map, index, seam, 0, **more)
        self.position = start

    return [(stream_filter.WaveFilter, "__init__", begin)]


def _outsiders_pass() -> list[Planted]:
    def insert(self: Any, payload: bytes) -> None:
        row = self._row(payload, FIRST_COLUMN)
        self._index.add(self._key_at(payload, FIRST_COLUMN), row)
        self._work.changes.append(Change(self._no, Op.INSERT, self._key(row), row))

    return [(rows.RowFilter, "insert", insert)]


def _needs_room() -> list[Planted]:
    real = apply._note  # noqa: SLF001

    def note(dirty: Any, sent: int, transactions: Any) -> int:
        if any(one.position <= sent for one in transactions):
            raise apply._not_next()  # noqa: SLF001
        return real(dirty, sent, transactions)

    return [(apply, "_note", note)]


def _reads_too_early() -> list[Planted]:
    async def snapshot(self: Any) -> tuple[seam.Seam, int]:
        await self.origin.execute(reparent._BEGIN)  # noqa: SLF001
        row = await (await self.origin.execute(reparent._SNAPSHOT)).fetchone()  # noqa: SLF001
        return seam.Seam.parse(row[0]), int(row[1])

    return [(reparent.Reparent, "_snapshot_that_sees_what_was_read", snapshot)]


def _departs_unfit() -> list[Planted]:
    def decide(facts: Facts) -> Action:
        match facts:
            case Facts(target=TargetMark.RESIDENT, published=False):
                return Action.PUBLISH
            case Facts(target=TargetMark.RESIDENT):
                return Action.FINISHED
            case Facts(source=SourceMark.DEPARTED):
                return Action.FINISHED
        return Action.STEP_BACK

    return [(live_handover, "next_action", decide)]


async def _not_asked(_live: object) -> bool:
    return False


def _no_tail() -> list[Planted]:
    real = live_handover._cross  # noqa: SLF001

    async def cross(live: Any, lock: Any, deadline: float, equal: Any, leaves: Any) -> None:
        with (
            patch.object(live.apply, "compose", lambda _tail: []),
            patch.object(live_handover, "_comparing", _nothing_compared),
        ):
            await real(live, lock, deadline, equal, leaves)

    return [(live_handover, "_cross", cross)]


async def _nothing_compared(*_: object) -> list[object]:
    return []


def _forgetful(_old: Any, new: Any) -> Any:
    return new


def _discards_nothing(_self: object, _key: object) -> None:
    return None


def _own_marker(self: Any, marker: Any) -> Any:
    return _pass_at_once(self, marker)


async def _pass_at_once(self: Any, marker: Any) -> None:
    waiter = self._markers.take(marker.content)
    if waiter is not None:
        held: list[Transaction] = list(self.waiting)
        waiter.set_result(held)


REAL = (
    Control("the seam ignores running transactions", 3_000, planted=_running_ignored),
    Control("the seam sees one transaction too far", 3_000, planted=_one_too_far),
    Control("the seam does not know that ids wrap", 3_000, planted=_wrapped),
    Control("a row that leaves is not seen", 300, planted=_leave_unseen),
    Control("what was applied is not skipped", 300, planted=_applied_again),
    Control("outsiders' rows pass the filter", 100, planted=_outsiders_pass),
    Control("the fold forgets older values", 3_000, planted=lambda: [(fold, "_over", _forgetful)]),
    Control(
        "the index keeps what was deleted", 3_000, planted=lambda: [(index.TableIndex, "discard", _discards_nothing)]
    ),
    Control("a part may not stand where the commit before it ends", 300, planted=_needs_room),
    Control("an entering row is read too early", 3_000, planted=_reads_too_early),
    Control(
        "what was read ahead is applied again",
        3_000,
        planted=lambda: [(skips.Skip, "covers", lambda *_: False)],
    ),
    Control("recovery takes a departed wave for arrived", 3_000, planted=_departs_unfit),
    Control(
        "the source opens without asking how it ended",
        3_000,
        planted=lambda: [(live_handover, "_arrived", _not_asked)],
        fault=(Fault.CUT_LATE, "live.departed"),
    ),
    Control("the arrival has no tail", 300, planted=_no_tail),
    Control("a marker passes what came before it", 3_000, planted=lambda: [(catchup.CatchUp, "_pass", _own_marker)]),
)
"""In the real code."""

MIRRORED = tuple(_flaw(flaw) for flaw in Flaw)
"""In what is mirrored here."""
ALL = (*REAL, *MIRRORED)
