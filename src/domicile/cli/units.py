"""Numbers as people read them. Pure functions."""

from __future__ import annotations

from datetime import UTC, datetime
import math

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def count(number: float) -> str:
    """``1,234,567``."""
    return f"{round(number):,}"


def size(number: float | None) -> str:
    """Bytes in decimal units with three figures: ``12.3 MB``; ``unknown`` for None."""
    if number is None:
        return "unknown"
    unit = 0
    while abs(number) >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        number /= 1_000
        unit += 1
    digits = 0 if unit == 0 or number >= 99.95 else 1
    return f"{number:,.{digits}f} {_BYTE_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """``850 ms``, ``12.4 s``, ``3:07``, ``1:02:03``; ``-`` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3_600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(seconds: float) -> str:
    """POSIX seconds as ``2026-12-24 18:30 UTC``."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def milliseconds(number: float | None) -> str:
    """``0.35 ms``, ``4.2 ms``, ``125 ms``, ``1.3 s``; ``-`` for None."""
    if number is None:
        return "-"
    if number >= 999.5:
        return duration(number / 1_000)
    digits = 2 if number < 0.995 else 1 if number < 9.95 else 0
    return f"{number:.{digits}f} ms"


def share(part: float, whole: float) -> str:
    """``45 %``; a part of nothing is all of it."""
    return f"{min(1.0, part / whole) * 100:.0f} %" if whole else "100 %"


def plural(number: int, one: str, many: str = "") -> str:
    """``1 wave``, ``2 waves``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
