"""The verdict: what the sites hold at the end, and what was heard on the way, against what the writers were promised.

It is asked for when the writers have stopped and settled, and no copy is kept anywhere. Each subject's home is then the
site that acknowledged its last write; there its rows must be whole, and elsewhere it must have none.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
import math
from typing import Any

from psycopg import IsolationLevel

from domicile.postgres.connect import connect
from reliability.history import Append, Kind, Order, Outcome, Transaction, check
from reliability.oracle.book import Population, found_at, level_of
from reliability.oracle.memory import Found, Memory, Served, key_of, number, subject_of

# Rows by the subject that owns them: all of them, so that nobody's are overlooked.
OWNED = b"""
    select owner, count(*) from (
        select id from book.subject union all select subject from book.list union all select subject from book.entry
        union all select subject from book.folder union all select subject from book.probe
        union all select f.subject from book.page as p left join book.folder as f on f.id = p.folder
    ) as rows (owner) group by owner"""
READS = {
    "owned": OWNED,
    "ticks": b"select id, ticks from book.subject",
    "lists": b"select subject, no, marks from book.list",
    "entries": b"select subject, no, array_agg(mark) from book.entry group by subject, no",
    "folders": b"select id, subject from book.folder",
    "pages": b"select mark, array_agg(folder) from book.page group by mark",
}
# Of a history's anomalies those that have a counter of their own.
COUNTED = {str(Kind.LOST): "lost", str(Kind.DOUBLED): "doubled", str(Kind.UNWRITTEN): "unwritten"}


@dataclass(frozen=True, slots=True)
class Holding:
    """What one site holds."""

    owned: Mapping[int, int] = field(default_factory=dict)
    ticks: Mapping[int, int] = field(default_factory=dict)
    lists: Mapping[int, Sequence[int]] = field(default_factory=dict)
    entries: Mapping[int, Counter[int]] = field(default_factory=dict)
    folders: Mapping[int, int] = field(default_factory=dict)
    pages: Mapping[int, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``lost``: acknowledged, and not there. ``doubled``: there more often. ``unwritten``: there, and written by
    nobody. ``reordered``: against the order in which it was acknowledged. ``foreign``: rows where their subject does
    not live. ``dual_home``: acknowledged, or let in, by two sites at one instant. ``anomalies``: by level and kind."""

    lost: int = 0
    doubled: int = 0
    unwritten: int = 0
    reordered: int = 0
    foreign: int = 0
    dual_home: int = 0
    anomalies: Mapping[str, int] = field(default_factory=dict)
    examples: Sequence[str] = ()

    @property
    def clean(self) -> bool:
        counts = (self.lost, self.doubled, self.unwritten, self.reordered, self.foreign, self.dual_home)
        return not any(counts) and not self.anomalies


async def read(conninfo: str) -> Holding:
    """What one site holds, in one snapshot."""
    async with await connect(conninfo, application_name="book oracle") as conn:
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        async with conn.transaction():
            rows: dict[str, list[tuple[Any, ...]]] = {}
            for name, query in READS.items():
                rows[name] = await (await conn.execute(query)).fetchall()
    return Holding(
        dict(rows["owned"]),
        dict(rows["ticks"]),
        {key_of(subject, no): tuple(marks) for subject, no, marks in rows["lists"]},
        {key_of(subject, no): Counter(marks) for subject, no, marks in rows["entries"]},
        dict(rows["folders"]),
        {mark: tuple(folders) for mark, folders in rows["pages"]},
    )


async def verdict(memory: Memory, sites: Mapping[str, str], population: Population) -> Verdict:
    """Read every site and judge."""
    holdings = await asyncio.gather(*(read(conninfo) for conninfo in sites.values()))
    return judge(memory, dict(zip(sites, holdings, strict=True)), population)


