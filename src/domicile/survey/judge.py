"""What a column is by its values, where their form proves nothing. They are judged in memory and forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from domicile.model.schema import Column, Table
from domicile.survey import checks
from domicile.survey import vocabulary as v
from domicile.survey.forms import ENOUGH_SHARE, ENOUGH_VALUES
from domicile.survey.hints import Hint, tokens

Pairs = Sequence[tuple[str, str]]  # a value, and the country of its row or ''

_PHONE_WORDS = frozenset(
    ("imei", "imsi", "iccid", "msisdn", "sim", "handset", "phone", "phones", "mobile", "device", "devices", "terminal")
)
_NO_CARD_WORDS = frozenset(
    ("order", "invoice", "tracking", "shipment", "gift", "voucher", "coupon", "sku", "ean", "gtin", "upc", "barcode")
)
_SIM_WORDS = frozenset({"imsi", "imei", "iccid", "msisdn", "subscriber", "sim"})


def category(table: Table, column: Column, found: Hint | None, pairs: Pairs, markets: Sequence[str]) -> str:
    """What the values are, or '': nothing that is certain."""
    # What people type to give none ("n/a") says nothing, as long as they are few.
    told = [(value, country) for value, country in pairs if any(map(str.isdigit, value))]
    if len(told) < max(ENOUGH_VALUES, ENOUGH_SHARE * len(pairs)):
        return ""
    pairs, values = told, [value for value, _ in told]
    if found is not None and found.unsure and _confirmed(found, pairs, markets):
        return found.category
    said = {*tokens(column.name), *tokens(table.name.name)}
    near = said.union(*(tokens(c.name) for c in table.columns))
    if checks.iccid(values):
        return v.ICCID
    if not _NO_CARD_WORDS.intersection(said) and checks.card(values):
        return v.CARD
    if _PHONE_WORDS.intersection(near) and checks.imei(values):
        return v.IMEI
    if _SIM_WORDS.intersection(near) and checks.imsi_numbers(values):
        return v.IMSI
    if checks.chinese_id(values) or checks.brazilian_id(values):
        return v.NATIONAL
    if checks.iban_numbers(values):
        return v.ACCOUNT
    return v.PHONE if all(x.startswith("+") for x in values) and checks.phones(values) else ""


def _confirmed(found: Hint, pairs: Pairs, markets: Sequence[str]) -> bool:
    values = [value for value, _ in pairs]
    if found.category == v.PHONE:
        return checks.phones_of(pairs, markets)
    if found.category == v.NATIONAL:
        return checks.national(values, found.scheme) or checks.national(values, "")
    if found.category == v.IMEI:
        return checks.imei(values)
    return found.category in checks.SHAPED and checks.SHAPED[found.category](values)
