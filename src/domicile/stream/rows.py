"""What a change to one row means for the wave: the filter's rules, for one table.

A row *was* the wave's when its key is in the index; it *is* when its owner columns name a member, or a parent that is
in the index. From these two follow insert, update, delete, enter and leave. A parent and the rows that hang from it may
change in any order inside one transaction (constraints may be deferred): `Loose` remembers what that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from domicile.stream.canonical import Canon, canonical
from domicile.stream.change import Change, Field, Key, Op
from domicile.stream.index import OwnershipIndex, TableIndex, digest, sorted_step
from domicile.stream.layout import Identity, StreamTable
from domicile.stream.pgoutput import FIRST_COLUMN, NEW, Relation, behind
from domicile.stream.probe import UNSENT, Probe, Prober, Wanted, key_of, row_reader
from domicile.stream.work import Loose, Work, schema_changed, unclear

Fields = tuple[Field | None, ...]
# Names of their own: an enumeration's member is looked up anew each time, for longer than the change takes to build.
_INSERT, _UPDATE, _DELETE = Op.INSERT, Op.UPDATE, Op.DELETE


@dataclass(frozen=True, slots=True)
class Reading:
    """How a table's tuples are read: compiled from the stream's description of it."""

    row: Callable[[bytes, int], Fields]  # all fields in the layout's order
    key_at: Probe
    owner_at: Probe
    both_at: Probe  # key and owner
    owner: Callable[[Fields], Any]  # of a row read
    key: Callable[[Fields], Key]  # of a row read
    told: Collection[int]  # the columns that the row before brings

    @classmethod
    def of(cls, table: StreamTable, relation: Relation, *, binary: bool) -> Reading:
        """Compile. The relation has the layout's columns, in any order."""
        place = {column.name: i for i, column in enumerate(relation.columns)}
        order = tuple(place[name] for name in table.columns)
        types = tuple(column.type_oid for column in relation.columns)
        row = _arranged(row_reader(types, binary=binary), order)
        owner_at = table.owner.at if table.owner.parent is None else sorted_step(table)[0]
        owner = _wanted(table, order, owner_at)
        make_owner = canonical(owner.families, binary=binary)
        prober = Prober(types, binary)
        key = _key_reader(table)
        if table.identity is Identity.FULL:
            key_at = both_at = _whole_row(row, key)
        else:
            wanted = _wanted(table, order, table.key_at)
            key_at, both_at = prober.one(wanted), prober.two(wanted, owner)
        return cls(
            row=row,
            key_at=key_at,
            owner_at=prober.one(owner),
            both_at=both_at,
            owner=lambda found: key_of([found[i] for i in owner_at], make_owner),
            key=key,
            # Not by the message's own letter: a partitioned table's is that of its root; the rows are in the leaves.
            told=range(len(table.columns)) if table.replica == "f" else table.key_at,
        )

    def old_and_new(self, payload: bytes) -> tuple[Fields, Fields]:
        """The row before (of which only the key may be known) and afterwards, completed by what was not sent."""
        old = self.row(payload, FIRST_COLUMN)
        new = self.row(payload, behind(payload, FIRST_COLUMN) + 3)
        if None in new:
            new = tuple(old[i] if field is None and i in self.told else field for i, field in enumerate(new))
        return old, new


