"""The stream as it comes: every commit once, in order, until it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
import os
from pathlib import Path
import shutil
import subprocess
import time
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
import pytest

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.sites.embedded import EmbeddedCluster
from domicile.stream import slot
from domicile.stream.reader import READ_BYTES_MAX, Reader, open_reader

MOVE = "reader-test"
ORDERS = TableName("public", "orders")
SCHEMA = """
create table orders (id bigint primary key, at timestamptz, note text);
create table outside (id bigint)"""
MARK = "select pg_logical_emit_message(true, 'domicile', %s)"

Conn = AsyncConnection[Any]


class Origin:
    """A database with a stream."""

    def __init__(self, conninfo: str, conn: Conn) -> None:
        self.conninfo = conninfo
        self.conn = conn
        self.name = slot.stream_name(MOVE, conn.info.dbname)

    @asynccontextmanager
    async def reader(self, start: int = 0, *, binary: bool = True, **options: str) -> AsyncIterator[Reader]:
        conninfo = make_conninfo(self.conninfo, **options)
        async with open_reader(conninfo, self.name, self.name, start, binary=binary) as reader:
            yield reader

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await self.conn.execute(statement.encode())

    async def facts(self) -> slot.SlotFacts:
        found = await slot.inspect(self.conn, MOVE)
        assert found is not None
        return found

    async def walsenders(self) -> int:
        query = "select count(*) from pg_stat_replication where application_name = %s"
        row = await (await self.conn.execute(query, (self.name,))).fetchone()
        assert row is not None
        return int(row[0])


@asynccontextmanager
async def origin_at(conninfo: str) -> AsyncIterator[Origin]:
    async with await AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await conn.execute(SCHEMA)
        await slot.create(conn, MOVE, [ORDERS], seconds_max=10)
        yield Origin(conninfo, conn)


@pytest.fixture
async def origin(any_database: str) -> AsyncIterator[Origin]:
    async with origin_at(any_database) as found:
        yield found


def kinds(payloads: list[bytes]) -> str:
    """First letters, without the relations, which the server repeats as it likes."""
    return "".join(chr(p[0]) for p in payloads if p[0] != ord("R"))


async def until_marker(reader: Reader, content: bytes, most: int = 2000) -> list[bytes]:
    """Everything up to the marker's commit."""
    found: list[bytes] = []
    while True:
        found += await reader.read(most, 10)
        if any(p[:1] == b"M" and p.endswith(content) for p in found) and found[-1][:1] == b"C":
            return found


async def refusal(reader: Reader) -> DomicileError:
    async def to_its_end() -> None:
        while True:
            await reader.read(wait_s=10)

    with pytest.raises(DomicileError) as caught:
        await to_its_end()
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize("binary", [True, False])
async def test_whole_transactions_in_the_order_of_their_commits(origin: Origin, binary: bool) -> None:
    async with origin.reader(binary=binary) as reader, await AsyncConnection.connect(origin.conninfo) as first:
        await first.execute("insert into orders values (1, '2026-01-02 03:04:05+00', 'first to write')")
        await origin.run("insert into orders values (2, null, 'first to commit')", "update orders set note = 'u'")
        await origin.run("insert into outside values (1)", "delete from orders where id = 2")
        await first.execute("savepoint s")
        await first.execute("insert into orders values (9, null, 'rolled back')")
        await first.execute("rollback to s")
        await first.execute("update orders set note = 'x' where id = 1")
        await first.commit()
        await origin.conn.execute(MARK, ("end",))
        found = await until_marker(reader, b"end")
    assert kinds(found) == "BIC" + "BUC" + "BDC" + "BIUC" + "BMC"
    row = next(p for p in found if b"first to write" in p)
    assert (b"2026-01-02 03:04:05+00" in row) is not binary


