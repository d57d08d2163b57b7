"""The stage of many faults: three servers behind doors that stay, the oracle's book, and an operator's folder.

Each server stands behind two proxies: one for the mover, one for the application, so that either's lines can be broken
alone. As root each server lives in a room of its own (a tmpfs), which can be filled. Beside the oracle's tables there
is ``book.note``, which no writer touches: it may be truncated and altered, and what it must hold is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
import os
from pathlib import Path
import shutil
import subprocess
import tempfile

from psycopg.conninfo import make_conninfo

from domicile.model.workspace import Workspace
from domicile.postgres.connect import connect
from domicile.settings import load
from domicile.sites import binaries
from domicile.sites.embedded import EmbeddedCluster
from reliability.chaos.orders import Operator
from reliability.chaos.proxy import Proxy
from reliability.oracle import book
from reliability.oracle.book import DATASET, MAP, SITES, Population

CONTROL = "control"
SERVERS = (*SITES, CONTROL)
ROOM_MB = 512
VERSIONS = ("18-18", "15-18")
WAL_BUDGET_MB = 40
FENCE_SECONDS = 2.0
NOTES_EACH = 2
KEPT, BALLAST = "kept", "ballast"

# Small rooms, so that they can be filled; two of the slots' worth of log is what they must hold.
SETTINGS: Mapping[str, str] = {
    "shared_buffers": "48MB",
    "max_connections": "150",
    "max_wal_size": "128MB",
    "min_wal_size": "64MB",
}
# Waves of moments, of a few chunks each; the waits are short, so that what runs into a budget does so at once.
CONFIG = """\
version: 1
state: {state}
control: "{control}"
sites:
  harbour: {{jurisdiction: CN, conninfo: "{harbour}"}}
  hill: {{jurisdiction: SG, conninfo: "{hill}"}}
datasets:
  book:
    map: book.map.yaml
    at: [harbour, hill]
limits:
  wave_subjects_max: {wave_subjects}
  canary_subjects_max: 0
  chunk_rows: 30
  purge_chunk_rows: 30
  settle_seconds: 0.1
  fence_seconds_max: {fence_seconds}
  wave_retry_seconds: 1
  wave_tries: 4
  catch_up_seconds_max: 20
  wal_bytes_max: {wal_bytes}
"""
NOTE = b"""
    create table book.note (
        id bigint primary key, subject bigint not null references book.subject, body text not null, spare text
    );
    create index on book.note (subject)"""
NOTES = b"""
    insert into book.note (id, subject, body)
    select s.id * 2 + n, s.id, 'note ' || n from book.subject as s, generate_series(0, 1) as n"""


@dataclass(slots=True)
class Stage:
    """``movers`` and ``users``: the doors by server. ``rooms``: where a server's files lie, if it can be filled.
    ``notes``: the ids of those that must be there. ``versions``: of harbour and hill."""

    folder: Path
    versions: str
    population: Population
    servers: Mapping[str, EmbeddedCluster]
    movers: Mapping[str, Proxy]
    users: Mapping[str, Proxy]
    rooms: Mapping[str, Path]
    operator: Operator
    notes: set[int] = field(default_factory=set)

    @property
    def workspace(self) -> Workspace:
        """As the operator's own configuration has it."""
        return load(self.folder / "domicile.yaml", {})

    @property
    def sites(self) -> dict[str, str]:
        """Conninfos past every door; they hold secrets."""
        return {site: self.servers[site].conninfo() for site in SITES}

    @property
    def application(self) -> dict[str, str]:
        """Conninfos for the application."""
        return {site: through(self.servers[site], self.users[site]) for site in SITES}

    def keep(self, why: str) -> None:
        """Its files stay, for whoever wants to look into what was found."""
        (self.folder / KEPT).write_text(why + "\n", encoding="utf-8")

    def calm(self) -> None:
        """Every line works."""
        for door in (*self.movers.values(), *self.users.values()):
            door.calm()

    async def up(self) -> None:
        """Every server runs and lets somebody in; one that went down is started again, with recovery."""
        for server in self.servers.values():
            if not server.running:
                await server.start()
            await reached(server)


def through(server: EmbeddedCluster, door: Proxy) -> str:
    """The conninfo by way of a door."""
    return make_conninfo(server.conninfo(), port=door.port)


