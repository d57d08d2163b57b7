"""Asking before a step that cannot be undone, or changes a site."""

from __future__ import annotations

import sys

from domicile.cli.output import Output
from domicile.model.errors import DomicileError, ErrorCode


def confirm(output: Output, question: str, *, yes: bool) -> None:
    """Return only when the operator agrees, here or by ``--yes``. Raises DomicileError
    (confirmation-missing).
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise DomicileError(
            ErrorCode.CONFIRMATION_MISSING,
            f"nobody is there to answer: {question}",
            hint="Run it from a terminal, or add --yes.",
        )
    output.stderr.print(f"{question} [y/N] ", end="")
    output.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DomicileError(ErrorCode.CONFIRMATION_MISSING, "not confirmed", hint="Answer y, or add --yes.")
