"""The plan as a file: JSON that says everything ``apply`` will do, with a digest over all of it.

It holds the operator's condition and the names of tables, counts and digests; never a subject's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
import hashlib
import json
import math
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.plan import PLAN_VERSION, Plan
from domicile.model.schema import TableName

_WORDS: Mapping[type, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def seal(plan: Plan) -> Plan:
    """The plan with its digest filled in."""
    return replace(plan, digest=digest_of(plan))


def digest_of(plan: Plan) -> str:
    """SHA-256 (hex) over the canonical JSON of everything in the plan but the digest itself."""
    content = _encode(plan)
    assert isinstance(content, dict)
    del content["digest"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def dump(plan: Plan) -> str:
    """The file's text, ending with a newline. The same plan always gives the same text."""
    return json.dumps(_encode(plan), indent=2, ensure_ascii=False) + "\n"


def load(text: str) -> Plan:
    """Read a plan back. Raises DomicileError (plan-invalid) for anything but an unchanged plan of this
    version.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _invalid(f"not JSON: {error.msg}", line=error.lineno) from None
    except RecursionError:
        raise _invalid("not a plan: it nests too deeply") from None
    except ValueError:  # Python reads no number of more than 4300 digits
        raise _invalid("not a plan: a number has too many digits") from None
    if isinstance(content, dict) and content.get("version") != PLAN_VERSION:
        raise _invalid(f"version {content.get('version')!r} of the format is not known; this is version {PLAN_VERSION}")
    plan = _decode(Plan, content, "")
    assert isinstance(plan, Plan)
    try:
        digest = digest_of(plan)
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may escape it
        raise _invalid("it holds characters that are not Unicode") from None
    if plan.digest != digest:
        raise _invalid("the digest does not match: the file was changed after the plan was made")
    _check_waves(plan)
    return plan


def decode(content: Mapping[str, Any]) -> Plan:
    """A plan from a store of our own, where its digest is keyed: read, not checked."""
    plan = _decode(Plan, dict(content), "")
    assert isinstance(plan, Plan)
    return plan


def _check_waves(plan: Plan) -> None:
    position = 0
    for no, wave in enumerate(plan.waves, start=1):
        if (wave.no, wave.first, wave.last - wave.first) != (
            no,
            position,
            wave.subjects,
        ) or wave.subjects < 1:
            raise _invalid(f"wave {wave.no} does not continue the one before it")
        position = wave.last
    if position != plan.cohort.size:
        raise _invalid(f"the waves hold {position} subjects, the cohort {plan.cohort.size}")


def _encode(value: object) -> object:
    if isinstance(value, TableName):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return str(value) if isinstance(value, StrEnum) else value


def _decode(kind: Any, value: object, where: str) -> object:
    """``value`` as an instance of ``kind``; ``where`` is its place in the file, for messages."""
    kind = getattr(kind, "__supertype__", kind)  # a NewType is its base at run time
    if get_origin(kind) is tuple:
        return _decode_tuple(get_args(kind)[0], value, where)
    if isinstance(kind, UnionType):
        if value is None:
            return None
        (kind,) = (k for k in get_args(kind) if k is not NoneType)
    if kind is TableName or issubclass(kind, StrEnum):
        return _decode_text(kind, value, where)
    if is_dataclass(kind):
        return _decode_object(kind, value, where)
    if kind is float and type(value) is int:
        value = _as_float(value, where)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _invalid(f"{where}: expected {_WORDS[kind]}")
    if isinstance(value, str) and "\0" in value:
        raise _invalid(f"{where}: no text may hold a NUL character")
    return value


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _invalid(f"{where}: the number is too large") from None


def _refuse_constant(name: str) -> object:
    raise _invalid(f"not JSON: {name} is no number there")


def _decode_tuple(kind: Any, value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _invalid(f"{where}: expected a list")
    return tuple(_decode(kind, item, f"{where}[{at}]") for at, item in enumerate(value))


def _decode_text(kind: Any, value: object, where: str) -> object:
    if not isinstance(value, str):
        raise _invalid(f"{where}: expected a text")
    try:
        return TableName.parse(value) if kind is TableName else kind(value)
    except ValueError:
        raise _invalid(f"{where}: {value!r} is not known here") from None


def _decode_object(kind: Any, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise _invalid(f"{where or 'the file'}: expected an object")
    hints = get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    prefix = f"{where}." if where else ""
    if missing := sorted(names - value.keys()):
        raise _invalid(f"{prefix}{missing[0]} is missing")
    if unknown := sorted(value.keys() - names):
        raise _invalid(f"{prefix}{unknown[0]} is not a field of a plan")
    return kind(**{name: _decode(hints[name], value[name], f"{prefix}{name}") for name in names})


def _invalid(message: str, **facts: object) -> DomicileError:
    return DomicileError(
        ErrorCode.PLAN_INVALID,
        f"this is not a plan that can be applied: {message}",
        facts=facts,
        hint="Make the plan again with: domicile plan",
    )
