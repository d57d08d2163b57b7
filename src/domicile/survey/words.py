"""What the names of tables and columns suggest. Pure; a name alone never decides a role, it says where to look."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
import re

from domicile.model.schema import Column


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


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

# Kinds of personal values that say a table is about people.
_STRONG: Mapping[str, frozenset[str]] = {
    "e-mail address": _set("email mail correo courriel"),
    "telephone number": _set("phone mobile tel telephone telefon telefono fax msisdn cellphone handy whatsapp"),
    "name of a person": _set(
        "firstname lastname fullname surname forename nickname username middlename displayname vorname "
        "nachname prenom apellido apellidos recipient cardholder"
    ),
    "postal address": _set("address addr street strasse calle rue adresse direccion alamat"),
    "date of birth": _set("birth birthday birthdate dob geburtsdatum naissance nacimiento"),
    "identity document": _set("passport ssn nric aadhaar nik dni curp idcard"),
    "payment card or account": _set("iban card cvv bic"),
    "network address": _set("ip ipaddr ipaddress mac"),
    "device identifier": _set("imei imsi iccid udid idfa gaid"),
    "credential": _set("password passwd pwd secret salt otp"),
    "picture of a person": _set("avatar selfie portrait picture"),
    "position": _set("lat latitude lon lng longitude geolocation gps"),
}
_STRONG_PAIRS: Mapping[tuple[str, str], str] = {
    **{
        (first, "name"): "name of a person"
        for first in _set(
            "first last full middle given family display user real nick maiden holder contact billing shipping"
        )
    },
    ("user", "agent"): "network address",
    ("national", "id"): "identity document",
    ("tax", "id"): "identity document",
    ("device", "id"): "device identifier",
    ("e", "mail"): "e-mail address",
}
STRONG_TYPES = {
    "inet": "network address",
    "macaddr": "network address",
    "macaddr8": "network address",
    "point": "position",
    "geometry": "position",
    "geography": "position",
}
# Kinds that matter only in a table that is about people anyway.
_WEAK: Mapping[str, frozenset[str]] = {
    "part of an address": _set(
        "address2 city district state province zip postal postcode zipcode town county plz ort lines"
    ),
    "sex": _set("gender sex geschlecht"),
    "free text": _set("note notes comment comments body message bio about remark remarks"),
    "name": _set("name company"),
    "profile": _set("profile interests preferences nationality religion marital"),
}
_TEXTUAL = _set("text varchar bpchar citext name")
_TIMES = _set("date timestamp timestamptz time timetz interval")
_INTEGERS = _set("int2 int4 int8")


def words(name: str) -> tuple[str, ...]:
    """``billingAddress2`` and ``billing_address_2`` alike: ('billing', 'address')."""
    parts = _BREAK.split(_CAMEL.sub("_", name).lower())
    return tuple(w for w in (part.rstrip("0123456789") for part in parts) if w)


def singular(word: str) -> str:
    """A rough English singular, enough to match ``orders`` with ``order_id``."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "ches", "shes")) and len(word) > 4:
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


def strong_kind(column: Column) -> str:
    """The kind of personal value that name and type say for sure, or ''."""
    if column.base_kind == "e" or column.base_type == "bool":
        return ""
    if kind := STRONG_TYPES.get(column.base_type, ""):
        return kind
    found = words(column.name)
    kinds = [_STRONG_PAIRS[pair] for pair in pairwise(found) if pair in _STRONG_PAIRS]
    kinds += [k for k, known in _STRONG.items() if known.intersection(found)]
    if not kinds or (found[-1] in {"id", "count", "type", "verified", "status"} and not _is_pair(found)):
        return ""
    # A timestamp beside an e-mail (email_verified_at) is not one; only a date of birth is.
    if column.base_type in _TIMES and kinds[0] != "date of birth":
        return ""
    return "network address" if "network address" in kinds else kinds[0]


def weak_kind(column: Column) -> str:
    """The kind of value that is personal in a table about people, or ''."""
    if column.base_kind == "e" or column.base_type in _TIMES | _INTEGERS | {"bool", "numeric"}:
        return ""
    found = words(column.name)
    if found and found[-1] in IDENTIFIER_WORDS - {"code"}:
        return ""
    return next((k for k, known in _WEAK.items() if known.intersection(found)), "")


def _is_pair(found: tuple[str, ...]) -> bool:
    return found[-2:] in _STRONG_PAIRS
