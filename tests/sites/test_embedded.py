"""Embedded clusters: started, stopped, killed, and gone when their process is gone."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time

import psycopg
import pytest

from domicile.model.errors import DomicileError, ErrorCode
from domicile.sites import binaries, embedded
from domicile.sites.embedded import EmbeddedCluster, scratch_directory
from domicile.sites.identity import server_identity
from domicile.sites.process import processes_in

GONE_S = 20.0
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about dropping root's rights")

OWNER = """
import asyncio, sys, time
from pathlib import Path
from domicile.sites.embedded import EmbeddedCluster
async def main():
    cluster = await EmbeddedCluster.create(Path(sys.argv[1]), sys.argv[2])
    await cluster.start()
    print(cluster.pid, cluster.data, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def one(cluster: EmbeddedCluster, query: str) -> object:
    async with await psycopg.AsyncConnection.connect(cluster.conninfo(), autocommit=True) as connection:
        cursor = await connection.execute(query)
        while cursor.nextset():  # the last of several statements
            pass
        row = await cursor.fetchone()
        assert row is not None
        return row[0]


def control_data(cluster: EmbeddedCluster) -> str:
    program = cluster.binaries.bindir / "pg_controldata"
    return subprocess.run([program, "-D", cluster.data], capture_output=True, text=True, check=True).stdout


def wait_gone(data: Path) -> None:
    deadline = time.monotonic() + GONE_S
    while processes_in(data):
        assert time.monotonic() < deadline, f"still running: {processes_in(data)}"
        time.sleep(0.05)


async def test_settings_are_durable(pg18: EmbeddedCluster, pg15: EmbeddedCluster) -> None:
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "wal_level": "logical",
        "listen_addresses": "127.0.0.1",
        "jit": "off",
        "max_prepared_transactions": "10",
        "timezone": "UTC",
        "server_encoding": "UTF8",
        "shared_buffers": "64MB",  # by option
    }
    for cluster in (pg18, pg15):
        found = {name: await one(cluster, f"select current_setting('{name}')") for name in wanted}
        assert found == wanted
        assert await one(cluster, "select datcollate || ' ' || datctype from pg_database limit 1") == "C.UTF-8 C.UTF-8"


async def test_stop_start_keeps_rows_and_kill_recovers(scratch: Path) -> None:
    cluster = await EmbeddedCluster.create(scratch, "cycle")
    async with cluster:
        await one(cluster, "create table t (n int); insert into t values (1); select 1")
        await cluster.start()  # idempotent
    assert "Database cluster state:               shut down\n" in control_data(cluster)
    again = await EmbeddedCluster.create(scratch, "cycle")
    async with again:
        await one(again, "insert into t values (2) returning n")
        first = again.pid
        await again.kill()
        assert again.pid is None
        await again.start()
        assert again.pid != first
        assert await one(again, "select count(*) from t") == 2
    assert processes_in(cluster.data) == ()
    await again.destroy()
    assert not again.base.exists()
    assert not again.data.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_cluster_ends_with_its_process(scratch: Path, how: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(scratch), f"orphan{how:d}"], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid, data = owner.stdout.readline().split()
    assert int(pid) in processes_in(Path(data))
    owner.send_signal(how)
    owner.wait()
    owner.stdout.close()
    wait_gone(Path(data))


@pytest.fixture
def foreign_pid() -> Iterator[int]:
    """A live process of the server's account that is no server."""
    sleeper = subprocess.Popen(["/bin/sleep", "60"], **server_identity().credentials())
    yield sleeper.pid
    sleeper.kill()
    sleeper.wait()


async def test_stale_lock_file_with_a_foreign_pid_does_not_hinder(scratch: Path, foreign_pid: int) -> None:
    cluster = await EmbeddedCluster.create(scratch, "stale")
    lock = cluster.data / "postmaster.pid"
    lock.write_text(f"{foreign_pid}\n{cluster.data}\n1\n5432\n\n127.0.0.1\n  1 1\nready\n")
    if os.geteuid() == 0:
        shutil.chown(lock, cluster.identity.uid, cluster.identity.gid)
    async with cluster:
        assert await one(cluster, "select 1") == 1


async def test_a_second_start_on_the_same_data_is_refused(pg18: EmbeddedCluster, scratch: Path) -> None:
    second = await EmbeddedCluster.create(scratch, "pg18")
    with pytest.raises(DomicileError, match="already runs") as caught:
        await second.start()
    assert caught.value.code is ErrorCode.CLUSTER_FAILED
    assert caught.value.facts["pid"] == pg18.pid


