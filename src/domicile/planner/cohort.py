"""Who moves: the cohort as a temporary table at the source, in key order, with its digest.

The table has the shape of ``domicile.member``, so that whatever reads a wave can read a cohort that nothing
has registered yet.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.report import LEFT
from domicile.model.schema import TableName
from domicile.planner import condition
from domicile.postgres import conditions, stub_registry
from domicile.postgres.ownership import ident
from domicile.postgres.waves import table_exists

COHORT = TableName("pg_temp", "domicile_cohort")
COHORT_WAVE = 0  # no registered wave has this id
MARKETS_LISTED_MAX = 20
LINES_LISTED_MAX = 20
COUNT_MARKETS_SUBJECTS_MAX = 1_000_000  # above it, an empty cohort is reported without counting the markets

_CREATE = """
    create temp table domicile_cohort on commit {on_commit} as
    select 0 as wave, 0 as ordinal, {key} as subject from {table} with no data"""
_INDEXES = (
    "create unique index on pg_temp.domicile_cohort (subject)",
    "create unique index on pg_temp.domicile_cohort (ordinal)",
    "create temp table domicile_listed (line integer, key text) on commit {on_commit}",
)
_SELECT = """
    insert into pg_temp.domicile_cohort (wave, ordinal, subject)
    select 0, row_number() over (order by {key}), {key}
    from {subjects} where (\n{where}\n) and {key} is not null and not {stub}"""
# Who joined since the cohort was frozen: in no wave of this move, held by no other move, at home here, and not ejected
# from this move for a reason that may still hold. Not more than one wave's worth at a time.
_LATE = """
    insert into pg_temp.domicile_cohort (wave, ordinal, subject)
    select 0, row_number() over (order by late.key), late.key
    from (
        select {key} as key from {subjects} where (\n{where}\n) and {key} is not null
            and not exists (
                select from domicile.member as m join domicile.wave as w on w.id = m.wave
                where m.subject = {key} and (w.move_id = {move} or w.mark = 'open'))
            and not exists (
                select from domicile.ejected as e join domicile.wave as w on w.id = e.wave
                where e.subject = {key} and w.move_id = {move} and e.reason <> {left})
            and coalesce((
                select w.mark from domicile.member as m join domicile.wave as w on w.id = m.wave
                where m.subject = {key} order by w.epoch desc limit 1), 'resident') = 'resident'
        order by 1 limit {most}) as late"""
_SELECT_LISTED = """
    insert into pg_temp.domicile_cohort (wave, ordinal, subject)
    select 0, row_number() over (order by {key}), {key}
    from {table} as subject where {key}::text in (select key from pg_temp.domicile_listed)"""
_UNKNOWN = """
    select line from pg_temp.domicile_listed as l
    where not exists (select from pg_temp.domicile_cohort as c where c.subject::text = l.key) order by line"""
_DIGEST = """
    copy (select subject::text from pg_temp.domicile_cohort order by subject::text collate "C") to stdout"""
# Per subject the registered wave with the highest epoch says where it is; an open wave of a move that has
# begun reserves it.
_ELSEWHERE = """
    with known as (
        select m.subject, w.mark, w.epoch from domicile.member as m
            join domicile.wave as w on w.id = m.wave
            join pg_temp.domicile_cohort as c on c.subject = m.subject
        where w.move_id <> %s),
    latest as (
        select distinct on (subject) subject, mark from known
        where mark <> 'open' order by subject, epoch desc)
    select
        (select count(*) from latest where mark = 'departed'),
        (select count(distinct subject) from (
            select subject from known where mark = 'open'
            union all select subject from latest where mark in ('closing', 'fenced', 'arriving')) as held)"""


async def create_tables(conn: AsyncConnection, data_map: DataMap, *, on_commit_drop: bool = False) -> None:
    """Make the empty temporary tables. They are made before the snapshot, because a READ ONLY transaction
    may fill but not make them.
    """
    on_commit = sql.SQL("drop" if on_commit_drop else "preserve rows")
    key = sql.Identifier(data_map.subject.key)
    table = ident(data_map.subject.table)
    await conn.execute(sql.SQL(_CREATE).format(on_commit=on_commit, key=key, table=table))
    for statement in _INDEXES:
        await conn.execute(sql.SQL(statement).format(on_commit=on_commit))


async def select(conn: AsyncConnection, data_map: DataMap, where: str, lines: Sequence[str] | None) -> int:
    """Fill the cohort from the condition, or from a file's lines; returns its size. Needs a transaction; a
    read-only one will do.

    Raises condition-invalid (an expression that fails on a row, a line that names nobody) and cohort-empty.
    """
    size = await (_select_where(conn, data_map, where) if lines is None else _select_lines(conn, data_map, lines))
    if size == 0:
        raise await _empty(conn, data_map)
    await conn.execute("analyze pg_temp.domicile_cohort")
    return size


async def select_late(conn: AsyncConnection, data_map: DataMap, where: str, move_id: str, most: int) -> int:
    """Fill the cohort with up to ``most`` subjects who have joined since the move began, in key order; returns how
    many.

    Needs a transaction, and the site schema. Raises condition-invalid when the expression fails on a row.
    """
    subjects, key = await condition.subjects_from(conn, data_map)
    return await _run(
        conn,
        data_map,
        sql.SQL(_LATE).format(
            key=key,
            subjects=subjects,
            where=sql.SQL(where),
            move=sql.Literal(move_id),
            left=sql.Literal(LEFT),
            most=sql.Literal(most),
        ),
    )


async def digest(conn: AsyncConnection) -> str:
    """SHA-256 (hex) over the cohort's keys as text, in byte order, one a line as COPY writes them.
    Streamed.
    """
    running = hashlib.sha256()
    async with conn.cursor().copy(_DIGEST) as lines:
        async for block in lines:
            running.update(block)
    return running.hexdigest()


async def refuse_elsewhere(conn: AsyncConnection, move_id: str = "") -> None:
    """Raise cohort-departed or cohort-reserved when somebody of the cohort has left or is part of another
    move than ``move_id``.
    """
    if not await table_exists(conn):
        return
    row = await (await conn.execute(_ELSEWHERE, (move_id,))).fetchone()
    assert row is not None
    departed, reserved = row
    if departed:
        raise DomicileError(
            ErrorCode.COHORT_DEPARTED,
            f"{departed} of the cohort's subjects have already left this site",
            facts={"subjects": departed},
            hint="Plan from the site that is their home (domicile where DATASET SUBJECT), "
            "or leave them out of the condition.",
        )
    if reserved:
        raise DomicileError(
            ErrorCode.COHORT_RESERVED,
            f"{reserved} of the cohort's subjects are part of another move that has not finished",
            facts={"subjects": reserved},
            hint="Wait for that move or abort it (domicile status), or leave them out of the condition.",
        )


async def _select_where(conn: AsyncConnection, data_map: DataMap, where: str) -> int:
    subjects, key = await condition.subjects_from(conn, data_map)
    stub = stub_registry.registered(key) if await stub_registry.any_here(conn) else sql.SQL("false")
    statement = sql.SQL(_SELECT).format(key=key, subjects=subjects, where=sql.SQL(where), stub=stub)
    return await _run(conn, data_map, statement)


async def _run(conn: AsyncConnection, data_map: DataMap, statement: sql.Composed) -> int:
    """Run a statement that has an operator's condition in it; returns how many rows it wrote."""
    try:
        async with conn.transaction():  # a savepoint: what follows is undone with it
            # The condition runs where nothing but temporary tables can be written, whatever the transaction
            # around it may do.
            await conn.execute("set transaction read only")
            await conditions.set_search_path(conn, data_map.subject.table)
            size = (await conn.cursor(binary=True).execute(statement)).rowcount
            await conditions.reset_search_path(conn)
            return size
    except psycopg.Error as error:
        raise _failed(error) from None


