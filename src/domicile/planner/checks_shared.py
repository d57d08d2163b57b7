"""Checks of shared rows that a move copies: whether it can, and how many (docs/decisions/0019, policy ``copy``)."""

from __future__ import annotations

from collections import Counter

from domicile.model.errors import ErrorCode
from domicile.model.plan import Check
from domicile.model.schema import Reference
from domicile.planner.checks_rows import MEMBERS
from domicile.planner.checks_schema import listed, schemas_equal
from domicile.planner.facts import Preflight
from domicile.postgres import shared_rows
from domicile.postgres.failures import told
from domicile.postgres.references import referred_keys, shown
from domicile.postgres.shared_rows import Level, Site

COUNTED_MAX = 1_000_000  # shared rows; more are said to be more


async def copies_possible(p: Preflight) -> Check:
    """Rows of these tables may be at both sites: nothing in them is anybody's, and a key finds each."""
    name = "shared tables to copy"
    data_map = p.request.data_map
    if not shared_rows.wanted(data_map):
        return Check(name, True, "the map names none")
    sites = (
        (p.request.source, p.source, p.source_schema),
        (p.request.target, p.target, p.target_schema),
    )
    found: list[str] = []
    for site, conn, schema in sites:
        found += [f"{table}: {why} (at {site})" for table, why in shared_rows.reasons(data_map, schema)]
        for table in data_map.copied():
            if keys := await shared_rows.deferrable_keys(conn, table):
                found.append(f"{table}: {listed(keys)} is judged at the commit only (at {site})")
    return Check(
        name,
        not found,
        listed(found) or f"rows of {listed(data_map.copied())} hold nothing of anybody",
        hint="Write the policy present or refuse for these tables in the data map, or list their columns under "
        "not_personal once somebody has looked at them.",
    )


async def copies_counted(p: Preflight) -> Check:
    """How many rows will be copied, by table and reference; whatever they refer to in turn must be there."""
    name, code = "shared rows to copy", ErrorCode.REFERENCE_MISSING
    data_map = p.request.data_map
    if not shared_rows.wanted(data_map):
        return Check(name, True, "none")
    absent = [t for t in data_map.copied() if t not in p.source_schema.tables or t not in p.target_schema.tables]
    if absent or not schemas_equal(p).passed or not (await copies_possible(p)).passed:
        return Check(
            name,
            False,
            "not looked at while the schemas differ, or these tables cannot be copied",
            "See above.",
            code=code,
        )
    forecast = _Forecast(p)
    await forecast.count()
    copied = "; ".join(
        f"{forecast.said(rows)} rows of {r.to_table} will be copied to {p.request.target} for {shown(r)}"
        for r, rows in forecast.rows.items()
    )
    return Check(
        name,
        not forecast.lacking,
        "rows that would be copied refer to what is not there: "
        + listed(f"{rows} keys of {shown(r)}" for r, rows in forecast.lacking.items())
        if forecast.lacking
        else copied or f"{p.request.target} has all that the cohort needs",
        hint=f"Bring these rows to {p.request.target} first, or give their table the policy copy.",
        code=code,
    )


class _Forecast:
    """What the mover will do, without doing it: keys batch by batch, each counted once."""

    def __init__(self, p: Preflight) -> None:
        self._p = p
        self._site = Site(p.source, p.target, p.request.data_map, p.source_schema, p.target_schema)
        self._seen: set[int] = set()  # of a table's keys, hashes
        self.rows: Counter[Reference] = Counter()
        self.lacking: Counter[Reference] = Counter()

    def said(self, rows: int) -> str:
        """A count, or what is known of it."""
        return f"at least {rows}" if len(self._seen) >= COUNTED_MAX else str(rows)

    async def count(self) -> None:
        """Ask both sites. Changes nothing."""
        p, data_map = self._p, self._p.request.data_map
        for reference in shared_rows.needed_by(data_map, p.source_schema, p.target_schema):
            statement = referred_keys(data_map, reference, MEMBERS, absent=False)
            with told("source", f"references of {reference.table}"):
                async for keys in shared_rows.batches(p.source, statement):
                    with told("target", f"references of {reference.table}"):
                        missing = await shared_rows.absent(self._site, reference, keys)
                    if missing:
                        await self._add(Level(reference, tuple(missing)))
                    if len(self._seen) >= COUNTED_MAX:
                        return

    async def _add(self, first: Level) -> None:
        fresh = self._fresh(first)
        for level in await shared_rows.levels(self._site, fresh) if fresh.keys else ():
            new = level if level is fresh else self._fresh(level)
            self.rows[level.reference] += len(new.keys)
            if new.keys:
                await self._add_parents(new)

    def _fresh(self, level: Level) -> Level:
        """Without what was counted before, by whatever reference."""
        place = (level.reference.to_table, level.reference.to_columns)
        marked = {hash((place, key)): key for key in level.keys}
        new = {mark: key for mark, key in marked.items() if mark not in self._seen}
        self._seen.update(new)
        return Level(level.reference, tuple(new.values()))

    async def _add_parents(self, level: Level) -> None:
        p, data_map = self._p, self._p.request.data_map
        for reference in shared_rows.onward(data_map, p.source_schema, level.reference.to_table):
            if reference.to_table in data_map.copied() or not reference.declared:
                continue
            if reference.to_table not in p.target_schema.tables:
                self.lacking[reference] += len(level.keys)
                continue
            keys = await shared_rows.referred_by(self._site, level, reference)
            refused = shared_rows.refused(data_map, reference)
            if lacking := keys if refused else await shared_rows.absent(self._site, reference, keys):
                self.lacking[reference] += len(lacking)
