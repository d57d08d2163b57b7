"""Data as YAML, written in all the ways that YAML knows, and in some that it forbids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import json
from random import Random
import re
from typing import Any

from reliability.fuzz.dice import odd_text, one_in

PIECES = (
    "\n",
    "\r\n",
    "\t",
    "  ",
    ": ",
    "- ",
    "#",
    "&a ",
    "*a",
    "*a ",
    "!!int ",
    "!!float ",
    "!!null ",
    "!!binary ",
    "!!python/name:os.system ",
    "!%ff ",
    "! ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    '"',
    "|\n",
    ">-\n",
    "|9\n",
    "---\n",
    "...\n",
    "%YAML 1.1\n---\n",
    "%YAML " + "9" * 5_000 + ".1\n---\n",
    "%TAG ! tag:x,2000:\n---\n",
    "<<: *a\n",
    "? ",
    '"\\ud800"',
    '"\\U00110000"',
    '"\\UFFFFFFFF"',
    '"\\0"',
    '"\\x"',
    "9" * 5_000,
    "\ufeff",
    "\0",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufffe",
    "~",
    "null",
    "-0",
    "1.5",
)
_TAGS = ("!!int", "!!float", "!!bool", "!!null", "!!str", "!!timestamp", "!!set", "!!binary", "!mine", "!<tag:x>")

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


def yaml_text(dice: Random, document: Any) -> str:
    """The document in block style with flow style here and there; half of the time in plain ways only."""
    wild = one_in(dice, 2)
    text = "\n".join(_Writer(dice, wild).lines(document, 0)) + "\n"
    match dice.randrange(16) if wild else -1:
        case 0:
            return text.replace("\n", "\r\n")
        case 1:
            return "\ufeff" + text
        case 2:
            return text + dice.choice(("---\n" + text, "...\n", "\0", "%", "\t", "@"))
        case 3:
            return "%YAML 1.2\n---\n" + text
        case _:
            return text


def laughs(dice: Random) -> str:
    """Aliases that multiply each other, and one that holds itself."""
    if one_in(dice, 4):
        return dice.choice(("&a [*a]\n", "&a {k: *a}\n", "version: 1\nsites: &a {x: *a}\n"))
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, dice.choice((3, 9, 40)))]
    return dice.choice(("", "version: 1\n", "sites:\n  x: *a0\n")) + "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes data as YAML; ``wild``: with tags, anchors, keys given twice and scalars that were not asked for."""

    dice: Random
    wild: bool

    def lines(self, value: Any, indent: int) -> Iterator[str]:
        """The block form of a value. Deep inside it is in flow style: what nests there nests in a line."""
        blanks = " " * indent
        members: list[tuple[str, Any]] = []
        match value:
            case dict() if value and indent < 40:
                members = [(f"{self._key(key)}:", member) for key, member in value.items()]
            case list() if value and indent < 40:
                members = [("-", member) for member in value]
            case _:
                yield blanks + self._flow(value)
                return
        for head, member in members:
            if isinstance(member, dict | list) and member and not one_in(self.dice, 6):
                yield blanks + head + (self.dice.choice((" &a", " !!map", " # said")) if self._now(20) else "")
                yield from self.lines(member, indent + 2)
            else:
                yield f"{blanks}{head} {self._adornment()}{self._flow(member)}"
                if self._now(150):
                    yield f"{blanks}{head} {self._flow(member)}"

    def _now(self, number: int) -> bool:
        return self.wild and one_in(self.dice, number)

    def _adornment(self) -> str:
        if not self._now(40):
            return ""
        return self.dice.choice((self.dice.choice(_TAGS) + " ", "&a ", "*a #", "*a\n", "!!int &a ", "<<"))

    def _key(self, key: object) -> str:
        return self._scalar(key) if isinstance(key, str) else json.dumps(key)

    def _flow(self, value: Any) -> str:
        match value:
            case str():
                return self._scalar(value)
            case dict():
                return "{" + ", ".join(f"{self._key(k)}: {self._flow(v)}" for k, v in value.items()) + "}"
            case list():
                return "[" + ", ".join(map(self._flow, value)) + "]"
            case _:
                return json.dumps(value)

    def _scalar(self, text: str) -> str:
        """Quoted so that it comes back, mostly; else as somebody might have written it."""
        if self._now(40):
            return self.dice.choice(
                (text, odd_text(self.dice), json.dumps(odd_text(self.dice)), f"|-\n{' ' * 12}{text}")
            )
        match self.dice.randrange(4):
            case 0 if text.isprintable():
                return "'" + text.replace("'", "''") + "'"
            case 1:
                return json.dumps(text)
            case _:
                return text if _PLAIN.match(text) else json.dumps(text)
