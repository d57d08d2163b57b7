"""What copy and stream make of a long line, beside raw TCP with as many streams?

    python -m benchmarks.wan [--rows 600000] [--repeat 3] [--mbit 100] [--quick] [--json]     (root, Linux)

The mover runs beside the source; the target is behind a line of 170 ms round trip that loses 0.5 % of the packets each
way. ``copy``: a wave of ``--rows`` rows through `move.copy.run` with four streams, against four TCP connections that
carry as many bytes. ``stream``: a third as many changes, all of the wave, through `open_live`, against one connection
that carries as many bytes as its session. Both ways include connecting; ours everything that is asked and answered on
the way. ``copy_ratio`` and ``stream_ratio`` are our bytes/s over raw TCP's, ``ratio`` the lower one. The line is
``--mbit`` wide, 0: as wide as this machine makes it. What the two do where there is no line is reported too: a machine
that is slower without a line than raw TCP is with one says nothing about the line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
import socket
import time

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks import _bench, _netdelay
from benchmarks._netdelay import Line
from benchmarks._stage import SUBJECTS, Stage, staged
from domicile.cli.main import rest_the_collector
from domicile.model.plan import Limits
from domicile.model.schema import Schema
from domicile.move import copy
from domicile.move.context import WaveAtSites
from domicile.move.live_wave import open_live
from domicile.postgres import waves

ROWS = 600_000
STREAMS = 4
ROUND_TRIP_MS = 170.0
LOSS_PERCENT = 0.5
MBIT = 100.0
CHANGES_PART = 3  # one change for so many rows copied
VAST_ROWS = 1_000_000_000
LOOK_SECONDS = 0.02
SECONDS_MAX = 600.0
BLOCK = bytes(64 * 1024)

_EMPTY = "truncate public.users, public.events, domicile.progress; checkpoint"
_COUNT = "select pg_catalog.count(*) from public.events"
_ENDED = "select from public.events where id = 1 and body = 'end'"


@dataclass(frozen=True, slots=True)
class Carried:
    """What one run has carried to the far end."""

    bytes: int
    seconds: float

    @property
    def speed(self) -> float:
        """MB/s."""
        return self.bytes / self.seconds / 1e6


@dataclass(frozen=True, slots=True)
class Bench:
    """``line`` is None for runs without one."""

    stage: Stage
    line: Line | None

    def through(self, conninfo: str) -> str:
        """The same database, by way of the line."""
        if self.line is None:
            return conninfo
        return make_conninfo(conninfo, host=self.line.address, port=_netdelay.SERVER_PORT)

    async def copy(self) -> Carried:
        """The wave's rows, into a target that has none."""
        stage = self.stage
        move = replace(
            stage.move,
            plan=replace(stage.move.plan, limits=Limits(streams=STREAMS)),
            source_schema=_vast(stage.move.source_schema),
        )
        async with stage.database("full") as conninfo:
            await _run(conninfo, _EMPTY)
            async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
                record = await waves.find_wave(conn, move.move_id, stage.waves["full"])
            assert record is not None
            wave = WaveAtSites(stage.waves["full"], record.id, record.id, SUBJECTS, record.epoch)
            moved: list[int] = []

            async def report(_rows: int, size: int) -> None:
                moved.append(size)

            begun = time.monotonic()
            async with move.pool.keeping():  # as a move does
                await copy.run(replace(move, target=self.through(conninfo)), wave, report)
            return Carried(sum(moved), time.monotonic() - begun)

    async def stream(self) -> Carried:
        """The changes that wait."""
        stage = self.stage
        async with stage.database("full") as conninfo, stage.slot():
            async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
                carrier = stage.carrier(self.through(conninfo))
                async with open_live(carrier, stage.waves["full"]) as live:
                    # The index has been read through the line before; the stream has been open for a few milliseconds.
                    before, begun = await self._carried(), time.monotonic()
                    await live.beside(_ended(conn))
                    seconds = time.monotonic() - begun
                    return Carried(await self._carried() - before, seconds)

    async def _carried(self) -> int:
        return 0 if self.line is None else await self.line.carried()


