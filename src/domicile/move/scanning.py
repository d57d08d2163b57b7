"""Scans beside a server, as a process of its own: ``domicile scan``, with its order on standard input; on this machine,
or by the site's agent, a program that runs it where the server's files are.

Of many fingerprints an order holds some; the files are read once for each order. A process needs some 300 bytes of
memory for each fingerprint that it searches for.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
import re
import shutil
import sys

from domicile.erasure.agent import Result, read_result, write_order
from domicile.erasure.scan import Order, Tally
from domicile.model.errors import DomicileError, ErrorCode

PRINTS_AT_A_TIME = 1_000_000  # 43 MB of an order, which may have agent.ORDER_BYTES_MAX
NICE = ("nice", "-n", "5")  # the server's own work comes first; much more, and a scan beside a busy one never ends
TELL_SECONDS = 0.25  # between two words about how much to rest
HeldBack = Callable[[], float]
Told = Callable[[int], Awaitable[None]]  # how far the scan is, in percent
_SHARE = re.compile(rb"(\d{1,3}) %")  # as `domicile scan` says it on stderr
_STDERR_PIECE = 4_096


async def nobody(_share: int) -> None:
    """Nobody wants to know how far it is."""


async def scan(
    order: Order, agent: Sequence[str] = (), held_back: HeldBack = lambda: 0.0, told: Told = nobody
) -> Result:
    """What the scan found. ``agent`` runs it elsewhere: a program and its arguments. ``held_back`` tells the share of
    the time in which it is to rest, again and again. Raises files-unreadable when it did not come to its end."""
    whole: Result | None = None
    first = 0
    for part in order.prints.parts(PRINTS_AT_A_TIME):
        found = await _scan(replace(order, prints=part), agent, held_back, told)
        whole = found if whole is None else _both(whole, found, first)
        first += len(part)
    assert whole is not None
    return whole


def _both(one: Result, other: Result, first: int) -> Result:
    """Two scans of the same files as one; the fingerprints of ``other`` are numbered from ``first`` on. The places'
    bytes are those of one reading."""
    tallies = {}
    for place, tally in one.tallies.items():
        more = other.tallies[place]
        found = {**tally.found, **{first + which: times for which, times in more.found.items()}}
        reasons = sorted({*tally.not_read, *more.not_read})
        not_read = {r: max(tally.not_read.get(r, 0), more.not_read.get(r, 0)) for r in reasons}
        tallies[place] = Tally(tally.bytes, tally.files, found, not_read)
    return Result(tallies, one.bytes + other.bytes, one.seconds + other.seconds, one.by)


async def _scan(order: Order, agent: Sequence[str], held_back: HeldBack, told: Told) -> Result:
    nice = NICE if shutil.which(NICE[0]) else ()
    program = agent or (*nice, sys.executable, "-m", "domicile", "scan", str(order.data), "--json")
    try:
        child = await asyncio.create_subprocess_exec(
            *program,
            cwd=Path("/"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:  # no memory for another process
        raise _not_ended(error.errno) from error
    try:
        out = await _led(child, write_order(order), held_back, told)
    except BaseException:
        if child.returncode is None:
            child.kill()
            await asyncio.shield(child.wait())
        raise
    if child.returncode == 0:
        try:
            return read_result(out)
        except ValueError:
            pass
    raise _not_ended(child.returncode)


async def _led(child: Process, order: bytes, held_back: HeldBack, told: Told) -> bytes:
    """Give the order and go on telling how much to rest, until the child has answered."""
    assert child.stdin is not None, "it was asked for"
    assert child.stdout is not None, "it was asked for"
    assert child.stderr is not None, "it was asked for"
    answer = asyncio.create_task(child.stdout.read())
    share = _Share()
    listening = asyncio.create_task(share.listen(child.stderr))
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: its code says how
            child.stdin.write(order + b"\n")
            while not answer.done():
                child.stdin.write(b"%.3f\n" % held_back())
                await child.stdin.drain()
                await asyncio.wait([answer], timeout=TELL_SECONDS)
                await told(share.percent)
        out = await answer
        with suppress(BrokenPipeError, ConnectionResetError):
            child.stdin.close()
        await child.wait()
    finally:
        answer.cancel()
        listening.cancel()
    return out


class _Share:
    """How far a scan says it is; what else its program says is of no interest, and may be anything."""

    percent = 0

    async def listen(self, errors: asyncio.StreamReader) -> None:
        while piece := await errors.read(_STDERR_PIECE):
            if said := _SHARE.findall(piece):
                self.percent = min(100, int(said[-1]))


def _not_ended(code: int | None) -> DomicileError:
    return DomicileError(
        ErrorCode.FILES_UNREADABLE,
        "the scan of the server's files did not come to its end",
        facts={"exit_code": code},
        safe="What is removed is removed; nothing is known of what is left on disk.",
        hint="Run domicile scan DATA_DIRECTORY by hand to see why, then the check again.",
    )
