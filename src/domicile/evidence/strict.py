"""Reading what a stranger wrote: one accepted form for each thing, and a reason for every refusal."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

DIGITS_MAX = 16  # of a number: what every JSON reader keeps exactly


class Malformed(ValueError):
    """Not in the one accepted form. The message says why, and quotes nothing of what was read."""


def canonical(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def parse(raw: bytes) -> Any:
    """The value of a canonical JSON text. Raises Malformed: duplicate keys, fractions, another spelling, too deep."""
    try:
        value = json.loads(
            raw.decode("ascii"),
            object_pairs_hook=_no_duplicates,
            parse_float=_no_fraction,
            parse_constant=_no_fraction,
            parse_int=_bounded,
        )
    except Malformed:
        raise
    except RecursionError:
        raise Malformed("JSON nested too deep") from None
    except ValueError:
        raise Malformed("not JSON in ASCII") from None
    if canonical(value) != raw:
        raise Malformed("JSON is not in canonical form")
    return value


def encode64(raw: bytes) -> str:
    """Standard base64 (RFC 4648, section 4)."""
    return base64.b64encode(raw).decode()


def decode64(text: str, length: int | None = None) -> bytes:
    """The bytes of a base64 text in its one spelling. Raises Malformed, also for another ``length``."""
    try:
        raw = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:
        raise Malformed("not base64") from None
    if encode64(raw) != text:
        raise Malformed("base64 with stray bits")
    if length is not None and len(raw) != length:
        raise Malformed(f"not {length} bytes")
    return raw


def number(text: str) -> int:
    """A decimal without sign or leading zeroes. Raises Malformed."""
    if not (text.isascii() and text.isdigit()) or len(text) > DIGITS_MAX or str(int(text)) != text:
        raise Malformed("not a number")
    return int(text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("duplicate keys in JSON")
    return found


def _no_fraction(_: str) -> Any:
    raise Malformed("a number that is no integer")


def _bounded(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise Malformed("a number that is too long")
    return int(text)
