"""How a live wave looks while its users write: what it lacks, what it costs, what is in its way, and its pause."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from domicile.cli import units
from domicile.model.phase import Phase, Status
from domicile.model.plan import Limits
from domicile.model.report import InTheWay, LiveFigures, Pauses, WaveStatus

GAP = "  "
FOLLOWED = (Phase.CATCHUP, Phase.VERIFY, Phase.HANDOVER, Phase.ROLLBACK)


def figures_of(wave: WaveStatus) -> LiveFigures | None:
    """The figures of a wave whose stream is at work, or None."""
    return wave.live if wave.status is Status.RUNNING and wave.phase in FOLLOWED else None


def lines(wave: WaveStatus, limits: Limits, width: int) -> Iterator[str]:
    """For the live picture: what the wave lacks and costs, who is in the way, why the last try stepped back."""
    live = figures_of(wave)
    if live is None:
        return
    yield from flowed((*_lacks(live, limits), *_costs(live, limits)), width)
    if live.blockers:
        yield from flowed(("waits for", *map(_blocker, live.blockers)), width)
    if live.last_try:
        yield f"last try: {live.last_try}"


def block(wave: WaveStatus, limits: Limits) -> Iterator[tuple[str, str]]:
    """The same as pairs of a word and a sentence, with the budgets."""
    live = figures_of(wave)
    if live is None:
        return
    lag = f"{units.size(live.lag_bytes)} of log, {units.duration(live.lag_seconds)}"
    allowed = f"{units.size(limits.lag_bytes_max)} allowed at the handover"
    yield "lag", f"{lag}; {allowed}. {units.plural(live.changes, 'change')} applied since the copy"
    if live.dirty_rows is not None:
        yield "dirty", f"{_dirty(live)}, compared again before the handover"
    kept = f"{units.size(live.wal_bytes)} of {units.size(limits.wal_bytes_max)} allowed"
    if live.wal_bytes is not None:
        yield "log", f"kept at the source for the stream: {kept}"
    if live.probe_p99_ms is not None:
        held = f"the mover holds itself back {units.share(live.slowed, 1)} of the time" if live.slowed else "full speed"
        yield "pace", f"{held}; {_probe(live)}"
    yield "next", _handover(live, limits)
    if live.blockers:
        yield "waits", ", ".join(map(_blocker, live.blockers))


def pauses(found: Pauses) -> str:
    """``p50 4.1 ms, p99 9.8 ms, max 12 ms over 40 waves; round trip 0.35 ms``."""
    line = f"; round trip {units.milliseconds(found.round_trip_ms)}" if found.round_trip_ms is not None else ""
    if found.waves == 1:
        return f"{units.milliseconds(found.max_ms)} in 1 wave{line}"
    shares = (("p50", found.p50_ms), ("p99", found.p99_ms), ("max", found.max_ms))
    said = ", ".join(f"{name} {units.milliseconds(ms)}" for name, ms in shares)
    return f"{said} over {units.plural(found.waves, 'wave')}{line}"


def fitted(pieces: Iterable[str], width: int) -> str:
    """As many of the pieces as fit into the width, at least the first."""
    kept = list(pieces)
    while len(kept) > 1 and len(GAP.join(kept)) > width:
        kept.pop()
    return GAP.join(kept)


def flowed(pieces: Iterable[str], width: int) -> Iterator[str]:
    """The pieces in lines of at most that width; none is broken in two."""
    line = ""
    for piece in pieces:
        if line and len(line) + len(GAP) + len(piece) > width:
            yield line
            line = ""
        line = f"{line}{GAP}{piece}" if line else piece
    yield line


def _lacks(live: LiveFigures, limits: Limits) -> Iterator[str]:
    yield f"lag {units.size(live.lag_bytes)} of {units.size(limits.lag_bytes_max)} {units.duration(live.lag_seconds)}"
    if live.dirty_rows is not None:
        yield f"dirty {_dirty(live)}"
    if live.seconds_left:
        yield f"handover in {units.duration(live.seconds_left)}"
    yield f"{units.plural(live.changes, 'change')} applied"


def _costs(live: LiveFigures, limits: Limits) -> Iterator[str]:
    if live.tries:
        yield f"try {live.tries + 1} of {limits.handover_tries}"
    yield f"pause {units.duration(limits.pause_ms_max / 1_000)} at most"
    if live.slowed:
        yield f"slowed {units.share(live.slowed, 1)}"
    if live.probe_p99_ms is not None:
        yield _probe(live)
    if live.wal_bytes is not None:
        yield f"log kept {units.size(live.wal_bytes)} of {units.size(limits.wal_bytes_max)}"


def _handover(live: LiveFigures, limits: Limits) -> str:
    when = f"in about {units.duration(live.seconds_left)}" if live.seconds_left else "as soon as the rows are equal"
    pause = f"writers wait {units.duration(limits.pause_ms_max / 1_000)} at most"
    if not live.tries:
        return f"handover {when}; {pause}"
    return f"handover {when}, try {live.tries + 1} of {limits.handover_tries}; {pause}. Last try: {live.last_try}"


def _dirty(live: LiveFigures) -> str:
    of = f" of {units.plural(live.dirty_subjects, 'subject')}" if live.dirty_subjects else ""
    return f"{units.plural(live.dirty_rows or 0, 'row')}{of}"


def _probe(live: LiveFigures) -> str:
    before = f"; {units.milliseconds(live.probe_base_ms)} before" if live.probe_base_ms is not None else ""
    return f"a write takes {units.milliseconds(live.probe_p99_ms)} (p99{before})"


def _blocker(found: InTheWay) -> str:
    who = "a prepared transaction" if found.pid is None else f"pid {found.pid}"
    name = f" {found.application}" if found.application else ""
    age = f" {units.duration(found.age_s)}" if found.age_s is not None else ""
    return f"{who}{name}{age}"
