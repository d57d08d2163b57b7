"""Whether values are what a column's name or their form suggests: numbers with a check digit, a plan of numbers, a
country's rules. Values are handed in, judged in memory and forgotten; only counts and yes or no leave.

Of `python-stdnum` each module is used in context only: its ``imei`` alone accepts every run of 14 or 16 digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
import importlib
from types import ModuleType

import phonenumbers
from stdnum import iban, imsi, luhn

from domicile.survey import vocabulary as v

SURE_SHARE = 0.95  # of values with a check digit; by chance it is right in a tenth of all numbers
MOST_SHARE = 0.8
SOME_SHARE = 0.5  # of telephone numbers in international form: test data is full of numbers that nobody was given

# Who gave out the number of a phone: the first two digits of its IMEI.
_IMEI_ISSUERS = ("01", "10", "30", "33", "35", "44", "45", "49", "50", "51", "52", "53", "54", "86", "91", "98", "99")
_CARD_LENGTHS = range(13, 20)
# Which modules of python-stdnum know the number that a term means.
_SCHEMES = {
    "pan": ("in_.pan",), "nik": ("id.nik",), "dni": ("es.dni", "ar.dni"), "nie": ("es.nie",), "cnp": ("ro.cnp",),
    "cpr": ("dk.cpr",), "rut": ("cl.rut", "uy.rut"), "nir": ("fr.nir",), "rfc": ("mx.rfc",), "rrn": ("kr.rrn",),
    "ric": ("cn.ric",), "egn": ("bg.egn",), "emso": ("si.emso",), "oib": ("hr.oib",), "amka": ("gr.amka",),
    "idnr": ("de.idnr", "za.idnr", "il.idnr"), "insee": ("fr.nir",), "cedula": ("ec.ci", "do.cedula"), "ci": ("ec.ci",),
}  # fmt: skip
_ANY_COUNTRY = (
    "es.dni", "es.nie", "cn.ric", "br.cpf", "mx.curp", "it.codicefiscale", "pl.pesel", "ro.cnp", "in_.aadhaar",
    "tr.tckimlik", "fr.nir", "se.personnummer", "fi.hetu", "za.idnr",
)  # fmt: skip
Values = Sequence[str]


def share(values: Values, is_right: Callable[[str], bool]) -> float:
    """The part of the values that are right; 0 without values."""
    return sum(map(is_right, values)) / len(values) if values else 0.0


def card(values: Values) -> bool:
    """Numbers of payment cards: an issuer's prefix, a length it uses, a check digit."""
    return share(values, _is_card) >= SURE_SHARE


def iban_numbers(values: Values) -> bool:
    """Bank accounts as IBAN, whose check digits are right."""
    return share(values, iban.is_valid) >= MOST_SHARE


def iccid(values: Values) -> bool:
    """Numbers of SIM cards: they begin with 89, and the last digit checks the others."""
    return share(values, lambda n: n.startswith("89") and _luhn(n.rstrip("Ff"))) >= SURE_SHARE


def imei(values: Values) -> bool:
    """Numbers of phones by their values: 15 digits, a body that gives out such numbers, a check digit.

    A tenth of all 15-digit numbers pass the check digit, so nearly all must; and whoever asks has a context that says
    phones.
    """
    return share(values, lambda n: len(n) == 15 and n[:2] in _IMEI_ISSUERS and _luhn(n)) >= SURE_SHARE


def imei_form(values: Values) -> bool:
    """What a column that is called imei may hold: with or without check digit, or with a software version."""
    return share(values, lambda n: _digits(n) and len(n) in (14, 15, 16)) >= MOST_SHARE


def imsi_numbers(values: Values) -> bool:
    """Numbers of subscriptions: 15 digits that begin with a country and a network that there are."""
    return share(values, lambda n: len(n) == 15 and imsi.is_valid(n)) >= SURE_SHARE


