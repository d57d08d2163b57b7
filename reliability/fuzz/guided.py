"""Bad input, looked for by a fuzzer that sees which branches were taken: libFuzzer, through atheris.

    python -m reliability.fuzz.guided --target NAME [--seconds 60] [--seed S] [--json]

The bytes that it mutates are the choices of the same generators as in `reliability.fuzz`. What breaks the rule is
shrunk and kept in ``reliability/fuzz/found/``. Needs ``pip install atheris``. Exits 1 when something was found.
"""

from __future__ import annotations

import argparse
from collections import Counter
import importlib
import json
import os
import random
import sys
import time
from typing import Any

SEND_SECONDS = 10.0  # between two lines of progress


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability.fuzz.guided",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", required=True, help="what to fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="how long (default 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31), help="to repeat a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["domicile", "yaml"]):
        from reliability.fuzz.targets import TARGETS
    target = TARGETS.get(options.target)
    if target is None:
        print(f"there is no target {options.target}; there are: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    return _Hunt(target, options).run(atheris)


class _Hunt:
    """One run. libFuzzer ends the process itself, so the result is printed from its last call."""

    def __init__(self, target: Any, options: argparse.Namespace) -> None:
        self._target, self._options = target, options
        self._begun = self._said = time.monotonic()
        self._codes: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def run(self, atheris: Any) -> int:
        """The exit code; with libFuzzer's own loop it ends in `_one`."""
        self._target.prepare()
        print(f"seed {self._options.seed}", file=sys.stderr)
        # Its timer would take the place of ours, by which one input is stopped.
        arguments = [sys.argv[0], f"-seed={self._options.seed}", "-max_len=4096", "-handle_alrm=0", "-timeout=0"]
        atheris.Setup(arguments, self._one)
        atheris.Fuzz()
        return 0

    def _one(self, data: bytes) -> None:
        from reliability.fuzz import found
        from reliability.fuzz.dice import Fed
        from reliability.fuzz.rule import judge
        from reliability.fuzz.shrink import shrink

        given = self._target.make(Fed(data))
        outcome = judge(self._target, given)
        self._codes[outcome.code] += 1
        if outcome.fault:
            if outcome.fault not in self._faults:
                smaller = shrink(given, lambda one: judge(self._target, one).fault == outcome.fault)
                about = found.without_places(outcome.about)
                one = found.Found(self._target.name, outcome.fault, smaller, self._options.seed, -1, about)
                if not one.path.exists():
                    one.write()
            self._faults[outcome.fault] += 1
        now = time.monotonic()
        if now - self._said > SEND_SECONDS:
            self._said = now
            print(f"{sum(self._codes.values()):,} inputs, {len(self._faults)} kinds of fault", file=sys.stderr)
        if now - self._begun > self._options.seconds:
            self._end()

    def _end(self) -> None:
        result = {
            "target": self._target.name,
            "seed": self._options.seed,
            "inputs": sum(self._codes.values()),
            "outcomes": dict(self._codes.most_common()),
            "faults": dict(self._faults.most_common()),
        }
        print(json.dumps(result) if self._options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
        sys.stdout.flush()
        os._exit(1 if self._faults else 0)  # libFuzzer takes an exception for a crash


if __name__ == "__main__":
    sys.exit(main())
