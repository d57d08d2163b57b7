"""Where a subject's market can be read: a column of the subject table, or of a table its references lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import re

from psycopg import sql

from domicile.model.schema import Column, Reference, Schema, Table, TableName
from domicile.survey.measure import SAMPLE_ROWS_MAX, Measure, sample
from domicile.survey.words import is_textual, singular, words

STEPS_MAX = 4
CHAINS_MAX = 2000  # of references, the shortest first: a table may refer to dozens of others
MEASURED_MAX = 12
ASKED_FOR_COUNTRIES_MAX = 3  # expressions
COUNTRIES_MAX = 20
COUNTRY_SHARE_MIN = 0.05  # of the subjects
# In order of preference: a country three references away says more than a locale in the row itself.
_TIERS = (("market", "country", "nation", "land", "pays", "pais"), ("region", "territory"), ("locale",))
# Reserved words of PostgreSQL: as identifiers they need quotes.
_RESERVED_WORDS = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
collation column concurrently constraint create cross current_catalog current_date current_role current_schema
current_time current_timestamp current_user default deferrable desc distinct do else end except false fetch
for foreign freeze from full grant group having ilike in initially inner intersect into is isnull join lateral
leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer
overlaps placing primary references returning right select session_user similar some symmetric system_user
table tablesample then to trailing true union unique user using variadic verbose when where window with
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())
_LABELS = ("code", "iso", "iso_code", "name")


@dataclass(frozen=True, slots=True)
class Market:
    """A candidate: the SQL expression over alias ``subject``, and what measuring it showed. ``country``: it says a
    country or a market, not a part of one or a language."""

    expression: str
    why: str
    country: bool = False


async def candidates(measure: Measure, schema: Schema, subject: TableName) -> tuple[Market, ...]:
    """Expressions that may say a subject's market, the most likely first; each was run on the data."""
    found: list[tuple[tuple[int, int, int], str, str]] = []
    for path in _paths(schema, subject):
        table = schema.tables[path[-1].to_table if path else subject]
        for column in table.columns:
            rank = _rank(table, column)
            if rank is not None:
                tier, place = rank
                said = f"{table.name}, column {column.name}"
                found.append(((tier, len(path), place), _expression(path, column.name), said))
    markets = []
    for (tier, *_), expression, where in sorted(found)[:MEASURED_MAX]:
        # As good as literal: `_expression` makes it of keywords and quoted identifiers only.
        measured = await measure.distinct(schema.tables[subject], sql.SQL(expression))
        if measured is None or not measured[0]:
            markets.append(Market(expression, f"{where}; not measured", tier == 0))
            continue
        rows, distinct, nulls = measured
        why = f"{where}; {distinct} values over {rows} subjects, {nulls} without one"
        markets.append(Market(expression, why, tier == 0))
    return tuple(markets)


async def countries(measure: Measure, subject: Table, found: Sequence[Market]) -> tuple[str, ...]:
    """The countries (ISO 3166, two letters) that most subjects are of, at most `COUNTRIES_MAX`, without those of few:
    among many plans of numbers one fits any number. The values of the first of ``found`` that has some; only values of
    two letters leave the server."""
    from domicile.survey import checks  # it loads the countries' plans of numbers: not for every command

    for one in [m for m in found if m.country][:ASKED_FOR_COUNTRIES_MAX]:
        row = await measure.row(
            sql.SQL(_TWO_LETTERS).format(
                expression=sql.SQL(one.expression),  # as good as literal, as above
                sample=sample(subject, [sql.SQL("*")], SAMPLE_ROWS_MAX),
                most=sql.Literal(COUNTRIES_MAX),
                share=sql.Literal(COUNTRY_SHARE_MIN),
            )
        )
        if row is not None and (known := checks.countries(row[0] or ())):
            return known
    return ()


def _paths(schema: Schema, subject: TableName) -> list[tuple[Reference, ...]]:
    """Chains of declared references out of the subject table, shortest first; a table once per chain."""
    chains: list[tuple[Reference, ...]] = [()]
    for chain in chains:
        if len(chains) >= CHAINS_MAX:
            break
        at = chain[-1].to_table if chain else subject
        passed = {subject, *(r.to_table for r in chain)}
        if len(chain) < STEPS_MAX:
            chains += [(*chain, r) for r in schema.tables[at].references if r.to_table not in passed]
    return chains


def _rank(table: Table, column: Column) -> tuple[int, int] | None:
    """How well a column says a market: tier and place in it; None: it does not.

    A label of a table that is called by the word counts too: ``name`` of ``country``.
    """
    if not _reads_well(column):
        return None
    said = {singular(w) for w in words(column.name)}
    here = {singular(w) for w in words(table.name.name)}
    for tier, known in enumerate(_TIERS):
        for place, word in enumerate(known):
            if word in said or (word in here and column.name in _LABELS):
                return tier, place
    return None


def _reads_well(column: Column) -> bool:
    return is_textual(column) or column.base_kind == "e"


def _quoted(name: str) -> str:
    """An identifier that is safe in SQL, quoted only where it must be."""
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


def _expression(path: tuple[Reference, ...], column: str) -> str:
    if not path:
        return f"subject.{_quoted(column)}"
    lines = []
    for position, reference in enumerate(path, start=1):
        at, before = f"m{position}", "subject" if position == 1 else f"m{position - 1}"
        on = " and ".join(
            f"{at}.{_quoted(theirs)} = {before}.{_quoted(ours)}"
            for ours, theirs in zip(reference.columns, reference.to_columns, strict=True)
        )
        to = reference.to_table
        lines.append((f"{_quoted(to.schema)}.{_quoted(to.name)}", at, on))
    first, at, on = lines[0]
    joins = [f"   join {table} {alias} on {condition}" for table, alias, condition in lines[1:]]
    return "\n".join([f"(select m{len(lines)}.{_quoted(column)}", f"   from {first} {at}", *joins, f"  where {on})"])


_TWO_LETTERS = """
select array_agg(c.said order by c.rows desc, c.said) from (
    select upper(btrim(e.said)) as said, count(*) as rows, sum(count(*)) over () as all_rows
    from (select ({expression})::text as said from {sample} as subject) as e
    where btrim(e.said) ~ '^[A-Za-z]{{2}}$' group by 1 order by 2 desc, 1 limit {most}) as c
where c.rows >= c.all_rows * {share}
"""
