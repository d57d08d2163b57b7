"""Embedded sites: real PostgreSQL servers that domicile runs itself, for demos, tests and the control
database.

The programs come from the wheel (PostgreSQL 18; no TLS, no ICU, no lz4, no contrib in that build) or from an
installed PostgreSQL, by option. Durable settings, data checksums, loopback only, a password of its own: on a
shared machine the loopback address is open to everybody. Files of a cluster, in ``directory/name``:

    data          the data directory, owned by the server's account (or a link to it, see `_data_directory`)
    password      the superuser's password, readable to us only
    server.log    the server's own log; values of rows are kept out of it
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
import shutil
import socket
import tempfile
import time
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg.conninfo import make_conninfo

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites import binaries as programs
from domicile.sites.binaries import Binaries
from domicile.sites.identity import Identity, server_identity
from domicile.sites.initdb import SUPERUSER, data_directory, ensure_initialised
from domicile.sites.process import (
    POLL_S,
    ServerProcess,
    listening_port,
    mark,
    running,
    spawn,
    wait_until_vacant,
)

LOOPBACK = "127.0.0.1"
READY_S = 60.0  # recovery after a crash comes before readiness
PORT_TRIES = 5
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

DURABLE: Mapping[str, str] = MappingProxyType(
    {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "wal_level": "logical",
        "max_wal_senders": "20",
        "max_replication_slots": "20",
        "max_worker_processes": "20",
        "max_connections": "120",
        "max_prepared_transactions": "10",
        "shared_buffers": "128MB",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "huge_pages": "off",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # A failing statement and the DETAIL of a violated key hold values of rows: neither belongs in a log.
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
    }
)


class EmbeddedCluster:
    """One PostgreSQL server of our own. Made by `create`; ``async with`` starts and stops it.

    Attributes: ``name``, ``binaries`` (with the version), ``data`` (the real data directory), ``port`` (None
    when stopped).
    """

    def __init__(
        self, base: Path, binaries: Binaries, identity: Identity, settings: Mapping[str, str] = NO_SETTINGS
    ) -> None:
        """For `create`; ``base`` exists already."""
        self.name = base.name
        self.base = base
        self.binaries = binaries
        self.identity = identity
        self.settings = dict(settings)
        self.data = data_directory(base, identity)
        self.port: int | None = None
        self._password = ""
        self._process: ServerProcess | None = None

    @classmethod
    async def create(
        cls,
        directory: Path,
        name: str,
        *,
        bindir: Path | None = None,
        settings: Mapping[str, str] = NO_SETTINGS,
        user: str | None = None,
    ) -> EmbeddedCluster:
        """Prepare the cluster ``directory/name``; does not start it. Idempotent: existing data are kept.

        ``bindir``: an installed PostgreSQL's programs instead of the wheel's. ``settings``: server settings
        over `DURABLE`, applied at each start. ``user``: as root, the account to run as (default ``nobody``).
        Raises ``DomicileError`` (cluster-failed).
        """
        identity = server_identity(user)
        found = programs.bundled() if bindir is None else programs.at(bindir)
        base = Path(directory).resolve() / name
        base.parent.mkdir(parents=True, exist_ok=True)
        programs.enterable(base)
        cluster = cls(base, programs.reachable(found, identity), identity, settings)
        cluster._password = await asyncio.to_thread(ensure_initialised, base, cluster.data, cluster.binaries, identity)
        return cluster

    def conninfo(self, dbname: str = SUPERUSER) -> str:
        """A libpq connection string to ``dbname`` as superuser. It holds a password: show it with
        `safe_conninfo` only.

        TLS and GSS are named off, so that PGSSLMODE and its kin in the caller's environment do not break it.
        """
        return make_conninfo(
            host=LOOPBACK,
            port=self._open_port(),
            user=SUPERUSER,
            password=self._password,
            dbname=dbname,
            sslmode="disable" if "ssl" not in self.settings else "prefer",
            gssencmode="disable",
        )

    def url(self, dbname: str = SUPERUSER) -> str:
        """The same as a URL, for SQLAlchemy and what is built on it. It holds the password too."""
        place = f"{SUPERUSER}:{self._password}@{LOOPBACK}:{self._open_port()}"
        return f"postgresql://{place}/{quote(dbname, safe='')}?sslmode=disable&gssencmode=disable"

    async def start(self, *, outlive: bool = False) -> None:
        """Start and wait until connections are accepted. Idempotent.

        The server ends with our process however that ends, unless ``outlive``. Raises ``DomicileError``
        (cluster-failed) with the last lines of the server's log.
        """
        if self.running:
            return
        await wait_until_vacant(self.data)
        for _ in range(PORT_TRIES):
            self.port = _free_port()
            if await self._start_on_port(outlive=outlive):
                return
        raise _failed(self.base, "found no free port", "")

    async def adopt(self) -> bool:
        """Take over the server that another process left running on these data. False where there is none.

        One that is just shutting down is seen off first. Raises ``DomicileError`` for one that does not
        answer.
        """
        self._process = running(self.data)
        deadline = time.monotonic() + READY_S
        while self.running and time.monotonic() < deadline:
            self.port = listening_port(self.data)
            if self.port is not None and await self._ready(deadline):
                return True
            await asyncio.sleep(POLL_S)
        if self.running:
            raise _failed(self.base, f"runs (pid {self.pid}) but does not answer within {READY_S:.0f} s", "")
        self._process, self.port = None, None
        return False

    @property
    def running(self) -> bool:
        """True while the server process lives."""
        return self._process is not None and self._process.alive()

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None when it does not run."""
        return self._process.pid if self._process is not None and self._process.alive() else None

    async def stop(self) -> None:
        """Fast shutdown, harder after a limit. Idempotent."""
        if self._process is not None:
            await self._process.stop()
        self._process, self.port = None, None

    async def kill(self) -> None:
        """End the server as a crash would (SIGKILL). `start` works at once afterwards, with crash recovery.
        Idempotent."""
        if self._process is not None:
            await self._process.kill()
        self._process, self.port = None, None

    async def destroy(self) -> None:
        """Stop it and remove everything it has on disk. Idempotent."""
        await self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start_on_port(self, *, outlive: bool) -> bool:
        """True when the server is ready, False when the port was taken meanwhile."""
        server_log = self.base / "server.log"
        with server_log.open("ab") as output:
            before = output.tell()
            self._process = spawn(_command(self, self._open_port()), self.data, output, self.identity, outlive=outlive)
        try:
            ready = await self._ready(time.monotonic() + READY_S)
        except BaseException:
            await asyncio.shield(self.kill())
            raise
        if ready:
            return True
        with server_log.open("rb") as file:
            file.seek(before)
            said = file.read().decode(errors="replace")
        await self.kill()
        if "Address already in use" in said:
            return False
        raise _failed(self.base, "did not start", said)

    async def _ready(self, deadline: float) -> bool:
        while self.running and time.monotonic() < deadline:
            try:
                async with await psycopg.AsyncConnection.connect(self.conninfo(), connect_timeout=5):
                    return True
            except psycopg.OperationalError:
                await asyncio.sleep(POLL_S)
        return False

    def _open_port(self) -> int:
        if self.port is None:
            raise DomicileError(ErrorCode.CLUSTER_FAILED, f"the embedded PostgreSQL {self.name!r} is not running")
        return self.port


@contextmanager
def scratch_directory(prefix: str = "domicile-") -> Iterator[Path]:
    """A new directory for short-lived clusters, which a server's account can enter; removed at the end with
    all it holds."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        path.chmod(0o711)
        yield path
    finally:
        for data in path.glob("*/data"):
            if data.is_symlink():
                shutil.rmtree(data.readlink(), ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _command(cluster: EmbeddedCluster, port: int) -> list[str]:
    """As root we write nothing into another account's directory: settings go on the command line."""
    settings = {
        **DURABLE,
        **cluster.settings,
        "cluster_name": f"{mark(cluster.data)} {cluster.name}"[:63],
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
    }
    pairs = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return [str(cluster.binaries.bindir / "postgres"), "-D", str(cluster.data), *pairs]


def _failed(base: Path, what: str, said: str) -> DomicileError:
    return DomicileError(
        ErrorCode.CLUSTER_FAILED,
        f"the embedded PostgreSQL {base.name!r} {what}",
        facts={"log": str(base / "server.log"), "last_lines": said.splitlines()[-8:]},
        safe="Its data are as they were.",
        hint=f"Read {base / 'server.log'}.",
    )
