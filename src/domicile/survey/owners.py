"""Whose rows are these: owner paths along declared references, checked against the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence

from domicile.model.datamap import OwnerStep, Role
from domicile.model.schema import Reference, Table, TableName
from domicile.survey.contained import contained, pair_of
from domicile.survey.hubs import find_hubs, may_be_hub
from domicile.survey.measure import Path
from domicile.survey.state import CANDIDATE, State, step_from, step_to

WALKS_MAX = 8  # each goes around the hubs that the one before has found
# Tables that tell what was done, and by name are no one's: without a foreign key they are often meant to stay.
TRACE_WORDS = ("audit", "changelog")
OWNED_ROWS_MIN = 20  # fewer rows with one owner each prove nothing about tables that several subjects may share


async def follow_references(state: State) -> None:
    """Give every table its owner that has a certain path of references, nearest to the subject first.

    Certain: columns that are never null, declared or proven by values, and one shortest path. Two equally short ones to
    the subject itself are a question for a person; so is a path that disagrees with another on some row
    (`cross_check`). No path leads over a table whose rows many subjects use (`survey.hubs`): such a table is looked for
    after each walk, and the next walk goes around it.
    """
    before = set(state.rules)
    for _ in range(WALKS_MAX):
        for hub, (step, said) in sorted(state.hubs.items()):
            state.leave_open(hub, [step])
            state.say(hub, f"a hub: {said}")
        await _walk(state)
        found = await find_hubs(state)
        if not found:
            break
        state.hubs.update(found)
        state.forget(set(state.rules) - before)
    _offer_shared(state)
    await cross_check(state)


def _offer_shared(state: State) -> None:
    """What a hub may be. No row is copied that a foreign key leads from to somebody's rows (`shared_rows.reasons`), and
    one that stays must not refer to who goes (`checks_rows.references_from_outside`)."""
    for hub in sorted(h for h in state.hubs if h in state.rules):
        somebodys = [r for r in state.table(hub).references if state.in_scope(r.to_table)]
        copied = "present or refuse" if somebodys else "present, refuse, or copy if none is personal"
        state.say(hub, *(f"a plan is refused while rows of it refer by {step_to(r)} to who moves" for r in somebodys))
        state.say(hub, f"{CANDIDATE} role: shared, with policy: {copied}")


async def _walk(state: State) -> None:
    while True:
        known = {t for t in state.rules if state.in_scope(t)}
        found = [(t, refs) for t in state.pending() if (refs := _references_into(state, t, known))]
        if not found:
            return
        # A longer path that is never null goes before a shorter one that may be: it may only be known in a later round.
        certain = [(t, refs) for t, refs in found if any(_is_certain(t, r) for r in refs)]
        for table, references in certain or found:
            await _choose_owner(state, table, references)


async def _choose_owner(state: State, table: Table, references: Sequence[Reference]) -> None:
    certain = [r for r in references if _is_certain(table, r)]
    if not certain:
        certain = [r for r in references if await _never_null(state, table, r)]
    steps = [step_to(r) for r in certain]
    if not steps:
        state.leave_open(table.name, [step_to(r) for r in references])
        state.say(table.name, "every path to the subject has rows without an owner (null)")
        return
    plain = [s for s in steps if not state.acts_only(s)]
    shortest = min(len(_path(state, s)) for s in plain or steps)

    # By the subject's key before its e-mail address, by a foreign key before what values show.
    def order(step: OwnerStep) -> tuple[bool, bool, str]:
        other_key = step.to_table == state.subject and step.to_columns != (state.key,)
        return other_key, state.proof(table.name, step) is not None, str(step)

    best = sorted((s for s in plain or steps if len(_path(state, s)) == shortest), key=order)
    if len(best) > 1 and not await _all_agree(state, table, best):
        state.ties[table.name] = best
        state.leave_open(table.name, best)
        state.say(table.name, f"{len(best)} equally short paths lead to the subject: whose rows are these?")
        if all(s.to_table == state.subject for s in best):
            state.say(table.name, "one of these people is the owner; the others may be named under parties")
        return
    if reason := await _doubt(state, table, best[0], plain):
        state.leave_open(table.name, best)
        state.say(table.name, reason)
        return
    state.decide(table.name, Role.OWNED, best[0])
    _say_owner(state, table, next(r for r in certain if step_to(r) == best[0]))


async def _doubt(state: State, table: Table, step: OwnerStep, plain: Sequence[OwnerStep]) -> str:
    """Why a person is asked although there is one path, or ''."""
    if step not in plain:
        return f"{', '.join(step.columns)} says who did something to a row, which need not be whose it is"
    if may_be_hub(state, step.to_table):
        return f"the path leads over {step.to_table}, which has no rows yet to show whether several subjects use them"
    if table.name in state.inherited:
        return f"{state.inherited[table.name]} inherits it: its queries see rows of both"
    if proof := state.proof(table.name, step):
        if any(word in table.name.name.lower() for word in TRACE_WORDS):
            return f"a trace of what was done ({step}: {proof.said}), which may be meant to stay where it was done"
        return ""
    reference = next(r for r in table.references if step_to(r) == step)
    if reference.proves_now(table):
        return ""
    found = await state.once(("leaves", table.name, step), lambda: contained(state.measure, table, pair_of(step)))
    if found is None or found.found < found.distinct:
        which = "of some partitions only" if reference.validated else "that nobody has validated"
        return f"{step} is a foreign key {which}, and not all rows lead to an owner by it"
    return ""


def _say_owner(state: State, table: Table, reference: Reference) -> None:
    if proof := state.proof(table.name, step_to(reference)):
        state.say(table.name, f"owner: no foreign key, but proven: {proof.said}")
        return
    where = f" on {len(reference.leaves)} of {len(table.partitions)} partitions" if reference.leaves else ""
    old = "" if reference.validated else ", which nobody has validated, but no row that was looked at leads nowhere"
    state.say(table.name, f"owner: a declared foreign key{where}, never null{old}")


async def cross_check(state: State) -> None:
    """Compare each owner path with the table's other references to owned rows; where rows disagree, ask a
    person."""
    for name in [t for t in state.schema.tables if state.in_scope(t)]:
        table = state.table(name)
        for step in [*map(step_to, state.references(name)), *(u.step for u in state.guessed[name] if u.says_a_table)]:
            if not state.in_scope(name) or not state.in_scope(step.to_table):
                if step.to_table in state.hubs and state.in_scope(name):
                    state.say(name, f"refers by {step} to a hub: that row must be at the target too")
                continue
            if name != state.subject and step == state.rules[name].owner:
                continue
            await _compare(state, table, step)


async def _compare(state: State, table: Table, step: OwnerStep) -> None:
    name = table.name
    path, other = state.path(name), _path(state, step)
    agreement = await state.once(
        ("agreement", name, path, other), lambda: state.measure.agreement(table, path, other, state.key)
    )
    if agreement is None:
        state.say(name, f"not measured in time: whether {step} leads to the same owner")
    elif agreement.differing:
        said = f"{agreement.differing} of {agreement.rows} rows looked at refer by {step} to a row of another owner"
        declared = step in map(step_to, table.references)
        # The owner is not in doubt in a table's reference to itself, where the other path comes back to this table, or
        # where the other column says who came later.
        later = state.acts_only(step)
        if name != state.subject and not state.passes(step.to_table, name) and not later:
            owner = state.rules[name].owner
            assert owner is not None, name
            state.leave_open(name, [owner, step])
            _reopen_what_hangs(state)  # at once: the paths of what is compared next are whole
        breaks = "such a reference breaks when only one of the two owners moves"
        state.say(name, said, breaks if declared else f"{breaks}: the application's, no foreign key")
        if step.to_table == state.subject and state.in_scope(name) and name != state.subject:
            _offer_stub(state, table, step)
    elif agreement.rows:
        state.say(name, f"{step} leads to the same owner in all {agreement.rows} rows looked at")


def _offer_stub(state: State, table: Table, step: OwnerStep) -> None:
    """A stub is made by validated foreign keys of whole tables to the subject's key only (`stub_rows.reasons`)."""
    proven = any(step_to(r) == step and r.proves for r in table.references)
    if proven and step.to_columns == (state.key,):
        said = f"{CANDIDATE} parties: {{{step}: stub}}, which leaves a stub of the other person there"
    else:
        said = f"a stub of the other person would take a validated foreign key of the whole table to {state.key}"
    state.say(table.name, said)


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
    """References from owned rows to this table; of one key of it only (the most used)."""
    found = [r for r in state.incoming.get(table.name, ()) if state.in_scope(r.table)]
    keys = [r.to_columns for r in found]
    most = max(sorted(set(keys)), key=keys.count, default=())
    return [r for r in found if r.to_columns == most]


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
    return [r for r in state.incoming.get(table.name, ()) if r.table != table.name]


