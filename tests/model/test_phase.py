"""The phases: one table in code, the same in SQL, the same in the diagram of the documentation."""

from __future__ import annotations

import itertools
from pathlib import Path
import re

from domicile.control.database import open_control
from domicile.model.phase import NEXT, ORDER, PHASES_OF, Phase, may_follow

DIAGRAM = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "life-of-a-move.md"


async def test_sql_has_the_same_edges(database: str) -> None:
    async with await open_control(database) as conn:
        rows = await (await conn.execute("select before, after from domicile_control.phase_edge")).fetchall()
    assert {(Phase(b), Phase(a)) for b, a in rows} == {(b, a) for b, after in NEXT.items() for a in after}


def test_the_diagram_has_the_same_edges() -> None:
    edges = set(re.findall(r"^\s+(\w+) --> (\w+)", DIAGRAM.read_text(), re.MULTILINE))
    assert edges == {(str(b), str(a)) for b, after in NEXT.items() for a in after}


def test_every_phase_has_its_edges_and_leads_to_the_end() -> None:
    assert set(NEXT) == set(Phase)
    for phases in PHASES_OF.values():
        whole = (Phase.PLANNED, *phases, Phase.SOAK, Phase.PURGE, Phase.DONE)
        for before, after in itertools.pairwise(whole):
            assert may_follow(before, after)
            assert ORDER.index(before) < ORDER.index(after)
    assert not NEXT[Phase.DONE]


def test_the_way_back_from_soak_is_a_rollback_and_ends_with_the_purge() -> None:
    assert not may_follow(Phase.SOAK, Phase.PLANNED)
    assert may_follow(Phase.SOAK, Phase.ROLLBACK)
    assert may_follow(Phase.ROLLBACK, Phase.PLANNED)
    assert not may_follow(Phase.PURGE, Phase.SOAK)
    assert not may_follow(Phase.PURGE, Phase.ROLLBACK)
