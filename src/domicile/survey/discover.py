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
from domicile.survey import datamap_file, market
from domicile.survey.classify import Looks, asks_for_countries, look, with_more
from domicile.survey.inside import report_keys_inside
from domicile.survey.measure import Measure
from domicile.survey.names import NameIndex
from domicile.survey.owners import follow_inverse, follow_references
from domicile.survey.remaining import (
    decide_the_rest,
    leave_open_what_inverse_reaches,
    leave_open_what_waits,
    name_references,
)
from domicile.survey.state import CANDIDATE, State, holds_rows
from domicile.survey.subject import Candidate, choose
from domicile.survey.undeclared import Finder


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
    return await draft_of(await explore(conn, subject=subject), dataset)


async def draft_of(state: State, dataset: str) -> Draft:
    """The proposal that what `explore` found makes."""
    markets = await _markets(state)
    for number, found in enumerate(markets):
        said = "market: " if number == 0 else "market could also be: " + " ".join(found.expression.split()) + " -- "
        state.say(state.subject, said + found.why)
    rule = SubjectRule(state.subject, state.key, markets[0].expression if markets else "")
    name = DatasetName(dataset)
    data_map = DataMap(name, rule, state.rules, datamap_file.digest_of(name, rule, state.rules))
    return Draft(data_map, {t: tuple(c) for t, c in state.comments.items()}, _header(state))


async def explore(conn: AsyncConnection[Any], *, subject: str | None = None) -> State:
    """All that `draft` finds about tables and their owners, with what shows it. Raises as `draft` does."""
    schema = await read_schema(conn)
    measure = Measure(conn)
    looks = {n: await look(measure, t) if holds_rows(t) else Looks() for n, t in schema.tables.items()}
    index = NameIndex(schema)
    choice = choose(schema, looks, None if subject is None else _named(subject), index)
    state = State(schema, measure, looks, choice[0].table, choice[0].key)
    state.looks = {**looks, **await _looks_by_country(state)}
    state.decide(state.subject, Role.SUBJECT)
    _explain_subject(state, choice)
    _set_aside(state)
    await _find_undeclared(state, index)
    await follow_references(state)
    _offer_guesses(state)
    await report_keys_inside(state, index)
    await follow_inverse(state)
    await leave_open_what_inverse_reaches(state)
    leave_open_what_waits(state)
    name_references(state)
    decide_the_rest(state)
    for table in state.rules:
        _explain(state, state.table(table))
    state.say_last()
    return state


async def _markets(state: State) -> tuple[market.Market, ...]:
    return await state.once("markets", lambda: market.candidates(state.measure, state.schema, state.subject))


async def _looks_by_country(state: State) -> Mapping[TableName, Looks]:
    """Second looks, at tables with what may be telephone numbers as people write them at home: the subjects' countries
    are known only when their table is."""
    asked = [t for n, t in state.schema.tables.items() if holds_rows(t) and asks_for_countries(t, state.looks[n])]
    subject = state.table(state.subject)
    known = await market.countries(state.measure, subject, await _markets(state)) if asked else ()
    again = {t.name: await look(state.measure, t, known) for t in asked} if known else {}
    return {n: with_more(state.looks[n], found) for n, found in again.items() if not found.unread}


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


async def _find_undeclared(state: State, index: NameIndex) -> None:
    """References without a foreign key, of every table: proven ones are followed, others are offered."""
    finder = Finder(state.measure, state.schema, state.subject, index)
    for name, table in sorted(state.schema.tables.items()):
        if not holds_rows(table):
            continue
        for found in await finder.find(table):
            (state.proven if found.proven else state.guessed)[name].append(found)


def _offer_guesses(state: State) -> None:
    """What is believed, but not proven: a question where a table has no owner yet, else worth knowing."""
    for name in sorted(state.schema.tables):
        guessed = state.guessed.get(name, [])
        into_owned = [u for u in guessed if state.in_scope(u.step.to_table) or u.step.to_table in state.waiting]
        if into_owned and name not in state.rules:
            state.leave_open(name, [u.step for u in into_owned])
            state.say(name, *(f"without a foreign key: {u.step} ({u.said})" for u in into_owned))
            into_owned = []
        owner = state.rules[name].owner if name in state.rules else None
        for found in (*state.proven.get(name, ()), *guessed):
            if found.step != owner and (found.proven or found in into_owned or name in state.rules):
                is_candidate = f"{CANDIDATE} role: owned, owner: {found.step}" in state.comments[name]
                prove = "" if is_candidate else "; to have it proven, list it under references"
                state.say(name, f"without a foreign key: {found.step}{prove} ({found.said})")


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
