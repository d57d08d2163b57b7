"""A purge that sees to what it leaves on disk: canaries first, files searched, what remains listed. And killed on the
way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
import sys

import psycopg
import pytest
from tests.conftest import create_database, drop_database
from tests.move.mover import mover
from tests.move.places import (
    SOURCE,
    STORE_MAP,
    TARGET,
    Place,
    apply_cold,
    every_row,
    execute,
    scalar,
    workspace_for,
)

from domicile import commands, world
from domicile.model import erasure
from domicile.model.erasure import ErasureReport, ErasureWish
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Question
from domicile.move.failpoints import POINTS
from domicile.sites.embedded import EmbeddedCluster

EVERY = tuple(p for p in POINTS if p.startswith(("erase.", "purge.")))
FEW = ("erase.values_kept", "purge.chunk_committed", "erase.reclaimed")
SHOWN = {"tables", "freed space in tables", "toast", "indexes", "statistics", "wal", "server logs"}
NUMBERS_ONLY = {"store.cart", "store.cart_item", "store.order_item"}
INDIA = "market = 'IN'"
# Longer than a page would hold; a value that somebody who stays has, too.
_EXTRA = """
    update store.review as r set body = (select string_agg(md5(r.id || ':' || n), ' ')
                                           from generate_series(1, 200) as n) where id % 3 = 0;
    update store.user_account set full_name = 'Everybody Shares This Name' where id in (
        (select min(id) from store.user_account where market = 'IN'),
        (select min(id) from store.user_account where market = 'CN'))"""


@asynccontextmanager
async def store_at(alone: EmbeddedCluster, pg18: EmbeddedCluster, state: Path) -> AsyncIterator[Place]:
    """A small store whose source has a server of its own, dropped afterwards."""
    names = await create_database(alone, "source"), await create_database(pg18, "target")
    control = await create_database(pg18, "control")
    places = alone.conninfo(names[0]), pg18.conninfo(names[1])
    for number, conninfo in enumerate(places):
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
            await world.create_schema(conn, site_number=number)
            await world.populate_reference(conn)
            if number == 0:
                await world.populate(conn, scale=0.004)
    await execute(places[0], *_EXTRA.split(";"))
    workspace = workspace_for(state, "store", STORE_MAP, places, pg18.conninfo(control))
    limits = replace(workspace.limits, wave_subjects_max=500, probe_p99_ms_min=60_000.0)  # others are at work here
    yield Place(replace(workspace, limits=limits), *places, "store")
    await drop_database(alone, names[0])
    await drop_database(pg18, names[1])
    await drop_database(pg18, control)


@pytest.fixture
async def place(alone: EmbeddedCluster, pg18: EmbeddedCluster, scratch: Path, tmp_path: Path) -> AsyncIterator[Place]:
    async with store_at(alone, pg18, scratch / f"{alone.name}-{tmp_path.name}") as place:
        yield place


async def moved(place: Place) -> str:
    plan = await commands.plan(place.workspace, Question(place.dataset, SOURCE, TARGET, where=INDIA))
    return (await apply_cold(place.workspace, plan)).move_id


def found(report: ErasureReport) -> dict[str, int]:
    return {str(f.place): f.values for f in report.findings if f.values}


async def no_twin(place: Place) -> None:
    twins = await scalar(
        place.source,
        "select count(*) from pg_class where relname ~ '^canary' and relnamespace = 'domicile'::regnamespace",
    )
    assert twins == 0


@pytest.mark.parametrize("alone", [pytest.param("15", marks=pytest.mark.campaign), "18"], indirect=True)
async def test_nothing_is_found_after_a_purge_that_writes_tables_anew(place: Place) -> None:
    move = await moved(place)
    outsiders = await scalar(place.source, "select count(*) from store.user_account where market <> 'IN'")
    seen: list[str] = []
    await execute(place.workspace.control, "update domicile_control.event set at = at - interval '1 hour'")
    done = await commands.purge(
        place.workspace, move, wish=ErasureWish(rewrite=True), on_progress=lambda now: seen.append(now.doing)
    )
    assert [doing for doing in seen if doing.startswith("the server's files are searched, ")], seen
    assert (await commands.status(place.workspace, move))[0].doing == ""
    report = done.erasure
    assert report is not None
    assert report.scanned
    before = report.stages[0].values
    assert before["tables"] > 100
    assert before["toast"] > 5
    assert before["wal"] + before["recycled wal"] > 100
    assert found(report) == {}, report
    assert report.unlisted == 0
    shown = {str(f.place): (f.seen, f.planted) for f in report.findings if f.planted}
    assert set(shown) >= SHOWN, shown
    assert {p: s for p, s in shown.items() if s[0] != s[1]} == {}
    assert (report.sensitivity_min, report.canaries_left) == (1.0, 0)
    assert {why.partition(":")[0] for why in report.not_planted} == NUMBERS_ONLY
    assert report.shared > 0
    assert {r.place for r in report.residuals} == {erasure.Place.BLOCKS}, report.residuals
    assert not [s for s in report.steps if s.refused]
    assert 3_600 <= report.deleted_after < report.lag_seconds["tables"], "from the handover on"
    assert report.erasure_lag == max(report.lag_seconds.values())
    assert report.closed, [f for f in report.findings if f.not_read]
    await no_twin(place)
    assert await scalar(place.source, "select count(*) from store.user_account") == outsiders
    assert (
        await scalar(place.source, "select count(*) from store.user_account where full_name ~ '^Everybody Shares'") == 1
    )
    assert await scalar(place.source, "select count(*) from domicile.erasure where prints is not null") == 0
    assert (await commands.recheck(place.workspace, move)).closed


@pytest.mark.parametrize("alone", ["15"], indirect=True)
@pytest.mark.parametrize("to_its_end", [False, pytest.param(True, marks=pytest.mark.campaign)])
async def test_what_a_purge_without_rewriting_leaves_is_listed_and_ends_with_one(
    place: Place, tmp_path: Path, to_its_end: bool
) -> None:
    move = await moved(place)
    await scalar(place.source, "select pg_create_physical_replication_slot('somebody_s', true)")
    backup = tmp_path / "backup"
    backup.mkdir()
    email = await scalar(place.source, "select email from store.user_account where market = 'IN' limit 1")
    (backup / "dump.sql").write_text(f"insert into user_account values ('{email}');")
    try:
        wish = ErasureWish(kept=((str(backup), "2099-12-31"),))
        report = (await commands.purge(place.workspace, move, wish=wish)).erasure
        assert report is not None
        left = found(report)
        assert left["freed space in tables"] > 0
        assert left["archives and backups"] == 1
        assert left["wal"] > 0
        assert "tables" not in left
        assert "indexes" not in left
        assert report.unlisted == 0
        told = {(str(r.place), r.expires): r.what for r in report.residuals}
        assert "slot somebody_s (not in use)" in told["wal", ""]
        assert told["archives and backups", "2099-12-31"] == str(backup)
        assert "--rewrite" in told["freed space in tables", ""]
        assert not report.closed
        assert report.erasure_lag is None
    finally:
        await scalar(place.source, "select pg_drop_replication_slot('somebody_s')")
    if not to_its_end:
        return
    wish = ErasureWish(rewrite=True, kept=((str(backup), "2020-01-01"),))
    again = (await commands.purge(place.workspace, move, wish=wish)).erasure
    assert again is not None
    assert found(again) == {"archives and backups": 1}
    assert again.lag_seconds["indexes"] == report.lag_seconds["indexes"], "gone is gone"
    (backup / "dump.sql").unlink()
    last = await commands.recheck(place.workspace, move)
    assert (found(last), last.closed) == ({}, True)
    assert last.erasure_lag == last.lag_seconds["archives and backups"] > again.lag_seconds["freed space in tables"]


@pytest.mark.parametrize("alone", ["18"], indirect=True)
@pytest.mark.parametrize("points", [FEW, pytest.param(EVERY, marks=pytest.mark.campaign)], ids=["few", "every"])
async def test_killed_on_the_way(place: Place, points: tuple[str, ...]) -> None:
    move = await moved(place)
    before = await every_row(place.source)
    at_target = await every_row(place.target)
    async with mover(place.workspace) as process:
        for point in points:
            died = await process.do("purge", move, wish=ErasureWish(rewrite=True), failpoint=f"{point}:kill")
            assert died.killed, (point, died)
        ended = await process.do("purge", move, wish=ErasureWish(rewrite=True))
    assert ended.error == ""
    done = ended.result
    after = await every_row(place.source)
    for table, rows in before.items():
        gone = sum((rows - after[table]).values())
        journalled = {t.table.replace('"', ""): t.rows for t in done.tables}.get(table, 0)
        assert gone == journalled, table
        assert rows - after[table] <= at_target[table], table  # nothing but what lives there was removed
    assert done.erasure is not None
    assert found(done.erasure) == {}
    assert done.erasure.canaries_left == 0
    (now,) = await commands.status(place.workspace)
    assert now.status is Status.DONE  # what comes after the last wave was not forgotten
    await no_twin(place)


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_files_that_cannot_be_reached_are_said_to_be_unread(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a server on another machine: its data directory has no control file of that identifier here."""
    move = await moved(place)
    monkeypatch.setattr("domicile.postgres.server_files._IDENTIFIER", "select 1")
    done = await commands.purge(place.workspace, move, wish=ErasureWish())
    report = done.erasure
    assert report is not None
    assert not report.scanned
    assert not report.closed
    assert report.sensitivity_min is None
    assert all(f.not_read and not f.bytes for f in report.findings)


