"""YAML with line numbers: the few readers that the data map's file needs, each refusing with file and
line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

import yaml

from domicile.model.documents import BoundedLoader, storable
from domicile.model.errors import DomicileError, ErrorCode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """The file being read, for messages. ``hint``: what to do about a mistake that says nothing else."""

    name: str
    hint: str = "Correct the data map, then run: domicile map check"

    def refuse(self, line: int, message: str, hint: str = "") -> DomicileError:
        """The error to raise: ``file:line: message``."""
        return DomicileError(
            ErrorCode.MAP_INVALID,
            f"{self.name}:{line}: {message}",
            facts={"file": self.name, "line": line},
            hint=hint or self.hint,
        )

    def compose(self, text: str) -> Node:
        """The document's root. Raises DomicileError (map-invalid) where it is not one YAML document."""
        try:
            root = yaml.compose(text, Loader=BoundedLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise self.refuse(mark.line + 1 if mark else 1, f"not YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise self.refuse(1, f"not YAML: {error}") from None
        except (ValueError, OverflowError):  # an escape beyond Unicode; a version of a thousand digits
            raise self.refuse(1, "not YAML: it holds characters or numbers that YAML forbids") from None
        if root is None:
            raise self.refuse(1, "the file is empty", "Make a draft with: domicile survey")
        return Node(self, root)


@dataclass(frozen=True, slots=True)
class Node:
    """One value in the file."""

    source: Source
    raw: yaml.Node

    @property
    def line(self) -> int:
        """The line it begins on, from 1."""
        return int(self.raw.start_mark.line) + 1

    def refuse(self, message: str, hint: str = "") -> DomicileError:
        """The error to raise about this value."""
        return self.source.refuse(self.line, message, hint)

    def text(self, what: str) -> str:
        """A scalar as written: ``no`` is a column's name here, not a truth value. Not empty. Blanks at its ends count
        in quotes."""
        if not isinstance(self.raw, yaml.ScalarNode):
            raise self.refuse(f"{what} must be a text")
        text = str(self.raw.value) if self.raw.style in ("'", '"') else str(self.raw.value).strip()
        if not text:
            raise self.refuse(f"{what} must be a text")
        if not storable(text):
            raise self.refuse(f"{what} holds characters that PostgreSQL has not")
        return text

    def items(self, what: str, refusal: str = "must be a list: [one, two]") -> tuple[Node, ...]:
        """The items of a list. ``refusal`` is said of what is none."""
        if not isinstance(self.raw, yaml.SequenceNode):
            raise self.refuse(f"{what} {refusal}")
        return tuple(Node(self.source, item) for item in self.raw.value)

    def texts(self, what: str, refusal: str = "must be a list: [one, two]") -> tuple[str, ...]:
        """A list of scalars without repetition."""
        found = tuple(item.text(f"each of {what}") for item in self.items(what, refusal))
        if len(set(found)) != len(found):
            raise self.refuse(f"{what} names something twice")
        return found

    def parsed(self, what: str, parse: Callable[[str], T]) -> T:
        """A scalar read by ``parse``, whose ValueError becomes the message."""
        try:
            return parse(self.text(what))
        except ValueError as error:
            raise self.refuse(str(error)) from None

    def pairs(self, what: str) -> Iterator[tuple[Node, Node]]:
        """The pairs of a mapping, as written; a key that comes twice is refused (YAML would keep the
        last)."""
        if not isinstance(self.raw, yaml.MappingNode):
            raise self.refuse(f"{what} must be a mapping of names to values")
        seen: set[str] = set()
        for key, value in self.raw.value:
            name = Node(self.source, key)
            if name.text("a key") in seen:
                raise name.refuse(f"{name.text('a key')} comes twice in {what}")
            seen.add(name.text("a key"))
            yield name, Node(self.source, value)

    def fields(self, what: str, known: Iterable[str], needed: Iterable[str] = ()) -> dict[str, Node]:
        """A mapping with known keys only; an unknown one is refused with the nearest known, a missing one by
        name."""
        allowed = tuple(known)
        found: dict[str, Node] = {}
        for key, value in self.pairs(what):
            name = key.text("a key")
            if name not in allowed:
                raise key.refuse(f"{what} knows no {name!r}", suggestion(name, allowed))
            found[name] = value
        for name in needed:
            if name not in found:
                raise self.refuse(f"{what} lacks {name!r}")
        return found


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest of ``known``, or all of them."""
    allowed = tuple(known)
    near = get_close_matches(name, allowed, n=1)
    return f"Did you mean {near[0]!r}?" if near else "Known here: " + ", ".join(allowed) + "."
