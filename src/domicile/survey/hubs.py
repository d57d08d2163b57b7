"""Hubs: tables that have an owner path, and whose rows many subjects use all the same. No path leads over one.

A topic has an author, and answers of many others; a set of changes to a map has one too, and what it changed is
everybody's. Walking on from there makes whole databases one person's.
"""

from __future__ import annotations

from domicile.model.datamap import OwnerStep
from domicile.model.schema import TableName
from domicile.survey.measure import HUB_OWNERS, Use
from domicile.survey.state import State

HUB_ROWS_MIN = 3
HUB_SHARE = 0.05  # of the rows that are referred to at all
FAR_AHEAD = 3.0  # of two tables that each are used by the other's owners, one is the hub if it is used so much more


async def find_hubs(state: State) -> dict[TableName, tuple[OwnerStep, str]]:
    """Hubs among the tables with an owner path, with their step and what was counted."""
    found: dict[TableName, tuple[OwnerStep, str]] = {}
    for name in [t for t in sorted(state.rules) if state.in_scope(t) and t != state.subject]:
        for reference in state.incoming.get(name, ()):
            other = reference.table
            if name in found or other == name or not state.in_scope(other) or state.passes(other, name):
                continue
            use = await state.measure.use(state.table(other), reference.columns, state.path(other), state.key)
            if use is not None and is_hub(use):
                owner = state.rules[name].owner
                assert owner is not None, name
                found[name] = (owner, _said(use, other))
    for table, steps in sorted(state.ties.items()):
        for name, said in (await _of_tie(state, table, steps)).items():
            owner = state.rules[name].owner
            if owner is not None:
                found.setdefault(name, (owner, said))
    return found


async def _of_tie(state: State, table: TableName, steps: list[OwnerStep]) -> dict[TableName, str]:
    """A row with two owners by two tables: the one whose rows meet many owners of the other is a hub."""
    uses: dict[TableName, Use] = {}
    for step in steps:
        for other in steps:
            known = state.in_scope(step.to_table) and state.in_scope(other.to_table)
            if step == other or step.to_table == state.subject or not known:
                continue
            path = (other, *state.path(other.to_table))
            use = await state.measure.use(state.table(table), step.columns, path, state.key)
            if use is not None and is_hub(use):
                uses[step.to_table] = use
    most = max((u.mean for u in uses.values()), default=0.0)
    return {t: _said(u, table) for t, u in uses.items() if u.mean * FAR_AHEAD > most}


def is_hub(use: Use) -> bool:
    """Whether so many rows are used by so many that the table is nobody's alone."""
    return use.hub >= HUB_ROWS_MIN and use.hub >= HUB_SHARE * use.rows


def _said(use: Use, other: TableName) -> str:
    return (
        f"{use.hub} of its {use.rows} rows that {other} refers to are used by {HUB_OWNERS} or more subjects, one by"
        f" {use.most}, {use.mean:.1f} on average"
    )


def may_be_hub(state: State, table: TableName) -> bool:
    """A table without rows shows nothing: that rows of others could refer to its rows is all that can be said."""
    if state.table(table).rows_estimate or table == state.subject:
        return False
    referring = [r for r in state.incoming.get(table, ()) if r.table != table]
    return any(
        other.to_table == state.subject and other.columns != r.columns
        for r in referring
        for other in state.references(r.table)
    )
