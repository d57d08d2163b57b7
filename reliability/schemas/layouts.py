"""How each site lays a table out: the order of its columns, columns that are gone, and its partitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from reliability.schemas.kinds import Kind, one_of
from reliability.schemas.names import quoted
from reliability.schemas.shape import Col, Layout, Part

NUMBERS, YEARS = 10, range(2020, 2030)
CUTS = {
    "cut number": Kind("integer", lambda dice, _: str(dice.randrange(NUMBERS)), "int"),
    "cut date": Kind(
        "date", lambda dice, _: f"{dice.choice(YEARS)}-0{dice.randrange(1, 10)}-1{dice.randrange(10)}", "date"
    ),
}
"""Columns that choose the partition, with the values that each layout has room for."""
FLAT = Kind("text", one_of("x"))


def draw_layouts(dice: Random, cols: Sequence[Col], key: Sequence[str], cut: str) -> tuple[Layout, Layout]:
    """Source and target; ``cut`` is the column that the table may be partitioned by, empty for none."""
    both = (_layout(dice, cols, key, cut), _layout(dice, cols, key, cut))
    if cut and dice.random() < 0.3:
        flat = dice.randrange(2)
        both = tuple(Layout(one.order) if at == flat else one for at, one in enumerate(both))  # type: ignore[assignment]
    return both


def _layout(dice: Random, cols: Sequence[Col], key: Sequence[str], cut: str) -> Layout:
    order = list(range(len(cols)))
    if dice.random() < 0.5:
        dice.shuffle(order)
    for gone in range(dice.choice((0, 0, 0, 1, 3))):
        order.insert(dice.randrange(len(order) + 1), -1 - gone)
    if not cut:
        return Layout(tuple(order))
    by, parts = _cut(dice, cols, key, cut, 2)
    return Layout(tuple(order), by, parts)


def _cut(dice: Random, cols: Sequence[Col], key: Sequence[str], cut: str, levels: int) -> tuple[str, tuple[Part, ...]]:
    kind = next(c.kind for c in cols if c.name == cut)
    match kind:
        case "cut number":
            by, bounds = f"list ({quoted(cut)})", _lists(dice)
        case "cut date":
            by, bounds = f"range ({quoted(cut)})", _ranges(dice)
        case _:
            by, bounds = f"hash ({quoted(cut)})", _hashes(dice)
    parts = []
    for bound in bounds:
        below: tuple[str, tuple[Part, ...]] = ("", ())
        if levels > 1 and dice.random() < 0.25:
            again = dice.choice(list(key)) if key else cut
            below = f"hash ({quoted(again)})", tuple(Part(one) for one in _hashes(dice))
        parts.append(Part(bound, *below, apart=not below[0] and dice.random() < 0.3))
    return by, tuple(parts)


def _lists(dice: Random) -> list[str]:
    numbers = list(range(NUMBERS))
    dice.shuffle(numbers)
    size = dice.choice((3, 5, 10))
    bounds = [f"in ({', '.join(map(str, numbers[at : at + size]))})" for at in range(0, NUMBERS, size)]
    if dice.random() < 0.5:
        bounds[-1] = "default"
    else:
        bounds[0] = bounds[0].replace("in (", "in (null, ")
    return bounds


def _ranges(dice: Random) -> list[str]:
    cuts = sorted(dice.sample(list(YEARS)[1:], dice.randrange(1, 4)))
    edges = ["minvalue", *(f"'{year}-01-01'" for year in cuts), "maxvalue"]
    bounds = [f"from ({low}) to ({high})" for low, high in pairwise(edges)]
    return [*bounds[:-1], "default"] if dice.random() < 0.5 else [*bounds]


def _hashes(dice: Random) -> list[str]:
    size = dice.randrange(1, 4)
    return [f"with (modulus {size}, remainder {n})" for n in range(size)]
