"""Make a plan: who moves, in which waves, how much that is, and whether anything speaks against it.
Changes nothing at either site.

At the source everything is read in one REPEATABLE READ READ ONLY transaction, so that cohort, counts and
checks are of one moment. The only things made are temporary tables, which go with the session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection, IsolationLevel

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import PLAN_VERSION, Cohort, Format, Plan, TablePlan, WavePlan
from domicile.model.schema import Schema, TableName
from domicile.model.site import SiteName
from domicile.planner import checks, cohort, condition, weigh
from domicile.planner.facts import Preflight, SiteFacts, read_site
from domicile.planner.plan_file import seal
from domicile.planner.request import PlanRequest
from domicile.planner.waves import WaveCutter
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema, schema_digest
from domicile.postgres.rows import choose_format
from domicile.postgres.site_probe import probe

STATEMENT_MINUTES_MAX = 30  # of one statement: a count over a large table is slow, a runaway condition never ends
LOCK_SECONDS_MAX = 10  # planning takes the weakest locks only, and waits briefly even for those


async def build(request: PlanRequest) -> Plan:
    """The plan, with its digest; a check that speaks against it is in ``plan.refusals``, not raised.

    Raises DomicileError where there is nothing to plan: site-unreachable, access-denied, right-missing,
    map-invalid, condition-invalid, cohort-empty, cohort-departed, cohort-reserved. Never changes anything.
    """
    assert request.subjects is None or not request.where.strip(), "a condition or a file, not both"
    async with _connected(request.source_conninfo) as source, _connected(request.target_conninfo) as target:
        try:
            return await _build(request, source, target)
        except psycopg.Error as error:
            raise _explain(error) from None


async def _build(request: PlanRequest, source: AsyncConnection, target: AsyncConnection) -> Plan:
    tables = request.data_map.written()
    target_schema = await read_schema(target)
    source_facts = await _facts(source, request.source, request, request.source_conninfo)
    target_facts = await _facts(target, request.target, request, request.target_conninfo)
    _refuse_one_database(source_facts, target_facts)
    await _make_tables(source, request, source_facts)
    if request.subjects is None:
        await condition.vet(source, request.data_map, request.where)
    await source.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await source.set_read_only(True)
    async with source.transaction():
        source_schema = await read_schema(source)
        _refuse_broken_map(request, source_schema)
        size = await cohort.select(source, request.data_map, request.where, request.subjects)
        await cohort.refuse_elsewhere(source)
        digest = await cohort.digest(source)
        weights = await weigh.weigh(source, request.data_map, source_schema, size)
        waves = await _waves(source, request, weights, size)
        facts = (source_facts, target_facts)
        preflight = Preflight(request, source, target, source_schema, target_schema, *facts, size, weights, waves)
        outcome = await checks.run_all(preflight)
    return seal(
        Plan(
            version=PLAN_VERSION,
            dataset=request.dataset,
            source=request.source,
            target=request.target,
            cohort=Cohort(request.where.strip(), request.subjects_file, size, digest),
            tables=tuple(_table_plan(w, source_schema, target_schema) for w in weights),
            waves=waves,
            checks=outcome,
            limits=request.limits,
            way_back=request.way_back,
            sign_ups=request.sign_ups,
            config_digest=request.config_digest,
            map_digest=request.data_map.digest,
            source_schema_digest=schema_digest(source_schema, tables),
            target_schema_digest=schema_digest(target_schema, tables),
            estimate_basis=request.rates.for_streams(request.limits.streams).basis,
            made_at=request.made_at,
        )
    )


async def _waves(
    source: AsyncConnection, request: PlanRequest, weights: tuple[weigh.TableWeight, ...], size: int
) -> tuple[WavePlan, ...]:
    cutter = WaveCutter(size, request.limits, request.rates.for_streams(request.limits.streams))
    waves = [wave async for weight in weigh.per_subject(source, weights) if (wave := cutter.add(weight))]
    last = cutter.finish()
    assert last is not None, "the cohort is not empty"
    assert last.last == size, "every subject owns at least its own row"
    return (*waves, last)


def _table_plan(weight: weigh.TableWeight, source: Schema, target: Schema) -> TablePlan:
    here, there = source.tables[weight.table], target.tables.get(weight.table)
    how, why = choose_format(here, there) if there else (Format.BINARY, "")
    columns = tuple(c.name for c in here.stored_columns)
    return TablePlan(weight.table, columns, weight.rows, weight.bytes, how, why)


@asynccontextmanager
async def _connected(conninfo: str) -> AsyncIterator[AsyncConnection]:
    limits = {"statement_timeout": f"{STATEMENT_MINUTES_MAX}min", "lock_timeout": f"{LOCK_SECONDS_MAX}s"}
    conn = await connect(conninfo, application_name="domicile plan", settings={**SESSION, **limits})
    try:
        yield conn
    finally:
        await conn.close()


async def _facts(conn: AsyncConnection, site: SiteName, request: PlanRequest, conninfo: str) -> SiteFacts:
    report = await probe(site, request.dataset, conninfo)
    if report.server is None:
        raise DomicileError(ErrorCode(report.error_code), f"{site}: {report.error}", hint=report.hint)
    if report.server.standby:
        raise DomicileError(
            ErrorCode.SETTING_WRONG,
            f"{site} is a standby, which takes no writes",
            facts={"site": site},
            hint="Name the primary in the connection, or add target_session_attrs=primary to it.",
        )
    return await read_site(conn, report, request.data_map.written())


def _refuse_one_database(source: SiteFacts, target: SiteFacts) -> None:
    if source.identity == target.identity:
        raise DomicileError(
            ErrorCode.CONFIG_INVALID,
            f"{source.site} and {target.site} lead to the same database",
            facts={"sites": [source.site, target.site]},
            hint="Correct the connection of one of them in domicile.yaml.",
        )


async def _make_tables(source: AsyncConnection, request: PlanRequest, facts: SiteFacts) -> None:
    await condition.require_subject(source, request.data_map)
    try:
        await cohort.create_tables(source, request.data_map)
        await source.execute(weigh.WEIGHT_TABLE)
    except psycopg.errors.InsufficientPrivilege:
        raise DomicileError(
            ErrorCode.RIGHT_MISSING,
            f"the role {facts.rights.role} at {facts.site} may not make temporary tables "
            f"or not read {request.data_map.subject.table}",
            facts={"site": facts.site, "role": facts.rights.role},
            hint="Grant it TEMPORARY on the database and SELECT on the dataset's tables.",
        ) from None


def _refuse_broken_map(request: PlanRequest, schema: Schema) -> None:
    """An owner path that does not exist cannot be counted along, so it is an error and not a failed check."""
    subject = request.data_map.subject
    keys = (k for k in schema.tables[subject.table].unique_keys if not (k.partial or k.on_expression))
    if (subject.key,) not in (k.columns for k in keys):
        raise DomicileError(
            ErrorCode.MAP_INVALID,
            f"the subject's key {subject.key} is no unique key of {subject.table} at {request.source}",
            facts={"table": str(subject.table), "line": request.data_map.line_of.get(subject.table, 0)},
            hint="Name the subject's primary key in the data map, then run: domicile map check",
        )
    for name in request.data_map.in_scope():
        at = name
        needed: list[tuple[TableName, tuple[str, ...]]] = [(name, ())] if not request.data_map.path(name) else []
        for step in request.data_map.path(name):
            needed += [(at, step.columns), (step.to_table, step.to_columns)]
            at = step.to_table
        for table, columns in needed:
            found = schema.tables.get(table)
            missing = [c for c in columns if found is None or c not in {k.name for k in found.columns}]
            if found is None or missing:
                what = f"{table} does not exist" if found is None else f"{table} has no column {missing[0]}"
                raise DomicileError(
                    ErrorCode.MAP_INVALID,
                    f"the owner path of {name} is wrong: {what} at {request.source}",
                    facts={"table": str(name), "line": request.data_map.line_of.get(name, 0)},
                    hint="Correct the owner of the table in the data map, then run: domicile map check",
                )


def _explain(error: psycopg.Error) -> DomicileError:
    """What PostgreSQL refused while planning, without its detail, which may quote a row."""
    state = error.sqlstate or ""
    place = ".".join(n for n in (error.diag.schema_name, error.diag.table_name) if n)
    facts = {"sqlstate": state, "kind": type(error).__name__, "table": place}
    match error:
        case psycopg.errors.InsufficientPrivilege():
            code, hint = (
                ErrorCode.RIGHT_MISSING,
                "Grant the right, then plan again. domicile sites lists what is missing.",
            )
            return DomicileError(code, f"planning was refused: {error.diag.message_primary}", facts=facts, hint=hint)
        case psycopg.errors.QueryCanceled() | psycopg.errors.LockNotAvailable():
            hint = "Plan again when the source is less busy; domicile map check names paths without an index."
            return DomicileError(
                ErrorCode.PLAN_REFUSED, "planning took too long and was stopped", facts=facts, hint=hint
            )
        case psycopg.errors.UndefinedFunction() | psycopg.errors.DatatypeMismatch():
            message = f"an owner path joins what cannot be compared: {error.diag.message_primary}"
            hint = "Correct the path in the data map; domicile map check names it."
            return DomicileError(ErrorCode.MAP_INVALID, message, facts=facts, hint=hint)
        case psycopg.OperationalError() if not state or state.startswith(("08", "57P")):
            return DomicileError(
                ErrorCode.SITE_UNREACHABLE,
                "the connection was lost while planning",
                facts=facts,
                hint="Plan again.",
            )
        case _:
            hint = "Run domicile map check; a type or a path of the data map may not fit the tables."
            return DomicileError(
                ErrorCode.INTERNAL, f"planning failed ({type(error).__name__})", facts=facts, hint=hint
            )
