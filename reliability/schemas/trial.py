"""One shop from its drawing to the purge: made at two sites, filled, written to all the while, moved, perhaps moved
back, and judged row by row after each step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
import shutil
import time
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from domicile import commands
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Limits, Mode, Plan, Question, WayBack
from domicile.model.report import MoveStatus
from domicile.model.site import Dataset, DatasetName, Site, SiteName
from domicile.model.workspace import Workspace
from domicile.postgres.connect import connect
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey.finding import Level
from reliability.schemas.ddl import statements
from reliability.schemas.draw import MOVING
from reliability.schemas.judge import judge
from reliability.schemas.mapping import data_map
from reliability.schemas.names import quoted
from reliability.schemas.rows import Values, at_site, fill, held
from reliability.schemas.shape import SITES, Shop
from reliability.schemas.writers import WAIT_S, Ledger, Writer, forget_deleted, ledger_of

MEMBERS, OUTSIDERS, RESIDENTS = 6, 5, 2
STAYING, ELSEWHERE = "CN", "SG"
SETTLE_S = 0.3  # how long they write before the first order
SERVED_S_MAX = 15.0
MOVE_SECONDS_MAX = 240.0
UNCLEAR = str(ErrorCode.STREAM_UNCLEAR)
ROLLED_BACK, NO_WAY, BLOCKED = "rolled back", "moved, no way back", "moved, way back blocked"
RESUMES_MAX = 5
BACK = 0.35  # share of live moves that are rolled back
STRANGE_MAX = 3
FOLLOWS = "while the schemas differ"  # a check that could not be made because of another
Result = TypeVar("Result")
SOURCE, TARGET = (SiteName(site) for site in SITES)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where trials run: a server for each site, and a control database for all of them."""

    source: EmbeddedCluster
    target: EmbeddedCluster
    control: str = field(repr=False)
    folder: Path = field(repr=False)

    @property
    def versions(self) -> str:
        return f"{self.source.binaries.major}-{self.target.binaries.major}"


@dataclass(slots=True)
class Outcome:
    """One trial. ``refused``: as it had to be. ``found``: what is wrong, names of tables and columns only."""

    seed: int
    versions: str
    tables: int = 0
    columns: int = 0
    mode: str = ""
    way: str = "moved"  # moved, rolled back, refused
    acknowledged: int = 0
    at_target: int = 0
    seconds: float = 0.0
    deeds: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)


class Wrong(Exception):
    """The trial cannot go on."""


async def trial(shop: Shop, stage: Stage) -> Outcome:
    """Everything is dropped at the end, whatever it came to."""
    begun = time.monotonic()
    columns = sum(len(t.cols) for t in shop.tables)
    outcome = Outcome(shop.seed, stage.versions, len(shop.tables), columns, "cold" if shop.cold else "live")
    dataset = f"shop{shop.seed}x{time.monotonic_ns() % 10**9}"
    try:
        async with databases(stage, dataset) as sites:
            await _Trial(shop, sites, _workspace(shop, stage, dataset, sites), outcome).run()
    except Wrong as wrong:
        outcome.found.append(str(wrong))
    finally:
        shutil.rmtree(stage.folder / dataset, ignore_errors=True)
        outcome.seconds = round(time.monotonic() - begun, 2)
    return outcome


