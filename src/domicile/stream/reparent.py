"""Rows that come to another owner take along what hangs from them: out of the wave, or into it.

Out of it: the row and its subtree are deleted at the destination. Into it: the stream shows only the row itself,
perhaps without its out-of-line values, and nothing of what hangs from it. So the row and its subtree are read whole at
the origin, in a snapshot that sees every transaction which the stream has read so far, an outsider's too: what hangs
from the row was passed by until now. (A commit is in the log, and so in the stream, before it is visible; with
synchronous standbys long before, and one behind it may be visible first.) For exactly these rows that snapshot is the
seam: what it sees of them is in what was read. All of a transaction is one commit at the destination, and what is to be
known of the reading is part of it: a stream that is opened anew begins at that commit, and is told again what the
snapshot saw.

So the destination is ahead of its position in these rows, and where they had left again by then it never has them.
Whoever compares must know: they count as touched by a transaction that nobody saw before they were read.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor, sql

from domicile.model.datamap import DataMap
from domicile.postgres.failures import told
from domicile.postgres.ownership import column, rows_of_wave
from domicile.stream.ahead import Ahead, keep
from domicile.stream.apply import Apply
from domicile.stream.change import Change, Key, Op, Transaction
from domicile.stream.compare import listed_keys
from domicile.stream.filter import WaveFilter
from domicile.stream.fold import Fields
from domicile.stream.index import OwnershipIndex
from domicile.stream.layout import Layout, StreamTable
from domicile.stream.params import field as field_of
from domicile.stream.params import key_arrays
from domicile.stream.seam import Seam

_XID_MASK = 0xFFFFFFFF
VISIBLE_SECONDS_MIN, VISIBLE_SECONDS_MAX = 0.001, 0.1  # between two looks whether all that was read is visible
_BEGIN = "begin transaction isolation level repeatable read, read only"
_SNAPSHOT = """
    select pg_catalog.pg_current_snapshot()::text, (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::bigint"""
_SUBTREE = "select {columns} {rows} where m.wave = {wave} and ({key}) in (select {wanted} from {listed})"


@dataclass(frozen=True, slots=True)
class Reparent:
    """``origin`` is a session of its own, idle; ``wave_id`` the wave's number there. ``read`` has the rows that were
    found to come in, by table and key, whether they were still there or not, each with the id (of 32 bits) of the first
    transaction that nobody can have seen before it was read; its entries are the caller's to remove."""

    layout: Layout
    data_map: DataMap
    index: OwnershipIndex
    filter: WaveFilter
    apply: Apply
    origin: AsyncConnection[Any]
    wave_id: int
    read: dict[tuple[int, Key], int] = field(default_factory=dict)

    async def __call__(self, transaction: Transaction) -> None:
        """Carry the transaction out whole; returns when it is committed at the destination."""
        await self.apply.finish([_part_of(transaction, transaction.xid, transaction.changes, last=False)])
        for no, keys in by_table(transaction.leave):
            for table, removed in (await self.apply.leave(no, keys)).items():
                for key in removed:
                    self.index.discard(table, key)
                    self.touch(table, key, transaction.xid)
        inserts: list[Change] = []
        unseen = transaction.xid
        if transaction.enter:
            ahead, inserts = await self._read(transaction)
            unseen = ahead.seam.xmax & _XID_MASK
            for no, key in transaction.enter:
                self.read[no, key] = unseen
                self.touch(no, key, unseen)
            for row in inserts:
                self.index.add(row.table, row.key, row.fields)
            self.filter.skip(ahead)
            await self.apply.step(keep(ahead, self.index, self.apply.wave_id))
        await self.apply.finish([_part_of(transaction, unseen, inserts, last=True)])

    def touch(self, no: int, key: Key, xid: int) -> None:
        """The row is to be compared in a snapshot that sees that transaction."""
        self.apply.dirty.setdefault(no, {})[key] = xid

    async def below(self, conn: AsyncConnection[Any], no: int, keys: Sequence[Key]) -> list[tuple[int, Key]]:
        """The rows of the wave with these keys and all that hang from them, in the snapshot of ``conn``."""
        return [(table.no, key) async for table, key, _ in self._subtree(conn, self.layout.tables[no], keys)]

    async def _read(self, transaction: Transaction) -> tuple[Ahead, list[Change]]:
        """The rows that came in with all that hangs from them, whole: as many as there are, of rows without a key."""
        with told("source", "reading rows that came into the wave"):
            seam, until = await self._snapshot_that_sees_what_was_read()
            try:
                found: dict[tuple[int, Key], Fields] = {}
                copies = Counter[tuple[int, Key]]()
                known: list[tuple[int, Key]] = []
                for no, keys in by_table(transaction.enter):
                    here = Counter[tuple[int, Key]]()
                    async for table, key, fields in self._subtree(self.origin, self.layout.tables[no], keys):
                        if (table.no, key) in self.index:  # the stream carries it, from before or later on
                            known.append((table.no, key))
                        else:
                            found[table.no, key] = fields
                            here[table.no, key] += 1
                    copies |= here  # a row that two of them lead to is one row
            finally:
                await self.origin.execute("rollback")
        inserts = [Change(no, Op.INSERT, key, found[no, key]) for no, key in copies.elements()]
        return Ahead(seam, until, found, known), inserts

    async def _snapshot_that_sees_what_was_read(self) -> tuple[Seam, int]:
        pause = VISIBLE_SECONDS_MIN
        while True:
            await self.origin.execute(_BEGIN)
            row = await (await self.origin.execute(_SNAPSHOT)).fetchone()
            assert row is not None
            seam = Seam.parse(row[0])
            if all(map(seam.sees, self.filter.read)):
                self.filter.forget(seam.xmin)
                return seam, int(row[1])
            await self.origin.execute("rollback")
            await asyncio.sleep(pause)
            pause = min(pause * 2, VISIBLE_SECONDS_MAX)

    async def _subtree(
        self, conn: AsyncConnection[Any], top: StreamTable, keys: Sequence[Key]
    ) -> AsyncIterator[tuple[StreamTable, Key, Fields]]:
        """The rows with these keys and all that hang from them, of the wave's members only; parents first."""
        for table in self.layout.tables:
            alias = self._alias_in(table, top)
            if alias is None:
                continue
            params = key_arrays(top, keys, self.layout.binary)
            statement = sql.SQL(_SUBTREE).format(
                columns=sql.SQL(", ").join(column("t", name) for name in table.columns),
                rows=rows_of_wave(self.data_map, table.name),
                wave=sql.Literal(self.wave_id),
                key=sql.SQL(", ").join(column(alias, name) for name in top.key),
                wanted=sql.SQL(", ").join(column("k", name) for name in top.key),
                listed=listed_keys(top, params, self.layout.binary, "k"),
            )
            cursor = AsyncRawCursor(conn)
            await cursor.execute(statement, params, binary=self.layout.binary)
            result = cursor.pgresult
            assert result is not None
            for row in range(result.ntuples):
                fields = tuple(field_of(result.get_value(row, at)) for at in range(result.nfields))
                yield table, b"".join(fields[at] for at in table.key_at), fields

    def _alias_in(self, table: StreamTable, top: StreamTable) -> str | None:
        """Under which alias ``top`` stands in the statement of ``table``'s rows (``postgres/ownership.py``)."""
        if table.no == top.no:
            return "t"
        for position, step in enumerate(self.data_map.path(table.name), start=1):
            if step.to_table == top.name and top.no != 0:
                return f"p{position}"
        return None


def _part_of(whole: Transaction, xid: int, changes: list[Change], *, last: bool) -> Transaction:
    return Transaction(xid, whole.position, whole.committed_at, changes, last=last)


def by_table(rows: Iterable[tuple[int, Key]]) -> list[tuple[int, list[Key]]]:
    """Keys by the number of their table, in the order of the tables. Pure."""
    found: dict[int, list[Key]] = {}
    for no, key in rows:
        found.setdefault(no, []).append(key)
    return sorted(found.items())
