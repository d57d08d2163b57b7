"""Orders carried out in processes of their own, which a failpoint may kill.

A parent that has imported everything reads orders and forks a child for each: a child is a whole mover, and costs no
start of Python. The parent runs no thread and no event loop, so a fork of it is a clean one.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
import importlib
import os
import pickle
import signal
import sys
from typing import Any

from domicile import commands
from domicile.model.errors import DomicileError
from domicile.model.workspace import Workspace

ORDER_SECONDS_MAX = 120
LINE_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How an order's process ended: ``code`` as of a shell (negative: the signal), and what the order returned."""

    code: int
    result: Any = None
    error: str = ""

    @property
    def killed(self) -> bool:
        """By the failpoint."""
        return self.code == -signal.SIGKILL


@dataclass(slots=True)
class Mover:
    """The parent, seen from the test."""

    _process: Process
    workspace: Workspace

    async def do(self, order: str, *values: object, failpoint: str = "", **named: object) -> Ended:
        """One command of `domicile.commands` in a process of its own."""
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        spec = _plain(self.workspace), failpoint, order, values, named
        self._process.stdin.write(_line(spec))
        answer = await asyncio.wait_for(self._process.stdout.readline(), ORDER_SECONDS_MAX)
        return Ended(*_read(answer))


@asynccontextmanager
async def mover(workspace: Workspace) -> AsyncIterator[Mover]:
    """For one order after another; at the end of the block nothing of it runs any more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE, limit=LINE_MAX, start_new_session=True
    )
    try:
        yield Mover(process, workspace)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the group has our children, and nobody else
        await process.wait()


def _plain(workspace: Workspace) -> dict[str, Any]:
    """What can be pickled of it."""
    found = {name: getattr(workspace, name) for name in Workspace.__slots__}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in found.items()}


def _line(value: object) -> bytes:
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def _read(line: bytes) -> Any:
    return pickle.loads(base64.b64decode(line))


def _child(line: bytes, answers: int) -> None:
    """Carry one order out and tell how it ended."""
    given, failpoint, order, values, named = _read(line)
    workspace = Workspace(**{**given, "failpoint": failpoint})
    try:
        result, error = asyncio.run(getattr(commands, order)(workspace, *values, **named)), ""
    except DomicileError as why:
        result, error = None, f"{why.code}: {why.message}"
    os.write(answers, pickle.dumps((result, error)))


def _serve() -> None:
    for line in sys.stdin.buffer:
        answers, ours = os.pipe()
        if not (child := os.fork()):
            try:
                _child(line, ours)
            finally:
                os._exit(0)
        os.close(ours)
        with os.fdopen(answers, "rb") as file:
            said = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        result, error = pickle.loads(said) if said else (None, "it said nothing")
        sys.stdout.buffer.write(_line((code, result, error)))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    importlib.import_module("domicile.move.durable")  # loaded once, for every child
    _serve()
