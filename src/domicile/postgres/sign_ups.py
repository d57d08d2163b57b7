"""Sign-ups: while a move lasts, its source refuses a new subject who fits the plan's condition, and names the target
(DM001, as the guard does). So whoever is left to move only becomes fewer.

The trigger stands on the subject's table at the source alone, AFTER INSERT: it fires for a row that is really new, its
generated columns filled in, and not for an upsert that finds its subject. Sessions in the replica role rest, the
mover's among them. The condition has the rights of whoever signs up, so that nobody comes to the mover's. A subject who
is refused nowhere here (changed into the market by an UPDATE, signed up in a transaction from before the trigger or by
a role that may not ask what the condition asks) is swept by the last wave.
"""

from __future__ import annotations

from importlib import resources
import time

from psycopg import DatabaseError, sql

from domicile.model.datamap import DataMap
from domicile.postgres import conditions
from domicile.postgres.guard import LOCK_TIMEOUT_MS, SECONDS_MAX, with_lock
from domicile.postgres.guard_sql import Connection, Relation, named_statements, relations
from domicile.postgres.ownership import column, ident

_STATEMENTS = named_statements(resources.files(__package__).joinpath("sql/sign_ups.sql").read_text(encoding="utf-8"))
_INSTALL_LOCK = "select pg_catalog.pg_advisory_xact_lock(7237123425614523493)"
_TAKEN_OFF = ("needed", "drop_trigger")
_NEEDED = "DM003"  # raised by sql/sign_ups.sql, seen by nobody else


async def install(
    conn: Connection,
    data_map: DataMap,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    seconds_max: float = SECONDS_MAX,
) -> None:
    """From now on refuse the sign-ups of every move registered here that says so (``domicile.move.sign_ups``).

    Needs the site schema and the guard's functions. Idempotent; does nothing where no move refuses anybody. The table
    is locked as carefully as by `guard.arm`. Raises fence-budget when somebody holds it too long, right-missing when
    the role does not own it.
    """
    async with conn.transaction():
        await conn.execute(_INSTALL_LOCK)
        if not await _write_function(conn, data_map):
            return
    for relation in await _subject_table(conn, data_map):
        if not await _is_present(conn, relation):
            await with_lock(
                conn,
                relation,
                [sql.SQL(_STATEMENTS["trigger"]).format(table=ident(relation.name))],
                lock_timeout_ms,
                time.monotonic() + seconds_max,
            )


async def release(
    conn: Connection,
    data_map: DataMap,
    move_id: str,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    seconds_max: float = SECONDS_MAX,
) -> None:
    """The move is over: nobody is refused for its sake any more, and its condition is forgotten. Idempotent.

    The trigger is taken off when no other move needs it. Raises fence-budget when the table cannot be locked for that:
    by then it refuses nobody, and the next release takes it off.
    """
    async with conn.transaction():
        await conn.execute(_INSTALL_LOCK)
        await conn.execute(_STATEMENTS["accept"], (move_id,))
        if await _write_function(conn, data_map):
            return
    for relation in await _subject_table(conn, data_map):
        statements = [sql.SQL(_STATEMENTS[name]).format(table=ident(relation.name)) for name in _TAKEN_OFF]
        if await _is_present(conn, relation):
            try:
                await with_lock(conn, relation, statements, lock_timeout_ms, time.monotonic() + seconds_max)
            except DatabaseError as error:
                if error.sqlstate != _NEEDED:
                    raise


async def _write_function(conn: Connection, data_map: DataMap) -> bool:
    """Make the trigger's function that of the moves as they are now; False when none of them refuses anybody."""
    moves = await (await conn.execute(_STATEMENTS["refusing"])).fetchall()
    subject = data_map.subject
    columns = await conditions.columns_of(conn, subject.table)
    blocks = [
        sql.SQL(_STATEMENTS["move"]).format(
            fits=conditions.fits(subject, columns, where, sql.SQL("(select new.*)"), column("new", subject.key)),
            home=sql.Literal(peer),
            dataset=sql.Literal(dataset),
        )
        for peer, dataset, where in moves
    ]
    body = sql.SQL(_STATEMENTS["body"]).format(moves=sql.SQL("").join(blocks))
    function = sql.SQL(_STATEMENTS["function"]).format(
        path=conditions.search_path(subject.table), body=sql.Literal(body.as_string(conn))
    )
    await conn.execute(function)
    return bool(moves)


async def _is_present(conn: Connection, relation: Relation) -> bool:
    row = await (await conn.execute(_STATEMENTS["present"], (relation.oid,))).fetchone()
    return bool(row and row[0])


async def _subject_table(conn: Connection, data_map: DataMap) -> list[Relation]:
    """The subject's table without its partitions, which get their triggers from it; empty when it is gone."""
    return [r for r in await relations(conn, [data_map.subject.table]) if r.oid == r.root]
