"""How fast is the copy phase beside psql pipes that run the same queries with as many streams?

    python -m benchmarks.copy [--rows 2000000] [--streams 2] [--repeat 3] [--json]

A wave of ``--rows`` rows (bigint key, user id, timestamptz, jsonb of about 200 B, text of about 100 B;
primary key and one index on the owner at both sites) is copied by ``move.copy.run`` and by ``psql -c "copy
..." | psql -c "copy ..."``, one pipe per stream, alternating, into an emptied target each time. ``ratio``
is our rows/s over psql's, ``client_cpu_ratio`` our process' CPU over that of all psql processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
import time

import psycopg
from psycopg import sql

from benchmarks import _bench
from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.plan import Cohort, Format, Limits, Plan, TablePlan
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.move import copy
from domicile.move.context import Move, WaveAtSites
from domicile.move.failpoints import Failpoints
from domicile.postgres import site_schema
from domicile.postgres.introspect import read_schema
from domicile.postgres.rows import copy_in, copy_out
from domicile.sites.embedded import EmbeddedCluster

ROWS = 2_000_000
ROWS_PER_USER = 20
USERS = TableName("public", "users")
EVENTS = TableName("public", "events")

TABLES = """
create table public.users (id bigint primary key, name text not null);
create table public.events (
    id bigint primary key,
    user_id bigint not null references public.users,
    at timestamptz not null,
    doc jsonb not null,
    body text not null);
create index events_user on public.events (user_id, at);
"""
FILL_USERS = "insert into public.users select n, 'user ' || n from generate_series(1, %s) as n"
# Rows of one user lie scattered, as in a table that grew with time.
FILL_EVENTS = """
insert into public.events
select n, 1 + (n::bigint * 7919) %% %s, timestamptz '2024-01-01 00:00+00' + n * interval '3 seconds',
    jsonb_build_object('kind', (array['view', 'cart', 'order', 'review'])[1 + n %% 4], 'item', n %% 5000,
        'price', (n %% 99999) / 100.0, 'session', md5(n::text), 'agent', repeat(md5((n %% 97)::text), 2)),
    repeat(md5((n * 31)::text), 3)
