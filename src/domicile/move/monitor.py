"""While a live wave is carried: what an operator wants to see, written down every second, and the budgets that end it.

Its own sessions, its own task: it measures and never holds the stream up. A budget that is used up, or an abort, is
raised to whoever carries the wave, who steps back: the source serves and nothing has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
import time

from psycopg import AsyncConnection

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.report import InTheWay, LiveFigures
from domicile.move import slices
from domicile.move.live_wave import LiveWave, session
from domicile.postgres import guard
from domicile.postgres.drain import BLOCKERS_NAMED_MAX
from domicile.stream import slot

EVERY_SECONDS = 1.0
END_SECONDS = 1.0  # for the look that is under way
OLD_SECONDS = 1.0  # younger transactions are not worth a line
_LOG_POSITION = "select (pg_catalog.pg_current_wal_lsn() - '0/0')::bigint"


class Monitor:
    """One per live wave; ``figures`` is the latest."""

    def __init__(self, live: LiveWave) -> None:
        self._live = live
        self.figures = LiveFigures()
        self._rates: list[tuple[float, int]] = []
        self._ended = asyncio.Event()

    def end(self) -> None:
        """`run` ends, after the look that is under way, if there is one; its sessions are good for others."""
        self._ended.set()

    async def run(self) -> None:
        """Until `end`, or cancelled; raises when a budget is used up or the move is aborted."""
        live = self._live
        move = live.move
        async with session(move, move.source) as source, session(move, move.target) as target:
            while not self._ended.is_set():
                async with live.looking:
                    await self.look(source, target)
                await slices.refuse_abort(live.carrier, live.wave.no)
                with suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_SECONDS):
                        await self._ended.wait()

    async def note(self, **changes: object) -> None:
        """Change some figures and write them down."""
        self.figures = replace(self.figures, **changes)  # type: ignore[arg-type]  # by name, checked by replace
        await self._live.carrier.figures.live(self._live.move.move_id, self._live.wave.no, self.figures)

    async def look(self, source: AsyncConnection, target: AsyncConnection) -> None:
        """Measure once. Raises wal-budget."""
        live = self._live
        row = await (await source.execute(_LOG_POSITION)).fetchone()
        assert row is not None
        facts = await slot.inspect(source, live.move.stream_name)
        lag = max(0, int(row[0]) - live.catchup.position)
        blockers = await guard.blockers(source, live.move.data_map.in_scope())
        old = [b for b in blockers if b.age_s is None or b.age_s > OLD_SECONDS]
        subjects = await live.there.owners(target, live.dirty())
        await self.note(
            lag_bytes=lag,
            lag_seconds=round(live.catchup.lag_seconds, 3),
            changes=live.catchup.applied,
            dirty_rows=live.dirty_rows(),
            dirty_subjects=len(subjects),
            blockers=tuple(InTheWay(b.pid, b.application, b.age_s) for b in old[:BLOCKERS_NAMED_MAX]),
            wal_bytes=facts.wal_bytes_kept if facts else None,
            seconds_left=self._seconds_left(lag),
            **self._pace(),
        )
        kept_max = live.move.plan.limits.wal_bytes_max
        if facts is not None and facts.wal_bytes_kept > kept_max:
            raise DomicileError(
                ErrorCode.WAL_BUDGET,
                f"{live.move.source_site} keeps {facts.wal_bytes_kept} bytes of log for the stream, of {kept_max}",
                facts={"wal_bytes": facts.wal_bytes_kept, "wal_bytes_max": kept_max},
                safe=f"{live.move.source_site} serves and nothing has changed; the log is given free.",
                hint="Smaller waves keep less; limits.wal_bytes_max allows for more. Then: domicile resume",
            )

    def _pace(self) -> dict[str, float | None]:
        pace = self._live.carrier.pacing.pace
        if pace is None:
            return {}
        return {"probe_p99_ms": pace.p99_ms, "probe_base_ms": pace.base_ms, "slowed": pace.slowed}

    def _seconds_left(self, lag: int) -> float | None:
        """By how fast the lag has shrunk in the last looks; None when it does not."""
        now = time.monotonic()
        self._rates = [*self._rates[-9:], (now, lag)]
        (first, before), gone = self._rates[0], self._rates[0][1] - lag
        if lag <= self._live.move.plan.limits.lag_bytes_max:
            return 0.0
        return round(lag * (now - first) / gone, 1) if gone > 0 and before > lag else None


@asynccontextmanager
async def monitored(live: LiveWave) -> AsyncIterator[Monitor]:
    """The monitor runs while the block does; what it raises, `LiveWave.beside` raises."""
    monitor = Monitor(live)
    task = asyncio.create_task(monitor.run())
    live.watched.append(task)
    try:
        yield monitor
        monitor.end()
        await asyncio.wait([task], timeout=END_SECONDS)
    finally:
        live.watched.remove(task)
        task.cancel()
        await asyncio.wait([task])
        task.cancelled() or task.exception()  # behind the block its failure is nobody's business