def national(values: Values, scheme: str) -> bool:
    """Numbers of a national register. ``scheme``: the term that the column's name holds; unknown ones try the countries
    whose numbers are long and checked."""
    modules = [found for name in _SCHEMES.get(scheme, _ANY_COUNTRY) if (found := _module(name))]
    return any(share(values, module.is_valid) >= MOST_SHARE for module in modules)


def chinese_id(values: Values) -> bool:
    """Resident identity numbers of China: their 18 places hold a date of birth and a check digit."""
    module = _module("cn.ric")
    return module is not None and share(values, lambda n: len(n) == 18 and bool(module.is_valid(n))) >= MOST_SHARE


def brazilian_id(values: Values) -> bool:
    """Individuals' numbers of Brazil (CPF), two check digits."""
    module = _module("br.cpf")
    return module is not None and share(values, module.is_valid) >= SURE_SHARE


def phones(values: Values) -> bool:
    """Telephone numbers in international form: as long as their country's are, and some of them given out."""
    found = [_parsed(n, None) for n in values]
    possible = sum(n is not None and phonenumbers.is_possible_number(n) for n in found)
    valid = sum(n is not None and phonenumbers.is_valid_number(n) for n in found)
    return bool(values) and possible / len(values) >= MOST_SHARE and valid / len(values) >= SOME_SHARE


def phones_of(values: Iterable[tuple[str, str]], markets: Sequence[str] = ()) -> bool:
    """Telephone numbers as people write them at home: each value with the country of its row (ISO 3166, or '').

    A value of a row without a country is tried with each of ``markets``, and as an international number without its +.
    """
    judged = [_is_phone(number, country, markets) for number, country in values]
    return bool(judged) and sum(judged) / len(judged) >= MOST_SHARE


def countries(said: Iterable[str]) -> tuple[str, ...]:
    """Those of the words that are countries (ISO 3166, two letters) whose plan of numbers is known, in their order."""
    return tuple(c for c in dict.fromkeys(s.strip().upper() for s in said) if c in phonenumbers.SUPPORTED_REGIONS)


def _is_phone(number: str, country: str, markets: Sequence[str]) -> bool:
    countries: Sequence[str] = (country,) if country else markets
    tried = [(number, c) for c in countries if c in phonenumbers.SUPPORTED_REGIONS]
    if number.startswith("+") or not country:
        tried.append((number if number.startswith("+") else f"+{number}", ""))
    parsed = (_parsed(text, where or None) for text, where in tried)
    return any(n is not None and phonenumbers.is_valid_number(n) for n in parsed)


def _parsed(number: str, country: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(number, country)
    except phonenumbers.NumberParseException:
        return None


def _is_card(text: str) -> bool:
    number = text.replace(" ", "").replace("-", "")
    return _digits(number) and len(number) in _CARD_LENGTHS and _card_issuer(number) and _luhn(number)


def _digits(text: str) -> bool:
    """Of 0 to 9 only: `str.isdigit` takes superscripts too, and `int` refuses them with the text in its message."""
    return text.isascii() and text.isdigit()


def _card_issuer(number: str) -> bool:
    size, two, four = len(number), int(number[:2]), int(number[:4])
    return (
        (number[0] == "4" and size in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and size == 16)
        or (two in (34, 37) and size == 15)
        or ((four == 6011 or two == 65 or 3528 <= four <= 3589) and size == 16)
        or (two in (36, 38) and size == 14)
        or (two == 62 and size in (16, 17, 18, 19))
    )


def _luhn(number: str) -> bool:
    return bool(luhn.is_valid(number))


@cache
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"stdnum.{name}")
    except ImportError:  # an older python-stdnum knows fewer countries
        return None


SHAPED: dict[str, Callable[[Values], bool]] = {
    v.IMEI: imei_form,
    v.IMSI: imsi_numbers,
    v.ICCID: iccid,
    v.CARD: card,
}
