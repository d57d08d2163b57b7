"""What PostgreSQL says when a statement on users' rows fails, told without a value of a row.

MESSAGE, DETAIL and CONTEXT of the server may quote values (``Key (email)=(...)``, ``COPY orders, line 3:
"..."``): none of them is passed on. SQLSTATE and the names of table, column and constraint remain, and are
enough to act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors

from domicile.model.errors import DomicileError, ErrorCode

_CODES = {
    "53100": ErrorCode.DISK_FULL,
    "23505": ErrorCode.KEYS_COLLIDE,
    "23P01": ErrorCode.KEYS_COLLIDE,
    "42501": ErrorCode.RIGHT_MISSING,
    "42P01": ErrorCode.SCHEMA_CHANGED,
    "42703": ErrorCode.SCHEMA_CHANGED,
    "42704": ErrorCode.SCHEMA_CHANGED,
    "42804": ErrorCode.SCHEMA_CHANGED,
    "3F000": ErrorCode.SCHEMA_CHANGED,
    "22P03": ErrorCode.SCHEMA_CHANGED,  # binary form not understood: the column has another type now
    "22P04": ErrorCode.SCHEMA_CHANGED,
}
_LOST = ("08", "57P")  # connection exceptions; shutdown and crash of the server

_SAYS = {
    ErrorCode.DISK_FULL: "the disk of the {side} is full",
    ErrorCode.KEYS_COLLIDE: "a row that arrives has a key that the {side} already holds",
    ErrorCode.RIGHT_MISSING: "the role lacks a right at the {side}",
    ErrorCode.SCHEMA_CHANGED: "the table at the {side} is not what was planned",
    ErrorCode.SITE_UNREACHABLE: "the connection to the {side} was lost",
    ErrorCode.COPY_FAILED: "the {side} refused",
}
_HINTS = {
    ErrorCode.DISK_FULL: "Free or add disk at the {side}, then run apply again: it goes on where it stopped.",
    ErrorCode.KEYS_COLLIDE: "Plan again: it shows the keys. Change them at one site, or leave them out.",
    ErrorCode.RIGHT_MISSING: "Grant the right (domicile sites shows the SQL), then run apply again.",
    ErrorCode.SCHEMA_CHANGED: "Bring the schemas of both sites together, then plan again.",
    ErrorCode.SITE_UNREACHABLE: "When the site answers again, run apply again: it goes on where it stopped.",
    ErrorCode.COPY_FAILED: "Look up the SQLSTATE; mend the cause, then run apply again.",
}
SAFE = "The source has every row; at the target nothing of this step was committed."


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error of a server, reduced to what may be shown. ``sqlstate`` is empty for a broken connection."""

    sqlstate: str = ""
    table: str = ""
    column: str = ""
    constraint: str = ""


def explain(refusal: Refusal, side: str, what: str) -> DomicileError:
    """The error for an operator. ``side`` is ``source`` or ``target``; ``what`` was being done, without a
    value.
    """
    code = code_of(refusal.sqlstate)
    facts: dict[str, object] = {"side": side, "step": what, "sqlstate": refusal.sqlstate}
    facts |= {k: v for k in ("table", "column", "constraint") if (v := getattr(refusal, k))}
    named = f" ({refusal.constraint or refusal.column})" if refusal.constraint or refusal.column else ""
    condition = f", SQLSTATE {refusal.sqlstate} {_condition(refusal.sqlstate)}" if refusal.sqlstate else ""
    return DomicileError(
        code,
        f"{what}: {_SAYS[code].format(side=side)}{named}{condition}",
        facts=facts,
        safe=SAFE,
        hint=_HINTS[code].format(side=side),
    )


def code_of(sqlstate: str) -> ErrorCode:
    """Our code for a SQLSTATE; an empty one is a lost connection."""
    if not sqlstate or sqlstate.startswith(_LOST):
        return ErrorCode.SITE_UNREACHABLE
    return _CODES.get(sqlstate, ErrorCode.COPY_FAILED)


@contextmanager
def told(side: str, what: str) -> Iterator[None]:
    """Turn psycopg's errors into `DomicileError`; the chain is cut, because its text may quote values."""
    try:
        yield
    except psycopg.Error as error:
        raise explain(refusal_of(error), side, what) from None


def refusal_of(error: psycopg.Error) -> Refusal:
    """What may be shown of an error."""
    # Errors that psycopg itself raises have no SQLSTATE: the connection is closed or lost.
    diag = error.diag
    return Refusal(error.sqlstate or "", diag.table_name or "", diag.column_name or "", diag.constraint_name or "")


def _condition(sqlstate: str) -> str:
    try:
        return errors.lookup(sqlstate).__name__
    except KeyError:
        return "unnamed condition"
