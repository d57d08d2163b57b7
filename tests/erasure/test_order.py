"""What a scan is given and does not find, and what the record of a purge keeps: links, many values, wishes."""

from __future__ import annotations

import json
from pathlib import Path
import sys

import psycopg
import pytest
from tests.erasure.kit import prints_of, value
from tests.move.places import execute

from domicile.erasure import agent
from domicile.erasure.prints import Gatherer
from domicile.erasure.scan import Order
from domicile.model.erasure import ErasureWish, Place
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.move import scanning
from domicile.postgres import erasure_record, outsiders, reclaim
from domicile.postgres.server_files import server_files

MOVE = "m"
ONE = TableName("public", "one")


def _data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for name in ("base/5", "pg_wal", "pg_tblspc"):
        (data / name).mkdir(parents=True)
    (data / "PG_VERSION").write_text("18")
    return data


def test_links_that_lead_nowhere_round_or_elsewhere_are_told_and_none_is_followed_twice(tmp_path: Path) -> None:
    mine = value("mine")
    data, beside = _data(tmp_path), tmp_path / "beside"
    beside.mkdir()
    (beside / "1234").write_text(mine)
    (data / "pg_tblspc" / "16401").symlink_to(beside)
    (data / "pg_tblspc" / "16402").symlink_to(tmp_path / "nowhere")
    (data / "pg_tblspc" / "16403").symlink_to(beside)
    (beside / "up").symlink_to(data)
    result = agent.carry_out(Order(data, prints_of([mine]), kept=(tmp_path / "gone",)))
    assert sum(sum(t.found.values()) for t in result.tallies.values()) == 1
    told = {place: t.not_read for place, t in result.tallies.items() if t.not_read}
    assert told[Place.KEPT] == {"files that cannot be read: no such file or directory": 1}
    assert told[Place.TABLES] == {"files that cannot be read: no such file or directory": 1}
    assert told[Place.OTHER] == {"files that cannot be read: is a directory": 1}


def test_what_was_to_go_is_gone_where_its_directory_is_there(tmp_path: Path) -> None:
    """Without one another machine's path may be meant, or nothing is mounted."""
    data, unread = _data(tmp_path), {"files that cannot be read: no such file or directory": 1}
    for path, told in ((tmp_path / "gone", {}), (tmp_path / "not mounted" / "gone", unread)):
        result = agent.carry_out(Order(data, prints_of(["one"]), expired=(path,)))
        assert result.tallies[Place.KEPT].not_read == told


async def test_many_values_are_searched_for_by_several_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, values = _data(tmp_path), [value(str(n)) for n in range(3)]
    (data / "base" / "5" / "file").write_text(f"{values[0]} {values[2]} {values[2]}")
    monkeypatch.setattr(scanning, "PRINTS_AT_A_TIME", 2)
    found = await scanning.scan(Order(data, prints_of(values)))
    assert found.tallies[Place.OTHER].found == {0: 1, 2: 2}
    assert found.tallies[Place.OTHER].files == 2


async def test_a_scan_that_ends_with_an_error_has_found_nothing_out(tmp_path: Path) -> None:
    """Whatever it has printed: of files that it did not come to, nothing is known."""
    data = _data(tmp_path)
    order = Order(data, prints_of([value("one")]))
    (tmp_path / "answer").write_text(json.dumps(agent.write_result(agent.carry_out(order))))
    program = (
        "import shutil, sys; sys.stdin.readline(); shutil.copyfileobj(open(sys.argv[1]), sys.stdout); sys.exit({})"
    )
    whole = (sys.executable, "-c", program.format(0), str(tmp_path / "answer"))
    assert (await scanning.scan(order, whole)).tallies[Place.OTHER].files == 1
    with pytest.raises(DomicileError) as cut:
        await scanning.scan(order, (sys.executable, "-c", program.format(1), str(tmp_path / "answer")))
    assert (cut.value.code, cut.value.facts) == (ErrorCode.FILES_UNREADABLE, {"exit_code": 1})


def test_values_beyond_the_most_are_passed_over_and_not_too_plain() -> None:
    gathered = Gatherer(b"k" * 32, most=1)
    for one in (b"first-value-1", b"second-value-2", b"aaaaaaaaaaaa"):
        gathered.add(one, 1)
    assert (gathered.too_plain, gathered.passed_over) == (1, 1)
    prints = gathered.prints()
    assert not len(prints.beside(prints))


