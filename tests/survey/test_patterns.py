"""What the names of public code bases seem to say, and do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.conftest import create_database

from domicile.model.datamap import Role
from domicile.model.schema import TableName
from domicile.postgres.connect import SESSION, connect
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey.discover import Draft, draft

PATTERNS = Path(__file__).with_name("patterns.sql").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
async def found(pg18: EmbeddedCluster) -> AsyncIterator[Draft]:
    name = await create_database(pg18, "patterns")
    async with await connect(pg18.conninfo(name)) as loading:
        await loading.execute(PATTERNS)
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        yield await draft(conn, "patterns")


def owner(found: Draft, table: str) -> str:
    return str(found.data_map.tables[TableName("public", table)].owner)


def said(found: Draft, table: str) -> str:
    return "\n".join(found.comments[TableName("public", table)])


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("group_users", "user_id"),
        ("group_requests", "asking_user_id"),
        ("user_uploads", "user_id"),
        ("user_cards", "user_id"),
    ],
)
def test_a_table_beside_others_of_its_first_word_is_no_application(found: Draft, table: str, column: str) -> None:
    assert owner(found, table) == f"{column} -> public.users(id)"
    assert "group_users(id)" not in said(found, table)
    assert "user_uploads(id)" not in said(found, table)


def test_who_dealt_with_a_row_leaves_its_owner_and_is_offered_as_a_party(found: Draft) -> None:
    assert owner(found, "requests") == "requester_id -> public.users(id)"
    assert "refer by moderator_id -> public.users(id) to a row of another owner" in said(found, "requests")
    assert "candidate: parties: {moderator_id -> public.users(id): stub}" in said(found, "requests")


def test_a_number_that_is_called_like_the_end_of_a_name_is_no_key(found: Draft) -> None:
    assert found.data_map.tables[TableName("public", "shelves")].role is Role.LOCAL
    assert "notice_permissions" not in said(found, "shelves")


@pytest.mark.parametrize("table", ["room_states", "media"])
def test_a_kind_that_belongs_to_the_thing_itself(found: Draft, table: str) -> None:
    assert "several tables" not in said(found, table)
    assert "which table is meant" not in said(found, table)


def test_a_table_without_rows_that_names_a_person_is_a_question(found: Draft) -> None:
    assert TableName("public", "letters") in found.undecided
    assert "candidate: role: owned, owner: author_id -> public.users(id)" in said(found, "letters")
    assert found.data_map.tables[TableName("public", "switches")].role is Role.LOCAL
