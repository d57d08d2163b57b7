"""Whoever joins the cohort after it was frozen is found; whoever belongs to somebody else is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from psycopg import sql
import pytest
from tests.planner.planning import RENAME, Shop, ask, keyed_by_market, run, shop_map

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Limits, Plan, SignUps
from domicile.model.report import LEFT
from domicile.model.site import MoveId
from domicile.planner.freeze import freeze
from domicile.planner.sweep import sweep
from domicile.postgres import conditions
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.ownership import ident

SITE = resources.files("domicile.postgres").joinpath("sql/site.sql").read_text().replace("{subject_type}", "text")
MOVE = MoveId("m1")
GENERATION = 3
JOIN = """
    insert into "Shop"."User" values ('zoe', 'IN'), ('adam', 'IN'), ('eve', 'CN');
    update "Shop"."User" set country = 'IN' where "User Id" = 'u0003'"""  # one of China


@pytest.fixture
async def frozen(shop: Shop) -> Shop:
    """Move m1 of India has begun; m2 is known."""
    run(shop.source, SITE)
    for move in ("m1", "m2"):
        run(
            shop.source,
            f"insert into domicile.move values ('{move}', 'shop', 'beijing', 'source', 'singapore', {GENERATION})",
        )
    await _freeze(shop, await shop.plan())
    return shop


async def _freeze(shop: Shop, plan: Plan, subjects: Sequence[str] | None = None) -> None:
    async with await connect(shop.source, settings=SESSION) as conn:
        await freeze(conn, plan, shop_map(), MOVE, subjects=subjects)


async def _sweep(shop: Shop, no: int, *, generation: int = GENERATION, limits: Limits | None = None) -> int:
    # The condition is the source's own to know: this plan says nothing of India.
    plan = await shop.plan(where="market = 'SG'", limits=limits or Limits())
    async with await connect(shop.source, settings=SESSION) as conn:
        return await sweep(conn, plan, shop_map(), MOVE, no, generation)


def _wave(shop: Shop, no: int) -> list[tuple[object, ...]]:
    return ask(
        shop.source,
        f"""select m.ordinal, m.subject, w.mark, w.home, w.epoch from domicile.wave as w
        join domicile.member as m on m.wave = w.id where w.move_id = 'm1' and w.no = {no} order by 1""",
    )


async def test_nobody_is_nobody(frozen: Shop) -> None:
    assert await _sweep(frozen, 9) == 0
    assert ask(frozen.source, "select count(*) from domicile.wave where no = 9") == [(0,)]


async def test_late_joiners_form_one_more_wave_in_key_order(frozen: Shop) -> None:
    run(frozen.source, JOIN)
    assert await _sweep(frozen, 9) == 3
    expected = [(n, key, "open", "beijing", 0) for n, key in enumerate(("adam", "u0003", "zoe"), start=1)]
    assert _wave(frozen, 9) == expected
    run(frozen.source, """insert into "Shop"."User" values ('later', 'IN')""")
    assert await _sweep(frozen, 9) == 3, "a wave that is registered is left as it is"
    assert _wave(frozen, 9) == expected
    assert await _sweep(frozen, 10) == 1
    assert await _sweep(frozen, 11) == 0


async def test_a_sweep_takes_one_wave_s_worth(frozen: Shop) -> None:
    run(frozen.source, """insert into "Shop"."User" select 'new' || n, 'IN' from generate_series(1, 5) as n""")
    few = Limits(wave_subjects_max=2)
    assert [await _sweep(frozen, no, limits=few) for no in (9, 10, 11, 12)] == [2, 2, 1, 0]
    assert ask(frozen.source, "select count(*) = count(distinct subject) from domicile.member") == [(True,)]


@pytest.mark.parametrize(
    ("mark", "epoch", "swept"),
    [("open", 0, 2), ("fenced", 1, 2), ("closing", 0, 2), ("arriving", 1, 2), ("departed", 1, 2), ("resident", 1, 3)],
)
async def test_who_belongs_to_another_move_is_left_to_it(frozen: Shop, mark: str, epoch: int, swept: int) -> None:
    run(frozen.source, JOIN)
    run(
        frozen.source,
        f"""insert into domicile.wave (move_id, no, mark, home, epoch) values ('m2', 1, '{mark}', 'x', {epoch});
        insert into domicile.member select max(id), 1, 'zoe' from domicile.wave""",
    )
    assert await _sweep(frozen, 9) == swept


async def test_who_came_back_may_be_swept(frozen: Shop) -> None:
    run(frozen.source, JOIN)
    run(
        frozen.source,
        """insert into domicile.wave (move_id, no, mark, home, epoch)
        values ('m2', 1, 'departed', 'x', 1), ('m2', 2, 'resident', 'beijing', 2);
        insert into domicile.member select id, 1, 'zoe' from domicile.wave where move_id = 'm2'""",
    )
    assert await _sweep(frozen, 9) == 3


@pytest.mark.parametrize(("reason", "swept"), [(LEFT, 1), ("a discrepancy that stayed", 0)])
async def test_of_the_ejected_only_those_who_had_left(frozen: Shop, reason: str, swept: int) -> None:
    run(
        frozen.source,
        f"""insert into domicile.ejected (wave, ordinal, subject, reason)
        select wave, ordinal, subject, '{reason}' from domicile.member where subject = 'u0001';
        delete from domicile.member where subject = 'u0001'""",
    )
    assert await _sweep(frozen, 9) == swept


async def test_another_process_that_took_over_is_not_disturbed(frozen: Shop) -> None:
    run(frozen.source, JOIN)
    with pytest.raises(DomicileError) as caught:
        await _sweep(frozen, 9, generation=GENERATION - 1)
    assert caught.value.code is ErrorCode.LEASE_LOST
    assert _wave(frozen, 9) == []


async def test_a_condition_that_cannot_be_used_any_more(frozen: Shop) -> None:
    run(frozen.source, JOIN + "; update domicile.move set condition = 'gone(market)'")
    with pytest.raises(DomicileError) as caught:
        await _sweep(frozen, 9)
    assert caught.value.code is ErrorCode.CONDITION_INVALID
    run(frozen.source, """update domicile.move set condition = '1 / (born - born) = 1 and market = ''IN'''""")
    with pytest.raises(DomicileError) as caught:
        await _sweep(frozen, 9)
    assert caught.value.code is ErrorCode.CONDITION_INVALID
    assert _wave(frozen, 9) == []


@pytest.mark.parametrize(
    ("where", "asked", "sign_ups"),
    [
        ("market = 'IN'", SignUps.REFUSE, "refuse"),
        ("market like 'I%' and \"User Id\" <> '{}'", SignUps.REFUSE, "refuse"),
        ("market = 'IN' -- those", SignUps.ACCEPT, "accept"),
    ],
)
async def test_the_source_keeps_the_condition(shop: Shop, where: str, asked: SignUps, sign_ups: str) -> None:
    run(shop.source, SITE)
    run(shop.source, f"insert into domicile.move values ('m1', 'shop', 'a', 'source', 'b', {GENERATION})")
    await _freeze(shop, await shop.plan(where=where, sign_ups=asked))
    async with await connect(shop.source, settings=SESSION) as conn:
        assert await conditions.kept(conn, "m1") == where
    assert ask(shop.source, "select sign_ups from domicile.move") == [(sign_ups,)]
    run(shop.source, JOIN)
    assert await _sweep(shop, 9) == 3, "whatever was said to sign-ups"


async def test_a_cohort_given_by_a_file_is_not_swept_and_refuses_nobody(shop: Shop) -> None:
    run(shop.source, SITE)
    run(shop.source, f"insert into domicile.move values ('m1', 'shop', 'a', 'source', 'b', {GENERATION})")
    subjects = ["u0001", "u0004"]
    await _freeze(shop, await shop.plan(where="", subjects=subjects, subjects_file="who.txt"), subjects)
    assert ask(shop.source, "select condition, sign_ups from domicile.move") == [("", "accept")]
    run(shop.source, JOIN)
    assert await _sweep(shop, 9) == 0


async def test_of_a_key_called_market_joiners_and_who_fits_are_told_by_the_key(frozen: Shop) -> None:
    plan, data_map = await frozen.plan(where="market = 'SG'"), keyed_by_market()
    taken = 'alter table "Shop"."User" add domicile_key text'
    run(frozen.source, f"{RENAME}; {taken}; " + JOIN.replace('"User Id"', "market"))
    async with await connect(frozen.source, settings=SESSION) as conn:
        assert await sweep(conn, plan, data_map, MOVE, 9, GENERATION) == 3
        columns = await conditions.columns_of(conn, data_map.subject.table)
        fits = conditions.fits(
            data_map.subject, columns, "market = 'IN'", ident(data_map.subject.table), sql.SQL("m.subject")
        )
        counted = sql.SQL("select count(*) filter (where {}), count(*) from domicile.member as m").format(fits)
        assert await (await conn.execute(counted)).fetchall() == [(103, 103)]
        run(frozen.source, """update "Shop"."User" set country = 'SG' where market = 'adam'""")
        assert await (await conn.execute(counted)).fetchall() == [(102, 103)]
    assert [subject for _, subject, *_ in _wave(frozen, 9)] == ["adam", "u0003", "zoe"]
