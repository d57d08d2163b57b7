"""The data map as a file: YAML that people read and correct, with an error by line for whatever is wrong.

version: 1
dataset: shop
subject: {table: store.user_account, key: id, market: subject.market}
tables:
  store.user_account: {role: subject, personal: {email: user.contact.email}, not_personal: [id, market]}
  store.orders: {role: owned, owner: user_id -> store.user_account(id)}
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
import hashlib
import json
from pathlib import Path
import re
from typing import TypeVar

import yaml

from domicile.model.categories import is_category, nearest
from domicile.model.datamap import (
    DataMap,
    Direction,
    OwnerStep,
    PartyPolicy,
    Role,
    SharedPolicy,
    SubjectRule,
    TableRule,
)
from domicile.model.errors import DomicileError
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.survey.datamap_keys import ALL_OTHERS, RULE, SUBJECT, TOP, VERSION
from domicile.survey.datamap_text import dump
from domicile.survey.finding import COLUMN_NEEDED
from domicile.survey.yaml_nodes import Node, Source, suggestion

__all__ = ["compose", "digest_of", "dump", "load", "parse", "read"]

SIZE_MAX = 20_000_000  # characters: the draft of 10,000 tables has five million, and is read in a quarter of a minute

_CONDITION = re.compile(r"\)\s{0,9}(?:where|when|if)\s", re.IGNORECASE)  # behind a step: for rows of one kind
# Places of keys that are no columns, as SQL writes them: payload ->> 'user_id', unnest(user_ids).
_INSIDE = {
    "a JSON document": re.compile(r"->>|#>|->\s{0,9}['0-9]|\bjsonb?_\w{1,60}\(|::\s{0,9}jsonb?\b", re.IGNORECASE),
    "an array": re.compile(r"\[|\b(?:any|unnest)\s{0,9}\(", re.IGNORECASE),
}
_NOT_CARRIED = "copy"  # a policy of a second party that is described, and not built

E = TypeVar("E", bound=StrEnum)


def load(path: Path) -> DataMap:
    """Read a data map. Raises DomicileError (map-invalid), with file and line, for whatever is not as it must
    be.

    Only the file is judged; `survey.gaps.check_map` compares it with a live database.
    """
    source = Source(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise source.refuse(0, "there is no such file", "Make a draft with: domicile survey") from None
    except (OSError, ValueError) as error:  # the latter: not UTF-8, or a name that no file can have
        raise source.refuse(0, f"cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "data map") -> DataMap:
    """Read a data map from its text; ``name`` stands for the file in messages. Raises as `load` does."""
    return read(compose(text, name))


def compose(text: str, name: str) -> Node:
    """The root of a data map's document, for `read`. Raises as `load` does."""
    if len(text) > SIZE_MAX:
        raise Source(name).refuse(1, f"larger than {SIZE_MAX} characters: not a data map")
    return Source(name).compose(text)


def read(root: Node) -> DataMap:
    """Read a data map from the root of its document. Raises as `load` does."""
    top = root.fields("the data map", TOP, TOP)
    if (version := top["version"].text("version")) != str(VERSION):
        raise top["version"].refuse(f"version {version} is not known; this domicile reads version {VERSION}")
    dataset = DatasetName(top["dataset"].text("dataset"))
    subject = _subject(top["subject"])
    rules: dict[TableName, TableRule] = {}
    lines: dict[TableName, int] = {}
    for key, value in top["tables"].pairs("tables"):
        table = key.parsed("a table's name", TableName.parse)
        if table in rules:
            raise key.refuse(f"{table} comes twice in tables")
        rules[table] = _rule(table, value)
        lines[table] = key.line
    _subject_has_its_role(top["subject"], subject, rules)
    data_map = DataMap(dataset, subject, rules, digest_of(dataset, subject, rules), lines)
    for table in data_map.of_role(Role.OWNED):
        _path_leads_to_the_subject(root, data_map, table)
    return data_map


