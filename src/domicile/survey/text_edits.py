"""Small edits of a data map's text that leave all else as it stands, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import re

import yaml

from domicile.model.datamap import Role
from domicile.model.schema import TableName
from domicile.survey.datamap_text import WIDTH, category_line, list_lines, scalar
from domicile.survey.yaml_nodes import Node

INDENT = 2  # of tables, in what `datamap_text` writes

_ALIAS = re.compile(r"[ \t\r\n:]*\*[A-Za-z0-9_-]+")  # from the end of its key on
_WRITE_OUT = "Write it out instead of the alias; or make a new map with: domicile survey --output FILE"
_COMMENT = re.compile(r"#[^\r\n]*")


@dataclass(frozen=True, slots=True)
class TableNode:
    """Where one table stands in the file."""

    table: TableName
    role: Role
    key: yaml.Node
    rule: yaml.MappingNode


def table_nodes(root: Node) -> list[TableNode]:
    """The tables of a map that has been parsed, in the file's order."""
    tables = next(value for key, value in root.pairs("the data map") if key.text("a key") == "tables")
    if isinstance(tables.raw, yaml.CollectionNode) and tables.raw.flow_style:
        raise tables.refuse("tables must be written a line each to be added to", "Write the tables below each other.")
    found = []
    for key, value in tables.pairs("tables"):
        assert isinstance(value.raw, yaml.MappingNode), "the map was parsed"
        role = next(v.text("role") for k, v in value.pairs("a table") if k.text("a key") == "role")
        found.append(TableNode(TableName.parse(key.text("a table")), Role(role), key.raw, value.raw))
    return found


