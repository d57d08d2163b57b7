"""Evidence: a move's bundle out of the sites' logs, and the verdict on one, which needs no configuration, no database
and no network."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from domicile.cli import render_evidence
from domicile.cli.options import AsJson, Force, MoveName, write_new
from domicile.cli.session import session_of
from domicile.evidence import bundle, checkpoint, note
from domicile.evidence.certificate import certificate
from domicile.evidence.strict import Malformed
from domicile.evidence.verify import Outcome, verify
from domicile.model.errors import EXIT_FAILED, EXIT_OK, EXIT_REFUSED, DomicileError, ErrorCode

T = TypeVar("T")
EXITS = {Outcome.PROVEN: EXIT_OK, Outcome.UNANCHORED: EXIT_REFUSED, Outcome.REFUTED: EXIT_FAILED}

group = typer.Typer()
evidence = typer.Typer(no_args_is_help=True)
group.add_typer(evidence, name="evidence", help="Evidence of what a move did.")


@evidence.callback()
def program() -> None:
    """Evidence of what a move did."""


@evidence.command("export")
def export(
    context: typer.Context,
    move: MoveName,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The bundle to write.")],
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Write a move's bundle, and beside it the certificate: BUNDLE.html."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    found = session.run(lambda: commands.evidence_bundle(workspace, move))
    page = output.with_name(output.name + ".html")
    write_new(output, found.raw, force=force)
    write_new(page, found.certificate, force=force)
    facts = render_evidence.exported(found, output, page)
    session.output.result(facts, *render_evidence.export(facts))


@evidence.command("show")
def show(context: typer.Context, move: MoveName, json: AsJson = False) -> None:
    """Walk through what the sites' logs say of a move, and the verdict on it."""
    from domicile import commands

    session = session_of(context, json=json)
    workspace = session.workspace()
    found = session.run(lambda: commands.evidence_bundle(workspace, move))
    session.output.result(render_evidence.told(found), *render_evidence.story(found, session.output.stdout.width))


@evidence.command("keys")
def keys(context: typer.Context, json: AsJson = False) -> None:
    """The verifier keys of the sites' logs, for publication; an examiner brings them to verify. Made at first use."""
    from domicile import commands

    session = session_of(context, json=json)
    found = commands.evidence_keys(session.workspace())
    if json:
        session.output.result({name: [key.text() for key in both] for name, both in found.items()})
    else:
        session.output.raw(render_evidence.keys(found))


@evidence.command("verify")
def verify_bundle(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle.")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="The sites' verifier keys, one a line, from elsewhere.")
    ] = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option("--seen", metavar="FILE", help="A checkpoint that you or others were given; may be repeated."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the verdict as a page to read and print, too.")
    ] = None,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Verify a bundle offline, check by check. Ends with 0 when it is proven, with 1 when it is refuted, with 3 when no
    key was given that it could be held against.
    """
    session = session_of(context, json=json)
    keys = _parsed(key, note.parse_keys) if key else ()
    checkpoints = [_parsed(p, _checkpoint) for p in seen or ()]
    raw = _read(path)
    report = verify(raw, keys, checkpoints)
    if html:
        write_new(html, certificate(report, sha256(raw).hexdigest()), force=force)
    session.output.result(report, *render_evidence.report(report, session.output.stdout.width))
    raise typer.Exit(EXITS[report.outcome])


def _checkpoint(raw: bytes) -> note.Note:
    found = note.parse_note(raw)
    checkpoint.read(found)
    return found


def _parsed(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(_read(path))
    except Malformed as why:
        raise _unreadable(path, str(why)) from None


def _read(path: Path) -> bytes:
    """At most one byte more than a bundle may have: the verdict then says that it is too large."""
    try:
        with path.open("rb") as file:
            return file.read(bundle.BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be opened") from None


def _unreadable(path: Path, why: str) -> DomicileError:
    return DomicileError(
        ErrorCode.EVIDENCE_INVALID,
        f"{path} cannot be read: {why}",
        facts={"file": str(path)},
        hint="Check the name of the file, and that it holds a bundle, verifier keys or a checkpoint, as it should.",
    )
