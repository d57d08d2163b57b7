"""Plans on databases made by others: pagila and chinook, loaded unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import samples as sample
from tests.planner.planning import ask

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Limits, Plan
from domicile.model.site import DatasetName, SiteName
from domicile.planner import plan_file
from domicile.planner.build import build
from domicile.planner.request import PlanRequest
from domicile.sites.embedded import EmbeddedCluster


async def _plan(data_map: DataMap, source: str, target: str, where: str) -> Plan:
    return await build(
        PlanRequest(
            dataset=DatasetName("sample"),
            source=SiteName("beijing"),
            target=SiteName("singapore"),
            source_conninfo=source,
            target_conninfo=target,
            data_map=data_map,
            config_digest="c",
            made_at="2026-01-01T00:00:00+00:00",
            where=where,
            limits=Limits(wave_subjects_max=200),
        )
    )


async def test_pagila(site_clusters: tuple[EmbeddedCluster, EmbeddedCluster], samples: Path) -> None:
    assert samples
    source = sample.load_pagila(site_clusters[0].conninfo("postgres"))
    target = sample.load_pagila_elsewhere(site_clusters[1].conninfo("postgres"))
    india = await _plan(sample.pagila_map(), source, target, "market = 'India'")
    assert india.refusals == ()
    assert india.cohort.size == 60
    rows = {t.table.name: t.rows for t in india.tables}
    assert rows["customer"] == rows["address"] == 60
    customers = """select customer_id from customer join address using (address_id) join city using (city_id)
        join country using (country_id) where country = 'India'"""
    for table in ("rental", "payment"):
        assert ask(source, f"select count(*) from {table} where customer_id in ({customers})") == [(rows[table],)]

    abroad = await _plan(sample.pagila_map(), source, target, "market <> 'China'")
    assert abroad.refusals == ()
    assert abroad.cohort.size == 599 - 53
    assert [w.subjects for w in abroad.waves] == [5, 200, 200, 141]
    assert plan_file.load(plan_file.dump(abroad)) == abroad
    with pytest.raises(DomicileError) as nobody:
        await _plan(sample.pagila_map(), source, target, "market = 'india'")
    assert nobody.value.code is ErrorCode.COHORT_EMPTY
    assert "India 60" in nobody.value.hint


async def test_chinook(pg18: EmbeddedCluster, samples: Path) -> None:
    assert samples
    source = sample.load_chinook(pg18.conninfo("postgres"))
    target = sample.load_chinook_elsewhere(pg18.conninfo("postgres"))
    plan = await _plan(sample.chinook_map(), source, target, "country in ('India', 'Brazil')")
    assert plan.refusals == ()
    assert plan.cohort.size == 7
    assert plan.rows > 7


async def test_a_target_with_the_same_users_is_refused(pg18: EmbeddedCluster, samples: Path) -> None:
    assert samples
    source = sample.load_chinook(pg18.conninfo("postgres"))
    target = sample.load_chinook(pg18.conninfo("postgres"))
    plan = await _plan(sample.chinook_map(), source, target, "country = 'India'")
    [refusal] = plan.refusals
    assert refusal.code == ErrorCode.KEYS_COLLIDE
    assert "public.customer" in refusal.detail
    assert "public.invoice_line" in refusal.detail
