"""The guard's filter: a bitmap over hashes of the keys of all members who are between homes or departed, or
about to be, in a function's text.

Most writes are by people who do not move. The look into ``domicile.member`` for each costs them 3 % more of a short
transaction than this constant does (``benchmarks/guard.py``). The filter is only ever behind in one direction: a fence
whose members it does not know voids it in its own transaction (see ``note_fence`` in ``sql/site.sql``), and `refresh`
narrows it to what is then there.
"""

from __future__ import annotations

import base64

from psycopg import sql

from domicile.postgres.guard_sql import KEY_TYPES, STATEMENTS, Connection

BITS_PER_MEMBER = 8  # about one outsider in eight is looked up in vain
BITS_MIN, BITS_MAX = 1 << 13, 1 << 17  # 1 to 16 KiB
MEMBERS_MAX = BITS_MAX  # beyond it the filter would hold up hardly anybody

_LOCK = "select pg_catalog.pg_advisory_xact_lock(7237123425614523493)"
_HASHES = {
    "bigint": sql.SQL("pg_catalog.hashint8extended(key, 0)"),
    "text": sql.SQL('pg_catalog.hashtextextended(key collate pg_catalog."C", 0)'),
    "uuid": sql.SQL("pg_catalog.uuid_hash_extended(key, 0)"),
}
_BODY = """
    select pg_catalog.get_bit(pg_catalog.decode({bitmap}, 'base64'), {hash} operator(pg_catalog.&) {mask})
           operator(pg_catalog.=) 1"""


async def refresh(conn: Connection, soon: int | None = None) -> bool:
    """Make the filter fit the waves that refuse writers now, and wave ``soon``, which is about to; True when it was
    changed. Idempotent: one that fits is left, because every session plans its triggers anew behind a change. That is
    also why a wave should be in it a while before somebody waits for its writers. Does nothing where the kind of key
    has no filter.

    Its own transaction; waits for a fence that is being written, and holds up the next one for as long.
    """
    async with conn.transaction():
        await conn.execute(_LOCK)
        row = await (await conn.execute(STATEMENTS["filter_type"], {"soon": soon})).fetchone()
        if row is None:
            return False
        kind, members, now = row
        body: sql.Composable = sql.SQL("select true") if members else sql.SQL("select false")
        if 0 < members <= MEMBERS_MAX:
            body = await _bitmap(conn, kind, members, soon)
        if body.as_string(conn) == now:
            return False
        statement = sql.SQL(STATEMENTS["filter"]).format(type=KEY_TYPES[kind], body=sql.Literal(body.as_string(conn)))
        await conn.execute(statement)
        return True


async def _bitmap(conn: Connection, kind: str, members: int, soon: int | None) -> sql.Composed:
    bits = min(max(BITS_MIN, 1 << (BITS_PER_MEMBER * members - 1).bit_length()), BITS_MAX)
    bitmap = bytearray(bits // 8)
    statement = sql.SQL(STATEMENTS["filter_bits"]).format(hash=_HASHES[kind], type=KEY_TYPES[kind])
    for (bit,) in await (await conn.execute(statement, {"mask": bits - 1, "soon": soon})).fetchall():
        bitmap[bit // 8] |= 1 << bit % 8
    return sql.SQL(_BODY).format(
        bitmap=sql.Literal(base64.b64encode(bitmap).decode()), hash=_HASHES[kind], mask=sql.Literal(bits - 1)
    )
