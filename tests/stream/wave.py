"""A wave at one database: its change stream recorded from a real slot, filtered, and replayed on a dict.

The database is origin and destination at once: before the first change the two are equal, which is all that the index
needs. What the stream then says must keep the replayed rows equal to the database's rows of the wave.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor, sql
from tests.copy.kit import data_map

from domicile.model.datamap import DataMap
from domicile.model.plan import Format, TablePlan
from domicile.model.schema import TableName
from domicile.postgres import site_schema
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.postgres.ownership import column, ident, owner_joins, rows_of_wave
from domicile.stream import canonical
from domicile.stream.ahead import Ahead, keep, kept
from domicile.stream.change import Change, Field, Key, Marker, Op, Transaction
from domicile.stream.filter import WaveFilter
from domicile.stream.index import OwnershipIndex, load
from domicile.stream.layout import Layout, StreamTable, build_layout, read_identities
from domicile.stream.params import Raw
from domicile.stream.seam import Seam

SLOT = "domicile_test"
_READ = """
    select data from pg_logical_slot_get_binary_changes(%s, null, null, 'proto_version', '1',
        'publication_names', 'domicile_test', 'messages', 'true', 'binary', %s)"""
Rows = dict[int, dict[Key, tuple[Field | None, ...]]]


@dataclass
class Wave:
    """A wave whose stream is being watched."""

    app: AsyncConnection[Any]  # as an application connects
    conn: AsyncConnection[Any]  # as the engine does
    data_map: DataMap
    layout: Layout
    wave_id: int
    slot: str
    index: OwnershipIndex
    filter: WaveFilter
    seam: Seam
    opened_anew: bool = False  # after every row that comes in
    rows: Rows = field(default_factory=dict)

    async def execute(self, *statements: str) -> None:
        """Each statement (or script) in a transaction of its own, unless it says otherwise."""
        for statement in statements:
            await self.app.execute(statement.encode())

    async def payloads(self) -> list[bytes]:
        """What the slot has to say since the last call."""
        cursor = await self.conn.execute(_READ, (self.slot, str(self.layout.binary).lower()), binary=True)
        return [row[0] for row in await cursor.fetchall()]

    async def items(self) -> list[Transaction | Marker]:
        """What the filter makes of it; nothing is replayed."""
        return list(self.filter.feed(await self.payloads()))

    async def transactions(self) -> list[Transaction]:
        """The same without markers."""
        return [item for item in await self.items() if isinstance(item, Transaction)]

    async def replay(self) -> list[Transaction]:
        """Read, filter and carry out on the dict, as the engine does at the destination."""
        payloads = await self.payloads()
        done = []
        items = self.filter.feed(payloads)
        while (item := next(items, None)) is not None:
            if not isinstance(item, Transaction):
                continue
            await self._carry_out(item)
            done.append(item)
            if item.enter and self.opened_anew:
                await self._open_anew(item.position)
                items = self.filter.feed(payloads)
        return done

    async def _open_anew(self, position: int) -> None:
        """A stream that was closed behind this position tells everything from there on again, to a filter that knows
        what was kept."""
        self.filter = WaveFilter(self.layout, self.data_map, self.index, self.seam, position)
        await self.conn.execute("update domicile.wave set position = '0/0'::pg_lsn + %s", (position,))
        for ahead in await kept(self.conn, self.index, self.wave_id):
            self.filter.skip(ahead)

    async def assert_equal(self) -> list[Transaction]:
        """Replay; then rows and index are what the database says. Returns what was replayed."""
        done = await self.replay()
        truth = await self.of_wave()
        assert self.rows == truth
        fresh = await load(self.conn, self.layout, self.data_map, self.wave_id)
        assert content(self.index) == content(fresh)
        return done

    async def of_wave(self) -> Rows:
        """The rows of the wave as they are in the database."""
        found: Rows = {}
        for table in self.layout.tables:
            found[table.no] = {}
            for row in await self._select(table, rows_of_wave(self.data_map, table.name)):
                found[table.no][self.key(table, row)] = row
        return found

    def key(self, table: StreamTable, row: Sequence[Field | None]) -> Key:
        """A row's key."""
        return b"".join(f for f in (row[i] for i in table.key_at) if f is not None)

    def shown(self, transactions: Sequence[Transaction]) -> list[list[str]]:
        """Changes as people write them: ``insert orders 7``, ``leave orders 7``; integers and texts only."""
        shown = []
        for one in transactions:
            lines = [self._line(change) for change in one.changes]
            lines += [f"{verb} {self._row(no, key)}" for verb, rows in _moved(one) for no, key in rows]
            shown.append(lines)
        return shown

    def value(self, change: Change, name: str) -> str | None:
        """One column of a change: text, ``null``, or None where it was not sent."""
        sent = change.fields[self.layout.tables[change.table].columns.index(name)]
        return None if sent is None else self._text(change.table, name, sent)

    def _line(self, change: Change) -> str:
        before = "" if change.old_key is None else f"{self._row(change.table, change.old_key)} -> "
        return f"{change.op.name.lower()} {before}{self._row(change.table, change.key)}"

    def _row(self, no: int, key: Key) -> str:
        table = self.layout.tables[no]
        parts = zip(table.key, canonical.split(key), strict=True)
        return f"{table.name.name} {','.join(self._text(no, name, part) for name, part in parts)}"

    def _text(self, no: int, name: str, sent: Field) -> str:
        if sent[:1] == b"\xff":
            return "null"
        table = self.layout.tables[no]
        if self.layout.binary and table.families[table.columns.index(name)] == "int":
            return str(int.from_bytes(sent[4:], "big", signed=True))
        return sent[4:].decode()

    async def _carry_out(self, transaction: Transaction) -> None:
        for change in transaction.changes:
            self._apply(change)
        for no, key in transaction.leave:
            await self._leave(no, key)
        if transaction.enter:
            await self._enter(transaction)

    def _apply(self, change: Change) -> None:
        rows = self.rows[change.table]
        match change.op:
            case Op.INSERT:
                assert change.key not in rows
                assert None not in change.fields
                rows[change.key] = change.fields
            case Op.DELETE:
                del rows[change.key]
            case Op.UPDATE:
                before = rows.pop(change.key if change.old_key is None else change.old_key)
                assert change.key not in rows
                rows[change.key] = tuple(b if f is None else f for f, b in zip(change.fields, before, strict=True))

    async def _leave(self, no: int, key: Key) -> None:
        """The row and all that hang from it at the destination."""
        row = self.rows[no].pop(key, None)
        self.index.discard(no, key)
        if row is None:
            return
        for child in self.layout.tables:
            if child.owner.parent == no:
                named = [self._plain(self.layout.tables[no], i, row[i]) for i in child.owner.to]
                for child_key, child_row in list(self.rows[child.no].items()):
                    if [self._plain(child, i, child_row[i]) for i in child.owner.at] == named:
                        await self._leave(child.no, child_key)

    async def _enter(self, transaction: Transaction) -> None:
        """Read the rows and what hangs from them now: later than the transaction, as the engine does."""
        async with self.conn.transaction():
            await self.conn.execute("set transaction isolation level repeatable read")
            [(seam, until)] = await (
                await self.conn.execute(
                    "select pg_current_snapshot()::text, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
                )
            ).fetchall()
            truth = await self.of_wave()
        entered = [(no, key) for no, key in transaction.enter if key in truth[no]]
        for no, key in entered:
            entered += [e for e in self._under(truth, no, key) if e not in entered]
        known = [row for row in entered if row in self.index]
        fresh = [row for row in entered if row not in self.index]
        for no, key in fresh:
            assert key not in self.rows[no]
            self.rows[no][key] = truth[no][key]
            self.index.add(no, key, truth[no][key])
        ahead = Ahead(Seam.parse(seam), int(until), {(no, key): truth[no][key] for no, key in fresh}, known)
        self.filter.skip(ahead)
        for statement in keep(ahead, self.index, self.wave_id):
            values = [Raw(value) for value in statement.values if value is not None]
            await AsyncRawCursor(self.conn).execute(statement.text, values)

    def _under(self, truth: Rows, no: int, key: Key) -> list[tuple[int, Key]]:
        found = []
        row = truth[no][key]
        for child in self.layout.tables:
            if child.owner.parent == no:
                named = [self._plain(self.layout.tables[no], i, row[i]) for i in child.owner.to]
                found += [
                    (child.no, child_key)
                    for child_key, child_row in truth[child.no].items()
                    if [self._plain(child, i, child_row[i]) for i in child.owner.at] == named
                ]
        return found

    def _plain(self, table: StreamTable, at: int, sent: Field | None) -> object:
        assert sent is not None
        if sent[:1] == b"\xff":
            return object()  # null refers to nothing
        return canonical.canonical([table.families[at]], binary=self.layout.binary)([sent])

    async def everything(self, table: StreamTable) -> list[tuple[Field | None, ...]]:
        """All rows of the wave of one table, doubles too."""
        return [*await self._select(table, rows_of_wave(self.data_map, table.name))]

    def fields_of(self, table: StreamTable, key: Key) -> tuple[Field | None, ...]:
        """The row of a table without a key."""
        assert table.key == table.columns
        return tuple(canonical.split(key))

    async def _select(self, table: StreamTable, rows: sql.Composable) -> list[tuple[Field, ...]]:
        statement = sql.SQL("select {} {} where m.wave = {}").format(
            sql.SQL(", ").join(column("t", name) for name in table.columns), rows, sql.Literal(self.wave_id)
        )
        cursor = await self.conn.execute(statement, binary=self.layout.binary)
        result = cursor.pgresult
        assert result is not None
        return [
            tuple(canonical.field(result.get_value(at, i)) for i in range(result.nfields))
            for at in range(result.ntuples)
        ]


