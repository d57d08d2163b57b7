"""Who moves: conditions and files of subjects, good and bad."""

from __future__ import annotations

from dataclasses import replace
import hashlib

import pytest
from tests.planner.planning import RENAME, Shop, ask, keyed_by_market, run, shop_map

from domicile.model.errors import ErrorCode
from domicile.model.plan import Limits


async def test_cohort_counts_and_digest(shop: Shop) -> None:
    plan = await shop.plan(limits=Limits(wave_subjects_max=30))
    assert plan.refusals == ()
    keys = [k for (k,) in ask(shop.source, 'select "User Id" from "Shop"."User" where country = \'IN\'')]
    expected = hashlib.sha256("".join(f"{k}\n" for k in sorted(keys, key=str.encode)).encode()).hexdigest()
    assert plan.cohort.digest == expected
    assert plan.cohort.size == len(keys) == 100
    orders = ask(
        shop.source,
        'select count(*) from "Shop"."order" join "Shop"."User" using ("User Id") where country = \'IN\'',
    )[0][0]
    assert {t.table.name: t.rows for t in plan.tables} == {
        "User": 100,
        "order": orders,
        "line": 2 * orders,
        "note": 0,
    }
    assert sum(w.rows for w in plan.waves) == plan.rows == 100 + 3 * orders
    assert sum(w.bytes for w in plan.waves) == pytest.approx(plan.bytes, rel=0.01)
    assert [w.subjects for w in plan.waves] == [1, 30, 30, 30, 9]


async def test_bytes_are_about_what_copy_sends(shop: Shop) -> None:
    plan = await shop.plan()
    [line] = [t for t in plan.tables if t.table.name == "line"]
    assert line.bytes / line.rows == pytest.approx(2 + 3 * 4 + 8 + 4 + len("thing"))


async def test_planning_changes_nothing(shop: Shop) -> None:
    relations = "select oid, relname, relfilenode from pg_class where relpersistence <> 't' order by 1"
    before = [ask(s, relations) for s in (shop.source, shop.target)]
    first, second = await shop.plan(), await shop.plan()
    # The free disk space that a check names may differ from one moment to the next.
    assert replace(first, checks=(), digest="") == replace(second, checks=(), digest="")
    assert [ask(s, relations) for s in (shop.source, shop.target)] == before


@pytest.mark.parametrize(
    "where",
    [
        "market = 'IN'",
        "country = 'IN' -- a comment",
        "subject.country = 'IN'",
        "market in ('IN') and born % 100 >= 0",
        "exists (select from plan_kind where code = 'basic') and market = 'IN'",
        "tag = 'new' and market like 'I%'",
        "(market = 'IN') and (born > 0)",
    ],
)
async def test_conditions(still_shop: Shop, where: str) -> None:
    assert (await still_shop.plan(where=where)).cohort.size == 100


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("market == 'IN'", "operator does not exist: text == unknown (character 8)"),
        ("market =", "(at its end)"),
        ("nobody = 1", 'column "nobody" does not exist (character 1)'),
        ("born", "must be type boolean"),
        ("true) or (true", 'syntax error at or near ")" (character 5)'),
        ('true; drop table "Shop".line', 'syntax error at or near ";" (character 5)'),
        ('true); drop table "Shop".line; select (true', "cannot insert multiple commands"),
        ('true)); drop table "Shop".line --', "syntax error"),
        ("select true", "syntax error"),
        ('select true from "Shop".line', "syntax error"),
        ('delete from "Shop".line', "syntax error"),
        ("/* true", "unterminated /* comment"),
        ("market = 'IN", "unterminated quoted string"),
        ("market = $1", "there is no parameter $1"),
        ("count(*) > 1", "aggregate functions are not allowed"),
        ("random() < 0.5", "calls random"),
        ("market = 'IN' and pg_terminate_backend(1)", "calls pg_terminate_backend"),
        ("exists (select setval('\"Shop\".order_id_seq', 1))", "calls setval"),
        ("born / (born - born) = 1", "DivisionByZero (SQLSTATE 22012)"),
        ('"User Id"::integer = 5', "InvalidTextRepresentation (SQLSTATE 22P02)"),
        ("true\0", "NUL"),
        ("  ", "it is empty"),
        ("", "it is empty"),
    ],
)
async def test_conditions_refused(still_shop: Shop, where: str, said: str) -> None:
    error = await still_shop.refusal(where=where)
    assert error.code is ErrorCode.CONDITION_INVALID
    assert said in error.message
    assert "u0001" not in str(error.as_dict()), "a value of a row is nobody's business"
    assert ask(still_shop.source, 'select count(*) > 0 from "Shop".line') == [(True,)]


