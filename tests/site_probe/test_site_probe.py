"""The probe of a site: what it finds on real servers, and that the SQL it offers mends what it names."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql
import pytest
from tests.conftest import SitePair

from domicile.model.site import DatasetName, SiteName
from domicile.postgres.site_probe import SiteReport, Weight, probe
from domicile.sites.embedded import EmbeddedCluster

PASSWORD = "hunter2hunter2"
SITE, DATASET = SiteName("beijing"), DatasetName("store")


async def look(conninfo: str) -> SiteReport:
    return await probe(SITE, DATASET, conninfo)


async def test_a_superuser_lacks_nothing(site_pair: SitePair) -> None:
    report = await look(site_pair.source)
    assert report.ready
    assert report.lacks == ()
    assert report.server is not None
    assert report.rights is not None
    assert str(report.server.version_num // 10_000) == site_pair.label.split("-")[0]
    assert report.server.wal_level == "logical"
    assert report.server.encoding == "UTF8"
    assert not report.server.standby
    assert not report.server.tls
    assert 0 < report.server.round_trip_ms < 1_000
    assert abs(report.server.clock_offset_ms) < 1_000, "the server runs on this machine"
    assert report.server.database_bytes > 1_000_000
    assert report.rights.superuser
    assert report.rights.tables == 0


async def test_free_disk_is_known_only_from_the_server_s_own_directory(database: str) -> None:
    report = await look(database)
    assert report.server is not None
    free = report.server.disk_free_bytes
    assert free is None or free > 1_000_000
    stranger = psycopg.conninfo.make_conninfo(database, user="probe_stranger", password=PASSWORD)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute("drop role if exists probe_stranger")
        await conn.execute(f"create role probe_stranger login password '{PASSWORD}'")
    report = await look(stranger)
    assert report.server is not None
    assert report.server.disk_free_bytes is None, "a role that may not see the directory"


async def test_a_limited_role_is_told_what_it_lacks_and_the_sql_mends_it(site_pair: SitePair) -> None:
    role, owner = f"Mover {site_pair.label}", f"Owner {site_pair.label}"
    names = {"role": sql.Identifier(role), "owner": sql.Identifier(owner)}
    async with await psycopg.AsyncConnection.connect(site_pair.source, autocommit=True) as admin:
        for statement in (
            "drop role if exists {role}",
            "drop role if exists {owner}",
            f"create role {{role}} login password '{PASSWORD}'",
            "create role {owner}",
            "create schema app authorization {owner}",
            "create table app.account (id bigint primary key)",
            "create table app.other (id bigint primary key)",
            "alter table app.account owner to {owner}",
            "alter table app.other owner to {owner}",
            "alter table app.other enable row level security",
            "alter table app.other force row level security",
        ):
            await admin.execute(sql.SQL(statement).format(**names))
        conninfo = psycopg.conninfo.make_conninfo(site_pair.source, user=role, password=PASSWORD)
        try:
            report = await look(conninfo)
            assert not report.ready
            assert report.rights is not None
            assert report.rights.owners == (owner,)
            assert report.rights.tables_not_owned == report.rights.tables == 2
            assert [(lack.weight, lack.mend.split(" to ")[0]) for lack in report.lacks] == [
                (Weight.BLOCKS, f"grant create on database {await name_of(admin)}"),
                (Weight.BLOCKS, "grant set on parameter session_replication_role"),
                (Weight.BLOCKS, f'grant "{owner}"'),
                (Weight.WARNS, f'alter role "{role}" bypassrls;'),
                (Weight.LIVE, f'alter role "{role}" replication;'),
            ]
            for lack in report.lacks:
                await admin.execute(lack.mend.encode())
            mended = await look(conninfo)
            assert mended.ready
            assert mended.lacks == ()
        finally:
            await admin.execute(sql.SQL("drop owned by {role}, {owner} cascade").format(**names))
            await admin.execute(sql.SQL("drop role {role}, {owner}").format(**names))


async def name_of(conn: psycopg.AsyncConnection) -> str:
    row = await (await conn.execute("select quote_ident(current_database())")).fetchone()
    assert row is not None
    return f'"{row[0]}"'


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"port": "1"}, "site-unreachable"),
        ({"dbname": "no_such_database"}, "site-unreachable"),
        ({"password": PASSWORD}, "access-denied"),
        ({"host": "no-such-host.invalid", "hostaddr": ""}, "site-unreachable"),
    ],
)
async def test_an_unreachable_site_is_reported_without_its_password(
    database: str, change: dict[str, str], code: str
) -> None:
    report = await look(psycopg.conninfo.make_conninfo(database, **change))
    assert (report.reachable, report.error_code, report.server) == (False, code, None)
    assert report.hint
    secret = psycopg.conninfo.conninfo_to_dict(database)["password"]
    assert str(secret) not in repr(report)
    assert PASSWORD not in repr(report)


async def test_wal_level_replica_is_no_hindrance_to_a_cold_move(scratch: Path) -> None:
    settings = {"wal_level": "replica"}
    async with await EmbeddedCluster.create(scratch, "probe_replica", settings=settings) as cluster:
        report = await look(cluster.conninfo())
    assert report.ready
    assert [lack.weight for lack in report.lacks] == [Weight.LIVE]
    assert "alter system set wal_level" in report.lacks[0].mend