async def reached(server: EmbeddedCluster, seconds: float = 30.0) -> None:
    """Wait until the server takes connections. Raises TimeoutError, also when it has ended."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                async with await connect(server.conninfo()):
                    return
            except Exception:
                if not server.running:
                    raise TimeoutError(f"{server.name} has ended") from None
                await asyncio.sleep(0.05)


@asynccontextmanager
async def staged(population: Population, versions: str = "18-18") -> AsyncIterator[Stage]:
    """A stage with everybody where they begin. Nothing is left of it at the end, unless it was kept."""
    folder = Path(tempfile.mkdtemp(prefix="domicile-chaos-"))
    folder.chmod(0o711)
    try:
        async with AsyncExitStack() as stack:
            rooms = {name: room for name in SERVERS if (room := await _room(stack, folder / name)) is not None}
            servers = {}
            for name in SERVERS:
                found = binaries.find(int(versions.split("-")[0])) if name == SITES[0] else None
                bindir = None if found is None or found.bundled else found.bindir
                server = await EmbeddedCluster.create(folder, name, bindir=bindir, settings=SETTINGS)
                servers[name] = await stack.enter_async_context(server)
            movers = {name: await _door(stack, servers[name]) for name in SERVERS}
            users = {name: await _door(stack, servers[name]) for name in SERVERS}
            operator = Operator(folder)
            stack.callback(operator.dismiss)
            stage = Stage(folder, versions, population, servers, movers, users, rooms, operator)
            await _furnish(stage)
            yield stage
    finally:
        if not (folder / KEPT).exists():
            shutil.rmtree(folder, ignore_errors=True)


async def _furnish(stage: Stage) -> None:
    await book.build(stage.sites, stage.population)
    for conninfo in stage.sites.values():
        async with await connect(conninfo) as conn:
            await conn.execute(NOTE)
            await conn.execute(NOTES)
    stage.notes |= {s * NOTES_EACH + n for s in stage.population.everybody for n in range(NOTES_EACH)}
    conninfos = {name: through(stage.servers[name], stage.movers[name]) for name in SERVERS}
    text = CONFIG.format(
        state=stage.folder / "state",
        wave_subjects=stage.population.wave_subjects,
        fence_seconds=FENCE_SECONDS,
        wal_bytes=WAL_BUDGET_MB * 1024 * 1024,
        **conninfos,
    )
    (stage.folder / "domicile.yaml").write_text(text, encoding="utf-8")
    (stage.folder / "domicile.yaml").chmod(0o600)
    note = "  book.note: {role: owned, owner: subject -> book.subject(id)}\n"
    (stage.folder / f"{DATASET}.map.yaml").write_text(MAP + note, encoding="utf-8")


async def _door(stack: AsyncExitStack, server: EmbeddedCluster) -> Proxy:
    door = Proxy(lambda: server.port)
    await door.open()
    stack.push_async_callback(door.close)
    return door


async def _room(stack: AsyncExitStack, place: Path) -> Path | None:
    """A file system of its own, so that it can be filled; None where nobody lets us make one."""
    place.mkdir()
    place.chmod(0o755)
    if no_rooms():
        return None
    mounted = await asyncio.to_thread(_mount, place)
    if not mounted:
        return None
    stack.callback(_take_down, place)
    return place


def no_rooms() -> str:
    """Why there can be no room of limited size here; empty when there may be."""
    return "" if os.geteuid() == 0 and shutil.which("mount") else "a file system of limited size takes root"


def _mount(place: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_MB}m,mode=755", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _take_down(place: Path) -> None:
    """What the room of a stage holds that is kept stands beside it from now on."""
    (place / BALLAST).unlink(missing_ok=True)
    if (place.parent / KEPT).exists():
        shutil.copytree(place, place.with_name(f"{place.name}.{KEPT}"), symlinks=True)
    subprocess.run(["umount", "--lazy", str(place)], check=False)


def installed_pairs() -> tuple[str, ...]:
    """The pairs of versions that can be tried here."""
    return tuple(pair for pair in VERSIONS if binaries.find(int(pair.split("-")[0])) is not None)


def small() -> Population:
    """Few enough that a verdict takes no time, in two waves a circle."""
    return replace(Population(), circles=3, waves=2, wave_subjects=6, staying=6)
