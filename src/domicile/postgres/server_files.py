"""Which files of a server hold what, as its catalogs say; and what still holds its old log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from psycopg import AsyncConnection, errors

from domicile.model.erasure import Place, Residual, Server

_PLACES = """
select pg_catalog.pg_relation_filepath(c.oid),
       case when c.relkind = 'i' then 'indexes'
            when coalesce(main.oid, c.oid) = 'pg_catalog.pg_statistic'::regclass then 'statistics'
            when coalesce(main.oid, c.oid) = 'pg_catalog.pg_statistic_ext_data'::regclass then 'extended statistics'
            when c.relkind = 't' then 'toast' else 'tables' end
from pg_catalog.pg_class as c
left join pg_catalog.pg_class as main on main.reltoastrelid = c.oid and c.relkind = 't'
where c.relkind in ('r', 'm', 't', 'i', 'S') and c.relpersistence <> 't'
and pg_catalog.pg_relation_filepath(c.oid) is not null"""
_SETTING = "select pg_catalog.current_setting(%s, true)"
_IDENTIFIER = "select system_identifier from pg_catalog.pg_control_system()"
_SLOTS = """
select slot_name, active from pg_catalog.pg_replication_slots
where restart_lsn < %s::pg_lsn order by slot_name"""
_STANDBYS = """
select coalesce(nullif(application_name, ''), 'a standby'), coalesce(replay_lsn >= %s::pg_lsn, false)
from pg_catalog.pg_stat_replication order by 1"""
_STARTED = """
select extract(epoch from pg_catalog.pg_postmaster_start_time())::float8, pg_catalog.current_setting('port')"""
_COLLECTED = "select pg_catalog.pg_current_logfile()"


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """``data`` is None where the files cannot be reached from this machine; ``why`` says so in a sentence."""

    data: Path | None
    why: str
    places: Mapping[str, Place]
    collected: str = ""  # the file to which the server's collector writes, as it names it; empty where none does
    server: Server | None = None  # None where the role may not ask


async def server_files(conn: AsyncConnection) -> ServerFiles:
    """Where the server's files are, if they are this machine's and readable. Never raises for lack of rights."""
    rows = await (await conn.execute(_PLACES)).fetchall()
    places = {path: Place(place) for path, place in rows}
    try:
        directory = await _one(conn, _SETTING, ("data_directory",))
        identifier = await _one(conn, _IDENTIFIER)
        collected = await _one(conn, _COLLECTED)
    except errors.InsufficientPrivilege:
        return ServerFiles(None, "the role may not ask where the server's files are", places)
    row = await (await conn.execute(_STARTED)).fetchone()
    assert row is not None
    server, data = Server(int(str(identifier)), *row), Path(str(directory))
    try:
        with (data / "global" / "pg_control").open("rb") as file:
            control = file.read(8)
    except OSError:
        why = "the server's data directory cannot be read from this machine"
        return ServerFiles(None, why, places, str(collected or ""), server)
    if not server.keeps(control, _postmaster(data)):
        why = "the data directory of that name on this machine is another server's"
        return ServerFiles(None, why, places, str(collected or ""), server)
    return ServerFiles(data, "", places, str(collected or ""), server)


async def holders_of_log(conn: AsyncConnection, position: str) -> tuple[Residual, ...]:
    """What keeps log from before ``position``: slots, standbys that have not replayed it, an archive."""
    found = []
    for name, active in await (await conn.execute(_SLOTS, (position,))).fetchall():
        used = "in use" if active else "not in use"
        found.append(
            Residual(Place.WAL, f"slot {name} ({used}) keeps log from before the purge: drop it, or let it read")
        )
    for name, replayed in await (await conn.execute(_STANDBYS, (position,))).fetchall():
        said = "has replayed the purge; its files were not read" if replayed else "has not replayed the purge"
        found.append(Residual(Place.KEPT, f"standby {name} {said}"))
    if await _one(conn, _SETTING, ("archive_mode",)) in ("on", "always"):
        found.append(Residual(Place.KEPT, "the log is archived: those files hold the rows until they expire"))
    return tuple(found)


def _postmaster(data: Path) -> str:
    """What a running server keeps in its directory; empty where none runs."""
    try:
        return (data / "postmaster.pid").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


async def _one(conn: AsyncConnection, query: str, values: tuple[object, ...] = ()) -> object:
    row = await (await conn.execute(query.encode(), values)).fetchone()
    return None if row is None else row[0]
