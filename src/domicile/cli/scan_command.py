"""Scanning a server's files: the agent of a purge, and a tool of its own. Needs no configuration and no database."""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import sys
import threading
import time
from typing import Annotated

import typer

from domicile.cli import render_erasure, units
from domicile.cli.options import AsJson
from domicile.cli.output import Output
from domicile.cli.session import session_of
from domicile.model.errors import EXIT_DISCREPANCY, EXIT_FAILED, DomicileError, ErrorCode

group = typer.Typer()
SAY_SECONDS = 1.0
PIECE = 1 << 16  # bytes read from standard input at a time
ORDER = b"{"  # how an order begins


@group.command()
def scan(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA_DIRECTORY", help="The server's data directory.")],
    fail_if_found: Annotated[
        bool, typer.Option("--fail-if-found", help="End with 5 when one of the values is found.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Search the files of a server for values that come over standard input: one a line, or an order of a purge. Values
    are never printed, and never taken as arguments. The server may run; what it has not written yet is not seen.
    """
    from domicile.erasure import agent

    session = session_of(context, json=json)
    told = _Told(agent.ORDER_BYTES_MAX)
    if len(told.first) > agent.ORDER_BYTES_MAX:
        raise _wrong("the values are more than can be searched for at a time")
    try:
        order = agent.read_order(_data(data), told.first)
        result = agent.carry_out(order, told.held_back, _Progress(session.output))
    except ValueError as error:
        raise _wrong(str(error)) from None
    except OSError as error:
        raise _unreadable(data, (error.strerror or "it cannot be read").lower()) from None
    session.output.result(agent.write_result(result), *render_erasure.scan(result, session.output.stdout.width))
    if fail_if_found and any(tally.found for tally in result.tallies.values()):
        raise typer.Exit(EXIT_DISCREPANCY)


class _Progress:
    """Says on stderr how far the scan is, now and then; a purge reads the share (``move/scanning.py``)."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said = time.monotonic()

    def __call__(self, read: int, of: int) -> None:
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            self._output.say(f"searched {units.size(read)} of {units.size(of)}, {100 * read // max(1, of)} %")


class _Told:
    """What comes over standard input: values, one a line, to its end; or an order, which is one line, and behind it, as
    long as it lasts, the share of the time in which the scan is to rest, again and again.

    Read without buffers, so that the thread which waits for the next line holds nothing when the program ends.
    """

    def __init__(self, most: int) -> None:
        self._share = 0.0
        self._led = False  # somebody holds the scan back
        self.first, rest = b"", b""
        while len(self.first) <= most and (piece := os.read(sys.stdin.fileno(), PIECE)):
            self.first += piece
            if self.first.lstrip()[:1] == ORDER and b"\n" in piece:
                self.first, _, rest = self.first.partition(b"\n")
                threading.Thread(target=self._listen, args=(rest,), daemon=True).start()
                return

    def held_back(self) -> float:
        """The share, as told last."""
        return self._share

    def _listen(self, rest: bytes) -> None:
        while True:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                with suppress(ValueError):
                    self._share, self._led = float(line), True
            if not (piece := os.read(sys.stdin.fileno(), PIECE)):
                break
            rest += piece
        if self._led:  # whoever ordered it is gone, and nobody waits for the result
            os._exit(EXIT_FAILED)


def _data(path: Path) -> Path:
    if not (path / "PG_VERSION").is_file():
        raise _unreadable(path, "it is no data directory of PostgreSQL, or not ours to read")
    return path


def _unreadable(path: Path, why: str) -> DomicileError:
    return DomicileError(
        ErrorCode.FILES_UNREADABLE,
        f"{path} cannot be scanned: {why}",
        facts={"directory": str(path)},
        hint="Name the server's data directory, and run this as the account that owns it.",
    )


def _wrong(why: str) -> DomicileError:
    return DomicileError(
        ErrorCode.PLAN_INVALID,
        f"standard input cannot be used: {why}",
        hint="Give one value a line: domicile scan DATA_DIRECTORY < values.txt",
    )
