"""Every preflight check, in the order in which the plan shows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from domicile.model.plan import Check
from domicile.planner import checks_rows as rows
from domicile.planner import checks_schema as schema
from domicile.planner import checks_site as site
from domicile.planner.facts import Preflight

JUDGING: tuple[Callable[[Preflight], Check], ...] = (
    schema.map_complete,
    schema.map_matches,
    site.versions_supported,
    site.rights_at_source,
    site.rights_at_target,
    site.row_security_off,
    site.settings_fit,
    site.encodings_equal,
    site.collations_equal,
    schema.schemas_equal,
    schema.kinds_movable,
    schema.large_objects_unused,
    schema.beside_the_tables,
    schema.tables_have_keys,
    schema.triggers_silent,
    site.prepared_transactions,
    site.disk_space,
)
"""What can be said from what was read already."""

ASKING: tuple[Callable[[Preflight], Awaitable[Check]], ...] = (
    site.partitions_equal,
    site.sequences_safe,
    rows.owners_single,
    rows.owners_known,
    rows.shared_rows_unneeded,
    rows.references_present,
    rows.references_from_outside,
    rows.loose_references_from_outside,
    rows.keys_free,
)
"""What needs to read rows."""


async def run_all(p: Preflight) -> tuple[Check, ...]:
    """Run every check, whatever the others say: an operator wants the whole list at once."""
    judged = [check(p) for check in JUDGING]
    asked = [await check(p) for check in ASKING]
    return (*judged, *asked, *reversible(p))


def reversible(p: Preflight) -> tuple[Check, ...]:
    """Not a test: what can be undone, until when, so that it is read before the move and kept with the
    plan.
    """
    source, target = p.request.source, p.request.target
    return (
        _say(
            "reversible until a wave's handover",
            f"entirely: a step back opens {source} again and clears {target}",
        ),
        _say(
            "reversible until the purge",
            f"the rows stay at {source}, closed to writes; what was written at {target} meanwhile "
            "is only there, so the way back is a move of its own",
        ),
        _say("reversible after the purge", f"only by a move from {target} to {source}"),
    )


def _say(name: str, detail: str) -> Check:
    return Check(name, True, detail, blocking=False)
