"""Owners in a database without most of its foreign keys: what is followed, what is asked, and what is said of both."""

from __future__ import annotations

from collections.abc import AsyncIterator
import io
from pathlib import Path

import psycopg
from psycopg import AsyncConnection, sql
import pytest
from rich.console import Console
from tests.conftest import create_database

from domicile.cli import render_survey
from domicile.cli.as_json import plain
from domicile.model.datamap import Role
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey.discover import Draft, draft
from domicile.survey.explain import explain, find_table
from domicile.survey.measure import SAMPLE_ROWS_MAX, Measure, sample
from domicile.survey.outline import Outline, OutlinedColumn, outline

UNTIDY = Path(__file__).with_name("untidy.sql").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
async def untidy(server: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    name = await create_database(server, "untidy")
    async with await connect(server.conninfo(name)) as loading:
        await loading.execute(UNTIDY)
    async with await connect(server.conninfo(name), settings=SESSION) as connection:
        yield connection


@pytest.fixture(scope="module")
async def found(untidy: AsyncConnection) -> Draft:
    return await draft(untidy, "untidy")


def owner(found: Draft, table: str) -> str:
    return str(found.data_map.tables[TableName("public", table)].owner)


def said(found: Draft, table: str) -> str:
    return "\n".join(found.comments[TableName("public", table)])


def is_open(found: Draft, table: str) -> bool:
    return TableName("public", table) in found.undecided


@pytest.mark.parametrize(
    ("table", "step", "why"),
    [
        ("letters", "user_id -> public.users(id)", "by its name; 600 of 600 distinct values sampled"),
        ("letter_pages", "letter_id -> public.letters(id)", "by its name; 900 of 900"),
        ("memos", "userid -> public.users(id)", "by its name; 500 of 500"),
        ("drafts", '"submittedBy" -> public.users(id)', "its name says a person; 590 of 590"),
        ("newsletters", "recipient -> public.users(email)", "its name says a person; 300 of 300"),
        ("trackers", "handle -> public.users(public_uuid)", "by its values alone; 300 of 300"),
        ("legacy", "whose -> public.users(id)", "by its values alone; 400 of 400"),
        ("parcels", "branch, order_no -> public.shop_orders(branch, order_no)", "500 of 500"),
        ("subscriptions", "user_id -> public.users(id)", "email -> public.users(email) leads to the same owner"),
        ("mutes", "user_id -> public.users(id)", "muted_by -> public.users(id) leads to the same owner"),
        ("articles", "user_id -> public.users(id)", "rows looked at refer by last_editor_id"),
        ("votes", "user_id -> public.users(id)", "votable_type and votable_id seem to refer to rows of several tables"),
        ("posts", "user_id -> public.users(id)", "refers by topic_id -> public.topics(id) to a hub"),
    ],
)
def test_followed_without_a_foreign_key(found: Draft, table: str, step: str, why: str) -> None:
    assert owner(found, table) == step
    assert why in said(found, table)


def test_a_number_with_a_type_leads_nowhere(found: Draft) -> None:
    """A paper's code is no key of anything."""
    assert owner(found, "papers") == "user_id -> public.users(id)"
    assert "seem to refer" not in said(found, "papers")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("pilots", "2 of 2 distinct values sampled"),
        ("orphans", "588 of 589 distinct values sampled are found there"),
        ("presences", "by its values alone; 200 of 500 distinct values sampled are found there"),
        ("cases", "all are found in public.staff too"),
        ("options", "updated_by says who did something to a row, which need not be whose it is"),
        ("ip_bans", "banned_by says who did something to a row, which need not be whose it is"),
        ("coupons", "createdById says who did something"),
        ("coupon_uses", "public.coupons"),
        ("feature_flags", "enabledby says who did something"),
        ("order_audits", "a trace of what was done"),
        ("messages", "2 equally short paths lead to the subject"),
        ("bills", "16 of 800 rows looked at refer by letter_id -> public.letters(id) to a row of another owner"),
        ("bills_notes", "public.bills must be decided first"),
        ("topics", "a hub: 100 of its 100 rows that public.posts refers to are used by 3 or more subjects"),
        ("topic_tags", "the path leads over public.topics, whose rows many use: it is not followed"),
        ("tag_uses", "the path leads over public.topics"),
        ("teams", "array user_ids holds keys of public.users (id): 301 of 301 distinct elements sampled"),
        ("events", "JSON payload, path user.id, holds keys of public.users (id): 400 of 400 distinct values sampled"),
        ("notes%s", "public.letters (100 of 100 rows looked at are found there)"),
        ("comments", "public.letters (200 of 200 rows looked at are found there)"),
        ("comments", "public.topics (200 of 200 rows looked at are found there)"),
        ("ratings", "rateable_type and rateable_id seem to refer to rows of several tables, which no owner path can"),
        ("ratings", "only the application knows what each value of rateable_type means"),
        ("tagged", "public.order_audits (150 of 150 rows looked at are found there)"),
        ("tagged", "public.bills_notes (150 of 150 rows looked at are found there)"),
        ("actions", "target_content_type_id and target_object_id seem to refer to rows of several tables"),
        (
            "reactions",
            "reactable_type and reactable_id seem to refer to rows of several tables, which no owner path can",
        ),
        ("marks", "markable_type and markable_id seem to refer"),
        ("base", "public.derived inherits it"),
        ("derived", "inherits public.base"),
    ],
)
def test_left_to_a_person(found: Draft, table: str, why: str) -> None:
    assert is_open(found, table)
    assert why in said(found, table)


