"""The scanner against files that PostgreSQL wrote: each form that a value can have on disk is found, or named."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
import struct
import sys
import time

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
import pytest
from tests.erasure.kit import noise, prints_of, scanned, value
from tests.move.places import execute, scalar

from domicile.erasure import agent, decode, wal
from domicile.erasure.files import File, files_of
from domicile.erasure.prints import Gatherer, Prints
from domicile.erasure.scan import Order, Scan
from domicile.model.erasure import Place, Server
from domicile.move import scanning
from domicile.sites.embedded import EmbeddedCluster

_TABLE = """
create table forms (id int primary key, plain text, squeezed text, long text, kept text,
                    doc jsonb, raw bytea, words text[], lexemes tsvector);
alter table forms alter kept set storage external;
create index on forms (plain);
create index on forms using gin (lexemes);
create index on forms using gin (words)"""
_COLUMNS = ("plain", "squeezed", "long", "kept", "doc", "raw", "words", "lexemes")


async def _fill(conninfo: str, values: dict[str, str], number: int) -> None:
    filler = " ".join(noise(6, str(n % 50)) for n in range(6_000))
    row = {
        "plain": values["plain"],
        "squeezed": values["squeezed"] + " and so on" * 400,
        "long": f"{noise(3_000, 'a')}{filler[:15_000]}{values['long']}{filler}",
        "kept": f"{noise(1_980, 'b')}{values['kept']}{noise(9_000, 'c')}",
        "doc": Jsonb({"name": values["doc"], "also": ["x" * 3_000]}),
        "raw": values["raw"].encode(),
        "words": [values["words"], "another"],
        "lexemes": values["lexemes"].replace("-", ""),
    }
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await conn.execute(
            "insert into forms values (%s, %s, %s, %s, %s, %s, %s, %s, to_tsvector('simple', %s))",
            (number, *row.values()),
        )


async def _forms(cluster: EmbeddedCluster, name: str, *extra: str) -> tuple[str, dict[str, str]]:
    await execute(cluster.conninfo(), f"create schema {name}")
    conninfo = make_conninfo(cluster.conninfo(), options=f"-csearch_path={name}")
    await execute(conninfo, *extra, *_TABLE.split(";"))
    values = {form: value(form) for form in _COLUMNS}
    values["lexemes"] = values["lexemes"].replace("-", "")
    await _fill(conninfo, values, 1)
    return conninfo, values


@pytest.mark.parametrize("method", ["pglz", "lz4"])
async def test_every_form_is_found_where_it_is(alone: EmbeddedCluster, method: str) -> None:
    if method == "lz4" and alone.binaries.major == 18:
        pytest.skip("the bundled PostgreSQL 18 is built without lz4")
    await execute(alone.conninfo(), f"alter database postgres set default_toast_compression = {method}")
    _, values = await _forms(alone, f"forms_{method}")
    places_of = await scanned(alone, list(values.values()))
    found = {form: places_of[one] for form, one in values.items()}
    for form, places in found.items():
        assert Place.WAL in places, form
        assert (Place.TOAST if form in ("long", "kept") else Place.TABLES) in places, (form, places)
    assert {f for f, places in found.items() if Place.INDEXES in places} >= {"plain", "lexemes", "words"}
    assert not {p for places in found.values() for p in places} & {Place.LOGS, Place.OTHER, Place.MAPS, Place.KEPT}


async def test_what_a_deletion_leaves_is_found_until_the_table_is_written_anew(alone: EmbeddedCluster) -> None:
    conninfo, _ = await _forms(alone, "gone")
    values = {form: value(form).replace("-", "") for form in _COLUMNS}
    await _fill(conninfo, values, 2)  # what stands behind a row that stays is not overwritten by it
    await execute(conninfo, "delete from forms where id = 2")
    searched = list(values.values())
    dead = await scanned(alone, searched)
    assert all(places & {Place.TABLES, Place.TOAST} for places in dead.values())
    await execute(conninfo, "vacuum (truncate false) forms")
    freed = await scanned(alone, searched)
    assert Place.FREED in freed[values["squeezed"]]
    assert Place.FREED in freed[values["plain"]]
    assert not any(Place.TABLES in places for places in freed.values())
    assert Place.TOAST in freed[values["long"]]
    await execute(conninfo, "vacuum (full, analyze) forms")
    left = await scanned(alone, searched)
    assert {p for places in left.values() for p in places} <= {Place.WAL, Place.RECYCLED}


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_statistics_keep_values_of_a_table_that_was_emptied(alone: EmbeddedCluster) -> None:
    conninfo, _ = await _forms(alone, "stats")
    kept = [value("stat") for _ in range(20)]
    await execute(
        conninfo, "create table who (name text, town text)", "create statistics s (mcv) on name, town from who"
    )
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        for one in kept:
            await conn.execute("insert into who values (%s, 'somewhere')", (one,))
    await execute(conninfo, "analyze who", "truncate who", "analyze who")
    found = await scanned(alone, kept)
    assert all(Place.STATISTICS in places for places in found.values())
    assert all(Place.EXTENDED in places for places in found.values())


@pytest.mark.parametrize("alone", ["15"], indirect=True)
async def test_a_compressed_page_image_is_read(alone: EmbeddedCluster, tmp_path: Path) -> None:
    conninfo, values = await _forms(alone, "images")
    methods = ["pglz", "lz4"] if alone.binaries.major == 15 else ["pglz"]
    for method in methods:
        await execute(conninfo, "checkpoint", "select pg_switch_wal()", "checkpoint")
        segment = await scalar(conninfo, "select pg_walfile_name(pg_current_wal_lsn())")
        await execute(conninfo, f"set wal_compression = {method}; update forms set id = id + 1")
        await execute(conninfo, "select pg_switch_wal()")
        path = tmp_path / str(segment)
        path.write_bytes((alone.data / "pg_wal" / str(segment)).read_bytes())
        reader = wal.Reader()
        pages = [i for s in reader.stretches(path) for i in reader.images(s)]
        assert any(image and values["plain"].encode() in image for image in pages), method
        found = await scanned(alone, [values["doc"]], kept=(tmp_path,))
        assert Place.KEPT in found[values["doc"]]
        path.unlink()


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_old_log_in_a_recycled_file_is_told_from_the_log(alone: EmbeddedCluster) -> None:
    conninfo, values = await _forms(alone, "recycled")
    await execute(conninfo, "drop table forms")
    await execute(conninfo, *["checkpoint", "select pg_switch_wal()", "checkpoint"] * 2)
    found = await scanned(alone, [values["plain"]])
    assert found[values["plain"]] <= {Place.RECYCLED}


def _fill_log_up_to(left: int) -> str:
    """A statement after which about so many bytes are left in the file of the log that was begun just before."""
    size = 16 << 20
    return f"select pg_logical_emit_message(false, '', repeat('x', {size - size // 8_192 * 24 - left}))"


@pytest.mark.parametrize("alone", ["15"], indirect=True)
async def test_the_image_of_a_page_that_crosses_into_the_next_file_of_the_log_is_read(
    alone: EmbeddedCluster, tmp_path: Path
) -> None:
    conninfo = alone.conninfo()
    names = [value("imaged") for _ in range(2_000)]
    await execute(
        conninfo,
        "create table imaged (name text)",
        "insert into imaged select unnest(string_to_array('" + " ".join(names) + "', ' '))",
        "select pg_create_physical_replication_slot('imaged', true)",
        "select pg_switch_wal()",
        _fill_log_up_to(30_000),
        "checkpoint",
    )
    first = await scalar(conninfo, "select pg_walfile_name(pg_current_wal_insert_lsn())")
    # Of rows that are locked the log says where they are; their pages stand in it as images, and nowhere else.
    await execute(conninfo, "set wal_compression = pglz; do $$ begin perform from imaged for update; end $$")
    second = await scalar(conninfo, "select pg_walfile_name(pg_current_wal_insert_lsn())")
    assert first != second
    await execute(conninfo, "checkpoint")
    for segment in (first, second):
        (tmp_path / str(segment)).write_bytes((alone.data / "pg_wal" / str(segment)).read_bytes())
    found = await scanned(alone, names, kept=(tmp_path,))
    await execute(conninfo, "select pg_drop_replication_slot('imaged')", "drop table imaged")
    assert sum(Place.KEPT not in places for places in found.values()) == 0


@pytest.mark.parametrize("held", [True, False])
async def test_what_crosses_from_one_file_of_the_log_into_the_next_is_found(alone: EmbeddedCluster, held: bool) -> None:
    conninfo = alone.conninfo()
    await execute(
        conninfo,
        "create table crossing (long text)",
        "alter table crossing alter long set storage external",
        *["select pg_create_physical_replication_slot('crossing', true)"] * held,
        "select pg_switch_wal()",
        _fill_log_up_to(29_000),  # which ends within a chunk of the value
    )
    long = noise(90_000, "crossing")
    before = await scalar(conninfo, "select pg_walfile_name(pg_current_wal_insert_lsn())")
    await execute(conninfo, f"insert into crossing values ('{long}')")
    assert await scalar(conninfo, "select pg_walfile_name(pg_current_wal_insert_lsn())") != before
    parts = [long[at : at + 40] for at in range(0, len(long) - 40, 10)]
    found = await scanned(alone, parts)
    await execute(conninfo, "drop table crossing", *["select pg_drop_replication_slot('crossing')"] * held)
    # A checkpoint gives the first of the two files the name of one that is to come, unless somebody holds it back.
    places = {Place.WAL} if held else {Place.WAL, Place.RECYCLED}
    assert [at for at, at_places in enumerate(found.values()) if not at_places & places] == []
    assert {p for at_places in found.values() for p in at_places} >= places


@pytest.mark.parametrize("alone", ["15"], indirect=True)
async def test_temporary_files_and_the_log_are_read(alone: EmbeddedCluster) -> None:
    conninfo = alone.conninfo()
    sorted_, logged = value("sorted"), value("logged")
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        await conn.execute("set work_mem = '64kB'")
        await conn.execute(
            f"declare c cursor for select '{sorted_}' || n from generate_series(1, 20000) as n order by 1"
        )
        await conn.execute("fetch 1 from c")
        await execute(conninfo, f"do $$ begin raise log '{logged}'; end $$")
        found = await scanned(alone, [sorted_, logged])
    assert found[sorted_] == {Place.TEMPORARY}
    assert Place.LOGS in found[logged]


def test_fingerprints_are_told_from_bytes_that_look_alike() -> None:
    searched = ["jane.doe@example.org", "+919812345678", "x" * 40, "short", noise(500, "z")]
    prints = prints_of(searched)
    assert sorted(set(prints.owners)) == [0, 1, 4]
    assert [prints.owners[h.which] for h in prints.search(b"..jane.doe@example.org..")] == [0]
    assert not list(prints.search(b"jane.doe@example.com +919812345679 " + b"\0" * 10_000))
    part = noise(500, "z")[300:].encode()
    assert [prints.owners[h.which] for h in prints.search(part)] == [4]
    again = Prints.unpack(prints.key, prints.pack())
    assert [h.at for h in again.search(b"-" * 70_000 + b"+919812345678")] == [70_000]
    assert b"example" not in prints.pack()
    assert b"98123456" not in prints.pack()


def test_what_is_no_compressed_value_is_not_taken_for_one() -> None:
    assert decode.pglz(b"\x01\x0f\xff\x00", 100) is None
    assert decode.decompress(b"abc", 10, 1) is None
    assert decode.pglz(b"\x00abcdefgh\x01\x05\x08", 16) == b"abcdefghabcdefgh"
    assert not list(decode.inline(bytes(range(256)) * 100))
    assert Gatherer(b"k").prints().pack() == b""


@pytest.mark.parametrize("alone", ["18"], indirect=True)
async def test_the_command_takes_values_from_its_input_and_prints_none(alone: EmbeddedCluster, tmp_path: Path) -> None:
    conninfo, values = await _forms(alone, "commanded")
    await execute(conninfo, "checkpoint")
    text = "\n".join(values.values()).encode()

    async def run(directory: Path, *options: str) -> tuple[int, str]:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "domicile", "scan", str(directory), *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await child.communicate(text)
        assert not [v for v in values.values() if v in errors.decode()]
        return child.returncode or 0, out.decode() or errors.decode()

    code, said = await run(alone.data, "--fail-if-found")
    assert code == 5, said
    assert "8 values found" in said
    assert not [v for v in values.values() if v in said]
    code, said = await run(alone.data, "--json")
    assert (code, json.loads(said)["places"]["tables"]["copies"] > 4) == (0, True)
    code, said = await run(tmp_path)
    assert code == 1
    assert "files-unreadable" in said


def test_what_goes_or_is_closed_meanwhile_ends_no_scan(tmp_path: Path) -> None:
    (tmp_path / "base" / "5").mkdir(parents=True)
    (tmp_path / "base" / "5" / "16384").write_bytes(b"a value here".ljust(8_192, b"\0"))
    (tmp_path / "global").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir()
    found = files_of(tmp_path, {})
    (first,) = [f for f in found if f.pages]
    first.path.unlink()
    prints = prints_of(["a value here"])
    scan = Scan(Order(tmp_path, prints))
    scan._relations([first, File(tmp_path / "closed", Place.OTHER, "closed")])
    assert scan.tallies[first.place].found == {}
    assert list(scan.tallies[Place.OTHER].not_read.values()) == [1]


def _noise_at(directory: Path, megabytes: int) -> Path:
    """What looks like a data directory, with a file of noise in it."""
    (directory / "base" / "5").mkdir(parents=True)
    (directory / "PG_VERSION").write_text("18")
    (directory / "base" / "5" / "16384").write_bytes(os.urandom(megabytes << 20))
    return directory


def test_a_scan_rests_for_the_share_that_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rested: list[float] = []
    monkeypatch.setattr("domicile.erasure.scan.time.sleep", rested.append)
    order = Order(_noise_at(tmp_path, 8), prints_of(["a value here"]))
    Scan(order).run()
    assert rested == []
    begun = time.process_time()
    Scan(order, lambda: 0.75).run()
    worked = time.process_time() - begun
    assert 1.5 * worked < sum(rested) <= 3 * worked, "three seconds behind each of work"


async def test_a_scan_says_how_far_it_is(tmp_path: Path) -> None:
    """On stderr, where a purge hears it: a large server's files take hours."""
    heard: list[int] = []

    async def told(share: int) -> None:
        heard.append(share)

    data = _noise_at(tmp_path, 8)
    found = await scanning.scan(Order(data, prints_of(["a value here"]), mb_per_s_max=2.0), told=told)
    assert found.bytes > 8_000_000
    assert heard == sorted(heard)
    assert [share for share in heard if 10 < share < 100]


