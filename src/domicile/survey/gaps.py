"""`domicile map check`: the data map against a live database, by its structure and by its rows. Changes nothing.

Rows are counted over whole tables, by count only, each count within `SECONDS_MAX`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap, Direction, OwnerStep, Role
from domicile.model.schema import Reference, Schema, Table, TableName
from domicile.postgres import stub_rows
from domicile.postgres.ownership import ident
from domicile.survey import structure
from domicile.survey.finding import Finding, Level
from domicile.survey.measure import Measure, Path
from domicile.survey.state import step_to
from domicile.survey.subject import single_key
from domicile.survey.undeclared import Finder

__all__ = ["Finding", "Level", "check_map"]

SECONDS_MAX = 60  # of one count

_LATE = "took too long or is forbidden, and was not counted"


async def check_map(conn: AsyncConnection[Any], data_map: DataMap, schema: Schema) -> tuple[Finding, ...]:
    """Everything to know before a plan is made with this map, errors first. Raises nothing of its own.

    ``schema`` is what `postgres.introspect.read_schema` reads on ``conn``. A table with a broken path is not measured.
    """
    found = list(structure.check(data_map, schema))
    measure = Measure(conn, seconds=SECONDS_MAX, whole=True)
    if data_map.subject.market and data_map.subject.table in schema.tables:
        found += [f async for f in _market(conn, data_map)]
    found += [f async for f in _stubs(conn, data_map, schema)]
    for name in sorted(data_map.tables):
        if name in schema.tables and _is_sound(data_map, schema, name):
            found += [f async for f in _rows(measure, data_map, schema, schema.tables[name])]
    subject = schema.tables.get(data_map.subject.table)
    if subject and single_key(subject):
        finder = Finder(Measure(conn), schema, subject.name)
        for name, rule in sorted(data_map.tables.items()):
            if name in schema.tables and rule.role is not Role.UNDECIDED:
                found += [f async for f in _undeclared(finder, data_map, schema.tables[name])]
    order = list(Level)
    return tuple(sorted(found, key=lambda f: (order.index(f.level), f.table, f.message)))


def _is_sound(data_map: DataMap, schema: Schema, name: TableName) -> bool:
    """Whether the owner path of an in-scope table can be followed in this schema."""
    if data_map.tables[name].role not in structure.IN_SCOPE:
        return False
    at = name
    for step in data_map.path(name):
        if at not in schema.tables or any(structure.step_problems(at, step, schema)):
            return False
        at = step.to_table
    subject = schema.tables.get(at)
    return subject is not None and data_map.subject.key in {c.name for c in subject.columns}


async def _market(conn: AsyncConnection[Any], data_map: DataMap) -> AsyncIterator[Finding]:
    subject = data_map.subject
    # The expression is the operator's own SQL, run with the operator's own rights; it reads no row here.
    statement = sql.SQL("select ({}) from {} as subject limit 0").format(sql.SQL(subject.market), ident(subject.table))
    try:
        async with conn.transaction():
            await conn.execute(statement)
    except psycopg.Error as error:
        message = f"the market expression does not work: {error.diag.message_primary or error.sqlstate}"
        yield Finding(Level.ERROR, str(subject.table), message, "Correct subject.market in the data map.")


async def _stubs(conn: AsyncConnection[Any], data_map: DataMap, schema: Schema) -> AsyncIterator[Finding]:
    """What the catalogue has against stubs; what the table's checks say to one, the plan asks."""
    table = schema.tables.get(data_map.subject.table)
    if table is None or not stub_rows.wanted(data_map) or data_map.subject.key not in {c.name for c in table.columns}:
        return
    given = await stub_rows.rules(conn, table.name)
    for cannot in stub_rows.reasons(data_map, schema, given):
        if cannot.table in schema.tables:
            yield Finding(Level.ERROR, str(cannot.table), f"no stub can be made: {cannot.why}", cannot.hint)


