"""Which table's rows are the subjects: by name, by what refers to it, by what its columns hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Schema, Table, TableName
from domicile.survey.classify import Looks
from domicile.survey.names import TAILS, NameIndex, likely_references
from domicile.survey.words import SERVANT_WORDS, SUBJECT_WORDS, singular, words

NAME_POINTS = 10.0
MENTION_POINTS = 4.0  # a table of something else that users have
REACH_WALKED_MAX = 20
PERSONAL_MAX = 6
# Ahead of the runner-up by this factor, the choice is clear.
CLEAR_LEAD = 1.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """One table that could be the subject's. ``why`` is one line for the draft's reader."""

    table: TableName
    key: str
    score: float
    why: str


def choose(
    schema: Schema, looks: Mapping[TableName, Looks], wanted: TableName | None, index: NameIndex
) -> tuple[Candidate, ...]:
    """The subject table first, then the runners-up.

    ``wanted`` is the operator's word. Raises DomicileError (map-incomplete) when none is clear or ``wanted``
    cannot be.
    """
    if wanted is not None:
        return (_wanted(schema, wanted),)
    found = sorted(candidates(schema, looks, index), key=lambda c: (-c.score, c.table))
    best = found[0] if found else None
    if best is None or best.score < NAME_POINTS:
        raise _unclear("no table looks like that of the subjects", found)
    if len(found) > 1 and best.score < CLEAR_LEAD * found[1].score:
        raise _unclear(f"{best.table} and {found[1].table} both look like the table of the subjects", found)
    return tuple(found)


def candidates(schema: Schema, looks: Mapping[TableName, Looks], index: NameIndex) -> list[Candidate]:
    """Every table with a single-column key that something speaks for, with its score.

    Tables refer to another by foreign keys, or by their columns' names where there are none.
    """
    referring = likely_references(schema, index)
    direct_of = {n: len(referring.get(n, ())) for n, t in schema.tables.items() if single_key(t) is not None}
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
            key = single_key(schema.tables[name])
            assert key is not None, name
            found.append(Candidate(name, key, score, f"its name says so; {why}" if points > 0 else why))
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
        raise DomicileError(
            ErrorCode.MAP_INCOMPLETE,
            f"{wanted} has no key of one column, and a subject needs one",
            facts={"table": str(wanted)},
            hint="Add a unique column that is never null, or choose another table.",
        )
    return Candidate(wanted, key, 0.0, "named by the operator")


def _unclear(message: str, found: list[Candidate]) -> DomicileError:
    return DomicileError(
        ErrorCode.MAP_INCOMPLETE,
        message,
        facts={"candidates": [str(c.table) for c in found[:5]]},
        hint="Name it: domicile survey DATASET --site SITE --subject SCHEMA.TABLE",
    )
