"""What survives a purge on disk, where, after each of its steps; and what does the purge cost those who stay?

    python -m benchmarks.purge [--people 100000] [--subjects 500] [--quick] [--json]

``--subjects`` of ``--people`` move cold from one server to another, and are purged at the first. A person has a row
with four texts and a document, three notes, every tenth a long letter that is kept out of line; indexes, a full-text
index, extended statistics. Each person's values hold a word that nobody else's do: after each step the benchmark itself
searches the source's files for these words, whatever the purge says. The purge is stopped by its failpoints after each
step, and goes on.

    survivors           subjects of whom at least one word was found, by place and step
    survivors_unlisted  subjects found at the end in places that the purge's report does not list as residuals
    sensitivity_min     the least part of the canaries that the purge's scanner found, over the places
    erasure_lag_s       by place, from the handover to the first scan of the purge that found nothing there
    mb_per_s            speed of the scan, one process
    foreground_tps_ratio  updates of those who stay, one connection, while a purge with ``--max-mb-per-s`` 20 runs,
                        beside 15 seconds before and after it: another cohort of as many subjects"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
import multiprocessing
from pathlib import Path
import secrets
import tempfile
import time
from typing import Any

import psycopg
from psycopg import sql

from benchmarks import _bench
from domicile import commands
from domicile.erasure.prints import Gatherer, Prints
from domicile.erasure.scan import Order
from domicile.model.erasure import ErasureReport, ErasureWish
from domicile.model.errors import DomicileError
from domicile.model.plan import Limits, Mode, Question
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import Workspace
from domicile.move import scanning
from domicile.postgres.connect import connect
from domicile.postgres.server_files import server_files

PEOPLE, SUBJECTS = 100_000, 500
QUICK = (5_000, 100)
THROTTLE_MB_PER_S = 20
ALONE_S = 15.0
SETTINGS = {"shared_buffers": "128MB", "min_wal_size": "80MB", "max_wal_size": "512MB"}
SOURCE, TARGET = SiteName("beijing"), SiteName("singapore")
MAP = """
version: 1
dataset: people
subject: {table: public.person, key: id}
tables:
  public.person: {role: subject, personal: [email, name, town, doc, letter]}
  public.note: {role: owned, owner: person_id -> public.person(id), personal: [body]}
"""
_SCHEMA = """
create table person (id bigint primary key, email text unique, name text, town text, doc jsonb, letter text);
create table note (id bigint primary key, person_id bigint not null references person, body text);
create index on person (name);
create index on note (person_id);
create index on note using gin (to_tsvector('simple', body));
create statistics person_names (mcv) on name, town from person;
create function word(n bigint) returns text language sql immutable as
    $$ select 'p' || substr(md5('secret' || n), 1, 15) $$"""
_FILL = """
insert into person select n, word(n) || '@example.org', 'Name ' || word(n), 'Town ' || n %% 50,
    jsonb_build_object('about', word(n), 'filler', repeat('so it goes ', case when n %% 7 = 0 then 400 else 1 end)),
    case when n %% 10 = 0 then 'Dear ' || word(n) || (select string_agg(md5(n || ':' || i), ' ')
                                                     from generate_series(1, 150) as i) end