class Edits:
    """Edits of one text, collected and then applied at once. ``root`` is what the text was parsed to.

    What cannot be added to raises DomicileError (map-invalid), with its line.
    """

    def __init__(self, text: str, root: Node) -> None:
        self._text = text
        self._root = root
        self._line_end = "\r\n" if "\r\n" in text else "\n"
        self._edits: list[tuple[int, int, str]] = []  # from, to, and what stands there then
        self._notes: list[tuple[int, int, str]] = []
        self._begun: set[int] = set()  # brackets that have been added to
        self._shared = _shared(root.raw)

    def apply(self) -> str:
        """The text with all edits; those at one place in the order in which they were made, notes last."""
        pieces, done = [], 0
        for start, end, text in sorted([*self._edits, *self._notes], key=lambda edit: edit[0]):
            pieces += [self._text[done:start], text.replace("\n", self._line_end)]
            done = end
        return "".join([*pieces, self._text[done:]])

    def note(self, node: TableNode, lines: Sequence[str]) -> None:
        """Comments in the lines above a table."""
        at = self._text.rfind("\n", 0, node.key.start_mark.index) + 1
        text = "".join(f"{line}\n" for line in _shifted(node, lines))
        self._notes.append((at, at, text))

    def behind(self, node: TableNode, lines: Sequence[str]) -> None:
        """Lines behind a table, and behind a comment in its last line."""
        self._lines_at(self._line_behind(self._end(node.rule, _stop(node.key))), _shifted(node, lines))

    def in_front(self, node: TableNode, lines: Sequence[str]) -> None:
        """Lines in front of a table and of the comment above it; but behind the heading of its section."""
        at = self._text.rfind("\n", 0, node.key.start_mark.index) + 1
        while (above := self._text.rfind("\n", 0, max(at - 1, 0)) + 1) < at:
            line = self._text[above:at].strip()
            if not line.startswith("#") or line.startswith("# ---"):
                break
            at = above
        self._lines_at(at, _shifted(node, lines))

    def add_personal(self, node: TableNode, columns: Mapping[str, Sequence[str]]) -> None:
        """Add personal columns with their categories; the names alone where the map has a list without categories."""
        if not columns:
            return
        value = self._value(node, "personal")
        if isinstance(value, yaml.SequenceNode) and value.value:
            self.add_names(node, "personal", list(columns))
            return
        said = [category_line(c, categories).strip() for c, categories in columns.items()]
        if value is None:
            pairs = ", ".join(said)
            self._add_key(node, "personal", ["    personal:", *(f"      {s}" for s in said)], f"personal: {{{pairs}}}")
        elif isinstance(value, yaml.SequenceNode):  # an empty list: what is added has categories
            close = _stop(value) - 1
            self._edits.append((_start(value), self._text.index("[", _start(value)) + 1, "{"))
            self._edits.append((close, close + 1, self._joined(close, said) + "}"))
        elif value.flow_style:
            self._into_brackets(value, said)
        else:
            self._block_items(value, said)

    def add_names(self, node: TableNode, key: str, names: Sequence[str]) -> None:
        """Add names to the list under ``key``, or begin it."""
        value = self._value(node, key, adding=bool(names))
        said = [scalar(n) for n in names]
        if value is None and (names or key == "not_personal"):
            self._add_key(node, key, list_lines(key, names), f"{key}: [{', '.join(said)}]")
        elif value is not None and isinstance(value, yaml.SequenceNode) and names:
            if value.flow_style:
                self._into_brackets(value, said)
            else:
                self._block_items(value, [f"- {s}" for s in said])

    def _value(self, node: TableNode, key: str, *, adding: bool = True) -> yaml.CollectionNode | None:
        """The list or mapping under a key of the table; None: it has none. Refused where it is another table's too."""
        value = next((v for k, v in node.rule.value if k.value == key and isinstance(v, yaml.CollectionNode)), None)
        for what, found in ((str(node.table), node.rule), (f"{key} of {node.table}", value)):
            if adding and id(found) in self._shared:
                line = Node(self._root.source, node.key)
                raise line.refuse(f"{what} cannot be added to: anchor and alias (& and *) share it", _WRITE_OUT)
        return value

    def _into_brackets(self, value: yaml.CollectionNode, items: Sequence[str]) -> None:
        """Behind the last item, and in a new line where the old one is full."""
        if not value.value:
            at = _stop(value) - 1
            self._edits.append((at, at, self._joined(at, items)))
            return
        last, close = self._last(value), _stop(value) - 1
        trailing = "," in _COMMENT.sub("", self._text[last:close])
        line_start = self._text.rfind("\n", 0, close) + 1
        if trailing and not self._text[line_start:close].strip():  # the closing bracket has its own line
            opened = self._text.count("\n", _start(value), last) == 0
            indent = " " * (_first_column(self._text, last) + INDENT * opened)
            self._edits.append((line_start, line_start, f"{indent}{', '.join(items)},\n"))
            return
        begun = id(value) in self._begun
        self._begun.add(id(value))
        at = close if trailing else last
        before = "" if trailing and not begun else ","
        blank = "" if not before and self._text[at - 1].isspace() else " "
        self._edits.append((at, at, self._joined(at, items, before, blank)))

    def _joined(self, at: int, items: Sequence[str], comma: str = "", blank: str = "") -> str:
        """The items with commas as they follow position ``at``: ``comma`` and ``blank`` stand before the first."""
        line = self._text[self._text.rfind("\n", 0, at) + 1 : at]
        indent = " " * (_first_column(self._text, at) + INDENT)
        added = ""
        for position, item in enumerate(items):
            piece = item + ("" if position == len(items) - 1 else ",")
            if (added or comma) and len(line) + len(comma) + len(blank) + len(piece) + 1 > WIDTH:
                added, line = f"{added}{comma}\n{indent}{piece}", indent + piece
            else:
                added, line = f"{added}{comma}{blank}{piece}", f"{line}{comma}{blank}{piece}"
            comma, blank = "", " "
        return added

    def _block_items(self, value: yaml.CollectionNode, items: Sequence[str]) -> None:
        first = value.value[0][0] if isinstance(value, yaml.MappingNode) else value.value[0]
        column = first.start_mark.column if isinstance(value, yaml.MappingNode) else value.start_mark.column
        self._lines_at(self._line_behind(self._last(value)), [" " * column + item for item in items])

    def _add_key(self, node: TableNode, key: str, lines: Sequence[str], flow: str) -> None:
        """A key that the rule lacks, behind those that come before it by custom."""
        rule = node.rule
        if rule.flow_style:
            self._into_brackets(rule, [flow])
            return
        earlier = ("role", "owner", "policy", "personal") if key == "not_personal" else ("role", "owner", "policy")
        before = [self._end(v, _stop(k)) for k, v in rule.value if k.value in earlier]  # each table has a role
        shift = rule.value[0][0].start_mark.column - 2 * INDENT
        self._lines_at(self._line_behind(max(before)), _shift(lines, shift))

    def _line_behind(self, at: int) -> int:
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end + 1

    def _lines_at(self, at: int, lines: Sequence[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        unfinished = at == len(self._text) and not self._text.endswith("\n")
        self._edits.append((at, at, "\n" + text if unfinished else text))

    def _end(self, node: yaml.Node, behind: int) -> int:
        """Where a node's own text ends, which stands after ``behind``: a block's mark stands behind the comments and
        blank lines that follow it, and an alias has the marks of what it means."""
        if _start(node) < behind:
            alias = _ALIAS.match(self._text, behind)
            if alias is None:
                raise self._root.source.refuse(
                    self._text.count("\n", 0, behind) + 1, "behind this alias nothing can be added", _WRITE_OUT
                )
            return alias.end()
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            return self._last(node)
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            return _start(node) + len(self._text[_start(node) : _stop(node)].rstrip())
        return _stop(node)

    def _last(self, node: yaml.CollectionNode) -> int:
        """Where the text of the last item ends."""
        if isinstance(node, yaml.MappingNode):
            key, value = node.value[-1]
            return self._end(value, _stop(key))
        return self._end(node.value[-1], _start(node))


def _shifted(node: TableNode, lines: Sequence[str]) -> list[str]:
    return _shift(lines, node.key.start_mark.column - INDENT)


def _shift(lines: Sequence[str], by: int) -> list[str]:
    return [(" " * by + line if by > 0 else line[-by:]) if line else line for line in lines]


def _start(node: yaml.Node) -> int:
    return int(node.start_mark.index)


def _stop(node: yaml.Node) -> int:
    return int(node.end_mark.index)


def _shared(root: yaml.Node) -> set[int]:
    """The nodes that stand in more than one place: anchors with an alias."""
    seen: set[int] = set()
    shared: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            shared.add(id(node))
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [n for pair in node.value for n in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return shared


def _first_column(text: str, index: int) -> int:
    """The indentation of the line of ``index``."""
    line = text[text.rfind("\n", 0, index) + 1 :]
    return len(line) - len(line.lstrip(" "))
