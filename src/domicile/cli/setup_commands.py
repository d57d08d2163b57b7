"""Getting ready: init, sites, survey, map check."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

from rich.text import Text
import typer

from domicile.cli import render_sites
from domicile.cli.options import AsJson, DatasetName, Force, OutputFile, SiteOption, write_new
from domicile.cli.session import session_of
from domicile.model.errors import EXIT_REFUSED, EXIT_UNREACHABLE
from domicile.settings import SCHEMA_NAME, json_schema_text

group = typer.Typer()
map_group = typer.Typer(no_args_is_help=True)
group.add_typer(map_group, name="map", help="Look after the data map of a dataset.")


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
    output: OutputFile = None,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Inspect a live database and draft its data map. Reads samples and catalogues; changes nothing."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    draft = session.run(lambda: commands.survey(workspace, dataset, site, subject=subject or None))
    if output:
        write_new(output, draft.text, force=force)
    if json:
        session.output.result(draft)
    elif output:
        session.output.say(Text(f"wrote {output}"))
    else:
        session.output.raw(draft.text)
    undecided = ", ".join(map(str, draft.undecided)) or "none"
    session.output.say(Text.assemble(("undecided: ", "bold"), undecided))
    session.output.say(
        Text.assemble(
            ("next: ", "bold"), f"read the comments, decide, then: domicile map check {dataset} --site {site}"
        )
    )


@map_group.command()
def check(context: typer.Context, dataset: DatasetName, site: SiteOption, json: AsJson = False) -> None:
    """Compare the data map with the live database: new tables, orphans, rows with two owners, missing
    indexes.
    """
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    findings = session.run(lambda: commands.map_check(workspace, dataset, site))
    session.output.result({"findings": findings}, *render_sites.findings(findings))
    if any(str(f.level) == "error" for f in findings):
        raise typer.Exit(EXIT_REFUSED)
