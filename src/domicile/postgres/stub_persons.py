"""Whom a wave's rows name and who has no row where they arrive: where these persons live, and how many rows name
somebody who lives nowhere (docs/decisions/0019).

The site that the rows come from knows it: there each of them has a row of their own, or a stub with the home.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.schema import Reference
from domicile.model.site import SiteName
from domicile.postgres.stub_rows import parties
from domicile.postgres.stubs import Site

KEYS_PER_BATCH = 10_000

# Of the wave nobody: there, a missing row is a discrepancy.
_MISSING = """
    select distinct t.{column}::pg_catalog.text {rows} where m.wave = {wave} and t.{column} is not null
        and not exists (select from {subjects} as parent where parent.{key} = t.{column})
        and not exists (select from domicile.member as own where own.wave = {wave} and own.subject = t.{column})"""
_KEYS = """
    (select text, text::{type} as subject from pg_catalog.unnest({keys}::pg_catalog.text[]) as text) as person"""
# Where they live, as this site knows: the copy of who has left may be here still. Null of who has no row at all.
_LIVE = """
    select person.text, case
        when latest.mark = 'departed' then latest.home
        when exists (select from {subjects} as t where t.{key} = person.subject) then {here} end
    from {keys} left join lateral (
        select w.mark, w.home from domicile.member as m join domicile.wave as w on w.id = m.wave
        where m.subject = person.subject order by w.epoch desc limit 1) as latest on true"""
# Where those have gone who lived here.
_LEFT = """
    select person.text, latest.home from {keys} cross join lateral (
        select w.mark, w.home from domicile.member as m join domicile.wave as w on w.id = m.wave
        where m.subject = person.subject order by w.epoch desc limit 1) as latest
    where latest.mark = 'departed' and latest.home <> {here}"""
_NAMING = """
    select pg_catalog.count(*) {rows} where m.wave = {wave} and t.{column} in (select person.subject from {keys})"""


@dataclass(frozen=True, slots=True)
class Homes:
    """Keys as text. ``elsewhere``: by home; ``nowhere``: who has deleted himself at the site where they are missing."""

    elsewhere: dict[SiteName, list[str]]
    nowhere: list[str]


async def missing(conn: AsyncConnection[Any], site: Site, wave_id: int) -> list[str]:
    """Keys of whom the wave's rows at the site refer to, who is not there and not of the wave."""
    found: set[str] = set()
    for reference in parties(site.data_map, site.schema):
        rows = await (await conn.execute(site.of_reference(_MISSING, reference, wave_id))).fetchall()
        found.update(key for (key,) in rows)
    return sorted(found)


async def homes(
    coming_from: AsyncConnection[Any], missing_at: AsyncConnection[Any], site: Site, keys: Sequence[str]
) -> Homes:
    """Where these persons live. ``site`` is where they are missing. Who has no row where the rows come from is in
    neither: what names them is about to change. Changes nothing."""
    found = Homes({}, [])
    for batch in _batches(keys):
        listed = _keys(site, batch)
        live = site.compose(_LIVE, keys=listed, here=sql.Literal(site.home))
        left = site.compose(_LEFT, keys=listed, here=sql.Literal(site.here))
        gone = dict(await (await missing_at.execute(left)).fetchall())
        for key, home in await (await coming_from.execute(live)).fetchall():
            if home == site.here and gone.get(key, site.home) == site.home:  # each says that it is the other
                found.nowhere.append(key)
            elif home is not None:
                found.elsewhere.setdefault(SiteName(gone[key] if home == site.here else home), []).append(key)
    return found


async def naming(conn: AsyncConnection[Any], site: Site, wave_id: int, keys: Sequence[str]) -> dict[Reference, int]:
    """How many of the wave's rows at the site name these persons, by reference; without those of which none does."""
    found: Counter[Reference] = Counter()
    for reference in parties(site.data_map, site.schema):
        for batch in _batches(keys):
            statement = site.of_reference(_NAMING, reference, wave_id, keys=_keys(site, batch))
            row = await (await conn.execute(statement)).fetchone()
            assert row is not None
            found[reference] += row[0]
    return {reference: rows for reference, rows in found.items() if rows}


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + KEYS_PER_BATCH] for start in range(0, len(keys), KEYS_PER_BATCH))


def _keys(site: Site, keys: Sequence[str]) -> sql.Composed:
    key = site.schema.tables[site.data_map.subject.table].column(site.data_map.subject.key)
    return sql.SQL(_KEYS).format(type=sql.Identifier(key.base_schema, key.base_type), keys=sql.Literal(list(keys)))
