"""Which columns look personal, and which look like keys of objects: by name, by type, and by the form of
their values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from domicile.model.schema import Column, Table
from domicile.survey.measure import Measure
from domicile.survey.words import STRONG_TYPES, is_textual, strong_kind, weak_kind, words

ENOUGH_VALUES = 5
ENOUGH_SHARE = 0.8

_FORMS = {
    "e-mail address": r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
    "telephone number": r"^\+[0-9][0-9 ().-]{7,18}$",
    "network address": r"^([0-9]{1,3}\.){3}[0-9]{1,3}$",
    "device identifier": r"^[0-9]{15}$",
    "payment card or account": r"^[0-9]{4}([ -]?[0-9]{4}){3}$",
}
_OBJECT_KEY = (
    r"^((s3|gs|oss|cos|obs)://.+"
    r"|([^/\s:]+/)+[^/\s]*(\.[A-Za-z0-9]{2,5}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}))$"
)
_OBJECT_KEY_NAMES = frozenset({("object", "key"), ("storage", "key"), ("blob", "key")})


@dataclass(frozen=True, slots=True)
class Looks:
    """What a table's columns look like: name of the column -> why. ``strong`` ones say that the table is
    about people."""

    strong: dict[str, str] = field(default_factory=dict)
    weak: dict[str, str] = field(default_factory=dict)
    object_keys: dict[str, str] = field(default_factory=dict)
    unread: bool = False  # no value was looked at: the names alone speak


async def look(measure: Measure, table: Table) -> Looks:
    """Classify the columns of one table. Columns of references are left out: what they point at is classified
    there."""
    looks = Looks()
    referring = {c for r in table.references for c in r.columns}
    for column in table.columns:
        if column.name in referring:
            continue
        if kind := strong_kind(column):
            looks.strong[column.name] = f"{kind}, by its {'type' if column.base_type in STRONG_TYPES else 'name'}"
        elif (kind := weak_kind(column)) and _plausible(kind, column, table):
            looks.weak[column.name] = f"{kind}, by its name"
    textual = [c for c in table.columns if is_textual(c) and c.name not in referring]
    if not textual:
        return looks
    forms = await measure.forms(table, [c.name for c in textual], [*_FORMS.values(), _OBJECT_KEY])
    if forms is None:
        return replace(looks, unread=True)
    for column, counts in zip(textual, forms, strict=True):
        _look_at_values(column.name, counts, looks)
    return looks


def _plausible(kind: str, column: Column, table: Table) -> bool:
    """``state`` is part of an address only where other parts are."""
    if kind != "part of an address" or not {"state", "lines"}.intersection(words(column.name)):
        return True
    others = {w for c in table.columns for w in words(c.name) if c.name != column.name}
    return bool(others & {"city", "postal", "zip", "street", "address", "recipient"})


def _look_at_values(name: str, counts: list[int], looks: Looks) -> None:
    filled, *matches = counts
    *personal, object_key = matches
    if tuple(words(name)[-2:]) in _OBJECT_KEY_NAMES:
        looks.object_keys[name] = "key of an object, by its name"
    if filled < ENOUGH_VALUES:
        return
    for kind, count in zip(_FORMS, personal, strict=True):
        if count / filled >= ENOUGH_SHARE:
            looks.weak.pop(name, None)
            looks.strong[name] = f"{kind}, by the form of {count} of {filled} values"
            return
    if object_key / filled >= ENOUGH_SHARE:
        looks.object_keys[name] = f"key of an object, by the form of {object_key} of {filled} values"