async def test_text_is_written_by_the_engine_s_settings_and_not_by_the_role_s(origin: Origin) -> None:
    hostile = "-c datestyle=German -c timezone=Asia/Shanghai -c client_encoding=latin1"
    async with origin.reader(binary=False, options=hostile) as reader:
        await origin.run("insert into orders values (1, '2026-01-02 03:04:05+00', 'Zoë 住')")
        found = await until_commit(reader)
    assert any(b"2026-01-02 03:04:05+00" in p and "Zoë 住".encode() in p for p in found)


async def test_a_marker_comes_after_every_commit_before_it(origin: Origin) -> None:
    async with origin.reader() as reader:
        stop = asyncio.Event()
        written: list[int] = []

        async def write(base: int) -> None:
            async with await AsyncConnection.connect(origin.conninfo, autocommit=True) as conn:
                for n in range(base, base + 100_000):
                    if stop.is_set():
                        return
                    await conn.execute("insert into orders values (%s)", (n,))
                    written.append(n)

        writers = [asyncio.create_task(write(i * 100_000)) for i in range(4)]
        seen: set[bytes] = set()
        for n in range(10):
            await asyncio.sleep(0.02)
            committed = list(written)
            mark = f"mark-{n}"
            await origin.conn.execute(MARK, (mark,))
            seen |= {p[-8 - 2 : -2] for p in await until_marker(reader, mark.encode()) if p[:1] == b"I"}
            assert {w.to_bytes(8, "big") for w in committed} <= seen
        stop.set()
        await asyncio.gather(*writers)
    assert len(written) > 50


async def test_only_what_was_not_acknowledged_comes_again(origin: Origin) -> None:
    async with origin.reader() as reader:
        await origin.run("insert into orders values (1)")
        assert kinds(await until_commit(reader)) == "BIC"
        done = reader.server_position
        await origin.run("insert into orders values (2)")
        assert kinds(await until_commit(reader)) == "BIC"
        assert reader.server_position > done
        reader.acknowledge(done)
    await wait_for(lambda: confirmed(origin, done))  # told on leaving
    assert (await origin.facts()).confirmed == done
    async with origin.reader() as reader:  # the server knows
        assert kinds(again := await until_commit(reader)) == "BIC"
        assert (2).to_bytes(8, "big") in again[-2]
        second = reader.server_position
    async with origin.reader(second) as reader:  # the destination knows more than the server
        assert await reader.read(wait_s=0.3) == []
        reader.acknowledge(done)  # an older word changes nothing
        reader.acknowledge(second)
        reader.acknowledge(done)
        reader.tend()
        await wait_for(lambda: confirmed(origin, second))


async def test_a_transaction_cut_in_two_reads_is_not_skipped(origin: Origin) -> None:
    """A row's own position lies before an earlier commit, and inside its transaction nothing new is complete."""
    async with origin.reader() as reader, await AsyncConnection.connect(origin.conninfo) as early:
        await early.execute("insert into orders select generate_series(1, 50)")
        await origin.run("insert into orders values (100)")
        await early.commit()
        positions = []
        found: list[bytes] = []
        while len(found) < 50 or found[-1][:1] != b"C":
            found += await reader.read(1, 10)
            positions.append(reader.server_position)
        assert positions == sorted(positions)
        first_commit = positions[next(i for i, p in enumerate(found) if p[:1] == b"C")]
        reader.acknowledge(first_commit)
    async with origin.reader() as reader:
        again = kinds(await until_commit(reader))
        assert again == "B" + 50 * "I" + "C"


async def test_foreign_traffic_alone_moves_the_acknowledged_position(origin: Origin) -> None:
    async with origin.reader() as reader:
        before = await origin.facts()
        for n in range(3):
            await origin.run("insert into outside select generate_series(1, 1000)")
            position = reader.server_position
            deadline = time.monotonic() + 10
            while reader.server_position == position:
                assert await reader.read(wait_s=0.2) == []
                assert time.monotonic() < deadline, n
            reader.acknowledge(reader.server_position)
        await wait_for(lambda: confirmed(origin, before.confirmed + 100_000))
        clock = reader.server_clock
        while reader.server_clock == clock:
            await reader.read(wait_s=0.2)
        assert abs(reader.server_clock / 1e6 + 946_684_800 - time.time()) < 3


