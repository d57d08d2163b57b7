"""Who has which rows at a site, counted and hashed by the demo's own SQL.

The check at the end of the demo rests on it, so it shares no code with the engine but the opening of a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
import re
from types import MappingProxyType
from typing import Any

from psycopg import AsyncConnection

from domicile.postgres.connect import connect

SETTINGS: Mapping[str, str] = MappingProxyType({"timezone": "UTC", "jit": "off", "work_mem": "64MB"})
USERS = "store.user_account"
QUIET = 4  # every so many-th user, as census.sql has it, is one for whom nobody writes
CONNECTIONS = 2  # per site: the tables are shared out among them


class Group(StrEnum):
    """Whose rows."""

    MAINLAND = "mainland"  # users born at the source, of mainland China: they stay
    OUTSIDE = "outside"  # users born at the source, of other markets: they move
    RESIDENT = "resident"  # users born at another site: they were always there
    NOBODY = "nobody"  # rows of a table of people whose owner is not at this site: there must be none
    SITE = "site"  # reference and local tables


@dataclass(frozen=True, slots=True)
class Tally:
    """``rows`` are all of them. ``quiet`` are those of users whom the demo's writers leave alone (all, in tables that
    belong to nobody), ``digest`` the sum of their hashes: equal rows, whatever their order, have equal digests."""

    rows: int = 0
    quiet: int = 0
    digest: int = 0

    @property
    def untouched(self) -> tuple[int, int]:
        """What must be the same before and after."""
        return self.quiet, self.digest


NONE = Tally()


@dataclass(frozen=True, slots=True)
class Census:
    """Tallies per table and group at one site; what is not listed is `NONE`."""

    tallies: Mapping[tuple[str, Group], Tally]

    def of(self, group: Group) -> Mapping[str, Tally]:
        """The group's tally per table, tables without any row of it left out."""
        return {t: tally for (t, g), tally in self.tallies.items() if g is group and tally.rows}

    def rows(self, *groups: Group) -> int:
        """Rows of these groups in all tables together."""
        return sum(tally.rows for (_, group), tally in self.tallies.items() if group in groups)

    def quiet_rows(self, *groups: Group) -> int:
        """Those of them that nobody wrote for."""
        return sum(tally.quiet for (_, group), tally in self.tallies.items() if group in groups)

    def users(self, *groups: Group) -> int:
        """How many people these groups have at the site."""
        return sum(self.tallies.get((USERS, group), NONE).rows for group in groups)

    def table_rows(self, table: str) -> int:
        """All rows of one table."""
        return sum(tally.rows for (name, _), tally in self.tallies.items() if name == table)


async def take(conninfo: str) -> Census:
    """Count and hash every table of the store at one site, as they are now."""
    waiting = iter(blocks())
    tallies: dict[tuple[str, Group], Tally] = {}
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_count(conninfo, waiting, tallies))
    return Census(MappingProxyType(tallies))


def tables() -> tuple[str, ...]:
    """Every table of the store, people's tables first."""
    return tuple(name for name, _ in blocks())


@cache
def blocks() -> tuple[tuple[str, bytes], ...]:
    """The tables and their statements in ``census.sql``."""
    text = (resources.files(__package__) / "sql" / "census.sql").read_bytes()
    parts = re.split(rb"^-- name: (.+)\n", text, flags=re.MULTILINE)
    return tuple((parts[i].decode(), parts[i + 1]) for i in range(1, len(parts), 2))


async def _count(conninfo: str, waiting: Iterable[tuple[str, bytes]], tallies: dict[tuple[str, Group], Tally]) -> None:
    async with await connect(conninfo, application_name="domicile demo census", settings=SETTINGS) as conn:
        for table, statement in waiting:
            for group, tally in await _tallies(conn, statement):
                before = tallies.get((table, group), NONE)
                tallies[table, group] = Tally(
                    before.rows + tally.rows, before.quiet + tally.quiet, before.digest + tally.digest
                )


async def _tallies(conn: AsyncConnection[Any], statement: bytes) -> list[tuple[Group, Tally]]:
    rows = await (await conn.execute(statement)).fetchall()
    return [(_group(*born), Tally(int(n), int(quiet), int(digest or 0))) for *born, n, quiet, digest in rows]


def _group(*born: Any) -> Group:
    match born:
        case ():
            return Group.SITE
        case (None, _):
            return Group.NOBODY
        case (0, True):
            return Group.MAINLAND
        case (0, _):
            return Group.OUTSIDE
        case _:
            return Group.RESIDENT
