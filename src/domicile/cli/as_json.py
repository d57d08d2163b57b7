"""Results as JSON: every public field and property of a dataclass, names as text."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
import dataclasses
from enum import Enum
import json
import math
from pathlib import PurePath

from domicile.model.schema import TableName


def plain(value: object) -> object:
    """Data that ``json`` can write. Fields hidden from repr (connection strings, keys) are left out; so are
    private ones.

    Properties are written beside the fields, so a script needs no arithmetic of its own. Numbers that are
    not finite become null.
    """
    match value:
        case None | bool() | int():
            return value
        case Enum():
            return plain(value.value)
        case str():
            return str(value)
        case float():
            return value if math.isfinite(value) else None
        case TableName() | PurePath():
            return str(value)
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case AbstractSet():
            return sorted((plain(v) for v in value), key=str)
        case list() | tuple():
            return [plain(v) for v in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {name: plain(getattr(value, name)) for name in _names(value)}
        case _:
            return str(value)


def dumps(value: object) -> str:
    """One JSON object as text, for people and machines alike: indented, UTF-8."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def _names(value: object) -> list[str]:
    assert dataclasses.is_dataclass(value)
    names = [f.name for f in dataclasses.fields(value) if f.repr]
    names += [name for name, member in vars(type(value)).items() if isinstance(member, property)]
    return [name for name in names if not name.startswith("_")]
