"""What the name of a column says about what is in it, in several languages. Pure.

A name says nothing by the words in it, but by its head: ``email_template`` is a template. So a term counts only where
the words behind it are known to change nothing, and where no word before it turns it into something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from domicile.model.schema import Column, TableName
from domicile.survey import vocabulary as v
from domicile.survey.words import words

_TEXTUAL = frozenset({"text", "varchar", "bpchar", "citext", "name"})
_NUMBERS = frozenset({"int4", "int8", "numeric"})
_TIMES = frozenset({"date", "timestamp", "timestamptz"})
_FREE = _TEXTUAL | {"json", "jsonb", "bytea"}
_PLACES = frozenset({"point", "geometry", "geography", "float4", "float8", "numeric"})
_TYPES = {
    v.BIRTH: _FREE | _TIMES | {"int4", "int2"},
    v.PRECISE: _FREE | _PLACES,
    v.AGE: _TEXTUAL | {"int2", "int4", "numeric"},
    v.GENDER: _FREE | {"int2", "int4"},
    v.IP: _FREE | {"inet", "cidr", "int8"},
    v.DEVICE: _FREE | {"uuid", "macaddr", "macaddr8"},
    **dict.fromkeys((v.PHONE, v.FAX, v.MSISDN, v.CARD, v.ACCOUNT, v.NATIONAL, v.TAX), _FREE | _NUMBERS),
    **dict.fromkeys((v.IMEI, v.IMSI, v.ICCID), _FREE | _NUMBERS),
}
_BY_TYPE = {"inet": v.IP, "macaddr": v.DEVICE, "macaddr8": v.DEVICE, "point": v.PRECISE, "geography": v.PRECISE}


@dataclass(frozen=True, slots=True)
class Hint:
    """What a name (or a type) suggests. ``weak``: personal only in a table about people. ``unsure``: only if the values
    confirm it; ``scheme`` then says which kind of number they must be."""

    category: str
    weak: bool = False
    unsure: bool = False
    by: str = "name"
    scheme: str = ""
    length: int = 1  # words of the term


def hint(column: Column, table: TableName) -> Hint | None:
    """What the column's name and type suggest, or None."""
    if column.base_type == "bool" or column.generated:
        return None
    found = _split(column.name)
    about = _split(table.name)
    if column.base_type in _BY_TYPE:
        category = _BY_TYPE[column.base_type]
        machine = v.MACHINE_WORDS.intersection((*found, *about))
        place = category == v.PRECISE and v.PLACE_WORDS.intersection(about)
        return None if machine or place else Hint(category, by="type")
    best = max(_matches(found, column.name), key=_rank, default=None)
    best = _in_context(best, found, about)
    if best is None or not _type_fits(column, best.category):
        return None
    if column.base_type in _NUMBERS and best.category in (v.PHONE, v.CARD, v.DEVICE, v.IP, v.NATIONAL):
        return Hint(best.category, best.weak, True, best.by, best.scheme)
    return best


def tokens(name: str) -> tuple[str, ...]:
    """The words of a name, with those taken apart that are written together: ``useremail``."""
    return _split(name)


def _rank(found: Hint) -> tuple[bool, bool, int, int]:
    """Sure before weak, a longer term before a shorter one (``id_card`` before ``card``)."""
    return (not found.unsure, not found.weak, found.length, found.category.count("."))


def _matches(found: tuple[str, ...], name: str) -> Iterator[Hint]:
    for term in v.TERMS_BY_FIRST_WORD.keys() & set(found):
        for at in (i for i, word in enumerate(found) if word == term):
            for entry in v.TERMS_BY_FIRST_WORD[term]:
                end = at + len(entry.words)
                if found[at:end] == entry.words and _undisturbed(entry, found[:at], found[end:]):
                    yield Hint(entry.category, entry.weak, entry.unsure, scheme=entry.scheme, length=len(entry.words))
    for at in range(len(found) - 1):
        if found[at] in v.NAME_OF and found[at + 1] == "name" and _harmless(found[at + 2 :]):
            yield Hint(v.NAME)
    if not name.isascii():
        # Scripts without blanks: the first term that the name holds.
        for text, category in v.NATIVE_TERMS:
            if text in name.lower():
                yield Hint(category)
                return


def _undisturbed(entry: v.Term, before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    if entry.alone and (before or after):
        return False
    if entry.person and not (before and before[-1] in v.PERSON_WORDS | v.SIDE_WORDS):
        return False
    if v.VERBS.intersection(before[-1:]) or v.FLAGS.intersection(before[:1]):
        return False
    return not entry.not_after.intersection(before) and _harmless(after)


def _harmless(after: tuple[str, ...]) -> bool:
    return all(word in v.HARMLESS for word in after)


def _in_context(best: Hint | None, found: tuple[str, ...], about: tuple[str, ...]) -> Hint | None:
    """What the table's name makes of it."""
    sms = "sms" in about or about[:2] == ("text", "message")
    if sms and found and v.TEXT_WORDS.issuperset(found):
        return Hint(v.SMS)
    if best is None:
        return None
    if v.SERVICE_WORDS.intersection(found):
        return None
    if (best.category == v.IP or "mac" in found) and v.MACHINE_WORDS.intersection((*found, *about)):
        return None
    if best.category in (v.NAME, v.NAME_FIRST, v.NAME_LAST) and v.THING_WORDS.intersection(found):
        return None
    place = v.PLACE_WORDS.intersection((*about, *found[:-1])) and not v.PERSON_WORDS.intersection((*about, *found))
    if place and (best.category.startswith((v.ADDRESS, "user.location")) or best.category in (v.PHONE, v.FAX)):
        return Hint(best.category, True, best.unsure, best.by, best.scheme)
    return best


def _type_fits(column: Column, category: str) -> bool:
    if column.base_kind == "e":
        return category.startswith("user.demographic")
    base = column.element_type or column.base_type
    return base in _TYPES.get(category, _FREE)


@lru_cache(maxsize=4096)
def _split(name: str) -> tuple[str, ...]:
    return tuple(part for word in words(name) for part in _unglued(word))


def _unglued(word: str) -> tuple[str, ...]:
    """``useremail``, ``phonenumber``: two words that are written together, where the parts are known."""
    if word in v.GLUED:
        return v.GLUED[word]
    if word in v.TERMS_BY_FIRST_WORD or len(word) < 6:
        return (word,)
    for end in range(3, len(word) - 2):
        head, tail = word[:end], word[end:]
        if head in v.PERSON_WORDS | v.SIDE_WORDS and (
            tail in v.TERMS_BY_FIRST_WORD or tail in v.GLUED or tail == "name"
        ):
            return (head, *v.GLUED.get(tail, (tail,)))
    return (word,)
