"""Is the checker of histories itself right?

    python -m reliability.oracle [--seeds 300] [--seed 1] [--transactions 400] [--json] [--record]

For each seed a history of a tiny correct database, which must be clean at every level, and one for each kind of fault,
which must be found as its kind. Then one large history, for the speed. Exits 1 when a sound history was accused or a
fault was overlooked."""

from __future__ import annotations

import argparse
from collections import Counter
import json
import sys
import time

from reliability import record
from reliability.history import PERMITTED, Level, Order, Report, check
from reliability.oracle.executor import REVEALED, Fault, Made, make

SEEDS, TRANSACTIONS, LARGE = 300, 400, 100_000
SAY_EVERY = 50


def accused(made: Made) -> list[str]:
    """What the checker says against a sound history, at any level and in any order: nothing."""
    found: list[str] = []
    for level in Level:
        for order in Order:
            found += check(made.history, level, order, made.final).anomalies
    return found


def overlooked(made: Made, fault: Fault) -> list[str]:
    """Levels that forbid what the fault reveals, and at which the checker does not name it."""
    wanted = REVEALED[fault]
    levels = [level for level in Level if wanted not in PERMITTED[level]]
    return [level for level in levels if not names(check(made.history, level, Order.REALTIME, made.final), wanted)]


def names(report: Report, kind: str) -> bool:
    """The report names the kind, with or without an order behind it."""
    return any(found == kind or found.startswith(f"{kind}-") for found in report.anomalies)


def campaign(first: int, seeds: int, transactions: int) -> dict[str, object]:
    """All seeds; the figures."""
    false_alarms: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    failing: list[int] = []
    for seed in range(first, first + seeds):
        against = accused(make(seed, transactions))
        false_alarms.update(against)
        unseen = [fault for fault in REVEALED if overlooked(make(seed, transactions, fault), fault)]
        missed.update(map(str, unseen))
        if against or unseen:
            failing.append(seed)
        if (seed - first) % SAY_EVERY == SAY_EVERY - 1:
            print(f"{seed - first + 1} of {seeds} seeds, {len(failing)} with trouble", file=sys.stderr, flush=True)
    return {
        "seed": first,
        "seeds": seeds,
        "transactions": transactions,
        "sound_histories_checked": seeds * len(Level) * len(Order),
        "faults_planted": seeds * len(REVEALED),
        "false_alarms": dict(false_alarms),
        "overlooked": dict(missed),
        "failing_seeds": failing,
    }


def speed(seed: int) -> dict[str, object]:
    """Seconds for one large sound history, with everything looked at."""
    made = make(seed, LARGE)
    begun = time.perf_counter()
    report = check(made.history, Level.SERIALIZABLE, Order.REALTIME, made.final)
    return {
        "large_transactions": LARGE,
        "large_seconds": round(time.perf_counter() - begun, 2),
        "large_clean": report.clean,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability.oracle", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many ({SEEDS})")
    parser.add_argument("--seed", type=int, default=1, help="the first one (1)")
    parser.add_argument("--transactions", type=int, default=TRANSACTIONS, help=f"of each history ({TRANSACTIONS})")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help="write the figures to reliability/results/histories.json")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    figures = {**campaign(options.seed, options.seeds, options.transactions), **speed(options.seed)}
    if options.record:
        record.write("histories", figures)
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:24} {value}")
    return 1 if figures["false_alarms"] or figures["overlooked"] or not figures["large_clean"] else 0


if __name__ == "__main__":
    sys.exit(main())
