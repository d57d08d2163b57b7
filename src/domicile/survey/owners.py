"""Whose rows are these: owner paths along declared references, checked against the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence

from domicile.model.datamap import OwnerStep, Role
from domicile.model.schema import Reference, Table, TableName
from domicile.survey.measure import Path
from domicile.survey.state import CANDIDATE, State, step_from, step_to

OWNED_ROWS_MIN = 20  # fewer rows with one owner each prove nothing about tables that several subjects may share


async def follow_references(state: State) -> None:
    """Give every table its owner that has a certain path of declared references, nearest to the subject
    first.

    Certain: columns that are never null, and one shortest path. Two equally short ones to the subject itself
    are a question for a person; so is a path that disagrees with another on some row (`cross_check`).
    """
    while True:
        known = {t for t in state.schema.tables if state.in_scope(t)}
        found = [(t, refs) for t in state.pending() if (refs := _references_into(t, known))]
        if not found:
            break
        # A longer path that is never null goes before a shorter one that may be: it may only be known in a later round.
        certain = [(t, refs) for t, refs in found if any(_is_certain(t, r) for r in refs)]
        for table, references in certain or found:
            await _choose_owner(state, table, references)
    await cross_check(state)


async def _choose_owner(state: State, table: Table, references: Sequence[Reference]) -> None:
    certain = [r for r in references if _is_certain(table, r)]
    if not certain:
        certain = [r for r in references if await _never_null(state, table, r)]
    steps = [step_to(r) for r in certain]
    if not steps:
        state.leave_open(table.name, [step_to(r) for r in references])
        state.say(table.name, "every path to the subject has rows without an owner (null)")
        return
    shortest = min(len(_path(state, s)) for s in steps)
    best = sorted((s for s in steps if len(_path(state, s)) == shortest), key=str)
    if len(best) > 1 and not await _all_agree(state, table, best):
        state.leave_open(table.name, best)
        state.say(table.name, f"{len(best)} equally short paths lead to the subject: whose rows are these?")
        return
    state.decide(table.name, Role.OWNED, best[0])
    leaves = next((r.leaves for r in certain if step_to(r) == best[0]), ())
    where = f" on {len(leaves)} of {len(table.partitions)} partitions" if leaves else ""
    state.say(table.name, f"owner: a declared foreign key{where}, never null")


async def cross_check(state: State) -> None:
    """Compare each owner path with the table's other references to owned rows; where rows disagree, ask a
    person."""
    for name in [t for t in state.schema.tables if state.in_scope(t)]:
        table = state.table(name)
        for reference in table.references:
            if not state.in_scope(name) or not state.in_scope(reference.to_table):
                continue
            if name != state.subject and step_to(reference) == state.rules[name].owner:
                continue
            await _compare(state, table, reference)
    _reopen_what_hangs(state)


async def _compare(state: State, table: Table, reference: Reference) -> None:
    step, name = step_to(reference), table.name
    agreement = await state.measure.agreement(table, state.path(name), _path(state, step), state.key)
    if agreement is None:
        state.say(name, f"not measured in time: whether {step} leads to the same owner")
    elif agreement.differing:
        said = f"{agreement.differing} of {agreement.rows} rows looked at refer by {step} to a row of another owner"
        # The owner is not in doubt in a table's reference to itself, or where the other path comes back to
        # this table.
        if name != state.subject and not state.passes(reference.to_table, name):
            owner = state.rules[name].owner
            assert owner is not None, name
            state.leave_open(name, [owner, step])
        state.say(name, said, "such a reference breaks when only one of the two owners moves")
    elif agreement.rows:
        state.say(name, f"{step} leads to the same owner in all {agreement.rows} rows looked at")


def _reopen_what_hangs(state: State) -> None:
    """Undecided is catching: a path through an undecided table is none."""
    while True:
        hanging = [
            (t, rule.owner)
            for t, rule in state.rules.items()
            if rule.role is Role.OWNED and rule.owner and not state.in_scope(rule.owner.to_table)
        ]
        if not hanging:
            return
        for table, owner in hanging:
            state.leave_open(table, [owner])
            state.say(table, f"{owner.to_table} must be decided first")


async def follow_inverse(state: State) -> None:
    """Look at tables that owned rows refer to: owned by inverse, the same for everybody, or a question.

    An address that each customer has for himself is found from the customer's side only. That every row has
    one owner is then measured, not declared, so it is believed only where the table's columns are about
    people.
    """
    seen: set[TableName] = set()
    while True:
        referred = [t for t in state.pending() if t.name not in seen and references_from_scope(state, t)]
        if not referred:
            return
        for table in referred:
            seen.add(table.name)
            await _judge_inverse(state, table, references_from_scope(state, table))


def references_from_scope(state: State, table: Table) -> list[Reference]:
    """Declared references from owned rows to this table; of one key of it only (the most used)."""
    found = [
        r
        for other in state.schema.tables.values()
        if state.in_scope(other.name)
        for r in other.references
        if r.to_table == table.name
    ]
    keys = [r.to_columns for r in found]
    return [r for r in found if r.to_columns == max(sorted(set(keys)), key=keys.count)]


async def _judge_inverse(state: State, table: Table, references: Sequence[Reference]) -> None:
    steps = sorted((step_from(r) for r in references), key=lambda s: (len(state.path(s.to_table)), str(s)))
    sides = [(s, state.path(s.to_table)) for s in steps]
    owners = await state.measure.owners(table, sides, state.key)
    who = ", ".join(sorted({str(s.to_table) for s in steps}))
    state.say(table.name, f"referred to by {who}")
    if owners is None:
        state.say(table.name, "not measured in time: how many owners each row has")
        return
    if owners.several:
        state.say(table.name, f"{owners.several} rows are used by several subjects, one by {owners.most}")
        return
    first = owners if len(sides) == 1 else await state.measure.owners(table, sides[:1], state.key)
    alone = first is not None and first.one == owners.one
    about_people = bool(state.looks[table.name].strong)
    state.say(table.name, f"{owners.one} rows are used by exactly one subject, {owners.none} by none (measured today)")
    if about_people and alone and owners.one >= OWNED_ROWS_MIN:
        state.decide(table.name, Role.OWNED, steps[0])
        others = sorted({str(r.table) for r in _referring(state, table) if not state.in_scope(r.table)})
        if others and owners.none:
            state.say(table.name, f"also referred to by {', '.join(others)}; rows without an owner stay at the source")
    elif owners.one:
        state.leave_open(table.name, steps)
        state.say(table.name, f"{CANDIDATE} role: reference, if other subjects may use these rows too")


def _referring(state: State, table: Table) -> list[Reference]:
    others = (t for t in state.schema.tables.values() if t.name != table.name)
    return [r for t in others for r in t.references if r.to_table == table.name]


def _references_into(table: Table, known: set[TableName]) -> list[Reference]:
    return [r for r in table.references if r.to_table in known and r.to_table != table.name]


def _is_certain(table: Table, reference: Reference) -> bool:
    return all(table.column(c).not_null for c in reference.columns)


def _path(state: State, step: OwnerStep) -> Path:
    return (step, *state.path(step.to_table))


async def _never_null(state: State, table: Table, reference: Reference) -> bool:
    measured = await state.measure.nulls(table, reference.columns)
    nullable = ", ".join(reference.columns)
    if measured is None:
        state.say(table.name, f"not measured in time: nulls in {nullable}")
        return False
    nulls, rows = measured
    state.say(table.name, f"{nullable} may be null, and is in {nulls} of {rows} rows looked at")
    return rows > 0 and nulls == 0


async def _all_agree(state: State, table: Table, steps: Sequence[OwnerStep]) -> bool:
    """Equally short paths are one only where rows show it; two columns that name a subject each are two by
    meaning."""
    if any(s.to_table == state.subject for s in steps):
        return False
    for other in steps[1:]:
        agreement = await state.measure.agreement(table, _path(state, steps[0]), _path(state, other), state.key)
        if agreement is None or agreement.differing or not agreement.rows:
            return False
    return True
