"""A smaller input with the same fault: pieces are left out as long as the fault stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import time
from typing import TypeVar

from reliability.fuzz.rule import Input

S = TypeVar("S", str, bytes, tuple[str | bytes, ...])
SECONDS = 20.0


def shrink(given: Input, fails: Callable[[Input], bool], seconds: float = SECONDS) -> Input:
    """The smallest input found in that time of which ``fails`` is true; it is true of ``given``."""
    deadline = time.monotonic() + seconds
    if isinstance(given, str):
        return _sequence(given, fails, deadline)
    if isinstance(given, bytes):
        return _sequence(given, fails, deadline)
    whole: tuple[str | bytes, ...] = _sequence(given, fails, deadline)
    for at, part in enumerate(whole):
        smaller = shrink(part, partial(_fails_within, fails, whole, at), deadline - time.monotonic())
        if not isinstance(smaller, tuple):
            whole = (*whole[:at], smaller, *whole[at + 1 :])
    return whole


def _fails_within(fails: Callable[[Input], bool], whole: tuple[str | bytes, ...], at: int, part: Input) -> bool:
    return not isinstance(part, tuple) and fails((*whole[:at], part, *whole[at + 1 :]))


def _sequence(given: S, fails: Callable[[Input], bool], deadline: float) -> S:
    """Leave out a half, a quarter and so on, from the front to the back, until nothing more can go."""
    size = max(1, len(given) // 2)
    while True:
        at, shorter = 0, False
        while at < len(given):
            if time.monotonic() > deadline:
                return given
            rest = given[:at] + given[at + size :]
            if fails(rest):
                given, shorter = rest, True
            else:
                at += size
        if size == 1 and not shorter:
            return given
        size = max(1, size // 2)
