"""What a move's phases say in the sites' logs of evidence, and when those are closed by a checkpoint.

Every leaf is written in the transaction of its act, by whoever carries the act out: numbers, hashes and names of sites,
nothing of a row. A carrier without evidence (a simulation, a benchmark) writes none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
import logging
import re
import time

import psycopg
from psycopg import AsyncConnection

from domicile.evidence import dsse, statement
from domicile.evidence.account import EQUAL
from domicile.evidence.statement import Hex, Predicate
from domicile.evidence.strict import Malformed
from domicile.ledger import checkpoints
from domicile.ledger.evidence import Evidence, destroy_salts
from domicile.model.erasure import ErasureReport
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.report import Approval
from domicile.model.site import MoveId, SiteName
from domicile.model.verdict import Verdict
from domicile.move.carrier import Carrier
from domicile.postgres import evidence_rows, reclaim
from domicile.postgres.evidence_rows import Entry
from domicile.postgres.failures import explain, refusal_of
from domicile.postgres.lease import assert_lease

log = logging.getLogger(__name__)
DIFFERENT = "different"
LISTED = "listed in the report"
WORD_MAX = 100
_OTHER = re.compile(r"[^A-Za-z0-9._:/-]+")
_COPIED = """
    select coalesce(sum(p.rows), 0), coalesce(sum(p.bytes), 0), coalesce(max(w.seam), '')
    from domicile.wave as w left join domicile.progress as p on p.wave = w.id where w.id = %s"""
_VIEW = """
    select coalesce('0/0'::pg_lsn + %(position)s::numeric, pg_catalog.pg_current_wal_insert_lsn())::text, count(*),
        encode(sha256(convert_to(coalesce(string_agg(subject::text, e'\n' order by subject::text collate "C"), ''),
            'UTF8')), 'hex')
    from domicile.member where wave = %(wave)s"""
_POSITION = "select pg_catalog.pg_current_wal_insert_lsn()::text"
# Until the end of the transaction: its commit waits for no standby, while it holds the lease's row. Leaf and salt are
# lost together in a failover; and nothing is signed before a checkpoint, which is durable and later in the log.
_LOCALLY = """
    select case when pg_catalog.current_setting('synchronous_commit') <> 'off'
        then pg_catalog.set_config('synchronous_commit', 'local', true) end"""


@dataclass(frozen=True, slots=True)
class Crossing:
    """The leaves of one try to hand a wave over, sealed before anybody waits; None where no evidence is written."""

    departure: Entry | None = None
    taken_back: Entry | None = None  # behind the departure
    arrival: Entry | None = None


async def begin(carrier: Carrier, conn: AsyncConnection, site: SiteName) -> None:
    """The site has its log, and this process can write to it. Idempotent; raises config-invalid."""
    if carrier.evidence is not None:
        await carrier.evidence.begin(conn, site)


async def add(carrier: Carrier, conn: AsyncConnection, predicate: Predicate, act: str = "") -> None:
    """The next leaf in the log of ``predicate.site``, in the caller's transaction; ``act``: once only."""
    if carrier.evidence is not None:
        await carrier.evidence.add(conn, predicate, act)


def planned(carrier: Carrier, cohort_digest: str) -> Callable[[AsyncConnection], Awaitable[None]]:
    """What is written with the cohort: the plan. Whom it names is said by a commitment to the cohort's digest."""

    async def write(conn: AsyncConnection) -> None:
        evidence, plan = carrier.evidence, carrier.move.plan
        if evidence is not None:
            cohort = await evidence.commit_to(conn, cohort_digest)
            sites = (plan.dataset, plan.source, plan.target)
            said = (*sites, carrier.move.mode, plan.cohort.size, len(plan.waves), cohort)
            asked = (plan.limits.purge_approvals, round(plan.limits.undo_hours * 3600))
            await evidence.add(conn, statement.Plan(plan.source, _now(), *said, *asked))

    return write


async def snapshot(carrier: Carrier, no: int, wave_id: int, position: int | None) -> None:
    """A copy of the wave begins: of these members, from a view that is not older than the position of the source's log
    (None: than now, for a wave that nobody writes). In the source's log; once for each copy that is begun."""
    move, told = carrier.move, carrier.evidence
    if told is None:
        return
    async with carrier.source() as source, source.transaction():
        await assert_lease(source, move.move_id, move.generation)
        await source.execute(_LOCALLY)
        row = await (await source.execute(_VIEW, {"wave": wave_id, "position": position})).fetchone()
        assert row is not None
        at, subjects, digest = row
        members = await told.commit_to(source, digest, no)
        said = statement.Snapshot(move.source_site, _now(), no, at, subjects, members)
        await add(carrier, source, said, f"snapshot/{no}/{wave_id}/{at}")


