"""A TCP proxy that delays: a wide-area line on one machine.

Every byte travels for half a round trip in each direction, in order, however many are under way: the delay costs no
throughput. A half-closed side is passed on. It is a process of its own, so that a busy program does not make the line
slower.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import os
import signal
import sys
import time

from psycopg.conninfo import conninfo_to_dict, make_conninfo

LOOPBACK = "127.0.0.1"
CHUNK = 256 * 1024
UNDER_WAY_MAX = 64 * 1024 * 1024  # bytes in one direction of one connection: what a long line may hold
MS = 1_000.0


class _Direction:
    """Bytes on their way from one socket to the other."""

    def __init__(self, source: StreamReader, target: StreamWriter, delay: float) -> None:
        self._source = source
        self._target = target
        self._delay = delay
        self._under_way: deque[tuple[float, bytes]] = deque()  # when it arrives; empty: the end
        self._bytes = 0
        self._changed = asyncio.Event()

    async def carry(self) -> None:
        """Until the source has ended and everything has arrived."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._bring())

    async def _take(self) -> None:
        data = b"-"
        while data:
            while self._bytes > UNDER_WAY_MAX:
                self._changed.clear()
                await self._changed.wait()
            data = await self._source.read(CHUNK)
            self._under_way.append((time.monotonic() + self._delay, data))
            self._bytes += len(data)
            self._changed.set()

    async def _bring(self) -> None:
        while True:
            while not self._under_way:
                self._changed.clear()
                await self._changed.wait()
            due, data = self._under_way[0]
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._under_way.popleft()
            self._bytes -= len(data)
            self._changed.set()
            if not data:
                self._target.write_eof()
                return
            self._target.write(data)
            await self._target.drain()


class _Proxy:
    """One line to one server."""

    def __init__(self, host: str, port: int, delay: float) -> None:
        self._to = (host, port)
        self._delay = delay

    async def connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        there: StreamWriter | None = None
        try:
            answers, there = await asyncio.open_connection(*self._to, limit=2 * CHUNK)
            async with asyncio.TaskGroup() as group:
                group.create_task(_Direction(reader, there, self._delay).carry())
                group.create_task(_Direction(answers, writer, self._delay).carry())
        except* (OSError, RuntimeError):  # a side is gone: so is the line
            pass
        finally:
            for each in (writer, there):
                if each is not None:
                    each.close()


@asynccontextmanager
async def delayed(conninfo: str, round_trip_ms: float) -> AsyncIterator[str]:
    """The same database behind a long line: yields the conninfo through the proxy, which is a process of its own."""
    given = conninfo_to_dict(conninfo)
    to = (str(given.get("hostaddr") or given["host"]), str(given["port"]), str(round_trip_ms))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, *to, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None, "it was asked for"
    assert process.stdout is not None, "it was asked for"
    try:
        port = int(await process.stdout.readline())
        yield make_conninfo(conninfo, host=LOOPBACK, hostaddr=LOOPBACK, port=port)
    finally:
        process.stdin.close()
        await process.wait()


async def _serve(host: str, port: int, round_trip_ms: float) -> None:
    """Until the input ends, so that the proxy never outlives who started it."""
    proxy = _Proxy(host, port, round_trip_ms / 2 / MS)
    server = await asyncio.start_server(proxy.connected, LOOPBACK, 0, limit=2 * CHUNK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # connections that are still open end with us


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