async def test_the_last_order_holds_and_kept_paths_are_added(database: str) -> None:
    await execute(database, "create schema domicile", "create table domicile.move (move_id text primary key)")
    await execute(database, "insert into domicile.move values ('m')")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        first = (("/a", "2026-01-01"), ("/b", ""))
        await erasure_record.order(conn, MOVE, ErasureWish(rewrite=True, kept=first))
        await erasure_record.order(conn, MOVE, ErasureWish(kept=(("/a", "2027-01-01"), ("/c", ""))))
        record = await erasure_record.read(conn, MOVE)
    assert record is not None
    assert not record.rewrite
    assert sorted(record.kept) == [["/a", "2027-01-01"], ["/b", ""], ["/c", ""]]


async def test_rows_of_others_come_with_their_table_and_a_partition_by_its_root(database: str) -> None:
    await execute(
        database,
        "create table parted (id int, body text) partition by list (id)",
        "create table parted_1 partition of parted for values in (1)",
        "insert into parted values (1, 'in-a-partition')",
        "create materialized view stale as select body from parted",
        "truncate parted",
        "insert into parted values (1, 'still-here')",
    )
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        held = {str(table): piece async for table, piece in outsiders.rows(conn)}
    assert b"in-a-partition" in held["public.stale"]
    assert b"still-here" in held["public.parted"]


async def test_a_reindex_that_is_cut_off_leaves_no_index(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await execute(database, "create table one (id int primary key)", "create table other (id int)")
    invalid = "select count(*) from pg_index where not indisvalid"
    monkeypatch.setattr(reclaim, "REINDEX_LOCK_TIMEOUT", "300ms")
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as conn,
        await psycopg.AsyncConnection.connect(database) as reader,
    ):
        await reader.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await reader.execute("select * from other")  # an old snapshot
        steps = {s.name: s.refused async for s in reclaim.reclaim(conn, [ONE], rewrite=False)}
        assert steps["reindex public.one"] == "refused with SQLSTATE 55P03"
        assert await (await conn.execute(invalid)).fetchone() == (0,)
        monkeypatch.setattr(reclaim, "OLD_S", 0)
        steps = {s.name: s.refused async for s in reclaim.reclaim(conn, [ONE], rewrite=False)}
        assert steps["reindex public.one"].startswith("not begun: a transaction")


async def test_an_index_that_another_reindex_has_left_is_not_ours_to_drop(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be one that somebody is building at this moment."""
    await execute(database, "create table one (id int primary key)", "create table other (id int)")
    invalid = "select indexrelid::regclass::text from pg_index where not indisvalid"
    monkeypatch.setattr(reclaim, "REINDEX_LOCK_TIMEOUT", "300ms")
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as conn,
        await psycopg.AsyncConnection.connect(database) as reader,
    ):
        await reader.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await reader.execute("select * from other")
        await conn.execute("set lock_timeout = '300ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await conn.execute("reindex table concurrently one")
        theirs = await (await conn.execute(invalid)).fetchall()
        assert len(theirs) == 1
        steps = {s.name: s.refused async for s in reclaim.reclaim(conn, [ONE], rewrite=False)}
        assert steps["reindex public.one"] == "refused with SQLSTATE 55P03"
        assert await (await conn.execute(invalid)).fetchall() == theirs


async def test_statistics_go_where_a_table_was_emptied_and_stay_where_rows_are(database: str) -> None:
    tables = [ONE, TableName("public", "other")]
    for table in tables:
        named = "insert into {0} select 'somebody ' || n % 5 from generate_series(1, 100) as n"
        await execute(database, f"create table {table} (name text)", named.format(table), f"analyze {table}")
    await execute(database, "delete from one")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        assert [s.refused async for s in reclaim.reclaim(conn, tables, rewrite=False) if s.refused] == []
        told = await (await conn.execute("select tablename from pg_stats where schemaname = 'public'")).fetchall()
    assert told == [("other",)], "ANALYZE alone would keep those of the one without rows"


async def test_a_clone_of_the_server_is_not_taken_for_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone has the identifier, and runs since another time."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        assert (await server_files(conn)).data is not None
        later = "select extract(epoch from pg_postmaster_start_time())::float8 + 3600, current_setting('port')"
        monkeypatch.setattr("domicile.postgres.server_files._STARTED", later)
        files = await server_files(conn)
    assert files.data is None
    assert "another server's" in files.why
