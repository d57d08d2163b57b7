"""`domicile map check`: what differs between map and database, what it costs, and how many rows it concerns."""

from __future__ import annotations

from psycopg import AsyncConnection
import pytest
from tests.conftest import ROOT
from tests.samples import chinook_map, pagila_map

from domicile.model.datamap import DataMap
from domicile.postgres.introspect import read_schema
from domicile.survey.datamap_file import load, parse
from domicile.survey.gaps import Finding, Level, check_map

ODD = """\
version: 1
dataset: odd
subject: {table: '"Odd Shop"."User"', key: User Name, market: subject.country}
tables:
  '"Odd Shop"."User"': {role: subject, personal: [User Name, email]}
  '"Odd Shop".select': {role: owned, owner: 'user -> "Odd Shop"."User"("User Name")'}
  '"Odd Shop".message': {role: owned, owner: 'sender -> "Odd Shop"."User"("User Name")'}
  '"Odd Shop".attachment': {role: owned, owner: 'message_id -> "Odd Shop".message(id)', object_keys: [path]}
  '"Odd Shop".note': {role: owned, owner: 'author -> "Odd Shop"."User"("User Name")'}
  '"Odd Shop".residence': {role: owned, owner: 'who -> "Odd Shop"."User"("User Name")'}
  '"Odd Shop".basket': {role: owned, owner: 'owner -> "Odd Shop"."User"("User Name")'}
  '"Odd Shop".line': {role: owned, owner: 'basket -> "Odd Shop".basket(id)'}
  '"Odd Shop".household': {role: shared, policy: present, personal: [street]}
  '"Odd Shop".comment': {role: local}
  '"Odd Shop".session': {role: local}
  '"Odd Shop".base': {role: local}
  '"Odd Shop".far': {role: local}
  '"Odd Shop".derived': {role: local}
"""


async def check(conn: AsyncConnection, data_map: DataMap) -> tuple[Finding, ...]:
    return await check_map(conn, data_map, await read_schema(conn))


def found(findings: tuple[Finding, ...], level: Level, table: str, said: str) -> Finding:
    matches = [f for f in findings if f.level is level and f.table.endswith(table) and said in f.message]
    assert len(matches) == 1, [f for f in findings if f.table.endswith(table)]
    return matches[0]


def errors(findings: tuple[Finding, ...]) -> list[Finding]:
    return [f for f in findings if f.level is Level.ERROR]


async def test_pagila(pagila: AsyncConnection) -> None:
    findings = await check(pagila, pagila_map())
    assert not errors(findings)
    assert found(findings, Level.WARNING, "address", "4 rows have no owner").count == 4
    assert found(findings, Level.WARNING, "payment", "to a row of another owner").count == 5
    cost = found(findings, Level.WARNING, "payment", "no index on public.payment (customer_id)")
    assert "16,049 rows (" in cost.message
    assert cost.hint == "create index on public.payment (customer_id);"  # a partitioned table: not concurrently
    assert "concurrently" in found(findings, Level.WARNING, "rental", "no index").hint
    found(findings, Level.INFO, "rental_by_category", "materialised view")


async def test_chinook(chinook: AsyncConnection) -> None:
    assert await check(chinook, chinook_map()) == ()


async def test_world(world: AsyncConnection) -> None:
    findings = await check(world, load(ROOT / "src/domicile/world/store.map.yaml"))
    assert not errors(findings)
    found(findings, Level.WARNING, "audit_log", "seems to refer by order_id -> store.orders(id)")
    found(findings, Level.INFO, "payment", "currency -> store.currency(code)")


async def test_odd_schema(odd: AsyncConnection) -> None:
    findings = await check(odd, parse(ODD))
    assert not errors(findings)
    assert found(findings, Level.WARNING, "note", "18 rows have no owner: author is null").count == 18
    assert found(findings, Level.WARNING, "message", "89 rows refer by recipient").count == 89
    assert found(findings, Level.WARNING, "select", "9 rows refer by parent").count == 9
    assert findings == tuple(sorted(findings, key=lambda f: (list(Level).index(f.level), f.table, f.message)))
    assert not any("Ünal" in f.message + f.hint for f in findings)


