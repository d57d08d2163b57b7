"""Which rows of the subject's table are stubs at this site (docs/decisions/0019): the members of a move of our own,
whose waves are departed, one for each home. So the guard answers their writers like those of anybody who has left.

The epoch is 0: where the person is in any other wave here, that one decides. Only of who has left for good while in a
wave it is one more than that wave's.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.site import DatasetName, SiteName
from domicile.postgres.ownership import Fragment
from domicile.postgres.waves import table_exists

MOVE_ID = "stubs"

# Members are numbered, and the last wave goes with its members: one transaction at a time.
LOCK = sql.SQL("select pg_catalog.pg_advisory_xact_lock(7237123425614523495)")
_MOVE = """
    insert into domicile.move (move_id, dataset, here, role, peer) values (%s, %s, %s, 'target', %s)
    on conflict (move_id) do nothing"""
_FIND = "select id from domicile.wave where move_id = %s and home = %s and epoch = %s"
_WAVE = """
    insert into domicile.wave (move_id, no, mark, home, epoch)
    select %(move)s, coalesce(max(w.no), 0) + 1, 'departed', %(home)s, %(epoch)s from domicile.wave as w
    where w.move_id = %(move)s
    returning id"""
_ENROLL = """
    insert into domicile.member (wave, ordinal, subject)
    select {wave}, (select coalesce(max(ordinal), 0) from domicile.member where wave = {wave})
        + row_number() over (), found.subject
    from (select distinct person.subject from ({persons}) as person (subject)) as found
    where not {registered}"""
_REGISTERED = """exists (
    select from domicile.member as domicile_stub
    join domicile.wave as domicile_stubs on domicile_stubs.id = domicile_stub.wave
    where domicile_stubs.move_id = {move} and domicile_stub.subject = {key})"""
_ANY = "select exists (select from domicile.wave where move_id = %s)"
_COUNT = """
    select count(*) from domicile.member as m join domicile.wave as w on w.id = m.wave where w.move_id = %s"""
# Two statements, behind `LOCK`: waves without members go, and the move with the last of them.
RETIRE = sql.SQL("""
    delete from domicile.wave as w
    where move_id = {move} and not exists (select from domicile.member where wave = w.id);
    delete from domicile.move
    where move_id = {move} and not exists (select from domicile.wave where move_id = {move})""").format(
    move=sql.Literal(MOVE_ID)
)


def registered(key: Fragment) -> sql.Composed:
    """The condition that the subject with this key has a stub here. Needs the site schema."""
    return sql.SQL(_REGISTERED).format(move=sql.Literal(MOVE_ID), key=key)


async def any_here(conn: AsyncConnection[Any]) -> bool:
    """Whether this database has stubs at all; False where domicile's tables are not installed."""
    if not await table_exists(conn):
        return False
    row = await (await conn.execute(_ANY, (MOVE_ID,))).fetchone()
    return bool(row and row[0])


async def count(conn: AsyncConnection[Any]) -> int:
    """How many stubs this database has. Needs the site schema."""
    row = await (await conn.execute(_COUNT, (MOVE_ID,))).fetchone()
    assert row is not None
    return int(row[0])


async def lock(conn: AsyncConnection[Any]) -> None:
    """Nobody else enrolls or retires until the transaction ends. Before its first look at the registry."""
    await conn.execute(LOCK)


async def enroll(
    conn: AsyncConnection[Any],
    dataset: DatasetName,
    here: SiteName,
    home: SiteName,
    persons: sql.Composed,
    epoch: int = 0,
) -> int:
    """Register the subjects that ``persons`` selects (one column) and that are not yet; returns how many. In the
    caller's transaction, after `lock`. Their guard's filter is the caller's to refresh. Idempotent."""
    await conn.execute(_MOVE, (MOVE_ID, dataset, here, home))
    row = await (await conn.execute(_FIND, (MOVE_ID, home, epoch))).fetchone()
    wave = {"move": MOVE_ID, "home": home, "epoch": epoch}
    row = row or await (await conn.execute(_WAVE, wave)).fetchone()
    assert row is not None
    statement = sql.SQL(_ENROLL).format(
        wave=sql.Literal(row[0]), persons=persons, registered=registered(sql.SQL("found.subject"))
    )
    return (await conn.execute(statement)).rowcount


async def retire(conn: AsyncConnection[Any]) -> None:
    """Forget the waves without members, and the move with the last of them. In the caller's transaction, after `lock`.
    Idempotent."""
    await conn.execute(RETIRE)