class RowFilter:
    """The rules for one table. ``insert``, ``update`` and ``delete`` take a message each, and leave in ``work`` and in
    the index what it means."""

    def __init__(
        self, table: StreamTable, relation: Relation, index: OwnershipIndex, loose: Sequence[Loose], work: Work
    ) -> None:
        self.table = table
        self.read = Reading.of(table, relation, binary=index.layout.binary)
        self._no = table.no
        self._full = table.replica == "f"
        self._keyless = table.identity is Identity.FULL
        self._work = work
        self._index: TableIndex = index.tables[table.no]
        self._keys = self._index.keys
        self._parents, anchor = index.parents_of(table)
        # What this table's rows ask of their parent; and what is asked of this table's rows.
        self.asks = next((one for one in loose if one.anchor is anchor), None)
        self._loose = [one for one in loose if any(one.anchor is a for a in self._index.anchors)]
        self._remembers = any(anchor.of_key is not None for anchor in self._index.anchors)
        self._key_at, self._owner_at, self._both_at = self.read.key_at, self.read.owner_at, self.read.both_at
        self._row, self._key = self.read.row, self.read.key

    def insert(self, payload: bytes) -> None:
        """A new row."""
        owner = self._owner_at(payload, FIRST_COLUMN)
        if owner is None or owner not in self._parents:
            if self.asks is not None and owner is not None:
                self.asks.asked.add(owner)
            if self._work.gone:
                self._taken(self.read.row(payload, FIRST_COLUMN))
            return
        row = self._row(payload, FIRST_COLUMN)
        if None in row:
            raise ValueError  # nothing that a new row could keep
        key = self._key(row)
        canon = self._key_at(payload, FIRST_COLUMN)
        if self._loose:
            if self._hangs(row, canon, canon, known=False):
                self._work.enter[self._no, key] = None
                return
            self._refuse_left(key)
        if self._remembers:
            self._index.add(canon, row)
        else:
            self._keys.add(canon)
        self._work.changes.append(Change(self._no, _INSERT, key, row))

    def update(self, payload: bytes) -> None:
        """A row changed."""
        if payload[5] != NEW:
            self._update_with_old(payload)
            return
        if self._keyless:
            raise schema_changed(self.table.name, "the stream does not say which row an update meant")
        key, owner = self._both_at(payload, FIRST_COLUMN)
        if key is None or key is UNSENT:
            raise schema_changed(self.table.name, "a change came without the row's key")
        if key in self._keys:
            row = self._row(payload, FIRST_COLUMN)
            self._changed(key, self._key(row), row, owner)
        elif owner is None or owner is UNSENT or owner not in self._parents:
            self._foreign_update(payload, owner)
        else:
            self._work.enter[self._no, self.read.key(self.read.row(payload, FIRST_COLUMN))] = None

    def delete(self, payload: bytes) -> None:
        """A row is gone."""
        key = self._key_at(payload, FIRST_COLUMN)
        if key is None or key is UNSENT:
            raise schema_changed(self.table.name, "a deletion came without the row's key")
        if key in self._keys:
            sent = self._key(self._row(payload, FIRST_COLUMN))
            if self._loose:
                self._give_up(key, sent)
                self._index.discard(key)
                if self.table.orphans:  # what still hangs from it is nobody's, and leaves with it
                    self._work.leave[self._no, sent] = None
                    return
            else:
                self._keys.discard(key)
            self._work.changes.append(Change(self._no, _DELETE, sent))
            return
        for loose in self._loose:
            if loose.anchor.of_key is None:
                loose.asked.add(key)
            else:
                loose.ask_everything()  # what the row held there is not told
        if self._work.enter:
            self._work.enter.pop((self._no, self.read.key(self.read.row(payload, FIRST_COLUMN))), None)

    def touched(self, payload: bytes, op: Op) -> tuple[Key | None, Key | None, Any]:
        """Key before (where the change tells it apart), key afterwards (None: deleted), and whom the row names as its
        owner. For looking at a change without carrying it out."""
        if op is not Op.UPDATE or payload[5] == NEW:
            row = self.read.row(payload, FIRST_COLUMN)
            if op is Op.DELETE:
                return self.read.key(row), None, None
            return None, self.read.key(row), self.read.owner(row)
        old, row = self.read.old_and_new(payload)
        return self.read.key(old), self.read.key(row), self.read.owner(row)

    def holds(self, key: Key) -> bool:
        """Whether the row with that key is the wave's."""
        return self._index.canon_of(key) in self._keys

    def remove(self, key: Key) -> None:
        """The row with that key is gone, whatever else happened."""
        self._index.discard(self._index.canon_of(key))
        self._work.changes.append(Change(self._no, _DELETE, key))

    def read_again(self, key: Key) -> None:
        """The row with that key has come into the wave."""
        self._work.enter[self._no, key] = None

    def _update_with_old(self, payload: bytes) -> None:
        """An update that came with the row, or its key, before."""
        key = self._key_at(payload, FIRST_COLUMN)
        if key is None or key is UNSENT:
            raise schema_changed(self.table.name, "a change came without the row's key")
        if key in self._keys:
            old, row = self.read.old_and_new(payload)
            self._changed(key, self.read.key(old), row, self.read.owner(row))
            return
        owner = self._owner_at(payload, behind(payload, FIRST_COLUMN) + 3)
        if owner is UNSENT and self._full:
            owner = self._owner_at(payload, FIRST_COLUMN)
        is_ours = owner is not None and owner is not UNSENT and owner in self._parents
        if not is_ours and not (self._loose or self._work.enter or self._work.gone):
            if self.asks is not None and owner is not None and owner is not UNSENT:
                self.asks.asked.add(owner)
            return
        self._foreign_with_old(payload, key, owner, is_ours=is_ours)

    def _foreign_with_old(self, payload: bytes, key: Canon, owner: Any, *, is_ours: bool) -> None:
        old, row = self.read.old_and_new(payload)
        after = self.read.key(row)
        for loose in self._loose:
            if loose.anchor.of_key is None and self._index.canon_of(after) != key:
                loose.asked.add(key)
        entering = self._work.enter.pop((self._no, self.read.key(old)), self) is None
        if is_ours and self._keyless:
            # Nothing hangs from it, and all of it is told. Looked up at the origin, it would be taken for its equals.
            self._keys.add(self._index.canon_of(after))
            self._work.changes.append(Change(self._no, _INSERT, after, row))
            return
        if is_ours or (entering and owner is UNSENT):
            self._work.enter[self._no, after] = None
            return
        if self.asks is not None and owner is not None and owner is not UNSENT:
            self.asks.asked.add(owner)
        if self._work.gone:
            self._taken(row)

    def _foreign_update(self, payload: bytes, owner: Any) -> None:
        if self.asks is not None and owner is not None and owner is not UNSENT:
            self.asks.asked.add(owner)
        if self._work.enter or self._work.gone:
            row = self.read.row(payload, FIRST_COLUMN)
            if owner is not UNSENT:
                self._work.enter.pop((self._no, self.read.key(row)), None)
            if self._work.gone:
                self._taken(row)

    def _changed(self, key: Canon, sent: Key, row: Fields, owner: Any) -> None:
        """A row of the wave changed: it stays, or it leaves."""
        if owner is not UNSENT and (owner is None or owner not in self._parents):
            if self.asks is not None and owner is not None:
                self.asks.asked.add(owner)
            self._index.discard(key)
            if self._loose:
                self._work.leave[self._no, sent] = None
            else:  # nothing can hang from it
                self._work.changes.append(Change(self._no, _DELETE, sent))
            return
        after = self.read.key(row)
        new = key if after == sent else self._index.canon_of(after)
        if self._remembers or new != key:
            if self._hangs(row, new, key, known=True):
                self._index.discard(key)
                self._work.leave[self._no, sent] = None
                self._work.enter[self._no, after] = None
                return
            self._refuse_left(after)
            self._give_up(key, sent, row, new)
            self._index.add(new, row, key)
        self._work.changes.append(Change(self._no, _UPDATE, after, row, None if after == sent else sent))

    def _hangs(self, row: Fields, new: Canon, old: Canon, *, known: bool) -> bool:
        """Whether the row takes a value that rows outside the wave may refer to."""
        for loose in self._loose:
            if loose.asked or loose.gone:
                value = loose.anchor.of_fields(row, new, old)
                if value is None or (known and value == loose.anchor.of(old)):
                    continue
                if value in loose.asked:
                    return True
                before = loose.gone.pop(value, None)
                if before is not None and self._work.leave.pop((self._no, before), self) is None:
                    # It went in this transaction, and what hung from it hangs from this one now.
                    self._work.changes.append(Change(self._no, _DELETE, before))
        return False

    def _refuse_left(self, key: Key) -> None:
        """A row takes the key of one that leaves with what hangs from it: the step that finds it by its key, behind all
        changes, would take this one for it."""
        if (self._no, key) in self._work.leave:
            raise unclear(f"gave a key of {self.table.name} to another row of the wave when its row had left")

    def _give_up(self, key: Canon, sent: Key, row: Fields | None = None, new: Canon | None = None) -> None:
        """Note the values that a row of the wave no longer has: it was deleted, or is ``row`` now."""
        for loose in self._loose:
            value = loose.anchor.of(key)
            if value is None or (
                row is not None and new is not None and loose.anchor.of_fields(row, new, key) == value
            ):
                continue
            loose.gone[value] = sent
            self._work.gone = True
            self._work.passed_on |= row is not None

    def _taken(self, row: Fields) -> None:
        """Another owner's row as it is now: has it taken a value that a row of the wave gave up?"""
        for loose in self._loose:
            if not loose.gone:
                continue
            picked = [row[i] for i in loose.anchor.at]
            value = key_of(picked, loose.anchor.canon)
            if value is None or value is UNSENT or value not in loose.gone:
                continue
            key = loose.gone.pop(value)
            if (self._no, key) in self._work.leave:
                continue
            for change in reversed(self._work.changes):
                if change.table == self._no and change.op is Op.DELETE and change.key == key:
                    # What still hangs from it leaves with it: so the row must be there for that step to find them.
                    self._work.changes.remove(change)
                    self._work.leave[self._no, key] = None
                    break
            else:
                raise unclear(f"passed a key of {self.table.name} from a row of the wave to another owner's row")


def _arranged(read: Callable[[bytes, int], Fields], order: tuple[int, ...]) -> Callable[[bytes, int], Fields]:
    if order == tuple(range(len(order))):
        return read
    if len(order) == 1:
        raise AssertionError("one column has one order")
    arrange = itemgetter(*order)
    return lambda payload, at: arrange(read(payload, at))


def _whole_row(row: Callable[[bytes, int], Fields], key: Callable[[Fields], Key]) -> Probe:
    """The probe for a row that only all its columns identify."""
    return lambda payload, at: digest(key(row(payload, at)))


def _key_reader(table: StreamTable) -> Callable[[Fields], Key]:
    """The key of a row, as it is sent on; its fields have been sent, or completed by those of the row before."""
    of_row: Any = itemgetter(*table.key_at)
    if len(table.key_at) == 1:
        only: Callable[[Fields], Key] = of_row
        return only
    return lambda row: b"".join(of_row(row))


def _wanted(table: StreamTable, order: tuple[int, ...], at: tuple[int, ...]) -> Wanted:
    return Wanted(tuple(order[i] for i in at), tuple(table.families[i] for i in at))
