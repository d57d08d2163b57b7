"""What the names of tables and columns suggest. Pure; a name alone never decides a role, it says where to look."""

from __future__ import annotations

import re

from domicile.model.schema import Column


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("/") for pair in text.split())


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BREAK = re.compile(r"[^0-9a-z\u0080-\uffff]+")

# Names of tables whose rows are the people served, in the languages of common code bases; and of those who serve.
SUBJECT_WORDS = _set(
    "user users customer client member account subscriber patient student player guest buyer shopper person "
    "people resident citizen holder kunde nutzer benutzer mitglied utilisateur cliente usuario utente klant "
    "gebruiker pelanggan pengguna khachhang"
)
SERVANT_WORDS = _set("staff employee admin operator agent manager worker role permission group")

IDENTIFIER_WORDS = _set("id uuid guid key code no nr num number ref fk by")

# Plurals that no ending tells, and singulars that look like plurals.
_IRREGULAR = _pairs(
    "people/person children/child men/man women/woman shelves/shelf leaves/leaf indices/index vertices/vertex "
    "matrices/matrix appendices/appendix criteria/criterion analyses/analysis bases/basis crises/crisis "
    "diagnoses/diagnosis theses/thesis axes/axis analysis/analysis basis/basis crisis/crisis diagnosis/diagnosis "
    "thesis/thesis axis/axis"
)

_TEXTUAL = _set("text varchar bpchar citext name")
_INTEGERS = _set("int2 int4 int8")


def words(name: str) -> tuple[str, ...]:
    """``billingAddress2`` and ``billing_address_2`` alike: ('billing', 'address')."""
    parts = _BREAK.split(_CAMEL.sub("_", name).lower())
    return tuple(w for w in (part.rstrip("0123456789") for part in parts) if w)


def singular(word: str) -> str:
    """A rough English singular, enough to match ``orders`` with ``order_id``."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("zzes"):
        return word[:-3]
    if word.endswith(("ses", "xes", "ches", "shes", "oes")) and len(word) > 4:
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) and len(word) > 3 else word


def is_textual(column: Column) -> bool:
    """A column whose values can be looked at as text."""
    return column.base_type in _TEXTUAL


def comparable(one: Column, other: Column) -> bool:
    """Whether values of the two columns could be references: both integers, both textual, or one type."""
    return (
        {one.base_type, other.base_type} <= _INTEGERS
        or (is_textual(one) and is_textual(other))
        or (one.base_schema, one.base_type) == (other.base_schema, other.base_type)
    )


def looks_like_identifier(name: str) -> bool:
    """``inviter_id``, ``created_by``, ``orderNo``."""
    found = words(name)
    return len(found) > 1 and found[-1] in IDENTIFIER_WORDS


def names_table(column: str, table: str) -> bool:
    """Whether the column's name says that table: ``customer_id``, ``billing_customer_id``, ``order_id`` for
    ``orders``."""
    said = [singular(w) for w in words(column) if w not in IDENTIFIER_WORDS]
    meant = [singular(w) for w in words(table)]
    return bool(meant) and said[-len(meant) :] == meant
