"""A TCP proxy that can be told to misbehave: it cuts, delays, stalls, falls silent, and lets lines overtake each other.

It stands before a server under an address that stays, while the server may come back on another port. A fault of
`Proxy.cut`, `silence` and `stall` meets the lines that there are; a delay meets new lines, too. All faults end with
`calm`.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from enum import StrEnum
import socket
import struct
import time

LOOPBACK = "127.0.0.1"
CHUNK = 64 * 1024
CHUNKS_MAX = 64  # under way in one direction of one line; who sends more has to wait, as on a real line
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER without lingering: the socket ends with RST


class Way(StrEnum):
    """A direction of a line, seen from the client."""

    THERE = "there"
    BACK = "back"


class _Line:
    """One client's connection. ``flowing`` is clear while its direction stands still."""

    def __init__(self, client: StreamWriter, server: StreamWriter, lag: float) -> None:
        self.client = client
        self.server = server
        self.lag = lag
        self.silent = False
        self.flowing = {way: asyncio.Event() for way in Way}
        for event in self.flowing.values():
            event.set()

    async def carry(self, way: Way, reader: StreamReader, writer: StreamWriter) -> None:
        """Bring what comes from one side to the other, in order, until it ends. Raises OSError."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)

        async def take() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except OSError:
                    await self.flowing[way].wait()  # a line that stands still does not tell of an end either
                    raise
                await under_way.put((time.monotonic() + self.lag, data))

        async def bring() -> None:
            while True:
                due, data = await under_way.get()
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                await self.flowing[way].wait()
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            group.create_task(bring())

    def reset(self) -> None:
        """Both sides hear a reset, and what was under way is lost."""
        _reset(self.client)
        _reset(self.server)


class Proxy:
    """A way to one server. ``upstream`` says where it is now, None while it is nowhere."""

    def __init__(self, upstream: Callable[[], int | None]) -> None:
        self.port = 0
        self._upstream = upstream
        self._lag: Callable[[], float] = float
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, on a free port of the loopback address."""
        self._server = await asyncio.start_server(self._connected, LOOPBACK, 0, limit=2 * CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Nobody is let in any more, and every line is gone. Idempotent."""
        if self._server is not None:
            self._server.close()
        self.cut()
        self.calm()  # what stood still ends, too
        while self._lines:  # noqa: ASYNC110 - they end at once
            await asyncio.sleep(0.01)

    @property
    def lines(self) -> int:
        """How many there are."""
        return len(self._lines)

    def cut(self) -> int:
        """Every line is reset; how many there were."""
        lines = tuple(self._lines)
        for line in lines:
            line.reset()
        return len(lines)

    def silence(self) -> int:
        """Nothing passes on these lines any more, in no direction, and no end of either side: each believes that the
        other is there. How many they are. They are reset by `calm`."""
        for line in self._lines:
            line.silent = True
        return self.stall(*Way)

    def stall(self, *ways: Way) -> int:
        """These directions stand still, on the lines that there are; how many they are."""
        for line in self._lines:
            for way in ways:
                line.flowing[way].clear()
        return len(self._lines)

    def delay(self, lag: Callable[[], float]) -> None:
        """Each line, also of those to come, brings everything so many seconds late; asked once for each. With numbers
        that differ, what was sent later arrives earlier on another line."""
        self._lag = lag
        for line in self._lines:
            line.lag = lag()

    def calm(self) -> None:
        """The end of every fault: what stood still flows, what was silent is reset."""
        self.delay(float)
        for line in tuple(self._lines):
            if line.silent:
                line.reset()
            for event in line.flowing.values():
                event.set()

    async def _connected(self, reader: StreamReader, client: StreamWriter) -> None:
        port = self._upstream()
        try:
            if port is None:
                raise ConnectionRefusedError
            answers, server = await asyncio.open_connection(LOOPBACK, port, limit=2 * CHUNK)
        except OSError:
            _reset(client)
            return
        line = _Line(client, server, self._lag())
        self._lines.add(line)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(line.carry(Way.THERE, reader, server))
                group.create_task(line.carry(Way.BACK, answers, client))
        except* (OSError, RuntimeError):  # a side is gone: so is the line
            line.reset()
        finally:
            self._lines.discard(line)
            client.close()
            server.close()


def _reset(writer: StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None and found.fileno() != -1:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
