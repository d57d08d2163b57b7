"""Generated databases of which every owner is known: nothing is called owned wrongly, hardly anything missed."""

from __future__ import annotations

from benchmarks import survey as benchmark
import pytest
from reliability.known.build import build
from reliability.known.judge import Judged, judge
from reliability.known.make import FAMILIES, make_world
from reliability.known.spec import Truth
from tests.conftest import create_database, drop_database

from domicile.model.datamap import OwnerStep
from domicile.postgres.connect import SESSION, connect
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey.discover import draft

TABLES, ROWS = 60, 12_000
PRECISION, RECALL = 0.99, 0.98  # of the benchmark; a world of this size has some thirty owned tables


@pytest.mark.parametrize("family", ["rails", "matrix", "messenger", "declared"])
async def test_survey_of_a_known_world(pg18: EmbeddedCluster, family: str) -> None:
    world = make_world(family, TABLES, ROWS, seed=2)
    name = await create_database(pg18, f"world_{family}")
    async with await connect(pg18.conninfo(name), autocommit=True) as conn:
        await build(conn, world)
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        judged = judge(world, (await draft(conn, family)).data_map)
    await drop_database(pg18, name)
    assert judged.wrong == []
    assert judged.silent == []
    assert judged.paths >= RECALL * judged.true, judged.missed
    assert judged.said_rightly >= PRECISION * judged.said
    assert judged.asked == judged.to_ask
    assert benchmark.missed({**judged.figures(), "seconds": 0.0}) == []


@pytest.mark.parametrize(
    ("said", "missed"),
    [
        (Judged(said=100, said_rightly=100, true=100, paths=99, to_ask=50, asked=49), []),
        (Judged(said=100, said_rightly=100, true=100, paths=98), ["path_precision"]),
        (Judged(said=97, said_rightly=97, true=100, paths=97), ["recall", "path_recall"]),
        (Judged(said=98, said_rightly=98, true=100, paths=97), ["path_precision", "path_recall"]),
        (Judged(to_ask=50, asked=48, silent=["a", "b"]), ["asked_share"]),
    ],
)
def test_the_benchmark_knows_what_is_too_little(said: Judged, missed: list[str]) -> None:
    """Paths count as tables do, and so does nobody having been asked."""
    assert benchmark.missed({**said.figures(), "seconds": 1.0}) == missed
    assert benchmark.missed({**said.figures(), "seconds": 61.0}) == [*missed, "seconds"]
    assert benchmark.missed({"tables": 10_000, "seconds": 1.0}) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_worlds_are_as_large_as_asked_and_the_same_for_a_seed(family: str) -> None:
    world, again = make_world(family, TABLES, ROWS), make_world(family, TABLES, ROWS)
    assert len(world.tables) >= TABLES
    assert [(t.name, t.pattern, t.path) for t in world.tables] == [(t.name, t.pattern, t.path) for t in again.tables]
    assert {t.truth for t in world.tables} == set(Truth)
    for table in world.of(Truth.OWNED).values():
        assert table.path, table.name
        assert [str(OwnerStep.parse(step)) for step in table.path] == list(table.path)
