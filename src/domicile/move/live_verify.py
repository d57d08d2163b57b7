"""Verify a wave whose users keep writing: both sites are compared in full once, and what was touched meanwhile again
and again, until only a few rows are left for the comparison under the wave's lock.

The source is read in one snapshot; a marker then tells when the target has everything that this snapshot sees. What the
target has beyond it was touched by transactions that the snapshot does not see: the apply remembers these keys. A row
that differs and was not touched is a discrepancy. Nothing here makes anybody wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
import secrets
from typing import Any

from psycopg import AsyncConnection

from domicile.model.datamap import PartyPolicy
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Reference, Schema, TableName
from domicile.model.verdict import Verdict
from domicile.move import clearing, parties, shared, verify
from domicile.move.differences import Excused, classify
from domicile.move.live_wave import LiveWave
from domicile.move.reader import Reader, Sessions, one_snapshot, open_sessions, together
from domicile.postgres import references, shared_rows, storage
from domicile.postgres.checksum import Part, Shape
from domicile.postgres.storage import Leaf
from domicile.stream import compare
from domicile.stream.change import Key
from domicile.stream.compare import Side, Touched
from domicile.stream.layout import Identity
from domicile.stream.reparent import by_table
from domicile.stream.seam import Seam

FEW_ROWS = 200  # are compared at once, right before the handover
ROUNDS_MAX = 30
VISIBLE_SECONDS = 0.01  # between two looks whether all that was read is visible
LOOSE_LOOKS = 3  # at a reference that no site declares, before what dangles is the move's doing
SHRINKING = 0.8  # a round that leaves more than this share of the touched rows is as good as it gets
_SNAPSHOT = "select pg_catalog.pg_current_snapshot()::text"
_MARK = "select pg_catalog.pg_logical_emit_message(true, 'domicile', %s::bytea)"


class Replaced(DomicileError):
    """Rows may have come or gone at the source of which the stream says nothing: the wave is to be compared in full."""


async def mark(live: LiveWave) -> None:
    """Wait until the target has everything that was committed at the source before this call. Raises lag-budget."""
    content = secrets.token_hex(8).encode()
    reached = live.catchup.expect(content)
    await live.source.execute(_MARK, (content,))
    await _in_time(live, reached)


async def visible(live: LiveWave) -> None:
    """Wait until every transaction that the stream has read so far is visible at the source; a commit is in the log
    before, with synchronous standbys long before. Raises lag-budget.

    For who has opened the stream anew: what others applied of it is at the target, and is not noted as touched.
    """
    await mark(live)
    read = frozenset(live.catchup.filter.read)

    async def until_all_are() -> None:
        while True:
            if await sees(live.source, read):
                return
            await asyncio.sleep(VISIBLE_SECONDS)

    await _in_time(live, until_all_are())


async def sees(source: AsyncConnection, transactions: Collection[int]) -> bool:
    """Whether a new snapshot at the source sees all of them."""
    seam = Seam.parse(await _seen(source))
    return all(map(seam.sees, transactions))


async def _in_time(live: LiveWave, wanted: Awaitable[object]) -> None:
    """Beside the stream, while the budget for catching up lasts."""
    seconds_max = live.move.plan.limits.catch_up_seconds_max
    try:
        async with asyncio.timeout(seconds_max):
            await live.beside(wanted)
    except TimeoutError:
        raise DomicileError(
            ErrorCode.LAG_BUDGET,
            f"the stream did not catch up within {seconds_max:g} s",
            facts={"lag_seconds": round(live.catchup.lag_seconds, 1)},
            safe=f"The wave steps back; {live.move.source_site} serves and nothing has changed.",
            hint="Smaller waves catch up sooner; limits.catch_up_seconds_max allows for more. Then: domicile resume",
        ) from None


async def whole(live: LiveWave) -> Verdict:
    """Every row of the wave, at both sites. Rows touched meanwhile are excused here, and stay to be compared."""
    move = live.move
    live.leaves = await storage.leaves(live.source, move.data_map.in_scope())  # before the snapshot
    await live.beside(clearing.run(move, live.wave))
    await visible(live)
    streams = max(1, move.plan.limits.streams)
    async with AsyncExitStack() as stack:
        pace = live.carrier.pacing.question
        at_source = await stack.enter_async_context(open_sessions("source", move, streams, pace=pace))
        seam = Seam.parse(await at_source.ask("the snapshot of the wave", _seen))
        await mark(live)
        at_target = await stack.enter_async_context(open_sessions("target", move, streams, pace=pace))
        source = Reader(at_source, live.wave.source_id, _shapes(live, move.source_schema))
        target = Reader(at_target, live.wave.target_id, _shapes(live, move.target_schema))

        async def touched() -> tuple[Excused, int]:
            await _note_unclear(live, seam, (at_source, at_target))
            return await _excused(live, seam)

        verdict = await live.beside(verify.compare(move, live.wave, (source, target), live.mode, touched))
    _compared(live, seam)
    return replace(verdict, broken_references=await _still_broken(live, dict(verdict.broken_references)))


async def _still_broken(live: LiveWave, broken: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Of these references, those that are broken by the move. One that no site declares may come to dangle at the
    source while both are read: then it is asked for again, at the target first, which is always behind."""
    move, found = live.move, []
    # Whom only rows name that come behind that: they are touched, and proven as such.
    missing = await _make_stubs(live)
    for _ in range(LOOSE_LOOKS if missing else 0):
        missing &= await _make_stubs(live)
    with_stubs = await parties.broken(move, live.target, live.wave.target_id, missing)
    nowhere = await _copy_shared(live)
    for _ in range(LOOSE_LOOKS if nowhere else 0):
        nowhere &= await _copy_shared(live)
    copied = move.data_map.copied()
    for proof in references.to_prove(move.data_map, move.source_schema, move.target_schema):
        rows = broken.get(name := references.shown(proof), 0)
        rows = with_stubs.get(name, rows)
        if proof.to_table in copied:  # what no row at the source has dangles there where no foreign key forbids it
            rows = sum(reference == proof for reference, _ in nowhere) if proof.declared else 0
        for _ in range(LOOSE_LOOKS if rows and not proof.declared else 0):
            there = await references.broken(live.target, move.data_map, proof, live.wave.target_id)
            here = await references.broken(live.source, move.data_map, proof, live.wave.source_id)
            if (rows := max(0, there - here)) == 0:
                break
        found += [(name, rows)] if rows else []
    return tuple(found)


