"""The rule for bad input, and the judge of one case.

Every input is accepted, or refused with a `DomicileError` that has a code and words, within bounds of time and memory;
no text of the error repeats the marker of a secret; what was accepted comes back the same when it is written and read
again. Anything else is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
import signal
import time
import traceback
from types import FrameType

import domicile
from domicile.model.errors import DomicileError, ErrorCode
from reliability.fuzz.dice import MARKER

Input = str | bytes | tuple[str | bytes, ...]

CPU_SECONDS_MAX = 2.0
CPU_SECONDS_PER_MB = 4.0  # besides: YAML is read word by word, and a data map may have 20 million characters
WALL_SECONDS_MAX = 60.0  # for what hangs without working
ACCEPTED = "accepted"
_CODES = frozenset(map(str, ErrorCode))
_SOURCE = Path(domicile.__file__).parent


class Broken(Exception):
    """A target found that a promise of its own does not hold: a document that does not come back, say."""


class _OutOfTime(BaseException):
    """The time is over. Not an Exception: what is tried may catch those."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that reads input. ``run`` returns a word for what it accepted, raises DomicileError where it refuses,
    and Broken where it accepted what it should not have. ``share``: its part of a campaign. ``secret``: whether
    errors are searched for the marker. ``prepare`` is called once, before memory is bounded."""

    name: str
    make: Callable[[Random], Input]
    run: Callable[[Input], str]
    share: int
    secret: Callable[[Input], bool] = lambda _: True
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input. ``fault`` is empty, or the kind of fault: the same for the same mistake.
    ``about`` tells a reader more."""

    code: str
    cpu_seconds: float
    fault: str = ""
    about: str = ""


def judge(target: Target, given: Input) -> Outcome:
    """Try one input."""
    code, fault, about = "", "", ""
    refused: DomicileError | None = None
    cpu_seconds = CPU_SECONDS_MAX + CPU_SECONDS_PER_MB * _size(given) / 1e6
    begun = time.process_time()
    try:
        with _bounded(cpu_seconds):
            code = target.run(given)
    except DomicileError as error:
        code, refused = str(error.code), error
    except Broken as broken:
        code, fault, about = "broken", f"broken: {str(broken).partition(':')[0]}", str(broken)
    except _OutOfTime:
        code, fault = "time", "out of time"
    except MemoryError as error:
        code, fault, about = "memory", "out of memory", _place(error)
    except Exception as error:
        code = "crash"
        fault, about = f"{_kind(error)} in {_place(error)}", "".join(traceback.format_exception(error)[-6:])
    seconds = time.process_time() - begun  # the target's, without our own judging
    if refused is not None:
        fault, about = _judged_error(refused, target, given)
    if not fault and seconds > cpu_seconds:
        fault = "out of time"
    return Outcome(code, seconds, fault, about)


def _size(given: Input) -> int:
    return sum(map(len, given)) if isinstance(given, tuple) else len(given)


def _judged_error(error: DomicileError, target: Target, given: Input) -> tuple[str, str]:
    said = repr(error.as_dict()) + str(error) + repr(error.__cause__)
    if not error.__suppress_context__:
        said += repr(error.__context__)
    if MARKER in said and target.secret(given):
        return f"leak in {error.code}", said[:2_000]
    if str(error.code) not in _CODES or not error.message or not error.safe:
        return "an error without code, words or what is safe", said[:2_000]
    return "", ""


def _kind(error: BaseException) -> str:
    name, module = type(error).__qualname__, type(error).__module__
    return name if module == "builtins" else f"{module}.{name}"


def _place(error: BaseException) -> str:
    """Where in our source it happened: the innermost frame of ours."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_SOURCE)]
    if not frames:
        return "no module of ours"
    return f"{Path(frames[-1].filename).relative_to(_SOURCE)}: {frames[-1].name}"


@contextmanager
def _bounded(cpu_seconds: float) -> Iterator[None]:
    """Stop what works or hangs too long. The bound of memory is the process's own (`campaign`)."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _OutOfTime

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGPROF, signal.SIGALRM)]
    # A little more than is allowed: who is only just too slow is measured, not cut off.
    signal.setitimer(signal.ITIMER_PROF, 1.5 * cpu_seconds)
    of_others = signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, *of_others)
