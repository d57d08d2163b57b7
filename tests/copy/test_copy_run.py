"""The copy phase as a whole: resume, outsiders, triggers, broken sites, cancelling."""

from __future__ import annotations

import asyncio
from dataclasses import replace
import os
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair
from tests.copy.kit import Rig, data_map

from domicile.model.errors import DomicileError, ErrorCode
from domicile.move import copy

USERS = 40
SHOP = """
create table public.users (id bigint primary key, mail text unique);
create table public.orders (id bigint primary key, user_id bigint not null references public.users, note text);
create index on public.orders (user_id)"""
MAP = data_map("public.users", {"public.orders": "user_id -> public.users(id)"})
MINE = list(range(1, USERS + 1, 2))
ROWS_OF_WAVE = 20 + 20 * 50


async def shop(sites: Rig, **limits: int) -> None:
    """Forty users with fifty orders each; the odd ones move, in chunks of 100 rows.

    User 2 has 30,000 orders more: the wave is a small part of the table, so that each cell is a chunk.
    """
    await sites.both(SHOP)
    await sites.source.execute(
        f"""insert into public.users select n, 'u' || n || '@example.org' from generate_series(1, {USERS}) n;
        insert into public.orders select n, 1 + n % {USERS}, 'secret ' || n
        from generate_series(1, {USERS * 50}) n;
        insert into public.orders select n, 2, '' from generate_series(100001, 130000) n""".encode()
    )
    await sites.register(MAP, MINE, **{"chunk_rows": 100, **limits})


async def arrived(sites: Rig) -> int:
    [(count,)] = await sites.texts(
        sites.target, "select (select count(*) from public.users) + (select count(*) from public.orders)"
    )
    return int(count)


async def assert_exact(sites: Rig) -> None:
    """The wave's rows are there, each once, and nobody else's."""
    odd = "select o.* from public.orders o where user_id % 2 = 1 order by id"
    assert len(await sites.same(odd)) == ROWS_OF_WAVE - 20
    await sites.same("select * from public.users where id % 2 = 1 order by id")
    assert await arrived(sites) == ROWS_OF_WAVE


async def test_rows_and_progress(sites: Rig) -> None:
    await shop(sites)
    await sites.copy()
    await assert_exact(sites)
    assert sum(r for r, _ in sites.reported) == ROWS_OF_WAVE
    [(rows, size, cells)] = await sites.texts(
        sites.target, "select sum(rows)::int, sum(bytes)::int, count(*) from domicile.progress"
    )
    assert (rows, size) == (ROWS_OF_WAVE, sum(b for _, b in sites.reported))
    assert cells > 10
    sites.reported.clear()
    await sites.copy()
    assert sites.reported == [], "a second run finds nothing to do"
    await assert_exact(sites)


@pytest.mark.parametrize("time", [1, 2, 7])
@pytest.mark.parametrize("streams", [1, 2])
async def test_resume_after_a_stop(sites18: Rig, time: int, streams: int) -> None:
    await shop(sites18, streams=streams)
    with pytest.raises(DomicileError, match="failpoint"):
        await sites18.copy(f"copy.chunk_committed:error:{time}")
    there = await arrived(sites18)
    assert 0 < there < ROWS_OF_WAVE
    assert await sites18.texts(sites18.target, "select sum(rows)::int from domicile.progress") == [(there,)]
    assert await idle(sites18)
    await sites18.copy()
    await assert_exact(sites18)


async def test_no_row_is_committed_without_its_progress(sites18: Rig) -> None:
    await shop(sites18)
    await sites18.target.execute("alter table domicile.progress add constraint never check (false)")
    with pytest.raises(DomicileError):
        await sites18.copy()
    assert await arrived(sites18) == 0
    await sites18.target.execute("alter table domicile.progress drop constraint never")
    await sites18.copy()
    await assert_exact(sites18)


async def test_resume_whatever_the_indexes(sites18: Rig) -> None:
    """Without its index a table is carried in few large chunks; cells already there are still left out."""
    await shop(sites18)
    with pytest.raises(DomicileError, match="failpoint"):
        await sites18.copy("copy.chunk_committed:error:5")
    before = len(sites18.reported)
    await sites18.both("drop index public.orders_user_id_idx")
    for name, table in list(sites18.move.source_schema.tables.items()):
        if name.name == "orders":
            # Introspection by a later process would not list the index.
            object.__setattr__(table, "index_prefixes", (("id",),))
    await sites18.copy()
    assert len(sites18.reported) - before <= 6
    await assert_exact(sites18)


