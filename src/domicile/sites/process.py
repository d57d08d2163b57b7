"""A PostgreSQL server as a child process: started so that it ends with us, and found again by its data
directory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import signal
import subprocess
import time
from typing import BinaryIO

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites.identity import SH, Identity, cannot_run, clean_environment

POLL_S = 0.02
FAST_STOP_S = 60.0  # a fast shutdown writes a checkpoint; a big one takes its time
IMMEDIATE_STOP_S = 10.0
ORPHANS_S = 15.0  # children of a killed postmaster notice its death and leave

# The shell leaves a watcher behind and becomes postgres (same pid, so postgres is our own child and can be
# waited for). The watcher blocks on a pipe whose other end only we hold. A line means that all is well; end
# of file means that we are gone, however that happened, SIGKILL included: then it asks for a fast shutdown.
# Unlike PR_SET_PDEATHSIG this does not depend on the thread that forked, and it survives the change of uid.
# The watcher is disowned by the inner parentheses, so that the postmaster does not meet a child it does not
# know. The start time of the process guards against a pid that was given to somebody else meanwhile.
_LIFELINE = """
exec 3<&0 </dev/null
born() { cut -d' ' -f22 "/proc/$$/stat" 2>/dev/null; }
at_start=$(born)
( ( read -r _ <&3 || { [ "$(born)" = "$at_start" ] && kill -INT $$; } ) >/dev/null 2>&1 & )
exec "$@" 3<&-
"""


@dataclass(slots=True)
class ServerProcess:
    """A running postmaster. ``child`` is None for one that another process started."""

    pid: int
    data: Path
    child: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """False once it has ended; reaps it when it is ours."""
        if self.child is not None and self.child.poll() is not None:
            self._release()
            return False
        return self.child is not None or _serves(self.pid, self.data)

    async def stop(self) -> None:
        """Fast shutdown: clients are disconnected, everything is written. Harder means after a limit.
        Idempotent."""
        for how, limit_s in (
            (signal.SIGINT, FAST_STOP_S),
            (signal.SIGQUIT, IMMEDIATE_STOP_S),
            (signal.SIGKILL, None),
        ):
            if not self.alive():
                return
            self._signal(how)
            if await self._ended(limit_s if limit_s is not None else IMMEDIATE_STOP_S):
                return

    async def kill(self) -> None:
        """End it at once, as a crash would. Its children leave by themselves; `wait_until_vacant` sees them
        off."""
        self._signal(signal.SIGKILL)
        await self._ended(IMMEDIATE_STOP_S)

    def _signal(self, how: signal.Signals) -> None:
        try:
            os.kill(self.pid, how)
        except ProcessLookupError:
            return

    async def _ended(self, limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _release(self) -> None:
        """Tell the watcher that the server has ended, so that it does not act on our own end later."""
        if self.child is None or self.child.stdin is None or self.child.stdin.closed:
            return
        try:
            self.child.stdin.write(b"\n")
        except BrokenPipeError:
            pass  # no watcher any more: nothing to tell
        finally:
            self.child.stdin.close()


def spawn(argv: Sequence[str], data: Path, output: BinaryIO, identity: Identity, *, outlive: bool) -> ServerProcess:
    """Start a server in a session of its own (a terminal's Ctrl-C must reach us first, not it).

    Unless ``outlive``, it is shut down when our process ends, in whatever way. Raises ``DomicileError``.
    """
    command = [*argv] if outlive else [SH, "-c", _LIFELINE, SH, *argv]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if outlive else subprocess.PIPE,
            stdout=output,
            stderr=output,
            bufsize=0,
            cwd=data,
            env=clean_environment(data),
            start_new_session=True,
            **identity.credentials(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise cannot_run(argv[0], identity, error) from error
    return ServerProcess(child.pid, data, child)


def mark(data: Path) -> str:
    """What tells the processes of this data directory from all others: the start of their ``cluster_name``.

    It stands in the command line of the postmaster and in the titles of its children. Their working directory
    would say the same, but root may not read that of another account's process in a container without
    CAP_SYS_PTRACE.
    """
    return "domicile-" + hashlib.sha256(os.fsencode(data)).hexdigest()[:12]


def running(data: Path) -> ServerProcess | None:
    """The live postmaster of this data directory, whoever started it, or None."""
    pid = _locked_by(data)
    return ServerProcess(pid, data) if pid is not None and _serves(pid, data) else None


def processes_in(data: Path) -> tuple[int, ...]:
    """A postmaster of ``data`` and its children, as far as they live (zombies do not)."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return tuple(pid for pid in pids if _serves(pid, data))


async def wait_until_vacant(data: Path) -> None:
    """Wait for the children of a dead postmaster, then remove its lock file where that would hinder a start.

    The pid in it may belong to anybody by now, and PostgreSQL then refuses to start. Raises ``DomicileError``
    when a server runs there, or its children stay.
    """
    if (server := running(data)) is not None:
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"a PostgreSQL server (pid {server.pid}) already runs in {data}",
            facts={"pid": server.pid, "data": str(data)},
            hint="It belongs to another domicile process: wait for that one to end, or stop the server.",
        )
    deadline = time.monotonic() + ORPHANS_S
    while left := processes_in(data):
        if time.monotonic() > deadline:
            raise DomicileError(
                ErrorCode.CLUSTER_FAILED,
                f"{len(left)} process(es) of a crashed PostgreSQL still run in {data}",
                facts={"pids": list(left), "data": str(data)},
                hint="End these processes, then try again.",
            )
        await asyncio.sleep(POLL_S)
    pid = _locked_by(data)
    # Only where we see that the pid is somebody else's now; in every other case PostgreSQL judges rightly by
    # itself.
    if pid is not None and _command_line(pid):
        (data / "postmaster.pid").unlink(missing_ok=True)


def listening_port(data: Path) -> int | None:
    """The TCP port in a server's lock file, or None while it is not written yet."""
    lines = _lock_file(data)
    return int(lines[3]) if len(lines) > 3 and lines[3].isdigit() else None


def _locked_by(data: Path) -> int | None:
    lines = _lock_file(data)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lock_file(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except OSError:
        return []


def _serves(pid: int, data: Path) -> bool:
    """True for a postgres process of this data directory; the lifeline's shell carries the mark too, and is
    not one."""
    command, _, arguments = _command_line(pid).partition("\0")
    program = command.partition(" ")[0].rstrip(":")  # a child's title is "postgres: cluster_name: what it does"
    return Path(program).name == "postgres" and mark(data) in command + arguments


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
