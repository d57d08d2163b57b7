"""Checkpoints: a site's log is closed up to now, signed, and cosigned by the other site, which has seen it grow.

    at the witness   nobody else has checkpoints of this log cosigned here        a lock, until the cosignature is kept
    at the log       leaves that wait get their places; size and root are signed  committed, before the witness sees it
    at the witness   the log has grown from the last checkpoint cosigned here     written down, then given away
    at the log       the checkpoint, with its cosignature

Cut anywhere it is done again from the beginning: what was signed is in the log's database by then."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import AsyncConnection, errors

from domicile.evidence import checkpoint, merkle
from domicile.evidence.checkpoint import Checkpoint
from domicile.evidence.ledger import Witness
from domicile.evidence.merkle import Frontier
from domicile.evidence.note import Note, parse_note
from domicile.evidence.strict import Malformed
from domicile.ledger.keys import LogKeys
from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres import evidence_rows
from domicile.postgres.evidence_rows import Kept


@dataclass(frozen=True, slots=True)
class End:
    """One of two sites: a session of its own (autocommit), and its keys."""

    conn: AsyncConnection
    keys: LogKeys


async def close_log(own: End, other: End, time: int) -> Note | None:
    """The log of ``own`` as it is now, signed by it and cosigned by ``other`` at a POSIX time; None for an empty log.

    Idempotent: a log with no new leaf keeps its checkpoint. Raises evidence-forked when it has not grown from what the
    other site has cosigned: then nothing is cosigned; and LockNotAvailable while another mover closes it for long.
    """
    try:
        return await _closed(own, other, time)
    except (Malformed, LookupError, ValueError):
        raise _forked(own.keys.origin, 0, 0, "what the sites have kept of its checkpoints is damaged") from None


async def _closed(own: End, other: End, time: int) -> Note | None:
    origin = own.keys.origin
    async with other.conn.transaction():
        await evidence_rows.one_at_a_time(other.conn, origin)
        seen = await evidence_rows.latest(other.conn, origin)
        try:
            note, frontier = await _sign(own)
        except errors.UniqueViolation:
            why = "its leaves have places that no checkpoint of it tells of"
            raise _forked(origin, seen.size if seen else 0, 0, why) from None
        if seen is not None and seen.size > frontier.size:
            raise _forked(origin, seen.size, frontier.size, "it is shorter than what the other site has cosigned")
        if not frontier.size:
            return None
        if any(line.is_of(other.keys.witness.key) for line in note.signatures):
            return note
        cosigned = await _cosigned(own, other, (note, frontier.size), seen, time)
        await evidence_rows.keep_checkpoint(other.conn, origin, frontier.size, cosigned.encode().encode())
    await evidence_rows.keep_checkpoint(own.conn, origin, frontier.size, cosigned.encode().encode())
    return cosigned


async def _sign(own: End) -> tuple[Note, Frontier]:
    """The latest checkpoint of the log, over every leaf that is committed."""
    origin = own.keys.origin
    async with own.conn.transaction():
        await evidence_rows.lock_log(own.conn)
        before = await evidence_rows.latest(own.conn, origin)
        frontier = _frontier(before)
        new = await evidence_rows.place(own.conn, frontier.size)
        if before is not None and not new:
            return parse_note(before.note), frontier
        for leaf in new:
            frontier.append(leaf)
        note = checkpoint.issue(Checkpoint(origin, frontier.size, frontier.root()), own.keys.log)
        if new:
            raw = note.encode().encode()
            await evidence_rows.keep_checkpoint(own.conn, origin, frontier.size, raw, frontier.roots)
    return note, frontier


async def _cosigned(own: End, other: End, new: tuple[Note, int], seen: Kept | None, time: int) -> Note:
    note, size = new
    origin = own.keys.origin
    witness = Witness(other.keys.witness)
    growth: list[bytes] = []
    if seen is not None:
        witness.seen[origin] = checkpoint.read(parse_note(seen.note))
        before = await evidence_rows.at_size(own.conn, origin, seen.size)
        if before is None:
            raise _forked(origin, seen.size, size, "it does not know the checkpoint that the other site has cosigned")
        growth = merkle.growth(_frontier(before), await evidence_rows.hashes(own.conn, seen.size, size))
    try:
        return witness.cosign(note, own.keys.log.key, growth, time)
    except Malformed as why:
        raise _forked(origin, seen.size if seen else 0, size, str(why)) from None


def _frontier(kept: Kept | None) -> Frontier:
    return Frontier() if kept is None else Frontier(kept.size, list(kept.roots))


def _forked(origin: str, seen: int, size: int, why: str) -> DomicileError:
    return DomicileError(
        ErrorCode.EVIDENCE_FORKED,
        f"the log {origin} has not grown from what the other site has cosigned: {why}",
        facts={"log": origin, "cosigned": seen, "size": size},
        safe="Nothing was cosigned. Moves go on; no row is touched by this.",
        hint="Its database was restored, altered, or replaced by a standby that lacked commits; see docs/reference/"
        "evidence.md.",
    )
