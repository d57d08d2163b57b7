"""Virtual time: an event loop in which nothing waits, and processes that can be frozen or killed.

Whatever runs, runs here, one piece after the other in an order that follows from the seed alone. A process is known by
its context: what a frozen one would do next is put aside until it wakes up, late, as after SIGSTOP and SIGCONT.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, TypeVar, cast

T = TypeVar("T")
CLOSING_ROUNDS = 6  # in each of which a task may wait once more on its way out


class Killed(BaseException):
    """The process is gone: nothing that it still does reaches anybody."""


class Stuck(Exception):
    """Virtual time is up, or nothing would ever happen again."""


@dataclass(frozen=True, slots=True)
class _Pause:
    seconds: float

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


def pause(seconds: float) -> _Pause:
    """How a server waits: its work is no task, which would take several times as long."""
    return _Pause(seconds)


class Process:
    """A program that may be stopped. ``tasks``: its own, to be cancelled with it."""

    def __init__(self, name: str) -> None:
        self.name, self.dead, self.frozen = name, False, False
        self.parked: list[_Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
NOWHERE = Context()
"""Of servers and the network: they are nobody's process."""


class _Handle:
    __slots__ = ("arguments", "callback", "cancelled", "context", "due")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...], context: Context) -> None:
        self.callback, self.arguments, self.context, self.cancelled, self.due = callback, arguments, context, False, 0.0

    def cancel(self) -> None:
        self.cancelled = True

    def when(self) -> float:
        return self.due


class _Queue:
    """As much of an event loop as tasks, futures and timeouts need."""

    def __init__(self) -> None:
        self.now, self.steps, self._sequence = 0.0, 0, 0
        self._frozen: list[Process] = []
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.failures: list[Exception] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=_as_loop(self))

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=_as_loop(self), name=name, context=context)
        self._tasks.append(task)
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = _Handle(callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = _Handle(callback, args, copy_context() if context is None else context)
        handle.due = when
        self._sequence += 1
        heappush(self._timers, (when, self._sequence, handle))
        return handle


class VirtualLoop(_Queue):
    """What runs it, and what may be done to processes."""

    def serve(self, work: Coroutine[Any, Any, Any], done: Callable[[Any, Exception | None], None]) -> None:
        """Work of a server, which waits by `pause` alone."""
        try:
            seconds = work.send(None)
        except StopIteration as end:
            done(end.value, None)
        except Exception as refused:
            done(None, refused)
        else:
            self.call_at(self.now + seconds, self.serve, work, done, context=NOWHERE)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody asked for is no failure: of a process `begin` sees to it, and when a future is forgotten by
        Python has nothing to do with the seed."""

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Nothing but what is expected may end a task."""
        why = None if task.cancelled() else task.exception()
        if isinstance(why, Exception):
            self.fail(why)

    def fail(self, why: Exception) -> None:
        """End the run with this, whoever may catch it on its way."""
        self.failures.append(why)

    def run(self, work: Coroutine[Any, Any, T], until: float) -> T:
        """Until the work is done. Raises `Stuck` when it is not by then, and the first error that nobody took."""
        with _running(self):
            task = self.create_task(work, context=NOWHERE.copy())
            while not task.done() and not self.failures:
                self._step(until)
            if self.failures:
                raise self.failures[0]
            result: T = task.result()
            return result

    def close(self) -> None:
        """Whatever has not ended is ended; what it does on its way reaches nobody."""
        with _running(self):
            self._timers.clear()
            for process in list(self._frozen):
                self.thaw(process)
            for _ in range(CLOSING_ROUNDS):
                left = [task for task in self._tasks if not task.done()]
                for task in left:
                    task.cancel()
                while self._ready:
                    handle = self._ready.popleft()
                    if not handle.cancelled:
                        with suppress(Exception):
                            handle.context.run(handle.callback, *handle.arguments)

    def freeze(self, process: Process) -> None:
        """What it would do next is put aside."""
        if not process.frozen:
            process.frozen = True
            self._frozen.append(process)

    def thaw(self, process: Process) -> None:
        """It goes on where it was."""
        if process.frozen:
            process.frozen = False
            self._frozen.remove(process)
        self._ready.extend(process.parked)
        process.parked.clear()

    def kill(self, process: Process) -> None:
        """It is gone at once; its tasks end, and whatever they try on their way is refused."""
        process.dead = True
        if process.frozen:
            self.thaw(process)
        for task in process.tasks:
            task.cancel()

    def _step(self, until: float) -> None:
        if not self._ready:
            if not self._timers:
                raise Stuck("nothing would ever happen again")
            when, _, handle = heappop(self._timers)
            if handle.cancelled:
                return
            if when > until:
                raise Stuck(f"not over within {until:g} seconds of virtual time")
            self.now = max(self.now, when)
        else:
            handle = self._ready.popleft()
            if handle.cancelled:
                return
        if self._frozen:
            process = handle.context.get(PROCESS)
            if process is not None and process.frozen:
                process.parked.append(handle)
                return
        self.steps += 1
        try:
            handle.context.run(handle.callback, *handle.arguments)
        except Exception as why:
            self.failures.append(why)


@contextmanager
def _running(loop: VirtualLoop) -> Iterator[None]:
    outer = events._get_running_loop()  # noqa: SLF001 - how a loop says that it runs
    events._set_running_loop(_as_loop(loop))  # noqa: SLF001
    try:
        yield
    finally:
        events._set_running_loop(outer)  # noqa: SLF001


def begin(loop: VirtualLoop, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run the work as that process."""
    context = NOWHERE.copy()
    context.run(PROCESS.set, process)
    task = loop.create_task(work, context=context)
    process.tasks.append(task)
    task.add_done_callback(loop.ended)
    return task


def _as_loop(loop: _Queue) -> asyncio.AbstractEventLoop:
    """It has what is asked of it, and no more."""
    return cast("asyncio.AbstractEventLoop", loop)
