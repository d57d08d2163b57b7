"""Tables of a few people's odd rows, and the places in which they move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.conftest import SitePair
from tests.move.places import SMALL, Place, execute, workspace_for

TOGETHER = replace(SMALL, canary_subjects_max=0, handover_tries=60, wave_bytes_max=1 << 40)
MOVERS = "market = 'IN'"
APP = "create table app (id int primary key, market text)"
PEOPLE = "insert into app select n, case when n % 2 = 0 then 'IN' else 'CN' end from generate_series(1, 6) as n"
MAP = """
version: 1
dataset: types
subject: {table: app, key: id, market: subject.market}
tables:
  app: {role: subject}
  odd: {role: owned, owner: app -> app(id)}
"""


async def place_of(
    pair: SitePair, state: Path, map_text: str, control: str, schema: tuple[str, ...], rows: tuple[str, ...] = ()
) -> Place:
    """The schema at both sites, rows at the source."""
    state.mkdir()
    for site in (pair.source, pair.target):
        await execute(site, *schema)
    await execute(pair.source, *rows)
    (state / "types.map.yaml").write_text(map_text)
    workspace = workspace_for(state, "types", state / "types.map.yaml", (pair.source, pair.target), control)
    return Place(replace(workspace, limits=TOGETHER), pair.source, pair.target, "types")
