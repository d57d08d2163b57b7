"""Values as such columns hold them. Nobody's: drawn, though their check digits are right where real ones are."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
from random import Random
import uuid

from stdnum import luhn, verhoeff
from stdnum.iso7064 import mod_11_2

Maker = Callable[[Random], str]


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


_FIRST = words(
    "Asha Ravi João Maria Wei Li Ünal Ayşe Siti Budi Anna Jürgen Zoë Luis Carmen Priya Olga Ivan Yuki Hana Emeka Ama "
    "Fatima Omar Chloé Hugo Lars Ingrid Kofi Thu"
)
_LAST = words(
    "Patel Kumar Silva Souza Wang Zhang Yılmaz Demir Wijaya Santoso Müller Schmidt García López Novak Kowalski "
    "Ivanova "
    "Sato Tanaka Okafor Mensah Haddad Martin Dubois Larsen Nguyen Tran O'Brien"
)
_CITIES = [
    "Mumbai",
    "Pune",
    "Recife",
    "Santos",
    "Beijing",
    "Wuhan",
    "Ankara",
    "Jakarta",
    "Berlin",
    "Köln",
    "Madrid",
    "Lyon",
    "Oslo",
    "Accra",
    "Osaka",
    "Austin",
]
_STREETS = words("Main Oak High Station Church Garden Lake Hill Mill Park")
_WORDS = words(
    "please deliver after six thanks works as described blue large returned item came late very happy with it call me "
    "before left at door gift for my sister size too small"
)
_MAIL = ("example.com", "mail.example.org", "example.co.in", "correo.example", "post.example.de")
_MCC_MNC = ("40468", "40410", "72405", "72411", "46000", "46001", "26201", "20404", "31026", "28601")
_CARDS = (("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16))


def digits(dice: Random, count: int, first: str = "") -> str:
    """``count`` digits that begin with ``first``, else not with 0."""
    start = first or str(dice.randrange(1, 10))
    return start + "".join(str(dice.randrange(10)) for _ in range(count - len(start)))


def _checked(dice: Random, count: int, first: str) -> str:
    body = digits(dice, count - 1, first)
    return body + str(luhn.calc_check_digit(body))


def email(dice: Random) -> str:
    name = f"{dice.choice(_FIRST)}.{dice.choice(_LAST)}".lower().replace("'", "")
    return f"{name}{dice.randrange(1000)}@{dice.choice(_MAIL)}"


def phone(dice: Random) -> str:
    """International, as phones and good forms write it."""
    made = (
        "+91" + dice.choice("6789") + digits(dice, 9),
        "+55 11 9" + digits(dice, 4) + "-" + digits(dice, 4),
        "+49 30 " + digits(dice, 8),
        "+4479" + digits(dice, 8),
        "+62 812-" + digits(dice, 4) + "-" + digits(dice, 4),
        "+1415" + dice.choice("23456789") + digits(dice, 6),
        f"+1 (415) {digits(dice, 3)}-{digits(dice, 4)}",
    )
    return dice.choice(made)


def home_phone(dice: Random) -> str:
    """As people write it at home."""
    return dice.choice((f"030 {digits(dice, 7)}", f"(415) {digits(dice, 3)}-{digits(dice, 4)}", f"0{digits(dice, 9)}"))


def indian_mobile(dice: Random) -> str:
    return dice.choice("6789") + digits(dice, 9)


def msisdn(dice: Random) -> str:
    return dice.choice(("91" + indian_mobile(dice), "55119" + digits(dice, 8)))


def imei(dice: Random) -> str:
    return _checked(dice, 15, dice.choice(("35", "86", "01", "99")))


def imsi(dice: Random) -> str:
    return digits(dice, 15, dice.choice(_MCC_MNC))


def iccid(dice: Random) -> str:
    return _checked(dice, 19, dice.choice(("8991", "8955", "8986", "8949")))


def card(dice: Random) -> str:
    first, length = dice.choice(_CARDS)
    return _checked(dice, length, first)


def card_grouped(dice: Random) -> str:
    number = _checked(dice, 16, "4")
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def iban(dice: Random) -> str:
    body = digits(dice, 18)
    return f"DE{98 - int(body + '131400') % 97:02d}{body}"


def cpf(dice: Random) -> str:
    body = digits(dice, 9)
    for _ in range(2):
        weights = range(len(body) + 1, 1, -1)
        rest = sum(w * int(d) for w, d in zip(weights, body, strict=True)) * 10 % 11
        body += str(rest % 10)
    return f"{body[:3]}.{body[3:6]}.{body[6:9]}-{body[9:]}"


def aadhaar(dice: Random) -> str:
    body = digits(dice, 11, dice.choice("23456789"))
    return body + verhoeff.calc_check_digit(body)


def chinese_id(dice: Random) -> str:
    born = f"{dice.randrange(1950, 2005)}{dice.randrange(1, 13):02d}{dice.randrange(1, 28):02d}"
    body = dice.choice(("110101", "310104")) + born + digits(dice, 3)
    return body + mod_11_2.calc_check_digit(body)


def dni(dice: Random) -> str:
    number = dice.randrange(10_000_000, 99_999_999)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def ssn(dice: Random) -> str:
    return f"{dice.randrange(101, 665)}-{dice.randrange(11, 99)}-{dice.randrange(1000, 9999)}"


def passport(dice: Random) -> str:
    return dice.choice("CFKLNZ") + digits(dice, 8)


def ip(dice: Random) -> str:
    return ".".join(str(dice.randrange(1, 255)) for _ in range(4))


def ip6(dice: Random) -> str:
    return "2001:db8:" + ":".join(f"{dice.randrange(65536):x}" for _ in range(6))


def mac(dice: Random) -> str:
    return ":".join(f"{dice.randrange(256):02x}" for _ in range(6))


def first_name(dice: Random) -> str:
    return dice.choice(_FIRST)


def last_name(dice: Random) -> str:
    return dice.choice(_LAST)


def full_name(dice: Random) -> str:
    return f"{dice.choice(_FIRST)} {dice.choice(_LAST)}"


def username(dice: Random) -> str:
    return f"{dice.choice(_FIRST).lower()}{dice.choice('._-')}{dice.randrange(10000)}"


def street(dice: Random) -> str:
    return f"{dice.randrange(1, 300)} {dice.choice(_STREETS)} Street"


def address(dice: Random) -> str:
    return f"{street(dice)}, {dice.choice(_CITIES)} {digits(dice, 5)}"


def city(dice: Random) -> str:
    return dice.choice(_CITIES)


def postal(dice: Random) -> str:
    return dice.choice((digits(dice, 5), digits(dice, 6), f"SW{dice.randrange(1, 20)} {dice.randrange(1, 9)}AB"))


def country(dice: Random) -> str:
    return dice.choice(("IN", "BR", "DE", "GB", "US", "ID", "TR"))


def birth(dice: Random) -> str:
    return f"{dice.randrange(1940, 2008)}-{dice.randrange(1, 13):02d}-{dice.randrange(1, 28):02d}"


def bcrypt(dice: Random) -> str:
    return "$2b$12$" + "".join(
        dice.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./") for _ in range(53)
    )


def text(dice: Random) -> str:
    return " ".join(dice.choice(_WORDS) for _ in range(dice.randrange(4, 20)))


def agent(dice: Random) -> str:
    return f"Mozilla/5.0 (Linux; Android {dice.randrange(8, 15)}) AppleWebKit/{digits(dice, 3)}.36 Mobile Safari"


def uuid4(dice: Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))


def sha256(dice: Random) -> str:
    return hashlib.sha256(dice.randbytes(8)).hexdigest()


def md5_colons(dice: Random) -> str:
    return ":".join(f"{b:02x}" for b in dice.randbytes(16))


def avatar(dice: Random) -> str:
    return f"https://cdn.example.com/a/{uuid4(dice)}.jpg"


def position(dice: Random) -> str:
    return f"{dice.uniform(-80, 80):.6f}"


def of(*choices: str) -> Maker:
    """One of a few words."""
    return lambda dice: dice.choice(choices)


def numbers(count: int, first: str = "") -> Maker:
    """Runs of digits of one length."""
    return lambda dice: digits(dice, count, first)


def between(low: int, high: int) -> Maker:
    """Integers."""
    return lambda dice: str(dice.randrange(low, high))


def shaped(pattern: str) -> Maker:
    """``#`` is a digit, ``@`` a small letter, ``^`` a capital, ``%`` a hexadecimal digit; the rest as it is."""
    sets = {
        "#": "0123456789",
        "@": "abcdefghijklmnopqrstuvwxyz",
        "^": "ABCDEFGHJKLMNPRSTUVWXYZ",
        "%": "0123456789abcdef",
    }
    return lambda dice: "".join(dice.choice(sets[c]) if c in sets else c for c in pattern)