@dataclass(slots=True)
class _Trial:
    shop: Shop
    sites: Mapping[str, str]
    workspace: Workspace
    outcome: Outcome

    async def run(self) -> None:
        ledger, values = await self._made()
        plan = await self._planned()
        if plan is None:
            self.outcome.way = "refused"
            return
        async with _writing(self.shop, self.sites, ledger, values) as pens:
            await self._carried(plan, ledger, pens)
        self.outcome.acknowledged = sum(ledger.commits.values())
        self.outcome.at_target = ledger.commits["target"]
        self.outcome.deeds, self.outcome.refusals = dict(ledger.deeds), dict(ledger.refused)

    async def _carried(self, plan: Plan, ledger: Ledger, pens: Pens) -> None:
        await asyncio.sleep(SETTLE_S)

        def begun(move: MoveStatus) -> None:
            ledger.may_leave |= any(wave.rows_copied for wave in move.waves)

        order = commands.apply(self.workspace, plan, mode=self._mode, on_progress=begun)
        move = await self._order(order, "apply")
        for _ in range(RESUMES_MAX):
            if move.status is Status.FAILED and UNCLEAR in {w.error_code for w in move.waves}:
                # The stream does not tell what one transaction did: then the wave is copied anew.
                move = await self._order(commands.resume(self.workspace, move.move_id), "resume")
        if move.status is Status.DONE and not any(wave.subjects for wave in move.waves):
            await pens.rest()
            self.outcome.way = "everybody left"
            await self._judged("after everybody had left", ledger)
            return
        if move.status is not Status.WAITING:
            raise Wrong(f"apply ended {move.status}: {_why(move)}{await self._told(move)}")
        await _served(ledger, "target")
        await pens.rest()
        ledger.moved("target")
        await self._verified(move)
        await self._judged("after the move", ledger, copies="source")
        if self._mode is Mode.LIVE and Random(self.shop.seed + 1).random() < BACK:
            pens.go_on()
            self.outcome.way = await self._back(move, ledger, pens)
            if self.outcome.way == BLOCKED:
                await self._way_out(move, ledger)
            if self.outcome.way != ROLLED_BACK:
                return
            pens.go_on()
            await _served(ledger, "source")
            await pens.rest()
            ledger.moved("source")
            await self._judged("after the rollback", ledger, copies="target")
        pens.go_on()
        await self._order(commands.purge(self.workspace, move.move_id), "purge")
        await pens.rest()
        await self._judged("after the purge", ledger)

    async def _back(self, move: MoveStatus, ledger: Ledger, pens: Pens) -> str:
        """What became of it. One transaction, of which the stream does not tell what it did, may be in the way for
        good. Waves may block each other; then the order is given again in a calmer hour. Where rows name somebody who
        has deleted himself, it is done as the error says."""
        try:
            await commands.rollback(self.workspace, move.move_id)
        except DomicileError as error:
            if error.code is ErrorCode.STREAM_UNCLEAR:
                return NO_WAY
            if error.code is ErrorCode.REFERENCE_MISSING and self.shop.parties:
                await pens.rest()
                await forget_deleted(self.shop, self.sites["target"], ledger)
                await self._order(commands.rollback(self.workspace, move.move_id), "rollback")
                return ROLLED_BACK
            if error.code is not ErrorCode.WAY_BACK_BLOCKED:
                raise Wrong(f"rollback: {error.code}: {error.message}{await self._told(move)}") from error
            await pens.rest()
            return await self._back_again(move)
        return ROLLED_BACK

    async def _back_again(self, move: MoveStatus) -> str:
        try:
            await commands.rollback(self.workspace, move.move_id)
        except DomicileError as error:
            if error.code is not ErrorCode.WAY_BACK_BLOCKED:
                raise Wrong(f"rollback again: {error.code}: {error.message}{await self._told(move)}") from error
            return BLOCKED
        return ROLLED_BACK

    async def _way_out(self, move: MoveStatus, ledger: Ledger) -> None:
        """What blocks each other is purged, as the error says, and those who are home are left alone."""
        for member in ledger.members - ledger.gone:
            ledger.home[member] = str((await commands.where(self.workspace, self._dataset, member)).home)
        await self._order(commands.purge(self.workspace, move.move_id), "purge")
        if any(ledger.home[member] == SOURCE for member in ledger.members - ledger.gone):
            await self._order(commands.purge(self.workspace, move.move_id), "purge of what was rolled back")
        await self._judged("after the purge of a blocked rollback", ledger)

    async def _told(self, move: MoveStatus) -> str:
        """What the report says of discrepancies: their rows are random, and nobody's."""
        report = await self._order(commands.report(self.workspace, move.move_id), "report")
        return "".join(f"; {one}" for one in report.discrepancies[:STRANGE_MAX])

    @property
    def _mode(self) -> Mode:
        return Mode.COLD if self.shop.cold else Mode.LIVE

    async def _made(self) -> tuple[Ledger, Values]:
        """Both databases, with their rows."""
        markets = {"source": [MOVING] * MEMBERS + [STAYING] * OUTSIDERS, "target": [ELSEWHERE] * RESIDENTS}
        members, made = list[str](), dict[str, Values]()
        rows, nobody, home = {}, {}, {}
        for site, conninfo in self.sites.items():
            values = Values(self.shop, Random(f"{self.shop.seed} {site}"), target=site == "target")
            async with await at_site(conninfo) as conn:
                for statement in statements(self.shop, site):
                    await _run(conn, statement)
                subjects = await fill(conn, values, markets[site])
                await conn.execute("analyze")
                read = await held(conn, self.shop)
            nobody[site] = read.get(None, {})
            for subject, market in zip(subjects, markets[site], strict=True):
                rows[subject], home[subject] = read[subject], site
                members += [subject] if market == MOVING else []
            made[site] = values
        self._list().write_text("\n".join(members), encoding="utf-8")
        return ledger_of(self.shop, home, rows, nobody, frozenset(members)), made["source"]

    async def _planned(self) -> Plan | None:
        """The plan; None where it had to be refused, and was, by name."""
        checked = await self._order(commands.map_check(self.workspace, self._dataset, SOURCE), "map check")
        errors = [f"{f.table}: {f.message}" for f in checked.findings if f.level is Level.ERROR]
        stubless = [error for error in errors if ": no stub can be made: " in error]
        if not self.shop.refused and (unlike := [error for error in errors if error not in stubless]):
            raise Wrong(f"map check: {unlike[0]}")
        subject = quoted(*self.shop.subject.name)
        await self._order(commands.survey(self.workspace, self._dataset, SOURCE, subject=subject), "survey")
        plan = await self._order(commands.plan(self.workspace, self._question()), "plan")
        for mode in Mode:
            said = [f"{c.name}: {c.detail}" for c in plan.refusals_of(mode)]
            due = self.shop.refused.get(mode, "")
            if stubless and not any(one.startswith("stubs: ") for one in said):
                raise Wrong(f"map check: {stubless[0]}; the {mode} plan says nothing of it")
            if self.shop.parties:  # of some tables no stub can be made, whatever else is the matter
                said = [one for one in said if not one.startswith(("stubs: ", "references to clear: "))]
            if bool(said) != bool(due) or not all(due in one or FOLLOWS in one for one in said):
                raise Wrong(f"a {mode} plan is refused with {said}; due: {due!r}")
        return None if plan.refusals_of(self._mode) else plan

    def _question(self) -> Question:
        back = WayBack.HOLD if self.shop.hold else WayBack.STREAM
        where, listed = ("", str(self._list())) if self.shop.by_file else (f"market = '{MOVING}'", "")
        return Question(self._dataset, SOURCE, TARGET, where=where, subjects_file=listed, way_back=back)

    def _list(self) -> Path:
        return Path(self.workspace.datasets[self._dataset].map_path).with_name("subjects")

    @property
    def _dataset(self) -> DatasetName:
        return next(iter(self.workspace.datasets))

    async def _verified(self, move: MoveStatus) -> None:
        report = await self._order(commands.verify(self.workspace, move.move_id), "verify")
        if not all(wave.source_intact for wave in report.waves):
            raise Wrong("verify: the source copy is not what the verdict sealed")

    async def _judged(self, when: str, ledger: Ledger, copies: str = "") -> None:
        found = await judge(self.shop, self.sites, ledger, copies)
        if found or ledger.strange:
            raise Wrong(f"{when}: " + "; ".join([*ledger.strange[:STRANGE_MAX], *found]))

    async def _order(self, order: Awaitable[Result], name: str) -> Result:
        try:
            async with asyncio.timeout(MOVE_SECONDS_MAX):
                return await order
        except DomicileError as error:
            raise Wrong(f"{name}: {error.code}: {error.message}") from error
        except TimeoutError:
            raise Wrong(f"{name}: not done within {MOVE_SECONDS_MAX:g} s") from None
        except psycopg.Error as error:
            raise Wrong(f"{name}: {type(error).__name__} {error.sqlstate}: {error.diag.message_primary}") from error


