"""The program ``domicile``: its options, its commands, and the one place where errors become exit codes.

Commands import ``domicile.commands`` when they run, not before: it brings in the engine, which ``--help``
and shell completion need not wait for.
"""

from __future__ import annotations

from collections.abc import Mapping
import gc
from importlib.metadata import version
import logging
import os
from pathlib import Path
import signal
import sys
import traceback
from typing import Annotated, NoReturn

from rich.text import Text
import typer

from domicile.cli import (
    demo,
    evidence_commands,
    ids_command,
    look_commands,
    move_commands,
    scan_command,
    setup_commands,
    worker_command,
)
from domicile.cli.output import Output, ReaderGone
from domicile.cli.session import Session, session_of
from domicile.model.errors import DomicileError, ErrorCode
from domicile.settings import CONFIG_NAME

YOUNG_OBJECTS = 20_000  # before the collector looks at them; Python: 700
EXIT_PIPE_CLOSED = 141  # as a shell reports SIGPIPE: whoever read our output has gone

# Plain help and plain tracebacks: rich's own would show local variables, and with them connection strings.
app = typer.Typer(name="domicile", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(demo.group)
app.add_typer(setup_commands.group)
app.add_typer(ids_command.group)
app.add_typer(look_commands.group)
app.add_typer(move_commands.group)
app.add_typer(worker_command.group)
app.add_typer(evidence_commands.group)
app.add_typer(scan_command.group)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        session_of(context).output.raw(f"domicile {version('domicile')}")
        raise typer.Exit


@app.callback()
def program(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", envvar="DOMICILE_CONFIG", help="The configuration.")
    ] = Path(CONFIG_NAME),
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", envvar="DOMICILE_STATE", help="The state directory, instead of the configuration's."
        ),
    ] = None,
    show_version: Annotated[  # noqa: ARG001 - its callback acts and exits before the program runs
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Gives every user's data a home, moves it there between PostgreSQL sites, and proves it.

    stdout is data, stderr talks. Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused, 4 unreachable, 5 the
    sites differ, 130 interrupted.
    """
    session = context.find_object(Session)
    assert session is not None, "main hands the session over"
    session.config, session.state = config, state


def main() -> None:
    """Run the program and exit with the documented code."""
    signal.signal(signal.SIGINT, _on_early_signal)
    rest_the_collector()
    sys.exit(run(os.environ))


def rest_the_collector() -> None:
    """Look for cycles among young objects less often: a change stream makes a few for each change and drops them soon,
    and the looking costs it a third of its time (``benchmarks/stream.py``)."""
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


def _on_early_signal(*_: object) -> NoReturn:
    """Ctrl-C while modules load or a question waits; what takes longer handles signals itself (``cli/interrupt``)."""
    raise DomicileError(ErrorCode.INTERRUPTED, "stopped before it began")


def run(environ: Mapping[str, str]) -> int:
    """The program's exit code. Prints every error; none leaves here."""
    output = Output(environ)
    _tame_logging(output)
    try:
        return _guarded(Session(environ, output), output)
    except ReaderGone:
        # Nobody reads any more. Give the interpreter somewhere to flush to, or it complains on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED


def _guarded(session: Session, output: Output) -> int:
    try:
        app(obj=session, prog_name="domicile")
    except SystemExit as end:
        output.flush()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ReaderGone:
        raise
    except DomicileError as error:
        output.error(error)
        output.flush()
        return error.exit_code
    except Exception as error:
        bug = _bug(error, session.environ)
        output.error(bug)
        output.flush()
        return bug.exit_code
    return 0


class _Talk(logging.Handler):
    """Domicile's own log lines as talk on stderr. Other libraries' are dropped: they may quote values."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.INFO)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.say(Text(record.getMessage(), style="dim"))


def _tame_logging(output: Output) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    own = logging.getLogger("domicile")
    own.setLevel(logging.INFO)
    own.propagate = False
    own.handlers = [_Talk(output)]


def _bug(error: Exception, environ: Mapping[str, str]) -> DomicileError:
    """An error nobody foresaw: its kind and place. Its message is left out, for it may quote somebody's
    value.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames]
    shown = places if environ.get("DOMICILE_DEBUG") else places[-1:]
    return DomicileError(
        ErrorCode.INTERNAL,
        f"domicile met an error of its own: {type(error).__name__}",
        facts={"at": shown},
        safe="Every wave is whole: at its source or at its target. domicile status shows where.",
        hint="Please report it with the whole path that DOMICILE_DEBUG=1 shows; it holds no values of rows.",
    )
