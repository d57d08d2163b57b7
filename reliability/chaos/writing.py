"""The oracle's writers, who go on for many faults: at each verdict they pause, tell what they remember, and write on.

The same child as the oracle's own, with other orders: ``tell FILE`` lets them settle and writes the memory there,
``go`` lets them write on. A server that crashes says so in its answer, also to a commit that it has made already: what
was under way then is in doubt, not refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
import gc
import json
import os
from pathlib import Path
import pickle
import sys
from typing import Any

from domicile.world.session import Call
from reliability.oracle import writers as oracle_writers
from reliability.oracle.book import Population
from reliability.oracle.conduct import Busy, started
from reliability.oracle.memory import Memory
from reliability.oracle.sessions import BROKEN, Answer, Sessions
from reliability.oracle.writers import Config, Writers

# The server goes down, has run into an internal error, or has no room: its session may end behind a commit.
IN_DOUBT = ("57P", "XX", "53", "58", "08")


class Doubting(Sessions):
    """Sessions with servers that crash."""

    async def attempt(self, site: str, level: str, calls: Sequence[Call], *, keep: bool = True) -> Answer:
        """As of `Sessions`; an answer that does not say whether the commit was made is a doubt."""
        answer = await super().attempt(site, level, calls, keep=keep)
        if not answer.state.startswith(IN_DOUBT):
            return answer
        return Answer(doubt=True) if keep and answer.at == len(calls) - 1 else Answer(BROKEN)


class Pen(Busy):
    """The writers' process, seen from its parent."""

    async def tell(self, file: Path) -> Memory:
        """Everybody pauses and settles; what was promised until now."""
        await self.order(f"tell {file}")
        await self.expect("written")
        memory = pickle.loads(file.read_bytes())
        file.unlink()
        assert isinstance(memory, Memory), "our own child wrote it"
        return memory

    async def go_on(self) -> None:
        """They write again."""
        await self.order("go")


@asynccontextmanager
async def writing(config: Config) -> AsyncIterator[Pen]:
    """Writers that write when the block begins; at its end, however it comes, their process is gone."""
    async with started(__name__, config) as process:
        pen = Pen(process)
        await pen.expect("ready")
        yield pen


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    given: dict[str, Any] = json.loads(await orders.readline())
    oracle_writers.Sessions = Doubting  # type: ignore[attr-defined]
    writers = Writers(Config(**{**given, "population": Population(**given["population"])}))
    await writers.open()
    gc.freeze()
    gc.disable()
    _answer("ready")
    running = asyncio.create_task(writers.run())
    while order := (await orders.readline()).decode().split(maxsplit=1):
        match order[0]:
            case "focus":
                first, last = map(int, order[1].split())
                writers.focus(range(first, last + 1))
            case "tell":
                writers.stop()
                await running
                await writers.settle()
                Path(order[1].strip()).write_bytes(pickle.dumps(writers.memory))
                _answer("written")
            case "go":
                running = asyncio.create_task(writers.run())
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def _answer(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    asyncio.run(_serve())
    os._exit(0)  # nothing is left to be done, and the memory is large


if __name__ == "__main__":
    main()
