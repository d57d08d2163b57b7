"""Opening the control database: migrations in order, each once, under a lock."""

from __future__ import annotations

from importlib import resources

from psycopg import AsyncConnection

from domicile.postgres.connect import connect

MIGRATION_LOCK = 0x646F6D69  # "domi": any fixed number will do, as long as every process uses the same

_CREATE_VERSIONS = """
    create table if not exists public.domicile_schema_version (
        version integer primary key, name text not null, applied_at timestamptz not null default now())"""


async def open_control(conninfo: str) -> AsyncConnection:
    """Connect, bring the schema up to date, and return the connection (autocommit). Safe to call from several
    processes at once."""
    conn = await connect(conninfo, application_name="domicile control")
    async with conn.transaction():
        await conn.execute("select pg_catalog.pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        await conn.execute(_CREATE_VERSIONS)
        cursor = await conn.execute("select coalesce(max(version), 0) from public.domicile_schema_version")
        row = await cursor.fetchone()
        assert row is not None
        for version, name, text in migrations():
            if version > row[0]:
                await conn.execute(text)
                await conn.execute(
                    "insert into public.domicile_schema_version (version, name) values (%s, %s)",
                    (version, name),
                )
    return conn


def migrations() -> list[tuple[int, str, bytes]]:
    """Every migration as (version, name, SQL), in order. Files are named ``NNNN_name.sql``."""
    folder = resources.files("domicile.control") / "migrations"
    found = [f for f in folder.iterdir() if f.name.endswith(".sql")]
    return sorted((int(f.name[:4]), f.name[5:-4], f.read_bytes()) for f in found)
