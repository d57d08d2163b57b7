"""A failing run becomes a small one: what can be left out while it still fails is left out."""

from __future__ import annotations

from reliability.simulation.flaws import Flaw
from reliability.simulation.plan import Plan, smaller
from reliability.simulation.run import Outcome, run

RUNS_MAX = 600


def shrunk(plan: Plan, flaws: frozenset[Flaw] = frozenset(), runs_max: int = RUNS_MAX) -> tuple[Outcome, int]:
    """The smallest run found that fails in the same way, told in full; and how many were tried."""
    failing = run(plan, flaws)
    kind = kind_of(failing.found)
    tried = 1
    again = True
    while again and tried < runs_max:
        again = False
        for candidate in smaller(failing.plan):
            tried += 1
            outcome = run(candidate, flaws)
            if outcome.found and kind_of(outcome.found) == kind:
                failing, again = outcome, True
                break
            if tried >= runs_max:
                break
    return run(failing.plan, flaws, quiet=False), tried


def kind_of(found: str) -> str:
    """What kind of failure it is, without its particulars."""
    return " ".join(word for word in found.split(":")[:2] if not word.strip()[-1:].isdigit())[:40]
