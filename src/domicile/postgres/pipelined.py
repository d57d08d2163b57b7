"""Several questions in one round trip: a line between the sites may be long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.postgres.failures import told


async def pipelined(
    conn: AsyncConnection, side: str, asked: Sequence[tuple[str, sql.Composed]]
) -> list[list[tuple[Any, ...]]]:
    """The rows of each statement, in order; with each goes what is being done, for an error's message. No COPY.

    All or nothing, also in autocommit. ``side`` names the site in an error. Raises DomicileError as `failures.told`.
    """
    if not asked:
        return []
    answers: list[list[tuple[Any, ...]]] = []
    with told(side, asked[0][0]):
        async with conn.pipeline():
            cursors = [(what, await conn.execute(statement)) for what, statement in asked]
            for what, cursor in cursors:
                with told(side, what):
                    answers.append(await cursor.fetchall())
    return answers