async def _rows(measure: Measure, data_map: DataMap, schema: Schema, table: Table) -> AsyncIterator[Finding]:
    rule, path = data_map.tables[table.name], data_map.path(table.name)
    if rule.owner is not None and rule.owner.direction is Direction.TO:
        async for finding in _orphans(measure, table, rule.owner):
            yield finding
    elif rule.owner is not None:
        async for finding in _two_owners(measure, data_map, table, rule.owner):
            yield finding
    for text in rule.references:
        step = OwnerStep.parse(text)
        if not any(structure.step_problems(table.name, step, schema)):
            async for finding in _missing_parents(measure, table, step):
                yield finding
    for reference in structure.references_of(rule, table):
        step = step_to(reference) if isinstance(reference, Reference) else reference
        if step != rule.owner and step not in rule.parties and _is_sound_target(data_map, schema, step):
            async for finding in _crossing(measure, table, path, (step, *data_map.path(step.to_table)), data_map):
                yield finding


def _is_sound_target(data_map: DataMap, schema: Schema, step: OwnerStep) -> bool:
    return step.to_table in data_map.tables and _is_sound(data_map, schema, step.to_table)


async def _orphans(measure: Measure, table: Table, step: OwnerStep) -> AsyncIterator[Finding]:
    counted = await measure.dangling(table, step)
    if counted is None:
        yield Finding(Level.WARNING, str(table.name), f"rows without an owner: {_LATE}")
        return
    nulls, missing = counted
    if nulls:
        message = f"{nulls:,} rows have no owner: {', '.join(step.columns)} is null"
        yield Finding(Level.WARNING, str(table.name), message, "They stay at the source.", nulls)
    if missing:
        message = f"{missing:,} rows have no owner: what {step} names is not there"
        yield Finding(Level.WARNING, str(table.name), message, "They stay at the source.", missing)


async def _two_owners(measure: Measure, data_map: DataMap, table: Table, step: OwnerStep) -> AsyncIterator[Finding]:
    side = (step, data_map.path(step.to_table))
    owners = await measure.owners(table, [side], data_map.subject.key)
    if owners is None:
        yield Finding(Level.ERROR, str(table.name), f"whether each row has one owner {_LATE}", "Index the path first.")
        return
    if owners.several:
        yield Finding(
            Level.ERROR,
            str(table.name),
            f"{owners.several:,} rows have several owners by {step}, one of them {owners.most}",
            "Such a table is shared, not owned.",
            owners.several,
        )
    if owners.none:
        message = f"{owners.none:,} rows have no owner by {step}"
        yield Finding(Level.WARNING, str(table.name), message, "They stay at the source.", owners.none)


async def _missing_parents(measure: Measure, table: Table, step: OwnerStep) -> AsyncIterator[Finding]:
    counted = await measure.dangling(table, step)
    if counted is None:
        yield Finding(Level.WARNING, str(table.name), f"rows that refer to nothing by {step}: {_LATE}")
    elif counted[1]:
        message = f"{counted[1]:,} rows refer to nothing by {step}, which no foreign key guards"
        yield Finding(Level.WARNING, str(table.name), message, "Mend the rows, or take the reference out.", counted[1])


async def _crossing(
    measure: Measure, table: Table, path: Path, other: Path, data_map: DataMap
) -> AsyncIterator[Finding]:
    """Rows that refer to rows of another owner: the reference breaks when only one of the two moves."""
    agreement = await measure.agreement(table, path, other, data_map.subject.key)
    if agreement is None:
        yield Finding(Level.WARNING, str(table.name), f"references to rows of other owners by {other[0]}: {_LATE}")
    elif agreement.differing:
        message = f"{agreement.differing:,} rows refer by {other[0]} to a row of another owner"
        hint = "The reference breaks when only one of the two owners moves; say what is done then under parties."
        yield Finding(Level.WARNING, str(table.name), message, hint, agreement.differing)


async def _undeclared(finder: Finder, data_map: DataMap, table: Table) -> AsyncIterator[Finding]:
    """References without a foreign key that the map does not know: a local table may hold subjects' rows by one."""
    rule = data_map.tables[table.name]
    known = {s.columns for s in structure.steps_of(rule)}
    for found in await finder.find(table):
        target = data_map.tables.get(found.step.to_table)
        if found.step.columns in known or target is None:
            continue
        message = f"seems to refer by {found.step} without a foreign key ({found.said})"
        if rule.role in structure.IN_SCOPE:
            yield Finding(Level.INFO, str(table.name), message, "List it under references to have it proven.")
        elif target.role in structure.IN_SCOPE:
            yield Finding(Level.WARNING, str(table.name), message, f"Its role is {rule.role}: do its rows stay?")
