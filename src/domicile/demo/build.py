"""Build the sites and the store, everything that can be at the same time at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from domicile.demo.events import Built, Tell
from domicile.demo.sites import OTHERS, SOURCE, TARGET, Sites
from domicile.model.site import SiteName
from domicile.postgres.connect import connect
from domicile.world import Counts, Step, create_schema, populate, populate_reference, populate_residents

RESIDENTS = 3_000  # at the target, at scale 1
RESIDENTS_MIN = 50
# The id ranges of the sites: whose id lies in which says where a user was born.
SITE_NUMBERS = {SOURCE: 0, TARGET: 1, OTHERS[0]: 2, OTHERS[1]: 3}


@dataclass(frozen=True, slots=True)
class Stores:
    """What was generated at the source and at the target."""

    store: Counts
    residents: Counts


async def build(sites: Sites, scale: float, tell: Tell) -> Stores:
    """Start all sites and fill them; the store's generation, the longest part, begins as soon as its site is up."""
    async with asyncio.TaskGroup() as group:
        store = group.create_task(_store(sites, scale, tell))
        residents = group.create_task(_residents(sites, max(RESIDENTS_MIN, round(RESIDENTS * scale))))
        for name in OTHERS:
            group.create_task(_empty(sites, name))
        group.create_task(sites.start_control())
    return Stores(store.result(), residents.result())


async def _store(sites: Sites, scale: float, tell: Tell) -> Counts:
    def step(done: Step) -> None:
        tell(Built(done.name, done.number, done.of, done.rows))

    async with await connect(await sites.start(SOURCE)) as conn:
        await create_schema(conn, site_number=SITE_NUMBERS[SOURCE])
        return await populate(conn, scale=scale, site_number=SITE_NUMBERS[SOURCE], progress=step)


async def _residents(sites: Sites, users: int) -> Counts:
    async with await connect(await sites.start(TARGET)) as conn:
        await create_schema(conn, site_number=SITE_NUMBERS[TARGET])
        return await populate_residents(conn, users=users, site_number=SITE_NUMBERS[TARGET])


async def _empty(sites: Sites, name: SiteName) -> None:
    async with await connect(await sites.start(name)) as conn:
        await create_schema(conn, site_number=SITE_NUMBERS[name])
        await populate_reference(conn)
