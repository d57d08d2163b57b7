"""A line to the target that keeps, loses or cuts what the mover sends; and what a test does at the points of a move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.move.places import SOURCE, TARGET, Place

from domicile.move.carrier import Carrier
from domicile.move.failpoints import Failpoints

Deed = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Deeds(Failpoints):
    """What the test does when the mover comes to a point, by the time it does: once each."""

    deeds: dict[tuple[str, int], Deed] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    async def reach(self, point: str) -> None:
        time = self.times[point] = self.times.get(point, 0) + 1
        deed = self.deeds.get((point, time))
        if deed is not None:
            await deed()


def doing(carrier: Carrier, deeds: dict[tuple[str, int], Deed]) -> Carrier:
    """The same move, with deeds at its points."""
    return replace(carrier, move=replace(carrier.move, failpoints=Deeds(deeds=deeds)))


@dataclass(slots=True)
class Line:
    """The way to a site, over which the mover's apply writes: once told to, it keeps what is sent from then on.

    ``share`` of that goes through at once, the others at `deliver`, whether or not the sender is still there, or never
    if it ``loses`` them. A line that is ``cut`` loses its sender at the first answer to what went through.
    """

    conninfo: str
    keeping: bool = False
    share: float = 0.0
    loses: bool = False
    cut: bool = False
    kept: list[bytes] = field(default_factory=list)
    full: asyncio.Event = field(default_factory=asyncio.Event)  # something is kept
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # so is its sender
    _deliver: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def keep(self) -> None:
        """From now on, in the one session that there is."""
        self.keeping = True

    async def deliver(self) -> None:
        """What was kept arrives now; returns when the server has ended that session."""
        self._deliver.set()
        async with asyncio.timeout(20):
            await self._ended.wait()

    def end(self) -> None:
        """Nobody waits for what was kept any more."""
        self._deliver.set()

    async def serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """One connection."""
        there = conninfo_to_dict(self.conninfo)
        far, forth = await asyncio.open_connection(str(there["host"]), int(str(there["port"])))
        cut = asyncio.Event()
        answers = asyncio.create_task(self._answers(far, back, cut))
        self._tasks |= {answers, asyncio.current_task()}
        apply = keeping = False
        with suppress(ConnectionError):
            while data := await near.read(1 << 20):
                apply = apply or b"domicile apply" in data
                if keeping:
                    self.kept.append(data)
                    continue
                if apply and self.keeping:
                    self.keeping, keeping = False, True
                    through = int(len(data) * self.share)
                    self.kept.append(data[through:])
                    data = data[:through]
                    self.full.set()
                    if self.cut:
                        cut.set()
                forth.write(data)
                await forth.drain()
        if keeping:
            self.gone.set()
            await self._deliver.wait()
        with suppress(ConnectionError):
            forth.write(b"" if self.loses else b"".join(self.kept) if keeping else b"")
            forth.write_eof()
        await asyncio.wait([answers])
        forth.close()
        if keeping:
            self._ended.set()

    async def _answers(self, far: asyncio.StreamReader, back: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        """The server's answers; to nobody, when the client is gone."""
        with suppress(ConnectionError):
            while data := await far.read(65536):
                if cut.is_set():
                    back.transport.abort()
                    self.end()
                with suppress(ConnectionError):
                    back.write(data)
        back.close()


@asynccontextmanager
async def over_a_line(place: Place) -> AsyncIterator[tuple[Place, Line]]:
    """The place, whose target the mover reaches over a line; what the test itself asks goes another way."""
    line = Line(place.target)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    conninfo = make_conninfo(place.target, port=server.sockets[0].getsockname()[1])
    (dataset,) = place.workspace.datasets.values()
    far = replace(dataset, at={SOURCE: place.source, TARGET: conninfo})
    try:
        yield replace(place, workspace=replace(place.workspace, datasets={far.name: far})), line
    finally:
        line.end()
        server.close()