@pytest.mark.parametrize("table", ["gauges", "shapes", "codes"])
def test_a_type_beside_an_id_of_a_table_without_rows_need_be_no_pair(found: Draft, table: str) -> None:
    """Its id is called after a table; its type is of another kind; its id is no key's."""
    assert found.data_map.tables[TableName("public", table)].role is Role.LOCAL


def test_a_pair_in_a_table_without_rows_leaves_its_owner(found: Draft) -> None:
    assert owner(found, "flags") == "user_id -> public.users(id)"


def test_numbers_that_are_keys_by_chance_are_nobodys(found: Draft) -> None:
    assert found.data_map.tables[TableName("public", "levels_seen")].role is Role.LOCAL


def test_a_name_in_one_document_is_no_path(found: Draft) -> None:
    assert "alice" not in found.text
    assert found.data_map.tables[TableName("public", "folders")].role is Role.LOCAL


def test_what_the_server_cannot_compute_is_not_measured(found: Draft) -> None:
    assert owner(found, "cards") == "user_id -> public.users(id)"
    assert "not measured: whether JSON content holds keys of public.users (id)" in said(found, "cards")
    assert owner(found, "shelves") == "user_id -> public.users(id)"


async def test_a_statement_that_fails_is_not_measured(untidy: AsyncConnection) -> None:
    measure = Measure(untidy)
    for failing in (
        """'{"a": "\\u0000"}'::json ->> 'a'""",
        """'a' collate "C" = 'a' collate "POSIX\"""",
        "1 = 'x'::text",
        "(select count(*) from pg_catalog.pg_class for update)",  # not supported
    ):
        assert await measure.row(sql.SQL("select {}").format(sql.SQL(failing))) is None
    assert await measure.row(sql.SQL("select '%s'").format()) == ("%s",)


async def test_texts_of_a_collation_that_knows_no_search(untidy: AsyncConnection) -> None:
    async with untidy.transaction(force_rollback=True):
        try:
            await untidy.execute("create collation public.plain (provider = icu, locale = '', deterministic = false)")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("the bundled PostgreSQL 18 is built without ICU")
        await untidy.execute("alter table public.users alter email type text collate public.plain")
        searching = sql.SQL("select count(*) from public.users where email ~ 'a'").format()
        assert await Measure(untidy).row(searching) is None
        changed = await draft(untidy, "untidy")
    assert "email" in changed.data_map.tables[TableName("public", "users")].personal
    assert "no value was looked at" not in said(changed, "users")


@pytest.mark.parametrize("rows", [60, 250, SAMPLE_ROWS_MAX])
async def test_a_sample_of_a_large_table_is_the_same_each_time(untidy: AsyncConnection, rows: int) -> None:
    async with untidy.transaction(force_rollback=True):
        await untidy.execute("create table public.ticks as select n as id from generate_series(1, 120000) n")
        await untidy.execute("analyze public.ticks")
        table = (await read_schema(untidy)).tables[TableName("public", "ticks")]
        drawn = sql.SQL("select count(*), sum(s.id) from {} as s").format(sample(table, [sql.SQL("*")], rows))
        once, again = [await Measure(untidy).row(drawn) for _ in range(2)]
    assert once is not None
    assert rows / 2 < once[0] <= rows
    assert once == again


