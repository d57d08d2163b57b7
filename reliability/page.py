"""The page of what was tried against domicile, from what is on record: docs/reliability.md.

    python -m reliability.page [--check] [--json]

Every figure on it is one of reliability/results/, written there by the program that took it (``--record``). ``--check``
writes nothing and exits 1 when the page is not what the results give. Nothing is random: there is no seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
import sys
import textwrap
from typing import Any

from reliability import record

PAGE = record.ROOT / "docs" / "reliability.md"
WIDTH = 120
Figures = Mapping[str, Any]

HEAD = """\
# Reliability

Written by `python -m reliability.page` from the files in [reliability/results](../reliability/results/): no figure is
typed by hand.

The claim is that a move never loses, doubles or exposes a row, and that a subject never has two homes. The programs
below set out to refute it. A campaign that finds nothing proves nothing beyond its bounds, so the bounds are given,
with what repeats each run. Each program is also turned against defects that were made on purpose: one that cannot see
these sees nothing."""

# Where a figure comes from, not what it is of.
ORIGIN = frozenset({"date", "version", "commit", "seed", "first", "first_seed", "raw"})


@dataclass(frozen=True, slots=True)
class Section:
    """One program: what its run claims, what that leaves out, and how its figures are shown."""

    name: str
    title: str
    claim: str
    limits: str
    command: str
    shown: Callable[[Figures], Iterator[str]]


def main(arguments: Sequence[str] | None = None, page: Path = PAGE, results: Path = record.RESULTS) -> int:
    """The exit code."""
    options = _options(arguments)
    found = record.read_all(results)
    text = render(found)
    same = page.exists() and page.read_text(encoding="utf-8") == text
    if not options.check:
        page.write_text(text, encoding="utf-8")
    told = {
        "page": page.name,
        "same": same,
        "shown": sorted(found),
        "not_run": [s.name for s in SECTIONS if s.name not in found],
    }
    print(json.dumps(told) if options.json else "\n".join(f"{key:8} {_text(value)}" for key, value in told.items()))
    return 1 if options.check and not same else 0


def render(results: Mapping[str, Figures]) -> str:
    """The page. Raises ValueError when there are results that no part of it shows."""
    if unknown := results.keys() - {section.name for section in SECTIONS}:
        raise ValueError(f"no section of the page shows {', '.join(sorted(unknown))}")
    parts = [HEAD, _overview(results), *(_section(section, results.get(section.name)) for section in SECTIONS)]
    return "\n\n".join(parts) + "\n"


def _overview(results: Mapping[str, Figures]) -> str:
    """Each program in a line: when it ran, and of which version."""
    rows = []
    for section in SECTIONS:
        figures = results.get(section.name)
        link = f"[{section.title}](#{section.title.lower().replace(' ', '-')})"
        rows.append((link, *(_origin(figures) if figures else ("not run yet", "", ""))))
    return table(("", "run on", "of", "seed"), rows)


def _origin(figures: Figures) -> tuple[str, str, str]:
    seed = next((figures[key] for key in ("seed", "first", "first_seed") if figures.get(key) is not None), None)
    of = " ".join(str(figures[key]) for key in ("version", "commit") if figures.get(key))
    return str(figures.get("date", "")), of, "" if seed is None else str(seed)


def _section(section: Section, figures: Figures | None) -> str:
    command = section.command.format_map(_Filled(figures or {}))
    lines = [f"## {section.title}", _prose(section.claim)]
    if section.limits:
        lines.append(_prose(f"Not covered: {section.limits}"))
    lines.append(f"Not run yet. To run it: `{command}`" if figures is None else f"To repeat it: `{command}`")
    lines += section.shown(figures) if figures is not None else ()
    return "\n\n".join(lines)


class _Filled(dict[str, object]):
    """Figures for the text of a command; what is not among them is named."""

    def __missing__(self, key: str) -> str:
        return key.upper()


# What is shown


def everything(figures: Figures) -> Iterator[str]:
    """Single figures in one table, then one table for each group of them."""
    single = {key: value for key, value in figures.items() if key not in ORIGIN and not isinstance(value, dict | list)}
    if single:
        yield table(("", "figure"), ((_label(key), _text(value)) for key, value in single.items()))
    for key, group in figures.items():
        if key in ORIGIN:
            continue
        if isinstance(group, dict) and group:
            yield _group(_label(key), group)
        elif isinstance(group, list) and group and all(isinstance(one, dict) for one in group):
            yield f"{_label(key).capitalize()}:"
            yield _columns(group, list(group[0]))
        elif isinstance(group, dict | list):
            yield f"{_label(key).capitalize()}: {_text(group)}."


def _group(label: str, group: Mapping[str, Any]) -> str:
    if all(isinstance(value, dict) for value in group.values()):
        columns = list(dict.fromkeys(key for value in group.values() for key in value))
        rows = [(name, *(_text(value.get(key, "")) for key in columns)) for name, value in group.items()]
        return table((label, *map(_label, columns)), rows)
    return table((label, ""), ((name, _text(value)) for name, value in group.items()))


def _model(figures: Figures) -> Iterator[str]:
    found = figures["configurations"]
    columns = ("name", "bounds", "states", "transitions", "depth", "seconds", "complete", "violation")
    yield from _only(figures, "bounds", "states", "transitions", "violations", "controls", "controls_found")
    yield _columns([one for one in found if not one["flaws"]], columns)
    if controls := [one for one in found if one["flaws"]]:
        yield "With one rule left out, each of these must be found out:"
        yield _columns(controls, ("name", "states", "violation"))


def _spin(figures: Figures) -> Iterator[str]:
    yield from _only(figures, "bounds", "states", "errors", "controls", "controls_found")
    columns = ("name", "states", "transitions", "depth", "seconds", "whole", "errors")
    yield _columns([one for one in figures["searches"] if not one["control"]], columns)
    if controls := [one for one in figures["searches"] if one["control"]]:
        yield "Broken on purpose, each of these must be found out:"
        yield _columns(controls, ("name", "states", "errors", "wrong"))


def _mutants(figures: Figures) -> Iterator[str]:
    tried = figures["tried"]
    share = {"caught_share": f"{100 * figures['caught'] / tried:.1f} %"} if tried else {}
    yield from _only({**figures, **share}, "planted", "tried", *_OUTCOMES, "caught_share")
    if figures["planted"] > tried:
        yield f"Not tried yet: {figures['planted'] - tried}."
    entries = figures["mutants"]
    if left := [one for one in entries if one["outcome"] not in ("caught", "harmless")]:
        yield "Not caught:"
        yield _columns(left, ("no", "name", "outcome", "why"))
    if harmless := [one for one in entries if one["outcome"] == "harmless"]:
        yield "Not caught, because no harm comes of them:"
        yield _columns(harmless, ("no", "name", "why"))
    yield "Caught, and by which test first:"
    caught = [{**one, "by": one["by"].partition("[")[0]} for one in entries if one["outcome"] == "caught"]
    yield _columns(caught, ("no", "name", "by", "date"))


def _simulation(figures: Figures) -> Iterator[str]:
    yield from everything({key: value for key, value in figures.items() if key not in ("campaigns", "found", "jobs")})
    yield "Run in pieces, each on the commit of its day:"
    yield _columns(figures["campaigns"], ("first", "seeds", "commit", "date"))
    if found := figures["found"]:
        yield "Found:"
        yield _columns(found, ("seed", "what"))


_OUTCOMES = ("caught", "harmless", "survived", "broken")


def _fuzz(figures: Figures) -> Iterator[str]:
    yield from _only(
        figures, "inputs", "input_bytes", "faults", "kinds_of_fault", "cpu_seconds_max", "memory_bytes_max", "seconds"
    )
    columns = ("name", "inputs", "seed", "slowest_seconds", "memory_mb", "faults", "date")
    targets = [
        {**said, "name": name, "faults": sum(one["times"] for one in said["faults"])}
        for name, said in figures["targets"].items()
    ]
    yield _columns(targets, columns)
    yield _prose(f"Errors of ours that were met: {_text([f'`{code}`' for code in figures['error_codes']])}.")


# How it is set


def _only(figures: Figures, *keys: str) -> Iterator[str]:
    """These single figures."""
    yield table(("", "figure"), ((_label(key), _text(figures[key])) for key in keys if key in figures))


def _columns(entries: Sequence[Figures], columns: Sequence[str]) -> str:
    """One row an entry."""
    return table(tuple(map(_label, columns)), (tuple(_cell(key, one) for key in columns) for one in entries))


def _cell(key: str, entry: Figures) -> str:
    """Numbers that count nothing are set without commas."""
    return str(entry.get(key, "")) if key in ("no", "seed", "first") else _text(entry.get(key, ""))


def _prose(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As GitHub reads it. Numbers stand to the right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    right = [any(row[at] for row in cells) and all(_numeric(row[at]) for row in cells) for at in range(len(head))]
    lines = [head, ["--:" if to_the_right else "---" for to_the_right in right], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _numeric(cell: str) -> bool:
    return not cell or cell.replace(",", "").replace(".", "", 1).removeprefix("-").isdigit()


def _label(key: str) -> str:
    return key.replace("_", " ")


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.10g}"
        case dict():
            return ", ".join(f"{key} {_text(one)}" for key, one in value.items()) or "none"
        case list():
            return ", ".join(map(_text, value)) or "none"
        case _:
            return str(value)


SECTIONS = (
    Section(
        "model",
        "Model",
        "Every state that the handover, its recovery, the rollback and the purge can reach within the bounds,"
        " with crashes, cut connections, statements that come late and a process that wakes up after another has"
        " taken over. In each, at most one home accepts writes, what was acknowledged is there once, and no"
        " outsider's row is at the other site; from each, an end is reached once nothing fails any more. The"
        " decisions are those of the code that runs.",
        "what lies beyond the bounds; the acts around the decisions are written down a second time for the model.",
        "python -m reliability.model --bounds {bounds} --controls",
        _model,
    ),
    Section(
        "spin",
        "Independent model",
        "The same promises of a second model, in Promela, written from the protocol and not from the code, and"
        " searched exhaustively by spin.",
        "what lies beyond its bounds, and whether the code does what the protocol says.",
        "python -m reliability.model.spin --bounds {bounds} --controls --require",
        _spin,
    ),
    Section(
        "simulation",
        "Simulation",
        "The core of the change stream, as it runs, between simulated sites, under one seeded scheduler with a"
        " virtual clock, network and crashes: no acknowledged write is lost or doubled, no outsider's row is sent,"
        " nobody has two homes, and every run comes to an end.",
        "what PostgreSQL itself does: its part is simulated.",
        "python -m reliability.simulation --seeds {seeds} --first {first}",
        _simulation,
    ),
    Section(
        "simulation_controls",
        "Controls of the simulation",
        "Defects are planted in what is simulated and in the code of the stream that runs there, one at a time, and the"
        " simulation finds each.",
        "",
        "python -m reliability.simulation --controls",
        everything,
    ),
    Section(
        "chaos",
        "Chaos",
        "Real movers and real servers, whose users write all the while, are killed, frozen, cut off, filled up"
        " and changed underneath. After each injection the move goes on or steps back, both sites are compared row"
        " by row with what was acknowledged, and work goes on within 30 seconds.",
        "faults of hardware that says it has written what it has not.",
        "python -m reliability.chaos --minutes {minutes} --seed {seed}",
        everything,
    ),
    Section(
        "schemas",
        "Random schemas",
        "Schemas that nobody designed, with every built-in type and types of their own, every kind of key and of owner"
        " path, partitions, references and names that need care, laid out in another way at each site: each is moved"
        " while users write, perhaps moved back, and purged, and after each step every row of both sites is what the"
        " writers were promised; or it is refused by name, where it must be.",
        "what the drawings do not have (`--show` prints one); tables of more than some hundred rows.",
        "python -m reliability.schemas --count {count} --seed {seed}",
        everything,
    ),
    Section(
        "oracle",
        "Oracle",
        "Through handovers and rollbacks of real servers, writers who know each acknowledged write find none"
        " lost, doubled, reordered, misplaced or accepted at two homes; the histories of their lists show nothing"
        " that the isolation level forbids.",
        "anything beyond two servers on one machine, or under faults: those are the part of chaos.",
        "python -m benchmarks.oracle --minutes {minutes} --seed {seed} --rate {rate}",
        everything,
    ),
    Section(
        "histories",
        "Checker of histories",
        "The checker of the histories of the oracle overlooks no planted anomaly, and accuses no sound history.",
        "",
        "python -m reliability.oracle --seeds {seeds} --seed {seed} --transactions {transactions}",
        everything,
    ),
    Section(
        "mutants",
        "Planted bugs",
        "Each promise of the protocol is broken by a small patch ([tests/mutants](../tests/mutants/)), one at a"
        " time, and a test notices.",
        "bugs of a kind that nobody thought of.",
        "python -m reliability.mutants",
        _mutants,
    ),
    Section(
        "fuzz",
        "Bad input",
        "Damaged plans, data maps, configurations, stream messages and arguments end in an error that has a code,"
        " in bounded time and memory, and no error gives a secret away.",
        "",
        "python -m reliability.fuzz --inputs {inputs}",
        _fuzz,
    ),
)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reliability.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is another")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
