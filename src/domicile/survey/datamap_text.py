"""The data map as text: what `datamap_file.parse` reads back equal, and what people like to review.

Tables stand by role and name, columns in the table's order, a personal column a line: what is added later adds lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re

from domicile.model.datamap import DataMap, Role, TableRule
from domicile.model.schema import TableName
from domicile.survey.datamap_keys import ALL_OTHERS, SCHEMA_NAME, VERSION

WIDTH = 110  # of the lines of a list of columns, in characters

_PLAIN_SCALAR = re.compile(r"[A-Za-z_][A-Za-z0-9_.()\"]*\Z")
_WORDS_OF_YAML = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})

Comments = Mapping[TableName, Sequence[str]]


def dump(data_map: DataMap, comments: Comments | None = None, header: Sequence[str] = ()) -> str:
    """The map as a file's text, tables by role and name, with comments above each. `parse` reads it back
    equal."""
    said = comments or {}
    lines = [f"# yaml-language-server: $schema={SCHEMA_NAME}"]
    lines += [*commented(header, ""), f"version: {VERSION}", f"dataset: {scalar(data_map.dataset)}", ""]
    lines += ["subject:", f"  table: {scalar(str(data_map.subject.table))}"]
    lines += [f"  key: {scalar(data_map.subject.key)}"]
    if market := data_map.subject.market:
        lines += ["  # The subject's market: an SQL expression over alias subject, for the conditions of plans."]
        lines += [f"  market: {_block_or_quoted(market)}"]
    lines += ["", "tables:"]
    for role in Role:
        tables = data_map.of_role(role)
        if not tables:
            continue
        lines += ["", f"  # --- {role}: {MEANING_OF[role]}"]
        for table in tables:
            lines += ["", *commented(said.get(table, ()), "  "), *rule_lines(data_map.tables[table])]
    return "\n".join(lines) + "\n"


MEANING_OF = {
    Role.SUBJECT: "one row is one subject",
    Role.OWNED: "every row has one owner and moves with it",
    Role.SHARED: "rows that several subjects' rows refer to (policy: present, copy or refuse)",
    Role.REFERENCE: "the same at every site; never moved, its presence at the target is checked",
    Role.LOCAL: "belongs to the site, never moves",
    Role.UNDECIDED: "give each of these one of the roles above; a plan is refused until then",
}


def rule_lines(rule: TableRule) -> list[str]:
    """One table, as it stands under ``tables``."""
    lines = [f"  {scalar(str(rule.table))}:", f"    role: {rule.role}"]
    if rule.owner is not None:
        lines.append(f"    owner: {scalar(str(rule.owner))}")
    if rule.policy is not None:
        lines.append(f"    policy: {rule.policy}")
    if rule.categories:
        lines += ["    personal:", *(category_line(c, rule.categories[c]) for c in rule.personal)]
    elif rule.personal:
        lines += list_lines("personal", rule.personal)
    if rule.others_not_personal:
        lines.append(f"    not_personal: {ALL_OTHERS}")
    elif rule.not_personal is not None:
        lines += list_lines("not_personal", rule.not_personal)
    if rule.object_keys:
        lines += list_lines("object_keys", rule.object_keys)
    if rule.identities:
        lines += ["    identities:", *(f"      {scalar(c)}: {scalar(kind)}" for c, kind in rule.identities.items())]
    if rule.references:
        lines += list_lines("references", rule.references)
    if rule.parties:
        lines += ["    parties:", *(f"      {scalar(str(s))}: {policy}" for s, policy in rule.parties.items())]
    return lines


def category_line(column: str, categories: Sequence[str]) -> str:
    """A personal column with its category, or with several."""
    said = categories[0] if len(categories) == 1 else f"[{', '.join(categories)}]"
    return f"      {scalar(column)}: {said}"


def list_lines(key: str, names: Sequence[str]) -> list[str]:
    """``key: [one, two]``, filled to `WIDTH`: a name that is added at the end changes the last line only."""
    lines = [f"    {key}: ["]
    for position, name in enumerate(names):
        piece = scalar(name) + ("]" if position == len(names) - 1 else ",")
        if lines[-1].endswith("["):
            lines[-1] += piece
        elif len(lines[-1]) + 1 + len(piece) > WIDTH:
            lines.append(f"      {piece}")
        else:
            lines[-1] += f" {piece}"
    if not names:
        lines[-1] += "]"
    return lines


def commented(lines: Sequence[str], indent: str) -> list[str]:
    """The lines as comments. A name in them may hold a line break, which would end the comment."""
    shown = ("".join(c if c.isprintable() else "\ufffd" for c in line) for line in lines)
    return [f"{indent}# {line}".rstrip() for line in shown]


def scalar(text: str) -> str:
    """A text as YAML reads it back, quoted only where it must be."""
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