def judge(memory: Memory, holdings: Mapping[str, Holding], population: Population) -> Verdict:
    """Compare; pure."""
    found = Found(Counter(memory.found.counts), list(memory.found.examples))
    homes = {subject: _home(memory, subject, population) for subject in population.everybody}
    _judge_owners(homes, holdings, found)
    lists = {
        key: marks
        for site, holding in holdings.items()
        for key, marks in holding.lists.items()
        if homes.get(subject_of(key)) == site
    }
    anomalies = _judge_histories(memory, lists, found)
    for site, holding in holdings.items():
        at_home = {subject for subject, home in homes.items() if home == site}
        _judge_entries(holding, at_home, found)
        _judge_ticks(memory, holding, at_home, found)
        _judge_folders(memory, holding, at_home, found)
    _judge_pages(memory, homes, holdings, found)
    _judge_homes(memory, found)
    return Verdict(**found.counts, anomalies=anomalies, examples=tuple(found.examples))


async def foreign(sites: Mapping[str, str], population: Population) -> int:
    """Rows of those who were never to move at a site that is not theirs. It can be asked at any time of a move."""
    count = 0
    for site, conninfo in sites.items():
        async with await connect(conninfo, application_name="book oracle") as conn:
            for owner, rows in await (await conn.execute(OWNED)).fetchall():
                if (
                    owner is None
                    or owner not in population.everybody
                    or (owner > population.movers and found_at(owner, population) != site)
                ):
                    count += rows
    return count


def _home(memory: Memory, subject: int, population: Population) -> str:
    served = memory.served.get(subject)
    if not served:
        return found_at(subject, population)
    return memory.sites[max(served, key=lambda one: (one.epoch, one.ended)).site]


def _judge_owners(homes: Mapping[int, str], holdings: Mapping[str, Holding], found: Found) -> None:
    for site, holding in holdings.items():
        for owner, count in holding.owned.items():
            if homes.get(owner) != site:
                found.note("foreign", f"rows at {site} of a subject who lives at {homes.get(owner)}", count)
        for subject, home in homes.items():
            if home == site and subject not in holding.ticks:
                found.note("lost", f"a subject at {site}")


def _judge_histories(memory: Memory, lists: Mapping[int, Sequence[int]], found: Found) -> dict[str, int]:
    """The lists, by the level of their writers; what was taken away counts as it was then."""
    anomalies: dict[str, int] = {}
    for level, history in memory.histories.items():
        gone = memory.finals[level]
        written = {number(op.key) for one in history for op in one.ops if isinstance(op, Append)}
        final: dict[Hashable, Sequence[Hashable]] = {
            **{key: lists.get(key, ()) for key in written - memory.doubtful},
            **gone,
        }
        for key, marks in lists.items():
            if key in gone:
                found.note("unwritten", "a list that was taken away is back", len(marks))
            elif level_of(subject_of(key)) is level and key not in written:
                found.note("unwritten", "a list that nobody began", len(marks))
        report = check(history, level, Order.REALTIME, final)
        for name, count in report.anomalies.items():
            if name in COUNTED:
                found.note(COUNTED[name], f"by the history of {level}", count)
            else:
                anomalies[f"{level}: {name}"] = count
        found.examples += [f"{level}: {one.kind}: {one.about}" for one in report.examples]
        _judge_order(memory, history, final, found)
    return anomalies


def _judge_order(
    memory: Memory, history: Iterable[Transaction], final: Mapping[Hashable, Sequence[Hashable]], found: Found
) -> None:
    """Each list against the acknowledgements, without any theory: what was begun after another mark had been
    acknowledged stands behind it, and epochs only rise."""
    times: dict[Hashable, tuple[float, float]] = {}
    for one in history:
        for op in one.ops:
            if isinstance(op, Append):
                times[op.value] = one.begun, one.ended if one.outcome is Outcome.OK else math.inf
    for marks in final.values():
        known = [mark for mark in marks if mark in times]
        earliest, epoch = math.inf, math.inf
        for mark in reversed(known):
            begun, ended = times[mark]
            if begun > earliest:
                found.note("reordered", f"mark {mark}")
            earliest = min(earliest, ended)
            mine = memory.epochs.get(number(mark))
            if mine is not None:
                if mine > epoch:
                    found.note("dual_home", f"mark {mark} of epoch {mine} stands before one of epoch {epoch}")
                epoch = min(epoch, mine)


