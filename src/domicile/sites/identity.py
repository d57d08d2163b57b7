"""Who a PostgreSQL server runs as: PostgreSQL refuses uid 0, so root drops its rights, in the child process
only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import pwd
import subprocess
from typing import TypedDict

from domicile.model.errors import DomicileError, ErrorCode

DEFAULT_USER = "nobody"
SH = "/bin/sh"


class _Credentials(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Identity:
    """The account of a server process. ``drops`` is True when we are root and the child becomes somebody
    else."""

    uid: int
    gid: int
    drops: bool

    def credentials(self) -> _Credentials:
        """Keyword arguments for ``subprocess``; empty when nothing has to be dropped."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.drops else {}

    def may_traverse(self, directory: Path) -> bool:
        """True when this account can enter ``directory``. Asked of the kernel, so that ACLs and mounts count
        too."""
        return self._passes('cd "$1"', directory)

    def may_execute(self, program: Path) -> bool:
        """True when this account can run ``program`` (it is called with ``--version``)."""
        return self._passes('"$1" --version >/dev/null', program)

    def _passes(self, script: str, path: Path) -> bool:
        return run([SH, "-c", script, SH, str(path)], self, cwd=Path("/")).returncode == 0


def server_identity(user: str | None = None) -> Identity:
    """The account for a server: our own, or as root ``user`` (default ``nobody``).

    Raises ``DomicileError`` (cluster-failed) where there is no such account, or our own uid has no name:
    PostgreSQL's ``initdb`` looks its user up and fails without an entry, which happens in containers run with
    an arbitrary uid.
    """
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(user or DEFAULT_USER)
        except KeyError:
            raise DomicileError(
                ErrorCode.CLUSTER_FAILED,
                f"no account named {user or DEFAULT_USER!r} to run PostgreSQL as",
                hint="Name an existing unprivileged account, or run domicile as an ordinary user.",
            ) from None
        if entry.pw_uid == 0:
            raise DomicileError(ErrorCode.CLUSTER_FAILED, f"{entry.pw_name!r} is root; PostgreSQL does not run as root")
        return Identity(entry.pw_uid, entry.pw_gid, drops=True)
    uid = os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"uid {uid} has no name in the passwd database, and PostgreSQL's initdb needs one",
            facts={"uid": uid},
            hint="Run as an account with a name, or use a PostgreSQL of your own as the control database.",
        ) from None
    return Identity(uid, os.getegid(), drops=False)


def clean_environment(home: Path) -> Mapping[str, str]:
    """The environment of PostgreSQL's programs: none of the caller's PG* variables, locale or time zone."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": str(home)}


def run(argv: list[str], identity: Identity, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a short program to its end as ``identity``; output captured. Raises DomicileError where rights
    cannot be dropped."""
    try:
        return subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env=clean_environment(cwd),
            **identity.credentials(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise cannot_run(argv[0], identity, error) from error


def cannot_run(program: str, identity: Identity, error: Exception) -> DomicileError:
    """The error for a child process that could not be started at all."""
    return DomicileError(
        ErrorCode.CLUSTER_FAILED,
        f"could not run {program} as uid {identity.uid}: {error}",
        facts={"program": program, "uid": identity.uid},
        hint="As root, domicile must be allowed to change uid (CAP_SETUID); else run as an ordinary user.",
    )
