"""Opening what commands work with: the control database, and a carrier for one move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
import os
from pathlib import Path
import socket

from psycopg import AsyncConnection

from domicile.control.database import open_control
from domicile.control.figures import Figures
from domicile.control.journal import Journal
from domicile.control.lease import Lease, hold_lease, living_runner
from domicile.control.membership import Membership
from domicile.control.moves import MoveRecord, Moves
from domicile.control.orders import Orders
from domicile.directory.directory import Directory, SubjectHash
from domicile.ledger.evidence import Evidence, subject_of
from domicile.ledger.keys import log_keys
from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Plan
from domicile.model.report import MoveStatus
from domicile.model.schema import Schema
from domicile.model.site import MoveId
from domicile.model.workspace import CONTROL_EMBEDDED, Workspace
from domicile.move.carrier import Carrier
from domicile.move.context import Move
from domicile.move.failpoints import Failpoints
from domicile.planner import plan_file
from domicile.planner.sweep import sweep
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema, schema_digest
from domicile.sites.shared import control_cluster
from domicile.survey import datamap_file

CONTROL_DATABASE = "postgres"  # of the embedded control cluster, which holds nothing else


@dataclass(frozen=True, slots=True)
class Desk:
    """The open control database. ``conninfo`` may hold a secret."""

    workspace: Workspace
    conninfo: str = field(repr=False)
    conn: AsyncConnection
    moves: Moves
    figures: Figures
    directory: Directory
    journal: Journal
    orders: Orders
    keyed: SubjectHash = field(repr=False)

    def keyed_digest(self, plan: Plan) -> str:
        """The plan's digest as this database keeps it: keyed, because a digest of one person's condition names them."""
        return self.keyed(plan.dataset, plan.digest).hex()

    def to_store(self, plan: Plan) -> Plan:
        """The plan for the control database: its condition stays in the operator's own file, its digests are keyed."""
        cohort = replace(
            plan.cohort, where="", subjects_file="", digest=self.keyed(plan.dataset, plan.cohort.digest).hex()
        )
        return replace(plan, cohort=cohort, digest=self.keyed_digest(plan))

    async def status(self, move_id: MoveId) -> MoveStatus:
        """The move as an operator sees it now."""
        record = await self.moves.get(move_id)
        return await self.figures.status(record, await living_runner(self.conn, move_id))


def require_shared_control(workspace: Workspace) -> None:
    """Refuse what needs workers when only this machine can reach the control database."""
    if workspace.control == CONTROL_EMBEDDED:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            "workers share their work through the control database, and this one is embedded: only this machine has it",
            facts={"control": CONTROL_EMBEDDED},
            hint="Set control: in domicile.yaml to the connection string of a PostgreSQL that every machine can reach, "
            "and give all machines the same directory.key.",
        )


@asynccontextmanager
async def open_desk(workspace: Workspace) -> AsyncIterator[Desk]:
    """The control database: the configured one, or the embedded one, which runs while anybody uses it."""
    if workspace.control != CONTROL_EMBEDDED:
        async with _desk(workspace, workspace.control) as desk:
            yield desk
        return
    async with control_cluster(workspace.state_dir, bindir=workspace.postgres) as cluster:
        async with _desk(workspace, cluster.conninfo(CONTROL_DATABASE)) as desk:
            yield desk


@asynccontextmanager
async def second_desk(desk: Desk) -> AsyncIterator[Desk]:
    """Another connection to the same control database, for watching while the first one works."""
    async with _desk(desk.workspace, desk.conninfo) as other:
        yield other


@asynccontextmanager
async def _desk(workspace: Workspace, conninfo: str) -> AsyncIterator[Desk]:
    async with await open_control(conninfo) as conn:
        keyed = SubjectHash.of_state(workspace.state_dir)
        directory = Directory(conn, keyed)
        await directory.require_key()
        yield Desk(workspace, conninfo, conn, Moves(conn), Figures(conn), directory, Journal(conn), Orders(conn), keyed)


@asynccontextmanager
async def carrier_for(desk: Desk, move_id: MoveId, *, any_schema: bool = False) -> AsyncIterator[Carrier]:
    """Hold the move's lease and give what its phases need. Raises move-busy, plan-stale and schema-changed.

    ``any_schema`` is for an abort, which must work on whatever is left of the schema.
    """
    await desk.moves.get(move_id)  # move-unknown
    async with hold_lease(desk.conn, desk.conninfo, move_id, runner_name()) as lease:
        yield await fit(desk, move_id, lease, any_schema=any_schema)


