"""The embedded control database, shared by every domicile process that uses the same state directory.

The first process starts the server and the last one stops it. The server must outlive whoever started it, so
it has no lifeline to that process; who is using it is told by locks that the kernel releases at any end,
SIGKILL included:

    control.lock    shared, held by each process while it uses the server
    control.turn    exclusive, held for the moment in which a process looks, starts or stops

After all users were killed the server stays up, until the next command has used and stopped it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
import fcntl
import os
from pathlib import Path
import time

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites.embedded import NO_SETTINGS, EmbeddedCluster

CONTROL = "control"
TURN_LIMIT_S = 120.0  # longer than a start with recovery or a stop with its harder means
POLL_S = 0.02
# The control database is small and mostly idle.
_SETTINGS: Mapping[str, str] = {"shared_buffers": "32MB", "max_wal_size": "256MB"}


@asynccontextmanager
async def control_cluster(
    state_dir: Path,
    *,
    bindir: Path | None = None,
    user: str | None = None,
    settings: Mapping[str, str] = NO_SETTINGS,
) -> AsyncIterator[EmbeddedCluster]:
    """The running control server of ``state_dir``, started when nobody runs it, stopped by whoever leaves
    last.

    Data persist across starts. Raises ``DomicileError`` (cluster-failed) when it cannot be started, or
    another process holds the turn for longer than TURN_LIMIT_S. Connect with ``conninfo(dbname)`` or
    ``url(dbname)`` of what it yields.
    """
    state_dir = Path(state_dir)
    state_dir.mkdir(parents=True, exist_ok=True)
    with _lock_file(state_dir / "control.lock") as users:
        async with _turn(state_dir):
            fcntl.flock(users, fcntl.LOCK_SH)
            cluster = await EmbeddedCluster.create(
                state_dir, CONTROL, bindir=bindir, user=user, settings={**_SETTINGS, **settings}
            )
            if not await cluster.adopt():
                await cluster.start(outlive=True)
        try:
            yield cluster
        finally:
            # Ctrl-C cancels us: the server would stay behind if it cancelled the leaving too.
            leaving = asyncio.ensure_future(_leave(state_dir, users, cluster))
            try:
                await asyncio.shield(leaving)
            except asyncio.CancelledError:
                await leaving
                raise


async def _leave(state_dir: Path, users: int, cluster: EmbeddedCluster) -> None:
    async with _turn(state_dir):
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(users, fcntl.LOCK_UN)  # somebody else uses it and will stop it
            return
        await cluster.stop()
        fcntl.flock(users, fcntl.LOCK_UN)


@asynccontextmanager
async def _turn(state_dir: Path) -> AsyncIterator[None]:
    with _lock_file(state_dir / "control.turn") as turn:
        deadline = time.monotonic() + TURN_LIMIT_S
        while True:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DomicileError(
                        ErrorCode.CLUSTER_FAILED,
                        f"another process holds the control database's turn for over {TURN_LIMIT_S:.0f} s",
                        facts={"lock": str(state_dir / "control.turn")},
                        hint="Look for a hanging domicile process, end it, and try again.",
                    ) from None
                await asyncio.sleep(POLL_S)
        yield


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    """An open lock file; closing it releases the lock. Not inherited by the server (Python opens files
    close-on-exec)."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)
