"""Where hostile values come from: one source of choices for every driver, and the values that break programs.

Generators take a `random.Random`. The campaign gives them a seeded one; hypothesis gives its own, which it can shrink;
the coverage-guided fuzzer gives `Fed`, whose choices are the bytes that it mutates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

MARKER = "Zq7-marker-of-a-secret"
"""Stands wherever a password or somebody's value would; no error may repeat it."""

HUGE_TEXT = 10 * 1024 * 1024
LONG_TEXTS = (300, 5_000, 70_000)
_ODD_TEXTS = (
    "",
    " ",
    "\t\r\n",
    "\0",
    "a\0b",
    "\ud800",
    "\udcff",
    "\udfff\ud800",
    "\ufeff",
    "\u2028\x85\x0b\x0c\x1c",
    "\u202e",
    "e\u0301\u0302",
    "\U0010ffff",
    "²",
    "٣",
    "null",
    "~",
    "NO",
    "y",
    "<<",
    "=",
    "12:30",
    "1_000",
    "0x10",
    "-0",
    "1e999",
    ".inf",
    ".nan",
    "NaN",
    "Infinity",
    "${HOME",
    "${}",
    "${NOBODY_SET_THIS}",
    "$${",
    "%80",
    "%",
    "'",
    '"',
    '""',
    "\\",
    "--",
    "/*",
    "{",
    "}",
    "[",
    "#",
    "&a",
    "*a",
    "!!python/object:os.system",
    "!!int",
    "|",
    ">",
    "? ",
    "- ",
    "a: b",
    "->",
    "<-",
    "a -> b",
    "a -> b(c)",
    "a->b -> c.d(e)",
    '"a->b" -> c.d("e()")',
    "a b -> c.d(e)",
    "a.b.c",
    '"a.b"."c""d"',
    '"a\nb"',
    "a->" + " " * 3_000 + "x",
    '"' * 3_001,
    "../../../etc",
    "{0}",
    "%s",
    "%(x)s",
    "$1",
)


class Fed(Random):
    """Choices read from given bytes; when they are used up every choice is the first one, so that generators end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._at = data, 0

    def getrandbits(self, k: int, /) -> int:
        """The next ``k`` bits."""
        size = (k + 7) // 8
        chunk = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(chunk.ljust(size, b"\0"), "big") >> (size * 8 - k)

    def random(self) -> float:
        """The next number in [0, 1)."""
        return self.getrandbits(53) / (1 << 53)


def one_in(dice: Random, number: int) -> bool:
    """True once in so many times."""
    return dice.randrange(number) == 0


def either(dice: Random, *makers: Callable[[Random], T]) -> T:
    """What one of these makes."""
    return dice.choice(makers)(dice)


def odd_text(dice: Random) -> str:
    """A text that somebody did not think of; seldom a long one."""
    match dice.randrange(12):
        case 0:
            return dice.choice(_ODD_TEXTS) * dice.randrange(1, 40)
        case 1:
            return dice.choice(_ODD_TEXTS) + dice.choice(_ODD_TEXTS)
        case 2:
            return "".join(chr(dice.choice((dice.randrange(0x80), dice.randrange(0x3000)))) for _ in range(6))
        case 3 if one_in(dice, 40):
            return dice.choice(("a", " ", '"', "(", "->", "9", "\u00e9")) * dice.choice(LONG_TEXTS)
        case _:
            return dice.choice(_ODD_TEXTS)


def odd_number(dice: Random) -> int | float:
    """A number at some edge."""
    match dice.randrange(5):
        case 0:
            return dice.choice((0, 1, -1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30))
        case 1:
            return dice.choice((0.0, -0.0, 1e308, 5e-324, float("inf"), float("-inf"), float("nan")))
        case 2:
            return int(10 ** dice.choice((100, 308, 309, 400, 4_000)))
        case _:
            return dice.randrange(-5, 5)


def odd_value(dice: Random, depth: int = 3) -> object:
    """Any piece of data."""
    match dice.randrange(10):
        case 0:
            return None
        case 1:
            return dice.choice((True, False))
        case 2 | 3:
            return odd_number(dice)
        case 4 if depth:
            return [odd_value(dice, depth - 1) for _ in range(dice.randrange(4))]
        case 5 if depth:
            return {odd_text(dice): odd_value(dice, depth - 1) for _ in range(dice.randrange(4))}
        case _:
            return odd_text(dice)


def mutated_bytes(dice: Random, data: bytes, most: int = 6) -> bytes:
    """The same bytes with a few of them flipped, left out, doubled, cut or moved."""
    done = bytearray(data)
    for _ in range(dice.randrange(1, most)):
        at = dice.randrange(len(done) + 1)
        end = min(len(done), at + dice.choice((1, 1, 2, 4, 8, 40)))
        match dice.randrange(7):
            case 0 if at < len(done):
                done[at] ^= 1 << dice.randrange(8)
            case 1:
                del done[at:end]
            case 2:
                done[at:at] = done[at:end]
            case 3:
                del done[at:]
            case 4:
                done[at:end] = bytes(dice.choice((0, 0xFF, 0x7F, 0x80)) for _ in range(end - at))
            case 5:
                done[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice((1, 2, 4))))
            case _:
                start = dice.randrange(len(done) + 1)
                done[at:at] = done[start : start + end - at]
    return bytes(done)


def mutated_text(dice: Random, text: str, pieces: Sequence[str], most: int = 5) -> str:
    """The same text with a few pieces put in, left out, doubled or exchanged; ``pieces`` mean something to its
    reader."""
    for _ in range(dice.randrange(1, most)):
        at = dice.randrange(len(text) + 1)
        end = min(len(text), at + dice.choice((1, 1, 2, 5, 30)))
        match dice.randrange(5):
            case 0:
                text = text[:at] + text[end:]
            case 1:
                text = text[:end] + text[at:]
            case 2:
                text = text[:at] + odd_text(dice) + text[end:]
            case _:
                text = text[:at] + dice.choice(pieces) + text[at:]
    return text
