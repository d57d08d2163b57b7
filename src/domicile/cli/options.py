"""Options and arguments that several commands share, and small deeds that belong to them."""

from __future__ import annotations

import os
from pathlib import Path
import stat
from tempfile import NamedTemporaryFile
from typing import Annotated

import typer

from domicile.cli.session import Session
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.workspace import Workspace


def _known_datasets(context: typer.Context) -> list[str]:
    workspace = _quiet_workspace(context)
    return [str(name) for name in workspace.datasets] if workspace else []


def known_sites(context: typer.Context) -> list[str]:
    """For shell completion."""
    workspace = _quiet_workspace(context)
    return [str(name) for name in workspace.sites] if workspace else []


def _quiet_workspace(context: typer.Context) -> Workspace | None:
    """For shell completion, which must say nothing when the configuration cannot be read."""
    session = context.find_object(Session)
    try:
        return session.workspace() if session else None
    except DomicileError:
        return None


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
Watch = Annotated[
    bool, typer.Option("--watch/--no-watch", help="Live progress on a terminal; otherwise a line every few seconds.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it to the workers of the source site, and return.")]
DatasetName = Annotated[
    str, typer.Argument(metavar="DATASET", help="A dataset of the configuration.", autocompletion=_known_datasets)
]
MoveName = Annotated[str, typer.Argument(metavar="MOVE", help="The move, as domicile status names it.")]
SiteOption = Annotated[
    str, typer.Option("--site", metavar="SITE", help="At which site to look.", autocompletion=known_sites)
]
SourceOption = Annotated[
    str, typer.Option("--from", metavar="SITE", help="The site they live at now.", autocompletion=known_sites)
]
TargetOption = Annotated[
    str, typer.Option("--to", metavar="SITE", help="The site they will live at.", autocompletion=known_sites)
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it to a file instead of stdout.")
]


def write_new(path: Path, content: str | bytes, *, force: bool) -> None:
    """Write a file that must not exist yet, unless ``force``. Raises DomicileError (file-exists,
    config-invalid).
    """
    try:
        with path.open("wb" if force else "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except FileExistsError:
        raise DomicileError(
            ErrorCode.FILE_EXISTS,
            f"{path} exists already",
            facts={"file": str(path)},
            hint="Name another file, or replace it with --force.",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None


def rewrite(path: Path, text: str, read: bytes) -> None:
    """Put ``text`` in the place of a file that was read as ``read``: all of it or nothing of it, where a link leads,
    with the file's mode. Raises DomicileError (file-exists where the file has changed since; config-invalid).
    """
    temporary: Path | None = None
    try:
        target = path.resolve()
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            os.fsync(file.fileno())
        if target.read_bytes() != read:
            raise DomicileError(
                ErrorCode.FILE_EXISTS,
                f"{path} has been changed since it was read, and was left as it is",
                facts={"file": str(path)},
                hint="Run the command again: it starts from the file as it is now.",
            )
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> DomicileError:
    return DomicileError(
        ErrorCode.CONFIG_INVALID,
        f"{path} cannot be written: {error.strerror}",
        facts={"file": str(path)},
        hint="Name a file in a folder that you may write to.",
    )


def read_text(path: Path, code: ErrorCode) -> str:
    """The text of a file that the operator named. Raises DomicileError (``code``)."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DomicileError(
            code, f"{path} cannot be read: {why}", facts={"file": str(path)}, hint="Check the name of the file."
        ) from None
