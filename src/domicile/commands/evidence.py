"""The evidence of a move: its bundle, what it tells, and the sites' public keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256

from psycopg import AsyncConnection

from domicile.commands.desk import evidence_of, open_desk
from domicile.evidence import bundle, certificate, checkpoint, dsse, statement
from domicile.evidence.bundle import LogPart
from domicile.evidence.note import Key
from domicile.evidence.statement import Statement
from domicile.evidence.verify import Outcome, Report, verify
from domicile.ledger.evidence import Evidence
from domicile.ledger.export import part
from domicile.ledger.keys import log_keys
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.site import MoveId, SiteName
from domicile.model.workspace import Workspace
from domicile.move import evidence
from domicile.postgres import evidence_rows
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.failures import told as explained

TRIES = 3  # a move that is under way may be caught between its departure and its arrival
TRY_SECONDS = 1.0
UNDER_WAY = ("agreement", "cosignature")  # the checks that fail then, or while another mover closes a log


@dataclass(frozen=True, slots=True)
class Told:
    """One statement: in which log, at which place, and what it says."""

    log: str
    place: int
    said: Statement


@dataclass(frozen=True, slots=True)
class Bundle:
    """A move's bundle, the verdict on it under the sites' own keys, and what it tells, in the order of the times."""

    raw: bytes = field(repr=False)
    report: Report
    statements: tuple[Told, ...]
    keys: tuple[Key, ...]

    @property
    def sha256(self) -> str:
        """The bundle's digest, in hex."""
        return sha256(self.raw).hexdigest()

    @property
    def certificate(self) -> str:
        """The verdict as a page that a person reads and prints: HTML."""
        return certificate.certificate(self.report, self.sha256, by_maker=True)


async def evidence_bundle(workspace: Workspace, move_id: str) -> Bundle:
    """The bundle of a move, from both sites' logs, each closed up to now and cosigned by the other.

    Changes nothing but the logs' checkpoints. Raises evidence-missing when nothing was written of this move,
    evidence-forked when a log cannot be cosigned or is not what was signed, and phase-forbids when the logs do not
    agree: a wave may be between its sites at this moment.
    """
    async with open_desk(workspace) as desk:
        record = await desk.moves.get(MoveId(move_id))
    told = evidence_of(workspace, record)
    names = (record.source, record.target)
    async with AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(await connect(workspace.conninfo(record.dataset, name), settings=SESSION))
            for name in names
        ]
        for conn, name in zip(sites, names, strict=True):
            if not await evidence_rows.installed(conn):
                raise _missing(move_id)
            await told.begin(conn, name)
        for number in range(1, TRIES + 1):
            found = await _bundle(told, names, (sites[0], sites[1]))
            if found.report.outcome is Outcome.PROVEN:
                return found
            if found.report.failed not in UNDER_WAY or number == TRIES:
                break
            await asyncio.sleep(TRY_SECONDS)
    raise _not_proven(move_id, found.report)


def evidence_keys(workspace: Workspace) -> Mapping[str, tuple[Key, ...]]:
    """The verifier keys of every log of the configuration, by the log's name; made where there are none yet."""
    logs = [log_keys(workspace.state_dir, d.name, s) for d in workspace.datasets.values() for s in d.at]
    return {keys.origin: keys.public for keys in logs}


async def _bundle(
    told: Evidence, names: tuple[SiteName, SiteName], sites: tuple[AsyncConnection, AsyncConnection]
) -> Bundle:
    with explained("site", "closing the logs of evidence"):
        await evidence.close_at(told, names, sites)
    parts: list[LogPart] = []
    for name, conn in zip(names, sites, strict=True):
        if found := await part(conn, told.logs[name].origin, told.move_id):
            parts.append(found)
    if not parts:
        raise _missing(told.move_id)
    keys = tuple(key for name in names for key in told.logs[name].public)
    own = {k.log.key.name: k.log for k in told.logs.values()}
    raw = bundle.build(told.subject, parts, keys, own[checkpoint.read(parts[0].note).origin])
    report = verify(raw, keys)
    told_acts = _statements(parts) if report.outcome is Outcome.PROVEN else ()  # else it may be no statement
    return Bundle(raw, report, told_acts, keys)


def _statements(parts: Sequence[LogPart]) -> tuple[Told, ...]:
    told = []
    for one in parts:
        places = [place for low, high in one.runs for place in range(low, high)]
        origin = checkpoint.read(one.note).origin
        for place, leaf in zip(places, one.leaves, strict=True):
            told.append(Told(origin, place, statement.decode(dsse.parse(leaf).payload)))
    # A stable sort: within a log the order is the log's.
    return tuple(sorted(told, key=lambda t: t.said.predicate.time))


def _missing(move_id: str) -> DomicileError:
    return DomicileError(
        ErrorCode.EVIDENCE_MISSING,
        f"no evidence was written of move {move_id}",
        facts={"move": move_id},
        hint="Moves that were applied before domicile wrote evidence have none.",
    )


def _not_proven(move_id: str, report: Report) -> DomicileError:
    why = next((c.why for c in report.checks if c.name == report.failed), "")
    under_way = report.failed in UNDER_WAY
    return DomicileError(
        ErrorCode.PHASE_FORBIDS if under_way else ErrorCode.EVIDENCE_FORKED,
        f"the logs do not make a bundle: {report.failed}: {why}",
        facts={"check": report.failed},
        hint=f"When a wave is on its way, wait for it: domicile status {move_id}"
        if under_way
        else "A log is not what was signed; see docs/reference/evidence.md.",
    )
