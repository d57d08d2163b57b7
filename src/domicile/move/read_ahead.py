"""Rows that a stream has read ahead of itself, where it will never come: before its copy is removed.

Such a row may stand below a parent that was to follow it. Then no owner path leads to it, or one to somebody who has a
row of that key, and what removes a wave's rows by their owners would leave it behind. It is known by its key: from its
coming until the stream has passed the reading, nothing else changes it there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import logging

from psycopg import AsyncConnection, AsyncRawCursor, sql

from domicile.move.carrier import Carrier
from domicile.move.live_wave import stream_layout
from domicile.postgres.lease import assert_lease
from domicile.postgres.ownership import column, ident
from domicile.stream.ahead import kept
from domicile.stream.change import Key
from domicile.stream.compare import listed_keys
from domicile.stream.index import empty_index
from domicile.stream.layout import Identity, Layout
from domicile.stream.params import key_arrays
from domicile.stream.reparent import by_table

log = logging.getLogger(__name__)

_ANY = "select exists (select from domicile.ahead where wave = %s)"
_FORGET = "delete from domicile.ahead where wave = %s"
_DELETE = "delete from {table} as t where ({key}) in (select {wanted} from {listed})"


async def remove(carrier: Carrier, conn: AsyncConnection, wave_id: int) -> Counter[str]:
    """Remove them at the carrier's target, and the record of their reading with them; returns how many rows by table.

    ``conn`` is a session there in which triggers rest, ``wave_id`` the wave's number there. To be called before the
    wave's other rows go: whose row has such a key after that, nobody knows. One transaction; idempotent; one question
    where nothing was read ahead.

    Raises lease-lost, plan-refused when the tables of the carrier's source can be streamed no longer, and what keeps
    that from being asked: rows are named as its stream names them.
    """
    move, removed = carrier.move, Counter[str]()
    row = await (await conn.execute(_ANY, (wave_id,))).fetchone()
    if row is None or not row[0]:
        return removed
    async with carrier.source() as source:
        layout = await stream_layout(move, source)
    async with conn.transaction():
        await assert_lease(conn, move.move_id, move.generation)
        for ahead in await kept(conn, empty_index(layout), wave_id):
            for no, keys in by_table(ahead.entered):
                if layout.tables[no].identity is Identity.FULL:
                    log.warning("%s has no key: rows read ahead of the stream may be left", layout.tables[no].name)
                    continue
                removed[str(layout.tables[no].name)] += await _delete(conn, layout, no, keys)
        await conn.execute(_FORGET, (wave_id,))
    return removed


async def _delete(conn: AsyncConnection, layout: Layout, no: int, keys: Sequence[Key]) -> int:
    table = layout.tables[no]
    params = key_arrays(table, keys, layout.binary)
    statement = sql.SQL(_DELETE).format(
        table=ident(table.name),
        key=sql.SQL(", ").join(column("t", name) for name in table.key),
        wanted=sql.SQL(", ").join(column("k", name) for name in table.key),
        listed=listed_keys(table, params, layout.binary, "k"),
    )
    return (await AsyncRawCursor(conn).execute(statement, params)).rowcount
