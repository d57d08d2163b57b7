"""Which table's rows are the subjects: by name, by what refers to it, by what its columns hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Schema, Table, TableName, quote_name
from domicile.survey.classify import Looks
from domicile.survey.names import TAILS, NameIndex, likely_references, referable
from domicile.survey.words import SERVANT_WORDS, SUBJECT_WORDS, singular, words

NAME_POINTS = 10.0
MENTION_POINTS = 4.0  # a table of something else that users have
REACH_WALKED_MAX = 20
PERSONAL_MAX = 6
# Ahead of the runner-up by this factor, the choice is clear.
CLEAR_LEAD = 1.25
# A table that is called after people leads before rooms and projects, which more may refer to, unless it is as far
# behind as this; before one whose columns are about people too only where it has more points.
FAR_BEHIND = 3.0
REFERRING_MIN = 3
RIVAL_PERSONAL_MIN = 2
CANDIDATES_LISTED_MAX = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """One table that could be the subject's. ``why`` is one line for the draft's reader; ``key`` is '' where no
    column can be it."""

    table: TableName
    key: str
    score: float
    why: str
    called_people: bool = False
    referring: int = 0  # tables
    personal: int = 0  # columns


def choose(
    schema: Schema, looks: Mapping[TableName, Looks], wanted: TableName | None, index: NameIndex
) -> tuple[Candidate, ...]:
    """The subject table first, then the runners-up.

    ``wanted`` is the operator's word. Raises DomicileError (map-incomplete) when none is clear or ``wanted``
    cannot be.
    """
    if wanted is not None:
        return (_wanted(schema, wanted),)
    found = ranked(candidates(schema, looks, index))
    best = found[0] if found else None
    if best is None or best.score < NAME_POINTS or not (best.called_people or best.personal):
        raise _unclear("no table looks like that of the subjects", found)
    rivals = [c for c in found[1:] if _rivals(best, c)]
    if rivals:
        raise _unclear(f"{best.table} and {rivals[0].table} both look like the table of the subjects", found)
    if not best.key:
        raise _keyless(schema.tables[best.table], "looks like the table of the subjects, but has no key")
    return tuple(found)


def ranked(found: list[Candidate]) -> list[Candidate]:
    """The likeliest first: by points; but tables called after people before all others, if others refer to them."""
    most = max((c.score for c in found), default=0.0)

    def order(c: Candidate) -> tuple[bool, float, TableName]:
        ahead = c.called_people and c.referring >= REFERRING_MIN and c.score * FAR_BEHIND >= most
        return not ahead, -c.score, c.table

    return sorted(found, key=order)


def _rivals(best: Candidate, other: Candidate) -> bool:
    """Whether only a person can tell which of the two it is."""
    if other.called_people and other.referring and not best.called_people:
        return True
    alike = other.called_people or not best.called_people or other.personal >= RIVAL_PERSONAL_MIN
    return alike and best.score < CLEAR_LEAD * other.score


def candidates(schema: Schema, looks: Mapping[TableName, Looks], index: NameIndex) -> list[Candidate]:
    """Every table that something speaks for, with its score.

    Tables refer to another by foreign keys, or by their columns' names where there are none. One without a key of one
    column counts if it is called after people: it may only lack the key.
    """
    referring = likely_references(schema, index)
    direct_of = {
        n: len(referring.get(n, ()))
        for n, t in schema.tables.items()
        if single_key(t) is not None or (referable(t) and _name_points(n) == NAME_POINTS)
    }
    # How far references reach is walked for those only that could lead.
    likely = set(sorted(direct_of, key=lambda n: (-direct_of[n], n))[:REACH_WALKED_MAX])
    found = []
    for name, direct in direct_of.items():
        points = _name_points(name)
        reach = len(_reach(name, referring)) if points > 0 or name in likely else direct
        personal = min(len(looks[name].strong), PERSONAL_MAX) if name in looks else 0
        score = points + direct + reach / 2 + personal
        many = " or more" if personal == PERSONAL_MAX else ""
        why = f"{direct} tables refer to it, {reach} with those that refer to them; {personal}{many} personal columns"
        if score > 0:
            key = single_key(schema.tables[name]) or ""
            why = f"its name says so; {why}" if points > 0 else why
            found.append(Candidate(name, key, score, why, points == NAME_POINTS, direct, personal))
    return found


def _name_points(name: TableName) -> float:
    """Whether a table's name says that its rows are people who are served."""
    said = [w for w in words(name.name) if w not in TAILS]
    known = {*said, *map(singular, said)}
    if known & SERVANT_WORDS:
        return -NAME_POINTS
    if said and {said[-1], singular(said[-1]), singular(said[-1]).removesuffix("profile")} & SUBJECT_WORDS:
        return NAME_POINTS
    return MENTION_POINTS if known & SUBJECT_WORDS else 0.0


def single_key(table: Table) -> str | None:
    """The one column that identifies a row: the primary key, else a unique column that is never null."""
    if len(table.primary_key) == 1:
        return table.primary_key[0]
    for key in table.unique_keys:
        if (
            len(key.columns) == 1
            and not key.partial
            and not key.on_expression
            and table.column(key.columns[0]).not_null
        ):
            return key.columns[0]
    return None


def _reach(start: TableName, referring: Mapping[TableName, set[TableName]]) -> set[TableName]:
    seen: set[TableName] = set()
    ahead = [start]
    while ahead:
        for following in referring.get(ahead.pop(), set()) - seen - {start}:
            seen.add(following)
            ahead.append(following)
    return seen


def _wanted(schema: Schema, wanted: TableName) -> Candidate:
    table = schema.tables.get(wanted)
    if table is None:
        raise DomicileError(
            ErrorCode.MAP_INCOMPLETE,
            f"there is no table {wanted}",
            facts={"table": str(wanted)},
            hint="Name the subject table with its schema, as in: --subject store.user_account",
        )
    key = single_key(table)
    if key is None:
        raise _keyless(table, "has no key of one column, and a subject needs one")
    return Candidate(wanted, key, 0.0, "named by the operator")


def _keyless(table: Table, why: str) -> DomicileError:
    unique = referable(table)
    hint = "Add a unique column that is never null, or choose another table with --subject."
    if unique:
        column = quote_name(unique[0])
        hint = (
            f"{column} is unique, but may be null. If it never is: alter table {table.name} alter column {column}"
            " set not null; else choose another table with --subject."
        )
    return DomicileError(ErrorCode.MAP_INCOMPLETE, f"{table.name} {why}", facts={"table": str(table.name)}, hint=hint)


def _unclear(message: str, found: list[Candidate]) -> DomicileError:
    """With the likeliest tables and what speaks for each, the best first: names and counts, no value of a row."""
    return DomicileError(
        ErrorCode.MAP_INCOMPLETE,
        message,
        facts={"candidates": {str(c.table): f"{c.score:.0f} points: {c.why}" for c in found[:CANDIDATES_LISTED_MAX]}},
        hint="Name it: domicile survey DATASET --site SITE --subject SCHEMA.TABLE",
    )
