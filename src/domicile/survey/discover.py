"""`domicile survey`: a live database in, a commented draft of its data map out. Changes nothing.

A role is given only when facts make it certain; docs/explanation/survey.md says which. Everything else is
undecided, with the candidates in its comment, and a plan is refused until a person has decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from domicile.model.datamap import DataMap, Role, SubjectRule
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Persistence, Schema, Table, TableKind, TableName
from domicile.model.site import DatasetName
from domicile.postgres.introspect import read_schema
from domicile.survey import datamap_file, market, undeclared
from domicile.survey.classify import Looks, look
from domicile.survey.measure import Measure
from domicile.survey.owners import follow_inverse, follow_references, references_from_scope
from domicile.survey.state import CANDIDATE, State, holds_rows, step_to
from domicile.survey.subject import Candidate, choose

REFERENCE_ROWS_MAX = 500_000  # more rows than this are hardly the same at every site


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposed data map with its reasons. ``text`` is the file for a person to correct."""

    data_map: DataMap
    comments: Mapping[TableName, tuple[str, ...]]
    header: tuple[str, ...]

    @property
    def text(self) -> str:
        """The commented YAML; `datamap_file.parse` reads it back as ``data_map``."""
        return datamap_file.dump(self.data_map, self.comments, self.header)

    @property
    def undecided(self) -> tuple[TableName, ...]:
        """What a person must still decide."""
        return self.data_map.of_role(Role.UNDECIDED)


async def draft(conn: AsyncConnection[Any], dataset: str, *, subject: str | None = None) -> Draft:
    """Survey the database behind ``conn`` and propose a data map. ``subject`` overrides the choice of the
    subject table.

    Reads samples, counts only; each measurement is bounded (`survey.measure`). Raises DomicileError
    (map-incomplete) when the subject table is not clear or ``subject`` cannot be it.
    """
    schema = await read_schema(conn)
    measure = Measure(conn)
    looks = {n: await look(measure, t) if holds_rows(t) else Looks() for n, t in schema.tables.items()}
    choice = choose(schema, looks, None if subject is None else _named(subject))
    state = State(schema, measure, looks, choice[0].table, choice[0].key)
    state.decide(state.subject, Role.SUBJECT)
    _explain_subject(state, choice)
    _set_aside(state)
    await follow_references(state)
    guessed = await _find_undeclared(state)
    await follow_inverse(state)
    await _leave_open_what_inverse_reaches(state)
    _leave_open_what_waits(state)
    _name_references(state)
    _the_rest(state, guessed)
    for table in state.rules:
        _explain(state, state.table(table))
    state.say_last()
    markets = await market.candidates(measure, schema, state.subject)
    for number, found in enumerate(markets):
        said = "market: " if number == 0 else "market could also be: " + " ".join(found.expression.split()) + " -- "
        state.say(state.subject, said + found.why)
    rule = SubjectRule(state.subject, state.key, markets[0].expression if markets else "")
    name = DatasetName(dataset)
    data_map = DataMap(name, rule, state.rules, datamap_file.digest_of(name, rule, state.rules))
    return Draft(data_map, {t: tuple(c) for t, c in state.comments.items()}, _header(state))


def _named(table: str) -> TableName:
    try:
        return TableName.parse(table)
    except ValueError as error:
        raise DomicileError(
            ErrorCode.MAP_INCOMPLETE,
            str(error),
            facts={"table": table},
            hint="Write it with its schema: store.user_account",
        ) from None


def _explain_subject(state: State, choice: tuple[Candidate, ...]) -> None:
    state.say(state.subject, f"chosen as the subject: {choice[0].why}")
    for other in choice[1:3]:
        state.say(state.subject, f"runner-up: {other.table} ({other.score:.0f} points against {choice[0].score:.0f})")


def _set_aside(state: State) -> None:
    """What a move cannot carry is never given a role by itself."""
    for table in state.pending():
        if table.kind is TableKind.FOREIGN:
            state.leave_open(table.name)
            state.say(table.name, "a foreign table: its rows live on another server and are not moved; usually local")
        elif table.persistence is not Persistence.PERMANENT:
            state.leave_open(table.name)
            state.say(table.name, f"{table.persistence}: its rows do not survive a crash; usually local")
        elif table.inherits:
            state.leave_open(table.name)
            state.say(table.name, f"inherits {', '.join(map(str, table.inherits))}, whose queries see these rows too")


async def _find_undeclared(state: State) -> Mapping[TableName, list[undeclared.Undeclared]]:
    """References without a foreign key, of every table; those into owned rows are returned for tables without
    a role."""
    guessed: dict[TableName, list[undeclared.Undeclared]] = {}
    for name, table in sorted(state.schema.tables.items()):
        if not holds_rows(table):
            continue
        for found in await undeclared.find(state.measure, state.schema, table, state.subject):
            to_owned = state.in_scope(found.step.to_table) or found.step.to_table in state.waiting
            if name not in state.rules and to_owned:
                guessed.setdefault(name, []).append(found)
            else:
                state.say(
                    name,
                    f"without a foreign key: {found.step}; to have it proven, list it under references ({found.said})",
                )
    for name, steps in guessed.items():
        state.leave_open(name, [s.step for s in steps])
        state.say(name, *(f"without a foreign key: {s.step} ({s.said})" for s in steps))
    return guessed


