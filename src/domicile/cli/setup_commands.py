"""Getting ready: init, sites, survey."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

from rich.text import Text
import typer

from domicile.cli import map_commands, render_sites, render_survey
from domicile.cli.options import AsJson, DatasetName, Force, OutputFile, SiteOption, write_new
from domicile.cli.session import session_of
from domicile.model.errors import EXIT_REFUSED, EXIT_UNREACHABLE
from domicile.model.schema import TableName
from domicile.settings import SCHEMA_NAME, json_schema_text

LISTED_MAX = 20  # undecided tables, beside the draft that marks each

group = typer.Typer()
group.add_typer(map_commands.group, name="map", help="Look after the data map of a dataset.")


@group.command()
def init(context: typer.Context, force: Force = False) -> None:
    """Write a commented domicile.yaml, and beside it the JSON Schema that editors use."""
    session = session_of(context)
    template = resources.files("domicile.settings").joinpath("template.yaml").read_text(encoding="utf-8")
    write_new(session.config, template, force=force)
    schema = session.config.parent / SCHEMA_NAME
    schema.write_text(json_schema_text(), encoding="utf-8")
    session.output.say(Text(f"wrote {session.config} and {schema}"))
    session.output.say(Text(f"next: correct the sites in {session.config}, then run: domicile sites"))


@group.command()
def sites(context: typer.Context, json: AsJson = False) -> None:
    """Look at every dataset at every site: reachable, version, rights, room; and the SQL for what is
    missing.
    """
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    reports = session.run(lambda: commands.sites(workspace))
    width = session.output.stdout.width
    session.output.result({"sites": reports}, *render_sites.sites(reports, width))
    if not reports:
        session.output.say(Text(f"{session.config} names no dataset, so there is no database to look at."))
    if not all(r.reachable for r in reports):
        raise typer.Exit(EXIT_UNREACHABLE)
    if not all(r.ready for r in reports):
        raise typer.Exit(EXIT_REFUSED)


@group.command()
def survey(
    context: typer.Context,
    dataset: DatasetName,
    site: SiteOption,
    subject: Annotated[
        str, typer.Option(metavar="TABLE", help="The subject table, when the survey should not choose it.")
    ] = "",
    explain: Annotated[
        str, typer.Option(metavar="TABLE", help="Show instead why this table gets its role, with paths and counts.")
    ] = "",
    update: Annotated[
        Path | None, typer.Option(metavar="MAP", help="Add what is new to this map, in place, and keep all else of it.")
    ] = None,
    output: OutputFile = None,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Inspect a live database and draft its data map. Reads samples and catalogues; changes nothing."""
    from domicile import commands

    if explain and (output or update):
        raise typer.BadParameter("--explain writes no map; leave --output and --update out")
    if update and subject:
        raise typer.BadParameter("--update keeps the map's own subject; leave --subject out")
    session = session_of(context, json=json)
    workspace = session.workspace()
    if explain:
        found = session.run(lambda: commands.survey_explain(workspace, dataset, site, explain, subject=subject or None))
        session.output.result(found, *render_survey.explanation(found))
        return
    if update:
        map_commands.update_map(session, update, output, (dataset, site), force=force)
        return
    draft = session.run(lambda: commands.survey(workspace, dataset, site, subject=subject or None))
    if output:
        map_commands.write_schema(output, force=force)
        write_new(output, draft.text, force=force)
    if json:
        session.output.result(draft)
    elif output:
        session.output.say(Text(f"wrote {output}"))
    else:
        session.output.raw(draft.text)
    session.output.say(Text.assemble(("undecided: ", "bold"), _few(draft.undecided)))
    session.output.say(
        Text.assemble(
            ("next: ", "bold"), f"read the comments, decide, then: domicile map check {dataset} --site {site}"
        )
    )


def _few(tables: Sequence[TableName]) -> str:
    """The first tables, and how many more: a large database has thousands, and the draft marks each."""
    more = f" and {len(tables) - LISTED_MAX:,} more" if len(tables) > LISTED_MAX else ""
    return (", ".join(map(str, tables[:LISTED_MAX])) or "none") + more