async def _select_lines(conn: AsyncConnection, data_map: DataMap, lines: Sequence[str]) -> int:
    async with conn.cursor().copy("copy pg_temp.domicile_listed (line, key) from stdin") as copy:
        for number, line in enumerate(lines, start=1):
            if key := line.strip():
                await copy.write_row((number, key))
    await conn.execute("analyze pg_temp.domicile_listed")
    key_name = sql.Identifier("subject", data_map.subject.key)
    statement = sql.SQL(_SELECT_LISTED).format(key=key_name, table=ident(data_map.subject.table))
    size = (await conn.execute(statement)).rowcount
    unknown = [line for (line,) in await (await conn.execute(_UNKNOWN)).fetchall()]
    if unknown:
        listed = ", ".join(map(str, unknown[:LINES_LISTED_MAX])) + (", ..." if len(unknown) > LINES_LISTED_MAX else "")
        raise DomicileError(
            ErrorCode.CONDITION_INVALID,
            f"the file of subjects names {len(unknown)} that {data_map.subject.table} does not have: lines {listed}",
            facts={"unknown": len(unknown), "lines": unknown[:LINES_LISTED_MAX]},
            hint="Write one key a line, as PostgreSQL prints it; correct or remove those lines.",
        )
    return size


def _failed(error: psycopg.Error) -> DomicileError:
    """An error while the condition ran over rows. PostgreSQL's own message may quote a row's value: only
    its class is passed on.
    """
    state = error.sqlstate or ""
    match error:
        case psycopg.errors.QueryCanceled():
            return DomicileError(
                ErrorCode.PLAN_REFUSED,
                "finding the cohort took too long and was stopped",
                facts={"sqlstate": state},
                hint="Simplify the condition or give it an index to use.",
            )
        case psycopg.errors.InsufficientPrivilege():
            return DomicileError(
                ErrorCode.RIGHT_MISSING,
                f"the condition reads what this role may not read: {error.diag.message_primary}",
                facts={"sqlstate": state},
                hint="Grant the role SELECT there (and BYPASSRLS where row security is on).",
            )
        case psycopg.errors.ReadOnlySqlTransaction():
            return condition.invalid("it tries to change data")
        case _:
            name = type(error).__name__
            return condition.invalid(f"it fails on a row: {name} (SQLSTATE {state})", sqlstate=state)


