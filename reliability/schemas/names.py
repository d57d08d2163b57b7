"""Identifiers as people give them: words of SQL, words of ours, quotes, blanks, signs, other scripts, 63 bytes."""

from __future__ import annotations

from random import Random

BYTES_MAX = 63
_PLAIN = ("item", "note", "address", "device", "payment", "entry", "label", "amount", "state", "info", "extra", "level")
# Words that SQL keeps for itself, and names that statements of domicile give to what they work on.
_TAKEN = ("select", "user", "order", "table", "group", "from", "default", "column", "with", "end", "null", "primary")
_OURS = (
    *("t", "m", "p1", "p2", "u", "x", "v1", "k1", "h", "a", "new", "old", "subject", "owner", "wave", "ordinal"),
    *("mark", "member", "row", "rows", "found", "start", "same", "line", "leaf", "came_from", "facts", "key", "market"),
)
_ODD = (
    *(
        "Mixed Case",
        "two  blanks",
        " ends with one ",
        "it's",
        'say "x"',
        "100%",
        "%s",
        "%(id)s",
        "{brace}",
        "{0}",
        "$1",
    ),
    *(":colon", "a.b", "a->b", "a <- b", "x,y", "f(x)", "back\\slash", "semi;colon", "--dash", "/*", "größe", "表 名"),
    *("😀", "ÜBER", "1st", "tab\there", "-", "''", '""', "#no", "yes", "null: x", "[1]", "*", "&a", "!b", "@c"),
)


class Namer:
    """Names that are not taken yet, within one schema or one table."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._used: set[str] = set()

    def fresh(self, plain: float = 0.5) -> str:
        """A new name; ``plain`` is the share of names that need no care."""
        chance = self._dice.random()
        if chance < plain:
            name = self._dice.choice(_PLAIN)
        else:
            name = self._dice.choice(self._dice.choice((_TAKEN, _OURS, _ODD, _ODD)))
            if chance > 0.97:
                name = cut(name + "_" + "é" * BYTES_MAX, BYTES_MAX)
        return self.of(name)

    def of(self, name: str) -> str:
        """This name, or one like it when it is taken."""
        wanted, number = name, 1
        while name in self._used:
            number += 1
            name = cut(wanted, BYTES_MAX - len(str(number)) - 1) + f"_{number}"
        self._used.add(name)
        return name


def cut(name: str, bytes_max: int) -> str:
    """The beginning that fits; no character is broken."""
    return name.encode()[:bytes_max].decode(errors="ignore")


def quoted(*parts: str) -> str:
    """The qualified identifier as SQL writes it, always with quotes."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
