"""What the benchmarks share: temporary sites, processor time, medians, and one JSON object as output.

A figure is a ratio taken in one run, variants alternating, medians of the repeats: absolute numbers of a
shared machine say little."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
import json
import os
import platform
import resource
import statistics
import sys

from domicile.sites.embedded import EmbeddedCluster, scratch_directory

SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}


def parser(name: str, question: str, rows: int) -> argparse.ArgumentParser:
    """Options every benchmark has; ``rows`` is the default size."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=question)
    options.add_argument("--rows", type=int, default=rows, help=f"size (default {rows})")
    options.add_argument("--repeat", type=int, default=3, help="repeats of every variant (default 3)")
    options.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return options


@asynccontextmanager
async def clusters(*names: str, settings: Mapping[str, str] = SETTINGS) -> AsyncIterator[tuple[EmbeddedCluster, ...]]:
    """Fresh PostgreSQL servers with durable settings, in a directory that is removed afterwards."""
    with scratch_directory("domicile-bench-") as directory:
        running: list[EmbeddedCluster] = []
        try:
            for name in names:
                cluster = await EmbeddedCluster.create(directory, name, settings=settings)
                running.append(cluster)
                await cluster.start()
            yield tuple(running)
        finally:
            for cluster in running:
                await cluster.stop()


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended.

    The servers are children too, but they have not ended: the time of a running child counts nowhere.
    """
    return sum(
        u.ru_utime + u.ru_stime
        for u in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def median(values: Sequence[float]) -> float:
    """The median, rounded to four digits that matter."""
    return float(f"{statistics.median(values):.4g}")


def machine() -> str:
    """One line on where the figures were taken."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, {platform.system()} {platform.release()}"


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def show(result: Mapping[str, object], *, as_json: bool, write: Callable[[str], object] = print) -> None:
    """The result: one JSON object, or a line per figure."""
    full = {**result, "machine": machine()}
    if as_json:
        write(json.dumps(full))
        return
    for key, value in full.items():
        write(f"{key:20} {value}")
