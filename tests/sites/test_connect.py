"""Connecting: libpq's rules, our session settings, errors that say what to do and no secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
import os
from pathlib import Path
import shutil
import socket
import subprocess
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
import pytest

from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres.connect import SESSION, connect, safe_conninfo
from domicile.sites.embedded import EmbeddedCluster

SECRET = "s3cret-and-a-half"
TLS_IN_USE = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


async def refused(conninfo: str) -> DomicileError:
    with pytest.raises(DomicileError) as caught:
        await connect(conninfo)
    error = caught.value
    assert SECRET not in f"{error} {error.as_dict()}"
    assert error.__cause__ is None, "libpq's own text must not come along"
    assert error.__suppress_context__
    assert error.hint
    return error


async def test_session_settings_override_all_defaults(pg18: EmbeddedCluster, pg15: EmbeddedCluster) -> None:
    for cluster in (pg18, pg15):
        hostile = make_conninfo(
            cluster.conninfo(),
            options="-c datestyle=German -c timezone=Asia/Shanghai -c statement_timeout=5000"
            " -c lock_timeout=5000 -c default_transaction_isolation=serializable"
            " -c default_transaction_read_only=on"
            " -c extra_float_digits=-3 -c client_encoding=latin1 -c bytea_output=escape",
        )
        connection = await connect(hostile, autocommit=False, settings=SESSION)
        async with connection:
            assert not connection.autocommit
            await connection.rollback()  # settings are not part of a transaction
            for name, value in SESSION.items():
                cursor = await connection.execute("select current_setting(%s)", (name,))
                row = await cursor.fetchone()
                assert row is not None
                assert row[0] == value, name
            assert connection.info.encoding == "utf-8"


async def test_plain_connection_keeps_the_users_own_settings(pg18: EmbeddedCluster) -> None:
    async with await connect(make_conninfo(pg18.conninfo(), options="-c timezone=Asia/Shanghai")) as connection:
        assert connection.autocommit
        assert connection.info.parameter_status("TimeZone") == "Asia/Shanghai"
        assert connection.info.parameter_status("application_name") == "domicile"


async def test_service_passfile_and_environment(
    pg18: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = conninfo_to_dict(pg18.conninfo())
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{parts['password']}\n")
    passfile.chmod(0o600)
    services = tmp_path / "services"
    services.write_text(f"[home]\nhost={parts['host']}\nport={parts['port']}\ndbname=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGUSER", "postgres")
    async with await connect(make_conninfo("service=home", passfile=str(passfile))) as connection:
        assert connection.info.port == pg18.port


async def test_notices_do_not_leak(pg18: EmbeddedCluster, capfd: pytest.CaptureFixture[str]) -> None:
    async with await connect(pg18.conninfo(), settings=SESSION) as connection:
        await connection.execute("do $$ begin raise warning 'Asha'; end $$")
    assert "Asha" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"password": SECRET}, ErrorCode.ACCESS_DENIED, "wrong-password"),
        ({"dbname": "nowhere"}, ErrorCode.SITE_UNREACHABLE, "no-such-database"),
        ({"sslmode": "require"}, ErrorCode.SITE_UNREACHABLE, "tls-unsupported"),
        ({"host": "no-such-host.invalid"}, ErrorCode.SITE_UNREACHABLE, "unknown-host"),
        ({"service": "no-such-service"}, ErrorCode.CONFIG_INVALID, "no-service"),
    ],
)
async def test_reasons(pg18: EmbeddedCluster, change: dict[str, str], code: ErrorCode, reason: str) -> None:
    error = await refused(make_conninfo(pg18.conninfo(), **change))
    assert (error.code, error.facts["reason"]) == (code, reason), error.facts


async def test_rights_of_role_and_database(pg18: EmbeddedCluster) -> None:
    async with await connect(pg18.conninfo()) as connection:
        await connection.execute("create role guest login password 's3cret-and-a-half' connection limit 0")
        await connection.execute("create database closed")
        await connection.execute("revoke connect on database closed from public")
        try:
            guest = make_conninfo(pg18.conninfo(), user="guest", password=SECRET)
            assert (await refused(guest)).facts["reason"] == "full"
            await connection.execute("alter role guest connection limit -1")
            error = await refused(make_conninfo(guest, dbname="closed"))
            assert error.facts["reason"] == "connect-right-missing"
            await connection.execute("alter role guest nologin")
            assert (await refused(guest)).facts["reason"] == "no-login"
        finally:
            await connection.execute("drop database closed")
            await connection.execute("drop role guest")


async def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await refused(f"host=127.0.0.1 port={free.getsockname()[1]} password={SECRET}")
    assert (error.code, error.facts["reason"]) == (ErrorCode.SITE_UNREACHABLE, "refused")


async def test_no_answer_in_time() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        error = await refused(f"host=127.0.0.1 port={mute.getsockname()[1]} connect_timeout=2 password={SECRET}")
    assert (error.code, error.facts["reason"]) == (ErrorCode.SITE_UNREACHABLE, "timeout")


async def test_broken_conninfo_shows_nothing_of_itself() -> None:
    error = await refused(f"host=localhost password=blank {SECRET}")
    assert error.code is ErrorCode.CONFIG_INVALID


async def test_a_refused_setting(pg18: EmbeddedCluster) -> None:
    with pytest.raises(DomicileError) as caught:
        await connect(pg18.conninfo(), settings={"no_such_setting": "1"})
    assert caught.value.code is ErrorCode.SETTING_WRONG


def test_safe_conninfo() -> None:
    for conninfo in (
        f"host=h user=u password={SECRET} sslpassword='{SECRET} x'",
        f"postgresql://u:{SECRET}@h:5432/db?sslpassword={SECRET}",
        f"postgresql://u@h/db?password={SECRET}",
        f"broken {SECRET}",
    ):
        assert SECRET not in safe_conninfo(conninfo)
    assert sorted(safe_conninfo("host=h user=u password=p").split()) == ["host=h", "password=***", "user=u"]


def certify(key: Path, certificate: Path) -> None:
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=elsewhere",
    ]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True)


@pytest.fixture(scope="session")
async def tls(scratch: Path, pg15_bindir: Path) -> AsyncIterator[EmbeddedCluster]:
    """Debian's server with a certificate for another name; the bundled build has no TLS at all."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cluster = await EmbeddedCluster.create(scratch, "tls", bindir=pg15_bindir, settings={"ssl": "on"})
    key, certificate = cluster.data / "server.key", cluster.data / "server.crt"
    certify(key, certificate)
    shutil.copy(certificate, cluster.base / "root.crt")
    key.chmod(0o600)
    if os.geteuid() == 0:
        for path in (key, certificate):
            shutil.chown(path, cluster.identity.uid, cluster.identity.gid)
    async with cluster:
        yield cluster


async def test_tls(tls: EmbeddedCluster) -> None:
    trusted = {"sslrootcert": str(tls.base / "root.crt")}
    async with await connect(make_conninfo(tls.conninfo(), sslmode="verify-ca", **trusted)) as connection:
        row = await (await connection.execute(TLS_IN_USE)).fetchone()
        assert row == (True,)
    for wrong in (
        {"sslmode": "verify-full", **trusted},
        {"sslmode": "verify-ca", "sslrootcert": "/nowhere.crt"},
    ):
        error = await refused(make_conninfo(tls.conninfo(), **wrong))
        assert (error.code, error.facts["reason"]) == (ErrorCode.SITE_UNREACHABLE, "tls-refused")


async def test_site_pair_is_fresh(site_pair: Any) -> None:
    for conninfo in (site_pair.source, site_pair.target):
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            row = await (
                await connection.execute("select count(*) from pg_tables where schemaname = 'public'")
            ).fetchone()
            assert row == (0,)
