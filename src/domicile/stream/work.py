"""What one transaction has done to the wave so far, while the stream is read through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.stream.canonical import Canon, key_set
from domicile.stream.change import Change, Key
from domicile.stream.index import Anchor
from domicile.stream.layout import StreamTable

ASKED_MAX = 500_000  # values remembered that are not integers; beyond it every value counts as asked for


@dataclass(slots=True)
class Work:
    """What the transaction being read has done to the wave so far, in the order of `Transaction`."""

    changes: list[Change] = field(default_factory=list)
    enter: dict[tuple[int, Key], None] = field(default_factory=dict)
    leave: dict[tuple[int, Key], None] = field(default_factory=dict)
    gone: bool = False  # some row of the wave gave up a value that others may refer to

    passed_on: bool = False  # it did so by an UPDATE, so that what hangs from it at the destination has lost its way

    def settle(self) -> None:
        """The transaction is over. Raises stream-unclear where rows left that may not be found at the destination."""
        if self.leave and self.passed_on:
            raise unclear("changed the key of a row of the wave while others left that may have hung from it")
        self.enter, self.leave, self.gone, self.passed_on = {}, {}, False, False


class _Everything:
    """The set of all keys."""

    def add(self, key: Canon, /) -> None: ...

    def __contains__(self, key: object, /) -> bool:
        return True

    def __len__(self) -> int:
        return 1

    def clear(self) -> None: ...


@dataclass(slots=True)
class Loose:
    """References to one anchor that this transaction left hanging.

    ``asked``: values that rows outside the wave referred to, or gave up: rows may hang from them that were not carried,
    so a row of the wave that takes such a value must *enter*, with all that hangs from it. ``gone``: values that rows
    of the wave gave up, with the row's key: if another owner's row takes one, whatever still hangs from it leaves.
    """

    anchor: Anchor
    fresh: Callable[[], Any]
    asked: Any  # a set of keys, or everything
    gone: dict[Canon, Key] = field(default_factory=dict)

    @classmethod
    def of(cls, table: StreamTable, anchor: Anchor) -> Loose:
        """Nothing hangs loose yet."""
        families = tuple(table.families[i] for i in anchor.at)
        return cls(anchor, lambda: key_set(families), key_set(families))

    def bound(self) -> None:
        """Keep memory bounded in a huge transaction of others."""
        if isinstance(self.asked, set) and len(self.asked) > ASKED_MAX:
            self.asked = _Everything()

    def ask_everything(self) -> None:
        self.asked = _Everything()

    def settle(self) -> None:
        """The transaction is over."""
        if self.asked:
            self.asked = self.fresh()
        if self.gone:
            self.gone = {}


def unclear(what: str) -> DomicileError:
    """A transaction whose effect on the wave cannot be told from the stream."""
    return DomicileError(
        ErrorCode.STREAM_UNCLEAR,
        f"one transaction {what}",
        safe="The source serves; what has been applied at the destination is whole.",
        hint="Begin the wave again: its new copy has what the transaction did.",
    )


def schema_changed(table: TableName, what: str) -> DomicileError:
    """The table is not what the layout says."""
    return DomicileError(
        ErrorCode.SCHEMA_CHANGED,
        f"{table} changed under the stream: {what}",
        facts={"table": str(table)},
        safe="The source serves; what has been applied at the destination is whole.",
        hint="Plan again when the tables are as they shall be.",
    )
