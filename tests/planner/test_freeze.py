"""The cohort is written down once, as planned, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

import pytest
from tests.planner.planning import Shop, ask, run, shop_map

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Limits, Plan
from domicile.model.site import MoveId
from domicile.planner import plan_file
from domicile.planner.freeze import freeze
from domicile.postgres.connect import SESSION, connect

SITE = resources.files("domicile.postgres").joinpath("sql/site.sql").read_text().replace("{subject_type}", "text")
MOVE = MoveId("m1")


@pytest.fixture
def registered(shop: Shop) -> Shop:
    """The source knows of moves m1 and m2 already."""
    run(shop.source, SITE)
    for move in ("m1", "m2"):
        run(shop.source, f"insert into domicile.move values ('{move}', 'shop', 'beijing', 'source', 'singapore')")
    return shop


async def _freeze(shop: Shop, plan: Plan, move: MoveId = MOVE, subjects: Sequence[str] | None = None) -> int:
    async with await connect(shop.source, settings=SESSION) as conn:
        return await freeze(conn, plan, shop_map(), move, subjects=subjects)


async def _refused(shop: Shop, plan: Plan, move: MoveId = MOVE, subjects: Sequence[str] | None = None) -> DomicileError:
    with pytest.raises(DomicileError) as caught:
        await _freeze(shop, plan, move, subjects)
    assert ask(shop.source, f"select count(*) from domicile.wave where move_id = '{move}'") == [(0,)]
    return caught.value


async def test_members_are_those_of_the_plan_in_key_order(registered: Shop) -> None:
    plan = plan_file.load(plan_file.dump(await registered.plan(limits=Limits(wave_subjects_max=40))))
    assert await _freeze(registered, plan) == 100
    assert await _freeze(registered, plan) == 100, "a second time finds it done"
    waves = ask(
        registered.source,
        """select w.no, w.mark, w.home, w.epoch, count(*), min(ordinal), max(ordinal), count(distinct ordinal)
        from domicile.wave as w join domicile.member as m on m.wave = w.id group by w.id order by no""",
    )
    assert waves == [(w.no, "open", "beijing", 0, w.subjects, 1, w.subjects, w.subjects) for w in plan.waves]
    frozen = ask(
        registered.source,
        "select subject from domicile.member as m join domicile.wave as w on w.id = m.wave order by w.no, ordinal",
    )
    assert frozen == ask(registered.source, """select "User Id" from "Shop"."User" where country = 'IN' order by 1""")


async def test_two_moves_cannot_take_the_same_subject(registered: Shop) -> None:
    plans = [await registered.plan(), await registered.plan(where="country <> 'CN'")]
    both = (_freeze(registered, plan, MoveId(f"m{n}")) for n, plan in enumerate(plans, start=1))
    first, second = await asyncio.gather(*both, return_exceptions=True)
    refused = first if isinstance(first, BaseException) else second
    assert isinstance(refused, DomicileError)
    assert refused.code is ErrorCode.COHORT_RESERVED
    assert ask(registered.source, "select count(distinct subject) = count(*) from domicile.member") == [(True,)]


@pytest.mark.parametrize(
    "change",
    [
        """delete from "Shop"."User" where "User Id" = 'u0001'""",
        """insert into "Shop"."User" values ('late', 'IN')""",
        """update "Shop"."User" set country = case country when 'IN' then 'SG' else 'IN' end where country <> 'CN'""",
    ],
)
async def test_another_cohort_makes_the_plan_stale(registered: Shop, change: str) -> None:
    plan = await registered.plan()
    run(registered.source, "set session_replication_role = replica; " + change)  # without foreign keys
    error = await _refused(registered, plan)
    assert error.code is ErrorCode.PLAN_STALE
    assert "source serves everybody" in error.safe


async def test_a_condition_slipped_into_the_file_cannot_write(registered: Shop) -> None:
    plan = await registered.plan()
    sly = plan_file.seal(replace(plan, cohort=replace(plan.cohort, where='true); drop table "Shop".line; --')))
    assert (await _refused(registered, sly)).code is ErrorCode.CONDITION_INVALID
    run(registered.source, "create function evil() returns boolean stable language sql as 'select true'")
    waiting = plan_file.seal(replace(plan, cohort=replace(plan.cohort, where="evil()")))
    run(
        registered.source,
        """create function deed() returns void language sql as 'delete from "Shop".line';
        create or replace function evil() returns boolean stable language plpgsql as
        'begin perform public.deed(); return true; end'""",
    )
    assert (await _refused(registered, waiting)).code is ErrorCode.CONDITION_INVALID
    assert ask(registered.source, 'select count(*) > 0 from "Shop".line') == [(True,)]


async def test_a_file_of_subjects_is_read_again(registered: Shop) -> None:
    plan = await registered.plan(where="", subjects=["u0002", "u0001"], subjects_file="who.txt")
    error = await _refused(registered, plan, subjects=["u0001", "u0003"])
    assert error.code is ErrorCode.PLAN_STALE
    assert await _freeze(registered, plan, subjects=["u0001", "u0002"]) == 2


async def test_somebody_who_is_part_of_another_move(registered: Shop) -> None:
    await _freeze(registered, await registered.plan(where="\"User Id\" = 'u0001'"))
    plan_two = "\"User Id\" in ('u0001', 'u0002')"
    error = await registered.refusal(where=plan_two)
    assert error.code is ErrorCode.COHORT_RESERVED
    assert error.facts == {"subjects": 1}
    for mark, epoch, code in (
        ("fenced", 1, ErrorCode.COHORT_RESERVED),
        ("arriving", 1, ErrorCode.COHORT_RESERVED),
        ("departed", 1, ErrorCode.COHORT_DEPARTED),
    ):
        run(registered.source, f"update domicile.wave set mark = '{mark}', epoch = {epoch}")
        error = await registered.refusal(where=plan_two)
        assert error.code is code
        assert "u0001" not in str(error.as_dict())
    run(registered.source, "update domicile.wave set mark = 'resident'")
    plan = await registered.plan(where=plan_two)
    assert plan.cohort.size == 2
    run(registered.source, "update domicile.wave set mark = 'departed'")
    assert (await _refused(registered, plan, MoveId("m2"))).code is ErrorCode.COHORT_DEPARTED


async def test_who_came_back_may_leave_again(registered: Shop) -> None:
    await _freeze(registered, await registered.plan(where="\"User Id\" = 'u0001'"))
    run(
        registered.source,
        """update domicile.wave set mark = 'departed', epoch = 1;
        insert into domicile.wave (move_id, no, mark, home, epoch) values ('m2', 1, 'resident', 'beijing', 2);
        insert into domicile.member select max(id), 1, 'u0001' from domicile.wave""",
    )
    assert (await registered.plan(where="\"User Id\" = 'u0001'")).cohort.size == 1
