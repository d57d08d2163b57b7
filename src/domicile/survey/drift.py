"""Columns that a map does not classify: what a change of the schema has added, and nobody has looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from domicile.model.datamap import Direction, OwnerStep, Role, TableRule
from domicile.model.schema import Table
from domicile.survey.classify import referring, strong_category
from domicile.survey.finding import Finding, Level


def columns(rule: TableRule, table: Table) -> Iterator[Finding]:
    """What map and table differ in by their columns' classification."""
    if rule.role is Role.UNDECIDED:
        return
    by_name = {c.name: c for c in table.columns}
    for name in unclassified(rule, table):
        category = strong_category(by_name[name], table)
        looks = f", and looks personal ({category})" if category else ""
        yield Finding(
            Level.ERROR,
            str(rule.table),
            f"column {name} is not classified{looks}",
            "List it under personal with its category, or under not_personal; domicile survey --update proposes.",
        )
    for name in rule.not_personal or ():
        if name not in by_name:
            message = f"has no column {name}, which the data map lists under not_personal"
            yield Finding(Level.WARNING, str(rule.table), message, "Take it out of the list.")
    if rule.not_personal is None and rule.role is not Role.LOCAL:
        yield from _unlisted(rule, table)


def unclassified(rule: TableRule, table: Table) -> tuple[str, ...]:
    """Columns of which the map says nothing, though it lists the others; without references, whose columns are
    classified where they lead, and the subject's own key."""
    steps = [OwnerStep.parse(r) for r in rule.references]
    steps += [rule.owner] if rule.owner and rule.owner.direction is Direction.TO else []
    elsewhere = referring(table).union(*(s.columns for s in steps))
    if rule.role is Role.SUBJECT:
        elsewhere |= set(table.primary_key)
    return tuple(c.name for c in table.columns if c.name not in elsewhere and not rule.is_classified(c.name))


def gone_columns(rule: TableRule, table: Table) -> tuple[str, ...]:
    """Columns that the map classifies and the table has no more."""
    known = {c.name for c in table.columns}
    named = dict.fromkeys((*rule.personal, *rule.object_keys, *(rule.not_personal or ()), *rule.identities))
    return tuple(c for c in named if c not in known)


def _unlisted(rule: TableRule, table: Table) -> Iterator[Finding]:
    """In a map that does not say which columns are not personal, only names can speak."""
    listed = {*rule.personal, *rule.object_keys, *referring(table)}
    for column in table.columns:
        category = "" if column.name in listed else strong_category(column, table)
        if category:
            yield Finding(
                Level.INFO,
                str(rule.table),
                f"column {column.name} looks personal ({category}) and is not listed",
                "List it under personal.",
            )
