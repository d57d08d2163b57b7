"""A move's part of a site's log, for a bundle."""

from __future__ import annotations

from psycopg import AsyncConnection

from domicile.evidence import bundle
from domicile.evidence.bundle import LogPart
from domicile.evidence.checkpoint import read
from domicile.evidence.merkle import Tree
from domicile.evidence.note import parse_note
from domicile.model.site import MoveId
from domicile.postgres import evidence_rows


async def part(conn: AsyncConnection, origin: str, move_id: MoveId) -> LogPart | None:
    """What the log says of the move, up to its latest checkpoint; None when it says nothing.

    The history begins with the first checkpoint that has a leaf of the move. Reads every leaf's hash: 32 bytes each.
    """
    leaves = await evidence_rows.placed_leaves(conn, move_id)
    if not leaves:
        return None
    notes = [parse_note(raw) for raw in await evidence_rows.notes(conn, origin, above=min(leaves))]
    tree = Tree()
    for leaf in await evidence_rows.hashes(conn, 0, read(notes[-1]).size):
        tree.append(leaf)
    return bundle.cut(tree, leaves, notes)
