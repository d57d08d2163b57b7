"""A data map as a file of fideslang datasets: one dataset for each schema, a collection for each table.

What fideslang has no word for (roles, policies, owner paths, the subject) stands under ``meta`` of the first dataset,
so that `survey.fides` makes the same map of it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import re
from typing import Any

import yaml

from domicile.model.categories import NOT_PERSONAL, OWN
from domicile.model.datamap import DataMap, OwnerStep, Role, TableRule
from domicile.survey.datamap_keys import ALL_OTHERS, VERSION

UNKNOWN = "user"  # the category of a personal column of which the map says no more
_KEY = re.compile(r"[^A-Za-z0-9_.<>-]+")


@dataclass(frozen=True, slots=True)
class Made:
    """The file's text, and what it could not carry, a sentence each."""

    text: str
    lost: tuple[str, ...] = ()


def from_map(data_map: DataMap) -> Made:
    """The map as fideslang. Columns that the map does not name cannot stand in it."""
    schemas = sorted({t.schema for t in data_map.tables})
    keys = {s: _dataset_key(data_map, s, alone=len(schemas) == 1) for s in schemas}
    datasets = [_dataset(data_map, s, keys) for s in schemas]
    datasets[0]["meta"] = {"domicile": structure(data_map)}
    document: dict[str, Any] = {}
    used = {c for r in data_map.tables.values() for found in r.categories.values() for c in found}
    if own := sorted(used & OWN.keys()):
        document["data_category"] = [_category(key) for key in own]
    document["dataset"] = datasets
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    head = f"# Made of the data map of {data_map.dataset!r} by domicile map export.\n"
    return Made(head + text, tuple(_lost(data_map)))


def structure(data_map: DataMap) -> dict[str, Any]:
    """What fideslang has no word for, in the words of the data map's own file."""
    subject = {"table": str(data_map.subject.table), "key": data_map.subject.key}
    if data_map.subject.market:
        subject["market"] = data_map.subject.market
    tables = {str(n): dict(_structure(r)) for n, r in sorted(data_map.tables.items())}
    return {"version": VERSION, "dataset": str(data_map.dataset), "subject": subject, "tables": tables}


def _structure(rule: TableRule) -> Iterator[tuple[str, Any]]:
    yield "role", str(rule.role)
    if rule.owner is not None:
        yield "owner", str(rule.owner)
    if rule.policy is not None:
        yield "policy", str(rule.policy)
    if rule.personal and not rule.categories:
        yield "personal", list(rule.personal)
    if rule.others_not_personal:
        yield "not_personal", ALL_OTHERS
    elif rule.not_personal is not None:
        yield "not_personal", []
    if rule.object_keys:
        yield "object_keys", list(rule.object_keys)
    if rule.references:
        yield "references", list(rule.references)
    if rule.parties:
        yield "parties", {str(step): str(policy) for step, policy in rule.parties.items()}


def _dataset_key(data_map: DataMap, schema: str, *, alone: bool) -> str:
    return _KEY.sub("_", data_map.dataset if alone else f"{data_map.dataset}_{schema}")


def _category(key: str) -> dict[str, str]:
    parent, _, name = key.rpartition(".")
    return {"fides_key": key, "name": name.upper(), "description": OWN[key], "parent_key": parent}


def _dataset(data_map: DataMap, schema: str, keys: dict[str, str]) -> dict[str, Any]:
    tables = sorted(t for t in data_map.tables if t.schema == schema)
    return {
        "fides_key": keys[schema],
        "name": data_map.dataset,
        "meta": None,
        "fides_meta": {"namespace": {"schema": schema}},
        "collections": [{"name": t.name, "fields": _fields(data_map, data_map.tables[t], keys)} for t in tables],
    }


def _fields(data_map: DataMap, rule: TableRule, keys: dict[str, str]) -> list[dict[str, Any]]:
    return [_field(data_map, rule, column, keys) for column in sorted(_columns(data_map, rule))]


def _columns(data_map: DataMap, rule: TableRule) -> set[str]:
    named = {*rule.personal, *(rule.not_personal or ()), *rule.object_keys, *rule.identities}
    named |= {c for step in _steps(rule) for c in step.columns}
    return named | ({data_map.subject.key} if rule.role is Role.SUBJECT else set())


def _field(data_map: DataMap, rule: TableRule, column: str, keys: dict[str, str]) -> dict[str, Any]:
    field: dict[str, Any] = {"name": column}
    if column in rule.personal:
        field["data_categories"] = list(rule.categories.get(column, (UNKNOWN,)))
    elif column in (rule.not_personal or ()):
        field["data_categories"] = [NOT_PERSONAL]
    meta: dict[str, Any] = {}
    if rule.role is Role.SUBJECT and column == data_map.subject.key:
        meta["primary_key"] = True
    if column in rule.identities:
        meta["identity"] = rule.identities[column]
    references = [
        {"dataset": keys[s.to_table.schema], "field": f"{s.to_table.name}.{theirs}", "direction": "from"}
        for s in _steps(rule)
        for ours, theirs in zip(s.columns, s.to_columns, strict=True)
        if ours == column and s.to_table.schema in keys
    ]
    if references:
        meta["references"] = references
    return field | ({"fides_meta": meta} if meta else {})


def _steps(rule: TableRule) -> tuple[OwnerStep, ...]:
    declared = tuple(OwnerStep.parse(r) for r in rule.references)
    return declared if rule.owner is None else (rule.owner, *declared)


def _lost(data_map: DataMap) -> Iterator[str]:
    """What other programs will not understand, though the file holds it under meta."""
    dotted = [str(t) for t in data_map.tables if "." in t.name]
    if dotted:
        yield f"references to {', '.join(dotted)}: fideslang parts a collection's name from its field's by a dot"
    silent = [str(n) for n, r in data_map.tables.items() if not _columns(data_map, r)]
    if silent:
        yield f"columns of {', '.join(silent)}: the map names none, so the collections have no fields"
