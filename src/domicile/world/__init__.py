"""The demo world: a phone maker's shop, its customers, and everything they left in its database."""

from domicile.world.store import (
    RESIDENT_MARKETS,
    STORE_MARKETS,
    Counts,
    Step,
    create_schema,
    populate,
    populate_reference,
    populate_residents,
)

__all__ = [
    "RESIDENT_MARKETS",
    "STORE_MARKETS",
    "Counts",
    "Step",
    "create_schema",
    "populate",
    "populate_reference",
    "populate_residents",
]