def digest_of(dataset: str, subject: SubjectRule, rules: Mapping[TableName, TableRule]) -> str:
    """SHA-256 (hex) of the map's meaning: neither comments, order nor layout of the file change it, nor which columns
    are listed as not personal."""
    meaning = {
        "version": VERSION,
        "dataset": dataset,
        "subject": [str(subject.table), subject.key, " ".join(subject.market.split())],
        "tables": {str(table): _meaning(rule) for table, rule in rules.items()},
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _meaning(rule: TableRule) -> list[object]:
    meaning: list[object] = [
        rule.role,
        str(rule.owner or ""),
        rule.policy or "",
        sorted(rule.personal),
        sorted(rule.object_keys),
        sorted(str(OwnerStep.parse(r)) for r in rule.references),
    ]
    # Last, and only where there are some: the digest of a map without them is what it was before there were any.
    if rule.categories or rule.identities or rule.parties:
        meaning += [{c: sorted(found) for c, found in rule.categories.items()}, dict(rule.identities)]
    if rule.parties:
        meaning.append({str(step): str(policy) for step, policy in rule.parties.items()})
    return meaning


def _subject(node: Node) -> SubjectRule:
    given = node.fields("subject", SUBJECT, ("table", "key"))
    market = given["market"].text("market") if "market" in given else ""
    return SubjectRule(given["table"].parsed("table", TableName.parse), given["key"].text("key"), market)


def _rule(table: TableName, node: Node) -> TableRule:
    given = node.fields(str(table), RULE, ("role",))
    role = _one_of(given["role"], "role", Role)
    owner = _owner(given["owner"]) if "owner" in given else None
    if owner is None and role is Role.OWNED:
        raise node.refuse(f"{table} is owned, but lacks 'owner'", 'Write: owner: "column -> schema.table(column)"')
    if owner is not None and role is not Role.OWNED:
        raise given["owner"].refuse(
            f"{table} has an owner, but its role is {role}", "Set role: owned, or remove owner."
        )
    policy = _one_of(given["policy"], "policy", SharedPolicy) if "policy" in given else None
    if policy is None and role is Role.SHARED:
        raise node.refuse(f"{table} is shared, but lacks 'policy'", "Write: policy: present, copy or refuse")
    if policy is not None and role is not Role.SHARED:
        raise given["policy"].refuse(f"{table} has a policy, but its role is {role}", "Policies are for shared tables.")
    personal, categories = _personal(given["personal"]) if "personal" in given else ((), {})
    others = "not_personal" in given and isinstance(given["not_personal"].raw, yaml.ScalarNode)
    if policy is SharedPolicy.COPY and "not_personal" not in given:  # that nothing is personal is the plan's to ask
        raise given["policy"].refuse(
            f"{table} has the policy copy, but lacks 'not_personal'",
            f"List its columns once somebody has looked at them: not_personal: [one, two], or {ALL_OTHERS}",
        )
    return TableRule(
        table,
        role,
        owner,
        policy,
        personal=personal,
        object_keys=given["object_keys"].texts("object_keys") if "object_keys" in given else (),
        references=_references(given["references"]) if "references" in given else (),
        categories=categories,
        not_personal=_not_personal(given["not_personal"], personal) if "not_personal" in given else None,
        others_not_personal=others,
        identities=_identities(given["identities"]) if "identities" in given else {},
        parties=_parties(given["parties"], role, owner) if "parties" in given else {},
    )


def _owner(node: Node) -> OwnerStep:
    """The first step to the owner. One that holds for some rows only, a choice of steps, or one that leads from within
    an array or a document, is refused by name."""
    if not isinstance(node.raw, yaml.ScalarNode):
        raise _not_one_step(node)
    try:
        return node.parsed("owner", OwnerStep.parse)
    except DomicileError:
        text = str(node.raw.value)
        if _CONDITION.search(text):
            raise _not_one_step(node) from None
        for place, form in _INSIDE.items():
            if form.search(text):
                said = f"an owner in {place}: a survey finds keys there, and no map carries them"
                raise node.refuse(said, COLUMN_NEEDED) from None
        raise


def _not_one_step(node: Node) -> DomicileError:
    return node.refuse(
        "an owner is one step that holds for every row: a condition, or a choice of steps, is not carried",
        "Add a column that holds the owner's key; else the table is shared, or local.",
    )


def _personal(node: Node) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The columns, and the categories of each where the file gives them."""
    if not isinstance(node.raw, yaml.MappingNode):
        return node.texts("personal", "must be a list of columns, or a mapping of columns to categories"), {}
    given = {key.text("a column"): _categories(value) for key, value in node.pairs("personal")}
    return tuple(given), given


def _categories(node: Node) -> tuple[str, ...]:
    nodes = node.items("categories") if isinstance(node.raw, yaml.SequenceNode) else (node,)
    for item in nodes:
        text = item.text("a category")
        if not is_category(text):
            raise item.refuse(f"{text!r} is no category of personal data", _category_hint(text))
    if not nodes:
        raise node.refuse("a personal column has a category", "Write: user, where none fits better.")
    return tuple(dict.fromkeys(item.text("a category") for item in nodes))


def _category_hint(text: str) -> str:
    if text == "system" or text.startswith("system."):
        return "That is said of columns that are not personal: list it under not_personal."
    near = nearest(text)
    known = "The list is in: domicile map schema"
    return f"Did you mean {near!r}? {known}" if near else f"Write: user, where none fits better. {known}"


def _not_personal(node: Node, personal: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(node.raw, yaml.ScalarNode):
        if node.text("not_personal") != ALL_OTHERS:
            raise node.refuse(f"not_personal must be a list of columns: [one, two]; or the word {ALL_OTHERS}")
        return ()
    columns = node.texts("not_personal")
    if both := [c for c in columns if c in personal]:
        raise node.refuse(f"{both[0]} is listed under personal and under not_personal")
    return columns


def _identities(node: Node) -> dict[str, str]:
    return {key.text("a column"): value.text("an identity") for key, value in node.pairs("identities")}


def _references(node: Node) -> tuple[str, ...]:
    texts = node.texts("references")
    for text in texts:
        _reference(node, text)
    return texts


def _reference(node: Node, text: str) -> OwnerStep:
    try:
        step = OwnerStep.parse(text)
    except ValueError as error:
        raise node.refuse(str(error)) from None
    if step.direction is not Direction.TO:
        raise node.refuse(f"a reference leads from this table: write -> and not <- in {text!r}")
    return step


def _parties(node: Node, role: Role, owner: OwnerStep | None) -> dict[OwnerStep, PartyPolicy]:
    if role not in (Role.SUBJECT, Role.OWNED):
        raise node.refuse(f"parties are for tables that move, and the role is {role}", "Remove parties.")
    found: dict[OwnerStep, PartyPolicy] = {}
    for key, value in node.pairs("parties"):
        step = _reference(key, key.text("a reference"))
        if step == owner:
            raise key.refuse("this is the table's owner, not a second person", "Remove it from parties.")
        if (text := value.text("policy")) == _NOT_CARRIED:
            raise value.refuse(
                f"policy {text} is not carried by this version",
                "Write: stub, null or refuse (docs/decisions/0019-shared-rows.md).",
            )
        found[step] = _one_of(value, "policy", PartyPolicy)
        if found[step] is PartyPolicy.NULL:
            _can_be_null(key, step, owner)
    return found


def _can_be_null(key: Node, step: OwnerStep, owner: OwnerStep | None) -> None:
    """What the file itself says against it; the rest is the database's to say."""
    if len(step.columns) > 1:
        raise key.refuse("a reference of several columns is not set to null", "Write: stub, or refuse.")
    if owner is not None and set(step.columns) & set(owner.columns):
        raise key.refuse(
            f"{step.columns[0]} is a part of the way to the owner, which is never set to null", "Write: refuse."
        )


def _one_of(node: Node, what: str, kind: type[E]) -> E:
    known = [str(k) for k in kind]
    text = node.text(what)
    if text not in known:
        raise node.refuse(f"{text!r} is no {what}", suggestion(text, known))
    return kind(text)


def _subject_has_its_role(node: Node, subject: SubjectRule, rules: Mapping[TableName, TableRule]) -> None:
    subjects = sorted(t for t, r in rules.items() if r.role is Role.SUBJECT)
    if subjects != [subject.table]:
        named = ", ".join(map(str, subjects)) or "none"
        raise node.refuse(
            f"the subject table is {subject.table}, but the tables with role subject are: {named}",
            f"Write under tables: {subject.table}: {{role: subject}}",
        )


def _path_leads_to_the_subject(root: Node, data_map: DataMap, table: TableName) -> None:
    try:
        data_map.path(table)
    except DomicileError as error:
        raise root.source.refuse(data_map.line_of[table], error.message, error.hint) from None
