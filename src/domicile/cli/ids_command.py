"""Ids: who numbers what at which site, and setting the sites apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich.text import Text
import typer

from domicile.cli import render_ids
from domicile.cli.confirm import confirm
from domicile.cli.options import AsJson, DatasetName, Force, OutputFile, Yes, write_new
from domicile.cli.session import Session, session_of
from domicile.model.errors import EXIT_REFUSED
from domicile.model.ids import Change, IdsChanged, Style, Wish
from domicile.model.site import SiteName
from domicile.model.workspace import Workspace

group = typer.Typer()
AT_ONCE = (
    "A sequence is changed as a whole or not at all; what was changed is right by itself, and no row was touched.",
    "Give the same order again: it goes on where it stopped.",
)


@group.command()
def ids(
    context: typer.Context,
    dataset: DatasetName,
    style: Annotated[Style | None, typer.Option("--plan", help="Set sites apart: by ranges, or by steps.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Carry the plan out, instead of printing its SQL.")] = False,
    check: Annotated[bool, typer.Option("--check", help="End with 3 when sites number in the same range.")] = False,
    sites: Annotated[
        str, typer.Option(metavar="SITES", help="Which sites, comma-separated; the first one goes on where it is.")
    ] = "",
    start: Annotated[int, typer.Option(metavar="N", min=0, help="Where the first new range begins.")] = 0,
    size: Annotated[int, typer.Option(metavar="N", min=0, help="Values of each range; of steps, the step.")] = 0,
    output: OutputFile = None,
    force: Force = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Show which sequences number the keys that move, whether two sites give the same ids, and set them apart.
    Changes nothing without --apply.
    """
    session = session_of(context, json=json)
    if style is None and (apply or output or start or size):
        raise typer.BadParameter("--apply, --output, --start and --size need --plan ranges or --plan steps")
    if style is not None and check:
        raise typer.BadParameter("--check looks at what is; leave --plan out")
    if apply and output:
        raise typer.BadParameter("--output writes the SQL that --apply would run: give one of them")
    workspace = session.workspace()
    named = tuple(SiteName(s.strip()) for s in sites.split(",") if s.strip())
    if len(set(named)) < len(named):
        raise typer.BadParameter("--sites names a site twice")
    for site in named:
        workspace.conninfo(dataset, site)
    if style is None:
        _look(session, workspace, dataset, named, check=check)
        return
    wish = Wish(style, named or tuple(workspace.dataset(dataset).at), start, size)
    if apply:
        _apply(session, workspace, dataset, wish, yes=yes)
        return
    _plan(session, workspace, dataset, wish, output=output, force=force)


def _look(session: Session, workspace: Workspace, dataset: str, sites: Sequence[SiteName], *, check: bool) -> None:
    from domicile import commands

    found = session.run(lambda: commands.ids(workspace, dataset, sites))
    session.output.result(found, *render_ids.ids(found, session.output.stdout.width))
    if check and not found.apart:
        raise typer.Exit(EXIT_REFUSED)


def _plan(
    session: Session, workspace: Workspace, dataset: str, wish: Wish, *, output: Path | None, force: bool
) -> None:
    from domicile import commands

    made = session.run(lambda: commands.plan_ids(workspace, dataset, wish))
    out = session.output
    if output:
        write_new(output, render_ids.sql_text(made), force=force)
    out.result(render_ids.as_data(made), *render_ids.plan(made, out.stdout.width))
    if made.changes and not output and not out.json_wanted:
        out.raw("")
        out.raw(render_ids.sql_text(made))
    if output:
        out.say(Text(f"wrote {output}"))
    if made.blocked:
        raise typer.Exit(EXIT_REFUSED)


def _apply(session: Session, workspace: Workspace, dataset: str, wish: Wish, *, yes: bool) -> None:
    from domicile import commands

    def done(change: Change) -> None:
        session.output.say(render_ids.change_line(change))

    planned = session.run(lambda: commands.plan_ids(workspace, dataset, wish))
    made = IdsChanged(planned.dataset, (), planned.blocked, planned.apart)
    if planned.changes:
        sites = ", ".join(dict.fromkeys(c.before.site for c in planned.changes))
        confirm(session.output, f"Make {len(planned.changes)} changes to sequences at {sites}?", yes=yes)
        made, _ = session.run_move(
            lambda stop: commands.apply_ids(workspace, dataset, wish, stop=stop, done=done), AT_ONCE
        )
    session.output.result(render_ids.as_data(made), *render_ids.changed(made, session.output.stdout.width))
    if made.blocked:
        raise typer.Exit(EXIT_REFUSED)
