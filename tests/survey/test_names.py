"""What columns are called: whom they may mean, and whom not."""

from __future__ import annotations

import pytest

from domicile.model.schema import Column, Schema, Table, TableKind, TableName
from domicile.survey.names import NameIndex, acts_on, glued_stem, says_person, stamps


def table(name: str, *columns: str) -> Table:
    made = tuple(Column(c, "bigint", "int8", not_null=True) for c in ("id", *columns))
    return Table(TableName("public", name), TableKind.ORDINARY, made, primary_key=("id",))


def schema(*tables: Table) -> Schema:
    return Schema({t.name: t for t in tables}, 180000)


@pytest.mark.parametrize(
    ("column", "person", "acts"),
    [
        ("author_id", True, False),
        ("sender_id", True, False),
        ("sent_by", True, False),
        ("postedBy", True, False),
        ("writtenby", True, False),
        ("submitted_by_id", True, False),
        ("requested_by_user_id", True, False),
        ("creatorid", True, True),
        ("creator_id", True, True),
        ("createdBy", True, True),
        ("createdby", True, True),
        ("created_by_id", True, True),
        ("added_by", True, True),
        ("banned_by", True, True),
        ("grantedBy", True, True),
        ("disabledby", True, True),
        ("enabledbyid", True, True),
        ("mergedById", True, True),
        ("suspended_by_user_id", True, True),
        ("imported_by_uuid", True, True),
        ("hidden_by", True, True),
        ("hiddenby", True, True),
        ("madeby", True, True),
        ("pinned_by", True, True),
        ("last_sent_by", True, True),
        ("approver_id", False, True),
        ("assigned_to", True, True),
        ("updated_by", True, True),
        ("lasteditorid", True, True),
        ("write_uid", True, True),
        ("order_id", False, False),
        ("standby", False, False),
        ("group_by", True, True),
        ("by_user_id", True, False),
        ("lobby_id", False, False),
        ("updated_at", False, False),
        ("level", False, False),
    ],
)
def test_persons(column: str, person: bool, acts: bool) -> None:
    assert (says_person(column), acts_on(column)) == (person, acts)


@pytest.mark.parametrize(
    ("column", "stem"),
    [("userid", "user"), ("channelId", ""), ("paid", ""), ("id", ""), ("uuid", ""), ("postuuid", "post")],
)
def test_glued(column: str, stem: str) -> None:
    assert glued_stem(column) == stem


@pytest.mark.parametrize(
    ("at", "column", "meant"),
    [
        ("post", "user_id", ["users"]),
        ("post", "userid", ["users"]),
        ("post", "billing_address_id", ["addresses"]),
        ("post", "order_item_id", ["order_items"]),
        ("post", "user_profile_id", ["zerver_userprofile"]),
        ("zerver_post", "topic_id", ["zerver_topic", "wiki_topic"]),
        ("wiki_post", "topic_id", ["wiki_topic", "zerver_topic"]),
        ("post", "shard_2_id", ["shard_2"]),
        ("post", "client_entity_id", ["client_entity"]),
        ("post", "client_id", ["client_entity"]),
        ("post", "course_id", ["courses"]),
        ("post", "box_id", ["boxes"]),
        ("post", "member_id", ["club_member"]),
        ("post", "first_member_id", []),
        ("post", "paid", []),
        ("post", "order", []),
        ("users", "user_id", []),
    ],
)
def test_meant(at: str, column: str, meant: list[str]) -> None:
    tables = (
        "users addresses order_items order zerver_userprofile zerver_topic zerver_stream wiki_topic wiki_page"
        " wiki_thing courses boxes club_member shard_1 shard_2 shard_3 client_entity"
    )
    known = (
        schema(*(table(t) for t in tables.split()), table(at, column)) if at != "users" else schema(table(at, column))
    )
    index = NameIndex(known)
    asking = known.tables[TableName("public", at)]
    assert [m.table.name for m in index.meant(asking, asking.column(column))] == meant


PLURALS = """
    movie/movies quiz/quizzes hero/heroes shoe/shoes status/statuses response/responses bus/buses person/people
    child/children index/indices analysis/analyses basis/bases base/bases company/companies news/news series/series
    box/boxes branch/branches address/addresses virus/viruses shelf/shelves
"""


@pytest.mark.parametrize(("column", "plural"), [pair.split("/") for pair in PLURALS.split()])
def test_plurals(column: str, plural: str) -> None:
    known = schema(table(plural), table("note", f"{column}_id"))
    asking = known.tables[TableName("public", "note")]
    found = NameIndex(known).meant(asking, asking.column(f"{column}_id"))
    assert [m.table.name for m in found] == [plural]


def test_a_column_of_nearly_every_table_is_a_stamp() -> None:
    stamped = [table(f"thing_{n}", "create_uid", "user_id") for n in range(30)]
    assert stamps(schema(*stamped)) == {"create_uid"}
    plain = [table(f"other_{n}", "user_id") for n in range(30)]
    assert stamps(schema(*stamped, *plain)) == frozenset()
    assert stamps(schema(*stamped[:5])) == frozenset()
