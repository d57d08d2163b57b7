"""The roles of tables without an owner path: what must wait, what must be at the target, and what stays."""

from __future__ import annotations

from domicile.model.datamap import Role
from domicile.model.schema import Reference, Table, TableName
from domicile.survey.owners import references_from_scope
from domicile.survey.state import CANDIDATE, State, step_to

NAMED_MAX = 3  # tables in one line of a comment
REFERENCE_ROWS_MAX = 500_000  # more rows than this are hardly the same at every site


async def leave_open_what_inverse_reaches(state: State) -> None:
    """A table that refers to rows owned by inverse has an owner only as far as those rows have one:
    measured."""
    for table in state.pending():
        for reference in state.references(table.name):
            if not state.in_scope(reference.to_table) or not state.by_inverse(reference.to_table):
                continue
            step = step_to(reference)
            measured = await state.measure.owned(table, (step, *state.path(step.to_table)), state.key)
            if measured is not None and measured[1] and not measured[0]:
                state.say(table.name, f"refers to {step.to_table}, but to rows without an owner only")
                continue
            state.leave_open(table.name, [step])
            found = (
                "not measured in time"
                if measured is None
                else f"{measured[0]} of {measured[1]} rows have an owner by it"
            )
            state.say(
                table.name, f"its path leads over {step.to_table}, whose owner is measured, not declared; {found}"
            )


def leave_open_what_waits(state: State) -> None:
    over_hubs = set(state.hubs)
    while waiting := [(t, found) for t in state.pending() if (found := _waited_for(state, t))]:
        for table, references in waiting:
            over = [r.to_table for r in references if r.to_table in over_hubs]
            if over:
                over_hubs.add(table.name)
                state.leave_open(table.name, [step_to(r) for r in references])
                state.say(table.name, f"the path leads over {over[0]}, whose rows many use: it is not followed")
                continue
            if references_from_scope(state, table):
                # Owned rows need it at the target whatever is decided: the reference rule judges it.
                state.waiting -= {r.to_table for r in references}
                continue
            state.leave_open(table.name, [step_to(r) for r in references])
            state.say(table.name, f"{references[0].to_table} must be decided first")


def _waited_for(state: State, table: Table) -> list[Reference]:
    return [r for r in state.references(table.name) if r.to_table in state.waiting and r.to_table != table.name]


def name_references(state: State) -> None:
    """Tables that moved rows refer to, and those that these refer to, must be at the target: reference, when
    it is plain."""
    while needed := [t for t in state.pending() if references_from_scope(state, t) or _needed_by_reference(state, t)]:
        for table in needed:
            by = _needed_by_reference(state, table)
            if by and not references_from_scope(state, table):
                state.say(table.name, f"referred to by {', '.join(map(str, by))}, which must be at the target")
            _role_of_reference(state, table)


def _needed_by_reference(state: State, table: Table) -> list[TableName]:
    referring = {r.table for r in state.incoming.get(table.name, ())}
    return sorted(t for t in referring if t in state.rules and state.rules[t].role is Role.REFERENCE)


def _role_of_reference(state: State, table: Table) -> None:
    if state.looks[table.name].strong:
        reason = f"looks personal ({', '.join(state.looks[table.name].strong)}), but is no one subject's"
    elif table.rows_estimate > REFERENCE_ROWS_MAX:
        reason = "large for reference data"
    else:
        state.decide(table.name, Role.REFERENCE)
        return
    state.leave_open(table.name)
    state.say(
        table.name,
        reason,
        f"{CANDIDATE} role: reference, if the same rows are at every site",
        f"{CANDIDATE} role: shared, with policy: present, refuse, or copy if none is personal",
    )


def decide_the_rest(state: State) -> None:
    """No reference leads from these to a subject, and nothing that moves refers to them."""
    for table in state.pending():
        looks = state.looks[table.name]
        if looks.strong or looks.object_keys:
            state.leave_open(table.name)
            seen = ", ".join([*looks.strong, *looks.object_keys])
            state.say(
                table.name, f"no reference leads to a subject, yet it looks personal ({seen}): whose rows are these?"
            )
        else:
            state.decide(table.name, Role.LOCAL)
            state.say(
                table.name, "no reference, declared or found by values, leads to a subject; nothing that moves needs it"
            )
            if needing := _waiting_that_need(state, table):
                state.say(table.name, f"reference instead, if {needing} becomes owned, which refers to this table")


def _waiting_that_need(state: State, table: Table) -> str:
    """Undecided tables with a candidate for an owner that refer to a table; or ''."""
    found = sorted({r.table for r in state.incoming.get(table.name, ()) if r.table in state.waiting} - {table.name})
    listed = [str(t) for t in found[:NAMED_MAX]]
    if len(found) > NAMED_MAX:
        listed.append(f"one of {len(found) - NAMED_MAX} more")
    return " or ".join(listed)