async def fit(desk: Desk, move_id: MoveId, lease: Lease, *, any_schema: bool = False) -> Carrier:
    """What the phases of a move need, for the holder of its lease. Raises plan-stale and schema-changed."""
    record = await desk.moves.get(move_id)
    plan = stored_plan(record)
    data_map = load_map(desk.workspace, plan.dataset)
    require_same_map(plan, data_map)
    source = desk.workspace.conninfo(plan.dataset, plan.source)
    target = desk.workspace.conninfo(plan.dataset, plan.target)
    move = Move(
        move_id=move_id,
        plan=plan,
        data_map=data_map,
        source=source,
        target=target,
        source_schema=await schema_at(source),
        target_schema=await schema_at(target),
        generation=lease.generation,
        failpoints=Failpoints(desk.workspace.failpoint),
        mode=record.mode,
    )
    if not any_schema:
        require_same_schemas(plan, data_map, move.source_schema, move.target_schema)
    membership = Membership(desk.conn)
    evidence = evidence_of(desk.workspace, record)
    agents = {name: site.scan_agent for name, site in desk.workspace.sites.items() if site.scan_agent}
    served = (desk.moves, desk.figures, desk.directory, desk.orders, lease, membership)
    return Carrier(move, *served, sweep, evidence=evidence, agents=agents)


def evidence_of(workspace: Workspace, record: MoveRecord) -> Evidence:
    """What writes and reads the evidence of a move; its sites' keys are made where there are none yet."""
    keys = {site: log_keys(workspace.state_dir, record.dataset, site) for site in (record.source, record.target)}
    return Evidence(record.move_id, subject_of(record.move_id, record.plan_digest), keys)


async def schema_at(conninfo: str) -> Schema:
    """The live schema of a dataset's database."""
    async with await connect(conninfo, settings=SESSION) as conn:
        return await read_schema(conn)


def load_map(workspace: Workspace, dataset: str) -> DataMap:
    """The dataset's data map; its path starts at the configuration's folder."""
    return datamap_file.load(workspace.base_dir / workspace.dataset(dataset).map_path)


def stored_plan(record: MoveRecord) -> Plan:
    """The plan as the control database keeps it: without condition and file name, digests keyed."""
    return plan_file.decode(record.plan)


def require_same_map(plan: Plan, data_map: DataMap) -> None:
    """Refuse a plan that was made with another map."""
    if plan.map_digest != data_map.digest:
        raise stale("the data map has changed since the plan was made", "map")


def require_same_schemas(plan: Plan, data_map: DataMap, source: Schema, target: Schema) -> None:
    """Refuse when a table in which the move writes is no longer what the plan saw."""
    tables = data_map.written()
    for site, planned, live in (
        (plan.source, plan.source_schema_digest, source),
        (plan.target, plan.target_schema_digest, target),
    ):
        missing = [str(t) for t in tables if t not in live.tables]
        if missing or schema_digest(live, tables) != planned:
            raise DomicileError(
                ErrorCode.SCHEMA_CHANGED,
                f"the tables of the plan are no longer the same at {site}",
                facts={"site": site, "missing": missing},
                safe="Nothing was changed by this command; a move that stands between two waves stays whole there.",
                hint="Restore the schema, or abort the move and plan again; domicile map check shows what differs.",
            )


def stale(why: str, what: str) -> DomicileError:
    """The error for a plan that no longer describes what would happen."""
    return DomicileError(
        ErrorCode.PLAN_STALE,
        f"the plan is stale: {why}",
        facts={"changed": what},
        hint="Make a new plan with: domicile plan",
    )


def runner_name() -> str:
    """Who carries a move, for people: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def read_subjects(path: str) -> list[str]:
    """The lines of a file of subjects, one key each; plan-invalid when it cannot be read."""
    try:
        with Path(path).open(encoding="utf-8") as file:  # a key may hold what `str.splitlines` splits at
            return [line.removesuffix("\n") for line in file]
    except (OSError, ValueError) as error:  # the latter: not UTF-8, or a name that no file can have
        raise DomicileError(
            ErrorCode.PLAN_INVALID,
            f"the file of subjects cannot be read: {path}",
            facts={"file": path, "reason": type(error).__name__},
            hint="Give a UTF-8 text file with one subject key a line.",
        ) from None