@dataclass(slots=True)
class Pens:
    """The writers, who may be told to rest."""

    writers: Sequence[Writer]
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def go_on(self) -> None:
        """Write. Idempotent."""
        if not self._tasks:
            self._stop.clear()
            self._tasks = [asyncio.create_task(writer.run(self._stop)) for writer in self.writers]

    async def rest(self) -> None:
        """Every transaction has ended when it returns. Idempotent. Raises what ended a writer."""
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)


async def _served(ledger: Ledger, site: str) -> None:
    """Until somebody who moved has written there: a home that refused everything would pass every comparison."""
    before, deadline = ledger.served[site], time.monotonic() + SERVED_S_MAX
    while ledger.served[site] == before:
        if time.monotonic() > deadline:
            raise Wrong(f"nobody of the cohort could write at the {site} in {SERVED_S_MAX:g} s: {dict(ledger.refused)}")
        await asyncio.sleep(WAIT_S)


@asynccontextmanager
async def _writing(shop: Shop, sites: Mapping[str, str], ledger: Ledger, values: Values) -> AsyncIterator[Pens]:
    """Two writers, of whom each has members and outsiders of its own; one where subjects refer to each other."""
    everybody = [s for s, home in ledger.home.items() if home == "source"]
    shares = (everybody,) if shop.crossing else (everybody[::2], everybody[1::2])
    turn, orphans = asyncio.Lock(), _may_orphan(shop)
    pens = Pens(
        [
            Writer(shop, sites, ledger, values, mine, turn if orphans else asyncio.Lock(), Random(shop.seed + no))
            for no, mine in enumerate(shares, 2)
        ]
    )
    pens.go_on()
    try:
        yield pens
    finally:
        await pens.rest()


