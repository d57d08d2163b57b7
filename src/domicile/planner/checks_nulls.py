"""Checks of references to a second person that a move sets to null: whether it can, and how many (decision 0019)."""

from __future__ import annotations

from domicile.model.plan import Check
from domicile.planner.checks_rows import MEMBERS
from domicile.planner.checks_schema import listed
from domicile.planner.facts import Preflight
from domicile.postgres import party_nulls
from domicile.postgres.references import shown


async def references_clearable(p: Preflight) -> Check:
    """They may be null at both sites: at the source on the way there and behind the purge, at the target on the way
    back."""
    name, data_map = "references to clear", p.request.data_map
    if not party_nulls.wanted(data_map):
        return Check(name, True, "the map names none")
    found: list[str] = []
    hints: list[str] = []
    for site, conn, schema in (
        (p.request.source, p.source, p.source_schema),
        (p.request.target, p.target, p.target_schema),
    ):
        obstacles = list(party_nulls.reasons(data_map, schema))
        here = [f"{o.table}: {o.why}" for o in obstacles]
        here = here or await party_nulls.reasons_of_server(conn, data_map, schema)
        found += [f"{reason} (at {site})" for reason in here]
        hints += [o.hint for o in obstacles] or [party_nulls.HINT for _ in here]
    return Check(
        name,
        not found,
        listed(found) or "each may be null, and a key names its row",
        hint=" ".join(dict.fromkeys(hints)),
    )


async def references_cleared(p: Preflight) -> Check:
    """Not a test: how many rows of the cohort name somebody who will not be at the target, by reference."""
    name, data_map, source = "references that will be cleared", p.request.data_map, p.request.source
    if not party_nulls.wanted(data_map):
        return Check(name, True, "none", blocking=False)
    parties = party_nulls.parties(data_map, p.source_schema)
    unlike = any(r.to_table not in p.target_schema.tables for r in parties)
    if list(party_nulls.reasons(data_map, p.source_schema)) or unlike:
        return Check(name, False, "not looked at while they cannot be cleared", "See above.", blocking=False)
    said = []
    for reference in parties:
        named = await party_nulls.named(p.source, data_map, reference, MEMBERS)
        absent = await party_nulls.absent(p.target, data_map, p.target_schema, reference, named)
        if rows := sum(named[key] for key in absent):
            said.append(f"{rows} of {shown(reference)}")
    detail = f"at {source}, before each wave is proven: {listed(said)}" if said else "none"
    return Check(name, True, detail, blocking=False)
