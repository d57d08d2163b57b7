"""What one database of one site offers to a move: version, rights, room, distance, clock; and the SQL for
what it lacks.

Reads only, and only catalogues: a probe may run against a production server at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
import os
from pathlib import Path
from statistics import median
import struct
import time
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.rows import DictRow, dict_row

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import DatasetName, SiteName
from domicile.postgres.connect import SESSION, connect, safe_conninfo

VERSION_MIN = 150_000
STATEMENT_TIMEOUT = "30s"
OPERATOR = "you"
SAMPLES = 7  # round trips measured; the median is told
OWNERS_LISTED_MAX = 10


_PROBE: LiteralString = resources.files(__package__).joinpath("sql/site_probe.sql").read_text(encoding="utf-8")
_MAY_SET: LiteralString = "select pg_catalog.has_parameter_privilege('session_replication_role', 'SET') as may"
_MAY_IDENTIFY: LiteralString = (
    "select pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') as may"
)
_IDENTIFIER: LiteralString = "select system_identifier as identifier from pg_catalog.pg_control_system()"
_CLOCK: LiteralString = "select extract(epoch from pg_catalog.clock_timestamp())"


class Weight(StrEnum):
    """What a lack stands in the way of."""

    BLOCKS = "blocks"
    LIVE = "live"  # users cannot write while they move: without it there are cold moves only
    WARNS = "warns"


@dataclass(frozen=True, slots=True)
class Lack:
    """Something the site lacks. ``mend`` is SQL or a sentence in a SQL comment; it may be run by whoever
    ``who`` says.
    """

    what: str
    weight: Weight
    mend: str
    who: str = "a superuser"


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role may do. ``owners`` are the owners of tables on which it cannot arm a guard."""

    role: str
    superuser: bool
    create_schema: bool
    set_replication_role: bool
    replication: bool
    tables: int
    tables_not_owned: int
    owners: tuple[str, ...]
    tables_row_secured: int


@dataclass(frozen=True, slots=True)
class Server:
    """What the server is. ``disk_free_bytes`` is None where it cannot be known from here."""

    version: str
    version_num: int
    wal_level: str
    encoding: str
    standby: bool
    tls: bool
    max_prepared_transactions: int
    database_bytes: int
    disk_free_bytes: int | None
    round_trip_ms: float
    clock_offset_ms: float  # the server's clock minus ours; nothing is ordered by it


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One dataset at one site. Unreachable: ``server`` and ``rights`` are None and ``error`` says why."""

    site: SiteName
    dataset: DatasetName
    where: str
    reachable: bool
    error_code: str = ""
    error: str = ""
    hint: str = ""
    server: Server | None = None
    rights: Rights | None = None
    lacks: tuple[Lack, ...] = ()

    @property
    def ready(self) -> bool:
        """True when a cold move may begin here."""
        return self.reachable and not any(lack.weight is Weight.BLOCKS for lack in self.lacks)


async def probe(site: SiteName, dataset: DatasetName, conninfo: str) -> SiteReport:
    """Look at one database. Never raises for what the site is or lacks: the report says it."""
    where = safe_conninfo(conninfo)
    try:
        async with await connect(conninfo, settings={**SESSION, "statement_timeout": STATEMENT_TIMEOUT}) as conn:
            server, rights = await _look(conn)
            remote = not _local(conn)
            dbname = conn.info.dbname
    except DomicileError as error:
        return SiteReport(site, dataset, where, False, str(error.code), error.message, error.hint)
    except psycopg.Error as error:
        said = error.diag.message_primary or type(error).__name__
        return SiteReport(site, dataset, where, False, str(ErrorCode.SITE_UNREACHABLE), said, "Try psql there.")
    lacks = (*_server_lacks(server, remote=remote), *_right_lacks(rights, dbname, server.version_num))
    return SiteReport(site, dataset, where, True, server=server, rights=rights, lacks=lacks)


async def _look(conn: AsyncConnection) -> tuple[Server, Rights]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        facts = await _row(cursor, _PROBE, {"owners_max": OWNERS_LISTED_MAX})
        may_set = await _may_set_replication_role(cursor, facts)
        free = await _disk_free(cursor, facts) if _local(conn) else None
    round_trip_ms, clock_offset_ms = await _distance(conn)
    server = Server(
        version=facts["version"],
        version_num=facts["version_num"],
        wal_level=facts["wal_level"],
        encoding=facts["encoding"],
        standby=facts["standby"],
        tls=conn.pgconn.ssl_in_use,
        max_prepared_transactions=facts["max_prepared_transactions"],
        database_bytes=facts["database_bytes"],
        disk_free_bytes=free,
        round_trip_ms=round_trip_ms,
        clock_offset_ms=clock_offset_ms,
    )
    rights = Rights(
        role=facts["role"],
        superuser=facts["superuser"],
        create_schema=facts["create_schema"],
        set_replication_role=may_set,
        replication=facts["replication"],
        tables=facts["tables"],
        tables_not_owned=facts["tables_not_owned"],
        owners=tuple(facts["owners"]),
        tables_row_secured=facts["tables_row_secured"],
    )
    return server, rights


async def _row(cursor: AsyncCursor[DictRow], query: LiteralString, parameters: dict[str, object]) -> DictRow:
    found = await (await cursor.execute(query, parameters)).fetchone()
    assert found is not None, "the probe's queries return one row"
    return found


async def _may_set_replication_role(cursor: AsyncCursor[DictRow], facts: DictRow) -> bool:
    if facts["superuser"] or facts["version_num"] < VERSION_MIN:  # before 15 the right could not be granted
        return bool(facts["superuser"])
    return bool((await _row(cursor, _MAY_SET, {}))["may"])


async def _distance(conn: AsyncConnection) -> tuple[float, float]:
    """Median round trip, and the server's clock minus ours taken at the shortest one; both in ms."""
    samples: list[tuple[float, float]] = []
    for _ in range(SAMPLES):
        ours, began = time.time(), time.perf_counter()
        row = await (await conn.execute(_CLOCK)).fetchone()
        took = time.perf_counter() - began
        assert row is not None
        samples.append((took, float(row[0]) - (ours + took / 2)))
    return median(took for took, _ in samples) * 1e3, min(samples)[1] * 1e3


