"""The site's own record of moves, waves and members (schema ``domicile`` of the dataset's database)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from domicile.model.handover import SourceMark, TargetMark
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.model.verdict import Discrepancy

MEMBERS_PER_FETCH = 10_000

_REGISTER_MOVE = """
    insert into domicile.move (move_id, dataset, here, role, peer, generation)
    values (%(move_id)s, %(dataset)s, %(here)s, %(role)s, %(peer)s, %(generation)s)
    on conflict (move_id) do update set generation = greatest(domicile.move.generation, excluded.generation)"""
_WAVE = "select id, mark, home, epoch from domicile.wave where move_id = %s and no = %s"
_STREAM = """
    select seam, (position - '0/0')::bigint, (seen - '0/0')::bigint, arrival, term
    from domicile.wave where id = %s"""
_SET_SEAM = """
    update domicile.wave
    set seam = %(seam)s, position = '0/0'::pg_lsn + %(position)s, seen = '0/0'::pg_lsn + %(position)s
    where id = %(wave)s"""
_LAST = "select coalesce(max(ordinal), 0) from domicile.member where wave = %s"
_COUNT = "select count(*) from domicile.member where wave = %s"
# The home of a subject always has its highest epoch, so the source alone can name the next one.
_NEXT_EPOCH = """
    select coalesce(max(w.epoch), 0) + 1
    from domicile.member as mine
    join domicile.member as other on other.subject = mine.subject and other.wave <> mine.wave
    join domicile.wave as w on w.id = other.wave and w.mark <> 'open'
    where mine.wave = %s"""
_INSERT_WAVE = """
    insert into domicile.wave (move_id, no, mark, home, epoch)
    values (%(move_id)s, %(no)s, %(mark)s, %(home)s, %(epoch)s) returning id"""
_FORGET_WAVE = (
    "delete from domicile.member where wave = %s",
    "delete from domicile.ahead where wave = %s",
    "delete from domicile.cleared where wave = %s",
    "delete from domicile.progress where wave = %s",
    "delete from domicile.purge_journal where wave = %s",
    "delete from domicile.discrepancy where wave = %s",
    "delete from domicile.ejected where wave = %s",
    "delete from domicile.wave where id = %s",
)
_PRESENCE = """
    select w.mark, w.home, w.epoch
    from domicile.member as m join domicile.wave as w on w.id = m.wave
    where m.subject = {subject} and w.mark <> 'open'
    order by w.epoch desc limit 1"""
_DISCREPANCIES = """
    select w.no, d.table_name, d.row_key, d.difference, d.columns
    from domicile.discrepancy as d join domicile.wave as w on w.id = d.wave
    where w.move_id = %s order by w.no, d.table_name, d.row_key"""
_NEED_THE_GUARD = """
    select count(*) from domicile.wave
    where mark in ('closing', 'fenced', 'arriving') or (mark = 'departed' and purged_at is null)"""


@dataclass(frozen=True, slots=True)
class WaveRecord:
    """One row of ``domicile.wave`` at one site."""

    id: int
    mark: str
    home: SiteName
    epoch: int


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """How far the stream that ends at this site has come. ``seam`` is the snapshot it continues, ``position`` (bytes of
    the other site's log) lies behind the last transaction applied, ``seen`` behind those that all see there;
    ``arrival`` begins the stream back, ``term`` tells it from one before: see ``sql/site.sql``."""

    seam: str
    position: int
    seen: int
    arrival: str
    term: int


@dataclass(frozen=True, slots=True)
class MoveAtSite:
    """What a site is told when a move begins there. ``role`` is ``source`` or ``target``."""

    move_id: MoveId
    dataset: DatasetName
    here: SiteName
    role: str
    peer: SiteName
    generation: int


async def register_move(conn: AsyncConnection, move: MoveAtSite) -> None:
    """Make the move known at the site, or raise its generation: this takes the lease over.

    Waits for a former holder's open transaction to end, because that holds the row. Idempotent.
    """
    await conn.execute(
        _REGISTER_MOVE,
        {
            "move_id": move.move_id,
            "dataset": move.dataset,
            "here": move.here,
            "role": move.role,
            "peer": move.peer,
            "generation": move.generation,
        },
    )


async def find_wave(conn: AsyncConnection, move_id: MoveId, no: int) -> WaveRecord | None:
    """The site's record of the wave, or None."""
    row = await (await conn.execute(_WAVE, (move_id, no))).fetchone()
    return None if row is None else WaveRecord(row[0], row[1], SiteName(row[2]), row[3])


async def stream_record(conn: AsyncConnection, wave_id: int) -> StreamRecord:
    """What the site has written down of the wave's streams; empty texts and 0 for what is not there."""
    row = await (await conn.execute(_STREAM, (wave_id,))).fetchone()
    assert row is not None
    return StreamRecord(row[0] or "", row[1] or 0, row[2] or 0, row[3] or "", row[4])


async def set_seam(conn: AsyncConnection, wave_id: int, seam: str, position: int) -> None:
    """A stream will end here that continues this snapshot of the other site; nothing up to ``position`` of its log is
    missing in it. Idempotent until the stream has begun."""
    await conn.execute(_SET_SEAM, {"seam": seam, "position": position, "wave": wave_id})


async def count_members(conn: AsyncConnection, wave_id: int) -> int:
    """How many subjects the wave has here."""
    return await _number(conn, _COUNT, wave_id)


async def last_ordinal(conn: AsyncConnection, wave_id: int) -> int:
    """The highest ordinal of the wave here, where ranges of them end: more than it has members once some were
    ejected."""
    return await _number(conn, _LAST, wave_id)


async def next_epoch(conn: AsyncConnection, wave_id: int) -> int:
    """The epoch the wave's members get when they arrive: one more than the highest any of them has had."""
    return await _number(conn, _NEXT_EPOCH, wave_id)


async def insert_wave(conn: AsyncConnection, move_id: MoveId, no: int, record: WaveRecord) -> int:
    """Register a wave under ``record``'s mark, home and epoch; returns its id at this site."""
    values = {"move_id": move_id, "no": no, "mark": record.mark, "home": record.home, "epoch": record.epoch}
    row = await (await conn.execute(_INSERT_WAVE, values)).fetchone()
    assert row is not None
    return int(row[0])


async def forget_wave(conn: AsyncConnection, wave_id: int) -> None:
    """Remove every trace of the wave from the site's own record (not its rows). Idempotent."""
    for statement in _FORGET_WAVE:
        await conn.execute(statement, (wave_id,))


async def forget_copy(conn: AsyncConnection, wave_id: int) -> None:
    """Nothing of the wave was copied to this site: it is only registered. Idempotent."""
    await conn.execute("delete from domicile.progress where wave = %s", (wave_id,))
    await conn.execute("delete from domicile.ahead where wave = %s", (wave_id,))
    await conn.execute("delete from domicile.purge_journal where wave = %s", (wave_id,))
    await conn.execute("update domicile.wave set seam = null, position = null, seen = null where id = %s", (wave_id,))


async def set_purged(conn: AsyncConnection, wave_id: int) -> None:
    """The wave's source copy is gone. Idempotent."""
    await conn.execute("delete from domicile.ahead where wave = %s", (wave_id,))
    await conn.execute("delete from domicile.cleared where wave = %s", (wave_id,))
    await conn.execute("update domicile.wave set purged_at = coalesce(purged_at, now()) where id = %s", (wave_id,))


async def forget_move(conn: AsyncConnection, move_id: MoveId) -> None:
    """Remove the move's row and every trace of its waves, members included. Idempotent."""
    async with conn.transaction():
        cursor = await conn.execute("select id from domicile.wave where move_id = %s", (move_id,))
        for (wave_id,) in await cursor.fetchall():
            await forget_wave(conn, wave_id)
        await conn.execute("delete from domicile.move where move_id = %s", (move_id,))


async def members(conn: AsyncConnection, wave_id: int) -> AsyncIterator[tuple[int, str]]:
    """Stream (ordinal, subject key as text) in order; memory stays flat. Needs a transaction."""
    async with conn.cursor(name="domicile_members") as cursor:
        cursor.itersize = MEMBERS_PER_FETCH
        await cursor.execute(
            "select ordinal, subject::text from domicile.member where wave = %s order by ordinal", (wave_id,)
        )
        async for ordinal, subject in cursor:
            yield ordinal, subject


async def write_members(conn: AsyncConnection, wave_id: int, rows: AsyncIterator[tuple[int, str]]) -> int:
    """Store a wave's members at this site in one COPY; returns how many."""
    count = 0
    async with conn.cursor() as cursor:
        async with cursor.copy("copy domicile.member (wave, ordinal, subject) from stdin") as copy:
            async for ordinal, subject in rows:
                await copy.write_row((wave_id, ordinal, subject))
                count += 1
    return count


async def write_discrepancies(conn: AsyncConnection, wave_id: int, found: Sequence[Discrepancy]) -> None:
    """Keep what verify found, in place of what an earlier attempt found. Idempotent."""
    async with conn.transaction():
        await conn.execute("delete from domicile.discrepancy where wave = %s", (wave_id,))
        async with conn.cursor() as cursor:
            await cursor.executemany(
                "insert into domicile.discrepancy (wave, table_name, row_key, difference, columns)"
                " values (%s, %s, %s, %s, %s)",
                [(wave_id, str(d.table), list(d.key), str(d.difference), list(d.columns)) for d in found],
            )


async def read_discrepancies(conn: AsyncConnection, move_id: MoveId) -> list[str]:
    """What verify found last in the move's waves, as text: table, key, difference, columns."""
    cursor = await conn.execute(_DISCREPANCIES, (move_id,))
    return [
        f"wave {no}: {table} ({', '.join(key)}) {difference}" + (f": {', '.join(columns)}" if columns else "")
        for no, table, key, difference, columns in await cursor.fetchall()
    ]


async def presence(conn: AsyncConnection, subject: str, key_type: str) -> WaveRecord | None:
    """The latest mark this site has for a subject, or None when it never took part in a wave here."""
    # A parameter, so that no key stands in the server's log; a "%" in a type's name would be taken for another.
    statement = sql.SQL(_PRESENCE).format(subject=sql.SQL("%s::") + sql.SQL(key_type.replace("%", "%%")))
    row = await (await conn.execute(statement, (subject,))).fetchone()
    return None if row is None else WaveRecord(0, row[0], SiteName(row[1]), row[2])


async def waves_that_need_the_guard(conn: AsyncConnection) -> int:
    """Waves here for which the guard must stay armed: between homes, or departed and not yet purged."""
    return await _number(conn, _NEED_THE_GUARD)


async def table_exists(conn: AsyncConnection) -> bool:
    """True when domicile's own tables are installed in this database."""
    row = await (await conn.execute("select to_regclass('domicile.member') is not null")).fetchone()
    return bool(row and row[0])


def source_mark(record: WaveRecord | None) -> SourceMark:
    """A site's record read as that of the site which loses the wave. One it does not know is open; one that came from
    elsewhere, or came back, is open too; one that is coming back is not home yet."""
    match record:
        case None | WaveRecord(mark=TargetMark.RESIDENT):
            return SourceMark.OPEN
        case WaveRecord(mark=TargetMark.ARRIVING):
            return SourceMark.DEPARTED
    return SourceMark(record.mark)


def target_mark(record: WaveRecord | None) -> TargetMark:
    """A site's record read as that of the site which gains the wave. One that has left again is absent; one that is
    about to is still served."""
    match record:
        case None | WaveRecord(mark=SourceMark.OPEN | SourceMark.DEPARTED):
            return TargetMark.ABSENT
        case WaveRecord(mark=SourceMark.CLOSING):
            return TargetMark.RESIDENT
    return TargetMark(record.mark)


async def _number(conn: AsyncConnection, statement: str, *values: object) -> int:
    row = await (await conn.execute(statement, values)).fetchone()
    assert row is not None
    return int(row[0])
