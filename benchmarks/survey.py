"""How much of an untidy database does the survey understand, and how soon?

    python -m benchmarks.survey [--tables 300] [--rows 1000000] [--families rails,matrix] [--seed 1] [--quick] [--json]
    python -m benchmarks.survey --scale 10000

A world is generated for each of six families of code bases (`reliability/known`): tables, rows, and the truth about
every table. Families differ in how they name, number and declare: without foreign keys, with them on every reference,
text keys, tokens, UUIDs, glued and camel-case names, an application's prefix. Each world has every pattern: chains,
composite, deferred, cyclic and self references, partitions with foreign keys on their leaves, inheritance, e-mail
addresses and UUIDs as keys, names that say nothing, columns that are keys by chance, two people, shared content,
lookups, polymorphic pairs, arrays, JSON, orphans, rows without an owner, staff, audit trails, queues.

``precision``: of the tables that the survey calls owned, the share that is. ``recall``: of the tables that are owned,
the share that it calls so; one left undecided counts as missed, unless the truth itself is that a person must decide
(two people, several tables, missing owners, shared content and what only hangs from it, traces, no rows to look at).
``path_precision`` and ``path_recall`` ask for the very path as well. ``asked_share``: of the tables that a person must
decide, the share that is left to one. ``undecided`` counts what is left to a person, right or not, and each world's are
listed on stderr; ``wrong``, ``missed`` and ``silent`` (a person should have been asked) name the tables. ``seconds`` is
the slowest world.

``--scale N``: a database of N tables with a few rows in one of ten: seconds only, of the survey and of reading its
map.

Exits 1 when a target is missed: both precisions 0.99 (so ``wrong`` is a hundredth at most), both recalls and
``asked_share`` (so ``silent`` is two hundredths at most) 0.98, 60 seconds."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from psycopg import AsyncConnection, sql
from reliability.known.build import build
from reliability.known.judge import Judged, judge
from reliability.known.make import FAMILIES, make_world
from reliability.known.styles import NOUNS, SECOND

from benchmarks import _bench
from domicile.postgres.connect import SESSION, connect
from domicile.survey import datamap_file
from domicile.survey.discover import draft

PRECISION, RECALL, SECONDS = 0.99, 0.98, 60.0
TARGETS = {
    "precision": PRECISION,
    "recall": RECALL,
    "path_precision": PRECISION,
    "path_recall": RECALL,
    "asked_share": RECALL,
}
QUICK_TABLES, QUICK_ROWS = 60, 30_000
TABLES_A_TRANSACTION = 100
_TABLE = sql.SQL(
    "create table {} (id bigint primary key, user_id bigint not null{}, name text, note text, state text,"
    " amount numeric, data jsonb, created_at timestamptz, {} bigint)"
)
_ROWS = sql.SQL("insert into {} select n, n + n / 9, 'n', 'n', 's', 1, '{{}}', now() from generate_series(1, 40) as n")


async def run(families: tuple[str, ...], tables: int, rows: int, seed: int) -> dict[str, object]:
    """All families' worlds, one after the other on one fresh server."""
    total, seconds = Judged(), {}
    async with _bench.clusters("survey") as (server,):
        for family in families:
            world = make_world(family, tables, rows, seed)
            async with await connect(server.conninfo(), autocommit=True) as conn:
                await conn.execute(sql.SQL("create database {}").format(sql.Identifier(family)))
            async with await connect(server.conninfo(family), autocommit=True) as conn:
                await build(conn, world)
            async with await connect(server.conninfo(family), settings=SESSION) as conn:
                started = time.perf_counter()
                found = await draft(conn, family)
                seconds[family] = round(time.perf_counter() - started, 1)
            judged = judge(world, found.data_map)
            _bench.say(
                f"{family}: {len(world.tables)} tables, {world.rows:,} rows, {seconds[family]} s; {_short(judged)}"
            )
            for undecided in judged.undecided:
                _bench.say(f"  undecided: {undecided}")
            total = total + judged
    return {
        **total.figures(),
        "seconds": max(seconds.values()),
        "seconds_by_family": seconds,
        "rows": rows,
        "seed": seed,
    }


def _short(judged: Judged) -> str:
    figures = judged.figures()
    return ", ".join(f"{name} {figures[name]}" for name in ("precision", "recall", "path_recall", "undecided"))


async def run_scale(tables: int) -> dict[str, object]:
    """A database of many tables: what the catalogue alone costs."""
    async with _bench.clusters("survey") as (server,):
        async with await connect(server.conninfo(), autocommit=True) as conn:
            await _many_tables(conn, tables)
        async with await connect(server.conninfo(), settings=SESSION) as conn:
            started = time.perf_counter()
            found = await draft(conn, "scale")
            seconds = time.perf_counter() - started
    started = time.perf_counter()
    datamap_file.parse(found.text)
    reading = time.perf_counter() - started
    return {
        "tables": len(found.data_map.tables),
        "seconds": round(seconds, 1),
        "undecided": len(found.undecided),
        "map_characters": len(found.text),
        "seconds_to_read_the_map": round(reading, 1),
    }


async def _many_tables(conn: AsyncConnection, tables: int) -> None:
    await conn.execute("create table users (id bigint primary key, email text unique)")
    await conn.execute("insert into users select n + n / 9, n || '@example.org' from generate_series(1, 2000) n")
    names = [f"{one}_{other}_{more}" for more in SECOND for one in NOUNS for other in NOUNS if one != other]
    for first in range(1, tables, TABLES_A_TRANSACTION):
        async with conn.transaction():
            for number in range(first, min(tables, first + TABLES_A_TRANSACTION)):
                known = sql.SQL(" references users") if number % 3 == 0 else sql.SQL("")
                name, before = sql.Identifier(names[number]), sql.Identifier(f"{names[number - 1]}_id")
                await conn.execute(_TABLE.format(name, known, before))
                if number % 10 == 0:
                    await conn.execute(_ROWS.format(name))


def missed(result: dict[str, object]) -> list[str]:
    """The figures that do not reach their targets."""
    found = [name for name, least in TARGETS.items() if name in result and float(str(result[name])) < least]
    return [*found, "seconds"] if float(str(result["seconds"])) > SECONDS else found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survey", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", type=int, default=300, help="of each world (300)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each world, about (1,000,000)")
    parser.add_argument("--families", default=",".join(FAMILIES), help=f"which worlds ({','.join(FAMILIES)})")
    parser.add_argument("--seed", type=int, default=1, help="of the worlds (1)")
    parser.add_argument("--scale", type=int, default=0, metavar="N", help="one database of N tables instead")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TABLES} tables and {QUICK_ROWS:,} rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args(arguments)
    if given.scale:
        result = asyncio.run(run_scale(given.scale))
    else:
        size = (QUICK_TABLES, QUICK_ROWS) if given.quick else (given.tables, given.rows)
        result = asyncio.run(run(tuple(given.families.split(",")), *size, given.seed))
    _bench.show(result, as_json=given.json)
    return 1 if missed(result) else 0


if __name__ == "__main__":
    sys.exit(main())
