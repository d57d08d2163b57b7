"""The worker: a process that stays, and carries what is ordered with ``--detach``."""

from __future__ import annotations

from typing import Annotated

import typer

from domicile.cli.options import known_sites
from domicile.cli.session import session_of

group = typer.Typer()


@group.command()
def worker(
    context: typer.Context,
    site: Annotated[
        list[str],
        typer.Option("--site", metavar="SITE", help="Carry moves that leave this site.", autocompletion=known_sites),
    ],
    moves: Annotated[int, typer.Option("--moves", metavar="N", min=1, help="How many of each site at a time.")] = 1,
) -> None:
    """Carry the moves that apply --detach has ordered, here and on as many machines as you like.

    A worker that dies is followed by another within 30 seconds. Ctrl-C (or SIGTERM) leaves every move at its next
    pause point to other workers; a second one stops at once.
    """
    from domicile.commands.worker import worker as carry

    session = session_of(context)
    workspace = session.workspace()
    session.run_move(lambda stop: carry(workspace, site, stop=stop, moves_max=moves))