def _local(conn: AsyncConnection) -> bool:
    """True where the address is this machine's own; a tunnel looks the same."""
    host = conn.info.hostaddr or conn.info.host
    return host.startswith(("/", "@", "127.")) or host in ("", "::1", "localhost")


async def _disk_free(cursor: AsyncCursor[DictRow], facts: DictRow) -> int | None:
    """Free bytes where the database's files are, None where that cannot be known.

    A local address may be a tunnel, so the directory counts only when its control file carries this
    server's identifier.
    """
    if not facts["data_directory"] or not (await _row(cursor, _MAY_IDENTIFY, {}))["may"]:
        return None
    identifier = (await _row(cursor, _IDENTIFIER, {}))["identifier"]
    try:
        with (Path(facts["data_directory"]) / "global" / "pg_control").open("rb") as control:
            if struct.unpack("=q", control.read(8))[0] != identifier:
                return None
        room = os.statvfs(facts["storage"])
    except (OSError, struct.error):
        return None
    return room.f_bavail * room.f_frsize


def _server_lacks(server: Server, *, remote: bool) -> Iterator[Lack]:
    if server.version_num < VERSION_MIN:
        mend = "-- upgrade the server to PostgreSQL 15 or newer"
        yield Lack(f"PostgreSQL {server.version} is too old", Weight.BLOCKS, mend, OPERATOR)
    if server.standby:
        mend = "-- name the primary in the conninfo, or add target_session_attrs=primary to it"
        yield Lack("the server is a standby: it takes no writes", Weight.BLOCKS, mend, OPERATOR)
    if server.wal_level != "logical":
        mend = "alter system set wal_level = 'logical'; -- then restart the server"
        yield Lack(f"wal_level is {server.wal_level}: no change stream", Weight.LIVE, mend)
    if remote and not server.tls:
        mend = "-- add sslmode=verify-full to the conninfo; the server needs a certificate"
        yield Lack("rows would cross the network unencrypted", Weight.WARNS, mend, OPERATOR)


def _right_lacks(rights: Rights, dbname: str, version_num: int) -> Iterator[Lack]:
    role = sql.Identifier(rights.role)
    if not rights.create_schema:
        mend = _text("grant create on database {} to {};", sql.Identifier(dbname), role)
        yield Lack("the role may not create the schema domicile", Weight.BLOCKS, mend, "the database's owner")
    if not rights.set_replication_role and version_num >= VERSION_MIN:
        mend = _text("grant set on parameter session_replication_role to {};", role)
        yield Lack("the role may not set session_replication_role", Weight.BLOCKS, mend)
    if rights.tables_not_owned:
        mend = " ".join(_text("grant {} to {};", sql.Identifier(owner), role) for owner in rights.owners)
        what = f"{rights.tables_not_owned} of {rights.tables} tables belong to others: no guard on them"
        yield Lack(what, Weight.BLOCKS if rights.tables_not_owned == rights.tables else Weight.WARNS, mend)
    if rights.tables_row_secured:
        mend = _text("alter role {} bypassrls;", role)
        what = f"row security hides rows of {rights.tables_row_secured} tables from the role"
        yield Lack(what, Weight.WARNS, mend)
    if not rights.replication:
        mend = _text("alter role {} replication;", role)
        yield Lack("the role has no replication right: no change stream", Weight.LIVE, mend)


def _text(template: LiteralString, *parts: sql.Composable) -> str:
    return sql.SQL(template).format(*parts).as_string(None)
