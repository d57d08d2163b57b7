"""Schemas nobody here designed: pagila and chinook, loaded unchanged, moved by country."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.move.places import SOURCE, TARGET, Place, Rows, every_row, execute, scalar, together, workspace_for
from tests.samples import EXAMPLES, load_chinook, load_chinook_elsewhere, load_pagila, load_pagila_elsewhere

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question
from domicile.sites.embedded import EmbeddedCluster

_OF_CHINA = """
    from customer join address using (address_id) join city using (city_id) join country using (country_id)
    where country = 'China'"""
CHINESE = "select count(*)" + _OF_CHINA
NOT_CHINESE = CHINESE.replace("country = 'China'", "country <> 'China'")
INDIAN = CHINESE.replace("China", "India")
CHINESE_ROWS = {
    "customer": "select md5(string_agg(customer::text, '|' order by customer_id))" + _OF_CHINA,
    "address": "select md5(string_agg(address::text, '|' order by address_id))" + _OF_CHINA,
    "payment": "select md5(string_agg(payment::text, '|' order by payment_id)) from payment "
    "where customer_id in (select customer_id" + _OF_CHINA + ")",
    "rental": "select md5(string_agg(rental::text, '|' order by rental_id)) from rental "
    "where customer_id in (select customer_id" + _OF_CHINA + ")",
}
PAGILA_IN_SCOPE = {"public.customer", "public.address", "public.rental", "public.payment"}
CHINOOK_IN_SCOPE = {"public.customer", "public.invoice", "public.invoice_line"}


@pytest.fixture
def pagila(
    site_clusters: tuple[EmbeddedCluster, EmbeddedCluster], scratch: Path, tmp_path: Path, control: str
) -> Place:
    source = load_pagila(site_clusters[0].conninfo())
    target = load_pagila_elsewhere(site_clusters[1].conninfo())
    state = scratch / f"state-{tmp_path.name}"
    workspace = workspace_for(state, "pagila", EXAMPLES / "pagila.map.yaml", (source, target), control)
    return Place(workspace, source, target, "pagila")


@pytest.fixture
def chinook(
    site_clusters: tuple[EmbeddedCluster, EmbeddedCluster], scratch: Path, tmp_path: Path, control: str
) -> Place:
    source = load_chinook(site_clusters[0].conninfo())
    target = load_chinook_elsewhere(site_clusters[1].conninfo())
    state = scratch / f"state-{tmp_path.name}"
    workspace = workspace_for(state, "chinook", EXAMPLES / "chinook.map.yaml", (source, target), control)
    return Place(workspace, source, target, "chinook")


async def move(place: Place, where: str, mode: Mode = Mode.LIVE) -> None:
    """Plan, apply, verify, purge."""
    plan = await commands.plan(place.workspace, Question(place.dataset, SOURCE, TARGET, where=where))
    assert not plan.refusals_of(mode), plan.refusals_of(mode)
    moved = await commands.apply(place.workspace, plan, mode=mode)
    assert moved.status is Status.WAITING, [(w.no, w.error_message) for w in moved.waves]
    assert (await commands.verify(place.workspace, moved.move_id)).clean
    purged = await commands.purge(place.workspace, moved.move_id)
    assert purged.rows == plan.rows
    assert purged.left_at_source == 0


async def chinese(place: Place) -> dict[str, object]:
    """What the rows of China's customers are, byte for byte."""
    return {table: await scalar(place.source, query) for table, query in CHINESE_ROWS.items()}


def others(rows: Rows, in_scope: set[str]) -> dict[str, Counter[str]]:
    return {t: c for t, c in rows.items() if t not in in_scope}


async def test_pagila_india_first_then_everybody_outside_china(pagila: Place) -> None:
    before_source, before_target = await every_row(pagila.source), await every_row(pagila.target)
    mainland = await chinese(pagila)
    assert await scalar(pagila.source, INDIAN) == 60

    await move(pagila, "market = 'India'", Mode.COLD)
    assert await scalar(pagila.source, INDIAN) == 0
    assert await scalar(pagila.target, INDIAN + " and customer_id < 900000") == 60

    await move(pagila, "market <> 'China'", Mode.COLD)
    assert await scalar(pagila.source, NOT_CHINESE) == 0
    assert await scalar(pagila.source, CHINESE) == 53
    assert await scalar(pagila.target, CHINESE + " and customer_id < 900000") == 0
    assert await chinese(pagila) == mainland

    after_source, after_target = await every_row(pagila.source), await every_row(pagila.target)
    assert together(after_source, after_target, PAGILA_IN_SCOPE) == together(
        before_source, before_target, PAGILA_IN_SCOPE
    )
    assert others(after_source, PAGILA_IN_SCOPE) == others(before_source, PAGILA_IN_SCOPE)
    assert others(after_target, PAGILA_IN_SCOPE) == others(before_target, PAGILA_IN_SCOPE)


@pytest.mark.campaign
async def test_pagila_inserts_go_on_at_the_target(pagila: Place) -> None:
    """The target's sequences are past what arrived."""
    await move(pagila, "market = 'India'", Mode.COLD)
    await execute(
        pagila.target,
        """insert into customer (store_id, first_name, last_name, address_id) select 1, 'n', 'n', 900001
           from generate_series(1, 700)""",
        """insert into payment (customer_id, staff_id, rental_id, amount, payment_date)
           select customer_id, staff_id, rental_id, 1, '2022-07-01' from rental limit 20000""",
    )


@pytest.mark.campaign
async def test_chinook_by_country(chinook: Place) -> None:
    before_source, before_target = await every_row(chinook.source), await every_row(chinook.target)
    for where in ("country = 'India'", "country in ('Brazil', 'Germany')", "country not in ('USA', 'Canada')"):
        await move(chinook, where)
    assert await scalar(chinook.source, "select array_agg(distinct country order by country) from customer") == [
        "Canada",
        "USA",
    ]
    after_source, after_target = await every_row(chinook.source), await every_row(chinook.target)
    assert together(after_source, after_target, CHINOOK_IN_SCOPE) == together(
        before_source, before_target, CHINOOK_IN_SCOPE
    )
    assert others(after_source, CHINOOK_IN_SCOPE) == others(before_source, CHINOOK_IN_SCOPE)
