"""The handover of a live wave: its writers wait for one round trip between the sites, nobody else waits at all.

    ready     little is missing at the target, few rows are touched and not compared, no writer is old
    closing   writers of the wave hold its lock from now on; those from before have ended            nobody waits
    rehearse  the sessions plan what they will be asked under the lock                               nobody waits
    compare   touched rows are compared a last time; what the stream brings now is kept as the tail  nobody waits
    lock      the mover takes the lock for himself: writers in flight end, new ones wait             the pause begins
    depart    one commit at the source: departed, and a marker in the stream; rows are hashed there meanwhile
    tail      the stream brings what was committed up to the marker; what is new in it is hashed, too
    arrive    one round trip: the target applies the tail, compares the hashes, becomes the home     point of no return
    release   the lock is free: who waited is told the new home                                      the pause ends
    publish   the directory knows; the copy that stays behind is sealed

A try that does not succeed before the arrival steps back by itself: the source's mark is what it was, and the stream
goes on. The decisions are those of ``model/handover.py``; a process that comes after a crash has no lock and no tail,
so for it the wave is not fit and goes back (`recover`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
import secrets
import time
from typing import TypeVar

import psycopg

from domicile.directory.directory import Home
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import Action, Facts, SourceMark, TargetMark, next_action
from domicile.model.site import MoveId
from domicile.move import evidence, live_verify, parties
from domicile.move.carrier import Carrier
from domicile.move.context import Move
from domicile.move.evidence import Crossing
from domicile.move.live_wave import LiveWave
from domicile.postgres import guard, wave_lock, waves
from domicile.postgres.checksum import Part
from domicile.postgres.evidence_rows import INSERT_NUMBERED, Entry
from domicile.postgres.failures import explain
from domicile.postgres.lease import assert_lease, settle_doubt
from domicile.postgres.wave_lock import WaveLock
from domicile.stream import compare
from domicile.stream.change import Op, Transaction
from domicile.stream.compare import Keys, Touched
from domicile.stream.pipeline import REFUSED, Refused, Statement

T = TypeVar("T")
DEAD_MAN_MARGIN_MS = 1_000
SERVED_SECONDS = 0.1  # until those who waited for a handover are served at the new home, all at once
DRAINS_MAX = 5  # more, right before the lock
NO_WAVE = 0  # none has this number: what is rehearsed arrives nowhere
NO_EVIDENCE = Crossing()
NO_LEAF = Entry(MoveId(""), 0, b"")  # nor does any move have this name
# The term ends with the arrival: this stream carries nothing more out, whatever it still has. Nor is it ahead of itself
# any more: from here on rows of these keys are the application's, who may give them to anybody.
_ARRIVE = b"""
    with passed as (delete from domicile.ahead where wave = $1::integer),
    done as (
        update domicile.wave set mark = 'resident', home = $2, epoch = $3::bigint, term = term + 1,
            arrival = pg_catalog.pg_current_snapshot()::text || ' ' || pg_catalog.pg_current_xact_id()::text
                || ' ' || (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::bigint::text
        where id = $1::integer and mark = 'arriving' returning 1)
    select case when pg_catalog.count(*) <> 1 then domicile.refuse('it is not arriving', 'domicile.wave') end
    from done"""


@dataclass(frozen=True, slots=True)
class Drains:
    """``last`` is what the last drain reported as ``entered``; how it is asked now, and how to drain ``again``, which
    answers the same of that drain."""

    last: int
    entered: Callable[[], Awaitable[int]]
    again: Callable[[], Awaitable[int]]


Hashed = tuple[Keys, dict[int, Part]]  # keys, and what their rows add up to at the source


async def attempt(
    live: LiveWave,
    drains: Drains,
    lock_session: psycopg.AsyncConnection,
    equal: Touched,
    leaves: Crossing = NO_EVIDENCE,
) -> None:
    """One try with a wave that is closing and drained. Raises why it stepped back; the wave is open again then.

    ``equal`` is what `live_verify.equal_rows` found, ``leaves`` what `rehearse` has sealed for this try. Raises
    lease-lost untouched: another process decides then.
    """
    try:
        async with live.quiet():
            await live.beside(_expect(live))
            entered = await live.beside(_held(live, drains))
            await _under_lock(live, entered, lock_session, (equal, leaves))
            # We ask nothing of anybody now; to end a session would cost a server a millisecond or two.
            await asyncio.sleep(SERVED_SECONDS)
    finally:
        live.catchup.go_on()


async def _held(live: LiveWave, drains: Drains) -> int:
    """The stream is held, what it sent has landed, and nobody has come into the wave since the last drain: its
    ``entered``. Where users give each other rows somebody does at any time, which would end the try under the lock.
    Drained again while the stream goes on: who came in may have something for it to do."""
    last = drains.last
    for _ in range(DRAINS_MAX):
        if await drains.entered() != last:
            last = await drains.again()
            continue
        live.catchup.hold()
        await live.catchup.landed()  # over a long line it would cost the pause another round trip
        if await drains.entered() == last:
            return last
        live.catchup.go_on()
    live.catchup.hold()
    await live.catchup.landed()
    return last


async def rehearse(live: LiveWave, lock_session: psycopg.AsyncConnection) -> Crossing:
    """The sessions plan what they will be asked under the lock, where somebody waits for it. Changes nothing. Returns
    the leaves of the next try for both sites' logs, sealed: under the lock they are two more rows.

    The stream is held meanwhile: it would go on in the session at the target. Raises pause-budget when it cannot be.
    """
    live.catchup.hold()
    try:
        await live_verify.mark(live)  # from here on it sends nothing
        await live.beside(live.catchup.landed())
        await live.beside(wave_lock.rehearse(lock_session, live.wave.source_id))
        await live.beside(live.here.sums(live.source, compare.no_rows(live.layout)))
        arrival = [Statement(INSERT_NUMBERED, NO_LEAF.texts, keep=True), _arrive(live, NO_WAVE)]
        arrival += parties.require_nobody_lost(live.move, live.wave, live.layout, ())
        await live.beside(live.apply.rehearse([*compare.rehearsal(live.there), *arrival]))
    finally:
        live.catchup.go_on()
    wave = (live.wave.no, live.wave.epoch)
    return await live.beside(evidence.crossing(live.carrier, live.source, live.target, wave, live.root))


async def _expect(live: LiveWave) -> None:
    """A copy to which the wave comes back lets its writers wait from now on, instead of sending them where it was. Not
    before: whoever believes the wave to live there would wait for no reason."""
    move, wave = live.move, live.wave
    if move.back:
        async with live.target.transaction():
            await assert_lease(live.target, move.move_id, move.generation)
            await guard.set_fence(live.target, wave.target_id, TargetMark.ARRIVING, move.source_site, wave.epoch)


async def _under_lock(
    live: LiveWave, entered: int, lock_session: psycopg.AsyncConnection, prepared: tuple[Touched, Crossing]
) -> None:
    move, limits = live.move, live.move.plan.limits
    equal, leaves = prepared
    asked = time.monotonic()
    try:
        async with (
            AsyncExitStack() as behind,  # the lock's release
            wave_lock.hold(
                lock_session,
                live.wave.source_id,
                entered=entered,
                timeout_ms=min(limits.lock_timeout_ms, limits.pause_ms_max),
                dead_man_ms=limits.pause_ms_max + DEAD_MAN_MARGIN_MS,
            ) as lock,
        ):
            asked = lock.asked
            await move.failpoints.reach("live.locked")
            # Nobody whom the guard asks can write the wave's rows any more: what is known of is hashed meanwhile.
            known = compare.uncompared(live.touched(), equal, live.catchup.waiting)
            early = await behind.enter_async_context(_meanwhile(_hashed(live, known)))
            await _cross(live, lock, lock.asked + limits.pause_ms_max / 1000, (equal, early), leaves)
            await move.failpoints.reach("live.arrived")
    finally:
        live.waited((time.monotonic() - asked) * 1000)


async def _cross(
    live: LiveWave, lock: WaveLock, deadline: float, known: tuple[Touched, asyncio.Task[Hashed]], leaves: Crossing
) -> None:
    """From the departure to the arrival, or back to where the wave was. ``known``: as for `_comparing`."""
    tail, statements = await _depart(live, lock, deadline, known, leaves)
    try:
        async with _until(deadline):
            await (await live.apply.send(statements, tail))
            live.catchup.arrived()
    except (TimeoutError, Refused, DomicileError) as trouble:
        said_no = isinstance(trouble, Refused) and bool(trouble.refusal.sqlstate)
        if not said_no and await _arrived(live):
            live.catchup.arrived()
            return
        await _back(live, lock, leaves)
        raise (_refused(live, trouble) if isinstance(trouble, Refused) else _over_budget(live)) from None


async def _depart(
    live: LiveWave, lock: WaveLock, deadline: float, known: tuple[Touched, asyncio.Task[Hashed]], leaves: Crossing
) -> tuple[list[Transaction], list[Statement]]:
    """The tail, and the arrival as one round of statements; or back to where the wave was."""
    move, wave = live.move, live.wave
    content = secrets.token_hex(8).encode()
    marker = live.catchup.expect(content)
    try:
        await lock.depart(move.move_id, move.generation, move.target_site, wave.epoch, content, leaves.departure)
    except BaseException:
        marker.cancel()  # nobody writes it
        raise
    try:
        await move.failpoints.reach("live.departed")
        async with _until(deadline):
            tail = await live.beside(marker)
            comparing = await _comparing(live, known, tail)
            arriving = [*_told(leaves), _arrive(live, live.wave.target_id)]
            return tail, [*live.apply.compose(tail), *comparing, *arriving]
    except BaseException as trouble:
        await _back(live, lock, leaves)
        raise _over_budget(live) if isinstance(trouble, TimeoutError) else trouble from None


async def recover(carrier: Carrier, no: int) -> bool:
    """After a crash, or when a try ended in doubt: True when the wave lives at the target (then it is published), else
    the source serves again and the wave may catch up once more. Idempotent.

    Raises site-unreachable when a site cannot be asked: until then both may refuse the wave's writers.
    """
    move = carrier.move
    async with carrier.sites() as (source, target):
        await settle_doubt(target, move.move_id, move.generation)
        await settle_doubt(source, move.move_id, move.generation)
        while True:
            at_source = await waves.find_wave(source, move.move_id, no)
            at_target = await waves.find_wave(target, move.move_id, no)
            facts = Facts(
                source=waves.source_mark(at_source),
                target=waves.target_mark(at_target),
                published=await carrier.directory.reserved(move.move_id, no) == 0,
                fit=False,
            )
            if facts.two_homes():
                raise _twice_at_home(move, no)
            match next_action(facts):
                case Action.FINISHED:
                    return True
                case Action.PUBLISH:
                    assert at_target is not None
                    home = Home(move.target_site, at_target.epoch)
                    await carrier.directory.publish(move.plan.dataset, move.move_id, no, home)
                    await move.failpoints.reach("live.published")
                case _:
                    if at_source is not None and facts.source is not SourceMark.OPEN:
                        await _reopen(carrier, source, no, at_source)
                    return False


def _twice_at_home(move: Move, no: int) -> DomicileError:
    return DomicileError(
        ErrorCode.DISCREPANCY,
        f"{move.source_site} does not know any more that wave {no} has left it: a failover has taken the departure",
        facts={"wave": no},
        safe=f"{move.target_site} serves the wave, and {move.source_site} takes writes for it until the next order.",
        hint=f"Have it closed there now: domicile resume {move.move_id} (docs/how-to/fail-over.md)",
    )


async def _reopen(carrier: Carrier, source: psycopg.AsyncConnection, no: int, record: waves.WaveRecord) -> None:
    move = carrier.move
    mark, epoch = open_mark(carrier, record)
    async with source.transaction():
        await assert_lease(source, move.move_id, move.generation)
        await guard.set_fence(source, record.id, mark, move.source_site, epoch)
        if record.mark == SourceMark.DEPARTED:
            await evidence.stepped_back(carrier, source, move.source_site, no, record.epoch)


def open_mark(carrier: Carrier, record: waves.WaveRecord) -> tuple[str, int]:
    """The mark and the epoch under which the losing site served the wave: what a step back returns to."""
    if not carrier.move.back:
        return SourceMark.OPEN, 0
    return TargetMark.RESIDENT, record.epoch - 1


async def _back(live: LiveWave, lock: WaveLock, leaves: Crossing) -> None:
    """departed -> as it was, still under the lock: the writers that wait pass."""
    move, wave = live.move, live.wave
    mark = TargetMark.RESIDENT if move.back else SourceMark.OPEN
    epoch = wave.epoch - 1 if move.back else 0
    await lock.reopen(move.move_id, move.generation, mark, move.source_site, epoch, leaves.taken_back)


async def _arrived(live: LiveWave) -> bool:
    """Ask the target, once no transaction of ours is open there any more, and none can come that is on its way."""
    move = live.move
    live.closed = True
    await live.apply.close()
    await settle_doubt(live.target, move.move_id, move.generation)
    record = await waves.find_wave(live.target, move.move_id, live.wave.no)
    return waves.target_mark(record) is TargetMark.RESIDENT


async def _hashed(live: LiveWave, keys: Keys) -> Hashed:
    return keys, await live.here.sums(live.source, keys)


async def _comparing(
    live: LiveWave, known: tuple[Touched, asyncio.Task[Hashed]], tail: list[Transaction]
) -> list[Statement]:
    """Statements that refuse the arrival unless the last rows hash at the target, with the tail, as they do at the
    source, where nobody can write them now, and what they refer to is there; what other touched rows refer to, too,
    where any of it may have gone since they were compared. Meanwhile it is looked whether partitions came or went: what
    did is behind the departure. ``known``: what was found equal before, and the rows that are being hashed since the
    lock was had."""
    equal, early = known
    noted = live.touched()
    last = compare.uncompared(noted, equal, tail)
    async with _meanwhile(live_verify.require_same_leaves(live)) as same_leaves:
        hashed, sums = await live.beside(early)
        later = await live.here.sums(live.source, compare.without(live.layout, last, hashed))
        await live.beside(same_leaves)
    ours = compare.added(sums, later)
    require = [live.there.require(no, last[no], part) for no, part in ours.items()]
    if compare.anybody_gone(last, ours[0].rows if 0 in ours else 0):
        require += parties.require_nobody_lost(live.move, live.wave, live.layout, last[0])
    gone = {change.table for transaction in tail for change in transaction.changes if change.op is Op.DELETE}
    gone |= {no for no, touched in noted.items() if touched.items() - equal.get(no, {}).items()}
    referring = {no: dict.fromkeys(last[no]) for no in ours}
    for no, touched in noted.items():
        if compare.refers(live.there, no, gone):
            referring.setdefault(no, {}).update(dict.fromkeys(touched))
    return [*require, *(one for no, keys in referring.items() for one in live.there.require_parents(no, list(keys)))]


def _arrive(live: LiveWave, wave_id: int) -> Statement:
    values = (b"%d" % wave_id, live.move.target_site.encode(), b"%d" % live.wave.epoch)
    return Statement(_ARRIVE, values, keep=True)


def _told(leaves: Crossing) -> list[Statement]:
    """The arrival's leaf, if evidence is written."""
    return [] if leaves.arrival is None else [Statement(INSERT_NUMBERED, leaves.arrival.texts, keep=True)]


@asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, T]) -> AsyncIterator[asyncio.Task[T]]:
    """``work`` while the block runs; what is left of it at the end is of no interest."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        task.cancelled() or task.exception()


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
        yield


def _over_budget(live: LiveWave) -> DomicileError:
    limit = live.move.plan.limits.pause_ms_max
    return DomicileError(
        ErrorCode.PAUSE_BUDGET,
        f"the handover would have taken longer than {limit} ms",
        facts={"pause_ms_max": limit},
        safe=f"{live.move.source_site} serves and nothing has changed.",
        hint="It is tried again; limits.pause_ms_max allows for a longer pause.",
    )


def _refused(live: LiveWave, refused: Refused) -> DomicileError:
    if refused.refusal.sqlstate != REFUSED:
        return explain(refused.refusal, "target", "taking the wave over")
    return DomicileError(
        ErrorCode.DISCREPANCY,
        f"{live.move.target_site} refused the wave: {refused.reason} ({refused.about})",
        facts={"table": refused.about},
        safe=f"{live.move.source_site} serves and nothing has changed.",
        hint="The rows are compared once more, then it is tried again.",
    )
