"""Every preflight check, in the order in which the plan shows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from domicile.model.plan import Check, SignUps, WayBack
from domicile.planner import checks_drift as drift
from domicile.planner import checks_live as live
from domicile.planner import checks_nulls as nulls
from domicile.planner import checks_rows as rows
from domicile.planner import checks_schema as schema
from domicile.planner import checks_shared as shared
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
    schema.references_comparable,
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
    shared.copies_possible,
    shared.copies_counted,
    rows.stubs_possible,
    nulls.references_clearable,
    nulls.references_cleared,
    rows.references_present,
    rows.references_between_waves,
    rows.references_from_others,
    rows.references_from_outside,
    rows.loose_references_from_outside,
    rows.keys_free,
    rows.ids_apart,
)
"""What needs to read rows."""


_WAY_BACK: Mapping[WayBack, str] = MappingProxyType(
    {
        WayBack.STREAM: "by domicile rollback, with what was written at {target}: it crosses back to {source} all the "
        "while, whose copy is kept current and closed to other writes; the purge ends this",
        WayBack.HOLD: "by domicile rollback, with what was written at {target}: none of it crosses back to {source} "
        "unless the rollback is ordered; the rows stay there, closed to writes; the purge ends this",
        WayBack.NONE: "not at all: there is no rollback, and what was written at {target} never crosses back; the rows "
        "stay at {source}, closed to writes",
    }
)


async def run_all(p: Preflight) -> tuple[Check, ...]:
    """Run every check, whatever the others say: an operator wants the whole list at once."""
    judged = [check(p) for check in JUDGING]
    asked = [await check(p) for check in ASKING]
    return (*judged, *asked, *await drift.run_all(p), *await live.run_all(p), *reversible(p), *sign_ups(p))


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
        _say("reversible until the purge", _WAY_BACK[p.request.way_back].format(source=source, target=target)),
        _say("reversible after the purge", f"only by a move from {target} to {source}"),
    )


def sign_ups(p: Preflight) -> tuple[Check, ...]:
    """Not a test either: what happens to those who are new while the move lasts."""
    source, target = p.request.source, p.request.target
    if p.request.subjects is not None:
        said = "a file names the cohort: nobody is refused, and whoever is new stays where they sign up"
    elif p.request.sign_ups is SignUps.REFUSE:
        said = (
            f"who fits the condition is refused at {source} with DM001 and begins at {target}, until the move is over"
        )
    else:
        said = f"who fits the condition is accepted at {source}, and swept by a last wave"
    return (_say("sign-ups", said),)


def _say(name: str, detail: str) -> Check:
    return Check(name, True, detail, blocking=False)
