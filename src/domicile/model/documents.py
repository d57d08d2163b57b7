"""Texts from outside: YAML that is read in bounded time, and characters that no database keeps."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.scanner import ScannerError

NESTING_MAX = 20  # what the files here need is less than ten


def storable(text: str) -> bool:
    """Whether PostgreSQL can keep the text: no NUL, no half of a surrogate pair (an argument not in UTF-8)."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


class BoundedLoader(yaml.SafeLoader):
    """PyYAML takes quadratic time for brackets within brackets, and the stack; this refuses them with a ScannerError
    (a MarkedYAMLError, "nested deeper than N levels") where they are too deep."""

    def fetch_flow_collection_start(self, token_class: type[Any]) -> None:
        self._require_shallow()
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        self._require_shallow()
        return bool(super().add_indent(column))

    def _require_shallow(self) -> None:
        if self.flow_level + len(self.indents) > NESTING_MAX:
            raise ScannerError(None, None, f"nested deeper than {NESTING_MAX} levels", self.get_mark())
