"""References that the mover clears: which nulls are expected, and what is promised of them.

The mover's null is not the application's: what a writer wrote stays promised until a writer changes it, and the judge
says where a null may stand instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import md5
from typing import TYPE_CHECKING

from reliability.schemas.rows import DIGITS, Held
from reliability.schemas.shape import Shop, Tab

if TYPE_CHECKING:
    from reliability.schemas.writers import Ledger

_NULL = md5(b"()", usedforsecurity=False).hexdigest()[:DIGITS]
_PLAIN = {"insert", "update", "loose"}  # deeds that change no key


def persons_of(shop: Shop, rows: Mapping[str, Held]) -> dict[str, str]:
    """The subjects by the digest of their key, as it stands in whatever names them."""
    at = DIGITS * [c.name for c in shop.subject.cols].index(shop.subject_key)
    own = {subject: next(iter(held[shop.subject.name])) for subject, held in rows.items()}
    return {row[at : at + DIGITS]: subject for subject, row in own.items()}


def promised(shop: Shop, before: Held, now: Held, deeds: Iterable[str]) -> Held:
    """What a writer has read of a subject's rows at the end of a transaction with these deeds, and those references
    that were cleared since the last one, which it has not changed."""
    kept = dict(now)
    for tab, at in _cleared(shop):
        # A row is the same by its key, or where a key may have changed, by all that it holds beside.
        plain = [_place(tab, name) for name in tab.key]
        rest = [_place(tab, c.name) for c in tab.cols if _place(tab, c.name) not in at]
        own = plain if _PLAIN.issuperset(deeds) else rest
        known = {_parts(row, own): row for row in before.get(tab.name, ())}
        if tab.name in now:
            kept[tab.name] = Counter(
                _with(row, [one for one in at if row[one : one + DIGITS] == _NULL], known.get(_parts(row, own), row))
                for row in now[tab.name].elements()
            )
    return kept


@dataclass(frozen=True, slots=True)
class Nulls:
    """What is promised at a site of references that the mover clears."""

    shop: Shop
    ledger: Ledger
    site: str

    def settled(self, subject: str | None, wanted: Held, has: Held) -> Held:
        """``wanted``, with those references as they are there, where that is allowed: the rest of the row is what it
        was."""
        settled = dict(wanted)
        for tab, at in _cleared(self.shop):
            if tab.name in wanted:
                there = {_masked(row, at): row for row in has.get(tab.name, ())}
                settled[tab.name] = Counter(
                    self._as_there(subject, row, there.get(_masked(row, at), row), at)
                    for row in wanted[tab.name].elements()
                )
        return settled

    def _as_there(self, subject: str | None, row: str, there: str, at: Iterable[int]) -> str:
        for one in at:
            ours, theirs = row[one : one + DIGITS], there[one : one + DIGITS]
            if ours != theirs and self._allowed(subject, ours, theirs):
                row = _with(row, [one], there)
        return row

    def _allowed(self, subject: str | None, wanted: str, has: str) -> bool:
        """Cleared: who was named lives elsewhere, or nowhere. Written back, of a member who is home again: it was read
        by the application while it was cleared, or set to null where he was."""
        if has == _NULL:
            named = self.ledger.persons.get(wanted)
            return named is not None and (named in self.ledger.gone or self.ledger.home[named] != self.site)
        return wanted == _NULL and self.site == "source" and subject in self.ledger.members


def _cleared(shop: Shop) -> Iterator[tuple[Tab, list[int]]]:
    """The tables with such references, and where these stand in a row."""
    for tab in shop.tables:
        if at := [_place(tab, ref.columns[0]) for ref in tab.loose if ref.cleared]:
            yield tab, at


def _place(tab: Tab, name: str) -> int:
    return DIGITS * [c.name for c in tab.cols].index(name)


def _parts(row: str, at: Iterable[int]) -> tuple[str, ...]:
    return tuple(row[one : one + DIGITS] for one in at)


def _with(row: str, at: Iterable[int], other: str) -> str:
    """The row, with what stands there in the other one."""
    for one in at:
        row = row[:one] + other[one : one + DIGITS] + row[one + DIGITS :]
    return row


def _masked(row: str, at: Iterable[int]) -> str:
    return _with(row, at, "-" * len(row))