async def require_same_leaves(live: LiveWave) -> None:
    """Since the wave was compared in full, rows came and went at the source by way of the stream only. Raises
    `Replaced`. Asked beside what ``live.source`` is asked."""
    await _require_leaves(live, live.leaves)


@asynccontextmanager
async def explained(live: LiveWave) -> AsyncIterator[None]:
    """A discrepancy found in the block is told as what it comes from, where partitions were replaced meanwhile."""
    was = live.leaves
    try:
        yield
    except DomicileError as why:
        if why.code is ErrorCode.DISCREPANCY:
            await _require_leaves(live, was)
        raise


async def until_few(live: LiveWave) -> None:
    """Compare touched rows until few are left, or as few as there will be while users write."""
    for _ in range(ROUNDS_MAX):
        before = live.dirty_rows()
        if before <= FEW_ROWS:
            return
        await touched_rows(live)
        if live.dirty_rows() > before * SHRINKING:
            return


async def touched_rows(live: LiveWave, *, following: bool = False) -> None:
    """Compare what was touched once more. Raises discrepancy when a row differs that nobody touches any more.

    ``following``: the target is a copy that stays closed, and whom its rows name is asked when the wave is to live
    there.
    """
    there = _without_parties(live) if following else live.there
    async with AsyncExitStack() as stack:
        at_source = await stack.enter_async_context(one_snapshot("source", live.reading[0]))
        seam = Seam.parse(await at_source.ask("the snapshot of touched rows", _seen))
        await mark(live)
        at_target = await stack.enter_async_context(one_snapshot("target", live.reading[1]))
        keys = seen(live, seam)
        ours, theirs = await together(
            sessions.ask("touched rows", partial(side.sums, keys=keys))
            for sessions, side in ((at_source, live.here), (at_target, live.there))
        )
        for no in compare.differing(ours, theirs):
            await _compare_rows(live, (at_source, at_target), no, keys[no], seam)
        orphans = await at_target.ask("touched rows", partial(there.orphans, keys=seen(live, seam)))
        if not following and (any(orphans.values()) or compare.anybody_gone(keys, ours.get(0, Part(0, 0)).rows)):
            await _copy_shared(live, {live.layout.tables[no].name for no, rows in orphans.items() if rows})
            await _make_stubs(live)
            orphans = await live.there.orphans(live.target, seen(live, seam))
        for no, rows in orphans.items():
            if rows:
                raise _discrepancy(live, no, rows, "refer to a row that is not there")
    _compared(live, seam)


