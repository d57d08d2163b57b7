"""Schemas at random, in small: each moves whole or is refused by name, and whoever spoils a row is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
import json
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
import pytest
from reliability.schemas import draw, twists
from reliability.schemas.__main__ import main, shown
from reliability.schemas.ddl import statements
from reliability.schemas.draw import Ground
from reliability.schemas.judge import judge
from reliability.schemas.kinds import KEYS
from reliability.schemas.kinds import PLAIN as PLAIN_KINDS
from reliability.schemas.mapping import data_map
from reliability.schemas.names import BYTES_MAX, Namer, quoted
from reliability.schemas.rows import Values, at_site, fill, held
from reliability.schemas.shape import Col, Identity, Layout, Ref, Shop, Tab
from reliability.schemas.share import ground_of
from reliability.schemas.trial import Stage, databases, trial
from reliability.schemas.writers import Ledger
from tests.conftest import SEED, create_database, drop_database

from domicile.model.datamap import Role
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey import datamap_file

SCHEMAS, PARTS = 20, 4  # the parts may run beside each other
SMALL = 3  # tables, at most
FLAT = Layout((0, 1))
WHO = Col("id", "bigint", kind="id", not_null=True, fresh=True, family="int")


@pytest.fixture(scope="module")
async def stage(pg15: EmbeddedCluster, pg18: EmbeddedCluster, scratch: Path) -> AsyncIterator[Stage]:
    control = await create_database(pg18, "control")
    yield Stage(pg15, pg18, pg18.conninfo(control), scratch / "schemas")
    await drop_database(pg18, control)


@seed(SEED)
@settings(
    max_examples=SCHEMAS // PARTS,
    deadline=None,
    database=None,
    phases=(Phase.generate,),  # each try takes seconds: python -m reliability.schemas --seed N --show is for looking
    suppress_health_check=list(HealthCheck),
)
@given(number=st.integers(0, 2**32))
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(300)
async def test_random_schemas_move_whole(stage: Stage, part: int, number: int) -> None:
    number ^= SEED + (part << 32)
    ground = await ground_of(stage.source, stage.target)
    shop = draw.draw(Random(number), ground, number, tables_max=SMALL)
    outcome = await trial(shop, stage)
    assert not outcome.found, f"--seed {number} --tables {SMALL} --versions 15-18: {outcome.found}\n{shown(shop)}"


def test_each_job_of_a_campaign_has_servers_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "2", "--seed", "16499350897", "--tables", "1", "--jobs", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["schemas"] == 2
    assert figures["acknowledged"] > 0


PLAIN = Shop(
    seed=1,
    schemas=("a b",),
    tables=(
        Tab(("a b", "who"), (WHO, Col("m", "text", not_null=True)), ("id",), Identity.PRIMARY, (FLAT, FLAT)),
        Tab(
            ("a b", "%"),
            (Col("of", "bigint", not_null=True), Col("what", "text", kind="text", not_null=True)),
            (),
            Identity.FULL,
            (FLAT, FLAT),
            Ref(("of",), ("a b", "who"), ("id",)),
        ),
    ),
    subject_key="id",
    market="m",
    kinds={"id": KEYS["int8"], "text": PLAIN_KINDS["text"]},
)


async def at_rest(sites: Mapping[str, str]) -> tuple[Ledger, str]:
    """A plain shop at both sites, and who owns what; with the name of a table that has rows."""
    rows, nobody, home = {}, {}, {}
    for site, conninfo in sites.items():
        async with await at_site(conninfo) as conn:
            for statement in statements(PLAIN, site):
                await conn.execute(statement.encode())
            subjects = await fill(conn, Values(PLAIN, Random(7), target=site == "target"), ["IN", "IN", "CN"])
            read = await held(conn, PLAIN)
        nobody[site] = read.get(None, {})
        rows |= {subject: read[subject] for subject in subjects}
        home |= dict.fromkeys(subjects, site)
        if site == "source":
            members = frozenset(subjects[:2])
    return Ledger(home, rows, nobody, members), quoted("a b", "%")


def some_shop(twist: str = "") -> Shop:
    """The first drawing that has what the test needs."""
    for number in range(1_000):
        shop = draw.draw(Random(number), Ground(), number, tables_max=SMALL + 1)
        if shop.refused or len(shop.tables) < SMALL:
            continue
        if not twist:
            return shop
        if (twisted := twists.TWISTS[twist](Random(number), shop)) is not None:
            return twisted
    raise AssertionError(f"no drawing for {twist}")


COLD = ("no identity", "cold key", "against the arrow")  # refused of a live move only
TWISTED = [pytest.param(t, marks=pytest.mark.campaign) if t in COLD else t for t in twists.TWISTS]


@pytest.mark.parametrize("twist", TWISTED)
async def test_what_cannot_move_is_refused_by_name(stage: Stage, twist: str) -> None:
    outcome = await trial(some_shop(twist), replace(stage, source=stage.target))
    assert not outcome.found
    assert outcome.way == ("moved" if twist in COLD else "refused")


def test_a_seed_draws_the_same_each_time(tmp_path: Path) -> None:
    drawn = Counter[str]()
    for number in range(200):
        shop = draw.draw(Random(number), Ground(), number)
        assert draw.draw(Random(number), Ground(), number) == shop
        assert [*statements(shop, "source")] == [*statements(shop, "source")]
        names = {t.name for t in shop.tables}
        assert all(len(part.encode()) <= BYTES_MAX for name in names for part in name)
        path = tmp_path / f"{number}.yaml"
        path.write_text(data_map(shop, "shop"))
        read = datamap_file.load(path)
        assert {(t.schema, t.name) for t in read.in_scope()} == names
        assert {(t.schema, t.name) for t in read.tables} - names == shop.roles.keys()
        assert len(read.of_role(Role.SUBJECT)) == 1
        drawn.update(t.identity for t in shop.tables)
        drawn.update(f"{len(shop.path(t))} steps" for t in shop.tables)
        drawn.update(f"by {one.by.split()[0]}" for t in shop.tables for one in t.layouts if one.by)
        drawn.update(shop.refused and ["refused"])
    wanted = {*Identity, *(f"{steps} steps" for steps in range(6)), "by hash", "by list", "by range", "refused"}
    assert drawn.keys() >= wanted, wanted - drawn.keys()


def test_names_are_new_and_fit() -> None:
    names = Namer(Random(1))
    found = [names.fresh(0.1) for _ in range(500)]
    assert len(set(found)) == len(found)
    assert max(len(name.encode()) for name in found) == BYTES_MAX


SPOILED = {
    "lost": ("delete from {} where ctid = (select min(ctid) from {})", "a row is missing"),
    "doubled": ("insert into {} select * from {} limit 1", "a row too many"),
    "changed": (
        'update {} set "what" = "what" || \'!\' where ctid = (select min(ctid) from {})',
        'a row differs in "what"',
    ),
}


@pytest.mark.parametrize("harm", SPOILED)
async def test_whoever_spoils_a_row_is_found_out(stage: Stage, harm: str) -> None:
    statement, said = SPOILED[harm]
    async with databases(stage, f"spoiled_{harm}") as sites:
        ledger, table = await at_rest(sites)
        assert not await judge(PLAIN, sites, ledger)
        async with await at_site(sites["source"]) as conn:
            await conn.execute(statement.format(table, table).encode())
        [found] = await judge(PLAIN, sites, ledger)
        assert said in found
        assert table in found
        assert " at source" in found


async def test_a_row_of_somebody_who_lives_elsewhere_is_found(stage: Stage) -> None:
    async with databases(stage, "elsewhere") as sites:
        ledger, _ = await at_rest(sites)
        ledger.moved("target")
        found = await judge(PLAIN, sites, ledger)
        assert any("a member at target" in one and "a row is missing" in one for one in found)
        assert any("a member, who lives elsewhere, at source" in one and "a row too many" in one for one in found)
        assert all("elsewhere" not in one for one in await judge(PLAIN, sites, ledger, copies="source"))
