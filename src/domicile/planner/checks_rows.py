"""Checks that read rows, in the plan's snapshot at the source: owners, and what would break by moving."""

from __future__ import annotations

from psycopg import sql

from domicile.model.datamap import DataMap, Role, SharedPolicy
from domicile.model.errors import ErrorCode
from domicile.model.plan import Check
from domicile.model.schema import TableName
from domicile.planner.checks_schema import listed, path_is_single, path_is_total, schemas_equal
from domicile.planner.cohort import COHORT, COHORT_WAVE
from domicile.planner.facts import Preflight
from domicile.postgres.collisions import OWNED, Collision, Members, find_for_cohort
from domicile.postgres.ownership import ident, owner_joins
from domicile.postgres.references import (
    MissingKeys,
    external_references,
    missing_reference_rows,
    of_scope,
    referring_rows,
    shown,
)

MEMBERS = Members(COHORT, COHORT_WAVE)
_TWO_OWNERS = """
    select count(*) from (
        select from {table} as t {joins} left join pg_temp.domicile_cohort as c on c.subject = {owner}
        group by t.tableoid, t.ctid
        having count(distinct {owner}) > 1 and count(c.subject) > 0) as doubtful"""
_NEEDING = """
    select count(*) from {table} as t {joins} join pg_temp.domicile_cohort as c on c.subject = {owner}
    where {condition}"""
_OWNERLESS = """
    select count(*) from {table} as o
    where not exists (
        select from {table} as t {joins} join {subjects} as s on s.{key} = {owner}
        where t.tableoid = o.tableoid and t.ctid = o.ctid)"""


async def owners_single(p: Preflight) -> Check:
    """A row of two subjects cannot live at two homes."""
    data_map = p.request.data_map
    found: list[str] = []
    for name in p.in_scope:
        if path_is_single(data_map, p.source_schema, name):
            continue
        if rows := await _count(p, _TWO_OWNERS, name):
            found.append(f"{rows} of {name}")
    return Check(
        "one owner per row",
        not found,
        f"rows of the cohort that other subjects own too: {listed(found)}" if found else "every row has one owner",
        hint="Give these tables the role shared in the data map, or another owner path.",
    )


async def owners_known(p: Preflight) -> Check:
    """Rows without an owner are nobody's: they stay, and that is said."""
    data_map = p.request.data_map
    found: list[str] = []
    for name in p.in_scope:
        if path_is_total(data_map, p.source_schema, name):
            continue
        if rows := await _count(p, _OWNERLESS, name):
            found.append(f"{rows} of {name}")
    return Check(
        "rows without an owner",
        not found,
        f"they stay at {p.request.source}: {listed(found)}" if found else "none",
        hint="Give them an owner before the move if they belong to somebody.",
        blocking=False,
    )


async def keys_free(p: Preflight) -> Check:
    """No key or unique value that arrives is taken at the target, and no row there belongs to the cohort."""
    name, code = "keys free at the target", ErrorCode.KEYS_COLLIDE
    if not schemas_equal(p).passed:
        return Check(name, False, "not looked at while the schemas differ", "Bring the schemas together.", code=code)
    found = await find_for_cohort(p.source, p.target, p.request.data_map, p.target_schema, Members(COHORT, COHORT_WAVE))
    return Check(
        name,
        not found,
        listed(_collision(p, c) for c in found) or f"nothing of {p.subjects} subjects meets a row there",
        hint=f"Give one side other keys, or remove what is left of these subjects at {p.request.target}.",
        code=code,
    )


def _collision(p: Preflight, collision: Collision) -> str:
    what = "belong to the cohort already" if collision.key == OWNED else f"under {collision.key} are taken"
    # A plan holds no subject's key: examples only where the primary key says nothing of the owner.
    path = p.request.data_map.path(collision.table)
    owner = set(path[0].columns) if len(path) == 1 else set()
    primary = set(p.target_schema.tables[collision.table].primary_key)
    if path and not owner & primary:
        shown = ", ".join("(" + ", ".join(e) + ")" for e in collision.examples)
        return f"{collision.count} of {collision.table} {what}, for example {shown}"
    return f"{collision.count} of {collision.table} {what}"


