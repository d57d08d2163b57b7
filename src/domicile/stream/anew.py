"""New rows of the wave, read as they are by now instead of being taken from the stream.

For a copy that is behind, where another wave's rows are in the way of a new one: by now it may have gone on to that
other wave, and then this one need never have it. It is what `Reparent` does with rows that come to another owner.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from domicile.stream.canonical import canonical
from domicile.stream.change import NULL, Change, Key, Marker, Op, Transaction
from domicile.stream.filter import WaveFilter
from domicile.stream.index import OwnershipIndex, sorted_step
from domicile.stream.layout import Identity


class AnewFilter(WaveFilter):
    """The filter of a wave whose new rows all come in by being read at the origin."""

    _in_parts = False

    def feed(self, payloads: Sequence[bytes]) -> Iterator[Transaction | Marker]:
        """As the filter does, in whose ``enter`` new rows stand; parts of a large transaction stay as they are."""
        for item in super().feed(payloads):
            if isinstance(item, Transaction):
                if item.last and not self._in_parts:
                    _enter(item, self._index)
                self._in_parts = not item.last
            yield item


def _enter(transaction: Transaction, index: OwnershipIndex) -> None:
    """Rows without a key are in nobody's way, and stay. So does all of a transaction in which a row that stays comes to
    hang from a new one: that may have gone on by now, and would leave it behind with nobody to take it along. What
    hung from a row that gave its key up to a new one does so without a change of its own."""
    made: dict[tuple[int, Key], None] = {}
    kept: list[Change] = []
    for change in transaction.changes:
        before = change.table, _former(change)
        if change.op is Op.INSERT and index.tables[change.table].table.identity is not Identity.FULL:
            made[change.table, change.key] = None
        elif before not in made:
            kept.append(change)
        else:
            del made[before]
            if change.op is Op.UPDATE:
                made[change.table, change.key] = None
    if _hang(kept, made, index) or _taken_over(kept, made, index):
        return
    for no, key in made:
        index.discard(no, key)
    transaction.changes = kept
    transaction.enter = list(dict.fromkeys([*transaction.enter, *made]))


def _former(change: Change) -> Key:
    return change.key if change.old_key is None else change.old_key


def _taken_over(kept: Iterable[Change], made: Collection[tuple[int, Key]], index: OwnershipIndex) -> bool:
    """Whether a new row may have what others hang by from one that was there. Where that is not the key, the stream
    does not say what it was before."""
    tables = {no for no, _ in made}
    for change in kept:
        anchors = index.tables[change.table].anchors
        if anchors and (change.table, _former(change)) in made:
            return True
        if change.table in tables and any(anchor.of_key is not None for anchor in anchors):
            return True
    return False


def _hang(kept: Sequence[Change], made: Iterable[tuple[int, Key]], index: OwnershipIndex) -> bool:
    """Whether a row that was changed hangs from one that was made."""
    new = {no: [key for of, key in made if of == no] for no in {no for no, _ in made}}
    for no in {change.table for change in kept}:
        table = index.tables[no].table
        parent, (_, anchor) = table.owner.parent, index.parents_of(table)
        if parent not in new or anchor is None:
            continue
        values = {anchor.of(index.tables[parent].canon_of(key)) for key in new[parent]}
        at = sorted_step(table)[0]
        canon = canonical([table.families[i] for i in at], binary=index.layout.binary)
        rows = ([field for i in at if (field := c.fields[i]) not in (None, NULL)] for c in kept if _tells(c, no))
        if any(canon(row) in values for row in rows if len(row) == len(at)):
            return True
    return False


def _tells(change: Change, no: int) -> bool:
    return change.table == no and change.op is not Op.DELETE
