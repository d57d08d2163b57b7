"""Checks that read rows, in the plan's snapshot at the source: owners, and what would break by moving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from domicile.model.datamap import DataMap, PartyPolicy, Role, SharedPolicy
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.ids import Meeting
from domicile.model.plan import Check
from domicile.model.schema import TableName
from domicile.planner.checks_schema import listed, path_is_single, path_is_total, schemas_equal
from domicile.planner.cohort import COHORT, COHORT_WAVE
from domicile.planner.facts import Preflight
from domicile.planner.numbering import Place, look
from domicile.postgres import stub_rows
from domicile.postgres.collisions import OWNED, Collision, Members, find_for_cohort
from domicile.postgres.ownership import ident, owner_joins
from domicile.postgres.references import (
    MissingKeys,
    external_references,
    missing_reference_rows,
    of_scope,
    referring_from_others,
    referring_rows,
    referring_to_later,
    shown,
)
from domicile.postgres.unique_keys import read_keys

MEMBERS = Members(COHORT, COHORT_WAVE)
IDS_TIMEOUT_MS = 5_000  # of a statement: where no index leads by a key's number, its table is read whole
_TIMED_OUT = "57014"
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
    asked, left_out = await _keys_asked(p)
    detail = listed(_collision(p, c) for c in found) or f"nothing of {p.subjects} subjects meets a row there"
    detail += f"; {asked} keys asked"
    if left_out:
        detail += f", not before the copy: {listed(left_out)}"
    return Check(
        name,
        not found,
        detail,
        hint=f"Give one side other keys, or remove what is left of these subjects at {p.request.target}.",
        code=code,
    )


async def _keys_asked(p: Preflight) -> tuple[int, list[str]]:
    """How many keys of the target's a plan asks, and which can only be asked when values may travel."""
    tables = [p.target_schema.tables[t] for t in p.in_scope]
    everything = await read_keys(p.target, tables, private=False)
    private = await read_keys(p.target, tables, private=True)
    left_out = [f"{k.name} of {t}" for t, keys in everything.items() for k in keys if k not in private[t]]
    return sum(map(len, private.values())), left_out


async def ids_apart(p: Preflight) -> Check:
    """Ids that will be given out at both sites: this cohort may get across, and a later one will not."""
    name = "ids apart"
    places = (
        Place(p.request.source, p.source, p.source_schema),
        Place(p.request.target, p.target, p.target_schema),
    )
    hint = f"Give each site ids of its own: domicile ids {p.request.dataset} --plan ranges"
    budget = f"set local statement_timeout = {IDS_TIMEOUT_MS}"
    try:
        # Rolled back, whatever comes: the time limit ends with it, and a statement that fails does no harm to the plan.
        async with p.source.transaction(force_rollback=True), p.target.transaction(force_rollback=True):
            await p.source.execute(budget)
            await p.target.execute(budget)
            found = await look(places, p.request.data_map)
    except DomicileError as error:
        if error.facts.get("sqlstate") == _TIMED_OUT:
            seconds = f"{IDS_TIMEOUT_MS / 1000:g} s"
            why = f"not looked at: no answer within {seconds}, a key has no index that begins with its number"
            return Check(name, False, why, f"Look without haste: domicile ids {p.request.dataset}", blocking=False)
        if "sequences" not in error.facts:
            raise
        return Check(name, False, f"not looked at: {error.message}", error.hint, blocking=False)
    near = [(", ".join(n.columns), m) for n in found.numberings for m in n.meetings if m.near]
    return Check(
        name,
        not near,
        "; ".join(_meetings(near)) or f"{len(found.numberings)} numberings do not meet",
        hint=hint,
        blocking=False,
    )


