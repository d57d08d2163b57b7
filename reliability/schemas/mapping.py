"""The data map of a shop, as a person would settle on it."""

from __future__ import annotations

import yaml

from reliability.schemas.names import quoted
from reliability.schemas.shape import Ref, Shop


def data_map(shop: Shop, dataset: str) -> str:
    """YAML."""
    tables: dict[str, dict[str, object]] = {}
    for tab in shop.tables:
        rule: dict[str, object] = {"role": "subject"}
        if tab.owner is not None:
            rule = {"role": "owned", "owner": _step(tab.owner)}
        if undeclared := [_step(ref) for ref in tab.loose if ref.options is None]:
            rule["references"] = undeclared
        if parties := {_step(ref): "null" if ref.cleared else "stub" for ref in tab.loose if ref.party}:
            rule["parties"] = parties
        tables[quoted(*tab.name)] = rule
    for name, role in shop.roles.items():
        tables[quoted(*name)] = _beside(role)
    subject = {
        "table": quoted(*shop.subject.name),
        "key": shop.subject_key,
        "market": f"subject.{quoted(shop.market)}",
    }
    document = {"version": 1, "dataset": dataset, "subject": subject, "tables": tables}
    return yaml.safe_dump(document, allow_unicode=True, sort_keys=False)


def _beside(role: str) -> dict[str, object]:
    match role:
        case "shared":
            return {"role": role, "policy": "present"}
        case "copied":
            return {"role": "shared", "policy": "copy", "not_personal": ["code", "n"]}
    return {"role": role}


def _step(ref: Ref) -> str:
    ours, theirs = (", ".join(map(quoted, names)) for names in (ref.columns, ref.to_columns))
    return f"{ours} {'<-' if ref.inward else '->'} {quoted(*ref.to)}({theirs})"
