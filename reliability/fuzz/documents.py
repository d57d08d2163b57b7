"""Data of a valid document, damaged where its structure is: keys left out, doubled and renamed, values of another type,
values exchanged, nesting, lists that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
import marshal
from random import Random
from typing import Any

from reliability.fuzz.dice import HUGE_TEXT, MARKER, odd_text, odd_value, one_in

Place = tuple[Any, ...]
DEPTHS = (25, 200, 3_000, 60_000)


def damaged(dice: Random, document: Any, most: int = 4) -> Any:
    """A copy with one or a few damages. What holds the marker of a secret stays where it is, or goes."""
    whole = {"": _copied(document)}
    for _ in range(dice.randrange(1, most)):
        places = list(_places(whole))
        _damage(dice, whole, dice.choice(places))
    return whole[""]


def nested(dice: Random, *, opening: str, closing: str) -> str:
    """A text that nests deeper than readers expect."""
    depth = dice.choice(DEPTHS) if one_in(dice, 20) else dice.choice(DEPTHS[:2])
    return opening * depth + closing * dice.choice((0, depth))


def huge(dice: Random) -> str:
    """A scalar of 10 MB."""
    return dice.choice(("a", "9", "ä", " a", "\\", "'", "\n")) * (HUGE_TEXT // 2)


def json_text(dice: Random, document: Any) -> str:
    """The document as JSON; now and then in a way that only some writers write it: keys twice, other blanks, a byte
    order mark, CRLF."""
    text = json.dumps(document, indent=2 if one_in(dice, 6) else None, ensure_ascii=one_in(dice, 2))
    match dice.randrange(12):
        case 0:
            text = text.replace("\n", "\r\n")
        case 1:
            text = "\ufeff" + text
        case 2 if isinstance(document, dict) and document:
            key = dice.choice(list(document))
            text = text.rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(odd_value(dice))}}}"
        case 3:
            text += dice.choice(("\n", " ", "{}", "\0", "//", ","))
    return text


def _copied(data: Any) -> Any:
    return marshal.loads(marshal.dumps(data))  # ten times as fast as deepcopy; it is our own data


def _places(document: Any, at: Place = ()) -> Iterator[Place]:
    members: Iterator[tuple[Any, Any]]
    match document:
        case dict():
            members = iter(document.items())
        case list():
            members = iter(enumerate(document))
        case _:
            return
    for key, value in members:
        yield (*at, key)
        yield from _places(value, (*at, key))


def _damage(dice: Random, whole: Any, place: Place) -> None:
    parent = whole
    for part in place[:-1]:
        parent = parent[part]
    last, value = place[-1], parent[place[-1]]
    damages: tuple[Callable[[], None], ...] = (
        lambda: parent.__setitem__(last, odd_value(dice)),
        lambda: parent.__setitem__(last, odd_text(dice)),
        lambda: parent.__setitem__(last, [value]),
        lambda: _remove(parent, last),
        lambda: _rename(dice, parent, last, value),
        lambda: _grow(dice, value),
        lambda: _exchange(dice, whole, parent, last),
        lambda: parent.__setitem__(last, _deep(dice, value)),
    )
    dice.choice(damages)()


def _remove(parent: Any, last: Any) -> None:
    if last != "":  # the root stays
        del parent[last]


def _rename(dice: Random, parent: Any, last: Any, value: Any) -> None:
    if isinstance(parent, dict) and last != "":
        del parent[last]
        parent[dice.choice((odd_text(dice), last.upper(), last + "s", last[:-1]))] = value


def _grow(dice: Random, value: Any) -> None:
    match value:
        case list():
            value.extend(_copied(value) * dice.choice((1, 1, 2, 30)))
        case dict():
            value[odd_text(dice)] = odd_value(dice)


def _exchange(dice: Random, whole: Any, parent: Any, last: Any) -> None:
    """A value that is right elsewhere. The marker of a secret is not carried to where values are shown."""
    other = whole
    for part in dice.choice(list(_places(whole))):
        other = other[part]
    if MARKER not in repr(other):
        parent[last] = _copied(other)


def _deep(dice: Random, value: Any) -> Any:
    for _ in range(dice.choice((1, 5, 25, 90))):
        value = [value] if one_in(dice, 2) else {"a": value}
    return value