async def _leave_open_what_inverse_reaches(state: State) -> None:
    """A table that refers to rows owned by inverse has an owner only as far as those rows have one:
    measured."""
    for table in state.pending():
        for reference in table.references:
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


def _leave_open_what_waits(state: State) -> None:
    while waiting := [
        (t, [r for r in t.references if r.to_table in state.waiting and r.to_table != t.name])
        for t in state.pending()
        if any(r.to_table in state.waiting and r.to_table != t.name for r in t.references)
    ]:
        for table, references in waiting:
            if references_from_scope(state, table):
                # Owned rows need it at the target whatever is decided: the reference rule judges it.
                state.waiting -= {r.to_table for r in references}
                continue
            state.leave_open(table.name, [step_to(r) for r in references])
            state.say(table.name, f"{references[0].to_table} must be decided first")


def _name_references(state: State) -> None:
    """Tables that moved rows refer to, and those that these refer to, must be at the target: reference, when
    it is plain."""
    while needed := [t for t in state.pending() if references_from_scope(state, t) or _needed_by_reference(state, t)]:
        for table in needed:
            by = _needed_by_reference(state, table)
            if by and not references_from_scope(state, table):
                state.say(table.name, f"referred to by {', '.join(map(str, by))}, which must be at the target")
            if state.looks[table.name].strong:
                state.leave_open(table.name)
                state.say(
                    table.name,
                    f"looks personal ({', '.join(state.looks[table.name].strong)}), but is no one subject's",
                    f"{CANDIDATE} role: reference, if the same rows are at every site",
                    f"{CANDIDATE} role: shared, with policy: present or policy: refuse",
                )
            elif table.rows_estimate > REFERENCE_ROWS_MAX:
                state.leave_open(table.name)
                state.say(
                    table.name,
                    "large for reference data",
                    f"{CANDIDATE} role: reference, if the same rows are at every site",
                    f"{CANDIDATE} role: shared, with policy: present or policy: refuse",
                )
            else:
                state.decide(table.name, Role.REFERENCE)


def _needed_by_reference(state: State, table: Table) -> list[TableName]:
    return sorted(
        name
        for name, rule in state.rules.items()
        if rule.role is Role.REFERENCE and any(r.to_table == table.name for r in state.table(name).references)
    )


def _the_rest(state: State, guessed: Mapping[TableName, object]) -> None:
    """No reference leads from these to a subject, and nothing that moves refers to them."""
    for table in state.pending():
        looks = state.looks[table.name]
        assert table.name not in guessed
        if several := undeclared.polymorphic(table):
            state.leave_open(table.name)
            pair = " and ".join(several[0])
            state.say(table.name, f"{pair} seem to refer to rows of several tables, which no owner path can follow")
        elif looks.strong or looks.object_keys:
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


def _explain(state: State, table: Table) -> None:
    looks, rule = state.looks[table.name], state.rules[table.name]
    size = f"about {table.rows_estimate:,} rows, {table.bytes_total / 1e6:,.1f} MB"
    if table.partitions:
        size += f" in {len(table.partitions)} partitions"
    state.comments[table.name].insert(0, size)
    if not table.primary_key:
        state.say(table.name, "no primary key: a row that differs can be counted, not named")
    if looks.unread:
        state.say(
            table.name, "no value was looked at: it took too long or is forbidden; the columns' names alone speak"
        )
    reasons = {**looks.strong, **looks.weak, **looks.object_keys}
    state.say(table.name, *(f"{c}: {reasons[c]}" for c in (*rule.personal, *rule.object_keys)))


def _header(state: State) -> tuple[str, ...]:
    schema = state.schema
    undecided = sum(r.role is Role.UNDECIDED for r in state.rules.values())
    lines = [
        "A draft of the data map, made by `domicile survey`. Comments say what was found.",
        f"To decide by a person: {undecided} tables with role undecided. Then run: domicile map check",
    ]
    lines += _aside(schema, TableKind.VIEW, "Views hold no rows of their own and need no role")
    lines += _aside(schema, TableKind.MATERIALIZED_VIEW, "Materialised views are not moved; refresh them after a move")
    if schema.large_objects:
        lines.append(f"{schema.large_objects} large objects (pg_largeobject) belong to no table and are not moved.")
    return tuple(lines)


def _aside(schema: Schema, kind: TableKind, said: str) -> list[str]:
    names = sorted(str(n) for n, t in schema.tables.items() if t.kind is kind)
    return [f"{said}: {', '.join(names)}"] if names else []
