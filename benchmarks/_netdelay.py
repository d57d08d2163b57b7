"""A wide-area line on one machine: real TCP through two TUN devices, between which packets are late or lost.

    python -m benchmarks._netdelay SUBNET ROUND_TRIP_MS LOSS_PERCENT MBIT PORT     (root; ends with its standard input)

One device is here, the other in a network namespace of its own: `NEAR` and `FAR` in ``10.99.SUBNET.0/24``. At the far
end the server of local port PORT answers on `SERVER_PORT`, and a sink on `SINK_PORT` reads to the end of a connection
and then says how many bytes there were. For each line read the process writes how many bytes have gone to the server.
MBIT is the line's width each way; 0: as wide as this machine makes it.

For kernels without netem. The two ends of every connection are the kernel's own, so windows, congestion control and
retransmission are what they are on a real line; only the wire is ours.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
import ctypes
from dataclasses import dataclass
import fcntl
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time

NEAR, FAR = "10.99.{}.1", "10.99.{}.2"
SERVER_PORT, SINK_PORT = 5432, 5433
MTU = 1500
PACKETS_AT_ONCE = 64
CHUNK = 256 * 1024
LOOPBACK = "127.0.0.1"
MS = 1_000.0
BYTES_PER_MBIT = 125_000
QUEUE_SECONDS_MAX = 0.1

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@dataclass(frozen=True, slots=True)
class Line:
    """A line at work. ``address`` is the far end's."""

    address: str
    process: asyncio.subprocess.Process

    async def carried(self) -> int:
        """Bytes that have gone to the server so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return int(await self.process.stdout.readline())


def unavailable() -> str:
    """Why there can be no line here; empty when there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid():
        return "a network namespace of its own takes root"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}"
    return ""


@asynccontextmanager
async def line(round_trip_ms: float, loss_percent: float, mbit: float, port: int) -> AsyncIterator[Line]:
    """A line to the server of a local port, while the block runs."""
    subnet = os.getpid() % 250 + 1
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(subnet), str(round_trip_ms), str(loss_percent), str(mbit), str(port),
        stdin=PIPE, stdout=PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the line did not come up")
        yield Line(FAR.format(subnet), process)
    finally:
        process.stdin.close()
        await process.wait()


def device(address: str) -> int:
    """A TUN device with that address in the current namespace; it is gone when its descriptor is closed."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", b"domicile%d", _IFF_TUN | _IFF_NO_PI)
    name = fcntl.ioctl(fd, _TUNSETIFF, request)[:16].rstrip(b"\0").decode()
    for command in (
        ("addr", "add", f"{address}/24", "dev", name),
        ("link", "set", name, "mtu", str(MTU), "txqueuelen", "10000", "up"),
    ):
        subprocess.run(("ip", *command), check=True)
    return fd


def carry(ends: tuple[int, int], delay: float, width: float, lost: Callable[[], bool]) -> None:
    """Hand packets from either device to the other, each ``delay`` seconds late, ``width`` bytes a second (0: any
    number), of which `QUEUE_SECONDS_MAX` may wait; for ever."""
    peers = dict(zip(ends, reversed(ends), strict=True))
    queues: dict[int, deque[tuple[float, bytes]]] = {fd: deque() for fd in ends}
    free = dict.fromkeys(ends, 0.0)  # when the line has sent what it was given
    poll = select.epoll()
    for fd in ends:
        poll.register(fd, select.EPOLLIN)
    while True:
        due = min((queue[0][0] for queue in queues.values() if queue), default=None)
        for fd, _ in poll.poll(1.0 if due is None else max(0.0, due - time.monotonic())):
            now = time.monotonic()
            with suppress(BlockingIOError):
                for _ in range(PACKETS_AT_ONCE):
                    packet = os.read(fd, MTU)
                    if lost() or free[fd] > now + QUEUE_SECONDS_MAX:
                        continue
                    free[fd] = max(free[fd], now) + (len(packet) / width if width else 0.0)
                    queues[fd].append((free[fd] + delay, packet))
        now = time.monotonic()
        for fd, queue in queues.items():
            while queue and queue[0][0] <= now:
                with suppress(OSError):  # a full device loses it, as a router would
                    os.write(peers[fd], queue[0][1])
                queue.popleft()


class _FarEnd:
    """What answers at the far end: the server, by way of a connection to its local port, and the sink."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._carried = 0

    async def serve(self, server: socket.socket, sink: socket.socket) -> None:
        """Until standard input ends."""
        await asyncio.start_server(self._forward, sock=server)
        await asyncio.start_server(self._swallow, sock=sink)
        reader = StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print("ready", flush=True)
        while await reader.readline():
            print(self._carried, flush=True)

    async def _forward(self, reader: StreamReader, writer: StreamWriter) -> None:
        there, back = await asyncio.open_connection(LOOPBACK, self._port)
        with suppress(OSError):  # either side may be gone before the other has closed
            await asyncio.gather(self._pass(reader, back, counted=True), self._pass(there, writer, counted=False))
        writer.close()
        back.close()

    async def _pass(self, reader: StreamReader, writer: StreamWriter, *, counted: bool) -> None:
        while block := await reader.read(CHUNK):
            self._carried += len(block) if counted else 0
            writer.write(block)
            await writer.drain()
        writer.write_eof()

    async def _swallow(self, reader: StreamReader, writer: StreamWriter) -> None:
        found = 0
        while block := await reader.read(CHUNK):
            found += len(block)
        writer.write(b"%d\n" % found)
        await writer.drain()
        writer.close()


def main(subnet: str, round_trip_ms: str, loss_percent: str, mbit: str, port: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    near = device(NEAR.format(subnet))
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace")
    far = device(FAR.format(subnet))
    answering = [socket.create_server((FAR.format(subnet), port)) for port in (SERVER_PORT, SINK_PORT)]
    if libc.setns(home, 0):
        raise OSError(ctypes.get_errno(), "the namespace this began in")
    # Packets have a process of their own: they must not wait for who reads them.
    if carrier := os.fork():
        os.close(near)
        os.close(far)
        try:
            asyncio.run(_FarEnd(int(port)).serve(answering[0], answering[1]))
        finally:
            os.kill(carrier, signal.SIGKILL)
            os.waitpid(carrier, 0)
    else:
        chance = float(loss_percent) / 100
        dice = random.Random(int(subnet))
        carry((near, far), float(round_trip_ms) / 2 / MS, float(mbit) * BYTES_PER_MBIT, lambda: dice.random() < chance)


if __name__ == "__main__":
    main(*sys.argv[1:])