def test_a_key_on_some_partitions_is_measured_on_all(found: Draft) -> None:
    assert owner(found, "visits") == "user_id -> public.users(id)"
    assert "on 1 of 2 partitions" in said(found, "visits")


async def test_a_key_on_some_partitions_that_does_not_hold_on_others(untidy: AsyncConnection) -> None:
    async with untidy.transaction(force_rollback=True):
        await untidy.execute("insert into public.visits_1 select n, 1 from generate_series(900001, 900020) n"
                             " where satisfies_hash_partition('public.visits'::regclass, 2, 1, n::bigint)")  # fmt: skip
        changed = await draft(untidy, "untidy")
    assert is_open(changed, "visits")
    assert "a foreign key of some partitions only" in said(changed, "visits")


def test_no_value_of_a_row_is_said(found: Draft) -> None:
    for value in ("@example", "Person 1", "Forum::", "k7"):
        assert value not in found.text


async def test_explain(untidy: AsyncConnection) -> None:
    shown = await explain(untidy, "posts")
    assert (shown.role, shown.path) == (Role.OWNED, ("user_id -> public.users(id)",))
    first, second = shown.ways
    assert (first.chosen, first.basis, first.rows, first.reached, first.share) == (True, "foreign key", 900, 900, 1.0)
    assert (second.step, second.path) == ("topic_id -> public.topics(id)", ())
    hub = await explain(untidy, "public.topics")
    back = next(w for w in hub.ways if "<-" in w.step)
    assert (back.rows, back.reached, back.several) == (100, 100, 100)
    [use] = hub.used_by
    assert (str(use.table), use.rows, use.several) == ("public.posts", 100, 100)
    text = printed(hub)
    assert "its rows are used by rows of others" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "foreign key user_id -> public.users(id)" in printed(shown)
    assert (await explain(untidy, "votes")).structure == Outline(
        (
            OutlinedColumn("id", "bigint", nullable=False),
            OutlinedColumn("user_id", "bigint", nullable=False),
            OutlinedColumn("votable_type", "integer", nullable=True),
            OutlinedColumn("votable_id", "bigint", nullable=True),
        ),
        ("primary key (id)", "foreign key user_id -> public.users(id)"),
    )
    people = await explain(untidy, "messages")
    assert people.owners is not None
    assert people.owners.several > 600
    assert [w.share for w in people.ways] == [1.0, 1.0]
    assert isinstance(plain(people), dict)


async def test_the_outline_of_a_table_has_no_definitions(untidy: AsyncConnection) -> None:
    async with untidy.transaction(force_rollback=True):
        await untidy.execute("create unique index on public.letters (user_id) where body = 'secret'")
        await untidy.execute("create unique index on public.letters ((id + 1)) where body <> 'secret'")
        await untidy.execute("alter table public.letters add unique (id, user_id)")
        await untidy.execute("alter table public.letters add foreign key (user_id) references public.users not valid")
        tables = (await read_schema(untidy)).tables
    keys = outline(tables[TableName("public", "letters")]).keys
    assert keys[0] == "primary key (id)"
    assert keys[-1] == "foreign key user_id -> public.users(id), not validated"
    assert sorted(keys[1:-1]) == [
        "unique (id, user_id)",
        "unique (user_id), some rows",
        "unique, on an expression, some rows",
    ]
    partial = outline(tables[TableName("public", "visits")]).keys
    assert partial == ("foreign key user_id -> public.users(id), on 1 of 2 partitions",)


def printed(shown: object) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    for part in render_survey.explanation(shown):  # type: ignore[arg-type]
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(("text", "near"), [("public.letter", "public.letters"), ("order_audit", "order_audits")])
async def test_explain_of_a_table_that_is_not_there(untidy: AsyncConnection, text: str, near: str) -> None:
    schema = await read_schema(untidy)
    with pytest.raises(DomicileError, match="there is no table") as caught:
        find_table(schema, text)
    assert caught.value.code is ErrorCode.MAP_INCOMPLETE
    assert near in caught.value.hint
    assert find_table(schema, "letters") == TableName("public", "letters")