async def test_a_taken_port_is_tried_again(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        free = embedded._free_port
        answers = iter([taken, free()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(answers))
        async with await EmbeddedCluster.create(scratch, "port") as cluster:
            assert cluster.port != taken
            assert await one(cluster, "select 1") == 1


async def test_a_wrong_setting_is_reported_with_the_log(scratch: Path) -> None:
    cluster = await EmbeddedCluster.create(scratch, "wrong", settings={"wal_level": "nonsense"})
    with pytest.raises(DomicileError, match="did not start") as caught:
        await cluster.start()
    assert "nonsense" in str(caught.value.facts["last_lines"])
    assert not cluster.running
    with pytest.raises(DomicileError, match="is not running"):
        cluster.conninfo()


async def test_data_of_another_version_and_a_lost_password_are_refused(
    pg15: EmbeddedCluster, pg15_bindir: Path, scratch: Path
) -> None:
    with pytest.raises(DomicileError, match=r"made by PostgreSQL 15, the programs are 18"):
        await EmbeddedCluster.create(scratch, "pg15")
    password = pg15.base / "password"
    hidden = password.rename(password.with_name("hidden"))
    try:
        with pytest.raises(DomicileError, match="password is missing"):
            await EmbeddedCluster.create(scratch, "pg15", bindir=pg15_bindir)
    finally:
        hidden.rename(password)


async def test_password_is_required_and_private(pg18: EmbeddedCluster) -> None:
    assert (pg18.base / "password").stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(pg18.conninfo(), password="guess")


async def test_url_and_conninfo_stand_a_hostile_environment(
    pg18: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGSSLMODE": "require",
        "PGPASSWORD": "x",
        "PGUSER": "x",
        "PGGSSENCMODE": "require",
    }.items():
        monkeypatch.setenv(name, value)
    for conninfo in (pg18.conninfo(), pg18.url()):
        async with await psycopg.AsyncConnection.connect(conninfo):
            pass


async def test_no_values_of_rows_in_the_server_log(pg18: EmbeddedCluster) -> None:
    await one(pg18, "create table secret_t (v text primary key); insert into secret_t values ('Asha-log'); select 1")
    with pytest.raises(psycopg.errors.UniqueViolation):
        await one(pg18, "insert into secret_t values ('Asha-log') returning 1")
    await one(pg18, "drop table secret_t; select 1")
    assert "Asha-log" not in (pg18.base / "server.log").read_text()


def test_missing_programs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DomicileError, match="no usable PostgreSQL programs"):
        binaries.at(tmp_path)
    with pytest.raises(DomicileError, match="no PostgreSQL 17"):
        binaries.bundled(17)


def test_bundled_versions() -> None:
    assert [binaries.bundled(major).major for major in (16, 18)] == [16, 18]
    assert binaries.find(18) is not None
    assert binaries.find(9) is None


def test_a_uid_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(DomicileError, match="uid 54321 has no name"):
        server_identity()


@as_root
def test_root_needs_an_account_that_is_not_root() -> None:
    with pytest.raises(DomicileError, match="no account named 'no-such-account'"):
        server_identity("no-such-account")
    with pytest.raises(DomicileError, match="is root"):
        server_identity("root")


@as_root
async def test_server_does_not_run_as_root(pg18: EmbeddedCluster) -> None:
    assert Path(f"/proc/{pg18.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid


@as_root
async def test_closed_directories_stay_closed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scratch: Path
) -> None:
    """Programs and data below a directory like /root: both go elsewhere, and no right of that directory
    changes."""
    monkeypatch.setattr(binaries, "ROOT_PLACE", scratch / "place")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    spec = binaries.bundled().bindir.parent.parent
    for part in (spec, spec.with_name(spec.name + ".libs")):
        shutil.copytree(part, closed / part.name, symlinks=True, ignore=shutil.ignore_patterns("pginstall", "*.a"))
    bundled = binaries.at(closed / spec.name / "pginstall18" / "bin", bundled=True)
    monkeypatch.setattr(binaries, "bundled", lambda: bundled)
    mask = os.umask(0o077)
    request.addfinalizer(lambda: os.umask(mask))
    async with await EmbeddedCluster.create(closed, "inside") as cluster:
        assert await one(cluster, "select 1") == 1
        assert cluster.data.is_relative_to(scratch / "place")
        assert cluster.binaries.bindir.is_relative_to(scratch / "place")
    again = await EmbeddedCluster.create(closed, "inside")
    assert again.data == cluster.data
    assert closed.stat().st_mode & 0o777 == 0o700
    await again.destroy()
    assert not cluster.data.exists()


@as_root
def test_a_place_that_somebody_else_made_is_not_used(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    foreign = scratch / "foreign"
    foreign.mkdir()
    os.chown(foreign, 65534, 65534)
    monkeypatch.setattr(binaries, "ROOT_PLACE", foreign)
    monkeypatch.setattr(binaries.tempfile, "gettempdir", lambda: str(scratch))
    assert binaries.own_place() == scratch / "domicile-0"


def test_scratch_directory_is_removed() -> None:
    with scratch_directory() as path:
        assert path.stat().st_mode & 0o777 == 0o711
        (path / "x").mkdir()
    assert not path.exists()
