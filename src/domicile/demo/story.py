"""The demo from its first server to its account: every step is what an operator would do, through the same commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
import time

from domicile import commands
from domicile.demo import census, customers, proof
from domicile.demo.account import MB, Account, Decision, Evidence, Stayed, Surveyed, World
from domicile.demo.build import Stores, build
from domicile.demo.census import Census, Group
from domicile.demo.customers import Writes
from domicile.demo.events import Moving, Stage, StageDone, StageStarted, Tell
from domicile.demo.evidence import prove
from domicile.demo.sites import DATASET, MAP_NAME, SITES, SOURCE, TARGET, Sites, demo_sites
from domicile.model.datamap import DataMap, Role
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Status
from domicile.model.plan import Limits, Mode, Plan, Question
from domicile.model.report import MoveStatus, PurgeReport, VerifyReport
from domicile.model.site import MoveId
from domicile.model.workspace import Workspace
from domicile.survey import datamap_file
from domicile.world.account import Account as Promised
from domicile.world.process import Writers, writers

WHERE = "market <> 'CN'"
MODE = Mode.LIVE
OPEN_SECONDS = 2.0  # of writes before the move begins
WAVE_SUBJECTS = 2_000  # at scale 1: about six waves after the canary
WAVE_SUBJECTS_MIN = 60
FENCE_SECONDS_MAX = 30.0  # five servers and the customers share a small machine: its transactions may be long
SCALE_MIN, SCALE_MAX = 0.005, 100.0

Keep = Callable[[Path, Account], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Options:
    """``scale`` 1 is 20,000 users. ``keep`` is awaited before the sites are removed, with the path of a
    ``domicile.yaml`` for them. ``postgres`` holds the programs of an installed PostgreSQL to use. ``evidence`` is the
    folder for the bundle and its certificate, which stay; else a new one for temporary files.
    """

    scale: float = 1.0
    keep: Keep | None = None
    postgres: Path | None = None
    evidence: Path | None = None


@dataclass(slots=True)
class _Story:
    """The demo under way."""

    options: Options
    tell: Tell
    sites: Sites
    stages: dict[Stage, float] = field(default_factory=dict)

    @asynccontextmanager
    async def stage(self, stage: Stage) -> AsyncIterator[list[str]]:
        """Tell of the stage and take its time; the block appends to what it yields what came out."""
        self.tell(StageStarted(stage))
        began = time.monotonic()
        said: list[str] = []
        yield said
        self.stages[stage] = time.monotonic() - began
        self.tell(StageDone(stage, self.stages[stage], tuple(said)))

    async def play(self) -> Account:
        """The stages in their order."""
        began = time.monotonic()
        stores = await self._build()
        workspace = self.sites.workspace(limits(self.options.scale))
        # The census reads while survey and plan read too: nothing changes at the sites before apply.
        async with asyncio.TaskGroup() as group:
            before_task = group.create_task(self._censuses())
            surveyed = await self._survey(workspace)
            plan = await self._plan(workspace)
        before = before_task.result()
        async with writers(customers.config(self.sites)) as busy:
            await self._open()
            moved = await self._apply(workspace, plan, busy)
            verified = await self._verify(workspace, moved)
            together = await customers.waves(self.sites)
            purged = await self._purge(workspace, moved)
            report = await commands.report(workspace, moved)
            promised = await self._close(busy)
        writes, after, statements = await self._check(before, promised, together)
        evidence = await self._prove(workspace, moved)
        account = Account(
            world=await self._world(stores),
            surveyed=surveyed,
            plan=plan,
            report=report,
            verify=verified,
            purge=purged,
            stayed=stayed(self._map(), after[SOURCE]),
            writes=writes,
            evidence=evidence,
            statements=statements,
            tables=proof.table_counts(before, after),
            stages={str(stage): seconds for stage, seconds in self.stages.items()},
            moving_seconds=self.stages[Stage.APPLY],
            seconds=time.monotonic() - began,
        )
        if self.options.keep is not None:
            await self.options.keep(self.sites.write_config(), account)
        return account

    async def _build(self) -> Stores:
        async with self.stage(Stage.BUILD) as said:
            stores = await build(self.sites, self.options.scale, self.tell)
            said.append(
                f"{stores.store.users:,} users, {stores.store.orders:,} orders, {stores.store.total:,} rows at {SOURCE}"
            )
            said.append(f"{stores.residents.users:,} users who always lived at {TARGET}")
        return stores

    async def _survey(self, workspace: Workspace) -> Surveyed:
        async with self.stage(Stage.SURVEY) as said:
            found = await commands.survey(workspace, DATASET, SOURCE)
            surveyed = compared(found.data_map, self._map())
            said.append(", ".join(f"{len(tables)} {role}" for role, tables in surveyed.roles.items()))
            said.extend(
                f"{d.table}: drafted as {d.drafted}; the demo's map decides {d.decided} {d.owner}".rstrip()
                for d in surveyed.decisions
            )
        return surveyed

    async def _plan(self, workspace: Workspace) -> Plan:
        async with self.stage(Stage.PLAN) as said:
            plan = await commands.plan(workspace, Question(DATASET, SOURCE, TARGET, where=WHERE))
            said.append(f"{plan.cohort.size:,} users ({WHERE}), {plan.rows:,} rows, {plan.bytes / MB:,.1f} MB")
            said.append(f"{len(plan.waves)} waves, the first one a canary of {plan.waves[0].subjects:,} users")
        return plan

    async def _open(self) -> None:
        async with self.stage(Stage.OPEN) as said:
            await asyncio.sleep(OPEN_SECONDS)
            said.append(
                f"{customers.WRITERS} connections, {customers.RATE:.0f} transactions/s, for users of every market"
            )
            said.append(f"every {census.QUIET}th user is left alone, to be compared byte for byte at the end")

    async def _apply(self, workspace: Workspace, plan: Plan, busy: Writers) -> MoveId:
        running = asyncio.Event()

        def watch(status: MoveStatus) -> None:
            self.tell(Moving(Stage.APPLY, status))
            if status.status is Status.RUNNING:
                running.set()

        async def let_sign_up() -> None:
            await running.wait()  # the cohort is written down: who comes or goes now makes no plan stale
            await busy.open_doors()

        async with self.stage(Stage.APPLY) as said:
            doors = asyncio.create_task(let_sign_up())
            try:
                now = await commands.apply(workspace, plan, mode=MODE, on_progress=watch)
            finally:
                doors.cancel()
            if now.status is not Status.WAITING:
                raise _failed(now)
            said.append(f"{now.rows_copied:,} rows, {now.bytes_copied / MB:,.1f} MB in {len(now.waves)} waves")
        return now.move_id

    async def _verify(self, workspace: Workspace, move_id: MoveId) -> VerifyReport:
        async with self.stage(Stage.VERIFY) as said:
            verified = await commands.verify(workspace, move_id)
            intact = sum(w.source_intact for w in verified.waves)
            said.append(f"{intact} of {len(verified.waves)} source copies are as they were when their users left")
        return verified

    async def _purge(self, workspace: Workspace, move_id: MoveId) -> PurgeReport:
        async with self.stage(Stage.PURGE) as said:
            purged = await commands.purge(
                workspace, move_id, on_progress=lambda status: self.tell(Moving(Stage.PURGE, status))
            )
            said.append(f"{purged.rows:,} rows removed at {SOURCE}, {purged.left_at_source:,} left of them")
        return purged

    async def _close(self, busy: Writers) -> Promised:
        async with self.stage(Stage.CLOSE) as said:
            account = await busy.stop()
            said.append(f"{account.acknowledged:,} writes acknowledged, {account.failed:,} failed")
        return account

    async def _prove(self, workspace: Workspace, move_id: MoveId) -> Evidence:
        async with self.stage(Stage.PROVE) as said:
            found = await prove(workspace, move_id, self.options.evidence)
            other = f"; the single file that shares no code with it: {found.other}" if found.other else ""
            said.append(f"{found.statements} statements of both sites' logs; domicile: {found.outcome}{other}")
        return found

    async def _check(
        self, before: proof.Censuses, account: Promised, together: Mapping[int, int]
    ) -> tuple[Writes, proof.Censuses, tuple[proof.Statement, ...]]:
        async with self.stage(Stage.CHECK) as said:
            after = await self._censuses()
            writes = await customers.ask_oracle(self.sites, account, together)
            statements = proof.statements(before, after, writes)
            said.append(f"{sum(s.holds for s in statements)} of {len(statements)} statements hold")
        return writes, after, statements

    async def _censuses(self) -> proof.Censuses:
        counted = await asyncio.gather(*(census.take(self.sites.conninfo(name)) for name in SITES))
        return dict(zip(SITES, counted, strict=True))

    def _map(self) -> DataMap:
        return datamap_file.load(self.sites.directory / MAP_NAME)

    async def _world(self, stores: Stores) -> World:
        version = self.sites.clusters[SOURCE].binaries.version
        store = stores.store
        return World(self.options.scale, store.users, store.orders, store.total, stores.residents.users, version)


async def run(options: Options, tell: Tell) -> Account:
    """Play the whole demo. Raises DomicileError; cancelled at any moment, it removes its servers and files first."""
    if not SCALE_MIN <= options.scale <= SCALE_MAX:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            f"the scale is {options.scale:g}; it must be {SCALE_MIN:g} to {SCALE_MAX:g}",
            hint="Scale 1 is 20,000 users.",
        )
    try:
        async with demo_sites(options.postgres) as sites:
            return await _Story(options, tell, sites).play()
    except ExceptionGroup as several:
        raise _first(several) from several


def limits(scale: float) -> Limits:
    """Waves small enough to be watched: about seven, whatever the scale."""
    size = max(WAVE_SUBJECTS_MIN, round(WAVE_SUBJECTS * scale))
    settle = Limits().settle_seconds * min(1.0, scale)
    return Limits(wave_subjects_max=size, fence_seconds_max=FENCE_SECONDS_MAX, settle_seconds=settle)


def compared(draft: DataMap, decided: DataMap) -> Surveyed:
    """The draft's tables per role, and every table on which a person decided otherwise."""
    roles = {str(role): tuple(map(str, draft.of_role(role))) for role in Role if draft.of_role(role)}
    decisions = [
        Decision(
            str(table),
            str(draft.tables[table].role) if table in draft.tables else "nothing",
            str(rule.role),
            str(rule.owner or ""),
        )
        for table, rule in decided.tables.items()
        if table not in draft.tables or (draft.tables[table].role, draft.tables[table].owner) != (rule.role, rule.owner)
    ]
    return Surveyed(roles, tuple(decisions))


