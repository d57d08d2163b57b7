"""The operator's orders: each is the program ``domicile`` in a process of its own, which can be killed, stopped, and
held at a named failpoint.

A server that has loaded the program forks the processes, so that none costs the seconds of its imports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
import multiprocessing
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import signal
import sys
import time

POLL_S = 0.02
PRELOADED = ["domicile.cli.main", "domicile.move.durable", "domicile.commands", "reliability.chaos.orders"]


@dataclass(frozen=True, slots=True)
class Held:
    """Where an order stops itself, to wait for SIGCONT: at the failpoint, the so manieth time."""

    point: str = ""
    time: int = 1


NOWHERE = Held()


@dataclass(slots=True)
class Order:
    """A process at work. ``log``: what it has said."""

    arguments: tuple[str, ...]
    process: BaseProcess
    log: Path
    by_hand: bool = field(default=False, init=False)  # it hung, and was killed as an operator would

    @property
    def pid(self) -> int:
        assert self.process.pid is not None, "it was started"
        return self.process.pid

    @property
    def code(self) -> int | None:
        """As of a shell, negative for a signal; None while it lives."""
        return self.process.exitcode

    @property
    def killed(self) -> bool:
        """By SIGKILL: a failpoint's, or ours."""
        return self.code == -signal.SIGKILL

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, how: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, how)

    async def end(self, seconds: float) -> bool:
        """Wait until it has ended; False when it has not after so long."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def held(self, seconds: float) -> bool:
        """Wait until it has stopped itself; False when it has ended, or after so long."""
        deadline = time.monotonic() + seconds
        while self.code is None and time.monotonic() < deadline:
            if _state(self.pid) == "T":
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def kill(self) -> None:
        """By hand: it does not come to its end."""
        self.by_hand = True
        self.signal(signal.SIGKILL)
        await self.end(10.0)


class Operator:
    """Gives orders in one folder, which holds ``domicile.yaml`` and plans."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._given: list[Order] = []

    def give(self, *arguments: str, failpoint: str = "", held: Held = NOWHERE) -> Order:
        """Begin with it: ``domicile ARGUMENTS``."""
        log = self._folder / f"order-{len(self._given):04}.log"
        environment = {"DOMICILE_FAILPOINT": failpoint, "NO_COLOR": "1"}
        process = self._context.Process(target=_run, args=(arguments, str(self._folder), str(log), environment, held))
        process.start()
        order = Order(arguments, process, log)
        self._given.append(order)
        return order

    async def do(self, *arguments: str, seconds: float = 60.0) -> Order:
        """The same, to its end; killed when it has not come to it after so long."""
        order = self.give(*arguments)
        if not await order.end(seconds):
            await order.kill()
        return order

    def dismiss(self) -> None:
        """Nothing that was ordered runs any more."""
        for order in self._given:
            if order.code is None:
                order.signal(signal.SIGKILL)
                order.process.join()


def _run(arguments: tuple[str, ...], folder: str, log: str, environment: Mapping[str, str], held: Held) -> None:
    """In the child: the program."""
    from domicile.cli.main import rest_the_collector, run

    os.chdir(folder)
    os.environ.update(environment)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(said, standard)
    sys.argv = ["domicile", *arguments]
    if held.point:
        _hold(held)
    rest_the_collector()
    code = run(os.environ)
    sys.stdout.flush()
    os._exit(code)


def _hold(held: Held) -> None:
    """The failpoint stops this process: all of it, as it stands. Behind SIGCONT it goes on as if nothing had been."""
    from domicile.move.failpoints import Failpoints

    reach, seen = Failpoints.reach, 0

    async def stopping(self: Failpoints, point: str) -> None:
        nonlocal seen
        seen += point == held.point
        if point == held.point and seen == held.time:
            os.kill(os.getpid(), signal.SIGSTOP)
        await reach(self, point)

    Failpoints.reach = stopping  # type: ignore[method-assign]


def _state(pid: int) -> str:
    """The letter of the kernel for what a process does; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
