"""The verdict in the middle of a campaign: every row of both sites against what the writers were promised.

The oracle's judge wants that nobody has a copy anywhere. Here a move may stand between its handover and its purge:
then those who have moved may have a closed copy at the other site, and nobody else. What the judge does not look at is
looked at here: rows that no writer touches, and who is served where.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from domicile.postgres.connect import connect
from reliability.chaos.stage import NOTES_EACH, Stage
from reliability.chaos.writing import Pen
from reliability.oracle import judge
from reliability.oracle.book import Population, found_at
from reliability.oracle.judge import Holding, Verdict
from reliability.oracle.memory import Found, Memory, subject_of

SERVING = ("open", "closing", "resident")
HARMS = ("lost", "doubled", "unwritten", "reordered", "foreign", "dual_home")
# Failures of the application that a server without room, or one that crashes, may answer with.
BORNE = ("53", "57", "58", "XX", "08", "55P03", "40")

_BESIDE = {
    "notes": b"select id, subject from book.note",
    "probes": b"select subject, n from book.probe",
    "marks": b"select id, split_part(book.home_of(id), ' ', 2) from book.subject",
}
_WAVES = """
    select coalesce(jsonb_object_agg(move_id || ' ' || no, mark), '{}') from domicile.wave"""


@dataclass(frozen=True, slots=True)
class Beside:
    """What one site holds beside the oracle's rows: notes and probes by what they are, what it says of its subjects."""

    notes: Mapping[int, int]
    probes: Mapping[int, int]
    marks: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Look:
    """One verdict. ``harms``: counts by name, all of them empty when it is clean."""

    harms: Mapping[str, int]
    examples: tuple[str, ...]
    acknowledged: int
    transactions: int
    memory: Memory = field(repr=False)

    @property
    def clean(self) -> bool:
        return not any(self.harms.values())


async def verdict(stage: Stage, pen: Pen, copies: Collection[int] = ()) -> Look:
    """Let the writers settle, compare everything, let them go on. ``copies``: who may have a closed copy."""
    stage.calm()
    await stage.up()
    memory = await pen.tell(stage.folder / "memory")
    look = await compare(stage, memory, copies)
    await pen.go_on()
    return look


async def compare(stage: Stage, memory: Memory, copies: Collection[int] = ()) -> Look:
    """The same while nobody writes."""
    sites = stage.sites
    holdings = dict(zip(sites, await asyncio.gather(*map(judge.read, sites.values())), strict=True))
    beside = dict(zip(sites, await asyncio.gather(*map(_beside, sites.values())), strict=True))
    homes = homes_of(memory, stage.population)
    closed = {site: {s for s in copies if homes[s] != site} for site in sites}
    judged = judge.judge(
        memory, {site: without(holding, closed[site]) for site, holding in holdings.items()}, stage.population
    )
    found = Found(_counts(judged), list(judged.examples))
    for site, there in beside.items():
        _judge_beside(stage, site, there, homes, closed[site], found)
    _judge_serving(homes, beside, found)
    for state, count in memory.failures.items():
        if not state.startswith(BORNE):
            found.note("failures", f"a writer gave up: {state}", count)
    return Look(dict(found.counts), tuple(found.examples), memory.acknowledged, memory.transactions, memory)


def homes_of(memory: Memory, population: Population) -> dict[int, str]:
    """Where each subject lives: the site that acknowledged its last write."""
    homes = {}
    for subject in population.everybody:
        served = memory.served.get(subject)
        last = max(served, key=lambda one: (one.epoch, one.ended)) if served else None
        homes[subject] = found_at(subject, population) if last is None else memory.sites[last.site]
    return homes


def without(holding: Holding, gone: Collection[int]) -> Holding:
    """What a site holds but for the copies of these."""
    copied = {folder for folder, owner in holding.folders.items() if owner in gone}
    pages = {mark: tuple(f for f in folders if f not in copied) for mark, folders in holding.pages.items()}
    return Holding(
        {owner: rows for owner, rows in holding.owned.items() if owner not in gone},
        {subject: ticks for subject, ticks in holding.ticks.items() if subject not in gone},
        {key: marks for key, marks in holding.lists.items() if subject_of(key) not in gone},
        {key: marks for key, marks in holding.entries.items() if subject_of(key) not in gone},
        {folder: owner for folder, owner in holding.folders.items() if owner not in gone},
        {mark: folders for mark, folders in pages.items() if folders},
    )


async def two_homes(stage: Stage) -> list[str]:
    """Waves that both sites would serve now, whatever is under way; the sites must be up."""
    marks = []
    for conninfo in stage.sites.values():
        async with await connect(conninfo) as conn:
            there = await (await conn.execute("select to_regclass('domicile.wave') is not null")).fetchone()
            row = await (await conn.execute(_WAVES.encode())).fetchone() if there and there[0] else ({},)
            assert row is not None
            marks.append({wave for wave, mark in row[0].items() if mark in SERVING})
    return sorted(marks[0] & marks[1])


def _counts(judged: Verdict) -> Counter[str]:
    counts = Counter({harm: getattr(judged, harm) for harm in HARMS})
    counts["anomalies"] = sum(judged.anomalies.values())
    return counts


async def _beside(conninfo: str) -> Beside:
    async with await connect(conninfo, application_name="book oracle") as conn:
        found: list[dict[int, Any]] = [dict(await (await conn.execute(query)).fetchall()) for query in _BESIDE.values()]
    return Beside(*found)


def _judge_beside(
    stage: Stage, site: str, there: Beside, homes: Mapping[int, str], closed: Collection[int], found: Found
) -> None:
    """Every subject has a probe that nobody has counted up, and its notes; nobody else has any here."""
    home = {subject for subject, lives in homes.items() if lives == site}
    allowed = home | set(closed)
    wanted = {note for note in stage.notes if note // NOTES_EACH in home}
    found.note("lost", f"notes at {site}", len(wanted - there.notes.keys()))
    extra = {note for note, owner in there.notes.items() if owner in home} - wanted
    found.note("unwritten", f"notes at {site}", len(extra))
    found.note("foreign", f"notes at {site}", sum(owner not in allowed for owner in there.notes.values()))
    found.note("lost", f"probes at {site}", len(home - there.probes.keys()))
    found.note("foreign", f"probes at {site}", len(there.probes.keys() - allowed))
    found.note("unwritten", f"probes at {site}", sum(map(bool, there.probes.values())))


def _judge_serving(homes: Mapping[int, str], beside: Mapping[str, Beside], found: Found) -> None:
    """Each subject is served at its home, and there alone."""
    for subject, home in homes.items():
        serving = [site for site, there in beside.items() if there.marks.get(subject) in SERVING]
        if len(serving) > 1:
            found.note("dual_home", f"subject {subject} is served at both sites")
        elif serving != [home]:
            found.note("homeless", f"subject {subject} lives at {home}, is served at {serving}")