async def test_a_stable_function_that_writes_is_stopped(shop: Shop) -> None:
    run(
        shop.source,
        """create function "Shop".deed() returns void language sql as 'delete from "Shop".line';
        create function "Shop".sly() returns boolean stable language plpgsql as $$
        begin perform "Shop".deed(); return true; end $$""",
    )
    error = await shop.refusal(where="sly()")
    assert error.code is ErrorCode.CONDITION_INVALID
    assert "it tries to change data" in error.message


async def test_nobody(shop: Shop) -> None:
    error = await shop.refusal(where="market = 'XX'")
    assert error.code is ErrorCode.COHORT_EMPTY
    assert error.facts == {"subjects": 300, "markets": {"CN": 100, "IN": 100, "SG": 100}}
    assert "CN 100" in error.hint


async def test_a_file_of_subjects(shop: Shop) -> None:
    plan = await shop.plan(where="", subjects=["u0001", "", " u0002 ", "u0001"], subjects_file="who.txt")
    assert (plan.cohort.size, plan.cohort.where, plan.cohort.subjects_file) == (2, "", "who.txt")
    assert plan.cohort.digest == hashlib.sha256(b"u0001\nu0002\n").hexdigest()
    error = await shop.refusal(where="", subjects=["u0001", "", "gone", "u0002", "it's"], subjects_file="who.txt")
    assert error.code is ErrorCode.CONDITION_INVALID
    assert "lines 3, 5" in error.message
    assert error.facts == {"unknown": 2, "lines": [3, 5]}
    assert "gone" not in str(error.as_dict())
    empty = await shop.refusal(where="", subjects=["", " "], subjects_file="who.txt")
    assert empty.code is ErrorCode.COHORT_EMPTY


async def test_a_wrong_market_expression_is_the_maps_fault(shop: Shop) -> None:
    data_map = shop_map()
    wrong = replace(data_map, subject=replace(data_map.subject, market="subject.nothing"))
    error = await shop.refusal(data_map=wrong)
    assert error.code is ErrorCode.MAP_INVALID
    assert "market expression" in error.message


async def test_a_column_called_market_yields_to_the_maps_expression(shop: Shop) -> None:
    """Of another type, of another meaning: the condition speaks of the map's market, with or without the alias."""
    for site in (shop.source, shop.target):
        run(site, 'alter table "Shop"."User" add market integer')
    for where in ("market = 'IN'", "subject.market = 'IN' and subject.country = 'IN'"):
        assert (await shop.plan(where=where)).cohort.size == 100
    run(shop.source, """alter table "Shop"."User" alter market type text using 'IN'""")
    run(shop.target, """alter table "Shop"."User" alter market type text using 'IN'""")
    assert (await shop.plan()).cohort.size == 100
    plain = shop_map()
    plain = replace(plain, subject=replace(plain.subject, market=""))
    assert (await shop.plan(data_map=plain)).cohort.size == 300, "of a map without one it is the column"


async def test_a_key_called_market_stays_the_key(shop: Shop) -> None:
    """It is hidden from the condition, and from nobody else: who moves, and in which order, is said by the key."""
    expected = (await shop.plan()).cohort
    for site in (shop.source, shop.target):
        run(site, RENAME)
    plan = await shop.plan(data_map=keyed_by_market())
    assert (plan.cohort.size, plan.cohort.digest) == (expected.size, expected.digest)
    empty = await shop.refusal(data_map=keyed_by_market(), where="market = 'XX'")
    assert empty.facts == {"subjects": 300, "markets": {"CN": 100, "IN": 100, "SG": 100}}
