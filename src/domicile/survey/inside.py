"""Keys where no owner path can follow them: in arrays, in JSON documents, in columns that mean one of several tables.

Each is reported with its measured containment, by path and table, never with a value. A table that has no certain
owner otherwise is left to a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg import sql

from domicile.model.schema import Column, Table
from domicile.postgres.ownership import column, ident
from domicile.survey.measure import SAMPLE_ROWS_MAX, sample
from domicile.survey.names import NameIndex, comparable_keys, is_telling, said_words, says_person
from domicile.survey.polymorphic import pairs_by_name, report_polymorphic
from domicile.survey.state import State, holds_rows
from domicile.survey.undeclared import BELIEVED_SHARE, BY_VALUES_ALONE_MIN
from domicile.survey.words import singular, words

DOCUMENTS_MAX = 500  # looked at
# A key that many documents have, and that is written like a name, is structure; any other could be a value.
PATH_SHARE = 0.2
PATH_DOCUMENTS_MIN = 5
PATH_FORM = "^[A-Za-z_][A-Za-z_-]{0,40}$"
JSON = frozenset({"json", "jsonb"})


async def report_keys_inside(state: State, index: NameIndex) -> None:
    """Say what arrays, documents and polymorphic columns hold; leave a table open that has nothing better."""
    for name, table in sorted(state.schema.tables.items()):
        if not holds_rows(table):
            continue
        if not table.rows_estimate:
            if name not in state.rules and (said := pairs_by_name(state, index, table)):
                state.leave_open(name)
                state.say(name, *said)
            continue
        said = await report_polymorphic(state, table)
        for array in table.columns:
            if array.element_type:
                said += await _array(state, index, table, array)
            elif array.base_type in JSON:
                said += await _documents(state, table, array)
        if said and name not in state.rules:
            state.leave_open(name)
        state.say(name, *said)


async def _array(state: State, index: NameIndex, table: Table, array: Column) -> list[str]:
    """The tables whose keys an array's elements are, of those that its name means, or the subject."""
    element = replace(
        array,
        name="_".join(_one(w) for w in words(array.name)),
        base_type=array.element_type,
        base_schema=array.element_schema,
        element_type="",
    )
    meant = [m.table for m in index.meant(table, element)[:1]]
    if not meant and (says_person(element.name) or is_telling(element)):
        meant = [state.subject]
    said = []
    for to_table in meant:
        for key in comparable_keys(element, state.table(to_table))[:2]:
            row = await state.measure.row(
                sql.SQL(
                    "select count(*), count(*) filter (where exists (select from {to} as k where k.{key} = v.one))"
                    " from (select distinct e.one from {sample} as s cross join lateral unnest(s.{name}) as e (one)"
                    " where e.one is not null limit {limit}) as v"
                ).format(
                    to=ident(to_table),
                    key=sql.Identifier(key),
                    name=sql.Identifier(array.name),
                    sample=sample(table, [sql.Identifier(array.name)], SAMPLE_ROWS_MAX),
                    limit=sql.Literal(SAMPLE_ROWS_MAX),
                )
            )
            least = 1 if said_words(element.name) and not is_telling(element) else BY_VALUES_ALONE_MIN
            if row is not None and row[0] >= least and row[1] >= BELIEVED_SHARE * row[0]:
                said.append(
                    f"array {array.name} holds keys of {to_table} ({key}): {row[1]} of {row[0]} distinct elements"
                    " sampled are found there; no owner path follows an array"
                )
                break
    return said


def _one(word: str) -> str:
    return word.removesuffix("s") if word in {"ids", "uuids"} else singular(word)


async def _documents(state: State, table: Table, document: Column) -> list[str]:
    """The paths of JSON documents whose values are the subject's keys."""
    said = []
    for key, form, kind in _subject_keys(state):
        row = await state.measure.row(
            sql.SQL(_PATHS).format(
                sample=sample(table, [sql.Identifier(document.name)], DOCUMENTS_MAX),
                document=column("s", document.name),
                to=ident(state.subject),
                key=sql.Identifier(key),
                kind=sql.SQL(kind),
                form=sql.Literal(form),
                path_form=sql.Literal(PATH_FORM),
                path_share=sql.Literal(PATH_SHARE),
                path_documents=sql.Literal(PATH_DOCUMENTS_MIN),
            )
        )
        if row is None:
            state.say(table.name, f"not measured: whether JSON {document.name} holds keys of {state.subject} ({key})")
            continue
        for path, distinct, found in row[0] or []:
            # A number is a subject's because the path says so: {"user_id": 7}, {"user": {"id": 7}}.
            named = any(says_person(step) for step in (path.replace(".id", "").split(".")[-1], path.split(".")[-1]))
            if found < BELIEVED_SHARE * distinct or distinct < BY_VALUES_ALONE_MIN or not (named or kind != "int8"):
                continue
            said.append(
                f"JSON {document.name}, path {path}, holds keys of {state.subject} ({key}): {found} of {distinct}"
                " distinct values sampled are found there; no owner path follows JSON"
            )
    return said


def _subject_keys(state: State) -> Iterator[tuple[str, str, str]]:
    """The subject's keys, the form of their values as text, and their type."""
    subject = state.table(state.subject)
    for name in (c.name for c in subject.columns):
        found = subject.column(name)
        if name not in comparable_keys(found, subject):
            continue
        if found.base_type in {"int2", "int4", "int8"}:
            yield name, "^[0-9]{1,18}$", "int8"
        elif found.base_type == "uuid":
            yield name, "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", "uuid"
        elif is_telling(found):
            yield name, ".", "text"


# Scalars at the first two levels, and in arrays at the first.
_PATHS = """
with d as (
    select row_number() over () as no, to_jsonb({document}) as doc from {sample} as s where {document} is not null
),
one as (
    select d.no, e.key as path, e.value from d, lateral jsonb_each(d.doc) as e where jsonb_typeof(d.doc) = 'object'
    and e.key ~ {path_form}
),
leaf as (
    select no, path, value from one where jsonb_typeof(value) in ('string', 'number')
  union all
    select one.no, one.path || '.' || e.key, e.value from one, lateral jsonb_each(one.value) as e
    where jsonb_typeof(one.value) = 'object' and e.key ~ {path_form} and jsonb_typeof(e.value) in ('string', 'number')
  union all
    select one.no, one.path || '[]', e.value from one, lateral jsonb_array_elements(one.value) as e
    where jsonb_typeof(one.value) = 'array' and jsonb_typeof(e.value) in ('string', 'number')
),
known as (  -- by documents: one that holds a hundred keys under a name is one
    select path from leaf group by path
    having count(distinct no) >= greatest({path_documents}, {path_share} * (select count(*) from d))
),
value as (
    select distinct l.path, v.said from leaf as l cross join lateral (values (l.value #>> '{{}}')) as v (said)
    where l.path in (select path from known) and v.said ~ {form}
)
select json_agg(json_build_array(p.path, p.values, p.found) order by p.path) from (
    select v.path, count(*) as values,
           count(*) filter (where exists (select from {to} as k where k.{key} = case when v.said ~ {form}
                                                                                     then v.said::{kind} end)) as found
    from value as v group by v.path) as p
"""
