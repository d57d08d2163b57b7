"""How much of verify is hashing? One pass of verify over a wave against the bare sum of the same rows' hashes.

    python -m benchmarks.verify [--rows 2000000] [--repeat 3] [--json]

A wave of ``--rows`` / 400 subjects owns every row of the table (bigint key, owner, timestamptz, jsonb of about 230 B,
text of about 100 B), so that all statements read and hash the same rows. Verify also finds each row's owner, binds the
hash to its subject and mixes it. One process, no parallel workers, everything cached; time is the server process'
own processor time, because the machine is shared; statements alternate, ratios are medians over the rounds.

    ratio         the bare sum of the hashes that verify takes (every bit of every row) / verify
    ratio_native  bare sum(hash_record_extended(row(...))), PostgreSQL's own hash, / verify: what it costs to see what
                  that hash does not (sign, scale and nesting in jsonb, halves of 8-byte integers; postgres/hashing.py)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
import time

from psycopg import AsyncConnection, sql

from benchmarks import _bench
from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.postgres.checksum import Shape, whole_statement
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.hashing import hashed, row_hash, seed_of
from domicile.postgres.introspect import read_schema

ROWS_PER_SUBJECT = 400
TICKS_PER_S = 100
WAVE = 1

_SCHEMA = """
    create schema domicile;
    create table domicile.member (
        wave integer not null, ordinal integer not null, subject bigint not null, primary key (wave, ordinal));
    create table users (id bigint primary key);
    create table ev (
        id bigint, user_id bigint not null, ts timestamptz not null, doc jsonb not null, body text not null)"""
_USERS = """
    insert into users select generate_series(0, %(subjects)s - 1);
    insert into domicile.member select 1, id + 1, id from users;
    create index on domicile.member (subject)"""
_EVENTS = """
    insert into ev
    select g, g * 7919 %% %(subjects)s, timestamptz '2026-01-01 00:00+00' + g * interval '1 s',
        jsonb_build_object('k', g %% 1000, 'kind', (array['view', 'like', 'post', 'share'])[1 + g %% 4],
            'ref', md5(g::text), 'tags', jsonb_build_array('a' || g %% 7, 'b' || g %% 13, 'c' || g %% 17),
            'geo', jsonb_build_object('lat', g %% 180 - 90.5, 'lon', g %% 360 - 180.25), 'note', md5((g + 1)::text)),
        md5((g + 2)::text) || md5((g + 3)::text) || md5((g + 4)::text) || 'xyz'
    from generate_series(1, %(rows)s::bigint) as g;
    alter table ev add primary key (id);
    create index on ev (user_id, ts)"""
_NATIVE = sql.SQL("select sum(hash_record_extended(row(id, user_id, ts, doc, body), 0)) from public.ev")
_BARE = "select pg_catalog.sum({}) from public.ev as t"

EV = TableName("public", "ev")
USERS = TableName("public", "users")
MAP = DataMap(
    DatasetName("bench"),
    SubjectRule(USERS, "id"),
    {
        USERS: TableRule(USERS, Role.SUBJECT),
        EV: TableRule(EV, Role.OWNED, OwnerStep.parse("user_id -> public.users(id)")),
    },
)


async def measure(conninfo: str, rows: int, repeat: int) -> Mapping[str, object]:
    """Fill the database, run every statement once to warm up and ``repeat`` times for the record."""
    await _fill(conninfo, rows)
    async with await connect(conninfo, settings={**SESSION, "jit": "off"}) as conn:
        await conn.execute("set max_parallel_workers_per_gather = 0")
        shape = Shape.of(MAP, (await read_schema(conn)).tables[EV])
        statements = {"bare": _bare(shape), "bare_native": _NATIVE, "verify": whole_statement(shape, WAVE)}
        rounds = []
        for no in range(repeat + 1):
            _bench.say(f"round {no} of {repeat}")
            rounds.append({name: await _time(conn, statement) for name, statement in statements.items()})
    return _figures(rounds[1:], rows)


def _figures(rounds: list[dict[str, tuple[float, float]]], rows: int) -> Mapping[str, object]:
    def ratio(above: str, below: str, which: int) -> float:
        return _bench.median([r[above][which] / r[below][which] for r in rounds])

    seconds = {name: _bench.median([r[name][0] for r in rounds]) for name in rounds[0]}
    return {
        "rows": rows,
        "repeat": len(rounds),
        "rows_per_s_per_core": round(rows / seconds["verify"]),
        "ratio": ratio("bare", "verify", 0),
        "ratio_native": ratio("bare_native", "verify", 0),
        "ratio_wall": ratio("bare", "verify", 1),
        "cpu_seconds": seconds,
    }


def _bare(shape: Shape) -> sql.Composed:
    values = [hashed(c, shape.mode) for c in shape.columns]
    return sql.SQL(_BARE).format(row_hash(values, seed_of(EV), shape.mode))


async def _time(conn: AsyncConnection, statement: sql.Composable) -> tuple[float, float]:
    """Processor seconds of the server process, and seconds on the wall."""
    cpu, wall = _cpu(conn.info.backend_pid), time.perf_counter()
    await (await conn.execute(statement)).fetchall()
    return _cpu(conn.info.backend_pid) - cpu, time.perf_counter() - wall


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def _fill(conninfo: str, rows: int) -> None:
    subjects = max(1, rows // ROWS_PER_SUBJECT)
    async with await connect(conninfo) as conn:
        await conn.execute(_SCHEMA)
        for statement in (*_USERS.split(";"), *_EVENTS.split(";")):
            values = {"subjects": subjects, "rows": rows}
            text = sql.SQL(statement)  # a constant of this file
            await conn.execute(text, values if "%(" in statement else None)
        await conn.execute("vacuum analyze")


async def run(rows: int, repeat: int) -> Mapping[str, object]:
    """The figures, on a server of its own."""
    async with _bench.clusters("verify") as (cluster,):
        return await measure(cluster.conninfo(), rows, repeat)


def main(arguments: list[str] | None = None) -> None:
    options = _bench.parser("verify", __doc__ or "", 2_000_000).parse_args(arguments)
    _bench.show(asyncio.run(run(options.rows, options.repeat)), as_json=options.json)


if __name__ == "__main__":
    main()
