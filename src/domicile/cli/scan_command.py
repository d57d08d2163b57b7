"""Scanning a server's files: the agent of a purge, and a tool of its own. Needs no configuration and no database."""

from __future__ import annotations

from pathlib import Path
import sys
from typing import Annotated

import typer

from domicile.cli import render_erasure
from domicile.cli.options import AsJson
from domicile.cli.session import session_of
from domicile.model.errors import EXIT_DISCREPANCY, DomicileError, ErrorCode

group = typer.Typer()


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
    raw = sys.stdin.buffer.read(agent.ORDER_BYTES_MAX + 1)
    if len(raw) > agent.ORDER_BYTES_MAX:
        raise _wrong("the values are more than can be searched for at a time")
    try:
        result = agent.carry_out(agent.read_order(_data(data), raw))
    except ValueError as error:
        raise _wrong(str(error)) from None
    except OSError as error:
        raise _unreadable(data, (error.strerror or "it cannot be read").lower()) from None
    session.output.result(agent.write_result(result), *render_erasure.scan(result, session.output.stdout.width))
    if fail_if_found and any(tally.found for tally in result.tallies.values()):
        raise typer.Exit(EXIT_DISCREPANCY)


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
