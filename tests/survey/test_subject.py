"""Which table is the subjects': not what most others refer to, but the people; a question where that is not clear."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Column, Reference, Schema, Table, TableKind, TableName, UniqueKey
from domicile.survey.classify import Looks
from domicile.survey.names import NameIndex
from domicile.survey.subject import Candidate, choose


def name(table: str) -> TableName:
    return TableName("public", table)


def made(table: str, *refers: str, key: str = "id") -> Table:
    """A table whose columns ``x_id`` refer to tables by foreign keys: ``room_id`` to ``room``."""
    columns = [Column("id", "bigint", "int8", not_null=True)]
    columns += [Column(c, "bigint", "int8", not_null=True) for c in refers]
    references = tuple(Reference(name(table), (c,), name(c.removesuffix("_id")), ("id",)) for c in refers)
    return Table(
        name(table), TableKind.ORDINARY, tuple(columns), primary_key=(key,) if key else (), references=references
    )


def chosen(tables: Sequence[Table], personal: dict[str, int] | None = None) -> tuple[Candidate, ...]:
    schema = Schema({t.name: t for t in tables}, 180000)
    looks = {
        n: Looks(strong={f"column_{i}": "by its name" for i in range((personal or {}).get(n.name, 0))})
        for n in schema.tables
    }
    return choose(schema, looks, None, NameIndex(schema))


def chat(rooms: int, people: int) -> list[Table]:
    """A service where ``rooms`` tables refer to rooms, and ``people`` of them to a person too."""
    things = [made(f"thing_{chr(97 + n)}", "room_id", *(["member_id"] if n < people else [])) for n in range(rooms)]
    return [made("room"), made("member"), *things]


def test_people_lead_before_what_more_tables_refer_to() -> None:
    found = chosen(chat(20, 12), {"member": 1})
    assert [str(c.table) for c in found[:2]] == ["public.member", "public.room"]


def test_what_has_no_personal_column_and_no_name_of_people_is_not_chosen() -> None:
    with pytest.raises(DomicileError) as refused:
        chosen([made("room"), *(made(f"thing_{chr(97 + n)}", "room_id") for n in range(20))])
    assert refused.value.code is ErrorCode.MAP_INCOMPLETE
    assert refused.value.message == "no table looks like that of the subjects"


def test_people_that_hardly_any_table_refers_to_are_a_question() -> None:
    with pytest.raises(DomicileError) as refused:
        chosen(chat(26, 1), {"room": 1})
    assert "both look like" in refused.value.message


def test_a_table_about_people_by_another_name_is_a_question() -> None:
    with pytest.raises(DomicileError, match=r"public\.member and public\.room both look like") as refused:
        chosen(chat(26, 12), {"member": 2, "room": 5})
    listed = refused.value.facts["candidates"]
    assert isinstance(listed, dict)
    assert list(listed)[:2] == ["public.member", "public.room"], "the best first"
    why = "44 points: 26 tables refer to it, 26 with those that refer to them; 5 personal columns"
    assert listed["public.room"] == why
    assert len(listed) <= 5


def test_people_without_a_key_are_named_with_what_they_lack() -> None:
    tables = [t for t in chat(12, 12) if t.name != name("member")]
    unique = UniqueKey("member_id_key", ("id",), False, False, False, False, "create unique index")
    member = Table(
        name("member"), TableKind.ORDINARY, (Column("id", "bigint", "int8", not_null=False),), unique_keys=(unique,)
    )
    with pytest.raises(DomicileError) as refused:
        chosen([*tables, member], {"member": 1})
    assert refused.value.message == "public.member looks like the table of the subjects, but has no key"
    assert "alter table public.member alter column id set not null" in refused.value.hint


def test_who_wrote_a_row_counts_for_nothing_where_every_table_says_it() -> None:
    """``created_by`` of all tables leads to those who work with the program, not to those it serves."""
    columns = tuple(Column(c, "bigint", "int8", not_null=True) for c in ("id", "created_by", "customer_id"))
    tables = [
        Table(
            name(f"thing_{chr(97 + n)}"),
            TableKind.ORDINARY,
            columns,
            primary_key=("id",),
            references=(
                Reference(name(f"thing_{chr(97 + n)}"), ("created_by",), name("users"), ("id",)),
                Reference(name(f"thing_{chr(97 + n)}"), ("customer_id",), name("customer"), ("id",)),
            ),
        )
        for n in range(24)
    ]
    found = chosen([made("users"), made("customer"), *tables], {"users": 2, "customer": 2})
    assert found[0].table == name("customer")
