"""Looking after a data map: check, schema, import, export."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.text import Text
import typer

from domicile.cli import render_sites
from domicile.cli.options import AsJson, DatasetName, Force, OutputFile, SiteOption, read_text, rewrite, write_new
from domicile.cli.session import Session, session_of
from domicile.model.errors import EXIT_REFUSED, ErrorCode

if TYPE_CHECKING:  # the survey is imported by the commands that run it
    from domicile.commands.maps import MapCheck

group = typer.Typer(no_args_is_help=True)
_NOTHING_NEW = "nothing is new: the map is as it was"
_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}


class Annotations(StrEnum):
    """Which lines a service for continuous integration reads."""

    AUTO = "auto"
    GITHUB = "github"
    NONE = "none"


class MapFormat(StrEnum):
    """What a map can be written as."""

    FIDES = "fides"


@group.command()
def check(
    context: typer.Context,
    dataset: DatasetName,
    site: SiteOption,
    annotations: Annotated[
        Annotations, typer.Option(help="Lines that mark the map's file in a pull request; auto: where GitHub runs us.")
    ] = Annotations.AUTO,
    json: AsJson = False,
) -> None:
    """Compare the data map with the live database: new tables and columns, orphans, rows with two owners, missing
    indexes.
    """
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    found = session.run(lambda: commands.map_check(workspace, dataset, site))
    session.output.result(found, *render_sites.findings(found.findings))
    in_github = session.environ.get("GITHUB_ACTIONS") == "true"
    if annotations is Annotations.GITHUB or (annotations is Annotations.AUTO and in_github):
        _annotate(session, found, json=json)
    if not found.passed:
        raise typer.Exit(EXIT_REFUSED)


def _annotate(session: Session, found: MapCheck, *, json: bool) -> None:
    """On stdout, or on stderr where stdout is one JSON object: GitHub reads both."""
    for line in github_lines(found, Path.cwd()):
        if json:
            session.output.say(Text(line, no_wrap=True, overflow="ignore"))
        else:
            session.output.raw(line)


def github_lines(found: MapCheck, folder: Path) -> Iterator[str]:
    """One workflow command for each finding; paths are relative to ``folder``, where the job runs."""
    path = Path(found.file)
    shown = path.relative_to(folder) if path.is_absolute() and path.is_relative_to(folder) else path
    for finding in found.findings:
        level = _GITHUB[str(finding.level)]
        text = f"{finding.table}: {finding.message}" + (f"\n{finding.hint}" if finding.hint else "")
        where = f"file={_property(str(shown))},line={finding.line},title={_property('domicile map check')}"
        yield f"::{level} {where}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


@group.command()
def schema(context: typer.Context, output: OutputFile = None, force: Force = False) -> None:
    """Print the JSON Schema of the data map, for editors and other programs; it lists the categories."""
    from domicile.survey.datamap_keys import json_schema_text

    session = session_of(context)
    if output:
        write_new(output, json_schema_text(), force=force)
        session.output.say(Text(f"wrote {output}"))
    else:
        session.output.raw(json_schema_text())


@group.command("import")
def import_(
    context: typer.Context,
    fides: Annotated[Path, typer.Argument(metavar="FIDES.yml", help="A file of fideslang datasets.")],
    subject: Annotated[
        str, typer.Option(metavar="TABLE", help="The subject table, when identities do not show it.")
    ] = "",
    key: Annotated[str, typer.Option(metavar="COLUMN", help="Its key, when no primary key shows it.")] = "",
    schema: Annotated[str, typer.Option(metavar="SCHEMA", help="Of collections whose dataset names none.")] = "public",
    output: OutputFile = None,
    force: Force = False,
) -> None:
    """Make a data map of fideslang datasets: categories, references, identities. Says what a map cannot carry."""
    from domicile.survey import fides as fides_file

    session = session_of(context)
    text = read_text(fides, ErrorCode.MAP_INVALID)
    made = fides_file.to_map(text, str(fides), fides_file.Wanted(subject, key, schema))
    if output:
        write_schema(output, force=force)
        write_new(output, made.text, force=force)
        session.output.say(Text(f"wrote {output}"))
    else:
        session.output.raw(made.text)
    _say_lost(session, made.lost)
    undecided = ", ".join(map(str, made.undecided)) or "none"
    session.output.say(Text.assemble(("undecided: ", "bold"), undecided))


@group.command()
def export(
    context: typer.Context,
    dataset: DatasetName,
    form: Annotated[MapFormat, typer.Option("--format", help="As what.")] = MapFormat.FIDES,
    output: OutputFile = None,
    force: Force = False,
) -> None:
    """Write the data map as a fideslang dataset, with what fideslang has no word for under meta."""
    from domicile import commands

    assert form is MapFormat.FIDES, "there is one"
    session = session_of(context)
    made = commands.map_export(session.workspace(), dataset)
    if output:
        write_new(output, made.text, force=force)
        session.output.say(Text(f"wrote {output}"))
    else:
        session.output.raw(made.text)
    _say_lost(session, made.lost)


def _say_lost(session: Session, lost: tuple[str, ...]) -> None:
    for line in lost:
        session.output.say(Text.assemble(("not carried: ", "bold"), line))


def write_schema(output: Path, *, force: bool) -> None:
    """The JSON Schema beside a new map, whose first line names it. One of an older domicile is replaced; anything else
    of that name only with ``force``. Raises DomicileError (file-exists, config-invalid)."""
    from domicile.survey.datamap_keys import SCHEMA_NAME, json_schema_text

    path = output.parent / SCHEMA_NAME
    write_new(path, json_schema_text(), force=force or _is_map_schema(path))


def _is_map_schema(path: Path) -> bool:
    from domicile.survey.datamap_keys import SCHEMA_TITLE

    try:
        found = json_format.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("title") == SCHEMA_TITLE


def update_map(session: Session, path: Path, output: Path | None, where: tuple[str, str], *, force: bool) -> None:
    """`survey --update`: the map of ``path`` with what is new, written back or to ``output``; said on stderr."""
    from domicile import commands

    workspace = session.workspace()
    read_text(path, ErrorCode.MAP_INVALID)
    read = path.read_bytes()
    text = read.decode()  # with its own line ends
    updated = session.run(lambda: commands.map_update(workspace, *where, text, str(path)))
    if output and not (force and output.resolve() == path.resolve()):
        write_new(output, updated.text, force=force)
    elif updated.text != text:
        rewrite(path, updated.text, read)
    session.output.result(updated)
    for what, names in (
        ("tables added", [str(t) for t in updated.tables]),
        ("columns added", list(updated.columns)),
        ("in the map and not in the database, kept", list(updated.gone)),
        ("left out, as their tables could not be read in time or at all", list(updated.unread)),
    ):
        if names:
            session.output.say(Text.assemble((f"{what}: ", "bold"), ", ".join(names)))
    if updated.text == text:
        session.output.say(Text("nothing was added: the map is as it was" if updated.unread else _NOTHING_NEW))
    if output or updated.text != text:
        session.output.say(Text(f"wrote {output or path}"))