@pytest.mark.parametrize("tended", [True, False])
async def test_an_idle_stream_outlives_the_server_s_patience(origin: Origin, tended: bool) -> None:
    """Without the timer (the control) the server ends it after two seconds."""
    async with origin.reader(options="-c wal_sender_timeout=2s") as reader:
        if not tended:
            assert reader._timer is not None
            reader._timer.cancel()
        await asyncio.sleep(4.5)  # nobody reads
        await origin.run("insert into orders values (1)")
        if tended:
            found = await until_commit(reader)
            assert kinds(found) == "BIC"
        else:
            assert (await refusal(reader)).code is ErrorCode.SITE_UNREACHABLE


async def test_a_slow_caller_with_much_to_read_keeps_the_stream(origin: Origin) -> None:
    """The server is stuck in the middle of what it wants to send."""
    async with origin.reader(options="-c wal_sender_timeout=2s") as reader:
        await origin.run("insert into orders select i, null, repeat('x', 2000) from generate_series(1, 20000) i")
        await origin.conn.execute(MARK, ("end",))
        await reader.read(1, 10)
        await asyncio.sleep(4.5)
        found = await until_marker(reader, b"end")
    assert kinds(found).count("I") == 20_000


async def test_one_read_is_bounded(origin: Origin) -> None:
    async with origin.reader() as reader:
        assert await reader.read(wait_s=0) == []
        started = time.monotonic()
        assert await reader.read(wait_s=0.2) == []
        assert 0.15 < time.monotonic() - started < 2
        await origin.run("insert into orders select generate_series(1, 100)")
        assert len(await reader.read(7, 10)) <= 7
        await origin.run("insert into orders select i, null, repeat('x', 1000000) from generate_series(101, 112) i")
        await origin.run("insert into orders values (113, null, repeat('y', 10000000))")
        await origin.conn.execute(MARK, ("end",))
        total, largest = 0, 0
        while total < 22_000_000:
            found = await reader.read(wait_s=10)
            total += sum(map(len, found))
            largest = max(largest, sum(len(p) for p in found if len(p) < READ_BYTES_MAX))
        assert largest < READ_BYTES_MAX + 1_000_100


async def test_through_tls_messages_of_all_sizes_come_at_once(pg15_bindir: Path, scratch: Path) -> None:
    """Debian's server: the bundled build has no TLS. (Its records are small; those of 17 and later are not tried.)"""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cluster = await EmbeddedCluster.create(scratch, "reader-tls", bindir=pg15_bindir, settings={"ssl": "on"})
    key, certificate = cluster.data / "server.key", cluster.data / "server.crt"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
    command = [*request, "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(lambda: subprocess.run(command, check=True, capture_output=True))
    key.chmod(0o600)
    if os.geteuid() == 0:
        for path in (key, certificate):
            shutil.chown(path, cluster.identity.uid, cluster.identity.gid)
    async with cluster, origin_at(make_conninfo(cluster.conninfo(), sslmode="require")) as origin:
        async with origin.reader() as reader:
            slowest = 0.0
            for n in range(60):
                await origin.run(f"insert into orders values ({n}, null, repeat('x', {n * 777}))")
                started = time.monotonic()
                assert kinds(await until_commit(reader)) == "BIC"
                slowest = max(slowest, time.monotonic() - started)
            assert slowest < 0.8, "a status a second would have hidden it"
    await cluster.destroy()


async def until_commit(reader: Reader) -> list[bytes]:
    found: list[bytes] = []
    while not found or found[-1][:1] != b"C":
        found += await reader.read(wait_s=10)
    return found


async def confirmed(origin: Origin, position: int) -> bool:
    return (await origin.facts()).confirmed >= position


async def wait_for(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
