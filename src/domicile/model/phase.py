"""How far a wave is, and how it goes: two fields, never one. ``control/schema.sql`` repeats these rules as
constraints.

State diagram (``docs/explanation/life-of-a-move.md`` shows the same; a test compares the three):

    cold: planned -> prepare -> fence -> copy -> verify -> handover -> soak -> purge -> done
    live: planned -> prepare -> copy -> catchup -> verify -> handover -> soak -> purge -> done

A wave that fails before its handover steps back to ``planned``: the source serves and nothing has changed. In soak it
may be rolled back: ``rollback`` is a handover in the other direction, and ends in ``planned`` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from domicile.model.plan import Mode


class Phase(StrEnum):
    """The phase a wave has entered."""

    PLANNED = "planned"
    PREPARE = "prepare"
    FENCE = "fence"
    COPY = "copy"
    CATCHUP = "catchup"  # live: what was written since the copy's snapshot follows
    VERIFY = "verify"
    HANDOVER = "handover"
    SOAK = "soak"
    ROLLBACK = "rollback"
    PURGE = "purge"
    DONE = "done"


class Status(StrEnum):
    """How a move or a wave is going in its phase."""

    PENDING = "pending"  # not begun
    RUNNING = "running"
    WAITING = "waiting"  # for an operator's order: in soak, the source copy is kept until purge
    PAUSED = "paused"  # by an operator; continues with resume
    FAILED = "failed"  # stepped back or stuck; error_code says why
    DONE = "done"
    ABORTED = "aborted"


ORDER: tuple[Phase, ...] = tuple(Phase)
"""The order in which a wave meets them, of which each way of carrying leaves some out."""

PHASES_OF: Mapping[Mode, tuple[Phase, ...]] = MappingProxyType(
    {
        Mode.COLD: (Phase.PREPARE, Phase.FENCE, Phase.COPY, Phase.VERIFY, Phase.HANDOVER),
        Mode.LIVE: (Phase.PREPARE, Phase.COPY, Phase.CATCHUP, Phase.VERIFY, Phase.HANDOVER),
    }
)
"""What an order to move carries a wave through, by way of carrying."""

NEXT: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        Phase.PLANNED: frozenset({Phase.PREPARE}),
        Phase.PREPARE: frozenset({Phase.FENCE, Phase.COPY, Phase.PLANNED}),
        Phase.FENCE: frozenset({Phase.COPY, Phase.PLANNED}),
        Phase.COPY: frozenset({Phase.VERIFY, Phase.CATCHUP, Phase.PLANNED}),
        Phase.CATCHUP: frozenset({Phase.VERIFY, Phase.PLANNED}),
        Phase.VERIFY: frozenset({Phase.HANDOVER, Phase.PLANNED}),
        Phase.HANDOVER: frozenset({Phase.SOAK, Phase.PLANNED}),
        Phase.SOAK: frozenset({Phase.PURGE, Phase.ROLLBACK}),
        Phase.ROLLBACK: frozenset({Phase.SOAK, Phase.PLANNED}),
        Phase.PURGE: frozenset({Phase.DONE}),
        Phase.DONE: frozenset(),
    }
)


def may_follow(before: Phase, after: Phase) -> bool:
    """True when a wave in ``before`` may enter ``after``; staying where one is is always allowed (steps are
    repeatable)."""
    return before is after or after in NEXT[before]


def ended(status: Status) -> bool:
    """True when nothing more will happen without a new order."""
    return status in (Status.DONE, Status.ABORTED)