async def equal_rows(live: LiveWave) -> Touched:
    """The touched rows that are equal at both sites, right before the handover, in which nobody need compare them again
    unless the stream touches them.

    Of those that the source's snapshot sees, and behind a marker: so what touched them is committed at both sites, and
    is not noted again. Others are left out. Where somebody may need a stub, what was touched is compared by itself
    before.
    """
    equal, settled = await _equal_rows(live)
    if not settled and (parties.wanted(live.move.data_map) or shared_rows.wanted(live.move.data_map)):
        await touched_rows(live)
        equal, _ = await _equal_rows(live)
    return equal


async def _equal_rows(live: LiveWave) -> tuple[Touched, bool]:
    """The same without that; and whether nobody may need a stub."""
    seam = Seam.parse(await _seen(live.source))
    await mark(live)
    noted, keys = live.touched(), seen(live, seam)
    # Row by row: over a long line many are touched again between the two looks, and sums would tell of none.
    questions: list[Coroutine[None, None, Any]] = [
        live.here.hashes(live.source, keys),
        live.there.hashes(live.target, keys),
        live.here.names(live.reading[0], keys),
        live.there.orphans(live.reading[1], keys),
    ]
    ours, theirs, names, orphans = await together(questions)
    same = compare.equal(keys, names, (ours, theirs))
    equal = {no: {key: noted[no][key] for key in listed} for no, listed in same.items() if not orphans.get(no)}
    gone = compare.anybody_gone(keys, ours[0].total() if 0 in ours else 0)
    return equal, not any(orphans.values()) and not gone


def _without_parties(live: LiveWave) -> Side:
    """The target, where references to second persons with a policy, and to copied rows, are not proven. Pure."""
    policy_of, copied = live.move.data_map.policy_of, live.move.data_map.copied()
    proven = {
        no: [r for r in of if policy_of(r) is PartyPolicy.REFUSE and r.to_table not in copied]
        for no, of in live.there.references.items()
    }
    return replace(live.there, references=proven)


async def _make_stubs(live: LiveWave) -> set[str]:
    """Whom the wave's rows at the target refer to has a row there, or the reference is cleared, or what they refer to
    was about to change, and has. Returns who was to have a row, and had none. Raises reference-missing."""
    missing = await parties.make(live.move, live.wave)
    await clearing.run(live.move, live.wave)
    if missing or clearing.wanted(live.move.data_map):
        await mark(live)
    return {*missing}


async def _copy_shared(live: LiveWave, tables: set[TableName] | None = None) -> set[tuple[Reference, shared_rows.Key]]:
    """The shared rows that the wave's rows at the target refer to are there, as far as the source had them; of others
    by now the stream says what became of who referred to them. Returns these. Raises keys-collide."""
    nowhere = await live.beside(shared.make(live.move, live.wave, tables))
    if nowhere:
        await mark(live)
    return nowhere


async def _compare_rows(
    live: LiveWave, sites: tuple[Sessions, Sessions], no: int, keys: Sequence[Key], seam: Seam
) -> None:
    """Which rows of the table differ, and whether anybody still touches them."""
    ours = await sites[0].ask("touched rows", partial(live.here.rows, no=no, keys=keys))
    theirs = await sites[1].ask("touched rows", partial(live.there.rows, no=no, keys=keys))
    differing = {key for listed in classify(ours, theirs).values() for key in listed}
    await _note_unclear(live, seam, sites)
    still = seen(live, seam).get(no, [])
    if live.layout.tables[no].identity is Identity.FULL:
        # The whole table was compared: whoever has touched any of it since may be why it differs.
        quiet = differing if still == keys and no not in unseen(live, seam) else set()
    else:
        hashes = (await live.here.names(live.source, {no: keys}))[no]
        quiet = {h for h in differing if hashes[h] in set(still)}
    if quiet:
        raise _discrepancy(live, no, len(quiet), "are not what was committed at the source")


async def _note_unclear(live: LiveWave, seam: Seam, sites: tuple[Sessions, Sessions]) -> None:
    """What hangs from these rows counts as touched, too, because the stream tells nothing of it:

    - rows that came into the wave were read at a snapshot of their own. Where that is later than ours, what hangs from
      them in ours may be gone since;
    - rows that passed from one member to another since our snapshot, whether under the same key or another. At the
      target, what hangs from them is the other's.
    """
    later = {row: xid for row, xid in live.reparent.read.items() if not seam.sees_short(xid)}
    later |= await _passed_on(live, seam, sites)
    for no, keys in by_table(later):
        for table, key in await sites[0].ask("rows below others", partial(live.reparent.below, no=no, keys=keys)):
            touched = live.apply.dirty.get(table, {}).get(key)
            if touched is None or seam.sees_short(touched):
                live.reparent.touch(table, key, max(later.values()))


