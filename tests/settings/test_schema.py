"""The JSON Schema for editors is current, valid, and agrees with what the program accepts."""

from __future__ import annotations

from dataclasses import asdict
import json
from pathlib import Path

from jsonschema import Draft202012Validator
import pytest
from tests.settings.test_load import GOOD
import yaml

from domicile.model.plan import Limits
from domicile.settings import json_schema_text, load
from domicile.settings.file import LimitsEntry

ROOT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = ROOT / "src" / "domicile" / "settings" / "template.yaml"
EXAMPLE = ROOT / "examples" / "domicile.yaml"


def test_the_committed_schema_is_current() -> None:
    committed = (ROOT / "schemas" / "domicile.schema.json").read_text(encoding="utf-8")
    assert committed == json_schema_text(), "write it again: domicile init --force, and copy domicile.schema.json"


def test_the_schema_is_valid_and_describes_every_key() -> None:
    schema = json.loads(json_schema_text())
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        assert all("description" in p or "$ref" in p for p in part["properties"].values()), part


@pytest.mark.parametrize("path", [TEMPLATE, EXAMPLE], ids=lambda p: p.name)
def test_template_and_example_are_accepted_by_both(path: Path) -> None:
    validator = Draft202012Validator(json.loads(json_schema_text()))
    validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    workspace = load(path, {"SINGAPORE_PASSWORD": "x"})
    assert workspace.limits == Limits(), "the template shows the defaults"


def test_template_and_example_say_the_same() -> None:
    tails = [path.read_text(encoding="utf-8").split("\n", 1)[1] for path in (TEMPLATE, EXAMPLE)]
    assert tails[0] == tails[1]


def test_the_schema_refuses_what_the_program_refuses() -> None:
    validator = Draft202012Validator(json.loads(json_schema_text()))
    good = yaml.safe_load(GOOD)
    assert validator.is_valid(good)
    for change in (
        {"version": 2},
        {"sites": {}},
        {"limits": {"streams": 0}},
        {"unknown": 1},
        {"control": 5},
        {"sites": {"A b": good["sites"]["beijing"]}},
    ):
        assert not validator.is_valid({**good, **change}), change


def test_limits_are_those_of_the_model() -> None:
    assert LimitsEntry().model_dump() == asdict(Limits())