async def test_a_scan_ends_when_whoever_holds_it_back_is_gone(tmp_path: Path) -> None:
    data = _noise_at(tmp_path, 40)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "domicile", "scan", str(data), "--json"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(agent.write_order(Order(data, prints_of(["a value here"]))) + b"\n0.950\n")
    await child.stdin.drain()
    await asyncio.sleep(2.0)
    assert child.returncode is None, "it rests for most of its time"
    child.stdin.close()
    assert child.stdout is not None
    assert (await asyncio.wait_for(child.stdout.read(), 10.0), await child.wait()) == (b"", 1)


async def test_an_order_for_another_server_is_refused(tmp_path: Path) -> None:
    data = _noise_at(tmp_path, 1)
    (data / "global").mkdir()
    (data / "global" / "pg_control").write_bytes(bytes(64))
    order = Order(data, prints_of(["a value here"]), server=Server(7, 1_000.0, "5432"))
    with pytest.raises(ValueError, match="another server"):
        agent.carry_out(agent.read_order(data, agent.write_order(order)))
    (data / "global" / "pg_control").write_bytes(struct.pack("=q", 7))
    (data / "postmaster.pid").write_text(f"1\n{data}\n999\n5432\n/tmp\n")
    assert agent.carry_out(agent.read_order(data, agent.write_order(order))).bytes