async def test_chunks_are_longer_over_a_long_line(sites18: Rig) -> None:
    await shop(sites18)
    plan = sites18.move.plan
    plan = replace(plan, tables=tuple(replace(table, bytes=table.rows * 100) for table in plan.tables))

    def lengths(bytes_min: int, done: set[tuple[str, int]] | None = None) -> list[int]:
        found = list(copy.chunks(plan, len(MINE), done or set(), set(), bytes_min))
        orders = [c for c in found if c.table.table.name == "orders"]
        cells = [n for c in orders for n in range(c.first_cell, c.last_cell + 1)]
        assert sorted(cells + [n for _, n in done or set()]) == list(range(1, 11))
        assert [c.first_ordinal for c in orders] == [(c.first_cell - 1) * 2 for c in orders]
        return [c.last_cell - c.first_cell + 1 for c in orders]

    assert lengths(0) == [1] * 10
    assert lengths(20_000) == [2] * 5, "a cell has 10,000 bytes"
    assert lengths(10_000_000) == [5, 5], "every stream has one"
    assert lengths(10_000_000, {("public.orders", 2)}) == [1, 5, 3], "what is there is not carried again"


async def test_triggers_and_references_of_the_target_do_not_fire(sites18: Rig) -> None:
    await shop(sites18)
    await sites18.target.execute(
        """
create table public.audit (n int);
create function public.note() returns trigger language plpgsql as
    $$ begin insert into public.audit values (1); raise exception 'fired'; end $$;
create trigger note before insert on public.orders for each row execute function public.note();
create trigger note after insert on public.users for each statement execute function public.note();
alter table public.users add column parent bigint references public.users default 4711"""
    )
    await sites18.copy()
    assert await sites18.texts(sites18.target, "select count(*) from public.audit") == [(0,)]
    assert await arrived(sites18) == ROWS_OF_WAVE


async def test_one_snapshot(sites18: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows committed at the source after the copy's snapshot do not come, though a stream begins only then."""
    await shop(sites18)
    stream = copy._stream
    late = 0

    async def begins_late(job: copy._Job) -> None:
        nonlocal late
        late += 1
        first = -50 * late
        insert = "insert into public.orders select n, 1, 'late' from generate_series(%s::int, %s::int) as n"
        await sites18.source.execute(insert, (first, first + 49))
        await stream(job)

    monkeypatch.setattr(copy, "_stream", begins_late)
    await sites18.copy()
    assert late
    await sites18.source.execute("delete from public.orders where id < 0")
    await assert_exact(sites18)


async def test_lease_lost_stops_it(sites18: Rig) -> None:
    await shop(sites18)
    await sites18.target.execute("update domicile.move set generation = 8")
    with pytest.raises(DomicileError) as failed:
        await sites18.copy()
    assert failed.value.code is ErrorCode.LEASE_LOST
    assert await arrived(sites18) == 0
    assert await idle(sites18)


async def test_key_taken(sites18: Rig) -> None:
    await shop(sites18)
    await sites18.target.execute("insert into public.users values (1001, 'u7@example.org')")
    with pytest.raises(DomicileError) as failed:
        await sites18.copy()
    error = failed.value
    assert error.code is ErrorCode.KEYS_COLLIDE
    assert error.facts["constraint"] == "users_mail_key"
    assert "example.org" not in str(error.as_dict())
    assert error.__cause__ is None
    assert await idle(sites18)


async def test_value_refused_is_not_told(sites18: Rig) -> None:
    await shop(sites18)
    await sites18.target.execute("alter table public.orders add constraint short check (note <> 'secret 90')")
    with pytest.raises(DomicileError) as failed:
        await sites18.copy()
    assert failed.value.code is ErrorCode.COPY_FAILED
    assert failed.value.facts["constraint"] == "short"
    assert failed.value.facts["sqlstate"] == "23514"
    assert "secret" not in str(failed.value.as_dict()) + str(failed.value)


@pytest.mark.parametrize("side", ["source", "target"])
async def test_table_dropped_half_way(sites18: Rig, side: str) -> None:
    await shop(sites18)
    with pytest.raises(DomicileError, match="failpoint"):
        await sites18.copy("copy.chunk_committed:error:3")
    conn = sites18.source if side == "source" else sites18.target
    await conn.execute("drop table public.orders")
    with pytest.raises(DomicileError) as failed:
        await sites18.copy()
    assert failed.value.code is ErrorCode.SCHEMA_CHANGED
    assert failed.value.facts["side"] == side
    assert await idle(sites18)


@pytest.mark.parametrize("side", ["source", "target"])
async def test_connection_lost(sites18: Rig, side: str) -> None:
    await shop(sites18)
    conn = sites18.source if side == "source" else sites18.target
    # A lock keeps the copy of the orders waiting at this side while its backend is ended.
    async with await psycopg.AsyncConnection.connect(getattr(sites18.pair, side)) as blocker:
        await blocker.execute("lock table public.orders in access exclusive mode")
        running = asyncio.ensure_future(sites18.copy())
        killed = 0
        while not killed:
            await asyncio.sleep(0.05)
            [(killed,)] = await sites18.texts(
                conn,
                """select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and query like '%copy%orders%' and wait_event_type = 'Lock'""",
            )
        with pytest.raises(DomicileError) as failed:
            await running
    assert failed.value.code is ErrorCode.SITE_UNREACHABLE
    assert failed.value.facts["side"] == side
    assert await idle(sites18)
    await sites18.copy()
    await assert_exact(sites18)


async def test_cancel_while_blocked(sites18: Rig) -> None:
    """A stream that waits for a lock is cancelled at the server too, and soon."""
    await shop(sites18)
    async with await psycopg.AsyncConnection.connect(sites18.pair.target) as blocker:
        await blocker.execute("lock table public.orders in access exclusive mode")
        running = asyncio.ensure_future(sites18.copy())
        await asyncio.sleep(0.5)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 5)
        assert await idle(sites18)
    await sites18.copy()
    await assert_exact(sites18)


