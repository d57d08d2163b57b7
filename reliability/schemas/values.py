"""Values for a shop's columns: of the types every database has, and of those that the shop declares itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from reliability.schemas import kinds
from reliability.schemas.kinds import Kind, Make, array, composite
from reliability.schemas.names import quoted

LABELS = ("new", "it's", "größe", "two words", 'q"', "", "back\\slash", "NULL", "a,b")


@dataclass(slots=True)
class Types:
    """The types of one shop: DDL as it must run, and a kind for each column that may be of them."""

    statements: list[str] = field(default_factory=list)
    kinds: dict[str, Kind] = field(default_factory=dict)
    keys: dict[str, Kind] = field(default_factory=dict)


def draw_types(dice: Random, schema: str, fresh: Callable[[], str]) -> Types:
    """Some types of the shop's own."""
    found = Types()
    for draw in (_enum, _domains, _composites, _ranges):
        if dice.random() < 0.5:
            draw(dice, found, lambda: quoted(schema, fresh()))
    return found


def _enum(dice: Random, found: Types, name: Callable[[], str]) -> None:
    labels = dice.sample(LABELS, dice.randrange(2, 6))
    kind = name()
    listed = ", ".join("'" + label.replace("'", "''") + "'" for label in labels)
    found.statements.append(f"create type {kind} as enum ({listed})")
    found.kinds["enum"] = Kind(kind, kinds.one_of(*labels))
    found.kinds["enum[]"] = Kind(kind + "[]", _arrays(kinds.one_of(*labels)))
    found.keys["enum"] = Kind(kind, kinds.one_of(*labels), "enum")


def _domains(_: Random, found: Types, name: Callable[[], str]) -> None:
    number, words, numbers = name(), name(), name()
    found.statements += [
        f"create domain {number} as bigint check (value > -10)",
        f"create domain {words} as text collate \"C\" check (value <> 'forbidden')",
        f"create domain {numbers} as integer[] check (cardinality(value) < 100)",
    ]
    found.kinds["domain"] = Kind(number, lambda d, _: str(d.randrange(-9, 10**12)))
    found.kinds["domain text"] = Kind(words, kinds.text)
    found.kinds["domain array"] = Kind(numbers, kinds.PLAIN["int4[]"].make)
    found.kinds["domain[]"] = Kind(number + "[]", kinds.one_of("{1,NULL,2}", "{}"))
    found.keys["domain"] = Kind(number, lambda _, n: str(n), "int")
    if "enum" in found.kinds:
        over = name()
        found.statements.append(f"create domain {over} as {found.kinds['enum'].type}")
        found.kinds["domain enum"] = Kind(over, found.kinds["enum"].make)


def _composites(dice: Random, found: Types, name: Callable[[], str]) -> None:
    fields: dict[str, Kind] = {n: kinds.PLAIN[n] for n in ("int4", "text", "numeric", "int4range", "text[]", "jsonb")}
    fields |= {n: kind for n, kind in found.kinds.items() if n in ("enum", "domain", "enum[]")}
    listed = list(fields.values())
    one, two = name(), name()
    inner = ", ".join(f'"f {no}" {kind.type}' for no, kind in enumerate(listed))
    found.statements.append(f"create type {one} as ({inner})")
    found.statements.append(f"create type {two} as (c {one}, many {one}[], n integer)")

    def make(d: Random, n: int) -> str:
        return composite([None if d.random() < 0.2 else kind.make(d, n) for kind in listed])

    def nested(d: Random, n: int) -> str:
        return composite([make(d, n), _arrays(make)(d, n), "7"])

    found.kinds |= {
        "composite": Kind(one, make),
        "composite[]": Kind(one + "[]", _arrays(make)),
        "nested": Kind(two, nested),
    }
    if dice.random() < 0.5:
        over = name()
        found.statements.append(f"create domain {over} as {one}")
        found.kinds["domain composite"] = Kind(over, make)


def _ranges(_: Random, found: Types, name: Callable[[], str]) -> None:
    kind, many = name(), name()
    found.statements.append(f"create type {kind} as range (subtype = float8, multirange_type_name = {many})")
    found.kinds["range"] = Kind(kind, kinds.one_of("[0.1,2)", "empty", "(,-0]", "[1,NaN)"))
    found.kinds["multirange"] = Kind(many, kinds.one_of("{[0.1,2),[3,4)}", "{}"))
    found.kinds["range[]"] = Kind(kind + "[]", kinds.one_of('{"[0.1,2)",empty,NULL}'))


def _arrays(make: Make) -> Make:
    return lambda dice, n: array([None if dice.random() < 0.2 else make(dice, n) for _ in range(dice.randrange(3))])


EXTENSIONS: Mapping[str, Mapping[str, Kind]] = {
    "hstore": {"hstore": Kind("public.hstore", kinds.one_of('"a"=>"1","b"=>NULL', "", '"k ey"=>"v\\"al"'))},
    "citext": {
        "citext": Kind("public.citext", kinds.text),
        "citext[]": Kind("public.citext[]", kinds.one_of("{a,A,NULL}", "{}")),
    },
    "ltree": {
        "ltree": Kind("public.ltree", kinds.one_of("Top.Science", "a.b.c", "")),
        "lquery": Kind("public.lquery", kinds.one_of("*.a{1,2}.b")),
    },
    "cube": {"cube": Kind("public.cube", kinds.one_of("(1,2),(3,4)", "(1)"))},
    "isn": {"isbn": Kind("public.isbn", kinds.one_of("0-306-40615-2"))},
    "seg": {"seg": Kind("public.seg", kinds.one_of("1.50 .. 2", "~3"))},
}
"""Types of extensions, which are installed in schema public."""
EXTENSION_KEYS = {"citext": Kind("public.citext", lambda _, n: f"Key{n}", "citext")}
