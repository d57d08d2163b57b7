"""The data map as a file: YAML that people read and correct, with an error by line for whatever is wrong.

version: 1
dataset: shop
subject: {table: store.user_account, key: id, market: subject.market}
tables:
  store.user_account: {role: subject, personal: [email]}
  store.orders: {role: owned, owner: user_id -> store.user_account(id)}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
import hashlib
import json
from pathlib import Path
import re
from typing import TypeVar

from domicile.model.datamap import DataMap, Direction, OwnerStep, Role, SharedPolicy, SubjectRule, TableRule
from domicile.model.errors import DomicileError
from domicile.model.schema import TableName
from domicile.model.site import DatasetName
from domicile.survey.yaml_nodes import Node, Source, suggestion

VERSION = 1
SIZE_MAX = 2_000_000  # characters: some twenty thousand tables

_TOP = ("version", "dataset", "subject", "tables")
_SUBJECT = ("table", "key", "market")
_RULE = ("role", "owner", "policy", "personal", "object_keys", "references")
_PLAIN_SCALAR = re.compile(r"[A-Za-z_][A-Za-z0-9_.()\"]*\Z")
_WORDS_OF_YAML = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})

E = TypeVar("E", bound=StrEnum)
Comments = Mapping[TableName, Sequence[str]]


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
    if len(text) > SIZE_MAX:
        raise Source(name).refuse(1, f"larger than {SIZE_MAX} characters: not a data map")
    root = Source(name).compose(text)
    top = root.fields("the data map", _TOP, _TOP)
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
    """SHA-256 (hex) of the map's meaning: neither comments, order nor layout of the file change it."""
    meaning = {
        "version": VERSION,
        "dataset": dataset,
        "subject": [str(subject.table), subject.key, " ".join(subject.market.split())],
        "tables": {
            str(table): [
                rule.role,
                str(rule.owner or ""),
                rule.policy or "",
                sorted(rule.personal),
                sorted(rule.object_keys),
                sorted(str(OwnerStep.parse(r)) for r in rule.references),
            ]
            for table, rule in rules.items()
        },
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def dump(data_map: DataMap, comments: Comments | None = None, header: Sequence[str] = ()) -> str:
    """The map as a file's text, tables by role and name, with comments above each. `parse` reads it back
    equal."""
    said = comments or {}
    lines = [*_commented(header, ""), f"version: {VERSION}", f"dataset: {_scalar(data_map.dataset)}", ""]
    lines += ["subject:", f"  table: {_scalar(str(data_map.subject.table))}"]
    lines += [f"  key: {_scalar(data_map.subject.key)}"]
    if market := data_map.subject.market:
        lines += ["  # The subject's market: an SQL expression over alias subject, for the conditions of plans."]
        lines += [f"  market: {_block_or_quoted(market)}"]
    lines += ["", "tables:"]
    for role in Role:
        tables = data_map.of_role(role)
        if not tables:
            continue
        lines += ["", f"  # --- {role}: {_MEANING[role]}"]
        for table in tables:
            lines += ["", *_commented(said.get(table, ()), "  "), *_rule_lines(data_map.tables[table])]
    return "\n".join(lines) + "\n"


_MEANING = {
    Role.SUBJECT: "one row is one subject",
    Role.OWNED: "every row has one owner and moves with it",
    Role.SHARED: "rows that several subjects' rows refer to (policy: present or refuse)",
    Role.REFERENCE: "the same at every site; never moved, its presence at the target is checked",
    Role.LOCAL: "belongs to the site, never moves",
    Role.UNDECIDED: "give each of these one of the roles above; a plan is refused until then",
}


def _subject(node: Node) -> SubjectRule:
    given = node.fields("subject", _SUBJECT, ("table", "key"))
    market = given["market"].text("market") if "market" in given else ""
    return SubjectRule(given["table"].parsed("table", TableName.parse), given["key"].text("key"), market)


def _rule(table: TableName, node: Node) -> TableRule:
    given = node.fields(str(table), _RULE, ("role",))
    role = _one_of(given["role"], "role", Role)
    owner = given["owner"].parsed("owner", OwnerStep.parse) if "owner" in given else None
    if owner is None and role is Role.OWNED:
        raise node.refuse(f"{table} is owned, but lacks 'owner'", 'Write: owner: "column -> schema.table(column)"')
    if owner is not None and role is not Role.OWNED:
        raise given["owner"].refuse(
            f"{table} has an owner, but its role is {role}", "Set role: owned, or remove owner."
        )
    policy = _one_of(given["policy"], "policy", SharedPolicy) if "policy" in given else None
    if policy is None and role is Role.SHARED:
        raise node.refuse(f"{table} is shared, but lacks 'policy'", "Write: policy: present, or policy: refuse")
    if policy is not None and role is not Role.SHARED:
        raise given["policy"].refuse(f"{table} has a policy, but its role is {role}", "Policies are for shared tables.")
    return TableRule(
        table,
        role,
        owner,
        policy,
        personal=given["personal"].texts("personal") if "personal" in given else (),
        object_keys=given["object_keys"].texts("object_keys") if "object_keys" in given else (),
        references=_references(given["references"]) if "references" in given else (),
    )


def _references(node: Node) -> tuple[str, ...]:
    texts = node.texts("references")
    for text in texts:
        try:
            step = OwnerStep.parse(text)
        except ValueError as error:
            raise node.refuse(str(error)) from None
        if step.direction is not Direction.TO:
            raise node.refuse(f"a reference leads from this table: write -> and not <- in {text!r}")
    return texts


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


def _rule_lines(rule: TableRule) -> list[str]:
    lines = [f"  {_scalar(str(rule.table))}:", f"    role: {rule.role}"]
    if rule.owner is not None:
        lines.append(f"    owner: {_scalar(str(rule.owner))}")
    if rule.policy is not None:
        lines.append(f"    policy: {rule.policy}")
    for name, values in (
        ("personal", rule.personal),
        ("object_keys", rule.object_keys),
        ("references", rule.references),
    ):
        if values:
            lines.append(f"    {name}: [{', '.join(map(_scalar, values))}]")
    return lines


def _commented(lines: Sequence[str], indent: str) -> list[str]:
    return [f"{indent}# {line}".rstrip() for line in lines]


def _scalar(text: str) -> str:
    if _PLAIN_SCALAR.match(text) and text.lower() not in _WORDS_OF_YAML:
        return text
    return "'" + text.replace("'", "''") + "'" if text.isprintable() else _escaped(text)


def _block_or_quoted(text: str) -> str:
    """A text of several lines as a person would write it, where YAML gives it back unchanged."""
    lines = text.split("\n")
    if text != text.strip() or any(line != line.rstrip() or not line.isprintable() for line in lines):
        return _escaped(text)
    return "\n".join(["|-", *(f"    {line}".rstrip() for line in lines)])


def _escaped(text: str) -> str:
    """In double quotes: a line break in a name is a line break again."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text) + '"'
