"""``domicile demo``: the command, and the promise that it leaves nothing behind whenever it is stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from domicile.cli.options import AsJson
from domicile.cli.output import Output
from domicile.cli.session import session_of
from domicile.model.errors import EXIT_DISCREPANCY, DomicileError, ErrorCode

if TYPE_CHECKING:  # the engine is loaded when the command runs, under its signal handlers
    from domicile.demo.account import Account

group = typer.Typer()
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@group.command()
def demo(
    context: typer.Context,
    scale: Annotated[float, typer.Option(help="Size of the store; 1 is 20,000 users.")] = 1.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sites running at the end, until Ctrl-C.")] = False,
    postgres: Annotated[
        Path | None,
        typer.Option(help="Programs of an installed PostgreSQL to use, e.g. /usr/lib/postgresql/15/bin."),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the bundle and its certificate are kept; else a new temporary folder."),
    ] = None,
    json: AsJson = False,
) -> None:
    """See a whole move: four PostgreSQL sites, a store whose customers write all the while, moved and proven."""
    output = session_of(context, json=json).output
    account = asyncio.run(_Performance(output, keep=keep, postgres=postgres, evidence=evidence).play(scale))
    if not account.proven:
        raise typer.Exit(EXIT_DISCREPANCY)


class _Performance:
    """One demo with its signals. The first signal stops it; others change nothing, because the removal must end."""

    def __init__(self, output: Output, *, keep: bool, postgres: Path | None, evidence: Path | None) -> None:
        self._output = output
        self._keep = keep
        self._postgres = postgres
        self._evidence = evidence
        self._stopped = False
        self._enough: asyncio.Event | None = None  # set: who kept the sites has seen enough

    async def play(self, scale: float) -> Account:
        """Raises DomicileError: interrupted, when a signal came before the account was shown."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, task)
        try:
            return await self._play(scale)
        except (Exception, asyncio.CancelledError):
            # A terminal's Ctrl-C also reaches children such as initdb, whose failure may be told before ours.
            if not self._stopped:
                raise
            raise DomicileError(
                ErrorCode.INTERRUPTED, "the demo was stopped", safe="Its sites and their files are removed."
            ) from None
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def _play(self, scale: float) -> Account:
        from domicile.cli import render_demo
        from domicile.demo.story import Options, run

        with render_demo.Teller(self._output) as tell:
            hold = self._hold if self._keep else None
            account = await run(Options(scale, hold, self._postgres, self._evidence), tell)
        if not self._keep:
            self._show(account)
        return account

    async def _hold(self, config: Path, account: Account) -> None:
        self._show(account)
        self._enough = asyncio.Event()
        self._output.say(
            f"\nThe sites run until Ctrl-C. Look around from another terminal: domicile --config {config} status"
        )
        await self._enough.wait()

    def _show(self, account: Account) -> None:
        from domicile.cli import render_demo

        self._output.result(account.as_dict(), *render_demo.account(account, self._output.stdout.width))

    def _on_signal(self, task: asyncio.Task[Account]) -> None:
        if self._enough is not None:
            self._enough.set()
        elif not self._stopped:
            self._stopped = True
            self._output.say("stopping: removing the sites and their files")
            task.cancel()
