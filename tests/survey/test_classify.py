"""The classification against the labelled set, and what it must never say."""

from __future__ import annotations

from random import Random

from benchmarks import classify as benchmark
from benchmarks.labelled import tables as labelled
from benchmarks.labelled import values
from psycopg import AsyncConnection
import pytest
from tests.conftest import create_database, drop_database

from domicile.model.datamap import Role, TableRule
from domicile.model.schema import Column, Table, TableKind, TableName
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster
from domicile.survey import checks
from domicile.survey.classify import Looks, look, strong_category, with_columns, with_more
from domicile.survey.measure import Measure

PRECISION_MIN, RECALL_MIN = 0.98, 0.9
TABLE = TableName("shop", "thing")


def test_the_committed_list_is_current() -> None:
    tables = labelled.draw()
    assert labelled.LISTED.read_text(encoding="utf-8") == labelled.listing(tables), (
        "python -m benchmarks.classify --list"
    )
    columns = [c for t in tables for c in t.columns]
    assert len(columns) >= 2_000
    assert sum(not c.label for c in columns) > len(columns) / 2, "most are hard negatives"


async def test_precision_and_recall(pg18: EmbeddedCluster) -> None:
    tables = labelled.draw(tables=90)
    name = await create_database(pg18, "labelled")
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        await benchmark.build(conn, tables)
        answers, _ = await benchmark.classify(conn, tables)
    await drop_database(pg18, name)
    figures = benchmark.figures(answers)
    assert figures["precision"] >= PRECISION_MIN, benchmark.wrong(answers)
    assert figures["recall"] >= RECALL_MIN, benchmark.wrong(answers)


@pytest.mark.parametrize(
    ("precision", "recall", "missed"),
    [
        (PRECISION_MIN, RECALL_MIN, []),
        (0.9799, 1.0, ["precision"]),
        (1.0, 0.8999, ["recall"]),
        (None, 0.0, ["precision", "recall"]),
    ],
)
def test_the_benchmark_knows_what_is_too_little(precision: float | None, recall: float, missed: list[str]) -> None:
    assert benchmark.missed({"precision": precision, "recall": recall}) == missed


def column(name: str, type_name: str = "text", table: str = "thing") -> str:
    made = Column(name, type_name, type_name)
    return strong_category(made, Table(TableName("shop", table), TableKind.ORDINARY, (made,)))


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("email", "user.contact.email"),
        ("contactEmail", "user.contact.email"),
        ("useremail", "user.contact.email"),
        ("correo_electronico", "user.contact.email"),
        ("telefono_movil", "user.contact.phone_number"),
        ("手机号", "user.contact.phone_number"),
        ("msisdn", "user.contact.phone_number.msisdn"),
        ("imei2", "user.device.imei"),
        ("last_login_ip", "user.device.ip_address"),
        ("fecha_nacimiento", "user.demographic.date_of_birth"),
        ("sms_body", "user.content.private.sms"),
        ("address_book", "user.social.contacts"),
        ("email_template", ""),
        ("email_verified", ""),
        ("has_email", ""),
        ("phone_model", ""),
        ("smtp_password", ""),
        ("server_ip", ""),
        ("mac_address_table", ""),
        ("address_id", ""),
        ("passport_required", ""),
        ("cell_count", ""),
        ("state", ""),
    ],
)
def test_a_name_speaks_by_its_head(name: str, category: str) -> None:
    assert column(name) == category


def test_types_that_cannot_hold_it() -> None:
    assert column("email", "bool") == ""
    assert column("email_sent", "timestamptz") == ""
    assert column("birthday", "date") == "user.demographic.date_of_birth"
    assert column("latitude", "float8") == "user.location.precise"
    assert column("latitude", "float8", "warehouse") == "", "where a warehouse stands is nobody's"
    assert column("seen", "inet") == "user.device.ip_address"
    assert column("seen", "inet", "servers") == ""


def test_runs_of_digits_prove_nothing_alone() -> None:
    orders = [f"35{n:013d}" for n in range(60)]
    assert not checks.imei(orders), "a tenth of them pass the check digit"
    assert not checks.card([f"4{n:015d}" for n in range(60)])
    assert not checks.iccid([f"89{n:017d}" for n in range(60)])
    assert not checks.imsi_numbers([f"000{n:012d}" for n in range(60)]), "no country has that code"
    assert checks.imei(["490154203237518"] * 5)
    assert not checks.imei(["12345678901234", "1234567890123456"]), "python-stdnum alone accepts both"