def _meetings(near: Sequence[tuple[str, Meeting]]) -> Iterator[str]:
    between = [f"{columns}, {m.values_ahead:,} values ahead" for columns, m in near if m.site != m.other]
    own = [f"{columns} at {m.site}, {m.values_ahead:,} values ahead" for columns, m in near if m.site == m.other]
    if between:
        yield f"the sites number in the same range, so that later moves will collide: {listed(between)}"
    if own:
        yield f"a site comes to ids of its own rows, so that inserts will fail: {listed(own)}"


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
    copied = data_map.copied()  # another check counts those
    missing = await missing_reference_rows(p.source, p.target, data_map, p.source_schema, MEMBERS, copied)
    stubs = [m for m in missing if data_map.policy_of(m.reference) is PartyPolicy.STUB]
    nulls = [m for m in missing if data_map.policy_of(m.reference) is PartyPolicy.NULL]  # another check counts those
    found = [m for m in missing if m not in stubs and m not in nulls]
    made = "; ".join(f"{m.count} stubs will be made for {shown(m.reference)}" for m in stubs)
    return Check(
        name,
        not found,
        listed(_missing(data_map, m) for m in found) or made or f"{len(references)} references looked at",
        hint=f"Bring these rows to {target} first, or move the subjects they belong to together. A shared table "
        "without personal columns may have the policy copy, a reference to a person stub or null (see parties).",
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


async def references_from_others(p: Preflight) -> Check:
    """Rows of subjects who stay, in tables that move: what they refer to must not go either."""
    data_map, source = p.request.data_map, p.request.source
    referring = await referring_from_others(p.source, data_map, p.source_schema, MEMBERS)
    left = [(r, rows) for r, rows in referring if data_map.policy_of(r) is PartyPolicy.STUB]
    nulls = [(r, rows) for r, rows in referring if data_map.policy_of(r) is PartyPolicy.NULL]
    found = [f"{rows} of {shown(r)}" for r, rows in referring if (r, rows) not in (*left, *nulls)]
    said = [f"stubs stay at {source} behind the purge for {rows} of {shown(r)}" for r, rows in left]
    said += [f"the purge clears {rows} of {shown(r)} at {source}" for r, rows in nulls]
    stay = "; ".join(said)
    return Check(
        "references from those who stay",
        not found,
        f"rows of subjects who stay refer to rows that go: {listed(found)}" if found else stay or "none",
        hint="Move these subjects together, or set the references to null. In the data map, under parties, "
        "a reference to a person may have the policy stub or null, one to a row of hers null.",
        code=ErrorCode.REFERENCE_MISSING,
    )


async def references_between_waves(p: Preflight) -> Check:
    """Rows of a wave must not refer to rows that arrive with a later one: verify would miss them."""
    ends = [wave.last for wave in p.waves[:-1]]
    found = await referring_to_later(p.source, p.request.data_map, p.source_schema, MEMBERS, ends) if ends else []
    return Check(
        "references between waves",
        not found,
        "rows refer to rows of subjects who move in a later wave: " + listed(f"{n} of {shown(r)}" for r, n in found)
        if found
        else "none",
        hint="Move these subjects in one wave: limits.canary_subjects_max 0, a wave's limits as large as the cohort. "
        "A reference to a person may have a stub (parties in the data map).",
        code=ErrorCode.REFERENCE_MISSING,
    )


async def stubs_possible(p: Preflight) -> Check:
    """What the map says of second persons can be carried, at the target and, for the way back and the purge, at the
    source."""
    data_map = p.request.data_map
    name = "stubs"
    if not stub_rows.wanted(data_map):
        return Check(name, True, "the map asks for none")
    subject = data_map.subject
    found: list[str] = []
    hints: list[str] = []
    key = await _somebody(p)
    for site, conn, schema in (
        (p.request.source, p.source, p.source_schema),
        (p.request.target, p.target, p.target_schema),
    ):
        if subject.table not in schema.tables:
            continue  # said by schemas_equal
        given = await stub_rows.rules(conn, subject.table)
        obstacles = list(stub_rows.reasons(data_map, schema, given))
        here = [o.why for o in obstacles] or await stub_rows.reasons_of_checks(conn, data_map, schema, key)
        found += [f"{reason} (at {site})" for reason in here]
        hints += [o.hint for o in obstacles] or [stub_rows.HINT for _ in here]
    return Check(
        name,
        not found,
        listed(found) or f"a row of {subject.table} can be made of its key alone",
        hint=" ".join(dict.fromkeys(hints)),
    )


async def _somebody(p: Preflight) -> str:
    """The key of a member of the cohort, as text; it is asked about and not kept."""
    statement = sql.SQL("select c.subject::pg_catalog.text from {} as c order by c.ordinal limit 1")
    row = await (await p.source.execute(statement.format(ident(COHORT)))).fetchone()
    assert row is not None, "the cohort is not empty"
    return str(row[0])


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
