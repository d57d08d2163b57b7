"""One snapshot shared by several sessions: exported by one, joined by the others while that one lives."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, errors, sql

from domicile.model.errors import DomicileError, ErrorCode


async def join(conn: AsyncConnection[Any], snapshot: str, side: str) -> None:
    """Take the snapshot of that name for the transaction that has just begun.

    Raises site-unreachable when it is gone: the session that had exported it was lost, and may be opened again.
    """
    try:
        await conn.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
    except (errors.UndefinedObject, errors.InvalidParameterValue):
        raise DomicileError(
            ErrorCode.SITE_UNREACHABLE,
            f"the session at the {side} whose snapshot the others share was lost",
            facts={"side": side},
            safe="Nothing was changed by this step.",
            hint="When the site answers again, go on with: domicile resume",
        ) from None