def test_digits_are_those_that_numbers_are_made_of() -> None:
    assert not checks.card(["4²11111111111111"] * 5), "a superscript is a digit to str.isdigit only"
    assert not checks.imei_form(["²²345678901234"] * 5)


def test_phone_numbers_by_the_country_of_their_row() -> None:
    assert checks.phones_of([("9876543210", "IN"), ("11987654321", "BR"), ("030 901820", "DE")])
    assert not checks.phones_of([("0012345678", "IN")] * 5)
    assert checks.phones_of([("9876543210", "")] * 5, ["IN"])
    assert checks.phones(["+919876543210", "+4930901820"])


DIGITS = """
create schema shop;
create table shop.orders (id bigint primary key, serial text, ref text);
create table shop.handset (id bigint primary key, serial text, msisdn text);
create table shop.caller (id bigint primary key, contact bigint, country text);
insert into shop.caller select n, 9876543200 + n, 'IN' from generate_series(1, 9) n;
create table shop.form (id bigint primary key, contact bigint, country text);
insert into shop.form select n, 1200 + n, 'IN' from generate_series(1, 9) n;
create table shop.pref (id bigint primary key, email text, phone text);
insert into shop.pref select n, 'weekly', 'Mi ' || n from generate_series(1, 9) n;
"""


async def looked_at(conn: AsyncConnection, name: str) -> Looks:
    schema = await read_schema(conn)
    return await look(Measure(conn), schema.tables[TableName("shop", name)])


async def test_values_decide_in_their_context(pg18: EmbeddedCluster, caplog: pytest.LogCaptureFixture) -> None:
    name = await create_database(pg18, "context")
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        await conn.execute(DIGITS)
        dice = Random(1)
        serials = [values.imei(dice) for _ in range(8)]
        for table in ("orders", "handset"):
            rows = f"insert into shop.{table} (id, serial) select n, s from unnest(%s::text[]) with ordinality u(s, n)"
            await conn.execute(rows, (serials,))
        assert (await looked_at(conn, "orders")).categories == {}
        assert (await looked_at(conn, "handset")).categories["serial"] == "user.device.imei"
        assert (await looked_at(conn, "caller")).categories["contact"] == "user.contact.phone_number"
        assert "contact" not in (await looked_at(conn, "form")).categories
        assert (await looked_at(conn, "pref")).categories == {}, "the values are not what the names say"
        looks = await looked_at(conn, "handset")
    await drop_database(pg18, name)
    assert not [s for s in serials if s in caplog.text + repr(looks)], "no value leaves"


async def test_a_table_that_may_not_be_read_is_unread(pg18: EmbeddedCluster) -> None:
    name = await create_database(pg18, "forbidden")
    async with await connect(pg18.conninfo(name), settings=SESSION) as conn:
        await conn.execute(DIGITS)
        await conn.execute("create table shop.bare as select 9876543210 as contact")
        await conn.execute("insert into shop.handset (id, serial) values (1, 'x'); set role pg_read_all_stats")
        unread = [t for t in ("handset", "caller", "bare", "orders") if (await looked_at(conn, t)).unread]
    await drop_database(pg18, name)
    assert unread == ["handset", "caller", "bare"], "in a table without rows there is nothing to read"


def test_a_second_look_takes_nothing_back() -> None:
    """It may have seen other rows, or none."""
    first = Looks({"mail": "by its values"}, {"no": "by its name"}, {"k": "a key"}, categories={"mail": "a", "no": "b"})
    again = Looks({"no": "by its values"}, {"mail": "by its name"}, categories={"no": "c", "mail": "d"})
    both = with_more(first, again)
    assert both.strong == {"mail": "by its values", "no": "by its values"}
    assert (both.weak, both.object_keys) == ({}, {"k": "a key"})
    assert both.categories == {"mail": "a", "no": "c"}
    assert with_more(first, Looks()) == first


def test_what_may_be_personal_waits_for_the_role() -> None:
    columns = tuple(Column(n, "text", "text") for n in ("id", "email", "note", "kind"))
    table = Table(TABLE, TableKind.ORDINARY, columns, primary_key=("id",))
    looks = Looks(
        {"email": "by its name"}, {"note": "by its name"}, categories={"email": "user", "note": "user.content"}
    )
    said = {role: with_columns(TableRule(TABLE, role), table, looks) for role in Role}
    assert said[Role.OWNED].personal == ("email", "note")
    assert said[Role.OWNED].not_personal == ("id", "kind")
    assert said[Role.LOCAL].not_personal == ("id", "note", "kind")
    assert said[Role.UNDECIDED].not_personal == ("id", "kind")
    assert said[Role.SUBJECT].not_personal == ("kind",), "the map names the key itself"
