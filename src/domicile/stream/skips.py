"""Rows that came into the wave in the middle of the stream were read at a snapshot of their own, later than the change
that brought them: what that snapshot has seen of them must not be applied a second time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domicile.stream.ahead import Ahead
from domicile.stream.change import Key, Op
from domicile.stream.index import OwnershipIndex
from domicile.stream.probe import UNSENT
from domicile.stream.rows import RowFilter
from domicile.stream.seam import Seam
from domicile.stream.work import Loose


@dataclass(frozen=True, slots=True)
class Skip:
    """What one such reading brought: ``keys`` of rows by table; ``referred``: the values by which other rows hang from
    them, by the identity of the `Loose` that watches them. ``known``: keys, by table, of rows that it saw and did not
    bring."""

    seam: Seam
    until: int
    keys: Mapping[int, set[Key]]
    known: Mapping[int, set[Key]]
    referred: Mapping[int, Any]

    @classmethod
    def of(cls, ahead: Ahead, index: OwnershipIndex, watched: Sequence[Loose]) -> Skip:
        """From what was read, whatever became of it since."""
        referred = {id(loose): loose.fresh() for loose in watched}
        for (no, key), fields in ahead.entered.items():
            table = index.tables[no]
            for loose in (one for one in watched if any(one.anchor is a for a in table.anchors)):
                canon = table.canon_of(key)
                value = loose.anchor.of_fields(fields, canon, canon)
                if value is not None:
                    referred[id(loose)].add(value)
        return cls(ahead.seam, ahead.until, _keys(ahead.entered), _keys(ahead.known), referred)

    def sees(self, xid: int, commit_record: int) -> bool:
        """Whether that snapshot saw a transaction, of whose commit record the position is given."""
        return not self.is_past(commit_record) and self.seam.sees_short(xid)

    def is_past(self, commit_record: int) -> bool:
        """Whether nothing from here on was seen by it."""
        return commit_record >= self.until

    def covers(self, rows: RowFilter, op: Op, payload: bytes) -> bool:
        """Whether a change by a transaction that the snapshot saw is in what was read, or concerns a row that was gone
        by then. A row of the wave that took the key of one that was read is removed under its former key; one that was
        read and takes the key of a row of the wave is read once more."""
        old, new, owner = rows.touched(payload, op)
        entered, known = self.keys.get(rows.table.no, ()), self.known.get(rows.table.no, ())
        if new in entered:
            if old is not None and old != new and old not in entered and rows.holds(old):
                rows.remove(old)
            return True
        if old in entered:
            if new is not None and new in known:
                rows.read_again(new)
            return True
        # A row that was there, but was not brought, is the stream's business, however often it goes and comes again.
        if new is None or new in known or rows.asks is None or owner is None or owner is UNSENT:
            return False
        return owner in self.referred[id(rows.asks)] and not rows.holds(new if old is None else old)


def _keys(rows: Iterable[tuple[int, Key]]) -> dict[int, set[Key]]:
    found: dict[int, set[Key]] = {}
    for no, key in rows:
        found.setdefault(no, set()).add(key)
    return found