async def copied(carrier: Carrier, no: int, wave_id: int) -> None:
    """The copy of the wave is whole at the target. Once for each copy: of a live one the seam tells them apart."""
    move = carrier.move
    if carrier.evidence is None:
        return
    async with carrier.target() as target, target.transaction():
        await assert_lease(target, move.move_id, move.generation)
        row = await (await target.execute(_COPIED, (wave_id,))).fetchone()
        assert row is not None
        rows, size, seam = row
        act = f"copy/{no}/{wave_id}/{sha256(seam.encode()).hexdigest()[:16]}"
        await add(carrier, target, statement.Copy(move.target_site, _now(), no, int(rows), int(size)), act)


async def judged(carrier: Carrier, source: AsyncConnection, no: int, verdict: Verdict) -> None:
    """The verdict, where the wave may leave; in the caller's transaction."""
    outcome = EQUAL if verdict.clean else DIFFERENT
    differences = verdict.discrepancies_total + sum(rows for _, rows in verdict.broken_references)
    said = (no, outcome, verdict.rows, differences, root_hash(verdict.source_root))
    await add(carrier, source, statement.Verdict(carrier.move.source_site, _now(), *said))


def handover(carrier: Carrier, site: SiteName, no: int, epoch: int, root: str) -> Predicate:
    """A departure or an arrival, as the log of ``site`` tells it. ``root`` is that of the verdict it rests on."""
    kind = statement.Rollback if carrier.move.back else statement.Handover
    return kind(site, _now(), no, carrier.move.target_site, epoch, root_hash(root))


async def crossing(
    carrier: Carrier, source: AsyncConnection, target: AsyncConnection, wave: tuple[int, int], root: str
) -> Crossing:
    """The leaves of a try with ``wave`` (number, epoch). One question to each site; nothing is written."""
    evidence, move = carrier.evidence, carrier.move
    if evidence is None:
        return Crossing()
    no, epoch = wave
    departing = handover(carrier, move.source_site, no, epoch, root)
    arriving = handover(carrier, move.target_site, no, epoch, root)
    departure, behind = evidence.sealed(await evidence.head(source), departing)
    taken_back, _ = evidence.sealed(behind, statement.StepBack(move.source_site, _now(), no, epoch))
    arrival, _ = evidence.sealed(await evidence.head(target), arriving)
    return Crossing(departure, taken_back, arrival)


async def departed_again(carrier: Carrier, sites: tuple[AsyncConnection, AsyncConnection], no: int, epoch: int) -> None:
    """A departure that a failover took from the losing site, with its leaf: told once more, as the gaining site's log
    has the arrival; where its verdict is gone as well, behind a leaf that says so. In the caller's transaction at the
    losing site, the first of ``sites``."""
    if carrier.evidence is None:
        return
    losing, gaining = sites
    for leaf in reversed(await evidence_rows.leaves(gaining, carrier.move.move_id)):
        match _predicate(leaf):
            case statement.Handover(wave=wave, epoch=told) as arrival if (wave, told) == (no, epoch):
                site = carrier.move.source_site
                if not await _rests(losing, carrier.move.move_id, arrival):
                    await add(carrier, losing, statement.Gap(site, _now(), no, epoch, arrival.root))
                await add(carrier, losing, replace(arrival, site=site, time=_now()))
                return


async def _rests(losing: AsyncConnection, move_id: MoveId, arrival: statement.Handover) -> bool:
    """Whether the wave's latest verdict there is the one on which the handover rests."""
    for leaf in reversed(await evidence_rows.leaves(losing, move_id)):
        match _predicate(leaf):
            case statement.Verdict(wave=wave) as verdict if wave == arrival.wave:
                equal = verdict.outcome == EQUAL and not verdict.differences
                return equal and verdict.root == arrival.root
    return False


def _predicate(leaf: bytes) -> Predicate | None:
    """What a leaf says; None when it cannot be read, which is no reason to leave a second home open."""
    try:
        return statement.decode(dsse.parse(leaf).payload).predicate
    except Malformed:
        log.warning("a leaf of the log of evidence cannot be read")
        return None


async def stepped_back(carrier: Carrier, conn: AsyncConnection, site: SiteName, no: int, epoch: int = 0) -> None:
    """The wave is served where it was; ``epoch`` of the departure that is taken back, else 0. In the caller's
    transaction, which changes the mark or forgets the wave."""
    await add(carrier, conn, statement.StepBack(site, _now(), no, epoch))


async def paused(carrier: Carrier, no: int, epoch: int, milliseconds: float) -> None:
    """How long the wave's writers waited, at the site that they left; what no leaf of the handover itself can say. The
    wave has arrived: what fails here is told in this process's log. Raises lease-lost."""
    move = carrier.move
    if carrier.evidence is not None:
        said = statement.Pause(move.source_site, _now(), no, epoch, round(milliseconds * 1000))
        try:
            async with carrier.source() as source, source.transaction():
                await assert_lease(source, move.move_id, move.generation)
                await add(carrier, source, said, f"pause/{no}/{epoch}")
        except (DomicileError, psycopg.Error) as trouble:
            if isinstance(trouble, DomicileError) and trouble.code is ErrorCode.LEASE_LOST:
                raise
            log.warning("the pause of wave %s is not in the log of evidence: %s", no, _why(trouble))


