"""Looking: plan, status, verify, report, where. They change nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from rich.text import Text
import typer

from domicile.cli import render_move, render_plan
from domicile.cli.options import (
    AsJson,
    DatasetName,
    Force,
    MoveName,
    OutputFile,
    SourceOption,
    TargetOption,
    Watch,
    write_new,
)
from domicile.cli.progress import watching
from domicile.cli.session import Session, session_of
from domicile.model.errors import EXIT_DISCREPANCY, EXIT_REFUSED
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question, SignUps, WayBack
from domicile.model.report import MoveStatus
from domicile.model.workspace import Workspace

group = typer.Typer()
POLL_SECONDS = 1.0
POLLS_WITHOUT_RUNNER_MAX = 3  # a runner that was just killed may still be followed by another


@group.command()
def plan(
    context: typer.Context,
    dataset: DatasetName,
    source: SourceOption,
    target: TargetOption,
    where: Annotated[
        str, typer.Option(metavar="SQL", help="Who moves: a condition on the subject's columns or on market.")
    ] = "",
    subjects: Annotated[Path | None, typer.Option(metavar="FILE", help="Who moves: one subject key a line.")] = None,
    sign_ups: Annotated[
        SignUps, typer.Option("--sign-ups", help="New subjects who fit the condition: sent to the target, or accepted.")
    ] = SignUps.REFUSE,
    way_back: Annotated[
        WayBack, typer.Option("--way-back", help="What may cross back from the target until the purge.")
    ] = WayBack.HOLD,
    output: OutputFile = None,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Say what a move would do: who, which rows, in which waves, how long about, what is in the way.
    Changes nothing.
    """
    from domicile import commands
    from domicile.planner import plan_file

    session = session_of(context, json=json)
    if bool(where) == (subjects is not None):
        raise typer.BadParameter("give exactly one of --where and --subjects")
    workspace = session.workspace()
    named_in = str(subjects.absolute()) if subjects else ""
    question = Question(dataset, source, target, where, named_in, way_back=way_back, sign_ups=sign_ups)
    made = session.run(lambda: commands.plan(workspace, question))
    if output:
        write_new(output, plan_file.dump(made), force=force)
    if json:  # the plan's own form, so that what is printed can be applied
        session.output.raw(plan_file.dump(made))
    else:
        session.output.result(made, *render_plan.plan(made, session.output.stdout.width))
    if output:
        cold = " --cold" if made.refusals_of(Mode.LIVE) else ""
        way_on = "" if made.refusals else f"; carry it out with: domicile apply {output}{cold}"
        session.output.say(Text(f"wrote {output}{way_on}"))
    if made.refusals:
        raise typer.Exit(EXIT_REFUSED)


@group.command()
def status(
    context: typer.Context,
    move: Annotated[
        str | None, typer.Argument(metavar="MOVE", help="One move; all of them when left out; --watch: the newest.")
    ] = None,
    watch: Watch = False,
    json: AsJson = False,
) -> None:
    """Show where moves stand: phase and status of every wave, what is safe, what comes next."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    if watch:
        session.run(lambda: _watch(session, workspace, move))
    found = session.run(lambda: commands.status(workspace, move))
    width = session.output.stdout.width
    if move is None:
        session.output.result({"moves": found}, *render_move.moves(found, width))
    else:
        session.output.result(found[0], *render_move.move(found[0], width))


async def _watch(session: Session, workspace: Workspace, move: str | None) -> None:
    """Follow a move, the newest when none is named, until nobody carries it any more."""
    from domicile import commands

    if not (known := await commands.status(workspace, move)):
        return
    move, alone = known[-1].move_id, 0
    with watching(session.output, live=True) as show:
        while alone < POLLS_WITHOUT_RUNNER_MAX:
            now: MoveStatus = (await commands.status(workspace, move))[0]
            if now.status not in (Status.RUNNING, Status.PENDING) and not now.ordered:
                return
            show(now)
            alone = 0 if now.runner or now.ordered else alone + 1
            await asyncio.sleep(POLL_SECONDS)


@group.command()
def verify(context: typer.Context, move: MoveName, json: AsJson = False) -> None:
    """Compare both sites again, for every wave that lives at the target and still has its source copy."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    found = session.run(lambda: commands.verify(workspace, move))
    session.output.result(found, *render_move.verify(found, session.output.stdout.width))
    if not found.clean:
        raise typer.Exit(EXIT_DISCREPANCY)


@group.command()
def report(context: typer.Context, move: MoveName, json: AsJson = False) -> None:
    """Give the account of a move: what moved, at what speed, the verdicts, what stayed and why."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    account = session.run(lambda: commands.report(workspace, move))
    session.output.result(account, *render_move.report(account, session.output.stdout.width))


@group.command()
def where(
    context: typer.Context,
    dataset: DatasetName,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject's key.")],
    json: AsJson = False,
) -> None:
    """Say where a subject's data lives, and what each site says itself."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    found = session.run(lambda: commands.where(workspace, dataset, subject))
    session.output.result(found, *render_move.where(found, session.output.stdout.width))
