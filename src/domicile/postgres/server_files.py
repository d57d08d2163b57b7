"""Which files of a server hold what, as its catalogs say; and what still holds its old log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
import struct

from psycopg import AsyncConnection, errors

from domicile.model.erasure import Place, Residual

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
START_S_MAX = 60.0  # from the time in postmaster.pid until the server says that it has started
_COLLECTED = "select pg_catalog.pg_current_logfile()"


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """``data`` is None where the files cannot be reached from this machine; ``why`` says so in a sentence."""

    data: Path | None
    why: str
    places: Mapping[str, Place]
    logs: tuple[Path, ...] = ()


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
    data = Path(str(directory))
    try:
        with (data / "global" / "pg_control").open("rb") as control:
            same = struct.unpack("=q", control.read(8))[0] == identifier
    except (OSError, struct.error):
        return ServerFiles(None, "the server's data directory cannot be read from this machine", places)
    if not same or not await _runs_there(conn, data):
        return ServerFiles(None, "the data directory of that name on this machine is another server's", places)
    return ServerFiles(data, "", places, _logs(data, collected))


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


async def _runs_there(conn: AsyncConnection, data: Path) -> bool:
    """A standby and a clone have the server's identifier and, elsewhere, its directory's name; not its start and port,
    which a running server keeps in its directory. OSError is told as another server's: none runs there."""
    row = await (await conn.execute(_STARTED)).fetchone()
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        begun, port = int(lines[2]), lines[3].strip()
    except (OSError, ValueError, IndexError):
        return False
    return row is not None and port == row[1] and -1 <= row[0] - begun <= START_S_MAX


def _logs(data: Path, collected: object) -> tuple[Path, ...]:
    """Where the server writes its log: the collector's file, else what its standard error leads to. Files inside the
    data directory are read with it."""
    candidates = [data / str(collected)] if collected else []
    try:
        pid = (data / "postmaster.pid").read_text().split()[0]
        candidates.append(Path(f"/proc/{pid}/fd/2").readlink())
    except (OSError, IndexError):
        candidates.append(data.parent / "server.log")
    return tuple(p for p in candidates if p.is_file() and not p.is_relative_to(data))


async def _one(conn: AsyncConnection, query: str, values: tuple[object, ...] = ()) -> object:
    row = await (await conn.execute(query.encode(), values)).fetchone()
    return None if row is None else row[0]
