"""Ids: who numbers what at the sites of a dataset, and making them number apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from domicile.commands.desk import load_map
from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.ids import Blocked, Change, IdPlan, Ids, IdsChanged, Numbering, Wish
from domicile.model.site import DatasetName, SiteName
from domicile.model.workspace import Workspace
from domicile.planner.id_layout import lay_out
from domicile.planner.numbering import Numbers, Place, look, read, read_again
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.id_ranges import alone, carry_out
from domicile.postgres.introspect import read_schema

STATEMENT_MINUTES_MAX = 30  # of one statement: a key without an index of its own is read whole
ROUNDS_MAX = 50  # looks at one numbering, each before a change, until nothing is left to do
DONE_STAYS = "What was changed stays changed, and is right by itself; no value was given twice, no row was touched."
_HINTS = {
    ErrorCode.DISK_FULL: "Free or add disk at {site}, then give the same order again.",
    ErrorCode.RIGHT_MISSING: "Grant the right (domicile sites shows the SQL), then give the same order again.",
    ErrorCode.SITE_UNREACHABLE: "When {site} answers again, give the same order again.",
    ErrorCode.SCHEMA_CHANGED: "The schema changed meanwhile: give the same order again.",
}
_HINT = "Look up the SQLSTATE; mend the cause, then give the same order again."


async def ids(workspace: Workspace, dataset: str, sites: Sequence[str] = ()) -> Ids:
    """Every numbering of the dataset's keys at these sites (all, when none is named), and where sites meet. Reads
    only. Raises DomicileError: site-unreachable, right-missing, map-invalid."""
    data_map = load_map(workspace, dataset)
    async with _places(workspace, dataset, sites) as places:
        return await look(places, data_map)


async def plan_ids(workspace: Workspace, dataset: str, wish: Wish) -> IdPlan:
    """What would make the sites number apart, as they are now. Reads only; raises as `ids` does."""
    data_map = load_map(workspace, dataset)
    async with _places(workspace, dataset, ()) as places:
        return await _plan(await read(places, data_map), wish, dataset)


async def apply_ids(
    workspace: Workspace, dataset: str, wish: Wish, *, stop: asyncio.Event, done: Callable[[Change], None]
) -> IdsChanged:
    """Make the sites number apart: one short transaction for each sequence, each decided on what is true by then.

    May be interrupted anywhere and repeated. ``done`` is told each change. Raises DomicileError: right-missing before
    anything is changed; fence-budget, move-busy, interrupted, and what `ids` raises."""
    data_map = load_map(workspace, dataset)
    changes: list[Change] = []
    blocked: list[Blocked] = []
    apart = 0
    async with _places(workspace, dataset, (), safe=DONE_STAYS) as places, AsyncExitStack() as stack:
        for place in places:
            await stack.enter_async_context(alone(place.conn, place.site))
        numbers = await read(places, data_map)
        _require_rights(await _plan(numbers, wish, dataset))
        for numbering in numbers.numberings:
            made = await _number_apart(numbers, numbering, wish, data_map, stop=stop, done=done)
            if isinstance(made, Blocked):
                blocked.append(made)
            else:
                changes += made
                apart += not made
    return IdsChanged(DatasetName(dataset), tuple(changes), tuple(blocked), apart)


async def _number_apart(
    numbers: Numbers,
    numbering: Numbering,
    wish: Wish,
    data_map: DataMap,
    *,
    stop: asyncio.Event,
    done: Callable[[Change], None],
) -> list[Change] | Blocked:
    made: list[Change] = []
    for _ in range(ROUNDS_MAX):
        now = await read_again(numbers, numbering, data_map)
        wanted = await lay_out(numbers, now, wish)
        if isinstance(wanted, Blocked):
            return wanted
        if not wanted:
            return made
        if stop.is_set():
            raise DomicileError(
                ErrorCode.INTERRUPTED,
                "stopped between two sequences",
                safe=DONE_STAYS,
                hint="Give the same order again: it goes on where it stopped.",
            )
        # The first of them only: the next is decided on what is true then.
        change = wanted[0]
        place = next(p for p in numbers.places if p.site == change.before.site)
        if await carry_out(place.conn, change):
            made.append(change)
            done(change)
    raise DomicileError(
        ErrorCode.FENCE_BUDGET,
        f"{', '.join(numbering.columns)}: writers drew more values than were left room for, {ROUNDS_MAX} times",
        facts={"columns": list(numbering.columns)},
        safe=DONE_STAYS,
        hint="Give the same order again at a quieter hour.",
    )


async def _plan(numbers: Numbers, wish: Wish, dataset: str) -> IdPlan:
    changes: list[Change] = []
    blocked: list[Blocked] = []
    apart = 0
    for numbering in numbers.numberings:
        wanted = await lay_out(numbers, numbering, wish)
        if isinstance(wanted, Blocked):
            blocked.append(wanted)
        else:
            changes += wanted
            apart += not wanted
    # Of one numbering who stays comes first, and passes what the others give until they begin anew.
    changes.sort(key=lambda c: (c.restart is not None, wish.sites.index(c.before.site)))
    return IdPlan(DatasetName(dataset), wish.style, wish.sites, tuple(changes), tuple(blocked), apart)


def _require_rights(plan: IdPlan) -> None:
    lacking = [c for c in plan.changes if c.obstacle]
    if lacking:
        raise DomicileError(
            ErrorCode.RIGHT_MISSING,
            f"{len(lacking)} sequences belong to somebody else: only their owner may change them",
            facts={"sequences": [f"{c.before.name} at {c.before.site}, of {c.before.owner}" for c in lacking]},
            hint="Make the role a member of the owners, or leave out --apply and run the SQL as them.",
        )


@asynccontextmanager
async def _places(
    workspace: Workspace, dataset: str, sites: Sequence[str], *, safe: str = "Nothing was changed."
) -> AsyncIterator[tuple[Place, ...]]:
    """Connections to the sites, in their order. ``safe`` is said of a site that fails."""
    wanted = sites or tuple(workspace.dataset(dataset).at)
    settings = {**SESSION, "statement_timeout": f"{STATEMENT_MINUTES_MAX}min"}
    async with AsyncExitStack() as stack:
        places = []
        for site in wanted:
            conn = await connect(workspace.conninfo(dataset, site), application_name="domicile ids", settings=settings)
            await stack.enter_async_context(conn)
            places.append(Place(SiteName(site), conn, await read_schema(conn)))
        with _of_ids(safe):
            yield tuple(places)


@contextmanager
def _of_ids(safe: str) -> Iterator[None]:
    """What a server refused, told of sequences at a site: `postgres.failures` speaks of a wave that is carried."""
    try:
        yield
    except DomicileError as error:
        if (site := error.facts.get("side")) is None:
            raise
        hint = _HINTS.get(error.code, _HINT).format(site=site)
        message = error.message.replace(f"the {site} ", f"{site} ").replace(f"the {site},", f"{site},")
        facts = {"site": site, **{k: v for k, v in error.facts.items() if k != "side"}}
        raise DomicileError(error.code, message, facts=facts, safe=safe, hint=hint) from None
