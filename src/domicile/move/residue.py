"""What scans say about erasure, as findings, residuals and lags. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date

from domicile.erasure.agent import Result
from domicile.erasure.prints import CANARY, Prints
from domicile.model.erasure import Finding, Place, Residual, Stage, Step

METHOD = "keyed fingerprints, every byte of the files, compressed values and toast opened"
BY_AGENT = f"{METHOD}, by an agent"
NOT_REWRITTEN = (Place.FREED, Place.TOAST, Place.STATISTICS, Place.EXTENDED)
_BLOCKS = Residual(
    Place.BLOCKS, "what removed and shortened files left on the volume was not read: trim or overwrite its free space"
)

Seen = Mapping[Place, tuple[int, int]]  # canaries planted in a place, and found there


def findings(result: Result, prints: Prints, shared: Collection[int], seen: Seen) -> tuple[Finding, ...]:
    """What the scan found of the wave's values, by place, without those that others hold too."""
    found = []
    for place, tally in sorted(result.tallies.items(), key=lambda item: list(Place).index(item[0])):
        if place is Place.BLOCKS:
            continue
        mine = {n: c for n, c in tally.found.items() if prints.owners[n] < CANARY and n not in shared}
        planted, recognised = seen.get(place, (0, 0))
        found.append(
            Finding(
                place=place,
                bytes=tally.bytes,
                values=len(mine),
                subjects=len({prints.owners[n] for n in mine}),
                copies=sum(mine.values()),
                planted=planted,
                seen=recognised,
                not_read=tuple(f"{reason} ({times})" for reason, times in sorted(tally.not_read.items())),
            )
        )
    return tuple(found)


def unread(why: str) -> tuple[Finding, ...]:
    """Of a server whose files nobody read."""
    return tuple(Finding(place, not_read=(why,)) for place in Place if place is not Place.BLOCKS)


def residuals(
    found: Sequence[Finding],
    steps: Iterable[Step],
    holders: Iterable[Residual],
    kept: Iterable[tuple[str, str]],
    *,
    rewrite: bool,
) -> tuple[Residual, ...]:
    """What is not gone, or may not be, and why; with a date where one is known."""
    listed = [*holders, *(Residual(Place.KEPT, path, until) for path, until in kept), _BLOCKS]
    refused = [s for s in steps if s.refused]
    for finding in found:
        if not finding.values or any(r.place is finding.place for r in listed):
            continue
        place, held = finding.place, f"{finding.values} values, {finding.copies} copies"
        if place in NOT_REWRITTEN and not rewrite:
            until = "until the space is used again; domicile purge MOVE --scan --rewrite ends it now"
            listed.append(Residual(place, f"{held}, {until}"))
        elif place is Place.LOGS:
            listed.append(Residual(place, f"{held}: remove the log's files, and log no parameters or details"))
        elif refused:
            listed.append(Residual(place, f"{held}: {refused[0].name} was {refused[0].refused}"))
    return tuple(listed)


def in_rows(values: Mapping[int, Collection[str]]) -> tuple[Residual, ...]:
    """``values``: those that were found on disk and stand in rows now, each with the tables that do not move in which
    it stands."""
    tables: dict[str, int] = {}
    for names in values.values():
        for name in names:
            tables[name] = tables.get(name, 0) + 1
    said = "value of the deleted rows stands", "values of the deleted rows stand"
    return tuple(
        Residual(Place.TABLES, f"{n} {said[n > 1]} in rows of {name}, which the purge does not touch")
        for name, n in sorted(tables.items())
    )


def lags(stages: Sequence[Stage]) -> dict[str, float]:
    """Seconds from the first handover to the first scan that found nothing in the place, and none after it did. Places
    in which nothing was ever found are not in it."""
    clean: dict[str, float] = {}
    for place in {p for s in stages for p, n in s.values.items() if n}:
        for stage in stages[1:]:  # the first is from before the deletion
            if stage.values.get(place, 0):
                clean.pop(place, None)
            else:
                clean.setdefault(place, stage.seconds)
    return clean


def stage(name: str, seconds: float, found: Iterable[Finding]) -> Stage:
    """A scan in short."""
    return Stage(name, round(seconds, 2), {str(f.place): f.values for f in found})


def is_shown(found: Iterable[Finding], canaries_left: int) -> bool:
    """Whether the search can see: in each place with canaries it found some before, and none is left now."""
    shown = [s for f in found if (s := f.sensitivity) is not None]
    return bool(shown) and min(shown) > 0 and not canaries_left


def is_closed(found: Iterable[Finding], listed: Iterable[Residual], today: date) -> bool:
    """True when nothing is found, nothing was left unread, and every dated residual has expired. What never ends by
    itself and cannot be read (free blocks) does not keep it open."""
    clean = all(not f.values and not f.not_read for f in found)
    waiting = [r for r in listed if r.place is not Place.BLOCKS and (not r.expires or r.expires > today.isoformat())]
    return clean and not waiting