AGENT = """
import pathlib, subprocess, sys
order = sys.stdin.buffer.readline()  # what follows lasts as long as the scan
folder = pathlib.Path(sys.argv[1])
(folder / f"order-{len(list(folder.iterdir()))}").write_bytes(order)
program = [sys.executable, "-m", "domicile", "scan", sys.argv[2], "--json"]
sys.exit(subprocess.run(program, input=order).returncode)
"""


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_an_agent_beside_the_server_scans_where_the_purge_cannot(
    place: Place, alone: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is sent fingerprints and no value, looks at the server's own files alone, and says who it is."""
    move = await moved(place)
    emails = await scalar(place.source, "select array_agg(email) from store.user_account where market = 'IN'")
    assert isinstance(emails, list)
    monkeypatch.setattr("domicile.postgres.server_files._postmaster", lambda _: "")  # as on another machine
    (orders := tmp_path / "orders").mkdir()
    program = (sys.executable, "-c", AGENT, str(orders))

    def beside(data: Path) -> Place:
        agent = (*program, str(data))
        sites = {n: replace(s, scan_agent=agent if n == SOURCE else ()) for n, s in place.workspace.sites.items()}
        return replace(place, workspace=replace(place.workspace, sites=sites))

    strange = tmp_path / "strange"
    (strange / "global").mkdir(parents=True)
    (strange / "PG_VERSION").write_text("18")
    (strange / "global" / "pg_control").write_bytes(bytes(64))
    with monkeypatch.context() as first:
        first.setattr("domicile.move.scanning.scan", _stopped)
        unread = (await commands.purge(place.workspace, move, wish=ErasureWish())).erasure
    assert unread is not None
    assert (unread.scanned, unread.scanned_by) == (False, "")
    with pytest.raises(DomicileError, match="did not come to its end"):
        await commands.recheck(beside(strange).workspace, move)
    report = await commands.recheck(beside(alone.data).workspace, move)
    assert found(report)["freed space in tables"] > 0
    assert "@" in report.scanned_by
    assert "agent" in report.method
    sent = b"".join(f.read_bytes() for f in orders.iterdir())
    assert len(sent) > 10_000
    for email in emails:
        assert email.encode() not in sent
    told = (await commands.evidence_bundle(place.workspace, move)).statements
    assert any(getattr(t.said.predicate, "method", "").endswith("by an agent") for t in told)


async def _stopped(*_: object) -> None:
    raise DomicileError(ErrorCode.FILES_UNREADABLE, "stopped")


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_what_rows_of_a_table_that_does_not_move_still_hold_is_no_neighbours(place: Place) -> None:
    move = await moved(place)
    stale = "create materialized view public.stale as select email from store.user_account where market = 'IN' limit 3"
    await execute(place.source, stale)
    report = (await commands.purge(place.workspace, move, wish=ErasureWish(rewrite=True))).erasure
    assert report is not None
    told = [r for r in report.residuals if "public.stale" in r.what]
    assert [(str(r.place), r.expires) for r in told] == [("tables", "")], report.residuals
    assert told[0].what.startswith("3 values")
    assert found(report)["tables"] == 3
    assert not report.closed
    await execute(place.source, "drop materialized view public.stale", "checkpoint")
    again = await commands.recheck(place.workspace, move)
    assert "tables" not in found(again)
    assert not [r for r in again.residuals if "public.stale" in r.what]


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_a_scan_that_fails_stops_no_purge_and_writers_are_let_go_before(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise DomicileError(ErrorCode.FILES_UNREADABLE, "no end")

    move = await moved(place)
    guards = """select count(*) from pg_trigger where tgname = 'zz_domicile_guard' and tgenabled <> 'D'
                and tgrelid = 'store.user_account'::regclass"""
    assert await scalar(place.source, guards)
    with monkeypatch.context() as first:
        first.setattr("domicile.move.scanning.scan", fails)
        first.setattr("domicile.move.purge.vacuum", _stopped)
        with pytest.raises(DomicileError, match="stopped"):
            await commands.purge(place.workspace, move, wish=ErasureWish())
    assert await scalar(place.source, "select count(*) from store.user_account where market = 'IN'") == 0
    assert await scalar(place.source, guards) == 0
    monkeypatch.setattr("domicile.move.scanning.scan", fails)
    report = (await commands.purge(place.workspace, move)).erasure
    assert report is not None
    assert (report.scanned, report.closed) == (False, False)
    assert {why for f in report.findings for why in f.not_read} == {"the scan did not come to its end"}
    (now,) = await commands.status(place.workspace)
    assert now.status is Status.DONE
    await no_twin(place)


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_waves_deleted_before_the_search_was_ordered_keep_the_report_open(place: Place) -> None:
    move = await moved(place)
    await commands.purge(place.workspace, move)
    report = (await commands.purge(place.workspace, move, wish=ErasureWish())).erasure
    assert report is not None
    assert report.waves_unsearched > 0
    assert (report.scanned, report.closed) == (False, False)
