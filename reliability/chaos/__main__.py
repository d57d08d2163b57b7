"""Does a move lose, double or expose a row, or does a subject get two homes, whatever is broken while users write?

    python -m reliability.chaos --minutes 10 [--seed 1] [--only KIND,KIND] [--versions 15-18] [--json] [--record]

Three real servers, the mover as real processes of the program, and the oracle's writers, who know each write that was
acknowledged. Small circles of subjects are moved live (some cold) to the other site, rolled back or kept there, and
purged. Each order meets a fault at a named failpoint, seeded and printed: kill -9 of the mover, of a worker, of a
server or one of its sessions; lines that are cut, silent, stalled, late, or overtake each other; a mover that is
stopped for longer than its lease; a full disk; a slot that is dropped or invalidated; too much log; long transactions,
bulk updates, changed and truncated tables. The order is then brought to its end as an operator would, and every row of
both sites is compared with what the writers were promised, as is who is served where.

``failpoints``: movers that were killed there. ``resume_seconds``: from the fault (from its end, where it lasts) until
the order was done, or had come to the next failpoint; at most 30. A violation names its seed and the folder in which
the data are kept; then it exits 1."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from contextlib import suppress
import json
import signal
import sys
from typing import Any

from reliability import record
from reliability.chaos.campaign import campaign
from reliability.chaos.faults import Kind
from reliability.chaos.stage import installed_pairs
from reliability.chaos.tally import Tally

RECORD = "chaos"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=5.0, help="how long rounds are begun (5)")
    parser.add_argument("--seed", type=int, help="of faults, moves and writers (1; with --record the next one)")
    parser.add_argument("--only", default="", metavar="KIND,KIND", help=f"of {', '.join(Kind)}")
    parser.add_argument("--versions", choices=installed_pairs(), help="source-target; without it all, stage by stage")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help="add the figures to those in reliability/results")
    given = parser.parse_args(arguments)
    kept = record.read(RECORD) if given.record else {}
    seed = given.seed or len(kept.get("campaigns", ())) + 1
    try:
        kinds = frozenset(map(Kind, given.only.split(","))) if given.only else frozenset(Kind)
    except ValueError as error:
        parser.error(str(error))
    say(f"seed {seed}")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # both take the stage down first
    tally = Tally.behind(kept, seed, say)
    before = len(tally.violations)
    versions = (given.versions,) if given.versions else installed_pairs()
    with suppress(KeyboardInterrupt):  # what was seen until then is told
        asyncio.run(campaign(tally, kinds, given.minutes * 60, versions))
    figures = {"seed": seed, "minutes": given.minutes, "versions": list(versions), **tally.figures()}
    if given.record:
        record.write(RECORD, {**figures, **_together(kept, figures), "raw": tally.raw()})
    if given.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:24} {value}")
    return 1 if len(tally.violations) > before else 0


def _together(kept: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, object]:
    """How long all campaigns on record took, and what is needed to repeat each."""
    own = {name: figures[name] for name in ("seed", "minutes", "versions")}
    campaigns = [*kept.get("campaigns", ()), {**own, "commit": record.commit(), "date": record.today()}]
    return {"minutes": sum(one["minutes"] for one in campaigns), "campaigns": campaigns}


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