@pytest.mark.parametrize(
    ("change", "table", "said"),
    [
        ('create table "Odd Shop".fresh (id integer)', "fresh", "is not in the data map"),
        ('drop table "Odd Shop".session', "session", "not in the database"),
        ('alter table "Odd Shop".attachment rename path to place', "attachment", "has no column path"),
        ('alter table "Odd Shop".note rename author to writer', "note", "has no column author"),
        ('alter table "Odd Shop".attachment alter message_id type text using null', "attachment", "types do not fit"),
        ('alter table "Odd Shop".message drop constraint message_pkey cascade', "attachment", "is not unique"),
        ('alter table "Odd Shop"."User" rename "User Name" to name', "User", "has no column User Name"),
        ('alter table "Odd Shop"."User" drop constraint "User_pkey" cascade', "User", "is no key"),
        ('alter table "Odd Shop"."User" rename country to land', "User", "the market expression does not work"),
        ('alter table "Odd Shop".line set unlogged', "line", "is unlogged"),
        ('create table "Odd Shop".sub () inherits ("Odd Shop".note)', "sub", "is not in the data map"),
        ('alter table "Odd Shop".line inherit "Odd Shop".heir', "line", 'inherits "Odd Shop".heir'),
        ('create table "Odd Shop".sub () inherits ("Odd Shop".note)', "note", 'is inherited by "Odd Shop".sub'),
    ],
)  # fmt: skip
async def test_structure(odd18: AsyncConnection, change: str, table: str, said: str) -> None:
    if "attachment alter message_id" in change:
        await odd18.execute('alter table "Odd Shop".attachment drop constraint attachment_message_id_fkey')
        await odd18.execute('alter table "Odd Shop".attachment drop constraint attachment_pkey')
        await odd18.execute('alter table "Odd Shop".attachment alter message_id drop not null')
    await odd18.execute('create table "Odd Shop".heir (no bigint not null)')
    await odd18.execute('alter table "Odd Shop".basket drop constraint basket_id_current_fkey')
    await odd18.execute(change)
    findings = await check(odd18, parse(ODD))
    assert any(f.level is Level.ERROR and table in f.table and said in f.message and f.hint for f in findings), findings


@pytest.mark.parametrize(
    ("old", "new", "table", "said"),
    [
        ("{role: shared, policy: present, personal: [street]}", "{role: undecided}", "household", "is undecided"),
        (
            "{role: shared, policy: present, personal: [street]}",
            "{role: undecided}",
            "residence",
            "that table is undecided",
        ),
        ("{role: shared, policy: present, personal: [street]}", "{role: local}", "residence", "that table is local"),
        ("market: subject.country", "market: no sql", "User", "the market expression does not work"),
        (
            """message': {role: owned,""",
            """message': {parties: {'recipient -> "Odd Shop"."User"("User Name")': null}, role: owned,""",
            "message",
            """cannot be set to null by recipient -> "Odd Shop"."User"("User Name"): it is never null""",
        ),
    ],
)
async def test_map(odd18: AsyncConnection, old: str, new: str, table: str, said: str) -> None:
    assert old in ODD
    findings = await check(odd18, parse(ODD.replace(old, new)))
    assert any(f.level is Level.ERROR and table in f.table and said in f.message for f in findings), findings


STUB = """message': {parties: {'recipient -> "Odd Shop"."User"("User Name")': %s}, role: owned,"""
RECIPIENT = 'alter table "Odd Shop".message drop constraint message_recipient_fkey'
AGAIN = ', add constraint "To" foreign key (recipient) references "Odd Shop"."User" not valid'
FILLED = "alter table {0} add %s; update {0} set %s; alter table {0} alter %s".format('"Odd Shop"."User"')
VALIDATE = 'alter table "Odd Shop".message validate constraint "To";'


@pytest.mark.parametrize(
    ("change", "table", "said", "hint"),
    [
        ("select", "", "", ""),
        (RECIPIENT, "message", "no foreign key of the whole table declares it", "add foreign key (recipient) refer"),
        (RECIPIENT + AGAIN, "message", "its foreign key is not validated", VALIDATE),
        (
            FILLED % ("spot point", "spot = '(0,0)'", "spot set not null"),
            "User",
            '"Odd Shop"."User".spot is never null, and no neutral value is known for it',
            "Let the column be null",
        ),
        (
            FILLED % ("no int", "no = hashtext(email)", "no set not null, add unique (no)"),
            "User",
            "two stubs would be equal under User_no_key",
            "null or refuse",
        ),
    ],
)
async def test_what_no_stub_can_be_made_of(
    odd18: AsyncConnection, change: str, table: str, said: str, hint: str
) -> None:
    """Said before there is a plan."""
    await odd18.execute(change)
    findings = await check(odd18, parse(ODD.replace("message': {role: owned,", STUB % "stub")))
    stubs = [f for f in errors(findings) if "no stub can be made" in f.message]
    if not said:
        assert not stubs
        return
    [one] = stubs
    assert one.table.strip('"').endswith(table)
    assert said in one.message
    assert hint in one.hint


