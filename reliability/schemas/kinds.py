"""Types of columns, and values for them as the server reads them: the ends of each range, and what is easily lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
import json
from random import Random
from uuid import UUID

Make = Callable[[Random, int], str]
"""A value as text. The number is fresh each time: keys are made of it."""

TEXTS = (
    *(
        "",
        " ",
        "a ",
        "\\N",
        "\\.",
        "NULL",
        "null",
        "{}",
        "{NULL}",
        "()",
        "'",
        "''",
        '"',
        "\\",
        "\\\\",
        "%",
        "%s",
        "$1",
        "\t",
    ),
    *("line\nbreak", "\r", "ÿ", "香港 🌏", "Ñ", "e\u0301", "\u00e9", "\u202e", "a,b", "(a,b)", "x'y\"z\\", "-0", "1.0"),
)
LARGE_BYTES = (3_000, 9_000, 40_000, 200_000)
_EPOCH = date(2000, 1, 1)


@dataclass(frozen=True, slots=True)
class Kind:
    """``family``: whose values may be compared with whose as keys of an owner path; empty: no key is made of it."""

    type: str
    make: Make
    family: str = ""


def array(values: Sequence[str | None]) -> str:
    """An array's text."""
    return "{" + ",".join("NULL" if v is None else _marked(v) for v in values) + "}"


def composite(values: Sequence[str | None]) -> str:
    """A composite's text."""
    return "(" + ",".join("" if v is None else _marked(v) for v in values) + ")"