def _references_into(state: State, table: Table, known: set[TableName]) -> list[Reference]:
    return [r for r in state.references(table.name) if r.to_table in known and r.to_table != table.name]


def _is_certain(table: Table, reference: Reference) -> bool:
    return all(table.column(c).not_null for c in reference.columns)


def _path(state: State, step: OwnerStep) -> Path:
    return (step, *state.path(step.to_table))


async def _never_null(state: State, table: Table, reference: Reference) -> bool:
    measured = await state.once(("nulls", table.name, reference.columns), lambda: _nulls(state, table, reference))
    nullable = ", ".join(reference.columns)
    if measured is None:
        state.say(table.name, f"not measured in time: nulls in {nullable}")
        return False
    nulls, rows = measured
    state.say(table.name, f"{nullable} may be null, and is in {nulls} of {rows} rows looked at")
    return rows > 0 and nulls == 0


async def _nulls(state: State, table: Table, reference: Reference) -> tuple[int, int] | None:
    return await state.measure.nulls(table, reference.columns)


async def _all_agree(state: State, table: Table, steps: Sequence[OwnerStep]) -> bool:
    """Equally short paths are one only where rows show it; two columns that name a subject each, by the same key, are
    two by meaning."""
    to_subject = [s.to_columns for s in steps if s.to_table == state.subject]
    if len(set(to_subject)) < len(to_subject):
        return False
    one = _path(state, steps[0])
    for step in steps[1:]:
        if not await _agrees(state, table, one, _path(state, step)):
            return False
    return True


async def _agrees(state: State, table: Table, one: Path, other: Path) -> bool:
    agreement = await state.once(
        ("agreement", table.name, one, other), lambda: state.measure.agreement(table, one, other, state.key)
    )
    return agreement is not None and agreement.rows > 0 and not agreement.differing