async def _empty(conn: AsyncConnection, data_map: DataMap) -> DomicileError:
    table = ident(data_map.subject.table)
    row = await (await conn.execute(sql.SQL("select count(*) from {}").format(table))).fetchone()
    subjects = row[0] if row else 0
    facts: dict[str, object] = {"subjects": subjects}
    hint = "Correct the condition."
    if data_map.subject.market and subjects <= COUNT_MARKETS_SUBJECTS_MAX:
        markets = await _markets(conn, data_map)
        facts["markets"] = markets
        hint = "Correct the condition. Markets there are: " + ", ".join(f"{m} {n}" for m, n in markets.items())
    return DomicileError(
        ErrorCode.COHORT_EMPTY,
        f"nobody is to be moved: none of the {subjects} subjects of {data_map.subject.table} is meant",
        facts=facts,
        hint=hint,
    )


async def _markets(conn: AsyncConnection, data_map: DataMap) -> dict[str, int]:
    """The largest markets with their number of subjects."""
    subjects, _ = await condition.subjects_from(conn, data_map)
    statement = sql.SQL("select market::text, count(*) from {} group by 1 order by 2 desc, 1 limit {}").format(
        subjects, sql.Literal(MARKETS_LISTED_MAX)
    )
    async with conn.transaction():
        await conditions.set_search_path(conn, data_map.subject.table)
        rows = await (await conn.execute(statement)).fetchall()
        await conditions.reset_search_path(conn)
    return {("(none)" if market is None else market): count for market, count in rows}
