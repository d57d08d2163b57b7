"""A survey over a map that people keep: their words stay, and the difference is what is new."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from difflib import unified_diff
from random import Random

from psycopg import AsyncConnection
import pytest
from reliability.fuzz import samples
from tests.conftest import create_database, drop_database

from domicile.model.errors import DomicileError
from domicile.model.schema import Column, Table, TableKind
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey.classify import Looks, look
from domicile.survey.datamap_file import dump, parse
from domicile.survey.discover import draft
from domicile.survey.measure import Measure
from domicile.survey.resurvey import Found, Updated, needs_looks, update

SCHEMA = """
create schema app;
create table app.account (id bigint primary key, email text not null, shade text);
create table app.note (id bigint primary key, account_id bigint not null references app.account, body text);
create table app.visit (id bigint primary key, account_id bigint not null references app.account, seen inet);
create table app.job (id bigint primary key, label text);
"""


@pytest.fixture
async def app(pg18: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    name = await create_database(pg18, "update")
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        await conn.execute(SCHEMA)
        yield conn
    await drop_database(pg18, name)


async def again(conn: AsyncConnection, text: str) -> Updated:
    """A survey over the map, as the command makes it."""
    old = parse(text)
    made, schema = await draft(conn, "app", subject=str(old.subject.table)), await read_schema(conn)
    looks = {n: await look(Measure(conn), schema.tables[n]) for n in needs_looks(old, schema.tables)}
    return update(text, "app.map.yaml", Found(made.data_map, made.comments, schema.tables, looks))


def added(old: str, new: str) -> list[str]:
    """The lines of the difference; none may be taken away."""
    lines = list(unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[2:]
    assert not [line for line in lines if line.startswith("-")], lines
    return [line[1:] for line in lines if line.startswith("+")]


async def test_nothing_new_is_the_same_byte_by_byte(app: AsyncConnection) -> None:
    text = (await draft(app, "app")).text
    assert await again(app, text) == Updated(text, (), (), ())
    mine = text.replace("  app.note:", "  # mine\n  app.note:  # and mine").replace("\n", "\r\n")
    assert (await again(app, mine)).text == mine


async def test_a_new_table_adds_its_lines_only(app: AsyncConnection) -> None:
    text = (await draft(app, "app")).text.replace("  app.visit:\n", "  # kept\n  app.visit:\n")
    await app.execute(
        "create table app.photo (id bigint primary key, account_id bigint not null references app.account)"
    )
    await app.execute(
        "create table app.device (id bigint primary key, account_id bigint not null references app.account)"
    )
    found = await again(app, text)
    assert [str(t) for t in found.tables] == ["app.device", "app.photo"]
    lines = added(text, found.text)
    assert [line for line in lines if line.startswith("  app.")] == ["  app.device:", "  app.photo:"]
    order = [line.strip(" :") for line in found.text.splitlines() if line.startswith("  app.")]
    assert order == ["app.account", "app.device", "app.note", "app.photo", "app.visit", "app.job"]
    assert (await again(app, found.text)).text == found.text, "twice is once"
    assert parse(found.text).tables == (await draft(app, "app")).data_map.tables


async def test_new_columns_take_a_line_each(app: AsyncConnection) -> None:
    await app.execute("insert into app.account values (1, 'a@example.com'); insert into app.job values (1, 'x')")
    text = (await draft(app, "app")).text
    await app.execute("alter table app.account add phone text, add tint text; alter table app.job add tint text")
    found = await again(app, text)
    assert found.columns == ("app.account.phone", "app.account.tint", "app.job.tint")
    lines = list(unified_diff(text.splitlines(), found.text.splitlines(), lineterm="", n=0))[2:]
    assert [line for line in lines if line[0] in "+-"] == [
        "-    not_personal: [shade]",
        "+      phone: user.contact.phone_number",
        "+    not_personal: [shade, tint]",
        "-    not_personal: [id, label]",
        "+    not_personal: [id, label, tint]",
    ]
    assert parse(found.text).tables == (await draft(app, "app")).data_map.tables


HAND = """\
# ours
version: 1
dataset: app
subject: {table: app.account, key: id}
tables:
    # the people
    app.account: {role: subject, personal: [email]}  # and nothing else
    app.note: {role: local}
    app.old: {role: local}
    app.visit:
        role: owned  # by the account
        owner: account_id -> app.account(id)
        personal:
            seen: user.device.ip_address
        not_personal:
            - id
# the end"""


async def test_a_map_by_hand_keeps_its_decisions_and_its_layout(app: AsyncConnection) -> None:
    await app.execute("alter table app.visit add agent text")
    await app.execute("create table app.reply (id bigint primary key, note_id bigint not null references app.note)")
    await app.execute("alter table app.account add phone text")
    found = await again(app, HAND)
    old, new = parse(HAND), parse(found.text)
    assert found.gone == ("app.old",)
    assert {n: (r.role, r.owner) for n, r in new.tables.items() if n in old.tables} == {
        n: (r.role, r.owner) for n, r in old.tables.items()
    }
    assert [str(t) for t in found.tables] == ["app.job", "app.reply"]
    account = "    app.account: {role: subject, personal: [email, phone], not_personal: [shade]}  # and nothing else"
    assert account in found.text
    assert "            - id\n            - agent\n" in found.text
    assert "    app.note: {role: local, not_personal: [id, body]}" in found.text
    reply = next(r for n, r in new.tables.items() if n.name == "reply")
    assert str(reply.role) == "undecided", "its owner path leads over a table that is local here"
    assert "# candidate: role: owned, owner: note_id -> app.note(id)" in found.text
    assert found.text.count("# ") >= HAND.count("# ")
    assert (await again(app, found.text)).text == found.text


async def test_what_is_no_map_is_refused(app: AsyncConnection) -> None:
    with pytest.raises(DomicileError, match="a line each"):
        await again(app, "{version: 1, dataset: a, subject: {table: app.account, key: id}, "
                         "tables: {app.account: {role: subject}}}")  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_any_map_stays_a_map_and_twice_is_once(seed: int) -> None:
    """Names with quotes, blanks and line breaks; half of the tables new, each with new columns."""
    text = dump(samples.data_map(Random(seed)))
    old = parse(text)
    fresh = {
        n: replace(r, personal=(), object_keys=(), not_personal=("a",))
        for n, r in samples.data_map(Random(seed + 1)).tables.items()
    }
    columns = {n: (*r.personal, *r.object_keys, "fresh", 'o"dd', "no") for n, r in old.tables.items()}
    tables = {
        n: Table(n, TableKind.ORDINARY, tuple(Column(c, "text", "text") for c in dict.fromkeys(columns.get(n, ("a",)))))
        for n in {**fresh, **columns}
    }
    looks = dict.fromkeys(tables, Looks({"fresh": "by its name"}, categories={"fresh": "user.contact.email"}))
    found = Found(replace(old, tables=fresh), {}, tables, looks)
    once = update(text, "map", found)
    assert update(once.text, "map", found).text == once.text
    new = parse(once.text).tables
    assert {n: (r.role, r.owner) for n, r in new.items() if n in old.tables} == {
        n: (r.role, r.owner) for n, r in old.tables.items()
    }
    assert all(set(new[n].personal) >= {*r.personal, "fresh"} for n, r in old.tables.items())
    assert new.keys() == old.tables.keys() | fresh.keys()