def content(index: OwnershipIndex) -> list[object]:
    """What an index holds, to be compared."""
    return [(t.table.name, t.keys, [(a.at, a.present, a.of_key) for a in t.anchors]) for t in index.tables]


def _moved(one: Transaction) -> tuple[tuple[str, list[tuple[int, Key]]], ...]:
    return ("leave", one.leave), ("enter", one.enter)


async def layout_of(
    conn: AsyncConnection[Any],
    mapped: DataMap,
    *,
    binary: bool = True,
    order: Mapping[str, Sequence[str]] | None = None,
) -> Layout:
    """The layout of a database as it is; ``order`` gives a table's columns in another order than the table's own."""
    schema = await read_schema(conn)
    plans = []
    for name in mapped.in_scope():
        columns = tuple((order or {}).get(str(name), [c.name for c in schema.tables[name].stored_columns]))
        plans.append(TablePlan(name, columns, 0, 0, Format.BINARY if binary else Format.TEXT))
    return build_layout(mapped, plans, schema, await read_identities(conn, mapped.in_scope()))


@asynccontextmanager
async def watched(
    conninfo: str, ddl: str, mapped: DataMap, members: Sequence[object], **options: Any
) -> AsyncIterator[Wave]:
    """Run the DDL and whatever it inserts, then watch the members' wave. Options: ``binary``, ``order`` and
    ``part_changes``."""
    part = options.pop("part_changes", 20_000)
    app, conn = await connect(conninfo), await connect(conninfo, settings=SESSION)
    slot = f"{SLOT}_{conn.info.dbname.rsplit('_', 1)[-1]}"
    try:
        await app.execute(ddl.encode())
        layout = await layout_of(conn, mapped, **options)
        subject = layout.tables[0]
        await site_schema.install(conn, subject.type_names[subject.owner.at[0]])
        await conn.execute(
            b"insert into domicile.move (move_id, dataset, here, role, peer) values ('m', 'd', 'a', 'source', 'b');"
            b"insert into domicile.wave (move_id, no, mark, home, epoch) values ('m', 1, 'open', 'a', 0)"
        )
        async with conn.cursor().copy("copy domicile.member (wave, ordinal, subject) from stdin") as rows:
            for ordinal, member in enumerate(members, 1):
                await rows.write_row((1, ordinal, member))
        names = sql.SQL(", ").join(ident(t.name) for t in layout.tables)
        await conn.execute(
            sql.SQL("create publication domicile_test for table {} with (publish_via_partition_root = true)").format(
                names
            )
        )
        await conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        index = await load(conn, layout, mapped, 1)
        [(text,)] = await (await conn.execute("select pg_current_snapshot()::text")).fetchall()
        seam = Seam.parse(text)
        flow = WaveFilter(layout, mapped, index, seam, 0, part_changes=part)
        wave = Wave(app, conn, mapped, layout, 1, slot, index, flow, seam)
        wave.rows = await wave.of_wave()
        yield wave
        await conn.execute("select pg_drop_replication_slot(%s)", (slot,))
    finally:
        await app.close()
        await conn.close()


__all__ = ["TableName", "Wave", "content", "data_map", "layout_of", "owner_joins", "watched"]
