"""How numberings look, and the SQL that sets sites apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from domicile.cli import units
from domicile.cli.tables import Col, hanging, table
from domicile.model.ids import (
    Blocked,
    Change,
    IdPlan,
    Ids,
    IdsChanged,
    KeyOrigin,
    Meeting,
    Numbering,
    Origin,
    SiteSequence,
)
from domicile.postgres.id_ranges import statements, way_back

_COLUMNS = (
    Col("key"),
    Col("site"),
    Col("next", number=True),
    Col("step", 5, number=True),
    Col("until", 6, number=True),
    Col("left", 4, number=True),
    Col("lasts", 3, number=True),
    Col("type", 2),
    Col("sequence", 1),
)
_CHANGED = (
    Col("sequence"),
    Col("site"),
    Col("now"),
    Col("becomes"),
)


def ids(found: Ids, width: int) -> Iterator[RenderableType]:
    """A line per sequence, then where sites meet, then the keys that no sequence numbers."""
    meeting = sum(not n.apart for n in found.numberings)
    state = f"{meeting} not apart" if meeting else "all apart" if found.numberings else "nothing to be set apart"
    headline = f"{units.plural(len(found.sites), 'site')}, {units.plural(len(found.numberings), 'numbering')}: "
    yield Text.assemble((f"{found.dataset}  ", "bold"), headline, (state, "bold red" if meeting else "green"))
    if found.numberings:
        yield Text()
        yield table(_COLUMNS, [row for n in found.numberings for row in _rows(n)], width)
    notes = [pair for n in found.numberings for pair in _notes(n)]
    if notes:
        yield Text()
        yield hanging(notes)
    if found.others:
        yield Text("\nkeys that no sequence numbers", style="bold")
        yield hanging((pair for key in found.others for pair in _other(key)), indent=2)
    if meeting:
        yield Text.assemble(("\nnext: ", "bold"), f"domicile ids {found.dataset} --plan ranges")


def plan(made: IdPlan, width: int) -> Iterator[RenderableType]:
    """What would change, and what is left as it is."""
    what = units.plural(len(made.changes), "change") if made.changes else "nothing to do"
    yield Text.assemble((f"{made.dataset}  ", "bold"), f"{made.style}: {what}, {made.apart} apart already")
    yield from _changes(made.changes, width)
    yield from _blocked(made.blocked)


def changed(done: IdsChanged, width: int) -> Iterator[RenderableType]:
    """What was changed."""
    what = units.plural(len(done.changes), "change") + " made" if done.changes else "nothing to do"
    yield Text.assemble((f"{done.dataset}  ", "bold"), f"{what}, {done.apart} were apart already")
    yield from _changes(done.changes, width)
    yield from _blocked(done.blocked)


def sql_text(made: IdPlan) -> str:
    """The SQL of every site, in the order in which it is to be run: as psql takes it. The way back of each part stands
    behind it, as a comment."""
    lines = [_comment(f"domicile ids {made.dataset} --plan {made.style}: run it in this order, each part at its site.")]
    site = ""
    for change in made.changes:
        before = change.before
        if before.site != site:
            site = before.site
            lines += ["", _comment(f"at {site}")]
        named = ", ".join(before.columns)
        lines += ["", _comment(f"{named}: {change.obstacle}" if change.obstacle else named), "begin;"]
        lines += [f"{statement.as_string(None)};" for statement in statements(change)]
        lines += ["commit;", *map(_comment, _way_back(change))]
    return "\n".join(lines) + "\n"


def _way_back(change: Change) -> Iterator[str]:
    yield f"the way back: {way_back(change).as_string(None)};"
    if change.restart is not None:
        yield (
            f"it goes on from where it is then; before, {change.before.next} was next: to begin there again"
            f" (restart with {change.before.next}), see first that no row has it or what follows, at any site"
        )


def _comment(text: str) -> str:
    """A line of comment: a name in it may hold a line break, behind which it would be SQL."""
    return "-- " + "".join(c if c.isprintable() else "\ufffd" for c in text)


def as_data(made: IdPlan | IdsChanged) -> dict[str, object]:
    """A plan, or what was carried out, for ``--json``: each change with its SQL."""
    return {
        "dataset": made.dataset,
        "changes": [_change_data(c) for c in made.changes],
        "blocked": made.blocked,
        "apart": made.apart,
    }


def _change_data(change: Change) -> dict[str, object]:
    before = change.before
    return {
        "site": before.site,
        "sequence": before.name,
        "columns": before.columns,
        "before": {"increment": before.increment, "lowest": before.lowest, "highest": before.highest},
        "after": {"increment": change.increment, "lowest": change.lowest, "highest": change.highest},
        "restart": change.restart,
        "beyond": change.beyond,
        "until": change.until,
        "obstacle": change.obstacle,
        "sql": [s.as_string(None) for s in statements(change)],
        "way_back": way_back(change).as_string(None),
    }


def change_line(change: Change) -> Text:
    """A change that was made, while others are to follow."""
    return Text(f"{change.before.site}: {change.before.name}: {_becomes(change)}")


def _rows(numbering: Numbering) -> Iterator[list[str | Text]]:
    name = ", ".join(numbering.columns)
    for number, s in enumerate(numbering.sequences):
        yield [
            name if number == 0 else "",
            s.site,
            units.count(s.next),
            f"{s.increment:+,}",
            _limit(s.limit),
            units.count(s.values_left),
            units.duration(s.seconds_left) if s.seconds_left is not None else "",
            s.type_name,
            str(s.name),
        ]


def _notes(numbering: Numbering) -> Iterator[tuple[Text, str]]:
    name = ", ".join(numbering.columns)
    for meeting in numbering.meetings:
        if meeting.near:
            yield Text("meet", style="bold red"), f"{name}: {_meeting(meeting)}"
    for site in numbering.lacking:
        yield Text("note", style="yellow"), f"{name}: no sequence fills it at {site}"
    for s in numbering.sequences:
        for text in _oddities(s):
            yield Text("note", style="yellow"), f"{s.name} at {s.site}: {text}"


def _meeting(meeting: Meeting) -> str:
    far = f"{units.count(meeting.values_ahead)} values ahead"
    if meeting.site == meeting.other:
        return f"{meeting.site} comes to ids of its own rows, {far}"
    if meeting.rows:
        return f"{meeting.site} comes to ids that rows at {meeting.other} have, {far}"
    return f"{meeting.site} and {meeting.other} number in the same range, {far}"


def _oddities(s: SiteSequence) -> Iterator[str]:
    if s.cache > 1:
        yield f"CACHE {s.cache}: sessions hold values that they took before; a change drops them with their next draw"
    if s.cycle:
        yield "CYCLE: after its last value it gives used ones again"
    if s.outside:
        yield f"it also fills {', '.join(s.outside)}, outside of the data map"
    if not s.owned:
        yield f"this role cannot change it; {s.owner} can"
    if not s.plain:
        yield "a default makes other values of its numbers: rows of that column are not looked at, see that they differ"


def _other(key: KeyOrigin) -> Iterator[tuple[Text, str]]:
    style = "yellow" if key.origin is Origin.UNSEEN else "dim"
    yield Text(str(key.origin), style=style), f"{key.table} ({', '.join(key.columns)}): {key.why}"


def _changes(changes: Sequence[Change], width: int) -> Iterator[RenderableType]:
    if changes:
        rows: list[list[str | Text]] = [
            [
                str(c.before.name),
                c.before.site,
                _shape(c.before.next, c.before.increment, _limit(c.before.limit)),
                _becomes(c),
            ]
            for c in changes
        ]
        yield Text()
        yield table(_CHANGED, rows, width)
    for change in changes:
        if change.obstacle:
            yield Text.assemble(
                ("\nnote  ", "yellow"), f"{change.before.name} at {change.before.site}: {change.obstacle}"
            )


def _blocked(blocked: Sequence[Blocked]) -> Iterator[RenderableType]:
    for one in blocked:
        yield Text.assemble(("\nleft as it is: ", "bold red"), f"{', '.join(one.columns)}: {one.why}")
        yield Text.assemble(("next: ", "bold"), one.hint)


def _becomes(change: Change) -> str:
    before = change.before
    after = change.restart
    if after is None and change.beyond is not None:
        after = before.next + -(-(change.beyond - before.next + before.sign) // change.increment) * change.increment
    limit = change.highest if before.increment > 0 else change.lowest
    narrow = min(limit, before.type_limit) if before.increment > 0 else max(limit, before.type_limit)
    return _shape(before.next if after is None else after, change.increment, _limit(narrow))


def _shape(first: int, step: int, limit: str) -> str:
    by = f" by {step}" if step != 1 else ""
    return f"{first:,} to {limit}{by}"


def _limit(limit: int) -> str:
    """The end of the type by its name: nobody counts its digits."""
    if abs(limit) >= 2**63 - 1:
        return "end of bigint"
    return "end of integer" if abs(limit) in (2**31 - 1, 2**31) else units.count(limit)
