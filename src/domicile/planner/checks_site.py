"""Checks of the two servers and of the mover's rights at them. Pure but for what they were given to read."""

from __future__ import annotations

from psycopg import sql

from domicile.model.errors import ErrorCode
from domicile.model.plan import Check
from domicile.planner.checks_schema import listed
from domicile.planner.facts import Preflight, SiteFacts, partition_bounds, sequence_cache
from domicile.postgres.ownership import ident
from domicile.postgres.site_probe import VERSION_MIN

MIB = 1024 * 1024
WAL_FACTOR = 2  # rows are written to the write-ahead log too before it is recycled


def versions_supported(p: Preflight) -> Check:
    """15 or later at both sites."""
    sites = (p.source_facts, p.target_facts)
    shown = ", ".join(f"{f.site} {f.server.version}" for f in sites)
    back = p.target_facts.server.version_num // 10_000 < p.source_facts.server.version_num // 10_000
    return Check(
        "versions",
        all(f.server.version_num >= VERSION_MIN for f in sites),
        shown + ("; the target is older, which works for the types found equal" if back else ""),
        hint="PostgreSQL 15 or later is needed.",
        code=ErrorCode.SETTING_WRONG,
    )


def settings_fit(p: Preflight) -> Check:
    """The cold move needs no logical decoding; that is said, not asked for."""
    shown = ", ".join(f"{f.site} wal_level={f.server.wal_level}" for f in (p.source_facts, p.target_facts))
    return Check("settings", True, f"{shown}; a cold move needs no more than this", blocking=False)


def encodings_equal(p: Preflight) -> Check:
    """The same bytes must mean the same text."""
    here, there = p.source_schema.encoding, p.target_schema.encoding
    return Check(
        "encodings",
        here == there,
        here if here == there else f"{here} at {p.request.source}, {there} at {p.request.target}",
        hint="Create the target database with the source's encoding.",
        code=ErrorCode.SETTING_WRONG,
    )


def collations_equal(p: Preflight) -> Check:
    """Another default collation sorts differently; equality, which keys rest on, is the same."""
    here, there = p.source_schema.collation, p.target_schema.collation
    return Check(
        "default collation",
        here == there,
        here
        if here == there
        else f"{here} at {p.request.source}, {there} at {p.request.target}: texts sort differently",
        hint="Expect other sort orders at the target, or create its database with the source's collation.",
        blocking=False,
    )


def rights_at_source(p: Preflight) -> Check:
    """The guard and the register need them."""
    return _rights(p, p.source_facts)


def rights_at_target(p: Preflight) -> Check:
    """The same at the other site."""
    return _rights(p, p.target_facts)


def _rights(p: Preflight, facts: SiteFacts) -> Check:
    role, database = sql.Identifier(facts.rights.role), sql.Identifier(facts.database)
    missing: list[str] = []
    mends: list[sql.Composed] = []
    if not facts.rights.create_schema:
        missing.append("to create the schema domicile")
        mends.append(sql.SQL("grant create on database {} to {};").format(database, role))
    if not facts.rights.set_replication_role:
        missing.append("to set session_replication_role")
        mends.append(sql.SQL("grant set on parameter session_replication_role to {};").format(role))
    if facts.not_owned:
        guarded = [t for t in facts.not_owned if t in p.in_scope]
        copied = [t for t in facts.not_owned if t not in p.in_scope]
        missing += [f"to own {listed(guarded)} (the guard is a trigger on them)"] if guarded else []
        missing += [f"to own {listed(copied)} (shared rows are copied into them)"] if copied else []
        mends += [sql.SQL("grant {} to {};").format(sql.Identifier(owner), role) for owner in facts.owners]
    if facts.not_readable:
        missing.append(f"to read {listed(facts.not_readable)}")
        mends += [sql.SQL("grant select on {} to {};").format(ident(t), role) for t in facts.not_readable]
    return Check(
        f"rights at {facts.site}",
        not missing,
        f"the role {facts.rights.role} lacks the right {' and '.join(missing)}" if missing else "sufficient",
        hint=sql.SQL(" ").join(mends).as_string(),
        code=ErrorCode.RIGHT_MISSING,
    )


def row_security_off(p: Preflight) -> Check:
    """A policy that filters the mover would silently leave rows behind."""
    found = [f"{t} at {f.site}" for f in (p.source_facts, p.target_facts) for t in f.row_security]
    return Check(
        "row security",
        not found,
        f"policies filter what the mover sees: {listed(found)}" if found else "does not filter the mover",
        hint="alter role ... bypassrls; or let the mover's role own these tables (without FORCE).",
        code=ErrorCode.RIGHT_MISSING,
    )


def prepared_transactions(p: Preflight) -> Check:
    """One that holds locks on in-scope tables makes a fence wait until it ends."""
    found = [
        f"{f.prepared_transactions} at {f.site}" for f in (p.source_facts, p.target_facts) if f.prepared_transactions
    ]
    return Check(
        "prepared transactions",
        not found,
        listed(found) or "none open",
        hint="Commit or roll them back before the fence: select * from pg_prepared_xacts;",
        blocking=False,
    )


def disk_space(p: Preflight) -> Check:
    """Room for rows, indexes and log at the target, from what the same rows take at the source."""
    need = 0.0
    for weight in p.weights:
        table = p.source_schema.tables[weight.table]
        need += weight.rows * (table.bytes_total / max(1, table.rows_estimate, weight.rows))
    need *= WAL_FACTOR
    free = p.target_facts.server.disk_free_bytes
    about = f"about {need / MIB:.0f} MiB needed with indexes and log"
    return Check(
        "disk space",
        free is None or free >= need,
        f"{about}; free space cannot be known from here" if free is None else f"{about}, {free / MIB:.0f} MiB free",
        hint=f"Make room at {p.request.target}.",
        code=ErrorCode.DISK_FULL,
    )


async def sequences_safe(p: Preflight) -> Check:
    """Ids that arrive must never be given out again at the target."""
    columns = [
        (f"{name}.{c.name}", c.default_sequence)
        for name in p.written_at_both
        for c in p.target_schema.tables[name].columns
        if c.default_sequence is not None
    ]
    cached = [f"{where}" for where, sequence in columns if await sequence_cache(p.target, sequence) > 1]
    detail = (
        f"to be advanced at {p.request.target} beyond what arrives: {listed(w for w, _ in columns)}"
        if columns
        else "none"
    )
    if cached:
        detail += f"; CACHE > 1, so sessions there may still hold values taken before: {listed(cached)}"
    return Check(
        "sequences",
        not cached,
        detail,
        hint="alter sequence ... cache 1; or reconnect the target's applications after each wave.",
        blocking=False,
    )


async def partitions_equal(p: Preflight) -> Check:
    """A row whose partition is missing at the target cannot arrive."""
    here, there = p.source_schema.tables, p.target_schema.tables
    tables = [t for t in p.written_at_both if here[t].partitions and there[t].partitions]
    ours, theirs = await partition_bounds(p.source, tables), await partition_bounds(p.target, tables)
    missing = [f"{t} {bound}" for t in tables if "DEFAULT" not in theirs[t] for bound in sorted(ours[t] - theirs[t])]
    return Check(
        "partitions",
        not missing,
        f"not at {p.request.target} with these bounds: {listed(missing)}" if missing else f"{len(tables)} partitioned",
        hint="Create them at the target, unless others there cover the same rows.",
        blocking=False,
    )