async def _passed_on(live: LiveWave, seam: Seam, sites: tuple[Sessions, Sessions]) -> dict[tuple[int, Key], int]:
    """Rows from which others hang, and which are not this member's at the target, or not under this key: who touched
    them last, as in ``Reparent.read``."""
    steps = [step for table in live.layout.tables for step in live.move.data_map.path(table.name)]
    above = {step.to_table for step in steps}
    found: dict[tuple[int, Key], int] = {}
    for no, keys in unseen(live, seam).items():
        if no == 0 or live.layout.tables[no].name not in above:  # a subject's own row is always its own
            continue
        ours = await sites[0].ask("owners of touched rows", partial(live.here.belonging, no=no, keys=keys))
        theirs = await sites[1].ask("owners of touched rows", partial(live.there.belonging, no=no, keys=keys))
        if passed := {row for row, _ in ours - theirs}:
            key_of = (await live.here.names(live.source, {no: keys}))[no]
            found |= {(no, key_of[row]): live.apply.dirty[no][key_of[row]] for row in passed}
    return found


def _shapes(live: LiveWave, schema: Schema) -> Mapping[TableName, Shape]:
    """Rows are named as the stream names those that were touched."""
    return compare.named_by_stream(live.layout, verify.shapes(live.move, schema, live.mode))


def seen(live: LiveWave, seam: Seam) -> dict[int, list[Key]]:
    """Touched rows whose last change the snapshot sees."""
    return _touched_by(live, seam.sees_short)


def unseen(live: LiveWave, seam: Seam) -> dict[int, list[Key]]:
    """Touched rows whose last change the snapshot does not see."""
    return _touched_by(live, lambda xid: not seam.sees_short(xid))


def _touched_by(live: LiveWave, whom: Callable[[int], bool]) -> dict[int, list[Key]]:
    touched = live.apply.dirty.items()
    return {no: listed for no, keys in touched if (listed := [key for key, xid in keys.items() if whom(xid)])}


def _compared(live: LiveWave, seam: Seam) -> None:
    """Forget the touched rows that a comparison under this snapshot has covered."""
    for no, keys in seen(live, seam).items():
        for key in keys:
            del live.apply.dirty[no][key]
    for row in [row for row, xid in live.reparent.read.items() if seam.sees_short(xid)]:
        del live.reparent.read[row]


async def _excused(live: LiveWave, seam: Seam) -> tuple[Excused, int]:
    """The rows touched by transactions that the snapshot does not see, as hashes of their keys."""
    later = unseen(live, seam)
    excused: dict[TableName, frozenset[int] | None] = {}
    for no, keys in later.items():
        table = live.layout.tables[no]
        whole_table = table.identity is Identity.FULL
        excused[table.name] = None if whole_table else frozenset((await live.here.names(live.source, {no: keys}))[no])
    return excused, compare.count(later)


async def _require_leaves(live: LiveWave, was: frozenset[Leaf]) -> None:
    now = await storage.leaves(live.reading[0], live.move.data_map.in_scope())
    if now == was:
        return
    tables, files_only = storage.changed(was, now)
    named = ", ".join(map(str, tables))
    raise Replaced(
        ErrorCode.STREAM_TRUNCATED if files_only else ErrorCode.SCHEMA_CHANGED,
        f"{named} was truncated or rewritten while a wave was on its way"
        if files_only
        else f"partitions of {named} came or went while a wave was on its way",
        facts={"tables": [str(table) for table in tables]},
        safe=f"The wave steps back; {live.move.source_site} serves and nothing has changed.",
        hint=f"The wave is copied anew by: domicile resume {live.move.move_id}",
    )


async def _seen(conn: AsyncConnection) -> str:
    row = await (await conn.execute(_SNAPSHOT)).fetchone()
    assert row is not None
    return str(row[0])


def _discrepancy(live: LiveWave, no: int, rows: int, what: str) -> DomicileError:
    name = live.layout.tables[no].name
    return DomicileError(
        ErrorCode.DISCREPANCY,
        f"{rows} rows of {name} at {live.move.target_site} {what}",
        facts={"table": str(name), "rows": rows},
        safe="The wave steps back; the source serves and nothing has changed.",
        hint=f"domicile resume {live.move.move_id} copies the wave anew; when it comes again, please report it.",
    )