async def test_rows_dropped_by_a_trigger_that_always_fires(sites18: Rig) -> None:
    """What both command tags say must agree: a target that swallows rows is found at once."""
    await shop(sites18)
    await sites18.target.execute(
        """
create function public.swallow() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger swallow before insert on public.orders for each row when (new.id = 90) execute function public.swallow();
alter table public.orders enable always trigger swallow"""
    )
    with pytest.raises(DomicileError) as failed:
        await sites18.copy()
    assert failed.value.code is ErrorCode.COPY_FAILED
    assert failed.value.facts["rows_out"] == failed.value.facts["rows_in"] + 1  # type: ignore[operator]


async def test_disk_full(pg18_pair: SitePair, sites18: Rig, scratch: Path) -> None:
    """A tablespace on a 4 MB file system: what was committed stays, and the copy goes on when there is room."""
    place = scratch / "small"
    place.mkdir()
    if not await did("mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)):
        pytest.skip("needs the right to mount a small file system")
    try:
        owner = pg18_pair.target_cluster.data.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        await sites18.target.execute(f"create tablespace small location '{place}'".encode())
        await shop(sites18)
        await sites18.source.execute("update public.orders set note = repeat(md5(id::text), 300)")
        await sites18.target.execute("alter table public.orders set tablespace small")
        await sites18.target.execute("alter table public.orders alter note set storage external")
        with pytest.raises(DomicileError) as failed:
            await sites18.copy()
        assert failed.value.code is ErrorCode.DISK_FULL
        assert await idle(sites18)
        await sites18.target.execute("alter table public.orders set tablespace pg_default")
        await sites18.copy()
        await assert_exact(sites18)
    finally:
        await sites18.target.execute("drop table if exists public.orders")
        await sites18.target.execute("drop tablespace if exists small")
        await did("umount", str(place))


async def did(*command: str) -> bool:
    """Run a system command; True when it succeeded."""
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait() == 0


async def idle(sites: Rig) -> bool:
    """No session of the mover is left at either site."""
    for conn in (sites.source, sites.target):
        for _ in range(50):
            row = await (
                await conn.execute(
                    """select count(*) from pg_stat_activity where application_name = 'domicile'
                    and datname in (%s, %s) and pid <> all(%s) and state <> 'idle'""",
                    (
                        sites.source.info.dbname,
                        sites.target.info.dbname,
                        [sites.source.info.backend_pid, sites.target.info.backend_pid],
                    ),
                )
            ).fetchone()
            if row and row[0] == 0:
                break
            await asyncio.sleep(0.05)
        else:
            return False
    return True
