"""The forms of values, counted on the server: of each value only a letter for its form comes here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from domicile.model.schema import Table
from domicile.survey import vocabulary as v
from domicile.survey.measure import Measure, sample

LOOKED_AT_MAX = 250  # values of a column
ENOUGH_VALUES = 5  # fewer say nothing
ENOUGH_SHARE = 0.8  # of the values have the form


class Form(StrEnum):
    """What one value looks like; the letter is what the server answers."""

    EMAIL = "e"
    OBJECT_KEY = "o"
    PLUS_PHONE = "t"
    HOME_PHONE = "h"  # or any other number with a few blanks or dashes
    IP = "i"
    MAC = "m"
    DIGITS = "d"  # 14 to 20 of them
    CARD = "c"
    IBAN = "b"
    CPF = "f"
    CHINESE_ID = "r"
    PASSWORD = "p"
    STATUS = "s"  # a word for how far something is
    OPAQUE = "q"  # hashed or encrypted
    OTHER = "-"


# Tried in this order; the first test of each group keeps the others from values that cannot match.
_OBJECT_KEY = (
    r"^((s3|gs|oss|cos|obs)://.+"
    r"|([^/\s:]+/)+[^/\s]*(\.[A-Za-z0-9]{2,5}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}))$"
)
_STATUS = (
    r"(?i)^(new|open|opened|closed|active|inactive|enabled|disabled|pending|paid|unpaid|sent|done|draft|failed|queued"
    r"|running|started|stopped|success|error|ok|approved|rejected|completed?|cancell?ed|shipped|delivered|published"
    r"|archived|processing|confirmed|ready|blocked|expired|deleted|initial)$"
)
_GROUPS: tuple[tuple[str, tuple[tuple[Form, str], ...]], ...] = (
    ("@", ((Form.EMAIL, r"^[^@\s:/<>()]+@[^@\s:/<>()]+\.[^@\s:/<>()0-9.]{2,24}$"),)),
    (
        r"^[+(]?[0-9A-F]{1,4}[-:.() /0-9A-F]+[0-9A-FX]$",
        (
            (Form.DIGITS, r"^[0-9]{14,20}F?$"),
            (Form.PLUS_PHONE, r"^\+[1-9][0-9 ().-]{6,18}[0-9]$"),
            (Form.IP, r"^((25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})$"),
            (Form.CARD, r"^[0-9]{4}([ -][0-9]{4}){3}$|^3[47][0-9]{2}[ -][0-9]{6}[ -][0-9]{5}$"),
            (Form.CPF, r"^[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}$"),
            (Form.HOME_PHONE, r"^[(0-9][0-9 ().\/-]{5,18}[0-9]$"),
            (Form.CHINESE_ID, r"^[1-9][0-9]{16}X$"),
            (Form.MAC, r"^([0-9A-F]{2}[:-]){5}[0-9A-F]{2}$"),
        ),
    ),
    (
        ":",
        (
            (Form.IP, r"^([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}$|^([0-9A-Fa-f]{1,4}:){1,7}(:[0-9A-Fa-f]{1,4}){0,6}:?$"),
            (Form.MAC, r"^([0-9a-f]{2}[:-]){5}[0-9a-f]{2}$"),
        ),
    ),
    ("/", ((Form.OBJECT_KEY, _OBJECT_KEY),)),
    (r"^[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}", ((Form.IBAN, r"^[A-Z]{2}[0-9]{2}( ?[A-Z0-9]{4}){2,7}( ?[A-Z0-9]{1,4})?$"),)),
    (
        r"^\$(2[abxy]|argon2|5|6|scrypt)|^pbkdf2",
        ((Form.PASSWORD, r"^(\$(2[abxy]|argon2[a-z]*|5|6|scrypt)\$|pbkdf2[_:$]).{10,}"),),
    ),
    (
        r"^[A-Za-z_]{2,12}$",
        ((Form.STATUS, _STATUS),),
    ),
    (r"^[^\s]{32,}$", ((Form.OPAQUE, r"^[A-Za-z0-9+/_=.:-]+$"),)),
)
# What the values of a column that is called so look like.
EXPECTED: Mapping[str, tuple[Form, ...]] = {
    v.EMAIL: (Form.EMAIL,),
    v.PHONE: (Form.PLUS_PHONE, Form.HOME_PHONE),
    v.MSISDN: (Form.PLUS_PHONE, Form.HOME_PHONE, Form.DIGITS),
    v.FAX: (Form.PLUS_PHONE, Form.HOME_PHONE),
    v.IP: (Form.IP,),
    v.IMEI: (Form.DIGITS, Form.HOME_PHONE),
    v.IMSI: (Form.DIGITS,),
    v.ICCID: (Form.DIGITS, Form.HOME_PHONE),
}


@dataclass(frozen=True, slots=True)
class Forms:
    """How many values of a column were looked at, and of which forms they are."""

    filled: int
    counts: Mapping[str, int]

    def share(self, *forms: Form) -> float:
        """The part of the values that have one of these forms."""
        return sum(self.counts.get(f, 0) for f in forms) / self.filled if self.filled else 0.0

    def said(self, form: Form) -> str:
        """``57 of 60``."""
        return f"{self.counts.get(form, 0)} of {self.filled}"


async def look(measure: Measure, table: Table, columns: Sequence[str]) -> Mapping[str, Forms] | None:
    """The forms of up to `LOOKED_AT_MAX` values of each textual column; None: it took too long or is forbidden."""
    pairs = [
        # Searched in as texts of the database's own collation: another may know no search at all.
        sql.SQL('({}, left(t.{}::text collate pg_catalog."default", 200))').format(
            sql.Literal(number), sql.Identifier(name)
        )
        for number, name in enumerate(columns)
    ]
    row = await measure.row(
        sql.SQL(
            "select pg_catalog.array_agg(f.forms order by f.no) from"
            " (select v.no, coalesce(pg_catalog.string_agg({case}, ''), '') as forms"
            " from {sample} as t cross join lateral (values {pairs}) as v(no, value) group by v.no) as f"
        ).format(
            case=_CASE,
            sample=sample(table, [sql.Identifier(c) for c in columns], LOOKED_AT_MAX),
            pairs=sql.SQL(", ").join(pairs),
        )
    )
    if row is None:
        return None
    # A table without rows has no groups.
    found_of = row[0] or [""] * len(columns)
    return {name: Forms(len(found), Counter(found)) for name, found in zip(columns, found_of, strict=True)}


def _case() -> sql.Composable:
    """One letter for a value, null for an empty one. A value that no test of one group fits goes on to the next."""
    groups = [
        sql.SQL("case when {} then case {} end end").format(
            _first(first),
            sql.SQL(" ").join(
                sql.SQL("when v.value ~ {} then {}").format(sql.Literal(pattern), sql.Literal(str(form)))
                for form, pattern in tests
            ),
        )
        for first, tests in _GROUPS
    ]
    return sql.SQL("case when v.value <> '' then coalesce({}, '-') end").format(sql.SQL(", ").join(groups))


def _first(test: str) -> sql.Composed:
    """A single character is looked for without a regular expression, which costs three times as much."""
    look_for = "pg_catalog.strpos(v.value, {}) > 0" if len(test) == 1 else "v.value ~ {}"
    return sql.SQL(look_for).format(sql.Literal(test))


_CASE = sql.SQL(_case().as_string())  # rendered once: it is part of every statement