def stayed(data_map: DataMap, at_source: Census) -> tuple[Stayed, ...]:
    """What is still at the source after the move, and why."""

    def rows(role: Role) -> int:
        return sum(at_source.table_rows(str(t)) for t in data_map.of_role(role))

    def names(role: Role) -> str:
        return ", ".join(t.name for t in data_map.of_role(role))

    return (
        Stayed(
            "users of mainland China",
            at_source.users(Group.MAINLAND),
            at_source.rows(Group.MAINLAND),
            f"the condition {WHERE} does not name them",
        ),
        Stayed(f"local tables ({names(Role.LOCAL)})", 0, rows(Role.LOCAL), "they belong to the site"),
        Stayed(
            f"reference tables ({names(Role.REFERENCE)})", 0, rows(Role.REFERENCE), "they are the same at every site"
        ),
    )


def _failed(now: MoveStatus) -> DomicileError:
    wave = next((w for w in now.waves if w.error_code), None)
    code, said = (wave.error_code, wave.error_message) if wave else (now.error_code, now.error_message)
    return DomicileError(
        ErrorCode(code) if code else ErrorCode.INTERNAL,
        (f"wave {wave.no}: " if wave else "") + (said or f"the move ended as {now.status}"),
        facts={"move": now.move_id, "status": str(now.status)},
        safe=now.safe,
        hint="This is a defect of domicile, since the demo makes its own input: please report it.",
    )


def _first(several: ExceptionGroup[Exception]) -> Exception:
    """What went wrong first in a group of parallel work; the rest follows from it."""
    first = several.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
