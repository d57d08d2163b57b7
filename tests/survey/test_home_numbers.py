"""Telephone numbers as people write them at home: told by the subjects' countries where their own rows say none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection
import pytest
from tests.conftest import create_database, drop_database

from domicile.model.schema import TableName
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey import market
from domicile.survey.discover import draft
from domicile.survey.measure import Measure

CALL, USERS = TableName("public", "call"), TableName("public", "users")
SCHEMA = """
create table nation (id int primary key, name text, code char(2));
insert into nation values (1, 'India', 'IN'), (2, 'Germany', 'de');
create table users (id bigint primary key, email text not null unique, nation_id int references nation, {column} text);
insert into users select n, 'u' || n || '@example.org', {nation}, '{value}' from generate_series(1, 40) n;
create table call (id bigint primary key, user_id bigint not null references users, contact_no bigint not null);
insert into call select n, n, 9876543200 + n from generate_series(1, 9) n;
create table form (id bigint primary key, user_id bigint not null references users, contact_no bigint not null);
insert into form select n, n, 1200 + n from generate_series(1, 9) n;
analyze;
"""


@asynccontextmanager
async def built(server: EmbeddedCluster, column: str, value: str, nation: str) -> AsyncIterator[AsyncConnection]:
    name = await create_database(server, "home")
    async with await connect(server.conninfo(name)) as loading:
        text = SCHEMA.replace("{column}", column).replace("{value}", value).replace("{nation}", nation)
        await loading.execute(text.encode())
    async with await connect(server.conninfo(name), settings=SESSION) as conn:
        yield conn
    await drop_database(server, name)


@pytest.mark.parametrize(
    ("column", "value", "nation", "told"),
    [
        ("country", "IN", "null", True),
        ("market_code", " in ", "null", True),
        ("remark", "x", "1", True),  # by the subject's reference
        ("country", "India", "null", False),
        ("country", "EU", "null", False),
        ("locale", "in", "null", False),  # a language
        ("country", "CN", "null", False),  # no such numbers there
    ],
)
async def test_numbers_of_rows_that_say_no_country(
    pg18: EmbeddedCluster, column: str, value: str, nation: str, told: bool
) -> None:
    async with built(pg18, column, value, nation) as conn:
        found = await draft(conn, "home")
    rules = found.data_map.tables
    assert rules[CALL].categories == ({"contact_no": ("user.contact.phone_number",)} if told else {})
    assert rules[TableName("public", "form")].categories == {}, "four digits are no telephone number"


async def test_countries_of_most_subjects_first_and_two_letters_only(pg18: EmbeddedCluster) -> None:
    async with built(pg18, "country", "Utopia", "case when n % 3 = 0 then 2 else 1 end") as conn:
        schema, measure = await read_schema(conn), Measure(conn)
        found = await market.candidates(measure, schema, USERS)
        assert await market.countries(measure, schema.tables[USERS], found) == ("IN", "DE")


async def test_a_country_of_few_subjects_is_none(pg18: EmbeddedCluster) -> None:
    """Among many plans of numbers one fits any number."""
    async with built(pg18, "country", "Utopia", "case n when 1 then 2 else 1 end") as conn:
        schema, measure = await read_schema(conn), Measure(conn)
        found = await market.candidates(measure, schema, USERS)
        assert await market.countries(measure, schema.tables[USERS], found) == ("IN",)
