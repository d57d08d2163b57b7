"""Beside the origin, before the network: of everything that is committed there, what concerns the wave.

Fed with the stream's messages, gives the wave's part of each transaction, in the order of their commits. Nothing about
another user's row leaves this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import struct

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.stream import pgoutput
from domicile.stream.ahead import Ahead
from domicile.stream.change import Marker, Op, Transaction
from domicile.stream.index import OwnershipIndex
from domicile.stream.layout import Layout, StreamTable
from domicile.stream.pgoutput import Relation
from domicile.stream.rows import RowFilter
from domicile.stream.seam import Seam
from domicile.stream.skips import Skip
from domicile.stream.work import Loose, Work, schema_changed, unclear

MARKER_PREFIX = "domicile"
PART_CHANGES = 20_000

Handlers = Mapping[bytes, Callable[[bytes], None]]
"""What to do with a change, by the first five bytes of its message: what happened, and to which relation."""
_NOTHING: Handlers = {}
_OPS = {Op.INSERT: b"I", Op.UPDATE: b"U", Op.DELETE: b"D"}


class WaveFilter:
    """The filter of one wave. ``start``: the log position behind the last transaction applied; what was committed up
    to there is skipped, and so is what the seam's snapshot sees.

    ``position``: behind the last commit read. ``pending``: inside a transaction. ``newest``: the highest transaction id
    read, of 64 bits. They are for acknowledging. ``read``: the ids of all transactions read, of which the caller does
    not know yet that every snapshot sees them (`forget`).
    """

    def __init__(
        self,
        layout: Layout,
        data_map: DataMap,
        index: OwnershipIndex,
        seam: Seam,
        start: int,
        *,
        part_changes: int = PART_CHANGES,
    ) -> None:
        assert tuple(t.name for t in layout.tables) == data_map.in_scope()
        self.position = start
        self.pending = False
        self.newest = 0
        self.read: set[int] = set()
        self._start, self._seam, self._index, self._part_changes = start, seam, index, part_changes
        self._tables = {t.name: t for t in layout.tables}
        self._relations: dict[int, Relation] = {}
        self._work = Work()
        self._loose = [Loose.of(table.table, anchor) for table in index.tables for anchor in table.anchors]
        self._skips: list[Skip] = []
        self._active: list[Skip] = []  # those that have seen the transaction being read
        self._plain: dict[bytes, Callable[[bytes], None]] = {}
        self._careful: dict[bytes, Callable[[bytes], None]] = {}
        self._handlers = _NOTHING
        self._xid = self._commit_record = self._committed_at = 0
        self._markers: list[bytes] = []
        self._parted = False  # parts of the transaction being read have been given

    def feed(self, payloads: Sequence[bytes]) -> Iterator[Transaction | Marker]:
        """The wave's part of what these messages complete, in the order of commits.

        Lazy on purpose: a transaction with ``leave`` or ``enter`` is carried out, the index told of it, and `skip`
        called, before the next item is asked for; only then are the messages behind it judged. All must be drawn.
        A transaction larger than ``part_changes`` comes in parts; ``position`` of all but the last is that of its
        commit record, and ``leave`` and ``enter`` come with the last.

        Raises DomicileError: schema-changed, stream-truncated, stream-unclear; the filter is of no use afterwards.
        """
        try:
            yield from self._read(payloads)
        except (struct.error, LookupError, ValueError, TypeError, OverflowError):
            # No server sends it. The chain is cut: the message may hold a value.
            raise unclear("came in messages that cannot be read") from None

    def _read(self, payloads: Sequence[bytes]) -> Iterator[Transaction | Marker]:
        for loose in self._loose:
            loose.bound()
        handlers, work, part = self._handlers, self._work, self._part_changes
        for payload in payloads:
            handler = handlers.get(payload[:5])
            if handler is not None:
                handler(payload)
                if len(work.changes) >= part:
                    yield self._part(self._commit_record, last=False)
                continue
            match payload[0]:
                case pgoutput.BEGIN:
                    self._begin(payload)
                    handlers = self._handlers
                case pgoutput.COMMIT:
                    yield from self._commit(payload)
                    handlers = self._handlers
                case pgoutput.RELATION:
                    self._describe(pgoutput.relation(payload))
                case pgoutput.TRUNCATE:
                    self._truncate(payload)
                case pgoutput.MESSAGE:
                    yield from self._message(payload)

    def skip(self, ahead: Ahead) -> None:
        """Rows were read at a later snapshot because they came into the wave: changes to exactly these by transactions
        which that snapshot sees are in what was read, and are skipped."""
        self._skips.append(Skip.of(ahead, self._index, self._loose))

    @property
    def is_ahead(self) -> bool:
        """Rows were read at a snapshot that the stream has not passed by yet."""
        return bool(self._skips)

    def forget(self, visible: int) -> None:
        """Every snapshot from now on sees the transactions below this id of 64 bits."""
        self.read = {xid for xid in self.read if xid >= visible}

    def _begin(self, payload: bytes) -> None:
        self._commit_record, self._committed_at, self._xid = pgoutput.begin(payload)
        self.pending = True
        xid = self._seam.widen(self._xid)
        self.newest = max(self.newest, xid)
        if self._seam.sees(xid):
            return  # the changes fall through
        self.read.add(xid)
        if self._commit_record < self._start:
            return
        self._handlers = self._plain
        if self._skips:
            self._skips = [s for s in self._skips if not s.is_past(self._commit_record)]
            self._active = [s for s in self._skips if s.sees(self._xid, self._commit_record)]
            if self._active:
                self._handlers = self._careful

    def _commit(self, payload: bytes) -> Iterator[Transaction | Marker]:
        self.position = pgoutput.commit(payload)
        self.pending = False
        self._handlers = _NOTHING
        for loose in self._loose:
            loose.settle()
        work, markers = self._work, self._markers
        self._markers = []
        if work.changes or work.enter or work.leave or self._parted:
            part = self._part(self.position, last=True)
            work.settle()
            yield part
        for content in markers:
            yield Marker(self.position, content)

    def _part(self, position: int, *, last: bool) -> Transaction:
        work = self._work
        part = Transaction(self._xid, position, self._committed_at, work.changes, last=last)
        work.changes = []
        self._parted = not last
        if last:
            part.leave, part.enter = list(work.leave), list(work.enter)
        return part

    def _message(self, payload: bytes) -> Iterator[Marker]:
        message = pgoutput.message(payload)
        if message.prefix != MARKER_PREFIX:
            return
        if not message.transactional:
            yield Marker(message.position, message.content)
        elif self._handlers is not _NOTHING:
            self._markers.append(message.content)

    def _truncate(self, payload: bytes) -> None:
        if self._handlers is _NOTHING:
            return
        names = sorted(
            str(_name(self._relations[oid])) for oid in pgoutput.truncated(payload) if oid in self._relations
        )
        raise DomicileError(
            ErrorCode.STREAM_TRUNCATED,
            f"{', '.join(names)}: truncated while a wave is on its way",
            facts={"tables": names},
            safe="The source serves; what has been applied at the destination is whole.",
            hint="Begin the wave again: its new copy has what is there now.",
        )

    def _describe(self, relation: Relation) -> None:
        """The stream describes a table: its columns may have another order than the layout's, and nothing else."""
        table = self._tables.get(_name(relation))
        known = self._relations.get(relation.oid)
        if table is None and known is None:
            self._refuse_changes(relation)
            return
        if table is None:
            raise schema_changed(_name(known or relation), "it has another name")
        if known is not None and known != relation:
            raise schema_changed(table.name, "its columns, their types or its replica identity are not what they were")
        _check(table, relation)
        self._relations[relation.oid] = relation
        rows = RowFilter(table, relation, self._index, self._loose, self._work)
        oid = relation.oid.to_bytes(4, "big")
        for op, plain in ((Op.INSERT, rows.insert), (Op.UPDATE, rows.update), (Op.DELETE, rows.delete)):
            self._plain[_OPS[op] + oid] = plain
            self._careful[_OPS[op] + oid] = self._carefully(rows, op, plain)

    def _refuse_changes(self, relation: Relation) -> None:
        """A partition is described beside its root, under which its changes come. A change under any other name would
        be one of a table that was renamed before the stream first spoke of it."""

        def handler(_: bytes) -> None:
            raise schema_changed(_name(relation), "it is published, and not in scope under this name")

        oid = relation.oid.to_bytes(4, "big")
        for op in _OPS.values():
            self._plain[op + oid] = self._careful[op + oid] = handler

    def _carefully(self, rows: RowFilter, op: Op, plain: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def handler(payload: bytes) -> None:
            if not any(skip.covers(rows, op, payload) for skip in self._active):
                plain(payload)

        return handler


def _check(table: StreamTable, relation: Relation) -> None:
    names = [column.name for column in relation.columns]
    if sorted(names) != sorted(table.columns):
        raise schema_changed(table.name, "its columns are not those that were planned")
    if table.partitioned:
        return  # described by its root; the rows' identity is that of the leaves
    in_key = {column.name for column in relation.columns if column.in_key}
    if relation.replica != table.replica or in_key != set(names if table.replica == "f" else table.key):
        raise schema_changed(table.name, "its replica identity is not the one that was planned")


def _name(relation: Relation) -> TableName:
    return TableName(relation.schema, relation.name)
