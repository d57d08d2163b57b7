"""The plan as a file: it comes back unchanged, or not at all."""

from __future__ import annotations

from dataclasses import replace
import json
from typing import Any

import pytest

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import Check, Cohort, Format, Limits, Plan, TablePlan, WavePlan
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, SiteName
from domicile.planner import plan_file

TABLE = TableName("public", 'Odd "name"')
PLAN = plan_file.seal(
    Plan(
        version=1,
        dataset=DatasetName("shop"),
        source=SiteName("beijing"),
        target=SiteName("singapore"),
        cohort=Cohort("market = '台灣'", "", 3, "ab" * 32),
        tables=(TablePlan(TABLE, ("id", "Größe"), 3, 120, Format.TEXT, "why"),),
        waves=(WavePlan(1, 0, 1, 1, 1, 40, 1.5), WavePlan(2, 1, 3, 2, 2, 80, 1.75)),
        checks=(Check("map complete", True, "all"), Check("disk", False, "full", "make room")),
        limits=Limits(),
        config_digest="c",
        map_digest="m",
        source_schema_digest="s",
        target_schema_digest="t",
        estimate_basis="measured",
        made_at="2026-01-01T00:00:00+00:00",
    )
)


def test_it_comes_back_unchanged() -> None:
    text = plan_file.dump(PLAN)
    assert plan_file.load(text) == PLAN
    assert plan_file.dump(plan_file.load(text)) == text
    assert "台灣" in text


def _changed(**changes: Any) -> str:
    return json.dumps(json.loads(plan_file.dump(PLAN)) | changes)


def _resealed(plan: Plan) -> str:
    return plan_file.dump(plan_file.seal(plan))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "the file: expected an object"),
        (_changed(version=2), "version 2 of the format"),
        (_changed(target="oregon"), "the digest does not match"),
        (_changed(extra=1), "extra is not a field"),
        (_changed(dataset=1), "dataset: expected a text"),
        (_changed(tables=5), "tables: expected a list"),
        (_changed(tables=[5]), "tables[0]: expected an object"),
        (_changed(waves=[{"no": 1}]), "waves[0]"),
        (_changed(limits={**json.loads(plan_file.dump(PLAN))["limits"], "streams": True}), "limits.streams"),
        (plan_file.dump(PLAN).replace('"waves"', '"wave"'), "waves is missing"),
        (_resealed(replace(PLAN, waves=PLAN.waves[1:])), "wave 2 does not continue"),
        (_resealed(replace(PLAN, waves=PLAN.waves[:1])), "the waves hold 1 subjects, the cohort 3"),
    ],
)
def test_anything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(DomicileError) as caught:
        plan_file.load(text)
    assert caught.value.code is ErrorCode.PLAN_INVALID
    assert said in caught.value.message
    assert caught.value.hint


def test_names_and_formats_are_checked() -> None:
    table = json.loads(plan_file.dump(PLAN))["tables"][0]
    for change in ({"format": "xml"}, {"table": "a.b.c"}):
        with pytest.raises(DomicileError, match="is not known here"):
            plan_file.load(_changed(tables=[table | change]))


def test_every_field_is_under_the_digest() -> None:
    for name, value in json.loads(plan_file.dump(PLAN)).items():
        if name in ("digest", "version"):
            continue
        other = {str: "x", int: 7, list: [], dict: value}[type(value)]
        match name:
            case "cohort":
                other = value | {"size": 4}
            case "limits":
                other = value | {"streams": 9}
            case "way_back":
                other = "none"
            case "sign_ups":
                other = "accept"
        with pytest.raises(DomicileError, match="digest does not match"):
            plan_file.load(_changed(**{name: other}))