async def bench(rows: int, repeat: int, mbit: float) -> dict[str, object]:
    """All variants ``repeat`` times, alternating."""
    settings = {**_bench.SETTINGS, "max_connections": "100"}
    async with (
        _bench.clusters("source", "target", settings=settings) as (source, target),
        staged(source, target, rows // CHANGES_PART, {"full": SUBJECTS}, base=rows) as stage,
    ):
        near = await Bench(stage, None).copy()
        _bench.say(f"copy without the line: {near.speed:.1f} MB/s")
        began = await Bench(stage, None).stream()
        _bench.say(f"stream without the line: {stage.rows / began.seconds:.0f} rows/s")
        assert target.port is not None
        async with _netdelay.line(ROUND_TRIP_MS, LOSS_PERCENT, mbit, target.port) as line:
            found = await _alternating(Bench(stage, line), line, repeat)
    ratios = {
        name: _bench.median(
            [ours.speed / raw.speed for ours, raw in zip(found[name], found[f"{name} raw"], strict=True)]
        )
        for name in ("copy", "stream")
    }
    speeds = {name.replace(" ", "_"): _bench.median([c.speed for c in runs]) for name, runs in found.items()}
    return {
        "benchmark": "wan",
        "ratio": min(ratios.values()),
        **{f"{name}_ratio": ratio for name, ratio in ratios.items()},
        **{f"{name}_mb_per_s": speed for name, speed in speeds.items()},
        "stream_rows_per_s": round(stage.rows / _bench.median([c.seconds for c in found["stream"]])),
        "copy_mb_per_s_without_line": round(near.speed, 1),
        "stream_rows_per_s_without_line": round(stage.rows / began.seconds),
        "round_trip_ms": ROUND_TRIP_MS,
        "loss_percent": LOSS_PERCENT,
        "mbit": mbit,
        "streams": STREAMS,
        "rows": rows,
        "repeats": repeat,
    }


async def _alternating(bench: Bench, line: Line, repeat: int) -> dict[str, list[Carried]]:
    found: dict[str, list[Carried]] = {}
    ours: tuple[tuple[str, int, Callable[[], Awaitable[Carried]]], ...] = (
        ("copy", STREAMS, bench.copy),
        ("stream", 1, bench.stream),
    )
    for _ in range(repeat):
        for name, streams, run in ours:
            carried = await run()
            for title, one in ((name, carried), (f"{name} raw", await _raw(line, carried.bytes, streams))):
                found.setdefault(title, []).append(one)
                _bench.say(f"{title:11} {one.bytes / 1e6:6.1f} MB {one.seconds:6.2f} s {one.speed:6.2f} MB/s")
    return found


def _vast(schema: Schema) -> Schema:
    """The wave looks like a small part of its tables, as waves are: so it goes in chunks, each read by index."""
    return replace(
        schema, tables={name: replace(table, rows_estimate=VAST_ROWS) for name, table in schema.tables.items()}
    )


async def _raw(line: Line, size: int, streams: int) -> Carried:
    """As many bytes over as many connections, until the far end has said that it has them."""
    begun = time.monotonic()
    share = size // streams
    await asyncio.gather(*(asyncio.to_thread(_send, line.address, share) for _ in range(streams)))
    return Carried(share * streams, time.monotonic() - begun)


def _send(address: str, size: int) -> None:
    with socket.create_connection((address, _netdelay.SINK_PORT)) as conn:
        left = size
        while left > 0:
            conn.sendall(BLOCK[: min(left, len(BLOCK))])
            left -= len(BLOCK)
        conn.shutdown(socket.SHUT_WR)
        assert int(conn.recv(64)) == size


async def _ended(conn: psycopg.AsyncConnection) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        if await (await conn.execute(_ENDED)).fetchone() is not None:
            return
        assert time.monotonic() < deadline, "no end"
        await asyncio.sleep(LOOK_SECONDS)


async def _run(conninfo: str, script: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        for statement in script.split(";"):
            await conn.execute(statement.encode())


def main() -> None:
    options = _bench.parser("wan", __doc__ or "", ROWS)
    options.add_argument("--quick", action="store_true", help="150,000 rows, once")
    options.add_argument(
        "--mbit", type=float, default=MBIT, help=f"the line's width; 0: what the machine makes ({MBIT:g})"
    )
    chosen = options.parse_args()
    rest_the_collector()  # as the program does
    if why := _netdelay.unavailable():
        _bench.show({"benchmark": "wan", "skipped": why}, as_json=chosen.json)
        return
    rows, repeat = (150_000, 1) if chosen.quick else (chosen.rows, chosen.repeat)
    _bench.show(asyncio.run(bench(rows, repeat, chosen.mbit)), as_json=chosen.json)


if __name__ == "__main__":
    main()
