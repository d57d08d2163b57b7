"""Domicile's own tables inside a dataset's database: schema ``domicile``, as ``sql/site.sql`` has it."""

from __future__ import annotations

from importlib import resources
from typing import Any

from psycopg import AsyncConnection, errors, sql

from domicile.model.errors import DomicileError, ErrorCode

_SITE = resources.files(__package__).joinpath("sql/site.sql").read_text(encoding="utf-8")

_LOCK = "select pg_catalog.pg_advisory_xact_lock(7237123425614523493)"
_TYPE = "select pg_catalog.to_regtype(%s)::pg_catalog.oid"
_COLLATION = """
    select n.nspname, c.collname from pg_catalog.pg_collation as c
    join pg_catalog.pg_namespace as n on n.oid = c.collnamespace
    where %s::text in (c.collname::text, n.nspname || '.' || c.collname)
    order by n.nspname = 'pg_catalog' desc limit 1"""
_FOUND = """
    select a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod) from pg_catalog.pg_attribute as a
    where a.attrelid = pg_catalog.to_regclass('domicile.member') and a.attname = 'subject'"""


async def install(conn: AsyncConnection[Any], subject_type: str, collation: str = "") -> None:
    """Create what is missing of schema ``domicile``; idempotent, one transaction, safe beside another mover's.

    ``subject_type`` is the type of the subject's key as ``format_type`` writes it, ``collation`` the name of its
    collation where that is not the database's: keys of two collations cannot be compared. Raises right-missing when
    the role may not create schemas, and schema-changed when members of another type are registered here already.
    """
    try:
        async with conn.transaction():
            await conn.execute(_LOCK)
            key_type = await _type(conn, subject_type)
            if collation:
                key_type = sql.SQL("{} collate {}").format(key_type, await _collation(conn, collation))
            await conn.execute(sql.SQL(_SITE).format(subject_type=key_type))
    except errors.InsufficientPrivilege as error:
        raise DomicileError(
            ErrorCode.RIGHT_MISSING,
            "the role may not create domicile's own tables in the dataset's database",
            facts={"sqlstate": error.sqlstate},
            hint="grant create on database ... to ...; schema domicile, where it exists, must be the mover's own.",
        ) from error


async def _collation(conn: AsyncConnection[Any], wanted: str) -> sql.Composable:
    """The collation as SQL, known to the server, hence no other text."""
    row = await (await conn.execute(_COLLATION, (wanted,))).fetchone()
    assert row is not None, wanted
    return sql.Identifier(row[0], row[1])


async def _type(conn: AsyncConnection[Any], wanted: str) -> sql.Composable:
    """The type as SQL, known to the server, hence no other text; equal to the type that is there, where there is
    one."""
    known = await (await conn.execute(_TYPE, (wanted,))).fetchone()
    assert known is not None
    assert known[0] is not None, wanted
    found = await (await conn.execute(_FOUND)).fetchone()
    if found is not None and found[0] != known[0]:
        raise DomicileError(
            ErrorCode.SCHEMA_CHANGED,
            f"the subject's key is {wanted} now; domicile's tables here were made for {found[1]}",
            facts={"type": wanted, "found": found[1]},
            hint="When no move is under way in this database: drop schema domicile cascade; then start again.",
        )
    return sql.SQL(wanted)
