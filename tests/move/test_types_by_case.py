"""Texts of which equal values differ in bytes, by citext or by a collation: as unique values and as references."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import SitePair
from tests.move.places import SOURCE, TARGET, Place, execute, scalar
from tests.move.types_kit import MOVERS, place_of

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode, Plan, Question

# What makes equal what differs in case, and how a column gets it.
KINDS = {
    "citext": ((), "citext"),
    "collation": (
        ("create collation by_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",),
        "text collate by_case",
    ),
}
MAP = """
version: 1
dataset: types
subject: {table: app, key: id, market: subject.market}
tables:
  tier: {role: reference}
  app: {role: subject}
  odd: {role: owned, owner: OWNER}
"""
UNIQUE = ("alter table app add unique (name)", "alter table app drop constraint app_tier_fkey")
OWN = "public.{}: public.citext compares in its own way"
BY_ID, BY_NAME = "app -> app(id)", "name -> app(name)"
PEOPLE = """insert into app select n, case when n % 2 = 0 then 'IN' else 'CN' end, 'Ann ' || n, 'gold'
    from generate_series(1, 6) as n"""
ROWS = "insert into odd select n, n, 'ANN ' || n from generate_series(1, 6) as n"


async def place_by_case(
    pair: SitePair, state: Path, control: str, kind: str, *also: str, tier: str = "gold", owner: str = BY_ID
) -> Place:
    """People with a name and a tier; rows that refer to them by id, and say their name in another case."""
    before, text = KINDS[kind]
    schema = (
        *before,
        f"create table tier (code {text} primary key)",
        f"insert into tier values ('{tier}')",
        f"create table app (id int primary key, market text, name {text} not null, tier {text} references tier)",
        f"create table odd (id int primary key, app int not null, name {text} not null)",
        *also,
    )
    return await place_of(pair, state, MAP.replace("OWNER", owner), control, schema, (PEOPLE, ROWS))


async def planned(place: Place) -> Plan:
    return await commands.plan(place.workspace, Question("types", SOURCE, TARGET, where=MOVERS))


async def moved(place: Place, mode: Mode) -> str:
    plan = await planned(place)
    assert not plan.refusals_of(mode), plan.refusals_of(mode)
    now = await commands.apply(place.workspace, plan, mode=mode)
    assert now.status is Status.WAITING, [(w.error_code, w.error_message) for w in now.waves]
    assert (await commands.verify(place.workspace, now.move_id)).clean
    return now.move_id


@pytest.mark.parametrize("kind", KINDS)
async def test_a_unique_value(contrib_pair: SitePair, scratch: Path, tmp_path: Path, control: str, kind: str) -> None:
    place = await place_by_case(contrib_pair, scratch / f"state-{tmp_path.name}", control, kind, *UNIQUE)
    await moved(place, Mode.LIVE)
    texts = "select string_agg(name::text, '|' order by id) from app"
    assert await scalar(place.target, texts) == "Ann 2|Ann 4|Ann 6"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_unique_value_that_is_taken(
    contrib_pair: SitePair, scratch: Path, tmp_path: Path, control: str, kind: str
) -> None:
    """Which a plan need not see, because it compares hashes; the wave does."""
    place = await place_by_case(contrib_pair, scratch / f"state-{tmp_path.name}", control, kind, *UNIQUE)
    plan = await planned(place)
    await execute(place.target, "insert into app values (102, 'SG', 'ANN 2', null)")
    now = await commands.apply(place.workspace, plan, mode=Mode.LIVE)
    assert now.status is Status.FAILED
    assert now.waves[0].error_code == "keys-collide"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_reference_in_another_case(
    contrib_pair: SitePair, scratch: Path, tmp_path: Path, control: str, mode: Mode, kind: str
) -> None:
    """To a row that is at both sites: carried, or refused by name."""
    place = await place_by_case(contrib_pair, scratch / f"state-{tmp_path.name}", control, kind, tier="GOLD")
    if kind == "citext":
        assert OWN.format("app(tier) -> public.tier(code)") in [r.detail for r in (await planned(place)).refusals]
        return
    await moved(place, mode)
    assert await scalar(place.target, "select count(*) from app where tier = 'gOLD'") == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_an_owner_in_another_case(
    contrib_pair: SitePair, scratch: Path, tmp_path: Path, control: str, kind: str
) -> None:
    """Refused by name, or moved whole: a purge leaves nobody's rows behind. (A live move is refused.)"""
    place = await place_by_case(
        contrib_pair,
        scratch / f"state-{tmp_path.name}",
        control,
        kind,
        "alter table app add unique (name)",
        "alter table odd add foreign key (name) references app (name)",
        owner=BY_NAME,
    )
    if kind == "citext":
        (said,) = [r.detail for r in (await planned(place)).refusals if r.name == "references comparable"]
        assert OWN.format("odd(name) -> public.app(name)") in said
        return
    await commands.purge(place.workspace, await moved(place, Mode.COLD))
    assert await scalar(place.target, "select count(*) from odd") == 3
    assert await scalar(place.source, "select count(*) from odd") == 3
    assert await scalar(place.source, "select count(*) from odd where mod(app, 2) = 0") == 0
