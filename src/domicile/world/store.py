"""Build the store: its schema, its reference rows and its people, at any size, the same for the same seed.

The SQL beside this module does the work: every value is a hash of an id, so a world needs no input, and no
rows pass through the client. Ids of site number n lie in n * 10^12 + 1 .. (n + 1) * 10^12, and its
sequences go on there: two sites never give out the same id.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
import re
import time
from types import MappingProxyType
from typing import Any

from psycopg import AsyncConnection, errors, sql

from domicile.model.errors import DomicileError, ErrorCode

IDS_PER_SITE = 10**12
USERS = 20_000  # at scale 1
ORDERS_PER_USER = 10.5
ORDERS_PER_RESIDENT = 5
USERS_MIN = 20
PRODUCTS = 126  # rows that reference.sql makes
STAGING_STEPS = frozenset({"person", "draft"})

# Share of the people per market in percent. Warehouses and staff are in the first one.
STORE_MARKETS: Mapping[str, int] = MappingProxyType(
    {"CN": 45, "IN": 20, "ID": 12, "TW": 7, "HK": 6, "MY": 5, "SG": 3, "PH": 2}
)
RESIDENT_MARKETS: Mapping[str, int] = MappingProxyType({"SG": 70, "US": 30})

Connection = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step: ``number`` of ``of``, the table it filled, rows written, seconds it took."""

    number: int
    of: int
    name: str
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Counts:
    """What was built: rows per table (reference tables not counted) and seconds in all."""

    rows: Mapping[str, int]
    seconds: float

    @property
    def users(self) -> int:
        return self.rows["user_account"]

    @property
    def orders(self) -> int:
        return self.rows["orders"]

    @property
    def total(self) -> int:
        return sum(self.rows.values())


Progress = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class _World:
    site_number: int
    seed: int
    users: int
    orders: int
    markets: Mapping[str, int]

    def __post_init__(self) -> None:
        if not 0 <= self.site_number < 1000 or self.users < USERS_MIN or sum(self.markets.values()) != 100:
            raise DomicileError(
                ErrorCode.CONFIG_INVALID,
                f"A world needs {USERS_MIN} users, a site number of 0 to 999 and market shares of 100 %.",
                safe="Nothing was written.",
                hint="Choose a larger scale.",
            )


async def create_schema(conn: Connection, *, site_number: int = 0) -> None:
    """Create schema ``store``, empty, its sequences in the site's range. All or nothing; not idempotent."""
    async with conn.transaction(), _helpers(conn, _World(site_number, 0, USERS_MIN, 0, STORE_MARKETS)):
        await conn.execute(_script("schema.sql"))
        await conn.execute(_script("sequences.sql"))


async def populate_reference(conn: Connection) -> None:
    """Insert currencies, markets, categories and products: the same rows at every site. Idempotent."""
    async with conn.transaction():
        await conn.execute(_script("reference.sql"))


async def populate(
    conn: Connection,
    *,
    scale: float = 1.0,
    seed: int = 1,
    site_number: int = 0,
    progress: Progress | None = None,
) -> Counts:
    """Fill the store: reference rows, 20,000 people times ``scale``, about ten orders each. All or nothing.

    Loads with triggers off, so the role needs the right to set session_replication_role. A second call at the
    same site fails on the primary keys and changes nothing.
    """
    users = round(USERS * scale)
    return await _fill(conn, _World(site_number, seed, users, round(users * ORDERS_PER_USER), STORE_MARKETS), progress)


async def populate_residents(
    conn: Connection,
    *,
    users: int = 3_000,
    seed: int = 1,
    site_number: int = 1,
    markets: Mapping[str, int] = RESIDENT_MARKETS,
    progress: Progress | None = None,
) -> Counts:
    """Fill a target site with people who always lived there; as ``populate``, in ``site_number``'s range."""
    return await _fill(conn, _World(site_number, seed, users, users * ORDERS_PER_RESIDENT, markets), progress)


async def _fill(conn: Connection, world: _World, progress: Progress | None) -> Counts:
    began = time.perf_counter()
    rows: dict[str, int] = {}
    async with conn.transaction():
        await _load_settings(conn)
        await populate_reference(conn)
        async with _helpers(conn, world):
            await conn.execute(_script("words.sql"))
            blocks = _blocks("populate.sql")
            for number, (name, statement) in enumerate(blocks, start=1):
                step_began = time.perf_counter()
                cursor = await conn.execute(statement)
                if name not in STAGING_STEPS:
                    rows[name] = cursor.rowcount
                if progress is not None:
                    seconds = time.perf_counter() - step_began
                    progress(Step(number, len(blocks), name, cursor.rowcount, seconds))
            await conn.execute(_script("sequences.sql"))
        await conn.execute(_script("analyze.sql"))
    return Counts(MappingProxyType(rows), time.perf_counter() - began)


async def _load_settings(conn: Connection) -> None:
    """Settings of the loading transaction only."""
    await conn.execute("set local timezone = 'UTC'; set local jit = off; set local work_mem = '64MB'")
    try:
        # Checked row by row the foreign keys would cost more than the rows; the tests prove them instead.
        # It also keeps the audit trigger from recording orders that nobody placed.
        await conn.execute("set local session_replication_role = replica")
    except errors.InsufficientPrivilege as error:
        raise DomicileError(
            ErrorCode.RIGHT_MISSING,
            "This role may not set session_replication_role, which loading the demo world needs.",
            safe="Nothing was written.",
            hint="Connect as a superuser, or: grant set on parameter session_replication_role to ROLE",
        ) from error


@asynccontextmanager
async def _helpers(conn: Connection, world: _World) -> AsyncIterator[None]:
    """The functions and drawing tables the SQL uses, in schema ``store_build``, gone afterwards."""
    await conn.execute(
        sql.SQL(_script("helpers.sql").decode()).format(
            base=sql.Literal(world.site_number * IDS_PER_SITE),
            site=sql.Literal(world.site_number),
            people=sql.Literal(world.users),
            sales=sql.Literal(world.orders),
            products=sql.Literal(PRODUCTS),
            # Another site with the same seed gets other people.
            salt=sql.Literal((world.seed * 1_000 + world.site_number) * 1_000),
        )
    )
    slots = [market for market, share in world.markets.items() for _ in range(share)]
    await conn.execute(
        "insert into store_build.slot select n - 1, m from unnest(%s::text[]) with ordinality as t (m, n)",
        [slots],
    )
    yield
    await conn.execute("drop schema store_build cascade")


@cache
def _script(name: str) -> bytes:
    return (resources.files(__package__) / "sql" / name).read_bytes()


@cache
def _blocks(name: str) -> tuple[tuple[str, bytes], ...]:
    parts = re.split(rb"^-- name: (.+)\n", _script(name), flags=re.MULTILINE)
    return tuple((parts[i].decode().strip(), parts[i + 1]) for i in range(1, len(parts), 2))
