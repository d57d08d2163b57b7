"""How fast is the change stream, from commit at the source to commit at the target, beside a native subscription?

    python -m benchmarks.stream [--rows 1000000] [--repeat 3] [--quick] [--json]

``--rows`` changes (2 inserts : 2 updates : 1 delete, 1,000 to a transaction, no row touched twice in the same hundred
thousand) wait in a slot at the source; each run reads them from a copy of that slot into a fresh database. ``full``:
every row is the wave's; ``filtered``: one of five is, chosen by its user. The subscription applies all, always.
``ratio_full`` and ``ratio_filtered`` are our rows/s over the subscription's; a change counts as a row whether it is the
wave's or not. Time runs from the connection of the walsender until the last commit is seen at the target, both by the
servers' clocks; afterwards the rows at the target must be those of the subscription, bit for bit.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
import time

import psycopg
from psycopg import AsyncConnection, sql

from benchmarks import _bench
from benchmarks._stage import SUBJECTS, Stage, staged
from domicile.cli.main import rest_the_collector
from domicile.move.live_wave import open_live

ROWS = 1_000_000
SHARE = 5  # one user of so many is in the filtered wave
SECONDS_MAX = 600.0

_BEGUN = "select backend_start from pg_catalog.pg_stat_replication where application_name = %s"
# The servers' own times of commits are of no use: a subscription writes down the source's.
_ENDED = "select pg_catalog.clock_timestamp() from public.events where id = 1 and body = 'end'"
LOOK_SECONDS = 0.02
_SUM = """
select pg_catalog.count(*), pg_catalog.sum(pg_catalog.hash_record_extended(row(e.*), 0)) from public.events as e
where user_id <= %s"""


@dataclass(frozen=True, slots=True)
class Run:
    """One variant's run."""

    seconds: float
    content: tuple[object, ...]  # of the filtered wave's rows
    whole: tuple[object, ...]  # of all
    cpu: float  # seconds of this process


async def bench(rows: int, repeat: int) -> dict[str, object]:
    """Run all variants ``repeat`` times, alternating."""
    async with _bench.clusters("source", "target") as (source, target):
        _bench.say(f"{rows} changes are being made at the source")
        async with staged(source, target, rows, {"full": SUBJECTS, "filtered": SUBJECTS // SHARE}) as stage:
            rows = stage.rows
            runs = await _alternating(stage, repeat)
    right = runs["native"][0]
    assert all(run.whole == right.whole for run in (*runs["native"], *runs["full"])), "other rows than the native's"
    assert all(run.content == run.whole == right.content for run in runs["filtered"]), "not the wave's rows"
    return _result(rows, repeat, runs)


async def _alternating(stage: Stage, repeat: int) -> dict[str, list[Run]]:
    variants: dict[str, Callable[[], Awaitable[Run]]] = {
        "native": lambda: _native(stage),
        "full": lambda: _ours(stage, "full"),
        "filtered": lambda: _ours(stage, "filtered"),
    }
    runs: dict[str, list[Run]] = {name: [] for name in variants}
    for number in range(repeat):
        for name, variant in list(variants.items())[:: -1 if number % 2 else 1]:
            runs[name].append(run := await variant())
            speed = round(stage.rows / run.seconds)
            _bench.say(f"{name:9} {run.seconds:6.2f} s, {speed:7} rows/s, our CPU {run.cpu:5.2f} s")
    return runs


def _result(rows: int, repeat: int, runs: dict[str, list[Run]]) -> dict[str, object]:
    def ratio(name: str) -> float:
        pairs = zip(runs["native"], runs[name], strict=True)
        return _bench.median([native.seconds / ours.seconds for native, ours in pairs])

    def speed(name: str) -> int:
        return round(rows / _bench.median([run.seconds for run in runs[name]]))

    return {
        "benchmark": "stream",
        "ratio_full": ratio("full"),
        "ratio_filtered": ratio("filtered"),
        "full_rows_per_s": speed("full"),
        "filtered_rows_per_s": speed("filtered"),
        "native_rows_per_s": speed("native"),
        "full_client_cpu_us_per_row": _bench.median([run.cpu * 1e6 / rows for run in runs["full"]]),
        "filtered_client_cpu_us_per_row": _bench.median([run.cpu * 1e6 / rows for run in runs["filtered"]]),
        "rows": rows,
        "repeats": repeat,
    }


async def _native(stage: Stage) -> Run:
    """The subscription of PostgreSQL, in binary form."""
    async with stage.database("full") as conninfo, _connected(conninfo) as conn, stage.slot() as name:
        subscription = sql.SQL(
            "create subscription bench connection {} publication {} with (create_slot = false, copy_data = false,"
            " slot_name = {}, binary = true, enabled = false)"
        ).format(sql.Literal(stage.source), sql.Identifier(name), sql.Identifier(name))
        await conn.execute(subscription)
        try:
            begun = asyncio.create_task(_begun(stage, "bench"))
            cpu = _bench.cpu_seconds()
            await conn.execute("alter subscription bench enable")
            return await _measured(conn, begun, cpu)
        finally:
            await conn.execute("alter subscription bench disable")
            await conn.execute("alter subscription bench set (slot_name = none)")
            await conn.execute("drop subscription bench")


async def _ours(stage: Stage, wave: str) -> Run:
    async with stage.database(wave) as conninfo, _connected(conninfo) as conn, stage.slot() as name:
        begun = asyncio.create_task(_begun(stage, name))
        async with open_live(stage.carrier(conninfo), stage.waves[wave]) as live:
            return await live.beside(_measured(conn, begun, _bench.cpu_seconds()))


async def _measured(conn: AsyncConnection, begun: asyncio.Task[datetime], cpu: float) -> Run:
    """Wait for the last commit, and look at what is there."""
    deadline = time.monotonic() + SECONDS_MAX
    while (row := await (await conn.execute(_ENDED)).fetchone()) is None:
        assert time.monotonic() < deadline, "no end"
        await asyncio.sleep(LOOK_SECONDS)
    cpu = _bench.cpu_seconds() - cpu
    content, whole = [await (await conn.execute(_SUM, (n,))).fetchone() for n in (SUBJECTS // SHARE, SUBJECTS)]
    assert content is not None
    assert whole is not None
    return Run((row[0] - await begun).total_seconds(), content, whole, cpu)


async def _begun(stage: Stage, reader: str) -> datetime:
    """When the reader's session at the source was connected."""
    async with _connected(stage.source) as conn:
        while True:
            if row := await (await conn.execute(_BEGUN, (reader,))).fetchone():
                begun: datetime = row[0]
                return begun
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _connected(conninfo: str) -> AsyncIterator[AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        yield conn


def main() -> None:
    options: argparse.ArgumentParser = _bench.parser("stream", __doc__ or "", ROWS)
    options.add_argument("--quick", action="store_true", help="100,000 changes, once")
    chosen = options.parse_args()
    rest_the_collector()  # as the program does
    rows, repeat = (100_000, 1) if chosen.quick else (chosen.rows, chosen.repeat)
    _bench.show(asyncio.run(bench(rows, repeat)), as_json=chosen.json)


if __name__ == "__main__":
    main()