from generate_series(1, %(people)s::bigint) as n;
insert into note select 3 * n + i, n, 'note ' || i || ' of ' || word(n)
from generate_series(1, %(people)s::bigint) as n, generate_series(0, 2) as i"""
_WORDS = "select id, word(id) from person where id %% %(every)s = %(rest)s order by id"


@dataclass(frozen=True, slots=True)
class Stage:
    """Two servers and a workspace over them."""

    workspace: Workspace
    source: str

    async def survivors(self, words: Prints) -> dict[str, int]:
        """Subjects of whom something is found, by place."""
        async with await connect(self.source) as conn:
            await conn.execute("checkpoint")
            files = await server_files(conn)
        assert files.data is not None, files.why
        result = await scanning.scan(Order(files.data, words, files.places, (), files.collected, server=files.server))
        return {str(p): len({words.owners[n] for n in t.found}) for p, t in result.tallies.items() if t.found}


async def measure(people: int, subjects: int) -> Mapping[str, object]:
    """The figures, on two servers of our own."""
    async with _bench.clusters("source", "target", settings=SETTINGS) as (source, target):
        with tempfile.TemporaryDirectory() as folder:
            await _fill(source.conninfo(), people)
            await _run(target.conninfo(), _SCHEMA)
            control = target.conninfo("control")
            await _run(target.conninfo(), "create database control")
            stage = Stage(_workspace(Path(folder), source.conninfo(), target.conninfo(), control), source.conninfo())
            every = people // subjects
            survivors, report = await _steps(stage, every)
            ratio = await _foreground(stage, every)
    last = survivors["at the end"]
    listed = {str(r.place) for r in report.residuals}
    return {
        "people": people,
        "subjects": subjects,
        "survivors": survivors,
        "survivors_unlisted": sum(n for place, n in last.items() if place not in listed),
        "sensitivity_min": report.sensitivity_min,
        "sensitivity": {str(f.place): f"{f.seen}/{f.planted}" for f in report.findings if f.planted},
        "searched": report.searched,
        "erasure_lag_s": dict(report.lag_seconds),
        "mb_per_s": report.mb_per_s,
        "foreground_tps_ratio": ratio,
    }


async def _steps(stage: Stage, every: int) -> tuple[dict[str, dict[str, int]], ErasureReport]:
    words = await _words(stage.source, every, 0)
    found = {"loaded": await stage.survivors(words)}
    move = await _moved(stage, every, 0)
    await _stopped(stage, move, ErasureWish(), "purge.deleted")
    found["deleted"] = await stage.survivors(words)
    await _stopped(stage, move, ErasureWish(), "erase.reclaimed")
    found["vacuum, reindex, analyze"] = await stage.survivors(words)
    await _stopped(stage, move, ErasureWish(rewrite=True), "erase.reclaimed")
    found["vacuum full"] = await stage.survivors(words)
    done = await commands.purge(stage.workspace, move, wish=ErasureWish(rewrite=True))
    found["at the end"] = await stage.survivors(words)
    assert done.erasure is not None
    return found, done.erasure


async def _stopped(stage: Stage, move: str, wish: ErasureWish, point: str) -> None:
    """The purge, up to that failpoint."""
    _bench.say(f"purge until {point}")
    try:
        await commands.purge(replace(stage.workspace, failpoint=f"{point}:error"), move, wish=wish)
    except DomicileError as error:
        if point in error.message:
            return
        raise
    raise AssertionError(f"{point} was not reached")


async def _foreground(stage: Stage, every: int) -> float:
    """Updates a second while a purge runs, beside those before and after it."""
    move = await _moved(stage, every, 1)
    with _writer(stage.source, every) as updates:
        await asyncio.sleep(2.0)  # the session is warm
        before = await _rate(updates, asyncio.sleep(ALONE_S))
        wish = ErasureWish(mb_per_s_max=THROTTLE_MB_PER_S)
        during = await _rate(updates, commands.purge(stage.workspace, move, wish=wish))
        after = await _rate(updates, asyncio.sleep(ALONE_S))
    _bench.say(f"updates/s: {before:.0f} before, {during:.0f} beside the purge, {after:.0f} after it")
    return round(2 * during / (before + after), 3)


async def _rate(updates: Callable[[], int], work: Awaitable[object]) -> float:
    """Updates a second while ``work`` is done."""
    so_far, begun = updates(), time.monotonic()
    await work
    return (updates() - so_far) / (time.monotonic() - begun)


@contextmanager
def _writer(conninfo: str, every: int) -> Iterator[Callable[[], int]]:
    """Somebody who updates rows of those who stay, in a process of its own, so that the mover's is not in its way;
    gives how many they are by now."""
    spawned = multiprocessing.get_context("spawn")
    count = spawned.Value("q", 0)
    process = spawned.Process(target=_write, args=(conninfo, every, count), daemon=True)
    process.start()
    try:
        yield lambda: int(count.value)
    finally:
        process.terminate()
        process.join()


def _write(conninfo: str, every: int, count: Any) -> None:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        number = 0
        while True:
            number += 1
            who = number * every + 2  # nobody of a cohort
            conn.execute("update public.person set town = 'Town' where id = %s", (who % 5_000 + 2,))
            count.value = number


async def _moved(stage: Stage, every: int, rest: int) -> str:
    where = f"id % {every} = {rest}"
    plan = await commands.plan(stage.workspace, Question("people", SOURCE, TARGET, where))
    return (await commands.apply(stage.workspace, plan, mode=Mode.COLD)).move_id


async def _words(conninfo: str, every: int, rest: int) -> Prints:
    gathered = Gatherer(secrets.token_bytes(32))
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        for number, (_, word) in enumerate(
            await (await conn.execute(_WORDS, {"every": every, "rest": rest})).fetchall()
        ):
            gathered.add(word.encode(), number)
    return gathered.prints()


async def _fill(conninfo: str, people: int) -> None:
    _bench.say(f"{people} people")
    await _run(conninfo, _SCHEMA)
    async with await connect(conninfo) as conn:
        for statement in _FILL.split(";"):
            await conn.execute(sql.SQL(statement), {"people": people})
        await conn.execute("vacuum analyze")


async def _run(conninfo: str, script: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await conn.execute(script.encode())


def _workspace(folder: Path, source: str, target: str, control: str) -> Workspace:
    (folder / "map.yaml").write_text(MAP, encoding="utf-8")
    name = DatasetName("people")
    return Workspace(
        sites={SOURCE: Site(SOURCE, "CN"), TARGET: Site(TARGET, "SG")},
        datasets={name: Dataset(name, "map.yaml", {SOURCE: source, TARGET: target})},
        state_dir=folder / "state",
        config_digest="bench",
        base_dir=folder,
        control=control,
        limits=Limits(),
    )


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.purge", description=__doc__)
    options.add_argument("--people", type=int, default=PEOPLE)
    options.add_argument("--subjects", type=int, default=SUBJECTS)
    options.add_argument("--quick", action="store_true", help="5,000 people, 100 subjects")
    options.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = options.parse_args(arguments)
    people, subjects = QUICK if given.quick else (given.people, given.subjects)
    _bench.show(asyncio.run(measure(people, subjects)), as_json=given.json)


if __name__ == "__main__":
    main()
