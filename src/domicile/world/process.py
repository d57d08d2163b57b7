"""Writers in a process of their own, so that they cost the one that watches nothing but processor time.

The child reads its configuration from its first line of input (conninfos hold secrets, and a command line is seen by
everybody), then orders, one a line: ``doors``, ``focus FIRST LAST``, ``stop``. End of input is an order to end at once:
a child never outlives its parent. It answers ``ready``, and at the end with its account.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
import gc
import json
import os
import pickle
import sys
from typing import Any

from domicile.model.errors import DomicileError, ErrorCode
from domicile.world.account import Account
from domicile.world.traffic import Config, Traffic

END_SECONDS = 5.0


@dataclass(slots=True)
class Writers:
    """The child, seen from its parent."""

    _process: Process

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    async def open_doors(self) -> None:
        """From now on users sign up, and a few leave."""
        await self.order("doors")

    async def focus(self, first: int, last: int) -> None:
        """From now on they write for the users with these ids, both included."""
        await self.order(f"focus {first} {last}")

    async def stop(self) -> Account:
        """Let the writers end and settle; the account of the whole run. Once."""
        await self.order("stop")
        size = int(await self.line())
        assert self._process.stdout is not None, "it was asked for"
        account = pickle.loads(await self._process.stdout.readexactly(size))
        assert isinstance(account, Account), "our own child wrote it"
        return account

    async def order(self, order: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None, "it was asked for"
        with suppress(ConnectionError):  # a child that died is found by what it does not answer
            self._process.stdin.write(order.encode() + b"\n")
            await self._process.stdin.drain()

    async def line(self) -> str:
        """The child's next line. Raises DomicileError when it has ended."""
        assert self._process.stdout is not None, "it was asked for"
        line = await self._process.stdout.readline()
        if not line:
            raise DomicileError(
                ErrorCode.INTERNAL,
                "the writers' process ended too early; what it said stands above",
                hint="Try again; if it happens again, please report it.",
            )
        return line.decode().strip()


@asynccontextmanager
async def writers(config: Config) -> AsyncIterator[Writers]:
    """Writers that write when the block begins; at its end, however it comes, their process is gone."""
    # In a group of its own: Ctrl-C reaches the whole group of a terminal, and it is the parent that decides.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE, process_group=0
    )
    try:
        child = Writers(process)
        await child.order(json.dumps({f.name: _plain(getattr(config, f.name)) for f in fields(config)}))
        await child.line()
        yield child
    finally:
        await end(process)


async def end(process: Process) -> None:
    """Close its input, which is its order to end, and see that it is gone."""
    if process.stdin is not None:
        process.stdin.close()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), END_SECONDS)
    if process.returncode is None:
        process.kill()
        await process.wait()


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    orders = StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    given: dict[str, Any] = json.loads(await orders.readline())
    traffic = Traffic(Config(**{**given, "markets": tuple(given["markets"])}))
    await traffic.open()
    gc.freeze()  # what the ledger holds is never garbage: looking through it again and again would be a pause of ours
    gc.disable()
    answer(b"ready\n")
    running = asyncio.create_task(traffic.run())
    while order := (await orders.readline()).strip():
        match order.split():
            case [b"doors"]:
                traffic.open_doors()
            case [b"focus", first, last]:
                traffic.focus(int(first), int(last))
            case [b"stop"]:
                traffic.stop()
                await running
                await traffic.settle()
                await traffic.close()
                account = pickle.dumps(traffic.account())
                answer(b"%d\n" % len(account), account)
                return
    running.cancel()


def answer(*parts: bytes) -> None:
    """Write to the parent, in one piece each."""
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def main() -> None:
    asyncio.run(_serve())
    os._exit(0)  # nothing is left to be done, and the ledger is large


if __name__ == "__main__":
    main()