def _judge_entries(holding: Holding, at_home: set[int], found: Found) -> None:
    """Each mark in a list has a row beside it, written by the same transaction, and the other way round."""
    for key in holding.lists.keys() | holding.entries.keys():
        if subject_of(key) not in at_home:
            continue
        listed, beside = Counter(holding.lists.get(key, ())), holding.entries.get(key, Counter())
        for mark, count in (listed - beside).items():
            found.note("lost" if mark not in beside else "doubled", f"the row of mark {mark}", count)
        for mark, count in (beside - listed).items():
            found.note("doubled" if mark in listed else "unwritten", f"the row of mark {mark}", count)


def _judge_ticks(memory: Memory, holding: Holding, at_home: set[int], found: Found) -> None:
    for subject in at_home & holding.ticks.keys():
        there = holding.ticks[subject]
        ticks = memory.ticks.get(subject)
        least, most = (ticks.least, ticks.most) if ticks else (0, 0)
        found.note("lost", "ticks", max(0, least - there))
        found.note("doubled", "ticks", max(0, there - most))


def _judge_folders(memory: Memory, holding: Holding, at_home: set[int], found: Found) -> None:
    for folder, owners in memory.folders.items():
        if owners <= at_home and holding.folders.get(folder) not in owners:
            found.note("lost", "a folder, or whose it is")
    for folder in holding.folders.keys() - memory.folders.keys():
        found.note("unwritten", f"folder {folder}")


def _judge_pages(memory: Memory, homes: Mapping[int, str], holdings: Mapping[str, Holding], found: Found) -> None:
    """Pages are where their folder is, once. Where it is in doubt whose the folder is, at either's home."""
    promised = {mark: (folder, sure) for folder, pages in memory.pages.items() for mark, sure in pages.items()}
    there: dict[int, list[int]] = defaultdict(list)
    for holding in holdings.values():
        for mark, folders in holding.pages.items():
            there[mark] += folders
    for mark, (folder, sure) in promised.items():
        count = there.get(mark, []).count(folder)
        if sure and not count:
            found.note("lost", f"the page of mark {mark}")
        found.note("doubled", f"the page of mark {mark}", max(0, len(there.get(mark, [])) - 1))
    for mark in there.keys() - promised.keys():
        found.note("unwritten", f"the page of mark {mark}", len(there[mark]))
    for folder, owners in memory.folders.items():
        sites = {homes[owner] for owner in owners}
        for mark in memory.pages.get(folder, {}):
            for site, holding in holdings.items():
                if site not in sites and mark in holding.pages:
                    found.note("foreign", f"the page of mark {mark} at {site}")


def _judge_homes(memory: Memory, found: Found) -> None:
    """Of each subject, each epoch is of one site, and who was begun after an acknowledgement is of no earlier epoch."""
    for subject, served in memory.served.items():
        for epoch, sites in _sites_of_epochs(served).items():
            if len(sites) > 1:
                found.note("dual_home", f"subject {subject}, epoch {epoch}: served by {len(sites)} sites")
        by_end = sorted(served, key=lambda one: one.ended)
        ends = [one.ended for one in by_end]
        highest = list(accumulate((one.epoch for one in by_end), max))
        for one in served:
            before = bisect_right(ends, one.begun)
            if before and highest[before - 1] > one.epoch:
                found.note("dual_home", f"subject {subject}: epoch {one.epoch} after {highest[before - 1]}")


def _sites_of_epochs(served: Iterable[Served]) -> dict[int, set[int]]:
    sites: dict[int, set[int]] = defaultdict(set)
    for one in served:
        sites[one.epoch].add(one.site)
    return sites
