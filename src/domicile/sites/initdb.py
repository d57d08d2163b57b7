"""Making the data directory of an embedded cluster, at a place where the server's account can work."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
import secrets
import shutil

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites import binaries as programs
from domicile.sites.binaries import Binaries
from domicile.sites.identity import Identity, run

log = logging.getLogger(__name__)

SUPERUSER = "postgres"
SCRAM_ITERATIONS_SINCE = 16  # the first version that can be told


def ensure_initialised(base: Path, data: Path, binaries: Binaries, identity: Identity) -> str:
    """Make ``data`` unless it exists, and return the superuser's password. Idempotent; blocks for about a
    second.

    Raises ``DomicileError`` (cluster-failed) when initdb fails, or the data belong to another major version.
    """
    secret = base / "password"
    if (data / "PG_VERSION").exists():
        _check_existing(data, binaries, secret)
        return secret.read_text().strip()
    password = secrets.token_urlsafe(24)
    secret.unlink(missing_ok=True)
    _write_secret(secret, password)
    _initdb(binaries, identity, data, password)
    return password


def data_directory(base: Path, identity: Identity) -> Path:
    """Where the data of ``base`` lie: in it, or, where the server's account cannot enter it, in root's own
    place.

    The latter happens as root only, below /root or another closed directory, whose rights are not ours to
    change; a link in ``base`` then shows where the data are.
    """
    data = base / "data"
    if data.is_symlink():
        return data.readlink()
    if data.exists() or not identity.drops or identity.may_traverse(base):
        return data
    clusters = programs.enterable(programs.own_place() / "clusters")
    elsewhere = clusters / f"{base.name}-{hashlib.sha256(os.fsencode(base)).hexdigest()[:16]}"
    log.warning("uid %d cannot enter %s: the data of %s go to %s", identity.uid, base, base.name, elsewhere)
    data.symlink_to(elsewhere)
    return elsewhere


def _initdb(binaries: Binaries, identity: Identity, data: Path, password: str) -> None:
    """Make the data directory beside its place and rename it there when complete, so that half of one is
    never used."""
    building = data.with_name(data.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    secret = building.with_suffix(".password")  # initdb reads it as the server's account
    secret.unlink(missing_ok=True)
    try:
        _write_secret(secret, password)
        building.mkdir(mode=0o700)
        if identity.drops:
            for path in (building, secret):
                os.chown(path, identity.uid, identity.gid)
        done = run(
            [
                *(str(binaries.bindir / "initdb"), "-D", str(building), "-U", SUPERUSER, "-E", "UTF8"),
                *("-A", "scram-sha-256", "--pwfile", str(secret), "--data-checksums"),
                *("--locale-provider=libc", "--locale=C.UTF-8", "--no-instructions"),
                # Iterations protect passwords that can be guessed; with ours they are half of a connection's cost.
                *(("-c", "scram_iterations=1") if binaries.major >= SCRAM_ITERATIONS_SINCE else ()),
            ],
            identity,
            cwd=building,
        )
    finally:
        secret.unlink(missing_ok=True)
    if done.returncode != 0:
        shutil.rmtree(building, ignore_errors=True)
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"initdb failed for {data}",
            facts={"last_lines": (done.stdout + done.stderr).splitlines()[-8:]},
            hint="The lines above say why; free disk space and rights are the usual reasons.",
        )
    building.rename(data)


def _write_secret(path: Path, secret: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret)


def _check_existing(data: Path, binaries: Binaries, secret: Path) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    if made_by != str(binaries.major):
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"{data} was made by PostgreSQL {made_by}, the programs are {binaries.version}",
            facts={"data": str(data), "made_by": made_by, "version": binaries.version},
            hint=f"Name the programs of PostgreSQL {made_by}, or another directory.",
        )
    if not secret.is_file():
        raise DomicileError(
            ErrorCode.CLUSTER_FAILED,
            f"{secret} is missing: the password of the server in {data}",
            hint="Restore the file, or remove the cluster's directory if its data are not needed.",
        )