def _may_orphan(shop: Shop) -> bool:
    """Rows may come to be nobody's. Who looks for these must be alone."""
    owners = [(t, t.owner) for t in shop.tables if t.owner is not None]
    return any(o.options is None or not t.col(o.columns[0]).not_null for t, o in owners)


@asynccontextmanager
async def databases(stage: Stage, name: str) -> AsyncIterator[dict[str, str]]:
    """An empty database at each site, dropped at the end; their conninfos."""
    clusters = dict(zip(SITES, (stage.source, stage.target), strict=True))
    try:
        for site, cluster in clusters.items():
            async with await connect(cluster.conninfo()) as conn:
                await conn.execute(sql.SQL("create database {}").format(sql.Identifier(f"{name}_{site}")))
        yield {site: cluster.conninfo(f"{name}_{site}") for site, cluster in clusters.items()}
    finally:
        for site, cluster in clusters.items():
            await _drop(cluster, f"{name}_{site}")


async def _drop(cluster: EmbeddedCluster, name: str) -> None:
    async with await connect(cluster.conninfo()) as conn:
        await conn.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s and not active",
            (name,),
        )
        await conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


async def _run(conn: psycopg.AsyncConnection[Any], statement: str) -> None:
    try:
        await conn.execute(statement.encode())
    except psycopg.Error as error:
        raise Wrong(f"the drawing itself: {error.diag.message_primary}: {statement[:300]}") from error


def _workspace(shop: Shop, stage: Stage, dataset: str, sites: Mapping[str, str]) -> Workspace:
    folder = stage.folder / dataset
    folder.mkdir(parents=True)
    (folder / "map.yaml").write_text(data_map(shop, dataset), encoding="utf-8")
    at = {SiteName(site): conninfo for site, conninfo in sites.items()}
    return Workspace(
        sites={site: Site(site, "") for site in at},
        datasets={DatasetName(dataset): Dataset(DatasetName(dataset), str(folder / "map.yaml"), at)},
        state_dir=stage.folder / "state",  # of the control database, which all trials share
        config_digest=dataset,
        base_dir=Path("/"),
        control=stage.control,
        limits=Limits(
            wave_subjects_max=shop.wave_subjects,
            canary_subjects_max=0,
            chunk_rows=30,
            purge_chunk_rows=30,
            handover_tries=60,
            settle_seconds=0,
            wave_retry_seconds=1.0,
        ),
    )


def _why(move: MoveStatus) -> str:
    errors = [f"{w.error_code} {w.error_message}" for w in move.waves if w.error_code]
    return "; ".join(errors or [f"{move.error_code} {move.error_message}"])
