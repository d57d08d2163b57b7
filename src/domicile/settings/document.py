"""YAML with positions: every key and value of a document with its line and column, so that an error can say
where.

A stricter YAML than PyYAML's default: ``NO`` is Norway and not false, ``12:30`` is text and not a number in
base 60, a key given twice is an error. No message quotes the text of a value, which may hold a password.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
import re
from typing import Any

import yaml

from domicile.model.documents import NESTING_MAX, BoundedLoader, storable

NODES_MAX = 10_000  # a configuration is small; aliases that multiply each other are an attack or a mistake

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the file."""

    mark: Mark
    message: str


class ProblemsFound(ValueError):
    """The text is no document; ``problems`` holds at least one."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(p.message for p in problems))
        self.problems = problems


@dataclass(slots=True)
class Document:
    """The data of a file and where each part of it stands. Paths are keys and indexes from the root."""

    data: object = None
    keys: dict[Place, Mark] = field(default_factory=dict)
    values: dict[Place, Mark] = field(default_factory=dict)

    def key_mark(self, path: Place) -> Mark:
        """Where the key of ``path`` stands; for what is not in the file, where its nearest parent does."""
        return self._nearest(path, self.keys)

    def value_mark(self, path: Place) -> Mark:
        """Where the value of ``path`` stands; for what is not in the file, where its nearest parent's key
        does.
        """
        return self.values[path] if path in self.values else self._nearest(path, self.keys)

    def values_at(self, path: Place) -> object:
        """The data at ``path``, which is in the file."""
        at: Any = self.data
        for part in path:
            at = at[part]
        return at

    def _nearest(self, path: Place, marks: dict[Place, Mark]) -> Mark:
        while path and path not in marks:
            path = path[:-1]
        return marks.get(path, Mark(1, 1))


def parse(text: str) -> Document:
    """Read one YAML document. Raises ProblemsFound."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        raise ProblemsFound(Problem(place, f"not YAML: {_unquoted(error.problem or 'cannot be read')}")) from None
    except yaml.YAMLError:  # a reader error: characters that YAML forbids
        raise ProblemsFound(Problem(Mark(1, 1), "not YAML: it holds characters that YAML forbids")) from None
    except (ValueError, OverflowError):  # an escape beyond Unicode; a version of a thousand digits
        raise ProblemsFound(Problem(Mark(1, 1), "not YAML: it holds characters or numbers that YAML forbids")) from None
    document = Document()
    if root is not None:
        _Builder(document).build(root)
    return document


class _Loader(BoundedLoader):
    """Resolves only null, true/false and plain numbers; everything else unquoted is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own registry, filled below


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+\.[0-9]+$"), list("-+0123456789"))


class _Builder:
    """Turns nodes into data, remembering marks and collecting duplicate keys."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._problems: list[Problem] = []
        self._nodes = 0

    def build(self, root: yaml.Node) -> None:
        self._document.data = self._value(root, ())
        if self._problems:
            raise ProblemsFound(*self._problems)

    def _value(self, node: yaml.Node, path: Place) -> object:
        self._nodes += 1
        if len(path) > NESTING_MAX:  # an alias that holds itself
            raise ProblemsFound(Problem(_mark(node), f"nested deeper than {NESTING_MAX} levels"))
        if self._nodes > NODES_MAX:
            raise ProblemsFound(Problem(_mark(node), f"more than {NODES_MAX} values: aliases that repeat themselves?"))
        self._document.values[path] = _mark(node)
        match node:
            case yaml.MappingNode():
                return dict(self._entries(node, path))
            case yaml.SequenceNode():
                return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
            case _:
                return _scalar(node)

    def _entries(self, node: yaml.MappingNode, path: Place) -> Iterator[tuple[Hashable, object]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.append(Problem(_mark(key_node), "a key must be text"))
                continue
            key = str(key_node.value)
            if not storable(key):
                self._problems.append(Problem(_mark(key_node), "a key holds characters that no text may hold"))
                continue
            if key in seen:
                self._problems.append(Problem(_mark(key_node), f"the key {key} is given twice"))
                continue
            seen.add(key)
            self._document.keys[(*path, key)] = _mark(key_node)
            yield key, self._value(value_node, (*path, key))


def _scalar(node: yaml.Node) -> object:
    text = str(node.value)
    if not storable(text):
        raise ProblemsFound(Problem(_mark(node), "a value holds characters that no text may hold"))
    try:
        match node.tag:
            case "tag:yaml.org,2002:null":
                return None
            case "tag:yaml.org,2002:bool":
                return text == "true"
            case "tag:yaml.org,2002:int":
                return int(text)
            case "tag:yaml.org,2002:float":
                return float(text)
            case _:
                return text
    except ValueError:  # a tag that was written and does not fit; a number of a thousand digits
        raise ProblemsFound(Problem(_mark(node), "this is not a number that can be read")) from None


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _unquoted(problem: str) -> str:
    """PyYAML quotes what it found; a token's kind (``'<scalar>'``) and single characters may stay, words
    may not.
    """
    return re.sub(r"'(?!<)\S{2,}?'", "...", problem)
