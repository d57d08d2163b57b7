"""Ctrl-C. The first one asks for the next safe point; the second ends the process at once, which a move
survives too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
import contextlib
import os
import signal
from typing import Any, TypeVar

from domicile.model.errors import EXIT_INTERRUPTED, DomicileError, ErrorCode

T = TypeVar("T")
AT_ONCE = "No row is lost. The wave at work may refuse its writers until the move is resumed or aborted."
SEE = "See where it stands with: domicile status; go on with: domicile resume MOVE."
GRACE_SECONDS_MAX = 5.0  # between the second signal and the hard end

Say = Callable[[str], None]


class Stopping:
    """The wish to stop. ``event`` is what a long command is given; ``asked`` tells afterwards whether
    anybody asked.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.signals = 0

    @property
    def asked(self) -> bool:
        return self.event.is_set()


def run(
    main: Callable[[Stopping], Coroutine[Any, Any, T]],
    say: Say,
    *,
    safe_point: bool = False,
    at_once: tuple[str, str] = (AT_ONCE, SEE),
) -> T:
    """Run ``main`` in a new event loop with SIGINT and SIGTERM handled.

    With ``safe_point`` the first signal only sets ``Stopping.event`` and ``main`` goes on to its next safe
    point. Without, it cancels ``main`` and raises DomicileError (interrupted). The second signal cancels in
    any case; the third, or the end of the grace, is ``os._exit``. ``at_once``: what is safe, and what to do next, where
    the second one ended what had a safe point.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        return asyncio.run(_supervise(main, say, at_once if safe_point else None))
    finally:
        signal.signal(signal.SIGINT, before)  # asyncio leaves Python's own, which typer would turn into silence


async def _supervise(
    main: Callable[[Stopping], Coroutine[Any, Any, T]], say: Say, at_once: tuple[str, str] | None
) -> T:
    loop = asyncio.get_running_loop()
    stopping = Stopping()
    task = asyncio.ensure_future(main(stopping))

    def on_signal() -> None:
        stopping.signals += 1
        stopping.event.set()
        match stopping.signals:
            case 1 if at_once:
                say("stopping at the next safe point; Ctrl-C again stops at once, and loses nothing either")
            case 1 | 2:
                task.cancel()
                loop.call_later(GRACE_SECONDS_MAX, _hard_end)
            case _:
                _hard_end()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        return await _outcome(task, stopping, at_once)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(RuntimeError):
                loop.remove_signal_handler(number)


async def _outcome(task: Awaitable[T], stopping: Stopping, at_once: tuple[str, str] | None) -> T:
    try:
        return await task
    except asyncio.CancelledError:
        if not stopping.signals:
            raise
        safe, hint = at_once or ("Nothing was changed.", "")
        what = "stopped at once" if at_once else "stopped"
        raise DomicileError(ErrorCode.INTERRUPTED, what, safe=safe, hint=hint) from None


def _hard_end() -> None:
    os._exit(EXIT_INTERRUPTED)
