from reliability.known.build import build
from reliability.known.judge import judge
from reliability.known.make import FAMILIES, make_world
from tests.conftest import create_database
from domicile.postgres.connect import SESSION, connect
from domicile.survey.discover import draft
import pytest


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [5, 6])
async def test_it(pg18, family, seed):
    world = make_world(family, 60, 12000, seed=seed)
    name = await create_database(pg18, f"w{family}{seed}")
    async with await connect(pg18.conninfo(name), autocommit=True) as conn:
        await build(conn, world)
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        d = await draft(conn, family)
        j = judge(world, d.data_map)
    done = [t.columns for t in world.tables if t.pattern == "done by"]
    with open("/tmp/zz.out", "a") as f:
        print(
            "RESULT",
            family,
            seed,
            j.wrong,
            j.silent,
            j.missed,
            j.paths,
            j.true,
            [c.name for cs in done for c in cs][:6],
            file=f,
        )