def _marked(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def one_of(*values: str) -> Make:
    return lambda dice, _: dice.choice(values)


def integer(bits: int) -> Make:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return lambda dice, _: str(dice.choice((0, 1, -1, low, high, dice.randrange(low, high))))


def text(dice: Random, _: int) -> str:
    """Short, with something in it that has a meaning to somebody."""
    return "".join(dice.choices(TEXTS, k=dice.randrange(3)))


def large(dice: Random, _: int) -> str:
    """One that is kept beside the row; some of it compressed."""
    size = dice.choice(LARGE_BYTES)
    return "ab" * (size // 2) if dice.random() < 0.3 else dice.randbytes(size // 2).hex()


def _large_bytes(dice: Random, _: int) -> str:
    return "\\x" + dice.randbytes(dice.choice(LARGE_BYTES) // 2).hex()


def _numeric(dice: Random, _: int) -> str:
    wide = f"{dice.randrange(10**30)}.{'0' * dice.randrange(5)}{dice.randrange(10**9)}"
    return dice.choice(
        ("0", "0.0", "-0.00", "1", "1.0", "1.00", "NaN", "Infinity", "-Infinity", "1e-300", "1e300", wide)
    )


def _document(dice: Random, depth: int) -> object:
    kind = dice.randrange(7 if depth else 5)
    if kind == 5:
        return [_document(dice, depth - 1) for _ in range(dice.randrange(3))]
    if kind == 6:
        return {dice.choice(("a", "b", "ä", "")): _document(dice, depth - 1) for _ in range(dice.randrange(3))}
    return dice.choice((None, True, 0, 1, 1.5, -0.0, 1e300, "", "x", "😀", 'q"\\'))


def _json(dice: Random, _: int) -> str:
    return json.dumps(_document(dice, 2), ensure_ascii=dice.random() < 0.5)


def _loose_json(dice: Random, n: int) -> str:
    """json keeps blanks, the order of keys, and keys that come twice."""
    return dice.choice(('{"b": 1, "a":  [1, null],"b":2}', " [ ] ", "1.10", _json(dice, n)))


def _bits(dice: Random, _: int) -> str:
    return "".join(dice.choices("01", k=dice.randrange(20)))


def _int_array(dice: Random, _: int) -> str:
    return dice.choice(("{}", "{1,NULL,3}", "[2:3]={7,8}", "[-1:0][5:6]={{1,2},{NULL,4}}", "{{{1}},{{2}}}", "{-1}"))


def _text_array(dice: Random, n: int) -> str:
    return array([None if dice.random() < 0.2 else text(dice, n) for _ in range(dice.randrange(4))])


def _moment(dice: Random, _: int) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(microseconds=dice.randrange(10**16))
    return dice.choice(
        ("infinity", "-infinity", "0044-03-15 12:00 BC", "294276-12-31 23:59:59.999999", at.isoformat(" "))
    )


PLAIN: dict[str, Kind] = {
    "bool": Kind("boolean", one_of("true", "false")),
    "int2": Kind("smallint", integer(16)),
    "int4": Kind("integer", integer(32)),
    "int8": Kind("bigint", integer(64)),
    "numeric": Kind("numeric", _numeric),
    "numeric 7,3": Kind("numeric(7,3)", one_of("1234.5", "-0.001", "NaN", "0")),
    "numeric 3,-2": Kind("numeric(3,-2)", one_of("12300", "-100", "0")),
    "float4": Kind("real", one_of("-0", "0", "NaN", "Infinity", "1e-45", "3.4028235e38", "0.1")),
    "float8": Kind(
        "double precision", one_of("-0", "0", "NaN", "-Infinity", "4.9406564584124654e-324", "0.1", "1e308")
    ),
    "money": Kind("money", one_of("-92233720368547758.08", "0.01", "92233720368547758.07")),
    "text": Kind("text", text),
    "text C": Kind('text collate "C"', text),
    "varchar": Kind("varchar(200)", text),
    "char": Kind("char(9)", one_of("ab", "ab   ", "", "ä b", "123456789")),
    '"char"': Kind('"char"', one_of("x", "", "\\351")),
    "name": Kind("name", one_of("Name", "ab c", "")),
    "bytea": Kind("bytea", one_of("\\x", "\\x00", "\\x00ff5c0a0d", "\\x5c27")),
    "bit": Kind("bit(5)", one_of("10101", "00000")),
    "varbit": Kind("bit varying", _bits),
    "date": Kind("date", one_of("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29")),
    "time": Kind("time", one_of("24:00", "00:00:00.000001", "12:30")),
    "time 3": Kind("time(3)", one_of("12:30:00.1236", "23:59:59.9996")),
    "timetz": Kind("time with time zone", one_of("23:59:59.999999-15:59", "00:00+05:30", "24:00+00")),
    "timestamp": Kind("timestamp", _moment),
    "timestamptz": Kind("timestamp with time zone", _moment),
    "timestamptz 0": Kind("timestamp(0) with time zone", one_of("infinity", "2000-02-29 12:30:59.5+02")),
    "interval": Kind(
        "interval", one_of("1 year -2 mons 3 days -04:05:06.789", "24:00", "1 day", "-1 day", "30 days", "1 mon")
    ),
    "interval ym": Kind("interval year to month", one_of("1 year 2 mons", "-3 mons")),
    "uuid": Kind("uuid", lambda dice, _: str(UUID(int=dice.getrandbits(128)))),
    "json": Kind("json", _loose_json),
    "jsonb": Kind("jsonb", _json),
    "jsonpath": Kind("jsonpath", one_of("$.a[*] ? (@ > 1)", "$", "strict $.b")),
    "point": Kind("point", one_of("(1.5,-2)", "(-0,0)", "(NaN,Infinity)")),
    "lseg": Kind("lseg", one_of("[(1,2),(3,4)]")),
    "path": Kind("path", one_of("((1,2),(3,4))", "[(1,2),(3,4)]")),
    "box": Kind("box", one_of("(3,4),(1,2)", "(0,0),(-0,0)")),
    "polygon": Kind("polygon", one_of("((1,2),(3,4),(5,6))", "((0,0))")),
    "line": Kind("line", one_of("{1,-1,0}")),
    "circle": Kind("circle", one_of("<(1,2),3>", "<(0,0),0>")),
    "inet": Kind("inet", one_of("192.168.1.5/24", "2001:db8::1", "0.0.0.0/0")),
    "cidr": Kind("cidr", one_of("10.0.0.0/8", "::/0")),
    "macaddr": Kind("macaddr", one_of("08:00:2b:01:02:03")),
    "macaddr8": Kind("macaddr8", one_of("08:00:2b:01:02:03:04:05")),
    "tsvector": Kind("tsvector", one_of("'a':1A 'fat':2 'it''s':3", "", "'x'")),
    "tsquery": Kind("tsquery", one_of("'fat' & ( 'rat' | !'cat':*B )", "")),
    "pg_lsn": Kind("pg_lsn", one_of("16/B374D848", "0/0")),
    "xid8": Kind("xid8", one_of("18446744073709551615")),
    "tid": Kind("tid", one_of("(42,7)")),
    "int2vector": Kind("int2vector", one_of("1 2 3", "")),
    "regtype": Kind("regtype", one_of("integer", "-", "text[]")),
    "regclass": Kind("regclass", one_of("pg_class", "-")),
    "int4range": Kind("int4range", one_of("[1,5)", "empty", "(,)", "[3,)")),
    "numrange": Kind("numrange", one_of("[1.0,2.50]", "(,1.00)", "empty")),
    "tstzrange": Kind("tstzrange", one_of("[2024-01-01 00:00+00,)", "[2024-01-01,infinity)", "empty")),
    "daterange": Kind("daterange", one_of("[2024-01-01,2024-02-01)", "(,)")),
    "int8multirange": Kind("int8multirange", one_of("{[1,3),[5,9)}", "{}", "{(,)}")),
    "nummultirange": Kind("nummultirange", one_of("{[1.0,2.50]}", "{}")),
    "int4[]": Kind("integer[]", _int_array),
    "text[]": Kind("text[]", _text_array),
    "numeric[]": Kind("numeric[]", one_of("{1.0,1.00,NaN}", "{}", "{NULL}")),
    "jsonb[]": Kind("jsonb[]", one_of('{"{\\"a\\": 1.0}",NULL}', "{}")),
    "float8[]": Kind("double precision[]", one_of("{-0,0,NaN}", "{{1},{2}}")),
    "daterange[]": Kind("daterange[]", one_of('{"[2024-01-01,2024-02-01)"}', "{empty}")),
    "bytea[]": Kind("bytea[]", one_of('{"\\\\x00",NULL}', "{}")),
    "large text": Kind("text", large),
    "large bytea": Kind("bytea", _large_bytes),
    "large jsonb": Kind("jsonb", lambda dice, n: json.dumps({"v": large(dice, n)})),
    "large array": Kind("text[]", lambda dice, n: array([large(dice, n), None, "x"])),
}
XML = Kind("xml", one_of("<a>x</a>", "text", "<a b='1'/><!-- c -->"))


def _day(n: int) -> str:
    return (_EPOCH + timedelta(days=n)).isoformat()


def _instant(n: int) -> str:
    return (datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(seconds=n, microseconds=n)).isoformat(" ")


def _text_key(dice: Random, n: int) -> str:
    return f"{dice.choice(TEXTS)}{n}{dice.choice(('', ' ', 'é', chr(39)))}"


KEYS: dict[str, Kind] = {
    "int8": Kind("bigint", lambda _, n: str(n), "int"),
    "int4": Kind("integer", lambda _, n: str(n), "int"),
    "int2": Kind("smallint", lambda _, n: str(n), "int"),
    "uuid": Kind("uuid", lambda dice, _: str(UUID(int=dice.getrandbits(128))), "uuid"),
    "text": Kind("text", _text_key, "text"),
    "text C": Kind('text collate "C"', _text_key, "text C"),
    "varchar": Kind("varchar(60)", _text_key, "text"),
    "char": Kind("char(12)", lambda dice, n: f"k{n}{dice.choice(('', ' '))}", "bpchar"),
    "bytea": Kind("bytea", lambda dice, n: f"\\x00{n:08x}{dice.choice(('', '00'))}", "bytea"),
    "date": Kind("date", lambda _, n: _day(n), "date"),
    "timestamp": Kind("timestamp", lambda _, n: _instant(n), "timestamp"),
    "timestamptz": Kind("timestamp with time zone", lambda _, n: _instant(n) + "+05:30", "timestamptz"),
}
"""Keys that the change stream can tell apart; of each, no two numbers make the same value."""

COLD_KEYS: dict[str, Kind] = {
    "numeric": Kind("numeric", lambda _, n: f"{n}", "numeric"),
    "float8": Kind("double precision", lambda _, n: f"{n}.5", "float8"),
    "inet": Kind("inet", lambda _, n: f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", "inet"),
    "name": Kind("name", lambda _, n: f"Name {n}", "name"),
    "interval": Kind("interval", lambda _, n: f"{n} seconds", "interval"),
    "jsonb": Kind("jsonb", lambda _, n: json.dumps({"n": n}), "jsonb"),
}
"""Keys of which equal values may differ in bytes: a live move refuses them by name, a cold one carries them."""