async def references_present(p: Preflight) -> Check:
    """What arriving rows refer to, and what does not move with them, is at the target: verify will insist on it."""
    name, code = "references present at the target", ErrorCode.REFERENCE_MISSING
    data_map, target = p.request.data_map, p.request.target
    references = of_scope(data_map, p.source_schema)
    absent = sorted({r.to_table for r in references if r.to_table not in p.target_schema.tables})
    if absent:
        return Check(name, False, f"{listed(absent)} do not exist at {target}", "Create them there.", code=code)
    found = await missing_reference_rows(p.source, p.target, data_map, p.source_schema, MEMBERS)
    return Check(
        name,
        not found,
        listed(_missing(data_map, m) for m in found) or f"{len(references)} references looked at",
        hint=f"Bring these rows to {target} first (shared rows are not copied by this version), "
        "or move the subjects they belong to together.",
        code=code,
    )


def _missing(data_map: DataMap, missing: MissingKeys) -> str:
    said = f"{missing.count} keys of {shown(missing.reference)}"
    if missing.reference.to_table in data_map.in_scope():
        return f"{said} belong to subjects who stay"
    return f"{said}, for example {listed('(' + ', '.join(e) + ')' for e in missing.examples)}"


async def references_from_outside(p: Preflight) -> Check:
    """Rows that stay must not refer to rows that go: the purge would leave them dangling."""
    found = await _referring(p, declared=True)
    return Check(
        "references from outside",
        not found,
        f"rows that stay refer to rows that go: {listed(found)}" if found else "no row that stays refers to the cohort",
        hint="Give these tables the role owned in the data map, or set the references to null.",
        code=ErrorCode.REFERENCE_MISSING,
    )


async def loose_references_from_outside(p: Preflight) -> Check:
    """The same for references that are no foreign keys: named, because their meaning is the application's."""
    found = await _referring(p, declared=False)
    return Check(
        "loose references from outside",
        not found,
        f"after the purge they refer to nothing at {p.request.source}: {listed(found)}" if found else "none",
        hint="Expect it, or give these tables the role owned in the data map.",
        blocking=False,
    )


async def _referring(p: Preflight, *, declared: bool) -> list[str]:
    data_map = p.request.data_map
    found: list[str] = []
    for reference in external_references(p.source_schema, data_map):
        if reference.declared is not declared or reference.table not in p.source_schema.tables:
            continue
        if rows := await referring_rows(p.source, data_map, reference, MEMBERS):
            found.append(f"{rows} of {shown(reference)}")
    return found


async def shared_rows_unneeded(p: Preflight) -> Check:
    """A shared table whose policy is to refuse: no row of the cohort may need one of its rows."""
    data_map = p.request.data_map
    found: list[str] = []
    for reference in of_scope(data_map, p.source_schema):
        rule = data_map.tables.get(reference.to_table)
        if rule is None or rule.role is not Role.SHARED or rule.policy is not SharedPolicy.REFUSE:
            continue
        given = sql.SQL(" and ").join(
            sql.SQL("{} is not null").format(sql.Identifier("t", c)) for c in reference.columns
        )
        if rows := await _count(p, _NEEDING, reference.table, given):
            found.append(f"{rows} of {shown(reference)}")
    return Check(
        "shared rows",
        not found,
        f"rows of the cohort need shared rows, which the map refuses: {listed(found)}" if found else "none is refused",
        hint="Leave these subjects out, or change the table's policy in the data map.",
    )


async def _count(p: Preflight, statement: str, table: TableName, condition: sql.Composable | None = None) -> int:
    joins, owner = owner_joins(p.request.data_map, table)
    subject = p.request.data_map.subject
    query = sql.SQL(statement).format(
        table=ident(table),
        joins=joins,
        owner=owner,
        subjects=ident(subject.table),
        key=sql.Identifier(subject.key),
        condition=condition or sql.SQL("true"),
    )
    row = await (await p.source.execute(query)).fetchone()
    assert row is not None
    return int(row[0])
