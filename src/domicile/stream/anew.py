"""New rows of the wave, read as they are by now instead of being taken from the stream.

For a copy that is behind, where another wave's rows are in the way of a new one: by now it may have gone on to that
other wave, and then this one need never have it. It is what `Reparent` does with rows that come to another owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from domicile.stream.change import Change, Key, Marker, Op, Transaction
from domicile.stream.filter import WaveFilter
from domicile.stream.index import OwnershipIndex
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
    """Rows without a key are in nobody's way, and stay."""
    made: dict[tuple[int, Key], None] = {}
    kept: list[Change] = []
    for change in transaction.changes:
        before = (change.table, change.key if change.old_key is None else change.old_key)
        if change.op is Op.INSERT and index.tables[change.table].table.identity is not Identity.FULL:
            made[change.table, change.key] = None
        elif before not in made:
            kept.append(change)
        else:
            del made[before]
            if change.op is Op.UPDATE:
                made[change.table, change.key] = None
    for no, key in made:
        index.discard(no, key)
    transaction.changes = kept
    transaction.enter = list(dict.fromkeys([*transaction.enter, *made]))