async def test_a_stub_of_a_table_that_is_gone_is_no_second_error(odd18: AsyncConnection) -> None:
    text = ODD.replace("message': {role: owned,", STUB % "stub")
    await odd18.execute('drop table "Odd Shop".message cascade')
    assert not [f for f in await check(odd18, parse(text)) if "stub" in f.message]
    await odd18.execute('drop table "Odd Shop"."User" cascade')
    assert not [f for f in await check(odd18, parse(text)) if "stub" in f.message]


async def test_a_reference_to_set_to_null_that_nobody_has_validated(odd18: AsyncConnection) -> None:
    await odd18.execute(RECIPIENT + AGAIN)
    findings = await check(odd18, parse(ODD.replace("message': {role: owned,", STUB % "null")))
    assert found(findings, Level.ERROR, "message", "its foreign key is not validated").hint == VALIDATE


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("people", "people is an array"),
        ("people[]", "people is an array"),
        ("doc", "doc is a JSON document"),
        ("doc.user.id", "doc is a JSON document"),
    ],
)
async def test_an_owner_within_an_array_or_a_document(odd18: AsyncConnection, step: str, said: str) -> None:
    await odd18.execute('alter table "Odd Shop".note add people text[], add doc jsonb')
    text = ODD.replace("author -> ", f"{step} -> ")
    error = found(await check(odd18, parse(text)), Level.ERROR, "note", said)
    assert "a survey finds keys in it, and no map carries them" in error.message
    assert "docs/how-to/finish-the-map.md, step 3" in error.hint


async def test_wrong_path_of_a_fitting_type_shows_in_the_rows(odd18: AsyncConnection) -> None:
    findings = await check(odd18, parse(ODD.replace("message_id -> ", "no -> ")))
    assert found(findings, Level.WARNING, "attachment", "88 rows refer by message_id").count == 88
    found(findings, Level.WARNING, "attachment", "no index")


async def test_two_owners(odd18: AsyncConnection) -> None:
    shared = "'\"Odd Shop\".household': {role: shared, policy: present, personal: [street]}"
    owned = "'\"Odd Shop\".household': {role: owned, owner: 'id <- \"Odd Shop\".residence(household)'}"
    assert shared in ODD
    findings = await check(odd18, parse(ODD.replace(shared, owned)))
    assert found(findings, Level.ERROR, "household", "45 rows have several owners").count == 45
    found(findings, Level.WARNING, "household", 'no index on "Odd Shop".residence (household)')
    found(findings, Level.INFO, "household", "column street looks personal")


async def test_orphans_without_a_foreign_key(odd18: AsyncConnection) -> None:
    await odd18.execute('alter table "Odd Shop".message drop constraint message_sender_fkey')
    await odd18.execute("insert into \"Odd Shop\".message (sender, recipient) values ('nobody', 'Ünal 1')")
    findings = await check(odd18, parse(ODD))
    assert found(findings, Level.WARNING, "message", "1 rows have no owner: what sender").count == 1


async def test_references_of_the_map_are_measured(odd18: AsyncConnection) -> None:
    text = ODD.replace("object_keys: [path]}", "object_keys: [path], references: ['no -> \"Odd Shop\".household(id)']}")
    await odd18.execute('update "Odd Shop".attachment set no = 1000 where message_id <= 3')
    findings = await check(odd18, parse(text))
    assert found(findings, Level.WARNING, "attachment", "3 rows refer to nothing by no").count == 3


async def test_no_key_and_triggers(odd18: AsyncConnection) -> None:
    await odd18.execute('alter table "Odd Shop".residence drop constraint residence_pkey')
    await odd18.execute("create function public.noop() returns trigger language plpgsql as 'begin return new; end'")
    await odd18.execute('create trigger t before insert on "Odd Shop".note for each row execute function public.noop()')
    await odd18.execute('alter table "Odd Shop".note enable always trigger t')
    await odd18.execute("select lo_create(0)")
    findings = await check(odd18, parse(ODD))
    found(findings, Level.WARNING, "residence", "has no key")
    found(findings, Level.WARNING, "note", "trigger t is enabled always")
    assert found(findings, Level.WARNING, "(database)", "large objects").count == 1


async def test_a_copied_table_holds_nothing_of_anybody(odd18: AsyncConnection) -> None:
    """What the plan would refuse is said before there is one."""
    text = ODD.replace("policy: present, personal: [street]", "policy: copy, personal: [street], not_personal: []")
    findings = await check(odd18, parse(text))
    assert found(findings, Level.ERROR, "household", "cannot be copied: its column street is somebody's").hint