from generate_series(1, %s) as n
"""
WAVE = """
insert into domicile.move (move_id, dataset, here, role, peer)
values ('bench', 'bench', %(here)s, %(role)s, %(peer)s);
insert into domicile.wave (move_id, no, mark, home, epoch) values ('bench', 1, %(mark)s, 'source', 0);
insert into domicile.member (wave, ordinal, subject)
select 1, id, id from generate_series(1, %(users)s) as id;
analyze domicile.member;
"""
EMPTY = "truncate public.users, public.events, domicile.progress; checkpoint;"


async def bench(rows: int, streams: int, repeat: int) -> dict[str, object]:
    """Run both variants ``repeat`` times, alternating."""
    async with _bench.clusters("source", "target") as (source, target):
        users = max(1, rows // ROWS_PER_USER)
        _bench.say(f"filling the source: {rows} rows of {users} users")
        await _fill(source, target, rows, users)
        move, wave = await _move(source, target, rows, users, streams)
        variants: dict[str, Callable[[], Awaitable[None]]] = {
            "domicile": lambda: copy.run(move, wave, _no_report),
            "psql": lambda: _psql(source, target, move, wave),
        }
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        cpu: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(repeat):
            # The order turns around each time: what one run leaves behind (autovacuum, caches) hits both alike.
            for name, variant in list(variants.items())[:: -1 if number % 2 else 1]:
                await _run(target, EMPTY)
                cpu_before, before = _bench.cpu_seconds(), time.perf_counter()
                await variant()
                seconds[name].append(time.perf_counter() - before)
                cpu[name].append(_bench.cpu_seconds() - cpu_before)
                assert await _count(target) == rows + users
                _bench.say(f"{name:9} {seconds[name][-1]:6.2f} s, client CPU {cpu[name][-1]:5.2f} s")
    total = rows + users
    speed = {name: total / _bench.median(values) for name, values in seconds.items()}
    ratios = [p / d for d, p in zip(seconds["domicile"], seconds["psql"], strict=True)]
    cpu_ratios = [d / p for d, p in zip(cpu["domicile"], cpu["psql"], strict=True)]
    return {
        "benchmark": "copy",
        "ratio": _bench.median(ratios),
        "rows_per_s": round(speed["domicile"]),
        "client_cpu_ratio": _bench.median(cpu_ratios),
        "psql_rows_per_s": round(speed["psql"]),
        "rows": total,
        "streams": streams,
        "repeats": repeat,
    }


async def _fill(source: EmbeddedCluster, target: EmbeddedCluster, rows: int, users: int) -> None:
    for cluster, role in ((source, "source"), (target, "target")):
        await _run(cluster, TABLES)
        async with await psycopg.AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
            await site_schema.install(conn, "bigint")
            peer, mark = ("target", "fenced") if role == "source" else ("source", "arriving")
            values = {"here": role, "role": role, "peer": peer, "mark": mark, "users": users}
            await psycopg.AsyncClientCursor(conn).execute(WAVE, values)
    async with await psycopg.AsyncConnection.connect(source.conninfo(), autocommit=True) as conn:
        await conn.execute(FILL_USERS, (users,))
        await conn.execute(FILL_EVENTS, (users, rows))
        await conn.execute("vacuum analyze")
        await conn.execute("checkpoint")


async def _move(
    source: EmbeddedCluster, target: EmbeddedCluster, rows: int, users: int, streams: int
) -> tuple[Move, WaveAtSites]:
    data_map = DataMap(
        DatasetName("bench"),
        SubjectRule(USERS, "id"),
        {
            USERS: TableRule(USERS, Role.SUBJECT),
            EVENTS: TableRule(EVENTS, Role.OWNED, OwnerStep.parse("user_id -> public.users(id)")),
        },
    )
    async with await psycopg.AsyncConnection.connect(source.conninfo(), autocommit=True) as conn:
        schema = await read_schema(conn)
    tables = tuple(
        TablePlan(name, tuple(c.name for c in schema.tables[name].columns), count, count * 300, Format.BINARY)
        for name, count in ((USERS, users), (EVENTS, rows))
    )
    plan = Plan(
        version=1,
        dataset=DatasetName("bench"),
        source=SiteName("source"),
        target=SiteName("target"),
        cohort=Cohort("true", "", users, ""),
        tables=tables,
        waves=(),
        checks=(),
        limits=Limits(streams=streams),
        config_digest="",
        map_digest="",
        source_schema_digest="",
        target_schema_digest="",
        estimate_basis="",
        made_at="",
    )
    move = Move(
        MoveId("bench"),
        plan,
        data_map,
        source.conninfo(),
        target.conninfo(),
        source_schema=schema,
        target_schema=schema,
        generation=0,
        failpoints=Failpoints(),
    )
    return move, WaveAtSites(no=1, source_id=1, target_id=1, subjects=users, epoch=1)


async def _psql(source: EmbeddedCluster, target: EmbeddedCluster, move: Move, wave: WaveAtSites) -> None:
    """One pipe per stream; each carries an equal range of the wave's members, in the queries domicile
    runs.
    """
    streams = move.plan.limits.streams
    psql = str(source.binaries.bindir / "psql")
    for table in move.plan.tables:
        pipes = []
        for n in range(streams):
            first, last = wave.subjects * n // streams, wave.subjects * (n + 1) // streams
            out = copy_out(move.data_map, table, wave.source_id, first, last).as_string(None)
            pipes.append(_pipe(psql, (source.conninfo(), out), (target.conninfo(), _replica(table))))
        await asyncio.gather(*pipes)


def _replica(table: TablePlan) -> str:
    statement = sql.SQL("set session_replication_role = replica; {}").format(copy_in(table))
    return statement.as_string(None)


async def _pipe(psql: str, source: tuple[str, str], target: tuple[str, str]) -> None:
    command = '"$0" -XqAt -v ON_ERROR_STOP=1 -d "$1" -c "$2" | "$0" -XqAt -v ON_ERROR_STOP=1 -d "$3" -c "$4"'
    shell = await asyncio.create_subprocess_exec("bash", "-o", "pipefail", "-c", command, psql, *source, *target)
    if await shell.wait():
        raise RuntimeError("psql failed")


async def _no_report(rows: int, size: int) -> None:
    """Nobody watches a benchmark."""


async def _count(cluster: EmbeddedCluster) -> int:
    async with await psycopg.AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
        cursor = await conn.execute("select (select count(*) from public.users) + (select count(*) from public.events)")
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def _run(cluster: EmbeddedCluster, script: str) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.conninfo(), autocommit=True) as conn:
        for statement in script.split(";"):
            if statement.strip():
                await conn.execute(statement.encode())


def main() -> None:
    options = _bench.parser("copy", __doc__ or "", ROWS)
    options.add_argument("--streams", type=int, default=2, help="parallel streams (default 2)")
    chosen = options.parse_args()
    result = asyncio.run(bench(chosen.rows, chosen.streams, chosen.repeat))
    _bench.show(result, as_json=chosen.json)


if __name__ == "__main__":
    main()
