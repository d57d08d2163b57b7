"""How an explanation of the survey looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from domicile.cli import units
from domicile.cli.tables import hanging

if TYPE_CHECKING:  # the survey is imported by the commands that run it
    from domicile.survey.explain import Explanation, UsedBy, Way
    from domicile.survey.outline import Outline


def explanation(found: Explanation) -> Iterator[RenderableType]:
    """Role, path and reasons; then every way to an owner, the chosen one first; who uses its rows; the structure."""
    yield Text.assemble((f"{found.table}: ", "bold"), str(found.role))
    facts: list[tuple[str, str]] = [("rows", f"about {units.count(found.rows_estimate)}")]
    facts += [("path" if n == 0 else "", step) for n, step in enumerate(found.path)]
    if found.owners:
        facts.append(("owners", _owners(found)))
    facts += [("why" if n == 0 else "", line) for n, line in enumerate(found.why)]
    yield hanging([(Text(lead, style="dim"), text) for lead, text in facts], indent=2)
    if found.ways:
        yield Text("\nways to an owner, the best first", style="bold")
        yield hanging((pair for n, way in enumerate(found.ways, 1) for pair in _way(n, way)), indent=2)
    if found.used_by:
        yield Text("\nits rows are used by rows of others", style="bold")
        yield hanging(((str(u.table), _use(u)) for u in found.used_by), indent=2)
    yield Text("\nstructure", style="bold")
    yield hanging(_structure(found.structure), indent=2)


def _owners(found: Explanation) -> str:
    owners = found.owners
    assert owners is not None
    one, none = units.plural(owners.one, "row"), units.count(owners.none)
    said = f"by all ways of its own together, {one} with one, {none} with none"
    return f"{said}, {units.count(owners.several)} with several (at most {owners.most})"


def _way(number: int, way: Way) -> Iterator[tuple[Text, Text]]:
    chosen = " (chosen)" if way.chosen else ""
    yield Text(f"{number}."), Text.assemble((way.step, "bold"), chosen)
    yield Text(), Text(way.basis)
    if way.distinct and "distinct values" not in way.basis:
        yield (
            Text(),
            Text(f"{units.count(way.found or 0)} of {units.count(way.distinct)} distinct values are found there"),
        )
    if way.rows and way.reached is not None:
        reached = f"{units.count(way.reached)} of {units.count(way.rows)} rows looked at"
        yield Text(), Text(f"reaches an owner for {reached} ({units.share(way.reached, way.rows)})")
    if way.several:
        yield Text(), Text(f"{units.plural(way.several, 'row has', 'rows have')} several owners by it")
    for step in way.path[1:]:
        yield Text(), Text(f"then {step}")
    if not way.path:
        yield Text(), Text("does not lead to the subject: the table it leads to has no certain owner")


def _structure(shown: Outline) -> Iterator[tuple[Text, str]]:
    for each in shown.columns:
        yield Text(each.name), f"{each.type}, may be null" if each.nullable else each.type
    for n, key in enumerate(shown.keys):
        yield Text("keys" if n == 0 else "", style="dim"), key


def _use(use: UsedBy) -> str:
    rows = f"{units.plural(use.rows, 'row')} referred to, {use.mean:.1f} subjects a row on average, at most {use.most}"
    return f"{rows}; {units.count(use.several)} used by three or more"