async def approved(carrier: Carrier, source: AsyncConnection, act: str, approvals: Sequence[Approval]) -> None:
    """The approvals on which an act rests, once each; in the caller's transaction. A person is named by a commitment
    under the move's salt."""
    evidence, move = carrier.evidence, carrier.move
    if evidence is None:
        return
    for one in approvals:
        who = await evidence.commit_to(source, f"approver {one.person}")
        said = statement.Approval(move.source_site, _now(), act, who, one.given_at, one.expires_at)
        await add(carrier, source, said, f"approval/{act}/{one.given_at}/{who}")


async def purged(carrier: Carrier, conn: AsyncConnection, rows: int, *, no: int, root: str = "") -> None:
    """The copy at the carrier's source is removed, and the log's commitment to whose it was says nothing any more; in
    the caller's transaction. Once for each wave."""
    if carrier.evidence is not None:
        row = await (await conn.execute(_POSITION)).fetchone()
        assert row is not None
        said = statement.Purge(carrier.move.source_site, _now(), no, rows, str(row[0]), root_hash(root))
        await add(carrier, conn, said, f"purge/{no}")
        await destroy_salts(conn, carrier.move.move_id, no)


async def scanned(carrier: Carrier, source: AsyncConnection, report: ErasureReport) -> None:
    """What a purge or a check has found at the source, place by place; in the transaction that keeps the report."""
    if carrier.evidence is None:
        return
    site = carrier.move.source_site
    await assert_lease(source, carrier.move.move_id, carrier.move.generation)
    for found in report.findings:
        place = word(found.place)
        if found.not_read:
            await add(carrier, source, statement.Residual(site, _now(), place, "not read", 0))
        else:
            said = (word(report.method), place, found.copies, found.planted, found.seen)
            await add(carrier, source, statement.Scan(site, _now(), *said))
    for left in report.residuals:
        expires = int(datetime.fromisoformat(left.expires).replace(tzinfo=UTC).timestamp()) if left.expires else 0
        # What it is called stands in the report: it may be a path, or a name that somebody gave.
        await add(carrier, source, statement.Residual(site, _now(), word(left.place), LISTED, expires))


async def given_up(carrier: Carrier, source: AsyncConnection, waves: int) -> None:
    """The rest of the move; in the transaction that forgets those waves. Nothing where every wave had moved."""
    if waves:
        await add(carrier, source, statement.Abort(carrier.move.source_site, _now(), waves), "abort")


async def erased(carrier: Carrier) -> None:
    """The move is over: whom its log at the source commits to can be told to nobody any more. Idempotent."""
    move = carrier.move
    async with carrier.source() as source:
        async with source.transaction():
            await assert_lease(source, move.move_id, move.generation)
            await destroy_salts(source, move.move_id)
        await reclaim.rewrite_salts(source)


async def close(carrier: Carrier) -> None:
    """Both logs as they are now: signed, and cosigned by the other site. What fails is told in this process's log, and
    done at the next occasion: the leaves are there."""
    if carrier.evidence is not None:
        try:
            async with carrier.sites() as sites:
                await close_at(carrier.evidence, (carrier.move.source_site, carrier.move.target_site), sites)
        except Exception as trouble:
            log.warning("the logs of evidence are not closed by a checkpoint yet: %s", _why(trouble))


async def close_at(
    evidence: Evidence, names: tuple[SiteName, SiteName], sites: tuple[AsyncConnection, AsyncConnection]
) -> None:
    """The same at these two sites, raising what goes wrong: evidence-forked."""
    one, other = (checkpoints.End(conn, evidence.logs[name]) for name, conn in zip(names, sites, strict=True))
    await checkpoints.close_log(one, other, _now())
    await checkpoints.close_log(other, one, _now())


def root_hash(root: str) -> Hex:
    """A root as a statement has it: of one that was taken in another mode, whose name stands in front, the hash alone.
    A wave without a root (its copy was never sealed) has zeroes."""
    return Hex(root.rpartition(":")[2]) if root else statement.FIRST


def word(text: str) -> str:
    """A text in the alphabet of statements, which take no free text: other characters are blanks, and it is cut."""
    return _OTHER.sub(" ", text).strip(" ._:/-")[:WORD_MAX].strip() or "unnamed"


def _why(trouble: Exception) -> str:
    """In words without a value: of an error that is nobody's, its kind."""
    match trouble:
        case DomicileError():
            return trouble.message
        case psycopg.Error():
            return explain(refusal_of(trouble), "site", "evidence").message
    return type(trouble).__name__


def _now() -> int:
    """POSIX seconds, for people."""
    return int(time.time())
