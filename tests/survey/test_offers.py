"""What the survey offers a person to write is what a plan carries."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.conftest import create_database

from domicile.model.schema import TableName
from domicile.postgres.connect import SESSION, connect
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey.discover import Draft, draft

# Keys with gaps: no column holds them by chance. Topics and rooms are hubs, the one with a foreign key to its author.
SCHEMA = """
create table users (id bigint primary key, email text not null unique);
insert into users select n * 3 + n / 7, 'p' || n || '@example.org' from generate_series(1, 300) n;
create view who as select row_number() over (order by id) - 1 as n, id, email from users;

create table topics (id bigint primary key, author_id bigint not null references users, title text);
insert into topics select n * 7 + n / 5, id, 't' from who where n < 60;
create table rooms (id bigint primary key, author_id bigint not null, title text);
insert into rooms select n * 11 + n / 3, id, 't' from who where n < 200;

create table answers (
    id bigint primary key, topic_id bigint not null references topics, user_id bigint not null references users);
insert into answers select s.n * 13, t.id, w.id from generate_series(0, 1199) as s (n)
join who as w on w.n = s.n * 7 % 300
join (select row_number() over (order by id) - 1 as n, id from topics) as t on t.n = s.n % 60;
create table visits (
    id bigint primary key, room_id bigint not null references rooms, user_id bigint not null references users);
insert into visits select s.n * 17, r.id, w.id from generate_series(0, 1999) as s (n)
join who as w on w.n = s.n * 7 % 300
join (select row_number() over (order by id) - 1 as n, id from rooms) as r on r.n = s.n % 200;

create table requests (
    id bigint primary key, requester_id bigint not null references users, moderator_id bigint references users);
insert into requests select n * 19, id, (select id from who where n = (w.n + 5) % 200) from who as w;
create table claims (id bigint primary key, requester_id bigint not null references users, moderator_id bigint);
insert into claims select n * 23, id, (select id from who where n = (w.n + 5) % 200) from who as w;
create table pleas (
    id bigint primary key, requester_id bigint not null references users,
    banned_by text references users (email));
insert into pleas select n * 29, id, (select email from who where n = (w.n + 5) % 200) from who as w;
create table notes (
    id bigint primary key, requester_id bigint not null references users, moderator_id bigint);
alter table notes add foreign key (moderator_id) references users not valid;
insert into notes select n * 31, id, (select id from who where n = (w.n + 5) % 200) from who as w;
analyze;
"""


@pytest.fixture(scope="module")
async def found(pg18: EmbeddedCluster) -> AsyncIterator[Draft]:
    name = await create_database(pg18, "offers")
    async with await connect(pg18.conninfo(name)) as loading:
        await loading.execute(SCHEMA)
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        yield await draft(conn, "offers", subject="public.users")


def said(found: Draft, table: str) -> str:
    return "\n".join(found.comments[TableName("public", table)])


def test_a_hub_with_a_foreign_key_to_somebody_is_never_offered_the_policy_copy(found: Draft) -> None:
    """`postgres.shared_rows.reasons` refuses it: its rows lead to somebody's."""
    assert "a hub: " in said(found, "topics")
    assert "candidate: role: shared, with policy: present or refuse\n" in said(found, "topics") + "\n"
    refused = "a plan is refused while rows of it refer by author_id -> public.users(id) to who moves"
    assert refused in said(found, "topics")
    assert "a plan is refused" not in said(found, "rooms")


def test_a_hub_without_one_is(found: Draft) -> None:
    assert "a hub: " in said(found, "rooms")
    assert "candidate: role: shared, with policy: present, refuse, or copy if none is personal" in said(found, "rooms")


@pytest.mark.parametrize(
    ("table", "column"), [("claims", "moderator_id"), ("pleas", "banned_by"), ("notes", "moderator_id")]
)
def test_a_stub_is_offered_for_a_foreign_key_to_the_subjects_key_only(found: Draft, table: str, column: str) -> None:
    """`postgres.stub_rows.reasons` refuses every other: undeclared, to another column, not validated."""
    assert "candidate: parties: {moderator_id -> public.users(id): stub}" in said(found, "requests")
    assert f"refer by {column} -> " in said(found, table)
    assert "stub}" not in said(found, table)
    needed = "a stub of the other person would take a validated foreign key of the whole table to id"
    assert needed in said(found, table)
